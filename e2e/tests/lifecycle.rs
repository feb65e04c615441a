//! A container's life in the order that nobody likes: stopped with other signals, removed while it runs, started twice.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use api::v1::{self, ContainerState, Signal};
use e2e::{Node, image, patient};
use serde_json::json;
use tonic::Code;

#[test]
fn the_signal_that_stops_is_the_requests_then_the_images_then_sigterm() {
    let node = Node::start();
    let pod = node.pod("signals").run();
    let stopped_by = |name: &str, of_image: Option<&str>, asked: Signal| {
        let mut config = json!({ "Env": ["PATH=/bin"] });
        if let Some(signal) = of_image {
            config["StopSignal"] = json!(signal);
        }
        let built = image::busybox_builder().config(config).build();
        let reference = node.push(&built, &format!("stops:{name}"));
        let traps: String = ["HUP", "USR1", "USR2", "TERM", "37", "50"]
            .map(|signal| format!("trap 'echo got {signal}; exit 0' {signal}; "))
            .concat();
        let line = format!("{traps} echo ready; while :; do sleep 0.05; done");
        let container = pod.container(name).image(&reference).sh(&line);
        let container = container.with(|config| config.stop_signal = asked.into()).start();
        container.logs("ready");
        let told = container.status().stop_signal();
        container.stop(30);
        assert_eq!(container.status().exit_code, 0, "{name}: {}", container.log().text());
        let said = container.log().text();
        (told, said.lines().last().unwrap().trim_start_matches("got ").to_owned())
    };
    let default = Signal::RuntimeDefault;
    for (name, of_image, asked, told, got) in [
        ("none", None, default, Signal::Sigterm, "TERM"),
        ("image", Some("SIGUSR1"), default, Signal::Sigusr1, "USR1"),
        ("bare", Some("hup"), default, Signal::Sighup, "HUP"),
        ("number", Some("12"), default, Signal::Sigusr2, "USR2"),
        ("realtime", Some("SIGRTMIN+3"), default, Signal::Sigrtminplus3, "37"),
        ("request", Some("SIGUSR1"), Signal::Sigusr2, Signal::Sigusr2, "USR2"),
        ("last", None, Signal::Sigrtmaxminus14, Signal::Sigrtmaxminus14, "50"),
    ] {
        assert_eq!(stopped_by(name, of_image, asked), (told, got.to_owned()), "{name}");
    }

    let built = image::busybox_builder().config(json!({ "StopSignal": "SIGNOTHING" })).build();
    let reference = node.push(&built, "stops:wrong");
    node.pull(&reference);
    let refused = pod.container("wrong").image(&reference).idle().try_create().expect_err("no such signal");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("SIGNOTHING"), "{refused}");
    let line = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let container = pod.container("asked").image(&reference).sh(line);
    let container = container.with(|config| config.stop_signal = Signal::Sigterm.into()).start();
    container.logs("ready");
    container.stop(30);
    assert_eq!(container.status().exit_code, 0, "the request's signal was asked for, not the image's");
    let refused = pod.container("unknown").idle().with(|config| config.stop_signal = 66).try_create();
    let refused = refused.expect_err("no such signal");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("config.stop_signal: "), "{refused}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_second_stop_can_shorten_the_grace_and_not_lengthen_it() {
    let node = Node::start();
    let pod = node.pod("grace").run();
    let deaf = |name: &str| {
        let container = pod.container(name).sh("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        let container = container.start();
        container.logs("ready");
        container
    };
    let [shortened, lengthened, removed] = ["shortened", "lengthened", "removed"].map(deaf);
    let stop = |container: &e2e::Container<'_>, grace| {
        let begun = Instant::now();
        container.stop(grace);
        begun.elapsed()
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| stop(&shortened, 60));
        std::thread::sleep(Duration::from_millis(300));
        assert!(stop(&shortened, 1) < patient(Duration::from_secs(15)));
        assert!(
            first.join().unwrap() < patient(Duration::from_secs(20)),
            "the first is answered with the second"
        );
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| stop(&lengthened, 2));
        std::thread::sleep(Duration::from_millis(300));
        assert!(stop(&lengthened, 60) < patient(Duration::from_secs(20)), "the sooner end counts");
        first.join().unwrap();
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| removed.try_stop(60));
        std::thread::sleep(Duration::from_millis(300));
        removed.remove();
        first.join().unwrap().expect("it has stopped, as was asked");
    });
    assert_eq!(shortened.status().exit_code, 137);
    assert_eq!(removed.try_status().expect_err("it is gone").code(), Code::NotFound);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_container_that_runs_is_removed_and_its_log_stays() {
    let node = Node::start();
    let pod = node.pod("removed").run();
    let container = pod.container("c").sh("trap '' TERM; echo here; while :; do sleep 0.05; done").start();
    container.logs("here");
    let pid = container.pid();
    let begun = Instant::now();
    container.remove();
    assert!(begun.elapsed() < patient(Duration::from_secs(15)), "nobody waits for a grace");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "its process is gone with the answer");
    assert_eq!(container.try_status().expect_err("it is gone").code(), Code::NotFound);
    assert_eq!(container.log().text(), "here\n", "logs are the kubelet's to remove");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_container_that_was_never_started_is_stopped_and_removed() {
    let node = Node::start();
    let pod = node.pod("never").run();
    let never = pod.container("never").idle().create();
    never.stop(10);
    let status = never.status();
    assert_eq!(status.state(), ContainerState::ContainerCreated, "there was nothing to stop");
    assert_eq!((status.started_at, status.finished_at, status.reason.as_str()), (0, 0, ""));
    node.restart();
    assert_eq!(never.status().state(), ContainerState::ContainerCreated);
    never.remove();
    let other = pod.container("other").idle().create();
    pod.stop();
    assert_eq!(other.status().state(), ContainerState::ContainerCreated);
    let refused = other.try_start().expect_err("its pod is stopped");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_container_starts_once_and_only_from_created() {
    let node = Node::start();
    let pod = node.pod("twice").run();
    let container = pod.container("c").idle().start();
    let again = |state: &str| {
        let refused = container.try_start().expect_err(state);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(state), "{refused}");
    };
    again("running");
    assert!(container.is_running(), "a refusal changes nothing");
    container.stop(0);
    let ended = container.status();
    again("exited");
    assert_eq!(container.status(), ended);
    container.remove();
    assert_eq!(container.try_start().expect_err("it is gone").code(), Code::NotFound);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_container_is_made_for_the_sandbox_that_it_names() {
    let node = Node::start();
    let pod = node.pod("named").run();
    node.pull(&node.busybox());
    let mut request = pod.container("c").idle().request();
    let again = request.sandbox_config.as_mut().unwrap();
    again.metadata.as_mut().unwrap().uid = "another".into();
    let refused = node.cri().create_container(request.clone()).expect_err("of another pod");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().starts_with("sandbox_config.metadata: "), "{refused}");
    request.sandbox_config.as_mut().unwrap().metadata = None;
    let refused = node.cri().create_container(request.clone()).expect_err("of no pod");
    assert_eq!(refused.message(), "sandbox_config.metadata: is missing");
    assert!(node.containers().is_empty());

    // A kubelet that was configured anew puts logs elsewhere, also those of pods that it finds.
    let elsewhere = node.config.logs.join("elsewhere").display().to_string();
    request.sandbox_config =
        Some(v1::PodSandboxConfig { log_directory: elsewhere.clone(), ..pod.config.clone() });
    let id = node.cri().create_container(request).unwrap().container_id;
    let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
    let status = node.cri().container_status(request).unwrap().status.unwrap();
    assert_eq!(status.log_path, format!("{elsewhere}/c/0.log"));
    pod.remove();
    node.leaves_nothing();
}
