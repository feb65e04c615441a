//! Shims without processes: a thread for each connection speaks the real frames over a socket pair, and what
//! goes wrong follows from a seed. For the tests of those who drive shims.
//!
//! A fake "container" runs until [`FakeShims::exit`], a kill, or its seeded end. Exit records are kept in
//! memory ([`FakeShims::records`]) and, when a root directory is given, written where real shims write them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kernel::epoll::{Epoll, Interest};
use kernel::pidfd::SIGKILL;
use kernel::seqpacket;
use model::limits::SHIM_FRAME_BYTES_MAX;
use model::{ContainerId, PodId};
use wire::{ExitRecord, Failure, Frame, Phase, Reply, Request, RequestBody};

use self::world::{Fate, World, send};
use crate::{Shim, ShimError, ShimSpec, Shims};

mod world;

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

impl FakeShims {
    /// A machine on which nothing goes wrong by itself. Print the seed when a test fails.
    pub fn new(seed: u64) -> Self {
        Self { world: Arc::new(Mutex::new(World::new(seed))) }
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

    /// Connections that are not at their end: what was sent over them may be yet to be done.
    pub fn connections(&self) -> usize {
        self.world().pods.values().map(|pod| pod.connections.len()).sum()
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
        match Shim::over(id.clone(), ours, telemetry::Stages::default()).await {
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
                let frame = Frame::Reply(Reply::new(request.seq, *outcome));
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
                let ended = ends && done;
                if ended {
                    world.crash(pod);
                }
                !ended
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

    async fn probe(&self) -> Result<(), ShimError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
