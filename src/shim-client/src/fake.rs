//! Shims without processes: a thread for each connection speaks the real frames over a socket pair, and what
//! goes wrong follows from a seed. For the tests of those who drive shims.
//!
//! A fake "container" runs until [`FakeShims::exit`], a kill, or its seeded end. Exit records are kept in
//! memory ([`FakeShims::records`]) and, when a root directory is given, written where real shims write them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write as _;
use std::ops::Bound;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::epoll::{Epoll, Interest};
use kernel::seqpacket;
use model::limits::SHIM_FRAME_BYTES_MAX;
use model::{ContainerId, ExecId, PodId};
use wire::{
    ContainerState, Event, ExecStarted, ExitRecord, Failure, FailureKind, Frame, HelloReply, Phase, Reply,
    ReplyBody, Request, RequestBody, Started, StateReply,
};

use crate::exits::directory;
use crate::{Shim, ShimError, ShimSpec, Shims};

const SIGKILL: i32 = 9;

/// How often what goes wrong: each in a thousand requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Answers that come late, by up to [`Self::slow_by`].
    pub slow: u32,
    /// The longest of those delays.
    pub slow_by: Duration,
    /// Requests that fail, at a stage that could.
    pub fail: u32,
    /// Requests that are done, and whose connection is lost before the answer.
    pub lose_answer: u32,
    /// Requests at which the shim dies, with all its containers' parents: records are left of those that had
    /// ended, none of those that ran.
    pub die: u32,
    /// Containers that end by themselves right after they were started.
    pub exit: u32,
}

/// Shims of a made-up machine. Clones share it.
#[derive(Clone)]
pub struct FakeShims {
    world: Arc<Mutex<World>>,
}

struct World {
    random: u64,
    faults: Faults,
    root: Option<PathBuf>,
    pods: HashMap<PodId, Pod>,
    asked: Vec<(PodId, RequestBody)>,
    fail_next: Option<Failure>,
    signals_ignored: bool,
    exec_answer: (Vec<u8>, i32),
    clock: i64,
    last_pid: u32,
}

#[derive(Default)]
struct Pod {
    pid: u32,
    pod_init: Option<u32>,
    containers: BTreeMap<ContainerId, Phase>,
    records: Vec<ExitRecord>,
    connections: Vec<Arc<OwnedFd>>,
    alive: bool,
}

/// What becomes of a request.
enum Fate {
    Answer(Box<Result<ReplyBody, Failure>>),
    LoseAnswer,
    Die,
}

impl FakeShims {
    /// A machine on which nothing goes wrong by itself. Print the seed when a test fails.
    pub fn new(seed: u64) -> Self {
        Self {
            world: Arc::new(Mutex::new(World {
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
            })),
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these faults happen.
    pub fn set_faults(&self, faults: Faults) {
        self.world().faults = faults;
    }

    /// Exit records are written below this root too, as real shims do.
    pub fn set_root(&self, root: PathBuf) {
        self.world().root = Some(root);
    }

    /// The next request that is not a hello or a question fails so.
    pub fn fail_next(&self, failure: Failure) {
        self.world().fail_next = Some(failure);
    }

    /// From now on containers die of SIGKILL alone.
    pub fn ignore_signals(&self) {
        self.world().signals_ignored = true;
    }

    /// What every exec prints to standard output, and its code.
    pub fn set_exec_answer(&self, stdout: impl Into<Vec<u8>>, code: i32) {
        self.world().exec_answer = (stdout.into(), code);
    }

    /// Everything that was asked so far, in order.
    pub fn asked(&self) -> Vec<(PodId, RequestBody)> {
        self.world().asked.clone()
    }

    /// The containers that run, over all pods.
    pub fn running(&self) -> Vec<ContainerId> {
        let world = self.world();
        let running =
            |(id, phase): (&ContainerId, &Phase)| matches!(phase, Phase::Running(_)).then(|| id.clone());
        world.pods.values().flat_map(|pod| pod.containers.iter().filter_map(running)).collect()
    }

    /// The pods whose shims live.
    pub fn alive(&self) -> Vec<PodId> {
        self.world().pods.iter().filter(|(_, pod)| pod.alive).map(|(id, _)| id.clone()).collect()
    }

    /// The exit records that the pod's shim has left.
    pub fn records(&self, pod: &PodId) -> Vec<ExitRecord> {
        self.world().pods.get(pod).map(|pod| pod.records.clone()).unwrap_or_default()
    }

    /// The container ends with this code. False when it does not run.
    pub fn exit(&self, pod: &PodId, container: &ContainerId, code: i32) -> bool {
        self.world().exit(pod, container, code, None, false)
    }

    /// The kernel kills the container for want of memory.
    pub fn oom(&self, pod: &PodId, container: &ContainerId) -> bool {
        self.world().exit(pod, container, 128 + SIGKILL, Some(SIGKILL), true)
    }

    /// The shim dies; what it held is lost, but for its records.
    pub fn crash(&self, pod: &PodId) {
        self.world().crash(pod);
    }

    /// Every connection to the pod's shim is lost; the shim lives.
    pub fn disconnect(&self, pod: &PodId) {
        if let Some(pod) = self.world().pods.get_mut(pod) {
            pod.disconnect();
        }
    }

    async fn open(&self, id: &PodId) -> Result<Shim, ShimError> {
        let (ours, theirs) = seqpacket::pair().map_err(|source| ShimError::System {
            attempt: "connect",
            pod: id.clone(),
            source,
        })?;
        {
            let mut world = self.world();
            let Some(pod) = world.pods.get_mut(id).filter(|pod| pod.alive) else {
                return Err(ShimError::NotRunning { pod: id.clone() });
            };
            let theirs = Arc::new(theirs);
            pod.connections.push(Arc::clone(&theirs));
            let (shims, pod) = (self.clone(), id.clone());
            std::thread::spawn(move || shims.serve(&pod, &theirs));
        }
        match Shim::over(id.clone(), ours).await {
            Err(ShimError::Lost { pod, .. }) => Err(ShimError::NotRunning { pod }),
            other => other,
        }
    }

    /// One connection's thread.
    fn serve(&self, pod: &PodId, socket: &Arc<OwnedFd>) {
        let mut ready = Vec::new();
        let mut buffer = vec![0; SHIM_FRAME_BYTES_MAX];
        let Ok(epoll) = Epoll::new() else { return };
        if epoll.add(socket, 0, Interest::Read).is_err() {
            return;
        }
        while epoll.wait(&mut ready, None).is_ok() {
            match seqpacket::receive(socket.as_fd(), &mut buffer) {
                Ok(message) if message.length > 0 => {
                    if let Ok(Frame::Request(request)) = Frame::decode(&buffer[..message.length])
                        && !self.handle(pod, socket, request, message.fds)
                    {
                        break;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => break,
            }
        }
        if let Some(pod) = self.world().pods.get_mut(pod) {
            pod.connections.retain(|other| !Arc::ptr_eq(other, socket));
        }
    }

    /// Does one request; false when its connection is to end.
    fn handle(&self, pod: &PodId, socket: &OwnedFd, request: Request, fds: Vec<OwnedFd>) -> bool {
        let delay = {
            let mut world = self.world();
            let by = u64::try_from(world.faults.slow_by.as_millis()).unwrap_or(u64::MAX);
            let slow = world.faults.slow;
            if world.chance(slow) { Duration::from_millis(world.roll() % (by + 1)) } else { Duration::ZERO }
        };
        std::thread::sleep(delay);
        let mut world = self.world();
        let exec = match &request.body {
            RequestBody::Exec(exec) => Some(exec.clone()),
            _ => None,
        };
        let started = match &request.body {
            RequestBody::Run(run) => Some(run.container.clone()),
            _ => None,
        };
        let ends = matches!(request.body, RequestBody::Shutdown);
        match world.decide(pod, request.body) {
            Fate::Answer(outcome) => {
                let done = outcome.is_ok();
                let frame = Frame::Reply(Reply { seq: request.seq, outcome: *outcome });
                if send(socket, &frame).is_none() {
                    return false;
                }
                if let Some(exec) = exec.filter(|_| done) {
                    world.finish_exec(pod, &exec, fds);
                }
                let exits = world.faults.exit;
                if let Some(container) = started
                    && done
                    && world.chance(exits)
                {
                    let code = i32::try_from(world.roll() % 256).unwrap_or(0);
                    world.exit(pod, &container, code, None, false);
                }
                if ends && done {
                    world.crash(pod);
                }
                !ends
            }
            Fate::LoseAnswer => {
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                false
            }
            Fate::Die => {
                world.crash(pod);
                false
            }
        }
    }
}

impl World {
    fn roll(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn chance(&mut self, in_a_thousand: u32) -> bool {
        in_a_thousand > 0 && self.roll() % 1000 < u64::from(in_a_thousand)
    }

    fn now(&mut self) -> i64 {
        self.clock += 1_000_000;
        self.clock
    }

    fn pid(&mut self) -> u32 {
        self.last_pid += 1;
        self.last_pid
    }

    fn decide(&mut self, pod: &PodId, body: RequestBody) -> Fate {
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
            RequestBody::KillExec(_) | RequestBody::CloseStdin { .. } => Ok(ReplyBody::Done),
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

    fn finish_exec(&mut self, pod: &PodId, exec: &wire::ExecProcess, fds: Vec<OwnedFd>) {
        // The process comes first, then standard input.
        let stdout = fds.into_iter().nth(1 + usize::from(exec.stdin)).filter(|_| exec.stdout);
        let (text, code) = self.exec_answer.clone();
        if let Some(stdout) = stdout {
            // A reader that has gone away misses it.
            let _ = fs::File::from(stdout).write_all(&text);
        }
        self.tell(pod, &exec_exited(&exec.exec, code));
    }

    fn exit(
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

    fn crash(&mut self, pod: &PodId) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.alive = false;
            pod.containers.clear();
            pod.disconnect();
        }
    }
}

impl Pod {
    fn disconnect(&mut self) {
        for connection in self.connections.drain(..) {
            let _ = rustix::net::shutdown(&*connection, rustix::net::Shutdown::Both);
        }
    }
}

fn exec_exited(exec: &ExecId, code: i32) -> Event {
    Event::ExecExited { exec: exec.clone(), code, timed_out: false }
}

fn send(socket: &OwnedFd, frame: &Frame) -> Option<()> {
    seqpacket::send(socket.as_fd(), &frame.encode().ok()?, &[]).ok()
}

#[async_trait::async_trait]
impl Shims for FakeShims {
    async fn start(&self, spec: &ShimSpec) -> Result<Shim, ShimError> {
        {
            let mut world = self.world();
            let (pid, init) = (world.pid(), world.pid());
            let pod = world.pods.entry(spec.pod.clone()).or_default();
            if !pod.alive {
                pod.alive = true;
                pod.pid = pid;
                pod.pod_init = spec.shared_pid.then_some(init);
            }
        }
        self.open(&spec.pod).await
    }

    async fn connect(&self, pod: &PodId) -> Result<Shim, ShimError> {
        self.open(pod).await
    }
}

#[cfg(test)]
mod tests;
