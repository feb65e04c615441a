//! Days when something beside the service is broken: plugins, runtimes, disks. Each failure is named, ends in
//! time, and leaves nothing.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use api::v1;
use e2e::{Node, NodeBuilder, patient, plugin};
use serde_json::json;

/// A node whose network ends in a plugin of ours, whose ADD runs this shell; each plugin has so many seconds.
fn with_plugin(add: &str, seconds: u32) -> NodeBuilder {
    Node::builder().with(|config, machine| {
        let dir = machine.dir().join("plugins");
        plugin::cni(&dir, "bad-plugin", add);
        config.cni_bins.insert(0, dir);
        config.plugin_timeout = format!("{seconds}s");
    })
}

/// Starts it with the plugin behind the bridge, whose address must be given back.
fn behind_the_bridge(builder: NodeBuilder) -> Node {
    let node = builder.prepare();
    let mut network = node.config.network(&node.machine);
    network["plugins"] = json!([network["plugins"][0], {"type": "bad-plugin"}]);
    node.config.write_network(&network);
    node.start_service();
    node
}

#[track_caller]
fn refuses_pods(node: &Node, words: &[&str]) {
    let refused = node.pod("unlucky").try_run().expect_err("its network cannot be made");
    for word in words {
        assert!(refused.message().contains(word), "{word:?} is not in {refused}");
    }
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn a_cni_plugin_that_fails_is_quoted() {
    let error =
        r#"echo '{"cniVersion":"1.0.0","code":117,"msg":"the moon is wrong","details":"waning"}'; exit 1"#;
    refuses_pods(
        &behind_the_bridge(with_plugin(error, 20)),
        &["bad-plugin", "the moon is wrong", "waning", "117"],
    );
}

#[test]
fn a_cni_plugin_that_hangs_is_killed_in_time() {
    let node = behind_the_bridge(with_plugin("sleep 1000", 3));
    let start = Instant::now();
    refuses_pods(&node, &["bad-plugin"]);
    assert!(start.elapsed() < patient(Duration::from_secs(20)), "it took {:?}", start.elapsed());
}

#[test]
fn why_names_the_stage_at_which_a_pod_hangs() {
    let node = behind_the_bridge(with_plugin("sleep 1000", 10));
    std::thread::scope(|scope| {
        scope.spawn(|| refuses_pods(&node, &["bad-plugin"]));
        e2e::eventually("the stage is told", Duration::from_secs(10), || {
            let told = node.gantline(&["why", "unlucky"]);
            if told.stdout.contains("doing: run the pod") && told.stdout.contains("at stage cni_add for") {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        });
    });
    let told = node.gantline(&["why", "unlucky"]).ok();
    assert!(told.contains("unlucky: gone") && told.contains("bad-plugin"), "{told}");
    node.leaves_nothing();
}

#[test]
fn a_cni_plugin_that_prints_rubbish_is_named() {
    refuses_pods(&behind_the_bridge(with_plugin("echo 'hello, I am not JSON'", 20)), &["bad-plugin"]);
}

#[test]
fn a_cni_plugin_that_is_missing_is_named() {
    let node = Node::builder().prepare();
    let mut network = node.config.network(&node.machine);
    network["plugins"] = json!([{"type": "no-such-plugin"}]);
    node.config.write_network(&network);
    node.start_service();
    refuses_pods(&node, &["no-such-plugin"]);
}

#[test]
fn a_network_that_is_not_there_yet_is_said_and_seen_when_it_comes() {
    let node = Node::start();
    std::fs::remove_file(node.config.cni_conf.join("10-e2e.conflist")).unwrap();
    let condition = || {
        let status = node.cri().status(Default::default()).expect("Status").status.expect("a status");
        status
            .conditions
            .into_iter()
            .find(|condition| condition.r#type == "NetworkReady")
            .expect("NetworkReady")
    };
    let becomes = |ready: bool| {
        e2e::eventually("the change is seen", Duration::from_secs(10), || {
            let now = condition();
            if now.status == ready { Ok(()) } else { Err(format!("{now:?}")) }
        });
    };
    becomes(false);
    assert!(!condition().reason.is_empty() && !condition().message.is_empty(), "{:?}", condition());
    node.pod("early").try_run().expect_err("no network");
    node.config.write_network(&node.config.network(&node.machine));
    becomes(true);
    node.pod("later").run().remove();
    node.remove_all_pods();
    node.leaves_nothing();
}

/// A node with a second handler `odd`: a script before crun.
fn with_runtime(body: &str) -> Node {
    let body = body.replace("crun", &e2e::programs::installed("crun").display().to_string());
    let builder = Node::builder().with(|config, machine| {
        let path = plugin::script(&machine.dir().join("runtimes"), "odd", &body);
        config.runtimes.push(("odd".into(), path));
    });
    builder.start()
}

#[test]
fn an_oci_runtime_that_fails_is_quoted_and_the_container_says_so() {
    let node = with_runtime(
        "case \" $* \" in *' create '*|*' run '*) echo 'boom: no cookies left' >&2; exit 1;; esac\nexec crun \"$@\"",
    );
    let pod = node.pod("odd").handler("odd").run();
    let container = pod.container("c").idle().create();
    let refused = container.try_start().expect_err("the runtime fails");
    assert!(refused.message().contains("no cookies left"), "{refused}");
    let status = container.status();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("no cookies left"), "{}", status.message);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn an_oci_runtime_that_is_gone_is_named() {
    let node = with_runtime("exec crun \"$@\"");
    let pod = node.pod("odd").handler("odd").run();
    let path = node.machine.dir().join("runtimes/odd");
    std::fs::rename(&path, path.with_extension("away")).unwrap();
    let container = pod.container("c").idle().create();
    let refused = container.try_start().expect_err("there is no runtime");
    assert!(refused.message().contains("runtimes/odd"), "{refused}");
    assert_eq!(container.status().exit_code, 128);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn an_oci_runtime_that_hangs_does_not_keep_its_pod_from_going() {
    let node =
        with_runtime("case \" $* \" in *' create '*|*' run '*) exec sleep 1000;; esac\nexec crun \"$@\"");
    let pod = node.pod("odd").handler("odd").run();
    let container = pod.container("c").idle().create();
    let mut client = node.cri().raw();
    let request = v1::StartContainerRequest { container_id: container.id.clone() };
    e2e::cri::runtime().block_on(async {
        let given_up = tokio::time::timeout(Duration::from_secs(2), client.start_container(request)).await;
        assert!(given_up.is_err(), "it should hang: {given_up:?}");
    });
    let start = Instant::now();
    pod.remove();
    assert!(start.elapsed() < patient(Duration::from_secs(60)), "it took {:?}", start.elapsed());
    node.leaves_nothing();
}

#[test]
fn a_log_directory_that_cannot_be_written_is_named() {
    let node = Node::start();
    let dir = node.machine.dir().join("read-only");
    std::fs::create_dir_all(&dir).unwrap();
    node.machine.sh(&format!("mount -t tmpfs -o ro tmpfs {}", dir.display()));
    let path = dir.join("pod").display().to_string();
    let run = node.pod("mute").with(|config| config.log_directory = path).try_run();
    let refused = run.and_then(|pod| {
        node.pull(&node.busybox());
        pod.container("c").idle().try_create().and_then(|container| container.try_start())
    });
    let refused = refused.expect_err("nowhere to log to");
    assert!(refused.message().contains("read-only"), "{refused}");
    node.remove_all_pods();
    node.machine.sh(&format!("umount {}", dir.display()));
    node.leaves_nothing();
}

#[test]
fn a_disk_full_of_logs_stops_no_container() {
    let node = Node::builder().with_metrics().start();
    let dropped = || node.metric("gantline_log_dropped_bytes_total");
    assert_eq!(dropped(), 0);
    let dir = node.machine.dir().join("tiny");
    std::fs::create_dir_all(&dir).unwrap();
    node.machine.sh(&format!("mount -t tmpfs -o size=256k tmpfs {}", dir.display()));
    let path = dir.display().to_string();
    let pod = node.pod("chatty").with(|config| config.log_directory = path.clone()).run();
    let line = "x".repeat(100);
    let chatty = pod.container("c").sh(&format!(
        "i=0; while [ $i -lt 10000 ]; do echo {line} $i; i=$((i+1)); done; touch /written; while [ ! -e /go ]; do usleep 20000; done; \
         echo back again; exit 4"
    ));
    let chatty = chatty.start();
    let log = node.machine.path(dir.join("c/0.log"));
    e2e::eventually("the disk is full", Duration::from_secs(20), || {
        let size = std::fs::metadata(&log).map_or(0, |file| file.len());
        if size > 200_000 { Ok(()) } else { Err(format!("{size} bytes")) }
    });
    e2e::eventually("all is written, wherever it went", Duration::from_secs(20), || {
        let there = chatty.try_exec(&["test", "-e", "/written"], 5).map_err(|status| status.to_string())?;
        if there.exit_code == 0 { Ok(()) } else { Err("not yet".into()) }
    });
    std::thread::sleep(Duration::from_millis(300));
    // There is room again: what comes now is logged.
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    chatty.sh("touch /go");
    let ended = chatty.exit();
    assert_eq!(ended.exit_code, 4, "it went on to its end");
    let text = std::fs::read(&log).unwrap();
    assert!(String::from_utf8_lossy(&text).contains("back again"), "the last line is logged");
    // A megabyte was written, and a quarter of one fits.
    assert!((500_000..1_100_000).contains(&dropped()), "{} bytes are said to be dropped", dropped());
    pod.remove();
    node.machine.sh(&format!("umount {path}"));
    node.leaves_nothing();
}
