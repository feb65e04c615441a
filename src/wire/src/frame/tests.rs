use std::path::PathBuf;
use std::time::Duration;

use model::{ContainerId, ExecId, Signal};

use super::*;
use crate::*;

fn container() -> ContainerId {
    ContainerId::from_bytes([7; 32])
}

fn requests() -> Vec<RequestBody> {
    let exec = ExecId::from_bytes([9; 32]);
    vec![
        RequestBody::Hello,
        RequestBody::Run(Box::new(RunContainer {
            container: container(),
            bundle: PathBuf::from("/run/b"),
            runtime: OciRuntime {
                binary: "/usr/bin/crun".into(),
                systemd_cgroup: true,
                ..OciRuntime::default()
            },
            stdio: StdioSpec { tty: true, stdin: true, stdin_once: false },
            log: Some(LogTarget { path: "/var/log/x".into(), line_bytes_max: 16384 }),
            memory_cgroup: None,
            deadline_ms: 1000,
            restore: Some(dump()),
        })),
        RequestBody::Kill(KillContainer { container: container(), signal: Signal::TERM, all: true }),
        RequestBody::Delete { container: container() },
        RequestBody::Exec(ExecProcess {
            exec: exec.clone(),
            container: container(),
            tty: false,
            timeout: Some(Duration::from_millis(1500)),
            stdin: false,
            stdout: true,
            stderr: true,
            native: Some(NativeExec { keyring: Some("k".into()), filter_flags: Some(4) }),
        }),
        RequestBody::KillExec(KillExec { exec, signal: Signal::KILL }),
        RequestBody::Attach(Attach { container: container(), stdin: true, stdout: true, stderr: false }),
        RequestBody::Resize(Resize { container: container(), width: 80, height: 24 }),
        RequestBody::CloseStdin { container: container() },
        RequestBody::ReopenLog { container: container() },
        RequestBody::Pause(Pause {
            containers: vec![Held { container: container(), freezer: "/sys/fs/cgroup/x".into() }],
        }),
        RequestBody::Resume,
        RequestBody::Checkpoint(Checkpoint { container: container(), to: dump(), deadline_ms: 9 }),
        RequestBody::State(None),
        RequestBody::State(Some(container())),
        RequestBody::Shutdown,
    ]
}

fn dump() -> Dump {
    Dump { images: "/c/checkpoint".into(), work: "/c".into() }
}

fn record() -> ExitRecord {
    ExitRecord {
        version: VERSION,
        container: container(),
        pid: 4,
        code: 137,
        signal: Some(9),
        oom: true,
        started_at_ns: 1,
        finished_at_ns: i64::MAX,
        log_bytes_dropped: u64::MAX,
    }
}

fn frames() -> Vec<Frame> {
    let mut frames: Vec<Frame> =
        requests().into_iter().zip(1..).map(|(body, seq)| Frame::Request(Request { seq, body })).collect();
    let started = Started { pid: 3, started_at_ns: 5 };
    let states = [Phase::Starting, Phase::Running(started.clone()), Phase::Exited(record())]
        .map(|phase| ContainerState { container: container(), phase });
    for body in [
        ReplyBody::Hello(HelloReply {
            version: 1,
            pid: 2,
            pod_init: Some(3),
            native_exec: true,
            checkpoints: true,
        }),
        ReplyBody::Started(started),
        ReplyBody::ExecStarted(ExecStarted { pid: 8 }),
        ReplyBody::State(StateReply { pod_init: None, containers: states.to_vec(), more: true }),
        ReplyBody::Done,
    ] {
        frames.push(Frame::Reply(Reply::new(u64::MAX, Ok(body))));
    }
    let failure =
        Failure { stage: "runtime create".into(), message: "no".into(), kind: FailureKind::Deadline };
    let call = RuntimeCall { command: "create".into(), began_at_ns: 7, took_ns: 9, done: false };
    frames.push(Frame::Reply(Reply { seq: 1, outcome: Err(failure), runtime: vec![call] }));
    frames.push(Frame::Event(Event::Exited { container: container(), record: record() }));
    frames.push(Frame::Event(Event::ExecExited {
        exec: ExecId::from_bytes([1; 32]),
        code: -1,
        timed_out: true,
    }));
    frames.push(Frame::Event(Event::Oom { container: container() }));
    frames.push(Frame::Event(Event::PodInitExited));
    frames
}

fn raw(kind: u8, body: &str) -> Vec<u8> {
    let mut bytes = vec![b'G', b'T', VERSION, kind];
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

#[test]
fn every_frame_reads_back_as_it_was_written() {
    for frame in frames() {
        assert_eq!(Frame::decode(&frame.encode().unwrap()).unwrap(), frame);
    }
}

#[test]
fn the_longest_page_of_a_state_fits_and_older_services_and_shims_are_understood() {
    let longest = ExitRecord {
        pid: u32::MAX,
        code: i32::MIN,
        signal: Some(i32::MIN),
        oom: false,
        started_at_ns: i64::MIN,
        finished_at_ns: i64::MIN,
        ..record()
    };
    let state = ContainerState { container: container(), phase: Phase::Exited(longest) };
    let page = StateReply::page(Some(u32::MAX), std::iter::repeat_n(state.clone(), 1000));
    assert!(page.more && page.containers.len() > 200, "{}", page.containers.len());
    let page = Frame::Reply(Reply::new(u64::MAX, Ok(ReplyBody::State(page))));
    assert_eq!(Frame::decode(&page.encode().unwrap()).unwrap(), page);
    assert!(!StateReply::page(None, [state]).more);

    let asked = Frame::Request(Request { seq: 3, body: RequestBody::State(None) });
    for body in [r#"{"seq":3,"kind":"state"}"#, r#"{"seq":3,"kind":"state","body":null}"#] {
        assert_eq!(Frame::decode(&raw(1, body)).unwrap(), asked);
    }
    // What an older shim reads: a kind without a body.
    #[derive(Debug, serde::Deserialize)]
    #[serde(tag = "kind", content = "body", rename_all = "snake_case")]
    enum Old {
        State,
    }
    #[derive(serde::Deserialize)]
    struct OldRequest {
        #[serde(flatten)]
        body: Old,
    }
    let read: OldRequest = serde_json::from_slice(&asked.encode().unwrap()[HEADER_BYTES..]).unwrap();
    assert!(matches!(read.body, Old::State));
    let reply = r#"{"seq":3,"outcome":{"Ok":{"kind":"state","body":{"pod_init":null,"containers":[]}}}}"#;
    let state = ReplyBody::State(StateReply::default());
    assert_eq!(Frame::decode(&raw(2, reply)).unwrap(), Frame::Reply(Reply::new(3, Ok(state))));
}

#[test]
fn a_cut_or_padded_frame_is_refused_at_every_length() {
    for frame in frames() {
        let bytes = frame.encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..length]).is_err(), "{frame:?} cut to {length}");
        }
        let padded = [bytes.as_slice(), b" "].concat();
        assert!(matches!(Frame::decode(&padded), Err(DecodeError::Length { .. })));
    }
}

#[test]
fn a_changed_byte_never_panics_and_the_header_guards_itself() {
    for frame in frames() {
        let bytes = frame.encode().unwrap();
        for at in 0..bytes.len() {
            for change in [0x01, 0x20, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= change;
                let decoded = Frame::decode(&bad);
                assert!(at >= HEADER_BYTES || at == 3 || decoded.is_err(), "header byte {at} of {frame:?}");
            }
        }
    }
}

#[test]
fn what_is_not_known_is_named() {
    let mut future = raw(1, r#"{"seq":1,"kind":"hello"}"#);
    future[2] = 9;
    assert!(matches!(Frame::decode(&future), Err(DecodeError::Version(9))));
    assert!(matches!(Frame::decode(&raw(9, "{}")), Err(DecodeError::Type(9))));
    match Frame::decode(&raw(1, r#"{"seq":77,"kind":"teleport","body":{"to":1}}"#)) {
        Err(DecodeError::UnknownKind { seq: 77, kind }) => assert_eq!(kind, "teleport"),
        other => panic!("{other:?}"),
    }
    let unknown_event = Frame::decode(&raw(3, r#"{"kind":"sunrise","body":{}}"#));
    assert!(matches!(unknown_event, Err(DecodeError::UnknownKind { seq: 0, .. })));
    let bad_body = Frame::decode(&raw(1, r#"{"seq":5,"kind":"delete","body":{"container":"../.."}}"#));
    assert!(matches!(bad_body, Err(DecodeError::Body { seq: 5, .. })), "{bad_body:?}");
}

#[test]
fn fields_and_failure_kinds_of_a_newer_side_are_taken() {
    let id = container();
    let newer = raw(
        1,
        &format!(r#"{{"seq":2,"kind":"delete","since":3,"body":{{"container":"{id}","how":"softly"}}}}"#),
    );
    let expected = Request { seq: 2, body: RequestBody::Delete { container: id } };
    assert_eq!(Frame::decode(&newer).unwrap(), Frame::Request(expected));
    let newer = raw(2, r#"{"seq":2,"outcome":{"Err":{"stage":"s","message":"m","kind":"eclipse"}}}"#);
    match Frame::decode(&newer).unwrap() {
        Frame::Reply(Reply { outcome: Err(failure), .. }) => assert_eq!(failure.kind, FailureKind::Internal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_frame_over_the_bound_is_not_sent() {
    let failure = Failure { stage: String::new(), message: "x".repeat(200_000), kind: FailureKind::Busy };
    let frame = Frame::Reply(Reply::new(1, Err(failure)));
    assert!(matches!(frame.encode(), Err(EncodeError::TooLarge(n)) if n > 200_000));
}

#[test]
fn an_older_shim_starts_no_exec_itself_and_is_asked_as_ever() {
    let hello: HelloReply = serde_json::from_str(r#"{"version": 1, "pid": 7}"#).unwrap();
    assert!(!hello.native_exec);
    let exec = requests().into_iter().find_map(|body| match body {
        RequestBody::Exec(exec) => Some(ExecProcess { native: None, ..exec }),
        _ => None,
    });
    let text = serde_json::to_string(&exec.unwrap()).unwrap();
    assert!(!text.contains("native"), "{text}");
}
