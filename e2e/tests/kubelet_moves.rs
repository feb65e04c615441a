//! A node that people use moves from containerd to Gantline and back, step by step as docs/operations.md says: with the
//! kubelet that it has, in its cluster.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use e2e::cluster::NODE;
use e2e::cluster::manifests::{daemon_set, deployment};
use e2e::cluster::plain::Plain;
use e2e::command::run;
use e2e::peer::{self, Migrated};
use e2e::programs::tool;
use e2e::{Registry, eventually};
use serde_json::{Value, json};

/// Pods come and go within this time.
const SOON: Duration = Duration::from_secs(240);

/// Pods that greet, and end when they are told to.
fn greeters() -> Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [{
        "name": "main", "image": Registry::reference("busybox:1"),
        "command": ["sh", "-c", "echo here; trap 'exit 0' TERM; sleep 100000 & wait"],
    }]})
}

/// The node says that it runs this; all pods are Ready on it, answer, and have an address of the pod network.
fn serves(cluster: &Plain, runtime: &str) {
    eventually(&format!("all pods are Ready on {runtime}"), SOON, || {
        let node = cluster.api.get("Node", "", NODE).map_err(|error| error.to_string())?.unwrap_or_default();
        let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap_or_default();
        let pods = cluster.api.list("Pod", "default", "").map_err(|error| error.to_string())?;
        let ready = |pod: &&Value| {
            let status = &pod["status"]["containerStatuses"][0];
            let id = status["containerID"].as_str().unwrap_or_default();
            status["ready"] == true && id.starts_with(&format!("{runtime}://"))
        };
        let count = pods.iter().filter(ready).count();
        if version.starts_with(&format!("{runtime}://")) && (count, pods.len()) == (4, 4) {
            Ok(())
        } else {
            Err(format!("{version}, {count} of {}", pods.len()))
        }
    });
    for pod in cluster.api.list("Pod", "default", "").unwrap() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert!(
            pod["status"]["podIP"].as_str().unwrap().starts_with(&cluster.node.machine.subnet()),
            "{pod}"
        );
        assert_eq!(cluster.kubectl(&["exec", name, "--", "hostname"]).ok(), format!("{name}\n"));
        eventually("it greets", SOON, || match cluster.kubectl(&["logs", name]) {
            said if said.stdout == "here\n" => Ok(()),
            said => Err(format!("{said:?}")),
        });
    }
}

/// The first half of the way, the same in both directions: of the pods only a DaemonSet's are left, and no kubelet tends them.
fn leaves(cluster: &mut Plain) {
    cluster.kubectl(&["drain", NODE, "--ignore-daemonsets", "--delete-emptydir-data"]).ok();
    cluster.stop_kubelet();
}

/// The second half: the kubelet speaks to whoever runs now.
fn arrives(cluster: &mut Plain) {
    cluster.node.start_service();
    cluster.start_kubelet();
    cluster.kubectl(&["uncordon", NODE]).ok();
}

/// What pods have of a node beside processes: their namespaces, addresses and links.
fn of_pods(cluster: &Plain) -> Vec<String> {
    let node = &cluster.node;
    let all = node.machine.sh(&format!(
        "ls /run/netns 2>/dev/null; ls {}/e2e | grep '^[0-9]' || true; ip -o link show type veth | grep -v ' eth0@' || true",
        node.config.reservations.display(),
    ));
    all.lines().map(str::to_owned).collect()
}

#[test]
fn a_node_moves_with_its_kubelet_from_containerd_and_back() {
    let mut cluster = Plain::start(peer::containerd(&tool("runc")));
    // A drain evicts the one and leaves the other, as network add-ons are.
    cluster.api.apply(&deployment("web", 3, greeters())).unwrap();
    cluster.api.apply(&daemon_set("agent", greeters())).unwrap();
    serves(&cluster, "containerd");

    leaves(&mut cluster);
    cluster.node.crictl(&["rmp", "-fa"]).ok();
    let moved = Migrated::of(&cluster.node);
    cluster.node.terminate();
    assert_eq!(of_pods(&cluster), Vec::<String>::new(), "containerd left");
    let theirs = cluster.node.config.socket.clone();
    let containerd = cluster.node.becomes(moved.command("serve"), &moved.socket);
    arrives(&mut cluster);
    serves(&cluster, "gantline");

    leaves(&mut cluster);
    assert_eq!(cluster.node.terminate(), Some(0));
    let reset = moved.command("reset").argv;
    run(cluster.node.machine.command(&reset[0]).args(&reset[1..])).ok();
    assert_eq!(of_pods(&cluster), Vec::<String>::new(), "Gantline left");
    cluster.node.becomes(containerd, &theirs);
    arrives(&mut cluster);
    let images = cluster.node.crictl(&["images"]).ok();
    assert!(images.contains("busybox"), "containerd's images are where they were: {images}");
    serves(&cluster, "containerd");

    leaves(&mut cluster);
    cluster.node.crictl(&["rmp", "-fa"]).ok();
}
