//! Execs, by the shim itself and by the real crun: both must do the same.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod node;

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use model::{Classify as _, ErrorKind, ExecId, Signal, chain};
use node::{Node, Want, able, exit, read_all, sh, within};
use shim_client::{ExecFds, ExecProcess};

/// How long something sleeps that is looked for by that: nobody else's processes on this machine sleep so.
fn nap(n: u32) -> u32 {
    n * 100_000_000 + std::process::id()
}

/// How many sleep so long.
fn asleep(nap: u32) -> usize {
    alive(&format!("sleep\0{nap}\0"))
}

fn alive(marker: &str) -> usize {
    let table = kernel::process::table().unwrap();
    let line = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    table.iter().filter(|process| !process.zombie && line(process.pid).contains(marker)).count()
}

/// One node that starts execs natively, and one that does not.
fn nodes() -> Vec<Node> {
    if !able() {
        return Vec::new();
    }
    [true, false]
        .map(|native| {
            let mut node = Node::new();
            node.native = native;
            node
        })
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_has_its_own_streams_and_code_and_the_containers_world() {
    for node in nodes() {
        let shim = node.shim().await;
        assert!(shim.execs_natively());
        let id = node.run(&shim, &sh("echo > /tmp/here; sleep 1000")).await;
        let mut times = Vec::new();
        for code in [0, 1, 42] {
            let began = Instant::now();
            let script = format!(
                "until cat /tmp/here 2>/dev/null; do usleep 1000; done; echo said {code}; exit {code}"
            );
            let exec = node.exec(&shim, &id, &script, None).await;
            let ended = shim.wait_exec(&exec.exec).await.unwrap();
            times.push(began.elapsed());
            assert_eq!((ended.code, ended.timed_out), (code, false));
            assert_eq!(read_all(exec.stdout).await, format!("\nsaid {code}\n"));
        }
        println!("exec, native {}, start to exit: {times:?}", node.native);
        let exec = node.exec(&shim, &id, "kill -9 $$", None).await;
        assert_eq!(shim.wait_exec(&exec.exec).await.unwrap().code, 137);
        let twice = shim.wait_exec(&exec.exec).await.unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::NotFound);
        let bundle = node.path().join("bundles").join(&id);
        assert_eq!(fs::read_dir(&bundle).unwrap().count(), 3, "an exec left a file");
        let log = fs::read_to_string(node.shims_log()).unwrap();
        assert!(!log.contains("left to the OCI runtime"), "{log}");

        let process = |n, command: &str| ExecProcess {
            exec: ExecId::from_bytes([n; 32]),
            container: id.clone(),
            process: node.process(&[command.into()], false),
            tty: false,
            timeout: None,
            native: node.native(),
        };
        let error = shim.exec(process(3, "nope"), ExecFds::default()).await.unwrap_err();
        let text = chain(&error);
        assert!(text.contains("exec: ") && text.contains("nope") && text.contains("not found"), "{text}");
        assert_eq!(error.kind(), ErrorKind::Internal);
        shim.kill(&id, Signal::KILL, true).await.unwrap();
        exit(&shim, &id).await;
        let late = shim.exec(process(4, "true"), ExecFds::default()).await.unwrap_err();
        assert_eq!(late.kind(), ErrorKind::WrongState);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execs_timeout_and_kill_take_its_whole_subtree() {
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("sleep 1000")).await;
        let (first, second) = (nap(1), nap(2));
        let script = format!("setsid sleep {first} & (sleep {first}; true) & sleep {first}");
        let exec = node.exec(&shim, &id, &script, Some(Duration::from_secs(2))).await;
        let began = Instant::now();
        let ended = shim.wait_exec(&exec.exec).await.unwrap();
        assert!(ended.timed_out && ended.code == 137, "{ended:?}");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert_eq!(read_all(exec.stdout).await, "");
        assert_eq!(asleep(first), 0);

        let exec = node.exec(&shim, &id, &format!("sleep {second} & sleep {second}"), None).await;
        shim.kill_exec(&exec.exec).await.unwrap();
        let ended = shim.wait_exec(&exec.exec).await.unwrap();
        assert_eq!((ended.code, ended.timed_out), (137, false));
        let gone = async || (asleep(second) == 0).then_some(());
        within(Duration::from_secs(20), "end of the subtree", gone).await;
        shim.kill_exec(&exec.exec).await.unwrap();
        assert_eq!(shim.state().await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_a_native_exec_dies_with_its_timeout_and_no_other() {
    let Some(node) = nodes().into_iter().next() else { return };
    let shim = node.shim().await;
    let (own, others, daemons, last) = (nap(3), nap(4), nap(5), nap(6));
    let id = node.run(&shim, &sh(&format!("sleep {own}"))).await;
    let other = node.exec(&shim, &id, &format!("(setsid sleep {others} &) ; sleep {others}"), None).await;
    // Its parent is dead at once: it belongs to pid 1, in a session that nobody of the exec's has led.
    let script = format!("(setsid sh -c 'setsid sleep {daemons} & exit' &) ; sleep 0.2; sleep {last}");
    let exec = node.exec(&shim, &id, &script, Some(Duration::from_secs(3))).await;
    within(Duration::from_secs(20), "daemon", async || (asleep(daemons) == 1).then_some(())).await;
    assert!(shim.wait_exec(&exec.exec).await.unwrap().timed_out);
    within(Duration::from_secs(20), "end of the daemon", async || (asleep(daemons) == 0).then_some(())).await;
    assert_eq!((asleep(own), asleep(others)), (1, 2), "others live on");
    shim.kill_exec(&other.exec).await.unwrap();
    within(Duration::from_secs(20), "end", async || (asleep(others) == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_execs_timeout_beyond_the_clock_never_comes() {
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("sleep 1000")).await;
        // The second is within the clock, and far more milliseconds than epoll_wait(2) takes.
        for timeout in [Duration::MAX, Duration::from_secs(u32::MAX.into())] {
            let exec = node.exec(&shim, &id, "sleep 0.3; exit 7", Some(timeout)).await;
            let ended = shim.wait_exec(&exec.exec).await.unwrap();
            assert_eq!((ended.code, ended.timed_out), (7, false), "{timeout:?}");
        }
        assert_eq!(shim.state().await.unwrap().len(), 1, "the shim and its container live on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_an_exec_is_the_callers() {
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("sleep 1000")).await;
        let exec = ExecId::from_bytes([5; 32]);
        let script = "tty; read line; stty size; echo got $line > /dev/tty";
        let process = ExecProcess {
            exec: exec.clone(),
            container: id.clone(),
            process: node.process(&["sh".into(), "-c".into(), script.into()], true),
            tty: true,
            timeout: None,
            native: node.native(),
        };
        let started = shim.exec(process, ExecFds::default()).await.map_err(|e| chain(&e)).unwrap();
        let terminal = started.terminal.unwrap();
        rustix::io::ioctl_fionbio(&terminal, false).unwrap();
        kernel::pty::resize(&terminal, 101, 31).unwrap();
        File::from(terminal.try_clone().unwrap()).write_all(b"hello\n").unwrap();
        let said = read_all(terminal).await;
        for expected in ["/dev/pts/0", "31 101", "got hello"] {
            assert!(said.contains(expected), "{said:?}");
        }
        assert_eq!(shim.wait_exec(&exec).await.unwrap().code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_enters_a_user_namespace_as_its_root() {
    let mut said = Vec::new();
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &Want { user_namespace: true, ..sh("sleep 1000") }).await;
        let script = "cat /proc/self/uid_map /proc/self/gid_map; grep -E 'Cap|[UG]id|Groups' /proc/self/status; \
                      echo mine > /tmp/x && ls -ln /tmp/x | cut -c 1-30; echo $HOME; echo again > /dev/stderr";
        let exec = node.exec(&shim, &id, script, None).await;
        said.push(read_all(exec.stdout).await);
        assert_eq!(shim.wait_exec(&exec.exec).await.unwrap().code, 0);

        let exec = ExecId::from_bytes([7; 32]);
        let process = ExecProcess {
            exec: exec.clone(),
            container: id.clone(),
            process: node
                .process(&["sh".into(), "-c".into(), "tty; ls -ln $(tty) | cut -c 1-30".into()], true),
            tty: true,
            timeout: None,
            native: node.native(),
        };
        let started = shim.exec(process, ExecFds::default()).await.map_err(|e| chain(&e)).unwrap();
        let terminal = started.terminal.unwrap();
        rustix::io::ioctl_fionbio(&terminal, false).unwrap();
        said.push(read_all(terminal).await);
        assert_eq!(shim.wait_exec(&exec).await.unwrap().code, 0);
        let log = fs::read_to_string(node.shims_log()).unwrap();
        assert!(!log.contains("left to the OCI runtime"), "{log}");
    }
    if let [native, terminal, by_runtime, its_terminal] = &said[..] {
        assert!(native.contains("100000"), "{native}");
        assert_eq!((native, terminal), (by_runtime, its_terminal));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_shim_does_not_know_is_left_to_the_runtime() {
    let Some(node) = nodes().into_iter().next() else { return };
    let shim = node.shim().await;
    let id = node.run(&shim, &sh("sleep 1000")).await;
    let exec = ExecId::from_bytes([6; 32]);
    let (stdout, theirs) = std::io::pipe().unwrap();
    let mut oci = node.process(&["echo".into(), "by the runtime".into()], false);
    oci["commandLine"] = "of another system".into();
    let process = ExecProcess {
        exec: exec.clone(),
        container: id.clone(),
        process: oci,
        tty: false,
        timeout: None,
        native: node.native(),
    };
    let fds = ExecFds { stdout: Some(theirs.into()), ..ExecFds::default() };
    shim.exec(process, fds).await.map_err(|e| chain(&e)).unwrap();
    assert_eq!(shim.wait_exec(&exec).await.unwrap().code, 0);
    assert_eq!(read_all(stdout.into()).await, "by the runtime\n");
    let log = fs::read_to_string(node.shims_log()).unwrap();
    assert!(log.contains("left to the OCI runtime") && log.contains("`commandLine`"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exec_sees_no_descriptor_of_the_shims_and_nothing_of_its_program() {
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("sleep 1000")).await;
        let exec = node.exec(&shim, &id, "ls /proc/self/fd; readlink /proc/$$/exe; echo $HOME", None).await;
        // The fourth is ls's own, of the directory.
        assert_eq!(read_all(exec.stdout).await, "0\n1\n2\n3\n/bin/busybox\n/\n", "native {}", node.native);
    }
    let Some(node) = nodes().into_iter().next() else { return };
    let shim = node.shim().await;
    // CVE-2019-5736: a command whose interpreter is the program that starts it. It is reached, and of no use: it is sealed.
    let id = node.run(&shim, &sh("sleep 1000")).await;
    let script = "printf '#!/proc/self/exe\\n' > /tmp/x; busybox chmod 755 /tmp/x";
    let exec = node.exec(&shim, &id, script, None).await;
    assert_eq!(shim.wait_exec(&exec.exec).await.unwrap().code, 0);
    let exec = ExecId::from_bytes([8; 32]);
    let process = ExecProcess {
        exec: exec.clone(),
        container: id.clone(),
        process: node.process(&["/tmp/x".into()], false),
        tty: false,
        timeout: None,
        native: node.native(),
    };
    shim.exec(process, ExecFds::default()).await.map_err(|e| chain(&e)).unwrap();
    // It is gantline-shim, which knows no such command, or in a build that is not static finds no libraries in there.
    let code = shim.wait_exec(&exec).await.unwrap().code;
    assert!([64, 127].contains(&code), "{code}");
    let seals = File::open(format!("/proc/{}/exe", shim.pid())).unwrap();
    assert!(rustix::fs::fcntl_get_seals(&seals).unwrap().contains(rustix::fs::SealFlags::WRITE));
    let write = fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", shim.pid()));
    // Busy while it runs, and never writable.
    assert!(write.is_err() || (&write.unwrap()).write(b"x").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_directory_outside_of_the_container_is_refused() {
    for node in nodes() {
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("sleep 1000")).await;
        for (n, cwd) in ["/proc/self/fd/5", "/proc/self/fd/7", "/nowhere"].into_iter().enumerate() {
            let mut oci = node.process(&["true".into()], false);
            oci["cwd"] = cwd.into();
            let process = ExecProcess {
                exec: ExecId::from_bytes([10 + u8::try_from(n).unwrap(); 32]),
                container: id.clone(),
                process: oci,
                tty: false,
                timeout: None,
                native: node.native(),
            };
            let error = chain(&shim.exec(process, ExecFds::default()).await.unwrap_err());
            assert!(error.contains("chdir") || error.contains("cwd"), "{cwd}: {error}");
        }
    }
}
