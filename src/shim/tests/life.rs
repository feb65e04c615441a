//! Containers run, end and fail, with the real crun.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod node;

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::{Classify as _, ErrorKind, Signal, chain};
use node::{Node, Want, able, exit, records, sh, texts, within};
use shim_client::{ShimError, Shims as _, exit_records};
use wire::{Event, Frame, ReplyBody, Request, RequestBody};

#[tokio::test]
async fn a_container_runs_is_logged_and_leaves_a_record() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let mut events = shim.events();
    let long = "x".repeat(20_000);
    let began = Instant::now();
    let id = node.run(&shim, &sh(&format!("echo out; echo err >&2; echo {long}; printf end; exit 3"))).await;
    println!("run with crun, not idle: {:?}", began.elapsed());
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.signal, record.oom, record.log_bytes_dropped), (3, None, false, 0));
    assert!(record.started_at_ns <= record.finished_at_ns);
    assert_eq!(exit_records(&node.shims.root, &node.pod).unwrap(), std::slice::from_ref(&record));
    match events.recv().await.unwrap() {
        Event::Exited { container, record: told } => assert_eq!((container, told), (id.clone(), record)),
        other => panic!("{other:?}"),
    }
    let log = records(&node.log(&id));
    let stdout: Vec<_> =
        log.iter().filter(|r| r.0 == "stdout").map(|r| (r.1.as_str(), r.2.clone())).collect();
    let expected = [
        ("F", "out".to_owned()),
        ("P", long[..16384].to_owned()),
        ("F", long[16384..].to_owned()),
        ("F", "end".to_owned()),
    ];
    assert_eq!(stdout, expected);
    assert!(log.contains(&("stderr".into(), "F".into(), "err".into())));
    // Deleted behind the shim's back, it is absent, and that is success.
    let behind = kernel::process::command("/usr/bin/crun")
        .arg("--root")
        .arg(&node.runtime.root)
        .args(["delete", "--force", id.as_str()])
        .status();
    assert!(behind.unwrap().success());
    shim.delete(&id).await.unwrap();
    shim.delete(&id).await.unwrap();
    assert_eq!(shim.state().await.unwrap(), []);
    shim.shutdown().await.unwrap();
    shim.closed().await;
    let gone = node.shims.connect(&node.pod).await.unwrap_err();
    assert!(matches!(gone, ShimError::NotRunning { .. }), "{gone:?}");
}

#[tokio::test]
async fn many_short_containers_at_once_all_tell_their_codes() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    for code in 0..4 {
        let id = node.run(&shim, &sh(&format!("echo {code}; exit {code}"))).await;
        assert_eq!(exit(&shim, &id).await.code, code);
        assert_eq!(texts(&node.log(&id)), [code.to_string()]);
    }
    let want = Want { command: vec!["true".into()], ..Want::default() };
    let mut joined = tokio::task::JoinSet::new();
    for bundle in (0..6).map(|_| node.bundle(&want)).collect::<Vec<_>>() {
        let shim = shim.clone();
        joined.spawn(async move {
            shim.run(bundle.clone()).await.map_err(|e| chain(&e)).unwrap();
            bundle.container
        });
    }
    for id in joined.join_all().await {
        assert_eq!(exit(&shim, &id).await.code, 0);
        shim.delete(&id).await.unwrap();
    }
}

#[tokio::test]
async fn signals_end_containers_and_none_ends_the_shim() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    for signal in [1, 2, 15] {
        kernel::pidfd::signal(shim.pid(), signal).unwrap();
    }
    let id = node.run(&shim, &sh("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")).await;
    // Pid 1 does not get signals that it has no handler for yet.
    within(Duration::from_secs(5), "handler", async || (!texts(&node.log(&id)).is_empty()).then_some(()))
        .await;
    let refused = shim.shutdown().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WrongState, "{refused:?}");
    shim.kill(&id, Signal::TERM, false).await.unwrap();
    assert_eq!(exit(&shim, &id).await.code, 7);
    let id = node.run(&shim, &sh("sleep 1000 & sleep 1000")).await;
    shim.kill(&id, Signal::KILL, true).await.unwrap();
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.signal, record.oom), (137, Some(9), false));
    shim.kill(&id, Signal::TERM, false).await.unwrap();
    let missing = shim.kill(&model::ContainerId::from_bytes([0; 32]), Signal::TERM, false).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_running_container_that_is_deleted_leaves_its_record_first() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let mut events = shim.events();
    let id = node.run(&shim, &sh("sleep 1000")).await;
    shim.delete(&id).await.unwrap();
    assert_eq!(shim.state().await.unwrap(), []);
    let record = exit_records(&node.shims.root, &node.pod).unwrap().remove(0);
    assert_eq!((record.code, record.oom), (137, false));
    assert!(matches!(events.recv().await.unwrap(), Event::Exited { .. }));
    assert!(!node.memory_cgroup(&id).exists());
}

#[tokio::test]
async fn the_kernels_kill_for_memory_is_told_from_ours() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let mut events = shim.events();
    let hog =
        Want { memory_limit: Some(16 << 20), ..sh("exec dd if=/dev/zero of=/dev/null bs=256M count=1") };
    let id = node.run(&shim, &hog).await;
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.signal, record.oom), (137, Some(9), true));
    assert!(matches!(events.recv().await.unwrap(), Event::Oom { .. } | Event::Exited { .. }));
    // A shell that tells its child's end.
    let id = node
        .run(
            &shim,
            &Want {
                memory_limit: Some(16 << 20),
                ..sh("dd if=/dev/zero of=/dev/null bs=256M count=1; exit $?")
            },
        )
        .await;
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.signal, record.oom), (137, None, true));
    // An exec's end by the kernel, and later the container's by us.
    let id = node.run(&shim, &Want { memory_limit: Some(16 << 20), ..sh("sleep 1000") }).await;
    let exec = node.exec(&shim, &id, "dd if=/dev/zero of=/dev/null bs=256M count=1", None).await;
    assert_eq!(shim.wait_exec(&exec.exec).await.unwrap().code, 137);
    shim.kill(&id, Signal::KILL, true).await.unwrap();
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.oom), (137, false));
}

#[tokio::test]
async fn a_runtimes_failure_is_in_its_own_words_and_leaves_nothing() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let bundle = node.bundle(&Want { command: vec!["/bin/nope".into()], ..Want::default() });
    let cgroup = node.memory_cgroup(&bundle.container);
    let error = shim.run(bundle.clone()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("runtime create") && text.contains("`/bin/nope` not found"), "{text}");
    assert_eq!(text.matches("not found").count(), 1, "{text}");
    assert_eq!(shim.state().await.unwrap(), []);
    assert!(!cgroup.exists());
    assert_eq!(fs::read_dir(&node.runtime.root).unwrap().count(), 0);

    let mut missing = bundle.clone();
    missing.runtime.binary = "/no/such/runtime".into();
    let text = chain(&shim.run(missing).await.unwrap_err());
    assert!(text.contains("run /no/such/runtime: No such file"), "{text}");

    let mut unwritable = bundle.clone();
    unwritable.log.as_mut().unwrap().path = "/no/such/dir/log".into();
    let text = chain(&shim.run(unwritable).await.unwrap_err());
    assert!(text.contains("open log: open /no/such/dir/log: No such file"), "{text}");

    // The same container can still be run when its fault is mended.
    let config =
        fs::read_to_string(bundle.bundle.join("config.json")).unwrap().replace("/bin/nope", "/bin/true");
    fs::write(bundle.bundle.join("config.json"), config).unwrap();
    shim.run(bundle.clone()).await.unwrap();
    assert_eq!(exit(&shim, &bundle.container).await.code, 0);
    shim.delete(&bundle.container).await.unwrap();
}

#[tokio::test]
async fn a_shared_pid_namespace_has_a_pid_1_that_reaps_and_whose_end_is_told() {
    if !able() {
        return;
    }
    let node = Node::new();
    let spec = shim_client::ShimSpec { pod: node.pod.clone(), shared_pid: true, user_namespace: None };
    let shim = node.shims.start(&spec).await.unwrap();
    let init = shim.pod_init().unwrap();
    let want = Want { share_pid_of: Some(init), ..sh("(sleep 0.1 &) ; kill -TERM 1; sleep 1000") };
    let first = node.run(&shim, &want).await;
    let second = node.run(&shim, &Want { share_pid_of: Some(init), ..sh("exit 4") }).await;
    assert_eq!(exit(&shim, &second).await.code, 4);
    // What a container has started ends with it, though its PID namespace lives on.
    let third = node
        .run(&shim, &Want { share_pid_of: Some(init), ..sh("setsid sleep 5551 & sleep 0.05; exit 8") })
        .await;
    assert_eq!(exit(&shim, &third).await.code, 8);
    within(Duration::from_secs(10), "end of all orphans: pid 1 does not reap", async || {
        let table = kernel::process::table().unwrap();
        (!table.iter().any(|process| process.parent == init)).then_some(())
    })
    .await;
    let mut events = shim.events();
    kernel::pidfd::signal(init, kernel::pidfd::SIGKILL).unwrap();
    let told = async { while events.recv().await.unwrap() != Event::PodInitExited {} };
    tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    assert_eq!(exit(&shim, &first).await.signal, Some(9));
    assert_eq!(shim.whole_state().await.unwrap().pod_init, None);
    shim.shutdown().await.unwrap();
}

#[tokio::test]
async fn pid_1_holds_nothing_of_the_hosts_and_belongs_to_the_pods_user_namespace() {
    use kernel::namespace::{IdMaps, IdRange, create_pinned_with_user, unpin};
    use std::os::unix::fs::MetadataExt as _;
    if !able() {
        return;
    }
    for mapped in [false, true] {
        let node = Node::new();
        let user = mapped.then(|| node.path().join("user"));
        let ranges = [IdRange { inside: 0, outside: 300_000, length: 65_536 }];
        if let Some(user) = &user {
            create_pinned_with_user(user, IdMaps { users: &ranges, groups: &ranges }, &[]).unwrap();
        }
        let spec =
            shim_client::ShimSpec { pod: node.pod.clone(), shared_pid: true, user_namespace: user.clone() };
        let shim = node.shims.start(&spec).await.unwrap();
        let init = shim.pod_init().unwrap();
        let of = |file: &str| PathBuf::from(format!("/proc/{init}/{file}"));
        let seen = (
            fs::read_dir(of("root")).unwrap().count(),
            fs::read_dir(of("fd")).unwrap().count(),
            fs::read_to_string(of("mountinfo")).unwrap().lines().count(),
        );
        assert_eq!(seen, (0, 0, 1), "files, descriptors, mounts");
        let ids = fs::read_to_string(of("status")).unwrap();
        let uid = if mapped { 300_000 } else { 0 };
        assert!(ids.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")), "{ids}");
        if let Some(user) = &user {
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();
            assert_eq!(inode(&of("ns/user")), inode(user));
            // What is mounted below is what containers do first.
            let script = format!(
                "nsenter --user={0} --pid=/proc/{init}/ns/pid --setuid 0 --setgid 0 \
                 unshare --mount sh -c 'mount -t proc proc /proc && readlink /proc/self && cat /proc/1/comm'",
                user.display()
            );
            let mut shell = kernel::process::command("/bin/sh");
            let said = shell.env("PATH", "/usr/bin:/bin").args(["-c", &script]).output().unwrap();
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(text.ends_with("\ngantline-init\n"), "{text}{}", String::from_utf8_lossy(&said.stderr));
        }
        shim.shutdown().await.unwrap();
        user.iter().for_each(|user| unpin(user).unwrap());
    }
    // A user namespace that is not there: said, and no shim is left.
    let node = Node::new();
    let spec = shim_client::ShimSpec {
        pod: node.pod.clone(),
        shared_pid: true,
        user_namespace: Some("/no/such/pin".into()),
    };
    let error = chain(&node.shims.start(&spec).await.unwrap_err());
    assert!(error.contains("open namespace /no/such/pin: No such file"), "{error}");
}

#[tokio::test]
async fn starting_twice_finds_the_first_and_an_unusable_directory_is_said() {
    if !able() {
        return;
    }
    let mut node = Node::new();
    let (first, second) = (node.shim().await, node.shim().await);
    assert_eq!(first.pid(), second.pid());
    assert_ne!(first.pid(), 0);
    let blocked = node.path().join("file");
    fs::write(&blocked, "").unwrap();
    node.shims.state = blocked;
    let spec = shim_client::ShimSpec { pod: node.pod.clone(), shared_pid: false, user_namespace: None };
    let error = node.shims.start(&spec).await.unwrap_err();
    assert!(chain(&error).contains("ot a directory"), "{}", chain(&error));
    node.shims.binary = "/no/such/shim".into();
    node.shims.state = node.path().join("other");
    let error = node.shims.start(&spec).await.unwrap_err();
    assert!(matches!(error, ShimError::Spawn { .. }), "{error:?}");
}

#[tokio::test]
async fn a_shim_whose_pod_was_removed_before_anybody_connected_ends() {
    if !able() {
        return;
    }
    let node = Node::new();
    let dir = node.shims.state.join("pods").join(&node.pod);
    let exits = node.shims.root.join("exits").join(&node.pod);
    let start = || {
        let mut command = kernel::process::command(&node.shims.binary);
        command.args(["run", "--shared-pid", "--pod", node.pod.as_str(), "--dir"]).arg(&dir);
        command.arg("--exits").arg(&exits).output().unwrap()
    };
    // Before its start: it does not bring the directory back.
    let late = start();
    assert!(!late.status.success());
    let said = String::from_utf8(late.stderr).unwrap();
    assert!(said.contains("No such file"), "{said}");
    assert!(!dir.exists() && !exits.exists());
    // After it, with nobody connected: it sees that and ends, with its pid 1.
    fs::create_dir_all(&dir).unwrap();
    assert!(start().status.success());
    let shims = || {
        let table = kernel::process::table().unwrap().into_iter().filter(|process| !process.zombie);
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(node.pod.as_str())
        };
        table.map(|process| process.pid).filter(ours).count()
    };
    assert_eq!(shims(), 2, "the shim and pid 1 of the shared PID namespace");
    fs::remove_dir_all(&dir).unwrap();
    within(Duration::from_secs(40), "end of the shim", async || (shims() == 0).then_some(())).await;
    assert!(!dir.exists() && !exits.exists());
}

/// A service that is killed may have sent what its shim has not read yet. Whoever comes next is not to be told that there
/// are no such containers, and find them later.
#[tokio::test]
async fn what_a_dead_service_sent_is_done_before_its_successor_is_heard() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let bundles: Vec<_> = (0..6).map(|_| node.bundle(&sh("sleep 1000"))).collect();
    let mut wanted: Vec<_> = bundles.iter().map(|bundle| bundle.container.clone()).collect();
    wanted.sort();
    let connect = || {
        let dir = node.shims_log().parent().unwrap().to_owned();
        kernel::seqpacket::connect(&dir.join("shim.sock")).unwrap()
    };
    let send = |socket: &OwnedFd, seq: u64, body: RequestBody| {
        let frame = Frame::Request(Request { seq, body }).encode().unwrap();
        kernel::seqpacket::send(socket.as_fd(), &frame, &[]).unwrap();
    };
    let dying = connect();
    kernel::pidfd::signal(shim.pid(), rustix::process::Signal::STOP.as_raw()).unwrap();
    for (seq, bundle) in (1..).zip(bundles) {
        send(&dying, seq, RequestBody::Run(Box::new(bundle)));
    }
    drop(dying);
    let successor = connect();
    send(&successor, 1, RequestBody::Hello);
    send(&successor, 2, RequestBody::State(None));
    kernel::pidfd::signal(shim.pid(), rustix::process::Signal::CONT.as_raw()).unwrap();
    let held = within(Duration::from_secs(10), "an answer", || async {
        let mut buffer = vec![0; 1 << 20];
        let message = kernel::seqpacket::receive(successor.as_fd(), &mut buffer).ok()?;
        match Frame::decode(&buffer[..message.length]).unwrap() {
            Frame::Reply(reply) => match reply.outcome.unwrap() {
                ReplyBody::State(state) => Some(state.containers),
                _ => None,
            },
            _ => None,
        }
    })
    .await;
    assert_eq!(held.into_iter().map(|state| state.container).collect::<Vec<_>>(), wanted);
    for id in wanted {
        shim.delete(&id).await.unwrap();
    }
    shim.shutdown().await.unwrap();
}

/// Says to the test below that it is in a PID namespace whose first process has the name of the one that shuts systemd's
/// machines down; its value is a fifo for the pids that are to get SIGTERM from it.
const GOING_DOWN: &str = "GANTLINE_GOING_DOWN";

#[tokio::test]
async fn a_machine_that_goes_down_does_not_wait_for_containers_and_shims() {
    if !able() {
        return;
    }
    let Some(fifo) = std::env::var_os(GOING_DOWN) else {
        let dir = tempfile::tempdir().unwrap();
        let (init, fifo) = (dir.path().join("systemd-shutdown"), dir.path().join("fifo"));
        node::copy("/bin/sh", &init);
        let name = "a_machine_that_goes_down_does_not_wait_for_containers_and_shims";
        let script = r#"mkfifo "$2"; "$1" --exact "$3" --nocapture & test=$!; read pids <"$2"; kill -TERM $pids; wait $test"#;
        let mut line = kernel::process::command("/usr/bin/unshare");
        line.args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child"]);
        line.arg(&init).args(["-c", script, "sh"]);
        line.arg(std::env::current_exe().unwrap()).arg(&fifo).arg(name);
        line.env("PATH", "/usr/bin:/bin").env(GOING_DOWN, &fifo).env("GANTLINE_TESTS_MUST_RUN", "1");
        line.env("GANTLINE_SHIM", env!("CARGO_BIN_EXE_gantline-shim"));
        let said = tokio::task::spawn_blocking(move || line.output().unwrap()).await.unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success() && text.contains("1 passed"), "{text}");
        return;
    };
    let node = Node::new();
    let shim = node.shim().await;
    let heeds = node.run(&shim, &sh("trap 'exit 7' TERM; echo up; while :; do usleep 10000; done")).await;
    let deaf = node.run(&shim, &sh("trap '' TERM; echo up; while :; do usleep 10000; done")).await;
    for id in [&heeds, &deaf] {
        within(Duration::from_secs(10), "a line of the log", || async {
            node.log(id).exists().then(|| texts(&node.log(id))).filter(|lines| !lines.is_empty())
        })
        .await;
    }
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", shim.pid())).unwrap(), "gantline-shim\n");
    // From anybody else it means nothing.
    kernel::pidfd::signal(shim.pid(), rustix::process::Signal::TERM.as_raw()).unwrap();
    let pids = shim.state().await.unwrap().into_iter().filter_map(|state| match state.phase {
        wire::Phase::Running(started) => Some(started.pid),
        _ => None,
    });
    let pids: Vec<String> = pids.chain([shim.pid()]).map(|pid| pid.to_string()).collect();
    assert_eq!(pids.len(), 3);
    fs::write(fifo, pids.join(" ") + "\n").unwrap();
    tokio::time::timeout(Duration::from_secs(20), shim.closed()).await.expect("it ends");
    let records = exit_records(&node.shims.root, &node.pod).unwrap();
    let code = |id| records.iter().find(|record| record.container == id).unwrap().code;
    assert_eq!((code(heeds), code(deaf)), (7, 137));
}

#[tokio::test]
async fn signals_that_whoever_started_the_shim_had_ignored_are_nobodys_below_it() {
    if !able() {
        return;
    }
    let mut node = Node::new();
    let shim = node.shim_of_a_careless_shell().await;
    // What busybox's shell becomes at its end ignores SIGQUIT.
    let script = "grep SigIgn /proc/self/status; true";
    let id =
        node.run(&shim, &sh(&format!("{script}; until [ -e /tmp/go ]; do usleep 10000; done; exit 5"))).await;
    let mut said = Vec::new();
    for native in [true, false] {
        node.native = native;
        let execed = node.exec(&shim, &id, script, None).await;
        said.push(node::read_all(execed.stdout).await);
    }
    let exec = node.exec(&shim, &id, "echo > /tmp/go", None).await;
    shim.wait_exec(&exec.exec).await.unwrap();
    // A child that is reaped unseen has no exit code.
    assert_eq!(exit(&shim, &id).await.code, 5);
    said.extend(texts(&node.log(&id)));
    let ignored = said.iter().map(|line| line.trim().split_once(":\t").unwrap().1);
    // Signals 32 and 33 are the C library's own, which lets nobody change them.
    let ignored: Vec<u64> =
        ignored.map(|hex| u64::from_str_radix(hex, 16).unwrap() & !(0b11 << 31)).collect();
    assert_eq!(ignored, [0, 0, 0], "{said:?}");
    shim.delete(&id).await.unwrap();
    shim.shutdown().await.unwrap();
}
