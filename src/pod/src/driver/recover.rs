//! A pod after a restart of the service: what was under way is undone or finished, what runs is found again.
//!
//! | record says | what is done |
//! |---|---|
//! | pod `Creating` | every step is undone, the record forgotten |
//! | pod `Ready` | its shim is found again; where it died, the pod is stopped |
//! | pod `Stopping`, `Removing` | finished |
//! | container `Creating`, `Removing` | undone |
//! | container `Starting`, `Running` | as the shim says, else as its exit record says, else ended as unknown |

use std::time::Duration;

use model::ContainerId;
use shim_client::{Phase, Shim, ShimError};
use tracing::{info, warn};

use super::Driver;
use super::begin::site;
use crate::bundle;
use crate::events::EventKind;
use crate::queue::Job;
use crate::records::Change;
use crate::sandbox::NotMade;
use crate::state::{ContainerPhase, Exit, ExitReason, PodPhase};
use crate::time::now;

/// How long a start that the last service began may still take: every request waits for the recovery.
const STARTING_MAX: Duration = Duration::from_secs(5);
/// How often a shim is asked whether a start that the last service began has ended.
const ASK_AGAIN: Duration = Duration::from_millis(50);

impl Driver {
    pub(super) async fn recover(&mut self) {
        if self.record.phase == PodPhase::Creating {
            return self.undo_creation().await;
        }
        match self.host.sandboxes.shims.connect(&self.id).await {
            Ok(shim) => {
                self.take_shim(shim.clone());
                self.undo_half_made_containers(Some(&shim)).await;
                self.compare(&shim).await;
            }
            Err(error) => {
                if !matches!(error, ShimError::NotRunning { .. }) {
                    warn!(error = model::chain(&error), "the shim does not answer");
                }
                self.undo_half_made_containers(None).await;
                self.shim_died().await;
            }
        }
        self.publish();
        self.finish_what_was_begun().await;
        // A recovered pod is told of as it is; ending it may go on for a while.
        info!(phase = self.record.phase.word(), containers = self.containers.len(), "pod recovered");
    }

    async fn undo_creation(&mut self) {
        let undone = site(&self.host, &self.id, &self.record).undo().await;
        let error = match &undone {
            Ok(()) => crate::PodError::Stopping,
            Err(error) => error.clone(),
        };
        self.not_ran(NotMade { error, undone: undone.is_ok() }).await;
    }

    /// Containers whose creation or removal was cut short.
    async fn undo_half_made_containers(&mut self, shim: Option<&Shim>) {
        let half: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, record)| {
                matches!(record.phase, ContainerPhase::Creating | ContainerPhase::Removing(_))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in half {
            let Some(traces) = self.traces(&id) else { continue };
            let undone = match bundle::clear(&self.host.bundles, shim, &traces).await {
                Ok(()) => bundle::undo(&self.host.bundles, &id).await,
                failed => failed,
            };
            match undone {
                Ok(()) => {
                    let told =
                        self.containers.remove(&id).is_some_and(|r| r.phase != ContainerPhase::Creating);
                    self.commit_fact([Change::ForgetContainer(id.clone())]).await;
                    self.host.index.forget_container(&id);
                    if told {
                        let view = self.publish();
                        self.tell(&id, EventKind::Deleted, &view);
                    }
                }
                Err(error) => {
                    warn!(container.id = id.short(), error = model::chain(&error), "still owed");
                    if let Some(record) = self.containers.get_mut(&id) {
                        record.phase = ContainerPhase::Removing(None);
                    }
                }
            }
        }
    }

    /// Brings the records to what the shim holds.
    async fn compare(&mut self, shim: &Shim) {
        let ours: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, record)| {
                matches!(record.phase, ContainerPhase::Running { .. } | ContainerPhase::Starting)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in ours {
            match self.phase_at_shim(shim, &id).await {
                Some(Phase::Running(started)) => {
                    let was = self.containers.get(&id).map(|record| record.phase.clone());
                    let _ = self.started_meanwhile(&id, started, was).await;
                }
                Some(Phase::Exited(record)) => self.ended_so(&record).await,
                None | Some(Phase::Starting) => {
                    let reason = ExitReason::StartError;
                    let message = "the service was restarted while it was being started".to_owned();
                    let exit = Exit { started_at: None, finished_at: now(), code: 128, reason, message };
                    self.ended(id, exit).await;
                }
            }
        }
    }

    async fn started_meanwhile(
        &mut self,
        id: &ContainerId,
        started: shim_client::Started,
        was: Option<ContainerPhase>,
    ) -> Option<()> {
        let record = self.containers.get_mut(id)?;
        record.phase = ContainerPhase::Running { pid: started.pid, started_at: started.started_at_ns };
        if was == Some(ContainerPhase::Starting) {
            self.commit_fact(self.container_change(id)).await;
            let view = self.publish();
            self.tell(id, EventKind::Started, &view);
        }
        Some(())
    }

    /// What the shim holds of a container, once it is no longer being started.
    async fn phase_at_shim(&self, shim: &Shim, id: &ContainerId) -> Option<Phase> {
        let gives_up = tokio::time::Instant::now() + STARTING_MAX;
        loop {
            let state = shim.state().await.inspect_err(|error| {
                warn!(error = model::chain(error), "ask the shim for its state");
            });
            let phase = state.ok()?.into_iter().find(|c| c.container == *id).map(|c| c.phase);
            match phase {
                Some(Phase::Starting) if tokio::time::Instant::now() < gives_up => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Some(Phase::Starting) => {
                    if let Err(error) = shim.delete(id).await {
                        warn!(container.id = id.short(), error = model::chain(&error), "break off a start");
                    }
                    return None;
                }
                other => return other,
            }
        }
    }

    /// Stops and removals that the last service began.
    async fn finish_what_was_begun(&mut self) {
        let begun = match self.record.phase {
            PodPhase::Stopping if !self.running.values().any(|job| *job == Job::StopPod) => {
                self.begin_stop_pod().await
            }
            PodPhase::Removing => self.begin_remove_pod().await,
            _ => return,
        };
        if let Err(error) = begun {
            warn!(error = model::chain(&error), "go on with what the last service began");
        }
    }
}
