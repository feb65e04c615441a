//! The same request again is the same pod: never a second one, never "name is reserved".
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::Duration;

use api::v1;
use e2e::{Machine, Node, NodeBuilder, eventually, plugin};

/// A node whose bridge takes a second, so that requests meet each other on the way.
/// The file that the slow bridge makes when it begins to add.
fn adding(machine: &Machine) -> PathBuf {
    machine.dir().join("adding")
}

fn slow() -> NodeBuilder {
    Node::builder().with(|config, machine| {
        let dir = machine.dir().join("plugins");
        let mark = adding(machine);
        let body = format!(
            "[ \"$CNI_COMMAND\" = ADD ] && : >{} && sleep 1\nexec /usr/lib/cni/bridge",
            mark.display()
        );
        plugin::script(&dir, "bridge", &body);
        config.cni_bins.insert(0, dir);
    })
}

#[test]
fn a_retry_of_a_pod_gets_the_same_id_and_another_request_does_not() {
    let node = Node::start();
    let builder = node.pod("once");
    let pod = builder.clone().run();
    assert_eq!(builder.clone().run().id, pod.id);
    let other = builder
        .clone()
        .with(|config| config.hostname = "another".into())
        .try_run()
        .expect_err("not the same");
    assert_eq!(other.code(), tonic::Code::AlreadyExists, "{other}");
    let next = builder.with(|config| config.metadata.as_mut().unwrap().attempt = 1).run();
    assert_ne!(next.id, pod.id, "the next attempt is a pod of its own");
    assert_eq!(node.pods().len(), 2);
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn a_retry_of_a_container_gets_the_same_id_and_another_request_does_not() {
    let node = Node::start();
    let pod = node.pod("p").run();
    let builder = pod.container("once").idle();
    let container = builder.clone().create();
    assert_eq!(builder.clone().create().id, container.id);
    let other = builder.clone().sh("echo other").try_create().expect_err("not the same");
    assert_eq!(other.code(), tonic::Code::AlreadyExists, "{other}");
    container.remove();
    assert_ne!(builder.create().id, container.id, "once removed the name is free");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn requests_that_meet_on_the_way_join() {
    let node = slow().start();
    let builder = node.pod("joined");
    let ids = std::thread::scope(|scope| {
        let runs = [(); 4].map(|()| scope.spawn(|| builder.clone().run().id));
        runs.map(|run| run.join().expect("a run"))
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(node.pods().len(), 1);
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn a_client_that_hangs_up_aborts_nothing() {
    let node = slow().start();
    let builder = node.pod("abandoned");
    let mut client = node.cri().raw();
    let request = builder.request();
    e2e::cri::runtime().block_on(async {
        let given_up =
            tokio::time::timeout(Duration::from_millis(300), client.run_pod_sandbox(request)).await;
        assert!(given_up.is_err(), "the bridge takes a second: {given_up:?}");
    });
    let pod = builder.run();
    assert!(pod.is_ready());
    assert_eq!(node.pods().len(), 1);
    pod.remove();

    // Nobody comes back: it is ready all the same, and listed for whoever cleans up.
    let builder = node.pod("forgotten");
    let request = builder.request();
    let mut client = node.cri().raw();
    let mark = adding(&node.machine);
    std::fs::remove_file(&mark).unwrap();
    let asked = e2e::cri::runtime().spawn(async move { client.run_pod_sandbox(request).await.map(drop) });
    eventually("the bridge is asked", Duration::from_secs(10), || {
        if mark.exists() { Ok(()) } else { Err("not yet".into()) }
    });
    asked.abort();
    eventually("the pod is there", Duration::from_secs(10), || {
        let ready = node.pods().iter().any(|pod| pod.state() == v1::PodSandboxState::SandboxReady);
        ready.then_some(()).ok_or_else(|| format!("{:?}", node.pods()))
    });
    node.remove_all_pods();
    node.leaves_nothing();
}

#[test]
fn removing_while_others_remove_succeeds_for_all() {
    let node = Node::start();
    let pod = node.pod("contested").run();
    pod.container("c").idle().start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pod.remove());
        }
    });
    assert!(node.pods().is_empty());
    node.leaves_nothing();
}
