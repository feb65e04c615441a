//! The driver and its shim: heard, lost, found again, and compared with.
//!
//! Only a shim that does not answer at its socket is dead. One that is slow, or whose answer cannot be read,
//! is asked again later: nothing of its pod is ended for that.

use std::future;
use std::time::Duration;

use kernel::clock::now;
use model::{ContainerId, NamespaceMode};
use shim_client::{Event, Events, Phase, Shim, ShimError, StateReply};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::warn;

use super::Driver;
use crate::ending::kill_cgroup;
use crate::events::EventKind;
use crate::queue::Job;
use crate::state::{ContainerPhase, Exit, ExitReason, PodPhase};

/// When a shim that did not answer is asked again; also what keeps one that breaks its connections from
/// keeping the driver busy.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a start that the last service began may still take: every request waits for the recovery.
const STARTING_MAX: Duration = Duration::from_secs(5);
/// How often a shim is asked whether such a start has ended.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What woke the driver.
pub(super) enum Said {
    Event(Event),
    /// Events were missed: the state has them all.
    Missed,
    /// The connection is lost.
    Lost,
}

/// A connection to the shim, and what it says.
pub(super) struct Heard {
    shim: Shim,
    events: Events,
}

/// The next thing that the shim says; never, where there is none.
pub(super) async fn next(heard: &mut Option<Heard>) -> Said {
    let Some(Heard { shim, events }) = heard else { return future::pending().await };
    tokio::select! {
        // What was said before the connection was lost comes first.
        biased;
        event = events.recv() => match event {
            Ok(event) => Said::Event(event),
            Err(RecvError::Lagged(_)) => Said::Missed,
            Err(RecvError::Closed) => Said::Lost,
        },
        () = shim.closed() => Said::Lost,
    }
}

/// Resolves when the shim is to be looked for again; never, where it need not be.
pub(super) async fn look_again(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => future::pending().await,
    }
}

impl Driver {
    pub(super) async fn shim_said(&mut self, said: Said) {
        match said {
            Said::Event(Event::Exited { container, record }) => self.exited(container, record).await,
            Said::Event(Event::Oom { container }) => {
                warn!(container.id = container.as_str(), "the kernel killed a process for want of memory");
            }
            Said::Event(Event::ExecExited { .. }) => {}
            Said::Event(Event::PodInitExited) => self.pod_init_ended().await,
            Said::Missed => self.find_shim().await,
            Said::Lost => {
                self.drop_shim();
                // Shutting it down is part of the removal, once nothing runs.
                if self.record.phase != PodPhase::Removing || !self.unattended().is_empty() {
                    self.look_again = Some(Instant::now());
                }
            }
        }
    }

    /// Takes a connection to the shim, and hears it from now on.
    pub(super) fn take_shim(&mut self, shim: Shim) {
        self.heard = Some(Heard { events: shim.events(), shim: shim.clone() });
        self.shim.send_replace(Some(shim));
        self.look_again = None;
    }

    fn drop_shim(&mut self) {
        self.heard = None;
        self.shim.send_replace(None);
    }

    /// Connects to the shim and brings every container to what it holds. Where it is dead, the pod is ended;
    /// where that cannot be told, it is looked for again later.
    pub(super) async fn find_shim(&mut self) {
        self.look_again = None;
        let compared = match self.host.sandboxes.shims.connect(&self.id).await {
            Ok(shim) => self.compare(shim).await,
            Err(error) => Err(error),
        };
        match compared {
            Ok(()) => drop(self.publish()),
            Err(ShimError::NotRunning { .. }) => self.shim_died().await,
            Err(error) => {
                warn!(error = model::chain(&error), "the shim does not answer: it is asked again");
                self.drop_shim();
                self.look_again = Some(Instant::now() + LOOK_AGAIN);
            }
        }
    }

    async fn compare(&mut self, shim: Shim) -> Result<(), ShimError> {
        // Heard before it is asked: nothing falls between.
        self.take_shim(shim.clone());
        let state = self.settled_state(&shim).await?;
        let mut missing = Vec::new();
        for id in self.unattended() {
            match state.containers.iter().find(|c| c.container == id).map(|c| c.phase.clone()) {
                Some(Phase::Running(started)) => self.runs(&id, started).await,
                Some(Phase::Exited(record)) => self.ended_so(&record).await,
                Some(Phase::Starting) | None => missing.push(id),
            }
        }
        // One that was started and has ended since the connection was lost: its start's job tells the first, this the second.
        for container in state.containers {
            if let Phase::Exited(record) = container.phase
                && self.is_doing(&Job::Start(container.container.clone()))
            {
                self.early_exits.insert(container.container, record);
            }
        }
        if !missing.is_empty() {
            self.read_exit_records().await;
            self.end_unseen(missing, "its shim does not know it any more").await;
        }
        let shared = self.record.config.security.namespaces.pid == NamespaceMode::Pod;
        if shared && state.pod_init.is_none() {
            self.pod_init_ended().await;
        }
        Ok(())
    }

    /// What the shim holds, once no start of the last service is under way any more.
    async fn settled_state(&self, shim: &Shim) -> Result<StateReply, ShimError> {
        let gives_up = Instant::now() + STARTING_MAX;
        loop {
            let state = shim.whole_state().await?;
            let ours = self.unattended();
            let starting = state.containers.iter().filter(|c| c.phase == Phase::Starting);
            let starting: Vec<_> = starting.map(|c| &c.container).filter(|id| ours.contains(id)).collect();
            if starting.is_empty() {
                return Ok(state);
            }
            if Instant::now() < gives_up {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            for id in starting {
                shim.delete(id).await?;
            }
        }
    }

    /// A container that the shim says runs.
    async fn runs(&mut self, id: &ContainerId, started: shim_client::Started) {
        let Some(record) = self.containers.get_mut(id) else { return };
        let untold = record.phase == ContainerPhase::Starting;
        record.phase = ContainerPhase::Running { pid: started.pid, started_at: started.started_at_ns };
        if untold {
            self.commit_fact(self.container_change(id)).await;
            let view = self.publish();
            self.tell(id, EventKind::Started, &view);
        }
    }

    /// Nobody watches the containers any more: what left a record ended so, the others are ended.
    async fn shim_died(&mut self) {
        warn!("the shim is dead");
        self.drop_shim();
        self.read_exit_records().await;
        self.end_unseen(self.unattended(), "its shim died").await;
        self.publish();
        self.end_unasked("its shim died").await;
    }

    async fn pod_init_ended(&mut self) {
        self.end_unasked("the first process of its shared PID namespace ended").await;
    }

    /// Containers that run, as far as the records say, and whose start is not a job's business.
    pub(super) fn unattended(&self) -> Vec<ContainerId> {
        let starting = |id: &ContainerId| self.is_doing(&Job::Start(id.clone()));
        let runs = |phase: &ContainerPhase| {
            matches!(phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
        };
        self.containers
            .iter()
            .filter(|(id, container)| runs(&container.phase) && !starting(id))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Ends containers of which nobody can say how they ended; what may be left of them is killed.
    async fn end_unseen(&mut self, ids: Vec<ContainerId>, why: &str) {
        let unattended = self.unattended();
        // Some have left a record meanwhile.
        for id in ids.into_iter().filter(|id| unattended.contains(id)) {
            let Some(container) = self.containers.get(&id) else { continue };
            let exit = match container.phase {
                ContainerPhase::Starting => Exit {
                    started_at: None,
                    finished_at: now(),
                    code: super::START_ERROR_CODE,
                    reason: ExitReason::StartError,
                    message: format!("its start was cut short: {why}"),
                },
                ContainerPhase::Running { started_at, .. } => Exit {
                    started_at: Some(started_at),
                    finished_at: now(),
                    code: super::UNSEEN_CODE,
                    reason: ExitReason::Unknown,
                    message: format!("nobody saw how it ended: {why}"),
                },
                _ => continue,
            };
            if let Err(error) = kill_cgroup(&id, self.host.hierarchy.group(&container.cgroup)).await {
                warn!(container.id = id.as_str(), error = model::chain(&error), "kill what was left");
            }
            self.ended(id, exit).await;
        }
    }

    /// Stops a pod that can no longer hold containers.
    async fn end_unasked(&mut self, why: &str) {
        let ending = [Job::StopPod, Job::RemovePod].iter().any(|job| self.is_doing(job));
        if ending || self.record.phase != PodPhase::Ready {
            return;
        }
        why.clone_into(&mut self.stop_reason);
        if let Err(error) = self.begin_stop_pod().await {
            warn!(error = model::chain(&error), "stop a pod that cannot go on");
            // Not ready in any case; the next stop or removal does the rest.
            self.record.phase = PodPhase::Stopping;
            self.publish();
        }
    }
}
