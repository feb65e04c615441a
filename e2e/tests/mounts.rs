//! Mounts of host paths, the volumes of images, and devices, on each runtime.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use api::v1::{self, MountPropagation};
use e2e::command::Running;
use e2e::image::{self, Tree};
use e2e::programs::tool;
use e2e::{Container, ContainerBuilder, Node, NodeBuilder, Pod};
use serde_json::json;
use tonic::Code;

const RUNTIMES: [&str; 2] = ["crun", "runc"];

fn builder() -> NodeBuilder {
    Node::builder().with(|config, _| config.runtimes.push(("runc".into(), tool("runc"))))
}

fn bind(at: &str, host: impl Into<PathBuf>) -> v1::Mount {
    v1::Mount {
        container_path: at.into(),
        host_path: host.into().display().to_string(),
        ..Default::default()
    }
}

fn idle<'n>(pod: &Pod<'n>, name: &str, mounts: Vec<v1::Mount>) -> ContainerBuilder<'n> {
    pod.container(name).idle().with(|config| config.mounts = mounts)
}

/// The per-mount options at a path of the container's, as the kernel has them.
fn options(container: &Container<'_>, at: &str) -> Vec<String> {
    let line = container.sh(&format!("grep ' {at} ' /proc/self/mountinfo | tail -n 1 | cut -d ' ' -f 6"));
    line.trim().split(',').map(str::to_owned).collect()
}

#[track_caller]
fn refused(container: ContainerBuilder<'_>, code: Code, words: &str) {
    let refused = container.try_create().expect_err(words);
    assert_eq!(refused.code(), code, "{refused}");
    assert!(refused.message().contains(words), "{words:?} is not in {:?}", refused.message());
}

#[test]
fn mount_options_and_those_of_the_source_are_in_force() {
    let node = builder().start();
    let dir = node.machine.dir().join("options");
    let at = dir.display();
    node.machine.sh(&format!("mkdir {at} && mount -t tmpfs -o nosuid,noexec tmpfs {at}"));
    let plain = node.machine.dir().join("plain");
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(plain.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    for handler in RUNTIMES {
        let pod = node.pod("options").handler(handler).run();
        let asked =
            v1::Mount { mount_options: vec!["noexec".into(), "nodev".into()], ..bind("/asked", &plain) };
        let mounts = vec![
            asked,
            bind("/plain", &plain),
            bind("/kept", &dir),
            v1::Mount { readonly: true, ..bind("/read", &dir) },
            v1::Mount { mount_options: vec!["nodev".into()], ..bind("/more", &dir) },
        ];
        let container = idle(&pod, "c", mounts).start();
        assert_eq!(container.sh("/plain/run"), "ran\n");
        let ran = container.try_exec(&["/asked/run"], 10);
        assert!(!ran.as_ref().is_ok_and(|ran| ran.exit_code == 0), "{handler}: {ran:?}");
        for (path, wanted, unwanted) in [
            ("/asked", vec!["noexec", "nodev", "rw"], vec!["nosuid"]),
            ("/plain", vec!["rw"], vec!["noexec", "nodev", "nosuid"]),
            ("/kept", vec!["nosuid", "noexec", "rw"], vec!["nodev"]),
            ("/read", vec!["nosuid", "noexec", "ro"], vec!["nodev"]),
            ("/more", vec!["nosuid", "noexec", "nodev", "rw"], vec![]),
        ] {
            let found = options(&container, path);
            let has = |option: &&str| found.iter().any(|o| o == option);
            assert!(wanted.iter().all(has) && !unwanted.iter().any(has), "{handler} {path}: {found:?}");
        }
        let told = container.status().mounts;
        assert_eq!(told[0].mount_options, ["noexec", "nodev"]);
        let suid = v1::Mount { mount_options: vec!["suid".into()], ..bind("/x", &plain) };
        refused(idle(&pod, "bad", vec![suid]), Code::InvalidArgument, "config.mounts[0].mount_options");
        pod.remove();
    }
    let status = node.cri().status(v1::StatusRequest::default()).unwrap();
    assert!(status.features.unwrap().mount_options, "Status says so");
    node.machine.sh(&format!("umount {at}"));
    node.leaves_nothing();
}

#[test]
fn propagation_needs_a_mount_that_propagates() {
    let node = builder().start();
    node.pull(&node.busybox());
    let dir = node.machine.dir().join("volume");
    let at = dir.display();
    node.machine.sh(&format!("mkdir {at} && mount -t tmpfs tmpfs {at} && mount --make-private {at}"));
    for handler in RUNTIMES {
        let pod = node
            .pod("propagation")
            .handler(handler)
            .with(|config| {
                let linux = config.linux.get_or_insert_default();
                linux.security_context.get_or_insert_default().privileged = true;
            })
            .run();
        let ask = |name: &str, propagation: MountPropagation| {
            let mount = v1::Mount { propagation: propagation.into(), ..bind("/v", &dir) };
            idle(&pod, name, vec![mount]).security(|context| context.privileged = true)
        };
        let (down, both) =
            (MountPropagation::PropagationHostToContainer, MountPropagation::PropagationBidirectional);
        node.machine.sh(&format!("mount --make-private {at}"));
        let words = |kind: &str| format!("path {dir:?} is mounted on {dir:?} but it is not a {kind} mount");
        refused(ask("down", down), Code::InvalidArgument, &words("shared or slave"));
        refused(ask("both", both), Code::InvalidArgument, &words("shared"));
        node.machine.sh(&format!("mount --make-shared {at}"));
        let container = ask("both", both).start();
        container.sh("mkdir -p /v/made && mount -t tmpfs tmpfs /v/made && echo up > /v/made/file");
        assert_eq!(node.machine.sh(&format!("cat {at}/made/file")), "up\n", "{handler}");
        node.machine.sh(&format!("umount {at}/made"));
        let gone = container.try_exec(&["cat", "/v/made/file"], 10).unwrap();
        assert_ne!(gone.exit_code, 0, "{handler}: an unmount reaches it");
        pod.remove();
    }
    node.machine.sh(&format!("umount {at}"));
    node.leaves_nothing();
}

#[test]
fn sources_and_destinations_are_resolved_where_they_belong() {
    let node = builder()
        .with(|config, machine| {
            let must = machine.dir().join("must-exist");
            config.pods += &format!("absent_mount_sources_to_reject = [{must:?}]\n");
        })
        .start();
    let built = image::busybox_builder().layer(
        Tree::default()
            .dir("real", 0o755)
            .symlink("absolute", "/real")
            .symlink("climbing", "../../../../real"),
    );
    let reference = node.push(&built.build(), "links:1");
    node.pull(&node.busybox());
    let dir = node.machine.dir().join("sources");
    fs::create_dir_all(dir.join("data")).unwrap();
    fs::write(dir.join("data/file"), "data\n").unwrap();
    std::os::unix::fs::symlink(dir.join("data"), dir.join("link")).unwrap();
    std::os::unix::fs::symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
    for handler in RUNTIMES {
        let pod = node.pod("links").handler(handler).run();
        let mounts = vec![
            bind("/followed", dir.join("link")),
            bind("/absolute/in", dir.join("data")),
            bind("/climbing/in2", dir.join("data")),
        ];
        let container = idle(&pod, "c", mounts).image(&reference).start();
        assert_eq!(
            container.sh(
                "cat /followed/file /real/in/file /real/in2/file; grep -c ' /real/in' /proc/self/mountinfo"
            ),
            "data\ndata\ndata\n2\n"
        );
        assert!(!PathBuf::from("/real").exists(), "nothing escapes to the host");
        let nested = vec![bind("/a/b", dir.join("data")), bind("/a", dir.join("link"))];
        let nested = idle(&pod, "nested", nested).start();
        assert_eq!(nested.sh("cat /a/b/file /a/file"), "data\ndata\n", "parents are mounted first");

        refused(
            idle(&pod, "root", vec![bind("/", &dir)]),
            Code::InvalidArgument,
            "config.mounts[0].container_path",
        );
        let dangling = idle(&pod, "dangling", vec![bind("/x", dir.join("dangling"))]);
        refused(dangling, Code::InvalidArgument, "mounts[0].host_path: resolve ");
        let must = node.machine.dir().join("must-exist");
        let words = "does not exist, and this node makes no directory of it";
        refused(idle(&pod, "must", vec![bind("/x", &must)]), Code::InvalidArgument, words);
        assert!(!must.exists());

        // All of /dev from the host: nothing of ours is mounted on it.
        let dev = idle(&pod, "dev", vec![bind("/dev", "/dev")]).start();
        let table = dev.sh("grep ' /dev' /proc/self/mountinfo | cut -d ' ' -f 5");
        assert!(table.lines().any(|at| at == "/dev"), "{table}");
        assert!(dev.sh("ls /dev").lines().any(|name| name == "fuse"), "the host's devices");
        pod.remove();
    }
    node.leaves_nothing();
}

#[test]
fn a_source_on_a_dead_file_system_fails_in_time_and_holds_nobody_up() {
    let node = builder().start();
    let dead = node.machine.dir().join("dead");
    fs::create_dir(&dead).unwrap();
    // A FUSE file system whose program reads what it is asked, and never answers.
    let line = format!(
        "exec 9<>/dev/fuse && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 dead {} && echo up && \
         exec cat <&9 >/dev/null",
        dead.display()
    );
    let mut daemon = node.machine.command("/bin/sh");
    let mut daemon = Running::start(daemon.args(["-c", &line]).stdout(Stdio::piped()));
    let mut word = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(daemon.child().stdout.take().unwrap()),
        &mut word,
    )
    .unwrap();
    assert_eq!(word, "up\n");

    node.pull(&node.busybox());
    let pod = node.pod("dead").run();
    let other = node.pod("other").run();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| {
            let container = idle(&pod, "hung", vec![bind("/v", dead.join("sub"))]);
            container.try_create().expect_err("its source does not answer")
        });
        std::thread::sleep(Duration::from_millis(300));
        let fine = idle(&other, "fine", vec![]).start();
        assert_eq!(fine.sh("echo works"), "works\n");
        assert!(pod.is_ready());
        assert!(started.elapsed() < Duration::from_secs(10), "others wait: {:?}", started.elapsed());
        let refused = hung.join().unwrap();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
        for words in ["mounts[0].host_path: resolve ", "dead/sub", "does not respond"] {
            assert!(refused.message().contains(words), "{words:?} is not in {refused}");
        }
    });
    assert!(started.elapsed() < Duration::from_secs(40), "it took {:?}", started.elapsed());
    assert!(idle(&pod, "next", vec![]).create().try_start().is_ok(), "the pod goes on");
    node.restart();
    assert!(node.service_runs());
    pod.remove();
    other.remove();
    daemon.kill();
    node.machine.sh(&format!("umount -l {}", dead.display()));
    node.leaves_nothing();
}

#[test]
fn an_images_volumes_are_filled_from_it_and_go_with_the_container() {
    let node = builder().start();
    let built = image::busybox_builder()
        .layer(
            Tree::default()
                .dir("data", 0o1777)
                .file("data/seed", 0o640, b"from the image\n")
                .symlink("data/link", "seed")
                .dir("other", 0o755)
                .file("other/x", 0o644, b"hidden\n"),
        )
        .config(json!({"Env": ["PATH=/bin"], "Volumes": {"/data": {}, "/empty/new": {}, "/other": {}}}));
    let reference = node.push(&built.build(), "volumes:1");
    let mine = node.machine.dir().join("mine");
    fs::create_dir(&mine).unwrap();
    for handler in RUNTIMES {
        let pod = node.pod("volumes").handler(handler).run();
        let make = |name: &str| {
            let container = idle(&pod, name, vec![bind("/other", &mine)]).image(&reference);
            container.security(|context| context.readonly_rootfs = true).start()
        };
        let (one, two) = (make("one"), make("two"));
        assert_eq!(
            one.sh("cat /data/link; stat -c '%a %u' /data /data/seed; ls -a /other | wc -l"),
            "from the image\n1777 0\n640 0\n2\n",
            "{handler}"
        );
        one.sh("echo mine > /data/seed; echo new > /empty/new/file; ! touch /top");
        assert_eq!(
            two.sh("cat /data/seed; ls /empty/new"),
            "from the image\n",
            "{handler}: each has its own"
        );
        let directory = node.config.root.join("containers").join(&one.id).join("volumes");
        assert!(directory.is_dir());
        node.restart();
        assert_eq!(one.sh("cat /data/seed /empty/new/file"), "mine\nnew\n");
        one.remove();
        assert!(!directory.exists());
        pod.remove();
    }
    node.leaves_nothing();

    let node =
        Node::builder().with(|config, _| config.pods += "image_defined_volumes = \"ignore\"\n").start();
    let reference = node.push(&built_with_volume(), "volumes:2");
    let pod = node.pod("ignored").run();
    let container = idle(&pod, "c", vec![]).image(&reference).start();
    assert_eq!(container.sh("grep -c ' /data ' /proc/self/mountinfo || true"), "0\n");
    pod.remove();
    node.leaves_nothing();
}

fn built_with_volume() -> image::Image {
    image::busybox_builder().config(json!({"Env": ["PATH=/bin"], "Volumes": {"/data": {}}})).build()
}
