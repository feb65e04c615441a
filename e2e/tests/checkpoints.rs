//! Containers and pods written to disk by CRIU while they run, and pods that go on from there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::v1;
use e2e::programs::tool;
use e2e::{Container, ContainerBuilder, Node, Pod, PodBuilder, eventually, patient};
use tonic::Code;

/// Counts in its memory and on its disk: both must go on from the same number.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i >/count; echo n $i; [ $(cat /count) = $i ] || exit 9; sleep 0.05; done";
const SOON: Duration = Duration::from_secs(30);

/// A node with runc, which knows CRIU where Debian 12's crun was built without it, and with CRIU where runtimes look for
/// it: a script, so that a test can have it take its time.
fn node() -> Node {
    let node = Node::builder().with(|config, _| config.runtimes.push(("runc".into(), tool("runc")))).start();
    let bin = node.machine.dir().join("sbin");
    fs::create_dir(&bin).unwrap();
    set_criu(&node, "");
    node.machine.sh(&format!("mount --bind {} /usr/local/sbin", bin.display()));
    node.pull(&node.busybox());
    node
}

/// What CRIU does before it begins.
fn set_criu(node: &Node, first: &str) {
    let path = node.machine.dir().join("sbin/criu");
    let criu = tool("criu").join("criu").canonicalize().unwrap();
    // Not written over: it may be running.
    let aside = path.with_extension("new");
    fs::write(&aside, format!("#!/bin/sh\n{first}\nexec {} \"$@\"\n", criu.display())).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(aside, path).unwrap();
}

fn ends(node: &Node) {
    node.machine.sh("umount /usr/local/sbin");
    assert_eq!(
        fs::read_dir(node.config.root.join("checkpoints")).unwrap().count(),
        0,
        "nothing of a checkpoint"
    );
    node.leaves_nothing();
}

/// The last number that it printed.
fn count(container: &Container<'_>) -> u64 {
    let lines = container.log().lines();
    let last = lines.iter().rev().find_map(|line| line.text.strip_prefix("n ")?.parse().ok());
    last.unwrap_or(0)
}

/// It counts on.
#[track_caller]
fn goes_on(container: &Container<'_>) {
    let before = count(container);
    eventually("the container counts on", SOON, || {
        let now = count(container);
        if now > before + 2 { Ok(()) } else { Err(format!("{now} after {before}: {:?}", container.status())) }
    });
}

fn checkpoint(node: &Node, container: &Container<'_>, to: &Path) -> Result<(), tonic::Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: container.id.clone(),
        location: to.display().to_string(),
        timeout: 0,
    };
    node.cri().checkpoint_container(request).map(drop)
}

fn pod_request(pod: &str, to: &Path, containers: &[&Container<'_>]) -> v1::CheckpointPodRequest {
    v1::CheckpointPodRequest {
        pod_sandbox_id: pod.into(),
        output_path: to.display().to_string(),
        container_ids: containers.iter().map(|container| container.id.clone()).collect(),
        ..Default::default()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file below a directory with its bytes.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path))
        } else {
            drop(found.insert(path.clone(), fs::read(&path).unwrap()))
        }
    }
    found
}

#[test]
fn a_container_is_written_to_an_archive_and_runs_on() {
    let node = node();
    let pod = node.pod("written").handler("runc").run();
    let container = pod.container("counter").sh(COUNTER).start();
    container.logs("n 3\n");
    container.sh("echo secret >/new; rm /bin/ls");
    let (pid, location) = (container.pid(), node.machine.dir().join("counter.tar"));
    fs::write(&location, "an older one").unwrap();
    checkpoint(&node, &container, &location).unwrap();
    assert_eq!(container.pid(), pid, "it is the same process");
    goes_on(&container);
    assert_eq!(fs::metadata(&location).unwrap().permissions().mode() & 0o777, 0o600);

    let read = node.machine.dir().join("read");
    fs::create_dir(&read).unwrap();
    node.machine.sh(&format!("tar -xf {} -C {}", location.display(), read.display()));
    let there = names(&read);
    for name in [
        "checkpoint",
        "config.dump",
        "container.log",
        "dump.log",
        "rootfs-diff.tar",
        "spec.dump",
        "stats-dump",
        "status.dump",
    ] {
        assert!(there.iter().any(|there| there == name), "{name} is not in {there:?}");
    }
    assert!(names(&read.join("checkpoint")).iter().any(|name| name.starts_with("core-")), "CRIU's images");
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(read.join("config.dump")).unwrap()).unwrap();
    assert_eq!(
        (config["id"].as_str(), config["name"].as_str()),
        (Some(container.id.as_str()), Some("counter"))
    );
    assert_eq!(config["runtime"], "runc");
    let diff = node.machine.sh(&format!("tar -tf {}/rootfs-diff.tar", read.display()));
    for name in ["new", "count", "bin/.wh.ls"] {
        assert!(diff.lines().any(|line| line == name), "{name} is not in {diff}");
    }
    assert!(fs::read_to_string(read.join("container.log")).unwrap().contains("n 3\n"));

    // As a person does it.
    let by_hand = node.machine.dir().join("by-hand.tar");
    node.crictl(&["checkpoint", &format!("--export={}", by_hand.display()), &container.id]).ok();
    assert!(by_hand.exists());
    goes_on(&container);
    pod.remove();
    ends(&node);
}

/// Restores a pod of two counters; the restored pod and its containers.
fn restore<'n>(
    made: PodBuilder<'n>,
    from: &Path,
    node: &'n Node,
    counters: Vec<ContainerBuilder<'n>>,
) -> Restored<'n> {
    let request = v1::RestorePodRequest {
        checkpoint_path: from.display().to_string(),
        config: Some(made.config.clone()),
        runtime_handler: "runc".into(),
        container_configs: counters.iter().map(|counter| counter.config.clone()).collect(),
        ..Default::default()
    };
    let answer = node.cri().restore_pod(request).unwrap();
    let pod = made.known_as(&answer.pod_sandbox_id);
    let containers = counters.into_iter().zip(&answer.restored_containers).map(|(counter, restored)| {
        assert_eq!(counter.config.metadata.as_ref().unwrap().name, restored.name);
        let config = counter.config;
        pod.container(&restored.name).with(|into| *into = config).known_as(&restored.container_id)
    });
    Restored { containers: containers.collect(), pod: pod.clone() }
}

struct Restored<'n> {
    pod: Pod<'n>,
    containers: Vec<Container<'n>>,
}

#[test]
fn a_pod_goes_on_from_one_moment_under_other_ids() {
    let node = node();
    let pod = node.pod("before").handler("runc").run();
    let counter = |pod: &Pod<'_>, name: &str| pod.container(name).sh(COUNTER).config;
    let (one, two) = (pod.container("one").sh(COUNTER).start(), pod.container("two").sh(COUNTER).start());
    one.logs("n 3\n");
    two.logs("n 3\n");
    one.sh("echo kept >/kept; rm /bin/ls");
    let output = node.machine.dir().join("output");
    fs::create_dir(&output).unwrap();
    node.cri().checkpoint_pod(pod_request(&pod.id, &output, &[&one, &two])).unwrap();
    let (one_then, two_then) = (count(&one), count(&two));
    goes_on(&one);
    goes_on(&two);
    let written = contents(&output);
    assert_eq!(names(&output), ["container-0", "container-1", "pod.json"]);
    let (one_config, two_config) = (counter(&pod, "one"), counter(&pod, "two"));
    pod.remove();

    let made = node.pod("after").handler("runc");
    let labelled = |config: &v1::ContainerConfig| {
        let mut config = config.clone();
        config.labels.insert("restored".into(), "yes".into());
        node.pod("unused").known_as("unused").container("c").with(|into| *into = config)
    };
    let restored = restore(made, &output, &node, vec![labelled(&two_config), labelled(&one_config)]);
    let [two, one] = &restored.containers[..] else { panic!("two containers") };
    assert_eq!(contents(&output), written, "the checkpoint is as it was");
    for container in [one, two] {
        assert_eq!(container.status().state(), v1::ContainerState::ContainerCreated);
        assert_eq!(container.status().labels["restored"], "yes");
    }
    // What is restored needs the checkpoint no more, and the service remembers what it is.
    fs::remove_dir_all(&output).unwrap();
    node.restart();
    let ran =
        node.machine.dir().join("gantline/logs").join(&restored.pod.config.log_directory).join("one/0.log");
    assert!(!ran.exists(), "nothing has run");
    one.try_start().unwrap();
    two.try_start().unwrap();
    goes_on(one);
    goes_on(two);
    for (container, then) in [(one, one_then), (two, two_then)] {
        let lines = container.log().lines();
        let first: u64 = lines[0].text.strip_prefix("n ").unwrap().parse().unwrap();
        assert!(first > 3 && first <= then + 1, "it went on at {first}, and was written at {then}");
        assert_eq!(container.info()["restored"], true);
    }
    assert_eq!(one.sh("cat /kept; [ -e /bin/ls ] || echo gone"), "kept\ngone\n");
    assert_eq!(one.sh("hostname"), "after\n");
    one.stop(0);
    assert_eq!(one.exit().exit_code, 137);
    restored.pod.remove();
    ends(&node);
}

#[test]
fn containers_that_cannot_be_written_are_named_and_nothing_is_left() {
    let node = node();
    let pod = node.pod("refused").handler("runc").run();
    let running = pod.container("running").sh(COUNTER).start();
    let exited = pod.container("exited").sh("true").start();
    exited.exit();
    let other = node.pod("other").handler("runc").run();
    let stranger = other.container("stranger").idle().start();
    let output = node.machine.dir().join("output");
    fs::create_dir(&output).unwrap();
    let full = node.machine.dir().join("full");
    fs::create_dir_all(full.join("something")).unwrap();
    for (request, code, says) in [
        (pod_request(&pod.id, &output, &[&running, &exited]), Code::FailedPrecondition, exited.id.as_str()),
        (pod_request(&pod.id, &output, &[&running, &stranger]), Code::InvalidArgument, stranger.id.as_str()),
        (pod_request(&pod.id, &output, &[&running, &running]), Code::InvalidArgument, "twice"),
        (pod_request(&pod.id, &full, &[&running]), Code::InvalidArgument, "not empty"),
        (pod_request(&pod.id, &full.join("none"), &[&running]), Code::InvalidArgument, "output_path"),
    ] {
        let refused = node.cri().checkpoint_pod(request).unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }

    // A CRIU that fails: its words come through, the container runs on.
    let archive = node.machine.dir().join("never.tar");
    set_criu(&node, "echo 'no such luck' >&2; exit 3");
    let refused = checkpoint(&node, &running, &archive).unwrap_err();
    assert!(refused.message().contains("runtime checkpoint"), "{refused}");
    let refused = node.cri().checkpoint_pod(pod_request(&pod.id, &output, &[&running])).unwrap_err();
    assert!(refused.message().contains("runtime checkpoint"), "{refused}");
    // None at all, nor one of this machine's own.
    fs::remove_file(node.machine.dir().join("sbin/criu")).unwrap();
    let own =
        "for criu in /usr/sbin/criu /sbin/criu; do [ ! -f $criu ] || mount --bind /dev/null $criu; done";
    node.machine.sh(own);
    let refused = checkpoint(&node, &running, &archive).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("install CRIU"), "{refused}");
    assert!(names(&output).is_empty() && !archive.exists());
    node.machine.sh("umount /usr/sbin/criu 2>/dev/null || true");
    goes_on(&running);
    set_criu(&node, "");

    // What was written and what is asked for are two things.
    node.cri().checkpoint_pod(pod_request(&pod.id, &output, &[&running])).unwrap();
    let made = node.pod("again").handler("runc");
    let config = pod.container("running").sh(COUNTER).config;
    let with = |change: &dyn Fn(&mut v1::ContainerConfig)| {
        let mut config = config.clone();
        change(&mut config);
        config
    };
    let two = || vec![config.clone(), with(&|config| config.metadata.as_mut().unwrap().name = "more".into())];
    for (containers, handler, says) in [
        (vec![with(&|config| config.args = vec!["true".into()])], "runc", "container_configs: [0].args"),
        (
            vec![with(&|config| config.envs = vec![v1::KeyValue { key: "A".into(), value: "b".into() }])],
            "runc",
            "envs",
        ),
        (vec![with(&|config| config.tty = true)], "runc", "tty"),
        (two(), "runc", "more"),
        (vec![config.clone(), config.clone()], "runc", "twice"),
        (vec![with(&|config| config.metadata.as_mut().unwrap().name = "else".into())], "runc", "else"),
        (vec![config.clone()], "crun", "crun"),
        (vec![config.clone()], "unheard-of", "unheard-of"),
    ] {
        let request = v1::RestorePodRequest {
            checkpoint_path: output.display().to_string(),
            config: Some(made.config.clone()),
            runtime_handler: handler.into(),
            container_configs: containers,
            ..Default::default()
        };
        let refused = node.cri().restore_pod(request).unwrap_err();
        assert!(refused.message().contains(says), "{says:?} is not in {refused}");
    }
    assert_eq!(node.pods().len(), 2, "no sandbox was made");

    // One that cannot be created takes the sandbox along.
    fs::remove_dir_all(output.join("container-0/checkpoint")).unwrap();
    let request = v1::RestorePodRequest {
        checkpoint_path: output.display().to_string(),
        config: Some(made.config.clone()),
        runtime_handler: "runc".into(),
        container_configs: vec![config.clone()],
        ..Default::default()
    };
    let refused = node.cri().restore_pod(request).unwrap_err();
    assert!(refused.message().contains("copy the checkpoint"), "{refused}");
    assert_eq!(node.pods().len(), 2, "the sandbox is gone again");
    pod.remove();
    other.remove();
    ends(&node);
}

#[test]
fn a_timeout_and_a_killed_service_leave_nothing_held_and_nothing_written() {
    let node = node();
    let pod = node.pod("slow").handler("runc").run();
    let container = pod.container("counter").sh(COUNTER).start();
    container.logs("n 3\n");
    // CRIU is asked more than once, for its version too: it dawdles only when it is to write.
    let began = node.machine.dir().join("began");
    let dawdle =
        format!("[ \"$1\" = swrk ] && [ -e {0}.armed ] && {{ touch {0}; sleep 3; }}", began.display());
    set_criu(&node, &dawdle);
    let arm = || fs::write(began.with_extension("armed"), "").unwrap();
    arm();
    let archive = node.machine.dir().join("never.tar");
    let request = v1::CheckpointContainerRequest {
        container_id: container.id.clone(),
        location: archive.display().to_string(),
        timeout: 1,
    };
    let refused = node.cri().checkpoint_container(request).unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    goes_on(&container);
    eventually("the abandoned work ends", SOON, || {
        let left = names(&node.config.root.join("checkpoints"));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert!(!archive.exists());

    let output = node.machine.dir().join("output");
    fs::create_dir(&output).unwrap();
    fs::remove_file(&began).unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| node.cri().checkpoint_pod(pod_request(&pod.id, &output, &[&container])));
        eventually("CRIU begins", SOON, || if began.exists() { Ok(()) } else { Err("not yet".to_owned()) });
        assert!(!names(&output).is_empty(), "it writes where it was asked to");
        node.kill9();
        asked.join().unwrap().unwrap_err();
    });
    node.start_service();
    goes_on(&container);
    eventually("nothing of it is left", SOON, || {
        let left = names(&output);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    // The shim is free for the next one.
    fs::remove_file(began.with_extension("armed")).unwrap();
    eventually("another is taken", patient(SOON), || {
        let again = node.cri().checkpoint_pod(pod_request(&pod.id, &output, &[&container]));
        again.map(drop).map_err(|refused| refused.to_string())
    });
    goes_on(&container);
    pod.remove();
    ends(&node);
}

#[test]
fn a_container_dies_when_it_is_to_also_while_it_is_written() {
    let node = node();
    let pod = node.pod("dies").handler("runc").run();
    let container = pod.container("counter").sh(COUNTER).start();
    container.logs("n 3\n");
    let began = node.machine.dir().join("began");
    set_criu(&node, &format!("[ \"$1\" = swrk ] && {{ touch {}; sleep 2; }}", began.display()));
    let archive = node.machine.dir().join("never.tar");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| checkpoint(&node, &container, &archive));
        eventually("CRIU begins", SOON, || if began.exists() { Ok(()) } else { Err("not yet".to_owned()) });
        container.stop(0);
        assert_eq!(container.exit().exit_code, 137);
        asked.join().unwrap().unwrap_err();
    });
    assert!(!archive.exists());
    pod.remove();
    ends(&node);
}
