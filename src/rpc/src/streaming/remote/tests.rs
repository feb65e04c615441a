//! The parts that need no container: sizes, statuses, output whose reader or writer is odd.

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::*;
use crate::streaming::mux::{self, Frame, Headers, Inlet, Room};

const TEXT: Version = Version { json: false, sizes: false };
const JSON: Version = Version { json: true, sizes: true };
/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(5);

fn channel(kind: &str) -> (Channel, Inlet, mpsc::Receiver<Frame>) {
    let (writer, frames) = mux::writer();
    let headers = Headers::from([("streamtype".to_owned(), kind.to_owned())]);
    let (channel, inlet) = Channel::new(1, headers, writer, &Room::default());
    (channel, inlet, frames)
}

#[tokio::test]
async fn sizes_are_read_however_they_are_cut() {
    let (channel, mut inlet, _frames) = channel("resize");
    for piece in [
        r#"{"Width":80,"He"#,
        r#"ight":24}"#,
        "\n",
        r#"{"Width":0,"Height":5}"#,
        r#"{"Width":1,"Height":2}{"Width":3,"Height":4}"#,
    ] {
        inlet.put(Bytes::from(piece)).await;
    }
    inlet.end();
    let mut sizes = Sizes::new(Some(channel.incoming));
    let mut seen = Vec::new();
    while let Some(size) = sizes.next().await {
        seen.push(size);
    }
    assert_eq!(seen, [(80, 24), (3, 4)]);
}

#[tokio::test]
async fn sizes_that_make_no_sense_are_read_no_further() {
    let (channel, inlet, _frames) = channel("resize");
    inlet.put(Bytes::from(vec![b'['; 4096])).await;
    assert_eq!(Sizes::new(Some(channel.incoming)).next().await, None);
}

async fn said(version: Version, status: Status) -> String {
    let (channel, _inlet, mut frames) = channel("error");
    status.say(channel.outgoing, version).await;
    let mut text = String::new();
    loop {
        match frames.recv().await {
            Some(Frame::Data(1, bytes)) => text.push_str(str::from_utf8(&bytes).unwrap()),
            Some(Frame::End(1)) => return text,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_last_word_is_a_status() {
    let json: Value = serde_json::from_str(&said(JSON, Status::Exited(7)).await).unwrap();
    assert_eq!(json["reason"], "NonZeroExitCode");
    assert_eq!(json["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "7" }));
    assert_eq!(said(JSON, Status::Exited(0)).await, r#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(said(TEXT, Status::Exited(0)).await, "");
    assert!(said(TEXT, Status::Exited(7)).await.contains("exit status 7"));
    assert_eq!(said(TEXT, Status::Failed("why".into())).await, "why");
}

#[tokio::test]
async fn a_terminal_of_the_first_versions_has_no_channel_for_sizes() {
    let wanted = Wanted { stdin: false, stdout: true, stderr: false, tty: true };
    for (version, kinds) in [(TEXT, &["error", "stdout"][..]), (JSON, &["resize", "stdout", "error"])] {
        let (sender, channels) = mpsc::channel(8);
        let mut kept = Vec::new();
        for kind in kinds {
            let (channel, inlet, frames) = channel(kind);
            sender.send(channel).await.unwrap();
            kept.push((inlet, frames));
        }
        let remote = tokio::time::timeout(SOON, collect(wanted, version, SOON, channels)).await;
        assert!(remote.expect("complete").is_some(), "{version:?}");
    }
}

fn pipe() -> (Arc<Fd>, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (Arc::new(Fd::new(read).unwrap()), write)
}

#[tokio::test]
async fn output_of_a_client_that_left_is_drained_for_exec_and_left_for_attach() {
    for (gone, ends) in [(Gone::Drain, false), (Gone::Leave, true)] {
        let (read, write) = pipe();
        let (channel, inlet, _frames) = channel("stdout");
        inlet.reset();
        rustix::io::write(&write, b"unheard").unwrap();
        let never = CancellationToken::new();
        let output = output(Some(read), Some(channel.outgoing), gone, &never);
        let ended = tokio::time::timeout(Duration::from_millis(100), output).await.is_ok();
        assert_eq!(ended, ends, "the pipe stays open as long as the process writes");
        drop(write);
    }
}

#[tokio::test]
async fn a_slow_client_gets_all_of_what_an_ended_command_wrote() {
    let (read, write) = pipe();
    let (channel, _inlet, mut frames) = channel("stdout");
    // Small pieces fill the frames that wait; the rest of them is still in the pipe when the command ends.
    let exited = CancellationToken::new();
    exited.cancel();
    let writing = std::thread::spawn(move || {
        for _ in 0..40 {
            rustix::io::write(&write, &[b'x'; 100]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        // Somebody holds the pipe open for ever.
        write
    });
    let slowly = async {
        let mut bytes = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(80)).await;
            match frames.recv().await {
                Some(Frame::Data(_, piece)) => bytes += piece.len(),
                Some(Frame::End(_)) => return bytes,
                other => panic!("{other:?}"),
            }
        }
    };
    let began = Instant::now();
    let (bytes, ()) = tokio::join!(slowly, output(Some(read), Some(channel.outgoing), Gone::Drain, &exited));
    assert_eq!(bytes, 4000);
    assert!(began.elapsed() < Duration::from_secs(60), "what holds the pipe is not waited for");
    drop(writing.join());
}
