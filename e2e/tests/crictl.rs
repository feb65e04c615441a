//! crictl of the pinned version: every command a person debugs a node with. Exec, attach and port-forward over
//! their transports are in streaming.rs.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use e2e::{Node, eventually};
use serde_json::{Value, json};

/// A node, and the directory of the files that crictl reads.
struct Desk {
    node: Node,
}

impl Desk {
    fn new() -> Self {
        Self { node: Node::start() }
    }

    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.node.machine.dir().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    fn pod_file(&self, name: &str) -> String {
        let logs = self.node.config.logs.join(name);
        self.file(
            &format!("{name}.pod.json"),
            &json!({
                "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "attempt": 1},
                "hostname": name, "log_directory": logs,
                "linux": {"cgroup_parent": self.node.machine.cgroup_parent()},
            }),
        )
    }

    fn container_file(&self, name: &str, line: &str) -> String {
        self.file(
            &format!("{name}.json"),
            &json!({
                "metadata": {"name": name}, "image": {"image": self.node.busybox()},
                "command": ["sh", "-c", line], "log_path": format!("{name}.log"), "linux": {},
            }),
        )
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.node.crictl(args).ok().trim().to_string()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("crictl prints JSON")
    }
}

#[test]
fn a_person_looks_around() {
    let desk = Desk::new();
    let version = desk.ok(&["version"]);
    assert!(version.contains("RuntimeApiVersion:  v1"), "{version}");
    let info = desk.json(&["info"]);
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for kind in ["RuntimeReady", "NetworkReady"] {
        assert!(
            conditions.iter().any(|c| c["type"] == kind && c["status"] == true),
            "{kind}: {conditions:?}"
        );
    }
    let config = desk.ok(&["runtime-config"]);
    assert!(config.to_lowercase().contains("cgroup"), "{config}");
    desk.node.leaves_nothing();
}

#[test]
fn images_come_are_looked_at_and_go() {
    let desk = Desk::new();
    let name = desk.node.busybox();
    assert!(desk.ok(&["pull", &name]).contains("Image is up to date for sha256:"));
    let listed = desk.json(&["images", "-o", "json"]);
    assert_eq!(listed["images"][0]["repoTags"], json!([name]));
    let id = listed["images"][0]["id"].as_str().unwrap().to_string();
    assert!(desk.ok(&["images"]).contains("busybox"));
    let looked = desk.json(&["inspecti", &name]);
    assert_eq!(looked["status"]["id"], id.as_str());
    let prefix = &id.trim_start_matches("sha256:")[..12];
    assert_eq!(desk.json(&["inspecti", prefix])["status"]["id"], id.as_str(), "a prefix of the id will do");
    let usage = desk.json(&["imagefsinfo", "-o", "json"]);
    assert!(usage["status"]["imageFilesystems"][0]["usedBytes"]["value"].as_str().unwrap() != "0", "{usage}");
    desk.ok(&["rmi", &name]);
    assert!(desk.json(&["images", "-o", "json"])["images"].as_array().unwrap().is_empty());
    desk.node.crictl(&["inspecti", &name]).fails();
    desk.node.leaves_nothing();
}

/// `crictl inspect` and its like merge the verbose information into what they print. Scripts and agents read these.
#[test]
fn what_tools_parse_is_where_they_look_for_it() {
    let desk = Desk::new();
    desk.ok(&["pull", &desk.node.busybox()]);
    let pod = desk.ok(&["runp", &desk.pod_file("parsed")]);
    let file = desk.container_file("main", "exec sleep 1000");
    let container = desk.ok(&["create", &pod, &file, &desk.pod_file("parsed")]);
    desk.ok(&["start", &container]);
    let has = |of: &Value, paths: &[&str]| {
        for path in paths {
            assert!(!of.pointer(path).unwrap_or(&Value::Null).is_null(), "{path} is not in {of}");
        }
    };

    let looked = desk.json(&["inspect", &container])["info"].clone();
    has(&looked, &["/pid", "/snapshotKey", "/snapshotter", "/runtimeType", "/runtimeOptions/binary_name"]);
    assert_eq!((&looked["sandboxID"], &looked["removing"]), (&json!(pod), &json!(false)));
    assert_eq!(looked["config"]["metadata"]["name"], "main");
    assert_eq!(looked["config"]["image"]["image"], desk.node.busybox());
    assert_eq!(looked["config"]["log_path"], "main.log");
    has(&looked, &["/runtimeSpec/process/args", "/runtimeSpec/linux/cgroupsPath", "/runtimeSpec/root/path"]);
    assert_eq!(looked["runtimeSpec"]["annotations"]["io.kubernetes.cri.sandbox-id"], json!(pod));

    let looked = desk.json(&["inspectp", &pod])["info"].clone();
    has(&looked, &["/pid", "/image", "/snapshotKey", "/snapshotter", "/runtimeHandler", "/runtimeType"]);
    has(
        &looked,
        &["/runtimeOptions", "/cniResult", "/sandboxMetadata/NetNSPath", "/runtimeSpec/annotations"],
    );
    assert_eq!((&looked["processStatus"], &looked["netNamespaceClosed"]), (&json!("running"), &json!(false)));
    assert_eq!(looked["config"]["metadata"]["namespace"], "default");
    assert_eq!(looked["config"]["hostname"], "parsed");
    let namespaces = looked["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
    let network = namespaces.iter().find(|one| one["type"] == "network").unwrap()["path"].as_str().unwrap();
    let of = |path: &str| desk.node.machine.sh(&format!("stat -Lc %i {path}"));
    assert_eq!(of(network), of(&format!("/proc/{}/ns/net", looked["pid"])), "the pod's network by both ways");
    desk.ok(&["stopp", &pod]);
    let looked = desk.json(&["inspectp", &pod])["info"].clone();
    assert_eq!((&looked["processStatus"], &looked["netNamespaceClosed"]), (&json!("deleted"), &json!(true)));
    assert_eq!(looked["pid"], 0);

    let looked = desk.json(&["inspecti", &desk.node.busybox()])["info"].clone();
    has(&looked, &["/chainID", "/imageSpec/rootfs/diff_ids", "/imageSpec/config"]);
    let looked = desk.json(&["info"]);
    has(&looked, &["/config", "/cniconfig", "/lastCNILoadStatus", "/runtimeHandlers"]);
    desk.ok(&["rmp", &pod]);
    desk.node.leaves_nothing();
}

#[test]
fn a_pod_is_made_and_unmade_step_by_step() {
    let desk = Desk::new();
    let (pod_file, file) =
        (desk.pod_file("steps"), desk.container_file("main", "echo started; exec sleep 1000"));
    desk.ok(&["pull", &desk.node.busybox()]);
    let pod = desk.ok(&["runp", &pod_file]);
    assert_eq!(pod.len(), 64);
    assert!(desk.ok(&["pods"]).contains("steps"));
    assert_eq!(
        desk.json(&["inspectp", &pod[..8]])["status"]["state"],
        "SANDBOX_READY",
        "a prefix is completed"
    );

    let container = desk.ok(&["create", &pod, &file, &pod_file]);
    desk.ok(&["start", &container[..10]]);
    assert!(desk.ok(&["ps"]).contains("Running"));
    let looked = desk.json(&["inspect", &container]);
    assert_eq!(looked["status"]["state"], "CONTAINER_RUNNING");
    assert!(looked["info"]["pid"].as_u64().is_some_and(|pid| pid > 1), "{}", looked["info"]);

    assert_eq!(desk.ok(&["exec", "--sync", &container, "echo", "in there"]), "in there");
    desk.node.crictl(&["exec", "--sync", &container, "false"]).fails();
    eventually("it has said so", Duration::from_secs(60), || match desk.ok(&["logs", &container]) {
        log if log == "started" => Ok(()),
        log => Err(log),
    });
    assert!(desk.ok(&["stats", &container]).contains(&container[..13]));
    desk.ok(&[
        "update",
        "--memory",
        "67108864",
        "--cpu-quota",
        "40000",
        "--cpu-period",
        "100000",
        &container,
    ]);
    let limits = &desk.json(&["inspect", &container])["status"]["resources"]["linux"];
    assert_eq!(limits["memoryLimitInBytes"], "67108864", "{limits}");

    desk.ok(&["stop", "--timeout", "0", &container]);
    assert_eq!(desk.json(&["inspect", &container])["status"]["state"], "CONTAINER_EXITED");
    assert!(desk.ok(&["ps", "-a"]).contains("Exited"));
    desk.ok(&["rm", &container]);
    desk.ok(&["stopp", &pod]);
    desk.ok(&["rmp", &pod]);
    assert!(desk.json(&["pods", "-o", "json"])["items"].as_array().unwrap().is_empty());
    let unknown = desk.node.crictl(&["inspectp", &pod]).fails();
    assert!(unknown.contains("NotFound"), "{unknown}");
    desk.node.leaves_nothing();
}

#[test]
fn run_does_it_all_at_once_and_logs_follow() {
    let desk = Desk::new();
    desk.ok(&["pull", &desk.node.busybox()]);
    let pod_file = desk.pod_file("once");
    let file = desk
        .container_file("counter", "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.05; done");
    let container = desk.ok(&["run", &file, &pod_file]);
    let followed = desk.ok(&["logs", "-f", &container]);
    let expected: Vec<String> = (0..30).map(|number| format!("line {number}")).collect();
    assert_eq!(followed.lines().collect::<Vec<_>>(), expected, "it follows to the end and stops there");
    desk.ok(&["rmp", "-f", desk.json(&["pods", "-o", "json"])["items"][0]["id"].as_str().unwrap()]);
    desk.node.leaves_nothing();
}
