//! Looking at a node: events, metrics, and the service's own commands.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use api::v1::{ContainerEventType, GetEventsRequest};
use e2e::command::Running;
use e2e::{Node, eventually, patient};

#[test]
fn events_come_in_order_with_their_statuses() {
    let node = Node::start();
    node.pull(&node.busybox());
    let mut client = node.cri().raw();
    let request = GetEventsRequest::default();
    let mut stream = e2e::cri::runtime().block_on(client.get_container_events(request)).unwrap().into_inner();
    let pod = node.pod("watched").run();
    let container = pod.container("c").sh("exit 3").start();
    container.exit();
    container.remove();
    pod.remove();

    let mut seen: BTreeMap<String, Vec<ContainerEventType>> = BTreeMap::new();
    let wants_more = |seen: &BTreeMap<String, Vec<_>>| {
        let deleted = |id: &String| {
            seen.get(id).is_some_and(|of| of.contains(&ContainerEventType::ContainerDeletedEvent))
        };
        !(deleted(&pod.id) && deleted(&container.id))
    };
    while wants_more(&seen) {
        let next = e2e::cri::runtime()
            .block_on(async {
                tokio::time::timeout(patient(Duration::from_secs(10)), stream.message()).await
            })
            .unwrap_or_else(|_| panic!("no more events after {seen:?}"));
        let event = next.unwrap().expect("the stream goes on");
        assert!(event.created_at > 0);
        if let Some(status) = &event.pod_sandbox_status {
            assert_eq!(status.id, pod.id);
        }
        seen.entry(event.container_id.clone()).or_default().push(event.container_event_type());
    }
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
        ContainerStoppedEvent as Stopped,
    };
    assert_eq!(seen[&container.id], [Created, Started, Stopped, Deleted]);
    assert_eq!(seen[&pod.id], [Created, Started, Stopped, Deleted]);
    node.leaves_nothing();
}

#[test]
fn a_pull_says_in_the_log_whose_it_is() {
    let node = Node::start();
    let request = api::v1::PullImageRequest {
        // Nobody listens there: that is worth a line of the log.
        image: Some(e2e::cri::image_spec("127.0.0.1:9/no/such:1")),
        sandbox_config: Some(node.pod("puller").config),
        ..Default::default()
    };
    node.cri().pull_image(request).expect_err("no such registry");
    let log = node.service_log();
    let line = log.lines().find(|line| line.contains("PullImage") && line.contains("no/such:1"));
    let line = line.unwrap_or_else(|| panic!("no line of the pull in {log}"));
    assert!(line.contains("puller"), "{line}");
}

#[test]
fn metrics_count_what_was_asked_and_what_failed() {
    let node = Node::builder().with_metrics().start();
    node.pod("measured").run().remove();
    node.pod("wrong").with(|config| config.metadata = None).try_run().expect_err("no metadata");
    let metrics = node.metrics();
    let lines =
        |words: &[&str]| metrics.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    assert!(metrics.lines().any(|line| line.starts_with("gantline_")), "{metrics}");
    assert!(lines(&["RunPodSandbox", "count"]) >= 2, "one series that is well, one that is not:\n{metrics}");
    assert!(lines(&["cni_add"]) > 0, "stages are measured:\n{metrics}");
}

#[test]
fn the_services_own_commands_tell_what_is() {
    let node = Node::start();
    let version = node.cri().version(Default::default()).unwrap();
    assert!(node.gantline(&["version"]).ok().contains(&version.runtime_version));
    node.gantline(&["config", "check"]).ok();
    assert!(node.gantline(&["config", "dump"]).ok().contains(&node.config.root.display().to_string()));
    node.pod("seen").run();
    let status = node.gantline(&["status"]).ok();
    assert!(!status.trim().is_empty());
    let pulled = node.gantline(&["pull", &node.busybox()]).ok();
    assert!(pulled.contains("sha256:"), "{pulled}");
    let refused = node.gantline(&["pull", &e2e::Registry::reference("no/such:1")]).fails();
    assert!(refused.contains("no/such"), "{refused}");
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn why_tells_what_ended_and_what_failed() {
    let node = Node::start();
    node.pull(&node.busybox());
    let pod = node.pod("told").run();
    let ended = pod.container("ended").sh("exit 3").start();
    ended.exit();
    let broken = pod.container("broken").command(&["/no/such/program"]).create();
    broken.try_start().expect_err("there is no such program");
    for name in ["told", &pod.id[..12]] {
        // The answer to a start that failed does not wait until its container is cleared away.
        let told = eventually("the pod waits for nothing", Duration::from_secs(10), || {
            let told = node.gantline(&["why", name]).ok();
            if told.contains("waits for nothing") { Ok(told) } else { Err(told) }
        });
        for words in ["told: ready", "exited 3 (Error)", "failed", "start broken", "/no/such/program"] {
            assert!(told.contains(words), "{words:?} is not in\n{told}");
        }
    }
    let json = node.gantline(&["why", "told", "--output", "json"]).ok();
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(told[0]["id"], pod.id);
    assert_eq!(told[0]["troubles"][0]["what"], "start");
    assert!(node.gantline(&["why", "nobody"]).fails().contains("nobody"));
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn events_are_told_after_the_fact_and_as_they_come() {
    let node = Node::start();
    node.pull(&node.busybox());
    let pod = node.pod("told").run();
    pod.container("c").sh("exit 3").start().exit();
    let kinds = |text: &str| -> Vec<String> {
        let line = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
        text.lines().map(line).collect()
    };
    let past = node.gantline(&["events"]).ok();
    assert_eq!(kinds(&past), ["created", "started", "created", "started", "stopped"], "{past}");
    assert!(past.contains("told c  exit 3 (Error)"), "{past}");

    let mut command = node.gantline_command(&["events", "-f", "--output", "json"]);
    let mut follower = Running::start(command.stdout(std::process::Stdio::piped()));
    let lines = std::io::BufRead::lines(std::io::BufReader::new(follower.child().stdout.take().unwrap()));
    let mut lines = lines.map(|line| -> serde_json::Value { serde_json::from_str(&line.unwrap()).unwrap() });
    for _ in 0..5 {
        lines.next().unwrap();
    }
    pod.remove();
    let next: Vec<_> = lines.by_ref().take(3).collect();
    follower.kill();
    let kinds: Vec<_> = next.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["stopped", "deleted", "deleted"], "{next:?}");
    assert_eq!(next[2]["id"], pod.id);
    node.leaves_nothing();
}
