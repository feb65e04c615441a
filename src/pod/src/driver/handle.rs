//! How a pod's driver is reached from outside: what may be asked, how it is answered, and what it publishes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::{ContainerConfig, ContainerId, PodConfig, PodId, Resources};
use shim_client::Shim;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Span;

use crate::error::PodError;
use crate::state::PodView;
use crate::story::Doing;

/// What is asked of a pod, with all that it takes to do it.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Run(Arc<PodConfig>),
    StopPod,
    RemovePod,
    /// Going on from what a checkpoint has of it, where that is given.
    Create(Arc<ContainerConfig>, Option<PathBuf>),
    Start(ContainerId),
    Stop(ContainerId, Duration),
    Remove(ContainerId),
    Update(ContainerId, Resources),
    /// UpdatePodSandboxResources: overhead and resources, kept and reported.
    UpdatePod {
        overhead: Option<Resources>,
        resources: Option<Resources>,
    },
}

impl Request {
    /// The work as traces call it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Run(_) => "run_pod",
            Self::StopPod => "stop_pod",
            Self::RemovePod => "remove_pod",
            Self::Create(..) => "create_container",
            Self::Start(_) => "start_container",
            Self::Stop(..) => "stop_container",
            Self::Remove(_) => "remove_container",
            Self::Update(..) => "update_container",
            Self::UpdatePod { .. } => "update_pod",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Container(ContainerId),
}

/// The outcome, or why there is none.
pub(super) type Answer = Result<Outcome, PodError>;
/// Who waits for an answer.
pub(super) struct Waiter {
    pub(super) answer: oneshot::Sender<Answer>,
    /// The request that it is part of.
    pub(super) span: Span,
}

/// Where a pod is reached.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) id: PodId,
    /// Its cgroup, below a hierarchy's root.
    pub(crate) cgroup: Arc<str>,
    /// The cgroups that it answers for: see [`crate::sandbox::cgroup`].
    pub(crate) cgroups_made: Arc<[String]>,
    pub(super) inbox: mpsc::Sender<(Request, Waiter)>,
    pub(super) view: watch::Receiver<Arc<PodView>>,
    pub(super) shim: watch::Receiver<Option<Shim>>,
    pub(super) doing: watch::Receiver<Vec<Doing>>,
}

impl Handle {
    /// Asks, and waits for the answer. `None`: the pod is gone.
    pub(crate) async fn ask(&self, request: Request) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { answer, span: Span::current() };
        self.inbox.send((request, waiter)).await.ok()?;
        answered.await.ok()
    }

    /// The pod as it is now.
    pub(crate) fn view(&self) -> Arc<PodView> {
        Arc::clone(&self.view.borrow())
    }

    /// What its driver has under way.
    pub(crate) fn doing(&self) -> Vec<Doing> {
        self.doing.borrow().clone()
    }

    /// How many requests the driver has not looked at yet.
    pub(crate) fn queued(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// The connection to its shim, where there is one.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.shim.borrow().clone()
    }
}
