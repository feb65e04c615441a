//! Logs, attaches and terminals, with the real crun.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod node;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use model::{Classify as _, ErrorKind, Signal};
use node::{Node, Want, able, exit, read_all, records, sh, texts, within};
use shim_client::{ExecFds, Shims as _};
use wire::StdioSpec;

/// Prints `count` numbered lines, about ten thousand a second.
fn numbered(count: u32) -> String {
    format!(
        "i=0; while [ $i -lt {count} ]; do j=0; while [ $j -lt 100 ]; do echo line $((i+j)); j=$((j+1)); done; i=$((i+100)); usleep 8000; done"
    )
}

fn assert_numbered(lines: &[String], count: u32) {
    let expected: Vec<String> = (0..count).map(|n| format!("line {n}")).collect();
    assert_eq!(lines.len(), expected.len());
    assert!(lines == expected, "lines are out of order or torn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_a_container_is_logged_attached_fed_and_resized() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let stdio = StdioSpec { tty: true, stdin: true, stdin_once: false };
    let id = node.run(&shim, &Want { stdio, ..sh("read line; stty size; echo got $line >&2; exit 6") }).await;
    let (stdin_theirs, mut stdin) = std::io::pipe().unwrap();
    let (stdout, stdout_theirs) = std::io::pipe().unwrap();
    let fds = ExecFds { stdin: Some(stdin_theirs.into()), stdout: Some(stdout_theirs.into()), stderr: None };
    shim.attach(&id, fds).await.unwrap();
    shim.resize(&id, 120, 40).await.unwrap();
    stdin.write_all(b"hello\n").unwrap();
    let said = read_all(stdout.into()).await;
    assert!(said.contains("40 120\r\n") && said.contains("got hello\r\n"), "{said:?}");
    assert_eq!(exit(&shim, &id).await.code, 6);
    let log = records(&node.log(&id));
    assert!(log.iter().all(|record| record.0 == "stdout"), "{log:?}");
    assert!(log.iter().any(|record| record.2 == "got hello\r"), "{log:?}");
    let error = shim.resize(&id, 1, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_client_feeds_standard_input_and_gets_output_from_then_on() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let stdio = StdioSpec { stdin: true, stdin_once: true, tty: false };
    let id = node.run(&shim, &Want { stdio, ..sh("echo before; cat; echo after >&2") }).await;
    within(Duration::from_secs(5), "the first line", async || {
        (!texts(&node.log(&id)).is_empty()).then_some(())
    })
    .await;
    let (stdin_theirs, mut stdin) = std::io::pipe().unwrap();
    let (stdout, stdout_theirs) = std::io::pipe().unwrap();
    let (stderr, stderr_theirs) = std::io::pipe().unwrap();
    let fds = ExecFds {
        stdin: Some(stdin_theirs.into()),
        stdout: Some(stdout_theirs.into()),
        stderr: Some(stderr_theirs.into()),
    };
    shim.attach(&id, fds).await.unwrap();
    // More than the pipes hold, so that every wait on the way is needed.
    let block = "0123456789abcde\n".repeat(40_000);
    let expected = block.clone();
    let feed = tokio::task::spawn_blocking(move || stdin.write_all(block.as_bytes()).unwrap());
    let (got, errors, fed) = tokio::join!(read_all(stdout.into()), read_all(stderr.into()), feed);
    fed.unwrap();
    assert_eq!(got.len(), expected.len());
    assert!(got == expected, "what came back is not what was sent");
    assert_eq!(errors, "after\n");
    assert_eq!(exit(&shim, &id).await.code, 0);
    assert_eq!(texts(&node.log(&id)).len(), 40_002);
    // Without stdin, a container reads its end at once.
    let id = node.run(&shim, &sh("cat; exit 9")).await;
    assert_eq!(exit(&shim, &id).await.code, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_client_that_does_not_read_holds_nobody_up() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let id = node.run(&shim, &sh("sleep 0.3; yes 0123456789012345678901234567890 | head -n 100000")).await;
    let (slow, theirs) = std::io::pipe().unwrap();
    shim.attach(&id, ExecFds { stdout: Some(theirs.into()), ..ExecFds::default() }).await.unwrap();
    let record = exit(&shim, &id).await;
    assert_eq!((record.code, record.log_bytes_dropped), (0, 0));
    assert_eq!(texts(&node.log(&id)).len(), 100_000);
    let got = read_all(slow.into()).await;
    assert!(got.len() < 2_000_000, "{}", got.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_client_may_take_the_last_words_of_a_container_that_is_deleted() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let stdio = StdioSpec { stdin: true, ..StdioSpec::default() };
    // More than a pipe holds, less than is kept for a client.
    let line = "read go; yes 0123456789abcde | head -n 20000";
    for reads in [true, false] {
        let id = node.run(&shim, &Want { stdio, ..sh(line) }).await;
        let (slow, theirs) = std::io::pipe().unwrap();
        let (stdin_theirs, mut stdin) = std::io::pipe().unwrap();
        let fds = ExecFds { stdin: Some(stdin_theirs.into()), stdout: Some(theirs.into()), stderr: None };
        shim.attach(&id, fds).await.unwrap();
        stdin.write_all(b"go\n").unwrap();
        exit(&shim, &id).await;
        let deleting = shim.delete(&id);
        if !reads {
            // One that never reads holds the deletion up for a moment only.
            deleting.await.unwrap();
            continue;
        }
        let reading = async {
            // The runtime's last act, and what the shim does upon it.
            within(Duration::from_secs(20), "its deletion", async || (!node.is_known(&id)).then_some(()))
                .await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            read_all(slow.into()).await
        };
        let (deleted, got) = tokio::join!(deleting, reading);
        deleted.unwrap();
        assert_eq!(got.len(), 320_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_torn_while_the_log_is_reopened_under_load() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let id = node.run(&shim, &sh(&numbered(10_000))).await;
    let path = node.log(&id);
    let mut files = Vec::new();
    while shim.reopen_log(&id).await.is_ok() {
        let rotated = path.with_extension(files.len().to_string());
        fs::rename(&path, &rotated).unwrap();
        files.push(rotated);
        match shim.reopen_log(&id).await {
            Ok(()) => assert!(path.exists(), "the reply came before the file"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WrongState),
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    assert_eq!(exit(&shim, &id).await.code, 0);
    println!("reopened {} times", files.len());
    assert!(files.len() > 5);
    let mut lines = Vec::new();
    for file in files.iter().map(Path::new).chain([path.as_path()]) {
        if file.exists() {
            lines.extend(texts(file));
        }
    }
    assert_numbered(&lines, 10_000);
    let _ = fs::remove_file(&path);
    assert!(shim.reopen_log(&id).await.is_err());
    assert!(!path.exists(), "a log was made for a container that does not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_is_there_once_when_the_service_dies_under_load() {
    if !able() {
        return;
    }
    let node = Node::new();
    let shim = node.shim().await;
    let id = node.run(&shim, &sh(&numbered(10_000))).await;
    let pid = shim.pid();
    drop(shim);
    let mut shim = node.shims.connect(&node.pod).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let next = node.shims.connect(&node.pod).await.unwrap();
        assert_eq!(next.pid(), pid);
        shim = next;
    }
    assert_eq!(exit(&shim, &id).await.code, 0);
    assert_numbered(&texts(&node.log(&id)), 10_000);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    println!(
        "shim CPU for 10,000 lines: {} ms user, {} ms system",
        fields[11].parse::<u64>().unwrap() * 10,
        fields[12].parse::<u64>().unwrap() * 10
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_container_and_the_log_says_what_is_missing() {
    if !able() {
        return;
    }
    let node = Node::new();
    let disk = node.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = kernel::process::command("/bin/mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&disk)
        .status();
    assert!(mounted.unwrap().success());
    let _unmount = Unmount(disk.clone());
    let shim = node.shim().await;
    let fill = disk.join("fill");
    fs::write(&fill, vec![0; (4096 - 56) * 1024]).unwrap();
    let log = disk.join("log");
    let script = "yes 0123456789012345678901234567890 | head -n 20000; echo > /tmp/said; while [ ! -e /tmp/go ]; do usleep 10000; done; echo after";
    let id = node.run(&shim, &Want { log: Some(log.clone()), ..sh(script) }).await;
    let exec = node.exec(&shim, &id, "until [ -e /tmp/said ]; do usleep 10000; done", None).await;
    shim.wait_exec(&exec.exec).await.unwrap();
    within(Duration::from_secs(20), "full disk", async || {
        fs::metadata(&log).is_ok_and(|log| log.len() > 40 * 1024).then_some(())
    })
    .await;
    // What is in the pipe by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // From here on there is room for all that the container says.
    fs::remove_file(&fill).unwrap();
    within(Duration::from_secs(5), "a marker", async || {
        fs::read_to_string(&log).unwrap().contains(" F gantline: ").then_some(())
    })
    .await;
    let exec = node.exec(&shim, &id, "echo > /tmp/go", None).await;
    shim.wait_exec(&exec.exec).await.unwrap();
    let record = exit(&shim, &id).await;
    assert_eq!(record.code, 0);
    let lines = texts(&log);
    let whole = lines.iter().filter(|line| *line == "0123456789012345678901234567890").count() as u64;
    assert_eq!(whole * 31 + record.log_bytes_dropped, 20_000 * 31);
    let marker = format!(
        "gantline: {} bytes of output were lost: No space left on device (os error 28)",
        record.log_bytes_dropped
    );
    assert!(
        lines.contains(&marker),
        "{:?}",
        lines.iter().filter(|line| line.starts_with('g')).collect::<Vec<_>>()
    );
    assert_eq!(lines.last().unwrap(), "after");
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = kernel::process::command("/bin/umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_shim_is_small() {
    if !able() {
        return;
    }
    let mut node = Node::new();
    let mut shims = Vec::new();
    for _ in 0..20 {
        node.pod = node::pod_id();
        let shim = node.shim().await;
        let id = node.run(&shim, &sh("echo hello; sleep 1000")).await;
        shims.push((shim, id));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let kib = |pid: u32, name: &str| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let value = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mean = |name| shims.iter().map(|(shim, _)| kib(shim.pid(), name)).sum::<u64>() / 20;
    let (pss, dirty) = (mean("Pss:"), mean("Private_Dirty:"));
    println!(
        "20 shims, one container each ({}): PSS {pss} KiB, private dirty {dirty} KiB",
        node.shims.binary.display()
    );
    // The promise is for the static build; this one may be a dynamic, unoptimised build of the tests.
    assert!(pss < 1024, "{pss}");
    for (shim, id) in shims {
        shim.kill(&id, Signal::KILL, true).await.unwrap();
    }
}
