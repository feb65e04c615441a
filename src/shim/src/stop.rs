//! From a running container to none: signals, killing until nothing is left, deleting, the shim's own end.

use std::fs;
use std::time::{Duration, Instant};

use kernel::pidfd::PidFd;
use model::ContainerId;
use model::limits::OCI_RUNTIME_MAX;
use wire::{Failure, FailureKind, KillContainer, ReplyBody};

use crate::container::{Phase, not_found, processes_in};
use crate::requests::{Asked, Outcome, failure};
use crate::runtime::{Call, Purpose, failed};
use crate::server::Server;
use crate::stdio;

const SIGKILL: i32 = 9;
/// How often a container's processes are killed again until they are gone.
const SWEEP_AGAIN: Duration = Duration::from_millis(5);
/// After this, processes that do not die (they wait in the kernel) are told as a failure.
const SWEEP_MAX: Duration = Duration::from_secs(8);

/// A container that is being killed whole.
#[derive(Debug)]
pub(crate) struct Sweep {
    container: ContainerId,
    asked: Asked,
    /// The runtime has deleted it: it is forgotten as soon as its end is recorded.
    forget: bool,
    pub(crate) again_at: Instant,
    until: Instant,
}

impl Sweep {
    fn new(container: &ContainerId, asked: Asked, forget: bool) -> Self {
        let at = Instant::now();
        Self { container: container.clone(), asked, forget, again_at: at, until: at + SWEEP_MAX }
    }
}

impl Server {
    pub(crate) fn kill(&mut self, asked: Asked, kill: &KillContainer) -> Result<Option<()>, Failure> {
        const STAGE: &str = "kill";
        let Some(container) = self.containers.get_mut(&kill.container) else {
            return Err(not_found(STAGE, &kill.container));
        };
        let signal = kill.signal.number();
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
        self.sweeps.push(Sweep::new(&kill.container, asked, false));
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
            if pids.is_empty() && container.process().is_none() {
                if sweep.forget {
                    self.forget(&sweep.container);
                }
                self.answer(sweep.asked, Ok(ReplyBody::Done), None);
            } else if at >= sweep.until {
                let message = format!("processes {pids:?} do not die");
                self.answer(sweep.asked, Err(failure("kill", message, FailureKind::Deadline)), None);
            } else {
                if at >= sweep.again_at {
                    if let Some(process) = container.process() {
                        let _ = process.signal(SIGKILL);
                    }
                    for pid in pids {
                        let _ = kernel::pidfd::signal(pid, SIGKILL);
                    }
                    sweep.again_at = at + SWEEP_AGAIN;
                }
                self.sweeps.push(sweep);
            }
        }
    }

    pub(crate) fn delete(&mut self, asked: Asked, id: &ContainerId) -> Option<Outcome> {
        let Some(container) = self.containers.get_mut(id) else { return Some(Ok(ReplyBody::Done)) };
        if container.asked.is_some() {
            let message = format!("container {id} is being started");
            return Some(Err(failure("delete", message, FailureKind::WrongState)));
        }
        container.about_to_kill();
        // Some runtimes wait 100 ms when they are forced, whatever there is to kill.
        let started = if matches!(container.phase, Phase::Exited(_)) {
            self.start_delete(id, OCI_RUNTIME_MAX, Purpose::Delete(id.clone(), asked))
        } else {
            self.delete_by_force(id, asked)
        };
        started.err().map(Err)
    }

    /// Deletes it whether the runtime knows it or not.
    pub(crate) fn delete_by_force(&mut self, id: &ContainerId, asked: Asked) -> Result<(), Failure> {
        self.start_delete(id, OCI_RUNTIME_MAX, Purpose::DeleteByForce(id.clone(), asked))
    }

    pub(crate) fn start_delete(
        &mut self,
        id: &ContainerId,
        allowed: Duration,
        purpose: Purpose,
    ) -> Result<(), Failure> {
        let Some(container) = self.containers.get(id) else { return Err(not_found("delete", id)) };
        let (ours, theirs) = stdio::words().map_err(|e| failed("runtime delete", &e))?;
        let mut args = vec!["delete".into()];
        if !matches!(purpose, Purpose::Delete(..)) {
            args.push("--force".into());
        }
        args.push(id.to_string().into());
        // The bundle may be gone by now; what it says is on standard error too.
        let log = "/dev/null".into();
        let call = Call { runtime: &container.spec.runtime, log, args, theirs, stderr: Some(ours), allowed };
        let (pid, job) = call.start(purpose)?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has deleted it. Its process may be dead and not reaped yet: its record comes first.
    pub(crate) fn deleted(&mut self, id: &ContainerId, asked: Asked) {
        self.sweeps.push(Sweep::new(id, asked, true));
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
}
