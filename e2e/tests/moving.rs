//! What a person does before a node is moved here: `gantline check` on this very host, and `gantline migrate` of a real
//! configuration, up to a service's own word that it would take what was written.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use e2e::Node;
use e2e::command::{Said, command, run};
use e2e::peer;
use e2e::programs::{Programs, tool};
use serde_json::Value;

fn gantline(args: &[&str]) -> Said {
    run(command(Programs::dev().gantline).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(args))
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// The levels of findings, and that each says what to do.
fn looked_at(report: &Value) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().unwrap();
    let of = |finding: &Value| {
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        assert_eq!(text("level") == "ok", text("remedy").is_empty(), "{finding}");
        assert!(!text("found").is_empty());
        (text("subject"), text("level"))
    };
    findings.iter().map(of).collect()
}

#[test]
fn this_host_is_looked_at_and_the_exit_status_says_whether_it_is_able() {
    let said = gantline(&["check", "-o", "json"]);
    let report = json(&said);
    let looked_at = looked_at(&report);
    for subject in [
        "kernel",
        "system calls",
        "overlayfs",
        "namespaces",
        "cgroups",
        "cgroup driver",
        "runtimes",
        "storage",
        "mounts",
        "kubelet",
    ] {
        assert!(looked_at.iter().any(|(known, _)| known == subject), "{subject}: {looked_at:?}");
    }
    let able = !looked_at.iter().any(|(_, level)| level == "fail");
    assert_eq!(report["able"], able);
    assert_eq!(said.code, i32::from(!able), "{said:?}");
    // What the tests themselves run on is there.
    for subject in ["kernel", "system calls", "namespaces"] {
        assert!(!looked_at.contains(&(subject.to_owned(), "fail".to_owned())), "{looked_at:?}");
    }
    let text = gantline(&["check"]).stdout;
    let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > 80 && line.contains(' ')).collect();
    let breakable = wide.iter().filter(|line| line.trim().contains(' ') && !line.contains('/'));
    assert_eq!(breakable.count(), 0, "{wide:#?}");
}

/// As far as it can: a person looks before they become root.
#[test]
fn somebody_else_than_root_is_told_what_was_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("gantline");
    fs::copy(Programs::dev().gantline, &copy).unwrap();
    let said = run(command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["check", "-o", "json"]));
    let report = json(&said);
    let privileges = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["subject"] == "privileges")
        .unwrap();
    assert!(privileges["found"].as_str().unwrap().starts_with("run by user 65534"), "{privileges}");
    assert!(looked_at(&report).len() > 15, "{report}");
}

/// A node's files with a configuration of containerd's.
fn node_with(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str, mode: u32| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    write("etc/containerd/config.toml", config, 0o644);
    write("usr/bin/runc", "#!/bin/sh\n", 0o755);
    write(
        "var/lib/kubelet/instance-config.yaml",
        "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
        0o644,
    );
    dir
}

fn of_outcome<'a>(report: &'a Value, outcome: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["outcome"] == outcome).collect()
}

#[test]
fn what_is_written_is_accepted_and_nothing_is_overwritten() {
    let node = node_with(
        "version = 2\n[debug]\nlevel = 'debug'\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\nendpoint = ['https://mirror.example']\n",
    );
    let from = node.path().to_str().unwrap();
    let etc = tempfile::tempdir().unwrap();
    let to = etc.path().join("gantline");
    let to = to.to_str().unwrap();

    let told = gantline(&["migrate", "containerd", "--from", from]).ok();
    assert!(told.contains("Nothing was written"), "{told}");
    assert!(told.contains("/var/lib/kubelet/instance-config.yaml:1 says containerRuntimeEndpoint"), "{told}");
    assert!(!Path::new(to).exists());

    let report = json(&gantline(&["migrate", "containerd", "--from", from, "--write", to, "-o", "json"]));
    assert_eq!(report["written"].as_array().unwrap().len(), 2, "{report}");
    let config = format!("{to}/config.toml");
    gantline(&["config", "check", "--config", &config]).ok();
    let applies = gantline(&["config", "dump", "--config", &config]).ok();
    assert!(applies.contains("level = \"debug\" #"), "{applies}");
    assert!(Path::new(to).join("certs.d/docker.io/hosts.toml").exists());

    fs::write(&config, "# mine\n").unwrap();
    let again = gantline(&["migrate", "containerd", "--from", from, "--write", to]);
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("is there already; nothing was written"), "{again:?}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    gantline(&["migrate", "containerd", "--from", from, "--write", to, "--force"]).ok();
    assert_ne!(fs::read_to_string(&config).unwrap(), "# mine\n");
}

/// The whole way on one machine: pods on containerd, drained; its file migrated as it is; the same pods on Gantline, from the
/// same registry, in the same network.
#[test]
fn a_node_moves_from_containerd() {
    let mut node = peer::containerd(&tool("runc"));
    let serves = |node: &Node, name: &str| {
        node.pull(&node.busybox());
        let pod = node.pod(name).run();
        let container = pod.container("app").sh("echo here; sleep 1000").start();
        container.logs("here");
        assert_eq!(container.sh("hostname"), format!("{}\n", pod.status().metadata.unwrap().name));
        assert!(!pod.ip().is_empty(), "{name} has no address");
    };
    serves(&node, "before");
    node.remove_all_pods();
    node.terminate();

    let moved = peer::Migrated::of(&node);
    let expected = [
        "cgroup.driver",
        "default_runtime",
        "images.certs_d",
        "network.bin_dirs",
        "network.conf_dir",
        "runtimes.runc.path",
    ];
    let carried: Vec<&str> =
        of_outcome(&moved.report, "carried").iter().filter_map(|finding| finding["to"].as_str()).collect();
    for key in expected {
        assert!(carried.iter().any(|to| to.starts_with(key)), "{key}: {carried:?}");
    }
    node.becomes(moved.command("serve"), &moved.socket);
    node.start_service();
    serves(&node, "after");
    node.remove_all_pods();
}

/// containerd itself says what its keys are: each of its newest release is told of, by its line.
#[test]
fn every_key_of_containerds_own_default_is_told_of() {
    let default = run(command(tool("containerd")).args(["config", "default"])).ok();
    let node = node_with(&default);
    let report =
        json(&gantline(&["migrate", "containerd", "--from", node.path().to_str().unwrap(), "-o", "json"]));
    let told: Vec<&str> =
        report["findings"].as_array().unwrap().iter().filter_map(|finding| finding["at"].as_str()).collect();
    let mut keys = 0;
    for (index, line) in default.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
        let at = format!("/etc/containerd/config.toml:{}", index + 1);
        assert!(told.contains(&at.as_str()), "nothing is said of {line}");
        keys += 1;
    }
    assert!(keys > 150, "{keys}");
    assert_eq!(of_outcome(&report, "left").len(), 0, "{report:#}");
}
