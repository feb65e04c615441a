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
    // By a process of its own: a child that another test forks meanwhile would hold the program open for writing (ETXTBSY).
    run(command("cp").arg(Programs::dev().gantline).arg(&copy)).ok();
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

/// A node's files: the other runtime's, an OCI runtime, the kubelet's word for `socket`.
fn node_with(files: &[(&str, &str)], socket: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str, mode: u32| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    files.iter().for_each(|(path, text)| write(path, text, 0o644));
    write("usr/bin/runc", "#!/bin/sh\n", 0o755);
    let endpoint = format!("containerRuntimeEndpoint: unix://{socket}\n");
    write("var/lib/kubelet/instance-config.yaml", &endpoint, 0o644);
    dir
}

fn node_of_containerd(config: &str) -> tempfile::TempDir {
    node_with(&[("etc/containerd/config.toml", config)], "/run/containerd/containerd.sock")
}

fn of_outcome<'a>(report: &'a Value, outcome: &str) -> Vec<&'a Value> {
    report["findings"].as_array().unwrap().iter().filter(|finding| finding["outcome"] == outcome).collect()
}

#[test]
fn what_is_written_is_accepted_and_nothing_is_overwritten() {
    let node = node_of_containerd(
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

/// A node of CRI-O's by its files, in the places where its packages put them.
#[test]
fn crio_and_its_registries_are_carried_over() {
    let crio = "[crio.runtime]\ndefault_runtime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nlog_level = \"debug\"\n\
                [crio.runtime.runtimes.runc]\nruntime_path = \"/usr/bin/runc\"\n[crio.network]\n\
                network_dir = \"/etc/cni/other.d\"\n";
    let registries = "unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nlocation = \"docker.io\"\n\
                      [[registry.mirror]]\nlocation = \"mirror.example:5000\"\ninsecure = true\n";
    let files = [
        ("etc/crio/crio.conf", "[crio.runtime]\nlog_level = \"info\"\n"),
        ("etc/crio/crio.conf.d/10-node.conf", crio),
        ("etc/containers/registries.conf", registries),
    ];
    let node = node_with(&files, "/run/crio/crio.sock");
    let from = node.path().to_str().unwrap();
    let told = gantline(&["migrate", "crio", "--from", from]).ok();
    assert!(told.contains("/var/lib/kubelet/instance-config.yaml:1 says containerRuntimeEndpoint"), "{told}");
    let etc = tempfile::tempdir().unwrap();
    let to = etc.path().join("gantline");
    let to = to.to_str().unwrap();
    let report = json(&gantline(&["migrate", "crio", "--from", from, "--write", to, "-o", "json"]));
    assert!(!of_outcome(&report, "carried").is_empty(), "{report:#}");
    let config = format!("{to}/config.toml");
    gantline(&["config", "check", "--config", &config]).ok();
    let applies = gantline(&["config", "dump", "--config", &config]).ok();
    for line in [
        "level = \"debug\" #",
        "conf_dir = \"/etc/cni/other.d\" #",
        "driver = \"cgroupfs\" #",
        "default_runtime = \"runc\" #",
        "path = \"/usr/bin/runc\" #",
    ] {
        assert!(applies.contains(line), "{line}: {applies}");
    }
    let hosts = fs::read_to_string(format!("{to}/certs.d/docker.io/hosts.toml")).unwrap();
    assert!(hosts.contains("[host.\"http://mirror.example:5000\"]"), "{hosts}");
}

/// What the paper says to write, for k3s say, is taken as it stands there.
#[test]
fn the_papers_configurations_are_taken() {
    let paper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let paper = fs::read_to_string(paper).unwrap();
    let files = paper.split("cat >/etc/gantline/").skip(1).map(|rest| rest.split_once(" <<EOF\n").unwrap());
    let mut count = 0;
    for (name, rest) in files {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, rest.split_once("\nEOF\n").unwrap().0).unwrap();
        let config = dir.path().join("config.toml");
        fs::write(&config, "").unwrap();
        let config = config.to_str().unwrap();
        gantline(&["config", "check", "--config", config]).ok();
        let dumped = gantline(&["config", "dump", "--config", config]).ok();
        assert!(dumped.contains(name), "nothing of {name} applies: {dumped}");
        count += 1;
    }
    assert!(count > 0, "no file is there to be looked at");
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
    let says = |node: &Node| {
        let said = run(node.machine.command(Programs::dev().gantline).args(["check", "-o", "json"]));
        let findings = json(&said)["findings"].as_array().unwrap().clone();
        let of_others = findings.iter().filter(|one| one["subject"] == "other runtimes");
        of_others.map(|one| format!("{} {}", one["level"], one["found"])).collect::<Vec<_>>().join("; ")
    };
    let pid = node.service_pid().unwrap();
    let neighbour = says(&node);
    let expected =
        format!("containerd answers at {}, by containerd (pid {pid})", node.config.socket.display());
    assert!(neighbour.starts_with("\"warn\"") && neighbour.contains(&expected), "{neighbour}");
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
    assert!(!says(&node).contains("answers"), "{}", says(&node));
    node.start_service();
    serves(&node, "after");
    node.remove_all_pods();
}

/// containerd itself says what its keys are: each of its newest release is told of, by its line.
#[test]
fn every_key_of_containerds_own_default_is_told_of() {
    let default = run(command(tool("containerd")).args(["config", "default"])).ok();
    let node = node_of_containerd(&default);
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
