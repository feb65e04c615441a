//! A cluster whose control plane are plain processes: no pod but those that are measured is on the node's runtime,
//! whichever that is.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Api, Place, Settings, Uplink, join_to_host, manifests, prepare, routed_network, spawn_kubelet};
use crate::bench::pss_mib;
use crate::command::{Running, Said, run};
use crate::node::Node;
use crate::programs::tool;
use crate::wait::eventually;

/// The control plane answers and the node is Ready within this time.
const READY: Duration = Duration::from_secs(360);

/// A node of any CRI service, a kubelet, etcd and the control plane. Dropping it removes everything.
pub struct Plain {
    // In this order they go: the kubelet first, so that nobody starts what others end.
    kubelet: Option<Running>,
    processes: Vec<Running>,
    /// The API server's client.
    pub api: Api,
    /// The node.
    pub node: Node,
    place: Place,
    _uplink: Uplink,
}

impl Plain {
    /// Starts kubelet and control plane on a node whose service runs, and waits until it is Ready.
    #[track_caller]
    pub fn start(node: Node) -> Self {
        // Both services watch their directory of networks.
        node.config.write_network(&routed_network(&node.config, &node.machine));
        let uplink = join_to_host(&node.machine);
        let place = prepare(&node);
        let mut processes = Vec::new();
        for (name, pod) in manifests::static_pods(&place) {
            let mut line: Command = node.machine.command(tool(name));
            let args = pod["spec"]["containers"][0]["args"].as_array().cloned().unwrap_or_default();
            line.args(args.iter().filter_map(Value::as_str));
            processes.push(Running::logged(&mut line, &place.dir.join(format!("{name}.log"))));
            // The kubelet is not to run it as well.
            fs::remove_file(place.manifests.join(format!("{name}.json"))).expect("remove a static pod");
        }
        let kubeconfig = place.pki.kubeconfig("admin", "/O=system:masters/CN=admin", &place.server());
        let api = Api::new(&kubeconfig).expect("read the administrator's kubeconfig");
        eventually("the API server answers", READY, || {
            api.text("/readyz").map(drop).map_err(|error| error.to_string())
        });
        // Nothing of the pods that are measured is on the node's runtime, so that all of its work is theirs.
        own_group(&node);
        let mut cluster = Self { kubelet: None, processes, api, node, place, _uplink: uplink };
        cluster.start_kubelet();
        eventually("the namespace has its service account", READY, || {
            match cluster.api.get("ServiceAccount", "default", "default") {
                Ok(Some(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        cluster
    }

    /// Starts the kubelet on the node's service as it now is, and waits until the node is Ready.
    #[track_caller]
    pub fn start_kubelet(&mut self) {
        assert!(self.kubelet.is_none(), "the kubelet runs already");
        self.kubelet = Some(spawn_kubelet(&self.node, &self.place, &Settings::default()));
        eventually("the node is Ready", READY, || match self.api.node_is_ready() {
            Ok(true) => Ok(()),
            Ok(false) => Err(super::tail(&self.place.dir.join("kubelet.log"), 20)),
            Err(error) => Err(error.to_string()),
        });
    }

    /// Ends the kubelet; pods run on.
    #[track_caller]
    pub fn stop_kubelet(&mut self) {
        self.kubelet.take().expect("the kubelet runs").kill();
    }

    /// Runs `kubectl` to its end.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Said {
        run(&mut self.place.kubectl(args))
    }

    /// CPU time since its start of the service with all that it started, and of what stands in pods' own cgroups,
    /// seconds.
    pub fn cpu(&self) -> (f64, f64) {
        let all = group(&self.node, "");
        let service = group(&self.node, SERVICE);
        let of = |dir: PathBuf| {
            let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
            let nanoseconds = text("cpuacct.usage").trim().parse::<f64>().ok();
            let stat = text("cpu.stat");
            let microseconds = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
            let microseconds = microseconds.and_then(|text| text.parse::<f64>().ok());
            nanoseconds.map(|n| n / 1e9).or(microseconds.map(|n| n / 1e6)).unwrap_or(0.0)
        };
        let (all, service) = (of(all), of(service));
        (service, all - service)
    }

    /// Proportional memory of the service, and of the shims and pause processes, MiB.
    pub fn memory(&self) -> (f64, f64) {
        let beside = self.node.processes(|command| command.contains("shim") || command.starts_with("/pause"));
        (
            self.node.service_pid().map_or(0.0, pss_mib),
            beside.iter().map(|process| pss_mib(process.pid)).sum(),
        )
    }

    /// The kubelet's metrics, as text.
    #[track_caller]
    pub fn kubelet_metrics(&self) -> String {
        self.api.text(&format!("/api/v1/nodes/{}/proxy/metrics", super::NODE)).expect("the kubelet's metrics")
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.kubelet = None;
        // The last first: etcd outlives those who speak to it.
        while self.processes.pop().is_some() {}
    }
}

/// The service's cgroup, below the machine's.
const SERVICE: &str = "service";

/// A cgroup of the machine where CPU time is counted: in the v1 hierarchy of that, else in v2's.
fn group(node: &Node, name: &str) -> PathBuf {
    let base = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"].map(PathBuf::from);
    let base = base.into_iter().find(|dir| dir.exists()).unwrap_or_default();
    base.join(node.machine.cgroup_parent().trim_start_matches('/')).join(name)
}

/// Moves the service into a cgroup of its own; what it starts from now on stays there, unless it goes into a pod's.
#[track_caller]
fn own_group(node: &Node) {
    let dir = group(node, SERVICE);
    fs::create_dir_all(&dir).expect("make the service's cgroup");
    let pid = node.service_pid().expect("the service runs").to_string();
    fs::write(dir.join("cgroup.procs"), pid).expect("move the service into its cgroup");
}
