//! Images mounted as volumes, and the volumes that images ask for.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use api::v1;
use e2e::cri::image_spec;
use e2e::image::{Builder, Tree};
use e2e::programs::tool;
use e2e::random::Random;
use e2e::{ContainerBuilder, Node, Registry};
use tonic::Code;

/// A node with both runtimes.
fn node() -> Node {
    Node::builder().with(|config, _| config.runtimes.push(("runc".into(), tool("runc")))).start()
}

/// Two layers of data: what the upper one says, and a program.
fn models() -> Builder {
    let lower =
        Tree::default().dir("models", 0o755).file("models/a", 0o644, b"old\n").file("top", 0o644, b"top\n");
    let upper = Tree::default()
        .file("models/a", 0o644, b"new\n")
        .file("run.sh", 0o4755, b"#!/bin/sh\necho ran\n")
        .symlink("latest", "/models")
        .symlink("out", "../../../../etc");
    Builder::default().layer(lower).layer(upper)
}

fn image_mount(reference: &str, at: &str, sub: &str) -> v1::Mount {
    v1::Mount {
        container_path: at.into(),
        image: Some(image_spec(reference)),
        image_sub_path: sub.into(),
        readonly: true,
        ..Default::default()
    }
}

fn mounting<'n>(container: ContainerBuilder<'n>, mounts: Vec<v1::Mount>) -> ContainerBuilder<'n> {
    container.idle().with(|config| config.mounts = mounts)
}

/// Layer directories of the node's image store.
fn layers(node: &Node) -> usize {
    std::fs::read_dir(node.config.root.join("image/layers")).unwrap().count()
}

fn views(node: &Node) -> usize {
    let table = node.machine.sh("cat /proc/self/mountinfo");
    let pods = node.config.state.join("pods");
    table.lines().filter(|line| line.contains(pods.to_str().unwrap()) && line.contains("/images/")).count()
}

#[test]
fn an_image_is_a_read_only_volume_of_the_pod() {
    let node = node();
    node.pull(&node.busybox());
    let before = layers(&node);
    let reference = node.push(&models().build(), "models:1");
    node.pull(&reference);
    for handler in ["crun", "runc"] {
        let pod = node.pod("volumes").handler(handler).run();
        let whole = image_mount(&reference, "/whole", "");
        let part = image_mount(&reference, "/part", "models");
        let linked = image_mount(&reference, "/linked", "latest");
        let one = mounting(pod.container("one"), vec![whole.clone(), part.clone(), linked]).start();
        let two = mounting(pod.container("two"), vec![whole.clone()]).start();
        assert_eq!(views(&node), 1, "one view for the pod");
        assert_eq!(one.sh("cat /whole/models/a /whole/top /part/a /linked/a"), "new\ntop\nnew\nnew\n");
        assert_eq!(two.sh("cat /whole/models/a"), "new\n");
        let options = one.sh("grep ' /whole ' /proc/self/mountinfo | cut -d ' ' -f 6");
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(
                options.trim().split(',').any(|o| o == option),
                "{handler}: {option} is not in {options}"
            );
        }
        let refused = one.try_exec(&["/whole/run.sh"], 10);
        let ran = refused.as_ref().is_ok_and(|answer| answer.exit_code == 0);
        assert!(!ran, "{handler}: a program of an image volume runs: {refused:?}");
        let written = one.try_exec(&["sh", "-c", "echo x > /whole/top"], 10).unwrap();
        assert!(String::from_utf8_lossy(&written.stderr).contains("Read-only"), "{written:?}");

        let told = one.status().mounts;
        let told = told.iter().find(|mount| mount.container_path == "/part").unwrap();
        assert_eq!((told.image_sub_path.as_str(), told.host_path.as_str()), ("models", ""));
        assert_eq!(told.image.as_ref().unwrap().image, reference);

        node.restart();
        assert_eq!(one.sh("cat /whole/models/a"), "new\n", "it outlives the service");
        let later = mounting(pod.container("later"), vec![part]).start();
        assert_eq!(later.sh("cat /part/a"), "new\n");
        assert_eq!(views(&node), 1, "the same view after a restart");

        pod.stop();
        assert_eq!(views(&node), 0, "unmounted when the pod is stopped");
        pod.remove();
    }

    let pod = node.pod("holds").run();
    let holder = mounting(pod.container("c"), vec![image_mount(&reference, "/v", "")]).start();
    node.remove_image(&reference);
    assert_eq!(holder.sh("cat /v/models/a"), "new\n", "an image that is mounted stays on disk");
    assert!(layers(&node) > before);
    let absent = mounting(pod.container("absent"), vec![image_mount(&reference, "/v", "")]);
    let refused = absent.try_create().expect_err("the image was removed");
    assert_eq!(refused.code(), Code::Unknown);
    assert!(refused.message().starts_with("ImageVolumeMountFailed: config.mounts[0].image: "), "{refused}");
    pod.remove();
    assert_eq!(layers(&node), before, "and goes with the pod");
    node.leaves_nothing();
}

#[test]
fn what_no_image_volume_can_be_is_refused_with_the_kubelets_word() {
    let node = Node::start();
    let reference = node.push(&models().build(), "models:1");
    node.pull(&reference);
    node.pull(&node.busybox());
    let pod = node.pod("refused").run();
    let ask = |name: &str, mount: v1::Mount| {
        mounting(pod.container(name), vec![mount]).try_create().expect_err("it cannot be")
    };
    let absent = Registry::reference("nowhere:1");
    for (name, mount, expect) in [
        (
            "absent",
            image_mount(&absent, "/v", ""),
            format!("image: {absent:?} is not on this node: pull it first"),
        ),
        (
            "sub",
            image_mount(&reference, "/v", "no/such"),
            format!("image_sub_path: sub path \"no/such\" does not exist in image volume {reference:?}"),
        ),
        (
            "file",
            image_mount(&reference, "/v", "top"),
            format!("image_sub_path: sub path \"top\" of image volume {reference:?} is not a directory"),
        ),
        (
            "escape",
            image_mount(&reference, "/v", "out"),
            format!("image_sub_path: sub path \"out\" does not exist in image volume {reference:?}"),
        ),
    ] {
        let refused = ask(name, mount);
        assert_eq!(refused.code(), Code::Unknown, "{refused}");
        assert_eq!(refused.message(), format!("ImageVolumeMountFailed: config.mounts[0].{expect}"));
    }
    let host = v1::Mount { host_path: "/tmp".into(), ..image_mount(&reference, "/v", "") };
    let refused = ask("both", host);
    assert_eq!(
        (refused.code(), refused.message().contains("mounts[0].host_path")),
        (Code::InvalidArgument, true)
    );
    let shared = v1::MountPropagation::PropagationBidirectional.into();
    let refused = ask("shared", v1::Mount { propagation: shared, ..image_mount(&reference, "/v", "") });
    assert_eq!(
        (refused.code(), refused.message().contains("mounts[0].propagation")),
        (Code::InvalidArgument, true)
    );
    assert!(node.containers().is_empty(), "a refused container is none");
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_kill_while_an_image_volume_is_made_leaves_nothing() {
    let mut random = Random::seeded();
    let node = Node::start();
    node.pull(&node.busybox());
    let before = layers(&node);
    let reference = node.push(&models().build(), "models:1");
    for round in 0..8 {
        node.pull(&reference);
        let pod = node.pod("killed").run();
        let request = mounting(pod.container("c"), vec![image_mount(&reference, "/v", "models")]).request();
        let moment = random.below(12_000);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(node.cri().create_container(request)));
            std::thread::sleep(Duration::from_micros(moment));
            node.kill9();
        });
        node.start_service();
        pod.remove();
        node.remove_image(&reference);
        assert_eq!(layers(&node), before, "round {round}: a lease is left");
        assert_eq!(views(&node), 0, "round {round}");
    }
    assert!(!Path::new(&node.config.state).join("pods/images").exists());
    node.leaves_nothing();
}
