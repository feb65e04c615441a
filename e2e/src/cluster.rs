//! A cluster of one node on Gantline: the kubelet beside the service on a machine of its own, etcd and the control
//! plane as static pods, kube-proxy and CoreDNS as any other pod.
//!
//! ```no_run
//! let cluster = e2e::cluster::Cluster::start(e2e::cluster::Settings::default());
//! let room = cluster.room("hello");
//! room.apply(serde_json::json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": {}}));
//! ```
//!
//! Tests ask the API server, as people do; the service's own socket only when the API server cannot know. A pair of
//! virtual links joins the machine to the host, so that the API server can be asked from there too. What the kubelet
//! would change on the whole host (six sysctls) or leave there (/var/lib, /var/log) is the machine's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::command::{Running, Said, command, run};
use crate::machine::Machine;
use crate::node::Node;
use crate::programs::{Programs, installed, runtime, tool};
use crate::registry;
use crate::wait::patient;

pub mod api;
pub mod images;
pub mod manifests;
pub mod pki;
pub mod plain;
pub mod room;

pub use api::Api;
pub use room::Room;

/// The node's name.
pub const NODE: &str = "gantline";
/// Addresses of services.
pub const SERVICES: &str = "10.96.0.0/16";
/// The cluster's DNS.
pub const DNS: &str = "10.96.0.10";

/// The cluster is whole within this time of its start.
const WHOLE: Duration = Duration::from_secs(540);

/// What a kubelet sets on the host unless it is so (pkg/kubelet/cm of Kubernetes): here it finds it so.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Runs a kubelet where the sysctls say what it wants: the directory with these files, then the program and its words.
const KUBELET: &str = r#"
set -e
mount --make-rprivate /proc
dir=$1
shift
for file in $(cd "$dir" && find . -type f); do mount --bind "$dir/$file" "/proc/sys/$file"; done
exec "$@"
"#;

/// How a cluster differs from the usual one.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubelet's feature gates, as an object.
    pub gates: Value,
    /// More of the kubelet's configuration; what is here wins.
    pub kubelet: Value,
    /// Whether the service is the release build.
    pub release: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { gates: json!({}), kubelet: json!({}), release: false }
    }
}

/// Where things of one cluster are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The cluster's directory, the same inside and outside.
    pub dir: PathBuf,
    /// Static pods.
    pub manifests: PathBuf,
    /// Keys and certificates.
    pub pki: pki::Pki,
    /// The node's address.
    pub address: String,
    /// The pods' addresses.
    pub pods: String,
    /// The cgroup that the kubelet may call its root.
    pub cgroup: String,
}

impl Place {
    /// The API server's URL.
    pub fn server(&self) -> String {
        format!("https://{}:{}", self.address, manifests::API_PORT)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki.path("admin.conf")
    }

    /// A command that runs `kubectl` as the administrator, on the host.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut line = command(tool("kubectl"));
        line.arg("--kubeconfig").arg(self.kubeconfig()).args(args);
        // Its caches of what the API server has.
        line.env("HOME", &self.dir);
        line
    }
}

/// The host's end of the link to the machine. The kernel removes it with the machine, but when it pleases.
#[derive(Debug)]
struct Uplink(String);

impl Drop for Uplink {
    fn drop(&mut self) {
        let _ = run(command(installed("ip")).args(["link", "del", &self.0]));
    }
}

/// The programs of a cluster that are not built, by name: `e2e/tools/build.sh cluster runc` builds them.
pub fn missing_programs() -> Vec<&'static str> {
    let tools = crate::programs::target_dir().join("tools");
    let all = images::PROGRAMS.into_iter().chain(["kubelet", "kubectl", "runc"]);
    all.filter(|program| !tools.join(program).exists()).collect()
}

/// A running cluster. Dropping it removes everything.
pub struct Cluster {
    // In this order they go.
    kubelet: Mutex<Option<Running>>,
    /// The API server's client.
    pub api: Api,
    /// Its node: the service, its registry and its machine.
    pub node: Node,
    /// Where its parts are.
    pub place: Place,
    settings: Mutex<Settings>,
    _uplink: Uplink,
}

impl Cluster {
    /// Starts a cluster and waits until it is whole: the node Ready, DNS available.
    #[track_caller]
    pub fn start(settings: Settings) -> Self {
        Self::start_telling(settings, |_| ())
    }

    /// As [`start`](Self::start); `tell` hears of each step when it is done.
    #[track_caller]
    pub fn start_telling(settings: Settings, tell: impl Fn(&str)) -> Self {
        let programs = if settings.release { Programs::release } else { Programs::dev };
        let node = Node::builder_with(programs)
            .with(|config, _| config.runtimes = vec![runtime(), ("runc".into(), tool("runc"))])
            .prepare();
        node.config.write_network(&routed_network(&node.config, &node.machine));
        let uplink = join_to_host(&node.machine);
        let place = prepare(&node);
        tell("a machine with a network and certificates");
        images::push_all(&node);
        node.config.mirror(images::HOME, &format!("http://127.0.0.1:{}", registry::PORT));
        tell("images of the programs, in a registry");
        node.start_service();
        tell("gantline");
        let kubeconfig = place.pki.kubeconfig("admin", "/O=system:masters/CN=admin", &place.server());
        let api = Api::new(&kubeconfig).expect("read the administrator's kubeconfig");
        let cluster = Self {
            kubelet: Mutex::new(None),
            api,
            node,
            place,
            settings: Mutex::new(settings),
            _uplink: uplink,
        };
        cluster.start_kubelet();
        cluster.wait("the API server answers", || {
            cluster.api.text("/readyz").map(drop).map_err(|e| e.to_string())
        });
        tell("kubelet; etcd and API server as its static pods");
        for object in manifests::addons(&cluster.place) {
            cluster.wait("the API server takes the addons", || {
                cluster.api.apply(&object).map(drop).map_err(|error| format!("{object}: {error}"))
            });
        }
        cluster.wait_until_whole();
        tell("node Ready, kube-proxy and DNS available");
        cluster
    }

    /// Whether a feature gate of the kubelet was switched on.
    pub fn gate(&self, name: &str) -> bool {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).gates[name] == true
    }

    /// Waits until the node is Ready and DNS answers for services.
    #[track_caller]
    pub fn wait_until_whole(&self) {
        self.wait("the node is Ready", || match self.node_is_ready() {
            Ok(true) => Ok(()),
            Ok(false) => Err("it is not".into()),
            Err(error) => Err(error.to_string()),
        });
        self.wait("kube-proxy and DNS are available", || {
            let available = |kind, name, pointer: &str| {
                let object = self.api.get(kind, "kube-system", name).map_err(|error| error.to_string())?;
                let number =
                    object.as_ref().and_then(|object| object.pointer(pointer)).and_then(Value::as_i64);
                if number == Some(1) {
                    Ok(())
                } else {
                    Err(format!("{name} is not; {}", self.pods_in_words("kube-system")))
                }
            };
            available("DaemonSet", "kube-proxy", "/status/numberReady")?;
            available("Deployment", "coredns", "/status/availableReplicas")
        });
    }

    /// Whether the API server calls the node Ready.
    pub fn node_is_ready(&self) -> crate::Result<bool> {
        self.api.node_is_ready()
    }

    /// [`crate::eventually`], as long as a whole cluster may take, with the last words of service and kubelet.
    #[track_caller]
    fn wait(&self, what: &str, mut check: impl FnMut() -> Result<(), String>) {
        let start = Instant::now();
        while let Err(complaint) = check() {
            let ended = self.kubelet_ended();
            if ended.is_some() || start.elapsed() > patient(WHOLE) {
                let kubelet = tail(&self.kubelet_log(), 30);
                let service = self.node.log_tail(20);
                panic!("{what}: {complaint} (kubelet: {ended:?})\nkubelet:\n{kubelet}\nservice:\n{service}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A namespace of a test's own.
    #[track_caller]
    pub fn room(&self, name: &str) -> Room<'_> {
        Room::new(self, name)
    }

    /// Pods of a namespace with the state of each of their containers: for complaints.
    pub fn pods_in_words(&self, namespace: &str) -> String {
        let pods = self.api.list("Pod", namespace, "").unwrap_or_default();
        let words = pods.iter().map(|pod| {
            let statuses = pod.pointer("/status/containerStatuses").unwrap_or(&Value::Null);
            format!("{} {} {statuses}", pod["metadata"]["name"], pod["status"]["phase"])
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// Runs `kubectl` to its end.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> Said {
        run(&mut self.place.kubectl(args))
    }

    /// Starts the kubelet, which goes on where the last one stopped.
    #[track_caller]
    pub fn start_kubelet(&self) {
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(kubelet.is_none(), "the kubelet runs already");
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        *kubelet = Some(spawn_kubelet(&self.node, &self.place, &settings));
    }

    /// Kills the kubelet.
    #[track_caller]
    pub fn kill_kubelet(&self) {
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        kubelet.take().expect("the kubelet runs").kill();
    }

    /// Starts the kubelet anew with other fields in its configuration.
    #[track_caller]
    pub fn restart_kubelet_with(&self, more: Value) {
        self.kill_kubelet();
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).kubelet = more;
        self.start_kubelet();
    }

    /// Starts the kubelet anew with other feature gates; those it had.
    #[track_caller]
    pub fn restart_kubelet_gated(&self, gates: Value) -> Value {
        self.kill_kubelet();
        let before = {
            let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut settings.gates, gates)
        };
        self.start_kubelet();
        before
    }

    /// What a reboot leaves: nothing of the kubelet, the service and the pods runs, what was mounted or kept in memory
    /// is gone, what was on disk is there. Then service and kubelet start.
    #[track_caller]
    pub fn reboot(&self) {
        self.kill_kubelet();
        self.node.kill9();
        // Processes of pods, which shims would report or restart nothing of: all at once.
        for _ in 0..100 {
            let left = self.node.processes(|line| !line.contains("docker-registry"));
            if left.is_empty() {
                break;
            }
            for process in left {
                let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
                // One that ended meanwhile is what we want.
                let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let state = self.node.config.state.display().to_string();
        self.node.machine.sh(&format!(
            "awk '{{ print $2 }}' /proc/mounts | grep -E '^({state}|/run/netns|/var/lib/kubelet/pods|{root})(/|$)' | sort -r | \
                 while read -r at; do umount -l \"$at\" || true; done\n\
             rm -rf {state} /run/netns/*\n\
             find /sys/fs/cgroup/*{cgroup}/ -mindepth 1 -depth -type d -exec rmdir {{}} + 2>/dev/null || true\n\
             nft flush ruleset\n\
             ip -o link show type veth | sed 's/^[0-9]*: \\([^:@]*\\).*/\\1/' | grep -v '^eth0$' | while read -r link; do ip link del $link || true; done",
            root = self.node.config.root.display(),
            cgroup = self.place.cgroup,
        ));
        self.node.start_service();
        self.start_kubelet();
    }

    fn kubelet_ended(&self) -> Option<std::process::ExitStatus> {
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        kubelet.as_mut().and_then(|kubelet| kubelet.child().try_wait().ok().flatten())
    }

    /// What the kubelet says.
    pub fn kubelet_log(&self) -> PathBuf {
        self.place.dir.join("kubelet.log")
    }
}

/// Starts a kubelet on a node whose service runs.
#[track_caller]
fn spawn_kubelet(node: &Node, place: &Place, settings: &Settings) -> Running {
    let config = manifests::kubelet(place, &node.config.socket, settings);
    let file = place.dir.join("kubelet.json");
    fs::write(&file, config.to_string()).expect("write the kubelet's configuration");
    // In a mount namespace of its own, where alone /proc has the sysctls bound over: what lies over a part of /proc
    // keeps every user namespace of the machine from mounting a new one. All other mounts travel both ways.
    let mut line = node.machine.command(installed("unshare"));
    line.args(["--mount", "--propagation", "unchanged", "sh", "-c", KUBELET, "sh"]);
    line.arg(place.dir.join("sysctl")).arg(tool("kubelet"));
    line.arg("--config").arg(&file);
    line.arg("--kubeconfig").arg(place.pki.path("kubelet.conf"));
    line.args(["--hostname-override", NODE, "--node-ip", &place.address, "--v=2"]);
    Running::logged(&mut line, &place.dir.join("kubelet.log"))
}

/// The last lines of a file.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Every pod is a neighbour of the node alone: what goes from pod to pod passes the node, where services are translated,
/// whether or not the kernel shows bridges' packets to the packet filter.
fn routed_network(config: &crate::Config, machine: &Machine) -> Value {
    json!({"cniVersion": "1.0.0", "name": "e2e", "plugins": [
        {"type": "ptp", "ipMasq": true,
         "ipam": {"type": "host-local", "dataDir": config.reservations, "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": format!("{}.0/24", machine.subnet())}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
    ]})
}

/// Joins the machine to the host, for the API server's clients there; gives it a default route, without which no
/// service address could be asked for from the node itself.
#[track_caller]
fn join_to_host(machine: &Machine) -> Uplink {
    let (name, net) = (format!("gantline-k{}", machine.number), uplink_net(machine));
    let holder = machine.holder().to_string();
    let ip = |args: &[&str]| run(command(installed("ip")).args(args)).ok();
    // Of a killed harness, whose machine's end may linger.
    let _ = run(command(installed("ip")).args(["link", "del", &name]));
    ip(&["link", "add", &name, "type", "veth", "peer", "name", "eth0", "netns", &holder]);
    let uplink = Uplink(name);
    ip(&["addr", "add", &format!("{net}.1/30"), "dev", &uplink.0]);
    ip(&["link", "set", &uplink.0, "up"]);
    machine.sh(&format!(
        "ip addr add {net}.2/30 dev eth0 && ip link set eth0 up && ip route add default via {net}.1 && \
         echo 1 > /proc/sys/net/ipv4/ip_forward"
    ));
    uplink
}

fn uplink_net(machine: &Machine) -> String {
    format!("10.87.{}", machine.number)
}

/// The files, certificates, mounts and cgroups that a kubelet's machine has before its kubelet.
#[track_caller]
fn prepare(node: &Node) -> Place {
    let machine = &node.machine;
    let dir = machine.dir().join("cluster");
    let address = format!("{}.2", uplink_net(machine));
    let manifests = dir.join("manifests");
    for made in ["manifests", "volume-plugins", "sysctl", "lib", "log"] {
        fs::create_dir_all(dir.join(made)).expect("make a directory of the cluster");
    }
    fs::write(dir.join("resolv.conf"), "").expect("write the node's resolv.conf");
    let pki = pki::Pki::new(&dir.join("pki"));
    let place = Place {
        pods: format!("{}.0/24", machine.subnet()),
        cgroup: machine.cgroup_parent(),
        dir,
        manifests,
        pki,
        address,
    };
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| format!("DNS:{name}"));
        let addresses =
            [place.address.as_str(), "127.0.0.1", "10.96.0.1"].map(|address| format!("IP:{address}"));
        names.chain(addresses).collect::<Vec<_>>()
    };
    place.pki.key_pair("sa");
    place.pki.certificate(
        "apiserver",
        "/CN=kube-apiserver",
        &names(&["kubernetes", "kubernetes.default.svc", "localhost"]),
    );
    place.pki.certificate("apiserver-kubelet", "/CN=kube-apiserver-kubelet-client", &[]);
    place.pki.certificate(
        "kubelet-server",
        &format!("/O=system:nodes/CN=system:node:{NODE}"),
        &names(&[NODE]),
    );
    for (name, subject) in [
        ("kubelet", format!("/O=system:nodes/CN=system:node:{NODE}")),
        ("controller-manager", "/CN=system:kube-controller-manager".into()),
        ("scheduler", "/CN=system:kube-scheduler".into()),
    ] {
        place.pki.kubeconfig(name, &subject, &place.server());
    }
    for (name, pod) in manifests::static_pods(&place) {
        fs::write(place.manifests.join(format!("{name}.json")), pod.to_string()).expect("write a static pod");
    }
    let mut boot = String::from("set -e\n");
    for (name, value) in SYSCTLS {
        let file = place.dir.join("sysctl").join(name);
        fs::create_dir_all(file.parent().unwrap_or(&place.dir)).expect("make a directory of sysctls");
        fs::write(&file, format!("{value}\n")).expect("write a sysctl's value");
    }
    for name in ["lib", "log"] {
        boot.push_str(&format!("mount --bind {} /var/{name}\n", place.dir.join(name).display()));
    }
    boot.push_str(&format!(
        "awk '$3 ~ /^cgroup/ {{ print $2 }}' /proc/mounts | while read -r at; do mkdir -p $at{}; done\n",
        place.cgroup
    ));
    machine.sh(&boot);
    place
}
