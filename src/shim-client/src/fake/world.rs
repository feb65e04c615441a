//! What a made-up machine holds: pods, their containers, and the dice that say what goes wrong.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::ops::Bound;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use kernel::seqpacket;
use model::{ContainerId, ExecId, PodId};
use wire::{
    ContainerState, Event, ExecStarted, ExitRecord, Failure, FailureKind, Frame, HelloReply, Phase,
    ReplyBody, RequestBody, Started, StateReply,
};

use super::{Faults, SIGKILL};
use crate::exits::directory;

/// Everything that the fake shims share.
pub(super) struct World {
    pub(super) random: u64,
    pub(super) faults: Faults,
    pub(super) root: Option<PathBuf>,
    pub(super) pods: HashMap<PodId, Pod>,
    pub(super) asked: Vec<(PodId, RequestBody)>,
    pub(super) fail_next: Option<Failure>,
    pub(super) signals_ignored: bool,
    pub(super) exec_answer: (Vec<u8>, i32),
    pub(super) clock: i64,
    pub(super) last_pid: u32,
}

/// One shim and its pod.
#[derive(Default)]
pub(super) struct Pod {
    pub(super) pid: u32,
    pub(super) pod_init: Option<u32>,
    pub(super) containers: BTreeMap<ContainerId, Phase>,
    pub(super) records: Vec<ExitRecord>,
    pub(super) connections: Vec<Arc<OwnedFd>>,
    pub(super) alive: bool,
}

/// What becomes of a request.
pub(super) enum Fate {
    Answer(Box<Result<ReplyBody, Failure>>),
    LoseAnswer,
    Die,
}

impl World {
    /// Where nothing goes wrong by itself.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            // xorshift has no zero.
            random: seed | 1 << 63,
            faults: Faults::default(),
            root: None,
            pods: HashMap::new(),
            asked: Vec::new(),
            fail_next: None,
            signals_ignored: false,
            exec_answer: (Vec::new(), 0),
            clock: 1_700_000_000_000_000_000,
            last_pid: 100,
        }
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(super) fn chance(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.roll() % 1000 < u64::from(in_a_thousand)
    }

    pub(super) fn now(&mut self) -> i64 {
        self.clock += 1_000_000;
        self.clock
    }

    pub(super) fn pid(&mut self) -> u32 {
        self.last_pid += 1;
        self.last_pid
    }

    pub(super) fn decide(&mut self, pod: &PodId, body: RequestBody) -> Fate {
        let question = matches!(body, RequestBody::Hello | RequestBody::State(_));
        self.asked.push((pod.clone(), body.clone()));
        if !question {
            if let Some(failure) = self.fail_next.take() {
                return Fate::Answer(Box::new(Err(failure)));
            }
            let Faults { fail, lose_answer, die, .. } = self.faults;
            if self.chance(die) {
                return Fate::Die;
            }
            if self.chance(fail) {
                let stage = match body {
                    RequestBody::Run(_) => {
                        ["open log", "runtime create", "runtime start"][self.roll() as usize % 3]
                    }
                    _ => "a seeded fault",
                };
                let failure =
                    Failure { stage: stage.into(), message: "seeded".into(), kind: FailureKind::Internal };
                return Fate::Answer(Box::new(Err(failure)));
            }
            if self.chance(lose_answer) {
                let ends = matches!(body, RequestBody::Shutdown);
                if self.perform(pod, body).is_ok() && ends {
                    self.crash(pod);
                }
                return Fate::LoseAnswer;
            }
        }
        Fate::Answer(Box::new(self.perform(pod, body)))
    }

    fn perform(&mut self, id: &PodId, body: RequestBody) -> Result<ReplyBody, Failure> {
        let (now, pid) = (self.now(), self.pid());
        let refuse =
            |kind, message: &str| Err(Failure { stage: "fake".into(), message: message.into(), kind });
        let Some(pod) = self.pods.get_mut(id).filter(|pod| pod.alive) else {
            return refuse(FailureKind::Internal, "this shim is dead");
        };
        let runs = |pod: &Pod, container| matches!(pod.containers.get(container), Some(Phase::Running(_)));
        match body {
            RequestBody::Hello => Ok(ReplyBody::Hello(HelloReply {
                version: wire::VERSION,
                pid: pod.pid,
                pod_init: pod.pod_init,
                native_exec: true,
                checkpoints: true,
            })),
            RequestBody::Run(run) => {
                if pod.containers.contains_key(&run.container) {
                    return refuse(FailureKind::Exists, "the container is here already");
                }
                let started = Started { pid, started_at_ns: now };
                pod.containers.insert(run.container, Phase::Running(started.clone()));
                Ok(ReplyBody::Started(started))
            }
            RequestBody::Kill(kill) => {
                if !pod.containers.contains_key(&kill.container) {
                    return refuse(FailureKind::NotFound, "no such container");
                }
                let signal = kill.signal.number();
                if self.signals_ignored && signal != SIGKILL {
                    return Ok(ReplyBody::Done);
                }
                self.exit(id, &kill.container, 128 + signal, Some(signal), false);
                Ok(ReplyBody::Done)
            }
            RequestBody::Delete { container } => {
                self.exit(id, &container, 128 + SIGKILL, Some(SIGKILL), false);
                if let Some(pod) = self.pods.get_mut(id) {
                    pod.containers.remove(&container);
                }
                Ok(ReplyBody::Done)
            }
            RequestBody::Exec(exec) if runs(pod, &exec.container) => {
                Ok(ReplyBody::ExecStarted(ExecStarted { pid }))
            }
            RequestBody::Attach(attach) if runs(pod, &attach.container) => Ok(ReplyBody::Done),
            RequestBody::Resize(resize) if runs(pod, &resize.container) => Ok(ReplyBody::Done),
            RequestBody::ReopenLog { container } if runs(pod, &container) => Ok(ReplyBody::Done),
            RequestBody::Exec(_)
            | RequestBody::Attach(_)
            | RequestBody::Resize(_)
            | RequestBody::ReopenLog { .. } => refuse(FailureKind::WrongState, "the container does not run"),
            RequestBody::Pause(pause) if pause.containers.iter().all(|held| runs(pod, &held.container)) => {
                Ok(ReplyBody::Done)
            }
            RequestBody::Checkpoint(wanted) if runs(pod, &wanted.container) => Ok(ReplyBody::Done),
            RequestBody::Pause(_) | RequestBody::Checkpoint(_) => {
                refuse(FailureKind::WrongState, "the container does not run")
            }
            RequestBody::KillExec(_) | RequestBody::CloseStdin { .. } | RequestBody::Resume => {
                Ok(ReplyBody::Done)
            }
            RequestBody::State(after) => {
                let state = |(id, phase): (&ContainerId, &Phase)| ContainerState {
                    container: id.clone(),
                    phase: phase.clone(),
                };
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let containers = pod.containers.range::<ContainerId, _>((from, Bound::Unbounded)).map(state);
                Ok(ReplyBody::State(StateReply::page(pod.pod_init, containers)))
            }
            RequestBody::Shutdown
                if pod.containers.values().any(|phase| matches!(phase, Phase::Running(_))) =>
            {
                refuse(FailureKind::WrongState, "a container runs")
            }
            RequestBody::Shutdown => Ok(ReplyBody::Done),
        }
    }

    pub(super) fn finish_exec(&mut self, pod: &PodId, exec: &wire::ExecProcess, fds: Vec<OwnedFd>) {
        // The process comes first, then standard input.
        let stdout = fds.into_iter().nth(1 + usize::from(exec.stdin)).filter(|_| exec.stdout);
        let (text, code) = self.exec_answer.clone();
        if let Some(stdout) = stdout {
            // A reader that has gone away misses it.
            let _ = fs::File::from(stdout).write_all(&text);
        }
        self.tell(pod, &exec_exited(&exec.exec, code));
    }

    pub(super) fn exit(
        &mut self,
        id: &PodId,
        container: &ContainerId,
        code: i32,
        signal: Option<i32>,
        oom: bool,
    ) -> bool {
        let now = self.now();
        let Some(pod) = self.pods.get_mut(id) else { return false };
        let Some(Phase::Running(started)) = pod.containers.get(container) else { return false };
        let record = ExitRecord {
            version: wire::VERSION,
            container: container.clone(),
            pid: started.pid,
            code,
            signal,
            oom,
            started_at_ns: started.started_at_ns,
            finished_at_ns: now,
            log_bytes_dropped: 0,
        };
        pod.containers.insert(container.clone(), Phase::Exited(record.clone()));
        pod.records.push(record.clone());
        if let (Some(root), Ok(bytes)) = (&self.root, serde_json::to_vec(&record)) {
            let dir = directory(root, id);
            let _ = fs::create_dir_all(&dir);
            let _ = fs::write(dir.join(format!("{container}.json")), bytes);
        }
        if oom {
            self.tell(id, &Event::Oom { container: container.clone() });
        }
        self.tell(id, &Event::Exited { container: container.clone(), record });
        true
    }

    fn tell(&mut self, pod: &PodId, event: &Event) {
        for connection in self.pods.get(pod).map(|pod| pod.connections.as_slice()).unwrap_or_default() {
            let _ = send(connection, &Frame::Event(event.clone()));
        }
    }

    pub(super) fn crash(&mut self, pod: &PodId) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.alive = false;
            pod.containers.clear();
            pod.disconnect();
        }
    }
}

impl Pod {
    pub(super) fn disconnect(&mut self) {
        for connection in self.connections.drain(..) {
            let _ = rustix::net::shutdown(&*connection, rustix::net::Shutdown::Both);
        }
    }
}

fn exec_exited(exec: &ExecId, code: i32) -> Event {
    Event::ExecExited { exec: exec.clone(), code, timed_out: false }
}

pub(super) fn send(socket: &OwnedFd, frame: &Frame) -> Option<()> {
    seqpacket::send(socket.as_fd(), &frame.encode().ok()?, &[]).ok()
}
