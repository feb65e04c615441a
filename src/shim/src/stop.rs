//! From a running container to none: signals, killing until nothing is left, deleting, the shim's own end.

use std::fs;
use std::time::{Duration, Instant};

use kernel::pidfd::{PidFd, SIGKILL};
use model::ContainerId;
use wire::{Failure, FailureKind, KillContainer, ReplyBody};

use crate::attach::PAUSE_MAX;
use crate::container::{Phase, not_found, processes_in};
use crate::requests::{Asked, Outcome, failure};
use crate::runtime::{Call, Purpose, failed};
use crate::server::Server;
use crate::stdio;

/// How often a container's processes are killed again until they are gone.
const SWEEP_AGAIN: Duration = Duration::from_millis(5);
/// After this, processes that do not die (they wait in the kernel) are told as a failure.
const SWEEP_MAX: Duration = Duration::from_secs(8);
/// How long a runtime may take to delete; then it is killed, and what it has not removed is removed here.
const DELETE_MAX: Duration = Duration::from_secs(10);

/// A container that is being killed whole.
#[derive(Debug)]
pub(crate) struct Sweep {
    container: ContainerId,
    asked: Asked,
    then: Then,
    pub(crate) again_at: Instant,
    until: Instant,
    /// So long attached clients may take the last words of a container that is forgotten then.
    heard_by: Instant,
}

/// What follows when nothing of a container lives any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Who asked is answered.
    Answer,
    /// The runtime deletes it.
    Delete,
    /// The runtime has deleted it: it is forgotten.
    Forget,
    /// Somebody else has begun to undo or delete it: who asked is answered when it is forgotten.
    Wait,
}

impl Sweep {
    fn new(container: &ContainerId, asked: Asked, then: Then) -> Self {
        let at = Instant::now();
        let until = at + if then == Then::Wait { SWEEP_MAX + 2 * DELETE_MAX } else { SWEEP_MAX };
        Self { container: container.clone(), asked, then, again_at: at, until, heard_by: at + PAUSE_MAX }
    }
}

impl Server {
    pub(crate) fn kill(&mut self, asked: Asked, kill: &KillContainer) -> Result<Option<()>, Failure> {
        const STAGE: &str = "kill";
        let signal = kill.signal.number();
        if signal == SIGKILL {
            self.let_die(&kill.container);
        }
        let Some(container) = self.containers.get_mut(&kill.container) else {
            return Err(not_found(STAGE, &kill.container));
        };
        if signal == SIGKILL && kill.all && container.asked.is_some() {
            self.abort(&kill.container);
            self.sweeps.push(Sweep::new(&kill.container, asked, Then::Answer));
            return Ok(None);
        }
        if matches!(container.phase, Phase::Creating) {
            let message = format!("container {} is being created", kill.container);
            return Err(failure(STAGE, message, FailureKind::WrongState));
        }
        if signal == SIGKILL {
            container.about_to_kill();
        }
        if let Some(process) = container.process() {
            process.signal(signal).map_err(|e| failed(STAGE, &e))?;
        }
        if !kill.all {
            return Ok(Some(()));
        }
        if signal != SIGKILL {
            let first = container.process().map(PidFd::pid);
            for pid in container.spec.memory_cgroup.iter().flat_map(|cgroup| processes_in(cgroup)) {
                if Some(pid) != first {
                    kernel::pidfd::signal(pid, signal).map_err(|e| failed(STAGE, &e))?;
                }
            }
            return Ok(Some(()));
        }
        self.sweeps.push(Sweep::new(&kill.container, asked, Then::Answer));
        Ok(None)
    }

    /// Kills again what is left of the containers that are being killed whole, and answers for those that
    /// are gone.
    pub(crate) fn sweep(&mut self, at: Instant) {
        for mut sweep in std::mem::take(&mut self.sweeps) {
            let Some(container) = self.containers.get(&sweep.container) else {
                self.answer(sweep.asked, Ok(ReplyBody::Done), None);
                continue;
            };
            let pids = container.spec.memory_cgroup.as_deref().map(processes_in).unwrap_or_default();
            let starts = self.jobs.values().any(|job| job.purpose.starts() == Some(&sweep.container));
            let dead = pids.is_empty() && container.process().is_none() && !starts;
            let heard = sweep.then != Then::Forget || container.is_heard() || at >= sweep.heard_by;
            if dead && heard && sweep.then != Then::Wait {
                match sweep.then {
                    Then::Delete => self.delete_dead(&sweep.container, sweep.asked),
                    Then::Forget => {
                        self.forget(&sweep.container);
                        self.answer(sweep.asked, Ok(ReplyBody::Done), None);
                    }
                    Then::Answer | Then::Wait => self.answer(sweep.asked, Ok(ReplyBody::Done), None),
                }
            } else if at >= sweep.until {
                let message = if sweep.then == Then::Wait && pids.is_empty() {
                    "what was begun to remove it does not end".to_owned()
                } else {
                    format!("processes {pids:?} do not die")
                };
                self.answer(sweep.asked, Err(failure("kill", message, FailureKind::Deadline)), None);
            } else {
                if at >= sweep.again_at {
                    if let Some(process) = container.process() {
                        let _ = process.signal(SIGKILL);
                    }
                    for pid in pids {
                        let _ = kernel::pidfd::signal(pid, SIGKILL);
                    }
                    // Nothing but the other's end, or its clients, is waited for once it is dead; that sweeps too.
                    sweep.again_at = match sweep.then {
                        Then::Wait if container.process().is_none() && !starts => sweep.until,
                        Then::Forget if dead => sweep.heard_by,
                        _ => at + SWEEP_AGAIN,
                    };
                }
                self.sweeps.push(sweep);
            }
        }
    }

    pub(crate) fn delete(&mut self, asked: Asked, id: &ContainerId) -> Option<Outcome> {
        self.let_die(id);
        let Some(container) = self.containers.get_mut(id) else { return Some(Ok(ReplyBody::Done)) };
        container.about_to_kill();
        let then = if container.asked.is_some() {
            self.abort(id);
            Then::Wait
        } else if self.jobs.values().any(|job| job.purpose.removes() == Some(id)) {
            Then::Wait
        } else {
            Then::Delete
        };
        self.sweeps.push(Sweep::new(id, asked, then));
        None
    }

    /// Nothing of it lives: the runtime is asked softly, as some wait 100 ms when they are forced, whatever
    /// there is to kill.
    fn delete_dead(&mut self, id: &ContainerId, asked: Asked) {
        if let Err(failure) = self.start_delete(id, Purpose::Delete(id.clone(), asked)) {
            self.answer(asked, Err(failure), None);
        }
    }

    /// Deletes it whether the runtime knows it or not.
    pub(crate) fn delete_by_force(&mut self, id: &ContainerId, asked: Asked) -> Result<(), Failure> {
        self.start_delete(id, Purpose::DeleteByForce(id.clone(), asked))
    }

    pub(crate) fn start_delete(&mut self, id: &ContainerId, purpose: Purpose) -> Result<(), Failure> {
        let Some(container) = self.containers.get(id) else { return Err(not_found("delete", id)) };
        let (ours, theirs) = stdio::words().map_err(|e| failed("runtime delete", &e))?;
        let mut args = vec!["delete".into()];
        if !matches!(purpose, Purpose::Delete(..)) {
            args.push("--force".into());
        }
        args.push(id.to_string().into());
        // The bundle may be gone by now; what it says is on standard error too.
        let log = "/dev/null".into();
        let call = Call {
            runtime: &container.spec.runtime,
            log,
            args,
            theirs,
            stderr: Some(ours),
            allowed: DELETE_MAX,
        };
        let (pid, job) = call.start(purpose)?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has deleted it. Its process may be dead and not reaped yet: its record comes first.
    pub(crate) fn deleted(&mut self, id: &ContainerId, asked: Asked) {
        self.sweeps.push(Sweep::new(id, asked, Then::Forget));
    }

    pub(crate) fn forget(&mut self, id: &ContainerId) {
        if let Some(mut container) = self.containers.remove(id) {
            container.unwatch(&mut self.watch);
        }
    }

    pub(crate) fn shutdown(&mut self) -> Result<(), Failure> {
        if let Some(container) = self.containers.values().find(|c| !matches!(c.phase, Phase::Exited(_))) {
            let message = format!("container {} runs", container.id);
            return Err(failure("shut down", message, FailureKind::WrongState));
        }
        if let Some(init) = self.pod_init.take() {
            kernel::pidfd::signal(init, SIGKILL).map_err(|e| failed("end the PID namespace", &e))?;
        }
        let _ = fs::remove_file(&self.socket);
        self.finished = true;
        Ok(())
    }

    /// Nobody has ever connected and nobody can: it ends, and what is at its socket's path now is not its own.
    pub(crate) fn end_unfound(&mut self) {
        if let Some(init) = self.pod_init.take() {
            let _ = kernel::pidfd::signal(init, SIGKILL);
        }
        // It has recorded nothing.
        let _ = fs::remove_dir(&self.exits);
        self.finished = true;
    }
}
