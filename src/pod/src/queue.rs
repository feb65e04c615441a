//! The pure policy of a pod's queue: what becomes of a request, given what the pod is and what it is doing.
//!
//! No lock, no I/O, no clock: a request is accepted, joined to work under way, answered at once, refused,
//! or kept until some work ends and then asked about again. The driver does what it says. Because it is
//! pure, the tests below ask it about every combination.

use std::collections::{BTreeMap, BTreeSet};

use model::{ContainerId, Resources};

/// What the policy needs to know of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) pod: PodFact,
    pub(crate) containers: BTreeMap<ContainerId, ContainerFact>,
    /// Work under way.
    pub(crate) jobs: BTreeSet<Job>,
    /// Whether a StopPod or RemovePod is being kept until some work ends.
    pub(crate) end_is_asked_for: bool,
}

/// A pod's phase without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PodFact {
    #[default]
    Creating,
    Ready,
    /// Stopping without a job: a stop that failed, to be tried again.
    Stopping,
    NotReady,
    Removing,
}

/// A container's phase without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerFact {
    Creating,
    Created,
    Starting,
    Running,
    Exited,
    Removing,
}

/// Work that takes time. One of each may be under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Job {
    Run,
    StopPod,
    RemovePod,
    Create(ContainerId),
    Start(ContainerId),
    Stop(ContainerId),
    Remove(ContainerId),
    Update(ContainerId),
    /// Clearing away after an exit: nobody waits for it but what comes next.
    Reap(ContainerId),
}

impl Job {
    /// The work in a few words.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Run => "run the pod",
            Self::StopPod => "stop the pod",
            Self::RemovePod => "remove the pod",
            Self::Create(_) => "create",
            Self::Start(_) => "start",
            Self::Stop(_) => "stop",
            Self::Remove(_) => "remove",
            Self::Update(_) => "update",
            Self::Reap(_) => "clear away after its exit",
        }
    }

    /// The container that it is about.
    pub(crate) fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Run | Self::StopPod | Self::RemovePod => None,
            Self::Create(id)
            | Self::Start(id)
            | Self::Stop(id)
            | Self::Remove(id)
            | Self::Update(id)
            | Self::Reap(id) => Some(id),
        }
    }
}

/// What is asked of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ask {
    /// RunPodSandbox, and whether it is the request that this pod was made from.
    Run {
        same_request: bool,
    },
    StopPod,
    RemovePod,
    /// CreateContainer of an identity: the container that has it and whether it was made from the same request.
    Create {
        taken: Option<(ContainerId, bool)>,
    },
    Start(ContainerId),
    Stop(ContainerId),
    Remove(ContainerId),
    Update(ContainerId, Resources),
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Begin the work.
    Begin,
    /// Wait for this work and take its result.
    Join(Job),
    /// It is so already.
    Done,
    /// Keep it, and ask again when some work has ended.
    Keep,
    /// As `Keep`, and let the grace of these stops end now, and break these starts off.
    Hasten(Vec<Job>),
    /// As `Keep`, and begin a stop without grace.
    KillFirst,
    /// Never.
    Refuse(Refusal),
}

/// Why never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The identity belongs to another request.
    OtherRequest,
    /// The identity belongs to something past this stage.
    PastThat,
    /// The pod's state forbids it.
    PodState,
    /// The container's state forbids it.
    ContainerState,
    /// No such container.
    NoContainer,
}

/// What becomes of `ask`.
pub(crate) fn decide(facts: &Facts, ask: &Ask) -> Verdict {
    match ask {
        Ask::Run { same_request } => run(facts, *same_request),
        Ask::StopPod => stop_pod(facts),
        Ask::RemovePod => remove_pod(facts),
        Ask::Create { taken } => create(facts, taken.as_ref()),
        Ask::Start(id) => start(facts, id),
        Ask::Stop(id) => stop(facts, id),
        Ask::Remove(id) => remove(facts, id),
        Ask::Update(id, _) => update(facts, id),
    }
}

fn run(facts: &Facts, same_request: bool) -> Verdict {
    match facts.pod {
        _ if !same_request => Verdict::Refuse(Refusal::OtherRequest),
        PodFact::Creating if facts.jobs.contains(&Job::Run) => Verdict::Join(Job::Run),
        PodFact::Creating => Verdict::Begin,
        PodFact::Ready => Verdict::Done,
        PodFact::Stopping | PodFact::NotReady | PodFact::Removing => Verdict::Refuse(Refusal::PastThat),
    }
}

fn stop_pod(facts: &Facts) -> Verdict {
    if facts.jobs.contains(&Job::StopPod) {
        return Verdict::Join(Job::StopPod);
    }
    if facts.jobs.contains(&Job::RemovePod) {
        return Verdict::Join(Job::RemovePod);
    }
    if facts.pod == PodFact::NotReady {
        return Verdict::Done;
    }
    when_quiet(facts)
}

fn remove_pod(facts: &Facts) -> Verdict {
    if facts.jobs.contains(&Job::RemovePod) {
        return Verdict::Join(Job::RemovePod);
    }
    when_quiet(facts)
}

/// The end of a pod begins when nothing else is under way; what could take long is cut short for it.
fn when_quiet(facts: &Facts) -> Verdict {
    let long = |job: &&Job| matches!(job, Job::Stop(_) | Job::Start(_));
    let long: Vec<Job> = facts.jobs.iter().filter(long).cloned().collect();
    if !long.is_empty() {
        Verdict::Hasten(long)
    } else if facts.jobs.is_empty() {
        Verdict::Begin
    } else {
        Verdict::Keep
    }
}

/// Whether the pod takes new containers and starts.
fn open(facts: &Facts) -> bool {
    let ending = facts.jobs.contains(&Job::StopPod) || facts.jobs.contains(&Job::RemovePod);
    facts.pod == PodFact::Ready && !ending && !facts.end_is_asked_for
}

fn create(facts: &Facts, taken: Option<&(ContainerId, bool)>) -> Verdict {
    if let Some((id, same_request)) = taken {
        return match facts.containers.get(id) {
            _ if !same_request => Verdict::Refuse(Refusal::OtherRequest),
            Some(ContainerFact::Creating) => Verdict::Join(Job::Create(id.clone())),
            Some(ContainerFact::Created | ContainerFact::Starting | ContainerFact::Running) => Verdict::Done,
            Some(ContainerFact::Exited | ContainerFact::Removing) => Verdict::Refuse(Refusal::PastThat),
            None => Verdict::Refuse(Refusal::NoContainer),
        };
    }
    if open(facts) { Verdict::Begin } else { Verdict::Refuse(Refusal::PodState) }
}

fn start(facts: &Facts, id: &ContainerId) -> Verdict {
    match facts.containers.get(id) {
        None | Some(ContainerFact::Creating) => Verdict::Refuse(Refusal::NoContainer),
        Some(ContainerFact::Starting) if facts.jobs.contains(&Job::Start(id.clone())) => {
            Verdict::Join(Job::Start(id.clone()))
        }
        Some(ContainerFact::Created) if busy(facts, id) => Verdict::Keep,
        Some(ContainerFact::Created) if open(facts) => Verdict::Begin,
        Some(ContainerFact::Created) => Verdict::Refuse(Refusal::PodState),
        Some(
            ContainerFact::Starting
            | ContainerFact::Running
            | ContainerFact::Exited
            | ContainerFact::Removing,
        ) => Verdict::Refuse(Refusal::ContainerState),
    }
}

fn stop(facts: &Facts, id: &ContainerId) -> Verdict {
    match facts.containers.get(id) {
        None | Some(ContainerFact::Creating | ContainerFact::Created | ContainerFact::Exited) => {
            Verdict::Done
        }
        Some(ContainerFact::Starting) => Verdict::Keep,
        Some(ContainerFact::Removing) => Verdict::Done,
        Some(ContainerFact::Running) => {
            let job = Job::Stop(id.clone());
            if facts.jobs.contains(&job) {
                Verdict::Join(job)
            } else if facts.jobs.contains(&Job::StopPod) {
                Verdict::Join(Job::StopPod)
            } else if facts.jobs.contains(&Job::RemovePod) {
                Verdict::Join(Job::RemovePod)
            } else if busy(facts, id) {
                Verdict::Keep
            } else {
                Verdict::Begin
            }
        }
    }
}

fn remove(facts: &Facts, id: &ContainerId) -> Verdict {
    let job = Job::Remove(id.clone());
    if facts.jobs.contains(&job) {
        return Verdict::Join(job);
    }
    if facts.jobs.contains(&Job::RemovePod) {
        return Verdict::Join(Job::RemovePod);
    }
    let long: Vec<Job> = [Job::Stop(id.clone()), Job::Start(id.clone())]
        .into_iter()
        .filter(|j| facts.jobs.contains(j))
        .collect();
    match facts.containers.get(id) {
        None => Verdict::Done,
        Some(_) if !long.is_empty() => Verdict::Hasten(long),
        Some(_) if busy(facts, id) => Verdict::Keep,
        Some(ContainerFact::Running) => Verdict::KillFirst,
        Some(_) => Verdict::Begin,
    }
}

fn update(facts: &Facts, id: &ContainerId) -> Verdict {
    match facts.containers.get(id) {
        None | Some(ContainerFact::Creating) => Verdict::Refuse(Refusal::NoContainer),
        Some(ContainerFact::Exited | ContainerFact::Removing) => Verdict::Refuse(Refusal::ContainerState),
        Some(ContainerFact::Created | ContainerFact::Starting | ContainerFact::Running) => {
            if busy(facts, id) { Verdict::Keep } else { Verdict::Begin }
        }
    }
}

/// Whether other work on this container, or on the whole pod, is under way.
fn busy(facts: &Facts, id: &ContainerId) -> bool {
    facts.jobs.iter().any(|job| job.container().is_none_or(|other| other == id))
}

#[cfg(test)]
mod tests;
