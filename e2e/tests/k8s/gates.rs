//! The kubelet's gates that choose how it asks a runtime: on and off, and that it does ask so.

use std::collections::BTreeMap;

use e2e::cluster::room::{SOON, container, status_of};
use e2e::cluster::{Cluster, NODE};
use e2e::eventually;
use serde_json::{Value, json};

use crate::{lifecycle, people, resources, workloads};

tests![asked_with_streams_events_and_statistics_of_cri, asked_without_them];

/// All of those gates.
pub(crate) fn all(value: bool) -> Value {
    json!({"PodAndContainerStatsFromCRI": value, "EventedPLEG": value, "CRIListStreaming": value})
}

/// What is tested under either: all that depends on how the kubelet learns of containers and of what they use.
const AGAIN: [crate::Test; 7] = [
    ("deployment_with_every_kind_of_probe", workloads::deployment_with_every_kind_of_probe),
    ("job_counts_exit_codes", workloads::job_counts_exit_codes),
    (
        "init_containers_in_their_order_then_a_sidecar",
        lifecycle::init_containers_in_their_order_then_a_sidecar,
    ),
    ("crash_loop_and_the_log_of_before", lifecycle::crash_loop_and_the_log_of_before),
    ("oom_killed", resources::oom_killed),
    ("ephemeral_storage_beyond_its_limit_evicts", resources::ephemeral_storage_beyond_its_limit_evicts),
    ("what_pods_use", people::what_pods_use),
];

/// Other gates for as long as it lives.
struct Gated<'c>(&'c Cluster, Value);

impl<'c> Gated<'c> {
    fn new(cluster: &'c Cluster, value: bool) -> Self {
        let before = cluster.restart_kubelet_gated(all(value));
        cluster.wait_until_whole();
        Self(cluster, before)
    }
}

impl Drop for Gated<'_> {
    fn drop(&mut self) {
        self.0.restart_kubelet_gated(self.1.take());
    }
}

/// How many requests of each kind Gantline has answered, and how many streams of events are open.
fn asked(cluster: &Cluster) -> BTreeMap<String, u64> {
    let socket = cluster.node.machine.path(&cluster.node.config.state).join("admin.sock");
    let answer = e2e::http::get_over_unix(&socket, "/metrics", "text/plain").unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let mut asked = BTreeMap::new();
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = match series.strip_prefix("gantline_operation_duration_seconds_count{rpc=\"") {
            Some(labels) => labels.split('"').next().unwrap(),
            None if series == "gantline_event_subscribers" => series,
            None => continue,
        };
        *asked.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap() as u64;
    }
    asked
}

/// How much more of each there is now.
fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> u64 {
    after.get(name).copied().unwrap_or_default() - before.get(name).copied().unwrap_or_default()
}

const UNARY: [&str; 6] = [
    "ListPodSandbox",
    "ListContainers",
    "ListImages",
    "ListContainerStats",
    "ListPodSandboxStats",
    "ListPodSandboxMetrics",
];
const STREAMS: [&str; 5] = [
    "StreamPodSandboxes",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxStats",
    "StreamPodSandboxMetrics",
];

fn again(cluster: &Cluster) {
    for (name, test) in AGAIN {
        let start = std::time::Instant::now();
        test(cluster);
        println!("        {name} ({:.1} s)", start.elapsed().as_secs_f64());
    }
}

fn cadvisor_lines(cluster: &Cluster, metric: &str) -> Vec<String> {
    let text = cluster.api.text(&format!("/api/v1/nodes/{NODE}/proxy/metrics/cadvisor")).unwrap();
    text.lines().filter(|line| line.starts_with(metric)).map(str::to_owned).collect()
}

fn asked_with_streams_events_and_statistics_of_cri(cluster: &Cluster) {
    let _gated = Gated::new(cluster, true);
    let before = eventually("the kubelet reads events", SOON, || {
        let asked = asked(cluster);
        if asked["gantline_event_subscribers"] >= 1 { Ok(asked) } else { Err(format!("{asked:?}")) }
    });
    again(cluster);
    // The kubelet's endpoint for monitoring systems is ours now, the network with it.
    let room = cluster.room("metrics");
    room.shell("told", "sleep 1000", json!({}));
    room.ready("told");
    for metric in ["container_cpu_usage_seconds_total", "container_network_receive_bytes_total"] {
        eventually(&format!("{metric} of a pod"), SOON, || {
            let lines = cadvisor_lines(cluster, metric);
            let of_the_pod = |line: &&String| line.contains("pod=\"told\"") && line.contains(&room.name);
            lines
                .iter()
                .find(of_the_pod)
                .map(drop)
                .ok_or_else(|| format!("{} lines of other pods", lines.len()))
        });
    }
    let after = asked(cluster);
    for name in STREAMS {
        assert!(since(&before, &after, name) > 0, "{name}: {after:?}");
    }
    for name in UNARY {
        assert_eq!(since(&before, &after, name), 0, "{name}: {after:?}");
    }
    // The service dies and takes the stream of events with it: what ends meanwhile is seen all the same.
    let dir = cluster.place.dir.join(&room.name);
    let main = container(
        "main",
        "until [ -e /flags/end ]; do usleep 50000; done; echo over > /flags/over; exit 4",
        json!({"volumeMounts": [{"name": "flags", "mountPath": "/flags"}]}),
    );
    let volume = json!({"name": "flags", "hostPath": {"path": dir, "type": "DirectoryOrCreate"}});
    room.pod("ends", json!({"restartPolicy": "Never", "containers": [main], "volumes": [volume]}));
    room.ready("ends");
    cluster.node.kill9();
    std::fs::write(dir.join("end"), "").unwrap();
    eventually("it ends", SOON, || {
        std::fs::read(dir.join("over")).map(drop).map_err(|error| error.to_string())
    });
    cluster.node.start_service();
    assert_eq!(room.ended("ends"), "Failed");
    assert_eq!(status_of(&room.get("Pod", "ends").unwrap(), "main")["state"]["terminated"]["exitCode"], 4);
}

fn asked_without_them(cluster: &Cluster) {
    let _gated = Gated::new(cluster, false);
    let before = asked(cluster);
    // Where nothing is said of the gates all else here runs without them.
    if crate::long() {
        again(cluster);
    } else {
        lifecycle::init_containers_in_their_order_then_a_sidecar(cluster);
    }
    // For images a kubelet asks every half a minute.
    let after = eventually("the kubelet asks for whole lists", SOON, || {
        let after = asked(cluster);
        let missing = ["ListPodSandbox", "ListContainers", "ListImages"]
            .into_iter()
            .find(|name| since(&before, &after, name) == 0);
        missing.map_or(Ok(after), |name| Err(format!("{name} was not asked")))
    });
    assert_eq!(after["gantline_event_subscribers"], 0, "nobody reads events: {after:?}");
    for name in STREAMS {
        assert_eq!(since(&before, &after, name), 0, "{name}: {after:?}");
    }
}
