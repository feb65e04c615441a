//! What the service's log tells of one pod's life.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use e2e::Node;
use serde_json::Value;

fn logging(level: &str) -> Node {
    let section = format!("[log]\nformat = \"json\"\nlevel = {level:?}\n");
    Node::builder().with(|config, _| config.more.push_str(&section)).start()
}

/// Every line, which must be one JSON object with what every line has.
fn lines(node: &Node) -> Vec<Value> {
    let log = node.service_log();
    let parse = |line: &str| -> Value {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name} of {line}");
        }
        line
    };
    log.lines().map(parse).collect()
}

/// One pod with one container from their pull to their removal; their ids.
fn live(node: &Node) -> (String, String) {
    node.pull(&node.busybox());
    let pod = node.pod("life").run();
    let container = pod.container("c").sh("exit 3").start();
    container.exit();
    container.remove();
    pod.stop();
    pod.remove();
    (pod.id.clone(), container.id.clone())
}

#[test]
fn a_pods_life_is_told_at_info_in_one_line_an_event() {
    let node = logging("info");
    let (pod, container) = live(&node);
    node.leaves_nothing();
    let lines = lines(&node);
    assert!(lines.iter().all(|line| line["level"] != "DEBUG" && line.get("stage").is_none()), "{lines:#?}");
    let of_pod: Vec<&Value> = lines.iter().filter(|line| line["pod.id"] == pod.as_str()).collect();
    let told: Vec<&str> = of_pod.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(
        told,
        [
            "pod sandbox ready",
            "container created",
            "container started",
            "container ended",
            "container removed",
            "pod sandbox stopped",
            "pod sandbox removed",
        ],
        "{of_pod:#?}"
    );
    for line in &of_pod {
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["pod.name"], "life", "{line}");
        assert!(line["pod.namespace"].is_string(), "{line}");
        assert!(line.get("trace_id").is_none_or(Value::is_null), "traces are off: {line}");
        if line["message"].as_str().unwrap().starts_with("container") {
            assert_eq!(line["container.id"], container.as_str(), "{line}");
            assert_eq!(line["container.name"], "c", "{line}");
        }
    }
    assert_eq!(of_pod[0]["rpc.method"], "RunPodSandbox");
    assert_eq!(of_pod[2]["rpc.method"], "StartContainer");
    assert_eq!((&of_pod[3]["code"], &of_pod[3]["reason"]), (&3.into(), &"Error".into()));
    let pulled: Vec<_> = lines.iter().filter(|line| line["message"] == "image pulled").collect();
    assert_eq!(pulled.len(), 1);
    assert_eq!(pulled[0]["image.ref"], node.busybox());
    assert_eq!(pulled[0]["rpc.method"], "PullImage");
    assert!(pulled[0]["elapsed_ms"].is_number() && pulled[0]["image.id"].is_string(), "{}", pulled[0]);
}

#[test]
fn at_debug_each_stage_is_told_with_its_duration() {
    let node = logging("info,stage=debug");
    let (pod, container) = live(&node);
    node.leaves_nothing();
    let lines = lines(&node);
    let stages: Vec<&Value> = lines.iter().filter(|line| line["target"] == "stage").collect();
    for line in &stages {
        assert!(line["elapsed_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{line}");
        assert!(matches!(line["message"].as_str(), Some("stage done" | "stage failed")), "{line}");
    }
    let named: BTreeSet<&str> = stages.iter().map(|line| line["stage"].as_str().unwrap()).collect();
    for stage in [
        "pull",
        "pull_resolve",
        "pull_config",
        "pull_layers",
        "pull_commit",
        "layer",
        "layer_fetch",
        "layer_unpack",
        "registry_request",
        "store_commit",
        "pod_directory",
        "pod_cgroup",
        "namespaces",
        "pod_files",
        "pod_shm",
        "cni_add",
        "cni_plugin",
        "cni_del",
        "shim_start",
        "shim_call",
        "shim_stop",
        "image_resolve",
        "snapshot",
        "spec",
        "oci_run",
        "oci_create",
        "oci_start",
        "oci_delete",
    ] {
        assert!(named.contains(stage), "{stage} is not among {named:?}");
    }
    let told = |stage: &str, field: &str, value: &str| {
        stages.iter().any(|line| line["stage"] == stage && line[field] == value)
    };
    assert!(told("cni_plugin", "cni.plugin", "bridge") && told("cni_plugin", "cni.plugin", "portmap"));
    assert!(told("cni_add", "pod.id", &pod) && told("snapshot", "container.id", &container));
    assert!(told("oci_create", "rpc.method", "StartContainer"), "stages are told within their request");
}
