//! The handle over fake shims: what must hold whatever goes wrong.

use std::time::Duration;

use model::{Classify as _, ErrorKind, ExecId, Signal};
use wire::{Event, OciRuntime, RunContainer, StdioSpec};

use super::*;
use crate::{ExecFds, ExecProcess};

fn pod() -> PodId {
    PodId::from_bytes([1; 32])
}

fn spec() -> ShimSpec {
    ShimSpec { pod: pod(), shared_pid: false, user_namespace: None }
}

fn run(n: u8) -> RunContainer {
    RunContainer {
        container: ContainerId::from_bytes([n; 32]),
        bundle: PathBuf::new(),
        runtime: OciRuntime::default(),
        stdio: StdioSpec::default(),
        log: None,
        memory_cgroup: None,
        deadline_ms: 1000,
        restore: None,
    }
}

fn exec(n: u8, container: &ContainerId) -> ExecProcess {
    ExecProcess {
        exec: ExecId::from_bytes([n; 32]),
        container: container.clone(),
        process: serde_json::Value::Null,
        tty: false,
        timeout: None,
        native: None,
    }
}

#[tokio::test]
async fn a_container_lives_and_its_end_is_told() {
    let shims = FakeShims::new(1);
    let shim = shims.start(&spec()).await.unwrap();
    let mut events = shim.events();
    let id = run(2).container;
    shim.run(run(2)).await.unwrap();
    assert_eq!(shim.run(run(2)).await.unwrap_err().kind(), ErrorKind::Exists);
    assert!(shims.exit(&pod(), &id, 3));
    assert!(!shims.exit(&pod(), &id, 3));
    match events.recv().await.unwrap() {
        Event::Exited { record, .. } => assert_eq!(record, shims.records(&pod())[0]),
        other => panic!("{other:?}"),
    }
    shim.kill(&id, Signal::TERM, false).await.unwrap();
    shim.delete(&id).await.unwrap();
    assert_eq!(shim.state().await.unwrap(), []);
    shim.shutdown().await.unwrap();
    assert!(matches!(shims.connect(&pod()).await, Err(ShimError::NotRunning { .. })));
}

#[tokio::test]
async fn what_is_told_before_anybody_listens_is_heard_by_the_first_who_does() {
    let shims = FakeShims::new(1);
    let shim = shims.start(&spec()).await.unwrap();
    shim.run(run(2)).await.unwrap();
    assert!(shims.exit(&pod(), &run(2).container, 3));
    // What was told comes before this answer.
    shim.state().await.unwrap();
    assert!(matches!(shim.events().try_recv(), Ok(Event::Exited { .. })));
    assert!(shim.events().try_recv().is_err(), "the second hears what is told from then on");
}

#[tokio::test]
async fn the_state_of_more_containers_than_a_frame_has_room_for_is_whole() {
    let shims = FakeShims::new(1);
    let shim = shims.start(&spec()).await.unwrap();
    let ids: Vec<ContainerId> = (0..600_u16)
        .map(|n| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            ContainerId::from_bytes(bytes)
        })
        .collect();
    for id in &ids {
        shim.run(RunContainer { container: id.clone(), ..run(0) }).await.unwrap();
        shims.exit(&pod(), id, 1);
    }
    let told: Vec<_> = shim.state().await.unwrap().into_iter().map(|state| state.container).collect();
    assert_eq!(told, ids);
}

#[tokio::test]
async fn an_execs_exit_is_never_missed_however_early_it_comes() {
    let shims = FakeShims::new(2);
    shims.set_exec_answer("", 5);
    let shim = shims.start(&spec()).await.unwrap();
    let id = run(2).container;
    shim.run(run(2)).await.unwrap();
    for n in 0..100 {
        let exec = exec(n, &id);
        let exec_id = exec.exec.clone();
        shim.exec(exec, ExecFds::default()).await.unwrap();
        if n % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let waited = tokio::time::timeout(Duration::from_secs(5), shim.wait_exec(&exec_id)).await;
        assert_eq!(waited.unwrap().unwrap().code, 5);
    }
}

#[tokio::test]
async fn a_lost_connection_fails_what_waits_and_the_next_one_knows_all() {
    let shims = FakeShims::new(3);
    let shim = shims.start(&spec()).await.unwrap();
    let id = run(2).container;
    shim.run(run(2)).await.unwrap();
    shims.disconnect(&pod());
    shim.closed().await;
    assert!(matches!(shim.state().await, Err(ShimError::Lost { .. })));
    assert!(matches!(shim.wait_exec(&ExecId::from_bytes([1; 32])).await, Err(ShimError::Lost { .. })));
    shims.exit(&pod(), &id, 7);
    let shim = shims.connect(&pod()).await.unwrap();
    let state = shim.state().await.unwrap();
    assert!(matches!(&state[0].phase, Phase::Exited(record) if record.code == 7), "{state:?}");
    shims.crash(&pod());
    shim.closed().await;
    assert!(matches!(shims.connect(&pod()).await, Err(ShimError::NotRunning { .. })));
    assert_eq!(shims.records(&pod()).len(), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_not_waited_for_beyond_the_bound() {
    let shims = FakeShims::new(4);
    let shim = shims.start(&spec()).await.unwrap();
    shims.set_faults(Faults { slow: 1000, slow_by: Duration::from_millis(400), ..Faults::default() });
    let abandoned = tokio::time::timeout(Duration::from_millis(1), shim.state()).await;
    shims.set_faults(Faults::default());
    // Whoever gives up leaves the connection usable.
    let _ = abandoned;
    assert_eq!(shim.state().await.unwrap(), []);
}

#[tokio::test]
async fn whatever_goes_wrong_every_call_ends_and_records_tell_the_truth() {
    for seed in 1..40 {
        let shims = FakeShims::new(seed);
        let mut shim = shims.start(&spec()).await.unwrap();
        shims.set_faults(Faults {
            slow: 100,
            slow_by: Duration::from_millis(3),
            fail: 80,
            lose_answer: 80,
            die: 20,
            exit: 200,
        });
        for n in 0..30 {
            let id = run(n).container;
            let ran = tokio::time::timeout(Duration::from_secs(10), shim.run(run(n))).await.expect("it ends");
            if ran.is_ok() {
                let _ = shim.exec(exec(n, &id), ExecFds::default()).await;
                let _ = shim.kill(&id, Signal::KILL, true).await;
            }
            if matches!(ran, Err(ShimError::Lost { .. })) || shim.state().await.is_err() {
                shim = match shims.connect(&pod()).await {
                    Ok(shim) => shim,
                    Err(ShimError::NotRunning { .. }) => shims.start(&spec()).await.unwrap(),
                    Err(other) => panic!("seed {seed}: {other}"),
                };
            }
        }
        shims.set_faults(Faults::default());
        let records = shims.records(&pod());
        for state in shim.state().await.unwrap() {
            if let Phase::Exited(record) = state.phase {
                assert!(records.contains(&record), "seed {seed}");
            }
        }
    }
}
