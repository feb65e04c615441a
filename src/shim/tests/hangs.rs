//! OCI runtimes that hang: nobody waits for them longer than told, and nothing of theirs is left.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod node;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use model::{Classify as _, ContainerId, ErrorKind, Signal, chain};
use node::{Node, Want, able, exit, sh, within};
use shim_client::{Shim, exit_records};

#[tokio::test]
async fn a_runtime_that_hangs_is_killed_with_all_it_started_and_nobody_waits_for_it() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let hangs = node.path().join("hangs");
    let script = "#!/bin/sh\ncase \"$*\" in *delete*) exit 0;; esac\necho thinking >&2\nsetsid sleep 3333 &\nsleep 3333\n";
    node::program(&hangs, script);
    let mut bundle = node.bundle(&Want { deadline: Some(Duration::from_secs(20)), ..sh("true") });
    bundle.runtime.binary = hangs;
    let began = Instant::now();
    let other = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let id = node.run(&shim, &sh("exit 5")).await;
        assert_eq!(exit(&shim, &id).await.code, 5);
        assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    };
    let (error, ()) = tokio::join!(shim.run(bundle), other);
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline);
    let text = chain(&error);
    assert!(text.contains("runtime create: not done after 20000 ms, killed: thinking"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(60));
    // A killed process dies when it is next scheduled.
    let sleeps =
        |pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x003333\x00");
    within(Duration::from_secs(5), "end of what it started", async || {
        let table = kernel::process::table().unwrap();
        (!table.iter().any(|process| !process.zombie && sleeps(process.pid))).then_some(())
    })
    .await;
}

/// crun that hangs instead of doing the commands of the first pattern, and after it has done those of the second.
fn hanging(node: &Node, instead: &str, after: &str) -> PathBuf {
    let path = node.path().join(format!("{instead}-{after}").replace('*', ""));
    let hang = format!("exec tail -f {}", node.path().join("rootfs/bin/busybox").display());
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in {instead}) {hang};; esac\n/usr/bin/crun \"$@\" || exit\ncase \"$*\" in {after}) {hang};; esac\n"
    );
    node::program(&path, &script);
    path
}

/// Waits until the runtime has made the container, so that there is something to undo, and hangs.
async fn begun(node: &Node, id: &ContainerId) {
    let tail = format!("tail\0-f\0{}\0", node.path().join("rootfs/bin/busybox").display());
    let hangs = |pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == tail.as_bytes());
    within(Duration::from_secs(10), "begun start", async || {
        let procs = fs::read_to_string(node.memory_cgroup(id).join("cgroup.procs")).unwrap_or_default();
        let table = kernel::process::table().unwrap();
        let hangs = table.iter().any(|process| !process.zombie && hangs(process.pid));
        (!procs.is_empty() && hangs).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_start_that_hangs_ends_with_a_kill_or_a_delete() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    for (command, kills) in [("*create*", true), ("*create*", false), ("*start*", true), ("*start*", false)] {
        let mut bundle = node.bundle(&sh("sleep 1000"));
        let id = bundle.container.clone();
        bundle.runtime.binary = hanging(&node, "never", command);
        let started = tokio::spawn({
            let shim = shim.clone();
            async move { shim.run(bundle).await }
        });
        begun(&node, &id).await;
        let began = Instant::now();
        if kills {
            shim.kill(&id, Signal::KILL, true).await.unwrap();
        } else {
            shim.delete(&id).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{command}: {:?}", began.elapsed());
        let error = started.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error:?}");
        let text = chain(&error);
        let stage = format!("runtime {}: aborted", command.trim_matches('*'));
        assert!(text.contains(&stage), "{text}");
        assert!(began.elapsed() < Duration::from_secs(12), "{command}: {:?}", began.elapsed());
        leaves_nothing(&node, &shim, &id).await;
    }
    shim.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_runtime_that_hangs_when_it_deletes_is_done_without() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    // One that runs, one that has exited, and one whose start is aborted.
    let (mut running, mut exited, mut starting) =
        (node.bundle(&sh("sleep 1000")), node.bundle(&sh("exit 3")), node.bundle(&sh("sleep 1000")));
    running.runtime.binary = hanging(&node, "*delete*", "never");
    exited.runtime.binary.clone_from(&running.runtime.binary);
    starting.runtime.binary = hanging(&node, "*delete*", "*create*");
    let ids = [&running, &exited, &starting].map(|bundle| bundle.container.clone());
    for bundle in [running, exited] {
        shim.run(bundle).await.map_err(|e| chain(&e)).unwrap();
    }
    assert_eq!(exit(&shim, &ids[1]).await.code, 3);
    let started = tokio::spawn({
        let shim = shim.clone();
        async move { shim.run(starting).await }
    });
    begun(&node, &ids[2]).await;
    let began = Instant::now();
    let (a, b, c, again) =
        tokio::join!(shim.delete(&ids[0]), shim.delete(&ids[1]), shim.delete(&ids[2]), shim.delete(&ids[2]));
    for deleted in [a, b, c, again] {
        deleted.map_err(|e| chain(&e)).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    assert!(chain(&started.await.unwrap().unwrap_err()).contains("aborted"));
    for id in &ids {
        leaves_nothing(&node, &shim, id).await;
    }
    assert_eq!(exit_records(&node.shims.root, &node.pod).unwrap().len(), 2);
    shim.shutdown().await.unwrap();
}

async fn leaves_nothing(node: &Node, shim: &Shim, id: &ContainerId) {
    assert!(shim.state().await.unwrap().iter().all(|state| state.container != *id));
    assert!(!node.memory_cgroup(id).exists(), "{:?}", node.memory_cgroup(id));
    assert!(!node.runtime.root.join(id).exists());
    within(Duration::from_secs(5), "end of the processes", async || {
        let table = kernel::process::table().unwrap();
        let hang = format!("tail\0-f\0{}", node.path().display());
        let ours = |pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(id.as_str()) || line.contains(&hang)
        };
        (!table.iter().any(|process| !process.zombie && ours(process.pid))).then_some(())
    })
    .await;
}
