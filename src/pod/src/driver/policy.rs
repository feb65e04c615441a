//! Between the driver and the policy ([`crate::queue`]): what a request and the pod are to it, and what its word is to a
//! client.

use model::{ContainerConfig, ContainerId, PodConfig};

use crate::error::PodError;
use crate::queue::{Ask, ContainerFact, Facts, PodFact, Refusal};
use crate::records::ContainerRecord;
use crate::state::{ContainerPhase, PodPhase};

use super::{Driver, Outcome, Request};

impl Driver {
    /// A request as the policy sees it; `None` for what needs no policy.
    pub(super) fn as_ask(&self, request: &Request) -> Option<Ask> {
        Some(match request {
            Request::Run(config) => Ask::Run { same_request: same_pod(config, &self.record.config) },
            Request::StopPod => Ask::StopPod,
            Request::RemovePod => Ask::RemovePod,
            Request::Create(config, _) => Ask::Create {
                taken: self.named(config).map(|(id, record)| (id.clone(), record.config == *config)),
            },
            Request::Start(id) => Ask::Start(id.clone()),
            Request::Stop(id, _) => Ask::Stop(id.clone()),
            Request::Remove(id) => Ask::Remove(id.clone()),
            Request::Update(id, resources) => Ask::Update(id.clone(), resources.clone()),
            Request::UpdatePod { .. } => return None,
        })
    }

    /// The container that has the identity that `config` asks for.
    fn named(&self, config: &ContainerConfig) -> Option<(&ContainerId, &ContainerRecord)> {
        self.containers
            .iter()
            .find(|(_, record)| record.config.name == config.name && record.config.attempt == config.attempt)
    }

    /// What the policy judges by.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            pod: match self.record.phase {
                PodPhase::Creating => PodFact::Creating,
                PodPhase::Ready => PodFact::Ready,
                PodPhase::Stopping => PodFact::Stopping,
                PodPhase::NotReady { .. } => PodFact::NotReady,
                PodPhase::Removing => PodFact::Removing,
            },
            containers: self
                .containers
                .iter()
                .map(|(id, record)| (id.clone(), fact(&record.phase)))
                .collect(),
            jobs: self.running.values().map(|begun| begun.job.clone()).collect(),
            end_is_asked_for: self.end_is_asked_for,
        }
    }

    /// What a request comes to that is done already.
    pub(super) fn outcome(&self, ask: &Ask) -> Outcome {
        match ask {
            Ask::Create { taken: Some((id, _)) } => Outcome::Container(id.clone()),
            _ => Outcome::Done,
        }
    }

    /// What a client is told of a refusal.
    pub(super) fn refused(&self, refusal: Refusal, request: &Request) -> PodError {
        const OTHER: &str = "from a different request";
        const PAST: &str = "and is past that";
        let attempt = match request {
            Request::Start(_) => "start",
            Request::Update(..) => "update the resources of",
            Request::Create(..) => "create a container",
            _ => "run",
        };
        let why = if refusal == Refusal::OtherRequest { OTHER } else { PAST };
        match (refusal, request) {
            (Refusal::OtherRequest | Refusal::PastThat, Request::Create(config, _)) => {
                let id = self.named(config).map(|(id, _)| id.clone());
                match id {
                    Some(id) => PodError::ContainerExists {
                        pod: self.id.clone(),
                        name: config.name.clone(),
                        attempt: config.attempt,
                        id,
                        why,
                    },
                    None => PodError::ContainerNotFound(config.name.clone()),
                }
            }
            (Refusal::OtherRequest | Refusal::PastThat, _) => PodError::PodExists {
                identity: self.record.config.identity.clone(),
                id: self.id.clone(),
                why,
            },
            (Refusal::ContainerState, Request::Start(id) | Request::Update(id, _)) => {
                PodError::ContainerState {
                    attempt,
                    container: id.clone(),
                    state: self.containers.get(id).map_or("gone", |record| record.phase.word()),
                }
            }
            (Refusal::NoContainer, Request::Start(id) | Request::Update(id, _)) => {
                PodError::ContainerNotFound(id.to_string())
            }
            _ => PodError::PodState { attempt, pod: self.id.clone(), state: self.record.phase.word() },
        }
    }
}

/// Whether a request is the one that a pod was made from. What was updated since is not part of it.
fn same_pod(asked: &PodConfig, made: &PodConfig) -> bool {
    let updated =
        PodConfig { overhead: made.overhead.clone(), resources: made.resources.clone(), ..asked.clone() };
    updated == *made
}

fn fact(phase: &ContainerPhase) -> ContainerFact {
    match phase {
        ContainerPhase::Creating => ContainerFact::Creating,
        ContainerPhase::Created => ContainerFact::Created,
        ContainerPhase::Starting => ContainerFact::Starting,
        ContainerPhase::Running { .. } => ContainerFact::Running,
        ContainerPhase::Exited(_) => ContainerFact::Exited,
        ContainerPhase::Removing(_) => ContainerFact::Removing,
    }
}
