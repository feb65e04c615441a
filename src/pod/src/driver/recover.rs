//! A pod after a restart of the service: what was under way is undone or finished, what runs is found again.
//!
//! | record says | what is done |
//! |---|---|
//! | pod `Creating` | every step is undone, the record forgotten |
//! | pod `Ready` | its shim is found again; where it died, the pod is stopped |
//! | pod `Stopping`, `Removing` | finished |
//! | container `Creating`, `Removing` | undone |
//! | an update's journal, the record being as before it | every limit is put back |
//! | container `Starting`, `Running` | as the shim says, else as its exit record says, else ended as unknown |

use model::ContainerId;
use tracing::{info, warn};

use super::Driver;
use super::begin::site;
use crate::bundle;
use crate::events::EventKind;
use crate::queue::Job;
use crate::records::Change;
use crate::sandbox::NotMade;
use crate::state::{ContainerPhase, PodPhase};

impl Driver {
    pub(super) async fn recover(&mut self) {
        if self.record.phase == PodPhase::Creating {
            return self.undo_creation().await;
        }
        self.find_shim().await;
        self.undo_half_made_containers().await;
        for id in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.settle_update(&id, false).await;
        }
        self.publish();
        self.check_network();
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
    async fn undo_half_made_containers(&mut self) {
        let half = self.containers.iter().filter(|(_, record)| {
            matches!(record.phase, ContainerPhase::Creating | ContainerPhase::Removing(_))
        });
        let half: Vec<ContainerId> = half.map(|(id, _)| id.clone()).collect();
        let shim = self.shim.borrow().clone();
        for id in half {
            let Some(traces) = self.traces(&id) else { continue };
            let undone = match bundle::clear(&self.host.bundles, shim.as_ref(), &traces).await {
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
                    warn!(container.id = id.as_str(), error = model::chain(&error), "still owed");
                    self.owe_removal(&id).await;
                }
            }
        }
    }

    /// Has the plugins look whether the pod's network still is as they made it (CNI CHECK). Nobody waits for
    /// the answer, and nothing is mended: the operator is told.
    fn check_network(&self) {
        if self.record.phase != PodPhase::Ready || self.record.network.is_none() {
            return;
        }
        let (host, pod) = (self.host.clone(), self.id.clone());
        tokio::spawn(async move {
            if let Err(error) = host.sandboxes.network.check(&pod).await {
                let error = model::chain(&error);
                warn!(pod.id = pod.as_str(), error, "the network is not as the CNI plugins made it");
            }
        });
    }

    /// Stops and removals that the last service began.
    async fn finish_what_was_begun(&mut self) {
        let begun = match self.record.phase {
            PodPhase::Stopping if !self.is_doing(&Job::StopPod) => self.begin_stop_pod().await,
            PodPhase::Removing => self.begin_remove_pod().await,
            _ => return,
        };
        if let Err(error) = begun {
            warn!(error = model::chain(&error), "go on with what the last service began");
        }
    }
}
