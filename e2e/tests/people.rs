//! What a person sees of a node: `gantline status` and `gantline top`, on a terminal and through a pipe.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;
use std::time::Duration;

use e2e::terminal::Terminal;
use e2e::{Node, eventually, patient, plugin};
use serde_json::{Value, json};

fn status(node: &Node) -> Value {
    let json = node.gantline(&["status", "--output", "json"]).ok();
    serde_json::from_str(&json).expect("JSON")
}

#[test]
fn status_tells_what_the_node_holds_and_how_it_is() {
    let node = Node::start();
    node.pull(&node.busybox());
    let pod = node.pod("seen").run();
    pod.container("runs").idle().start();
    let broken = pod.container("broken").command(&["/no/such/program"]).create();
    broken.try_start().expect_err("there is no such program");
    let told = status(&node);
    assert_eq!((&told["phase"], &told["pid"]), (&json!("serving"), &json!(node.service_pid().unwrap())));
    let here = &told["node"];
    for (name, value) in [
        ("pods_ready", json!(1)),
        ("pods_not_ready", json!(0)),
        ("containers_running", json!(1)),
        ("containers_other", json!(1)),
        ("images", json!(1)),
        ("owed", json!({"cni_dels": [], "pods_ending": 0, "records_unreadable": []})),
        ("recovered_pods", json!(0)),
    ] {
        assert_eq!(here[name], value, "{name} in {here:#}");
    }
    for condition in here["conditions"].as_array().unwrap() {
        assert_eq!(condition["met"], true, "{condition}");
    }
    assert_eq!(here["shims"]["connected"], 1);
    assert!(here["shims"]["resident_bytes"].as_u64().unwrap() > 10_000, "{here:#}");
    let disk = &here["disk"];
    let bytes = |name: &str| disk[name].as_u64().unwrap();
    assert!(bytes("size_bytes") > bytes("available_bytes") && bytes("available_bytes") > 0, "{disk}");
    let stages = here["slowest_stages"].as_array().unwrap();
    assert!(stages.iter().any(|stage| stage["stage"] == "pull" && stage["count"] == 1), "{here:#}");
    let failure = &here["failures"][0];
    assert_eq!((&failure["pod"], &failure["what"]), (&json!("default/seen"), &json!("start")));
    assert!(failure["message"].as_str().unwrap().contains("/no/such/program"), "{failure}");

    let piped = node.gantline(&["status"]).ok();
    for words in ["RuntimeReady  yes", "1 ready, 0 not ready", "SLOWEST STAGES", "default/seen start"] {
        assert!(piped.contains(words), "{words:?} is not in\n{piped}");
    }
    let mut terminal = Terminal::start(&mut node.gantline_command(&["status"]), 80, 24);
    let (well, shown) = terminal.end();
    assert!(well, "{shown}");
    for page in [piped.as_str(), shown] {
        assert!(!page.contains('\u{1b}'), "{page:?}");
    }
    for line in shown.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    node.restart();
    let told = status(&node);
    assert_eq!((&told["node"]["recovered_pods"], &told["node"]["pods_ready"]), (&json!(1), &json!(1)));
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn status_and_metrics_tell_which_dels_are_owed() {
    let node = Node::builder().with(|config, machine| {
        let dir = machine.dir().join("plugins");
        let mark = machine.dir().join("del-fails");
        std::fs::write(&mark, "").unwrap();
        let body = format!(
            "cat >/dev/null\ncase $CNI_COMMAND in\n\
             VERSION) echo '{{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}}' ;;\n\
             ADD) echo '{{\"cniVersion\":\"1.0.0\"}}' ;;\n\
             DEL) if [ -e {mark} ]; then echo '{{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"try again later\"}}'; exit 1; fi ;;\n\
             esac",
            mark = mark.display()
        );
        plugin::script(&dir, "forgets", &body);
        config.cni_bins.insert(0, dir);
    });
    let node = node.with_metrics().prepare();
    let mut network = node.config.network(&node.machine);
    network["plugins"] = json!([{"type": "forgets"}, network["plugins"][0]]);
    node.config.write_network(&network);
    node.start_service();
    let pod = node.pod("owed").run();
    let owed = |node: &Node| status(node)["node"]["owed"]["cni_dels"].clone();
    assert_eq!(owed(&node), json!([]), "a pod that lives owes nothing");
    pod.try_stop().expect_err("the plugin refuses");
    assert_eq!(owed(&node), json!(["default/owed"]));
    assert_eq!(node.metric("gantline_cni_dels_owed"), 1);
    assert!(node.gantline(&["status"]).ok().contains("CNI DELs: 1 (default/owed)"));
    std::fs::remove_file(node.machine.dir().join("del-fails")).unwrap();
    pod.remove();
    assert_eq!(owed(&node), json!([]));
    assert_eq!(node.metric("gantline_cni_dels_owed"), 0);
    node.leaves_nothing();
}

/// A node with a pod that keeps a CPU and its network busy, whose container was started again twice, and one that sleeps.
fn busy() -> Node {
    let node = Node::start();
    node.pull(&node.busybox());
    // The harness's pods share a cgroup otherwise.
    let apart = |name: &str| {
        let parent = node.machine.cgroup_parent_of(name);
        node.pod(name).with(|config| config.linux.get_or_insert_default().cgroup_parent = parent).run()
    };
    let pod = apart("busy");
    // Its own address is reached over lo, which nobody means: the bridge's is outside.
    let gateway = format!("{}.1", node.machine.subnet());
    let work = format!("ping -s 1000 -i 0.05 {gateway} >/dev/null & while :; do :; done");
    let again = |config: &mut api::v1::ContainerConfig| config.metadata.as_mut().unwrap().attempt = 2;
    pod.container("burns").sh(&work).with(again).start();
    apart("asleep").container("sleeps").idle().start();
    node
}

#[test]
fn top_shows_what_pods_use_through_a_pipe() {
    let node = busy();
    let json = node.gantline(&["top", "--once", "--output", "json"]).ok();
    assert_eq!(json.lines().count(), 1, "{json}");
    let shown: Value = serde_json::from_str(&json).expect("JSON");
    let (first, second) = (&shown["pods"][0], &shown["pods"][1]);
    assert_eq!((&first["name"], &second["name"]), (&json!("busy"), &json!("asleep")), "by CPU: {shown:#}");
    assert_eq!(first["restarts"], 2);
    assert_eq!((&first["containers"], &first["containers_running"]), (&json!(1), &json!(1)));
    // Another process of a busy machine may take the other half.
    let cores = first["cpu_cores"].as_f64().unwrap();
    assert!((0.1..2.5).contains(&cores), "{shown:#}");
    assert!(second["cpu_cores"].as_f64().unwrap() < 0.1, "{shown:#}");
    assert!(first["memory_bytes"].as_u64().unwrap() > 10_000, "{shown:#}");
    for rate in ["receive_bytes_per_second", "transmit_bytes_per_second"] {
        assert!(first[rate].as_f64().unwrap() > 1000.0, "{shown:#}");
    }

    let text = node.gantline(&["top", "-n", "2", "--interval", "1", "--sort", "name"]).ok();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let named: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let pods: Vec<_> = named.iter().filter(|word| word.starts_with("default/")).collect();
    assert_eq!(pods, [&"default/asleep", &"default/busy", &"default/asleep", &"default/busy"], "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("POD ")).count(), 2, "{text}");
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn top_ends_quietly_when_its_reader_goes_away() {
    let node = Node::start();
    let mut command = node.gantline_command(&["top", "--interval", "1"]);
    let mut top = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(top.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("0 pods"), "{line}");
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = top.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < patient(Duration::from_secs(10)), "it goes on for nobody");
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut complaint = String::new();
    top.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert!(status.success() && complaint.is_empty(), "{status}: {complaint}");
    node.leaves_nothing();
}

/// The frames that were painted, each as the lines of the screen.
fn frames(painted: &str) -> Vec<Vec<String>> {
    let frame = |text: &str| {
        let text = text.split("\u{1b}[J").next().unwrap_or_default();
        text.split("\r\n").map(|line| line.trim_end_matches("\u{1b}[K").to_owned()).collect()
    };
    painted.split("\u{1b}[H").skip(1).map(frame).collect()
}

#[test]
fn top_is_live_on_a_terminal_and_gives_it_back() {
    let node = busy();
    let mut command = node.gantline_command(&["top", "--interval", "1"]);
    let mut top = Terminal::start(&mut command, 80, 12);
    let painted = top.shows("a second frame", |painted| frames(painted).len() >= 3).to_owned();
    assert!(painted.starts_with("\u{1b}[?1049h\u{1b}[?25l"), "{painted:?}");
    let is_first = |frame: &[String], name: &str| frame.get(2).is_some_and(|line| line.starts_with(name));
    let of = frames(&painted);
    for frame in &of[..of.len() - 1] {
        assert_eq!(frame.len(), 12, "{frame:?}");
        for line in frame {
            assert!(line.chars().count() <= 80 && !line.contains('\u{1b}'), "{line:?}");
        }
    }
    assert!(is_first(&of[1], "default/busy"), "{:?}", of[1]);
    assert!(!top.settings().local_modes.contains(rustix::termios::LocalModes::ECHO), "keys are not echoed");
    top.press('n');
    top.shows("another order", |painted| {
        frames(painted)
            .iter()
            .any(|frame| is_first(frame, "default/asleep") && frame[11].starts_with("by name"))
    });
    top.press('q');
    let (well, painted) = top.end();
    assert!(well && painted.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{painted:?}");
    assert!(top.settings().local_modes.contains(rustix::termios::LocalModes::ECHO), "as it was before");
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn a_service_that_stops_under_top_is_a_line_not_a_broken_terminal() {
    let node = Node::start();
    let mut top = Terminal::start(&mut node.gantline_command(&["top", "--interval", "1"]), 80, 24);
    top.shows("a frame", |painted| frames(painted).len() >= 2);
    node.kill9();
    let (well, painted) = top.end();
    assert!(!well, "{painted:?}");
    let after = painted.rsplit("\u{1b}[?1049l").next().unwrap();
    assert!(after.contains("no service answers"), "{after:?}");
    node.start_service();
    eventually("it serves again", Duration::from_secs(10), || node.runtime_ready());
    node.leaves_nothing();
}
