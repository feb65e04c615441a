//! What the shim tells: exits become durable facts; a shim that is lost is found again or given up.

use std::future;
use std::time::Duration;

use model::ContainerId;
use shim_client::{Event, Events, ExitRecord, Phase, Shim, ShimError};
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

use super::Driver;
use crate::ending::kill_cgroup;
use crate::events::EventKind;
use crate::queue::Job;
use crate::state::{ContainerPhase, Exit, ExitReason, PodPhase};
use crate::time::now;

/// A shim that lives but breaks its connections must not keep the driver busy.
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

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

impl Driver {
    pub(super) async fn shim_said(&mut self, said: Said) {
        match said {
            Said::Event(Event::Exited { container, record }) => self.exited(container, record).await,
            Said::Event(Event::Oom { container }) => {
                warn!(container.id = container.short(), "the kernel killed a process for want of memory");
            }
            Said::Event(Event::ExecExited { .. }) => {}
            Said::Event(Event::PodInitExited) => {
                self.end_unasked("the first process of its shared PID namespace ended").await;
            }
            Said::Missed => self.ask_state().await,
            Said::Lost => self.shim_lost().await,
        }
    }

    /// A container's process has ended, and its shim has the record on disk.
    pub(super) async fn exited(&mut self, id: ContainerId, record: ExitRecord) {
        match self.containers.get(&id).map(|container| &container.phase) {
            Some(ContainerPhase::Running { .. }) => self.ended_so(&record).await,
            // Its start has not been told yet: first things first.
            Some(ContainerPhase::Starting) => drop(self.early_exits.insert(id, record)),
            _ => {}
        }
    }

    /// Makes what a shim recorded the container's state.
    pub(super) async fn ended_so(&mut self, record: &ExitRecord) {
        self.host.log_dropped_bytes.add(record.log_bytes_dropped);
        self.ended(record.container.clone(), exit_of(record)).await;
    }

    /// Makes an exit the container's state, and clears away after it.
    pub(super) async fn ended(&mut self, id: ContainerId, exit: Exit) {
        let Some(container) = self.containers.get_mut(&id) else { return };
        info!(container.id = id.short(), code = exit.code, reason = exit.reason.as_str(), "container ended");
        container.phase = ContainerPhase::Exited(exit);
        self.host.sampler.forget(&container.cgroup);
        self.commit_fact(self.container_change(&id)).await;
        let view = self.publish();
        self.tell(&id, EventKind::Stopped, &view);
        self.begin_reap(id);
    }

    /// Takes a connection to the shim, and hears it from now on.
    pub(super) fn take_shim(&mut self, shim: Shim) {
        self.heard = Some(Heard { events: shim.events(), shim: shim.clone() });
        self.shim.send_replace(Some(shim));
    }

    fn drop_shim(&mut self) {
        self.heard = None;
        self.shim.send_replace(None);
    }

    /// Brings every container to what the shim holds of it.
    pub(super) async fn ask_state(&mut self) {
        let Some(shim) = self.shim.borrow().clone() else { return };
        match shim.state().await {
            Ok(containers) => {
                for container in containers {
                    if let Phase::Exited(record) = container.phase {
                        self.exited(container.container, record).await;
                    }
                }
            }
            Err(error) => warn!(error = model::chain(&error), "ask the shim for its state"),
        }
    }

    async fn shim_lost(&mut self) {
        self.drop_shim();
        // Shutting it down is part of the removal.
        if self.record.phase == PodPhase::Removing {
            return;
        }
        tokio::time::sleep(CONNECT_AGAIN).await;
        match self.host.sandboxes.shims.connect(&self.id).await {
            Ok(shim) => {
                self.take_shim(shim);
                self.publish();
                self.ask_state().await;
            }
            Err(error) => {
                let died = matches!(error, ShimError::NotRunning { .. });
                warn!(error = model::chain(&error), died, "the shim is lost");
                self.shim_died().await;
            }
        }
    }

    /// Nobody watches the containers any more: what left a record ended so, the others are ended.
    pub(super) async fn shim_died(&mut self) {
        self.read_exit_records().await;
        for id in self.unwatched() {
            self.end_unwatched(&id).await;
            let started_at = match self.containers.get(&id).map(|container| &container.phase) {
                Some(ContainerPhase::Running { started_at, .. }) => Some(*started_at),
                _ => None,
            };
            let message = "its shim died: nobody saw how it ended".to_owned();
            let reason = ExitReason::Unknown;
            self.ended(id, Exit { started_at, finished_at: now(), code: 255, reason, message }).await;
        }
        self.end_unasked("its shim died").await;
    }

    /// Containers that ran, as far as the records say.
    fn unwatched(&self) -> Vec<ContainerId> {
        let starting = |id: &ContainerId| self.running.values().any(|job| *job == Job::Start(id.clone()));
        let runs = |phase: &ContainerPhase| {
            matches!(phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
        };
        // One whose start is under way is told by its job, which has lost the shim too.
        self.containers
            .iter()
            .filter(|(id, container)| runs(&container.phase) && !starting(id))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// Kills what a container left without a shim.
    async fn end_unwatched(&self, id: &ContainerId) {
        let Some(container) = self.containers.get(id) else { return };
        if let Err(error) = kill_cgroup(id, &container.cgroup).await {
            warn!(container.id = id.short(), error = model::chain(&error), "kill what a dead shim left");
        }
    }

    /// Applies the records that a dead shim left on disk.
    async fn read_exit_records(&mut self) {
        let (root, pod) = (self.host.sandboxes.config.root.clone(), self.id.clone());
        let read = tokio::task::spawn_blocking(move || shim_client::exit_records(&root, &pod)).await;
        let records = match read {
            Ok(Ok(records)) => records,
            Ok(Err(error)) => {
                warn!(error = model::chain(&error), "read the exit records");
                return;
            }
            Err(_) => return,
        };
        for record in records {
            let id = record.container.clone();
            let runs = self.containers.get(&id).is_some_and(|container| {
                matches!(container.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
            });
            if runs {
                self.ended_so(&record).await;
            }
        }
    }

    /// Stops a pod that can no longer hold containers.
    pub(super) async fn end_unasked(&mut self, why: &str) {
        let ending = [Job::StopPod, Job::RemovePod].iter().any(|job| self.running.values().any(|j| j == job));
        if ending || self.record.phase != PodPhase::Ready {
            return;
        }
        why.clone_into(&mut self.stop_reason);
        if let Err(error) = self.begin_stop_pod().await {
            warn!(error = model::chain(&error), "stop a pod that cannot go on");
        }
    }
}

/// A shim's record in CRI's words.
fn exit_of(record: &ExitRecord) -> Exit {
    let reason = match record.code {
        _ if record.oom => ExitReason::OomKilled,
        0 => ExitReason::Completed,
        _ => ExitReason::Error,
    };
    let message = match record.signal {
        Some(signal) => {
            let name =
                model::Signal::from_number(signal).map_or_else(|| signal.to_string(), |s| s.to_string());
            format!("killed by {name}")
        }
        None => String::new(),
    };
    Exit {
        started_at: Some(record.started_at_ns),
        finished_at: record.finished_at_ns,
        code: record.code,
        reason,
        message,
    }
}
