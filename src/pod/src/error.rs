//! What can go wrong with a pod or container, told so that a person can act on it.
//!
//! Errors are shared: everyone who joined a job gets the same one. So they are cheap to clone, and the
//! sources that other rooms give are held behind [`Cause`] with the kind that they had.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use model::{Classify, ContainerId, CriToken, ErrorKind, PodId, PodIdentity};

/// An error of another room's, with its kind.
#[derive(Clone)]
pub struct Cause {
    kind: ErrorKind,
    error: Arc<dyn Error + Send + Sync>,
}

impl Cause {
    /// Takes an error and remembers its kind.
    pub fn new<E: Classify + Send + Sync + 'static>(error: E) -> Self {
        Self { kind: error.kind(), error: Arc::new(error) }
    }

    /// Takes an error of the host's: a system call, a file.
    pub fn host<E: Error + Send + Sync + 'static>(error: E) -> Self {
        let io = error
            .source()
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .map_or(ErrorKind::Internal, model::error::io_kind);
        Self { kind: io, error: Arc::new(error) }
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.error, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PodError {
    /// No pod sandbox has this id or prefix.
    #[error("pod sandbox {0:?} not found")]
    PodNotFound(String),
    /// No container has this id or prefix.
    #[error("container {0:?} not found")]
    ContainerNotFound(String),
    /// A prefix that several ids have.
    #[error("{what} id prefix {prefix:?} is ambiguous: {count} ids begin with it")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// What was asked for.
        prefix: String,
        /// How many have it.
        count: usize,
    },
    /// The identity belongs to a sandbox that was asked for differently, or that is no longer ready.
    #[error("pod sandbox {identity} exists as {id}, {why}")]
    PodExists {
        /// Who it is.
        identity: PodIdentity,
        /// Which it is.
        id: PodId,
        /// Why this request is not a retry of it.
        why: &'static str,
    },
    /// The identity belongs to a container that was asked for differently, or that was started.
    #[error("container {name} (attempt {attempt}) of pod sandbox {pod} exists as {id}, {why}")]
    ContainerExists {
        /// Its pod.
        pod: PodId,
        /// Its name.
        name: String,
        /// Its attempt.
        attempt: u32,
        /// Which it is.
        id: ContainerId,
        /// Why this request is not a retry of it.
        why: &'static str,
    },
    /// The pod is in a state that forbids this.
    #[error("{attempt} in pod sandbox {pod}: it is {state}")]
    PodState {
        /// What was attempted.
        attempt: &'static str,
        /// On which pod.
        pod: PodId,
        /// The state it is in.
        state: &'static str,
    },
    /// The container is in a state that forbids this.
    #[error("{attempt} container {container}: it is {state}")]
    ContainerState {
        /// What was attempted.
        attempt: &'static str,
        /// On which container.
        container: ContainerId,
        /// The state it is in.
        state: &'static str,
    },
    /// A request that can never succeed.
    #[error("{field}: {why}")]
    Invalid {
        /// The field's path in the request.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A handler that the configuration does not name.
    #[error("runtime_handler {name:?} is not configured; known are {known}")]
    UnknownHandler {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The image is not on this node.
    #[error("image {0:?} is not on this node: pull it first")]
    ImageNotFound(String),
    /// An image volume that cannot be mounted.
    #[error("config.mounts[{mount}].{part}: {why}")]
    ImageVolume {
        /// The mount's place in the request.
        mount: usize,
        /// Its field that is at fault.
        part: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A step failed on a pod.
    #[error("{step} of pod sandbox {pod}")]
    PodStep {
        /// The step.
        step: &'static str,
        /// The pod.
        pod: PodId,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A step failed on a container.
    #[error("{step} of container {container}")]
    ContainerStep {
        /// The step.
        step: &'static str,
        /// The container.
        container: ContainerId,
        /// Why.
        #[source]
        source: Cause,
    },
    /// A step failed, and undoing what was done failed as well; what is left is owed.
    #[error("{first}; undoing it also failed and is owed: {undo}")]
    AndUndo {
        /// What failed first.
        first: Box<PodError>,
        /// What failed then.
        undo: String,
    },
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// The store did not take or give a record.
    #[error("the pod store")]
    Store(#[source] Cause),
    /// A fault of ours stopped the reading of what pods use. No list is told then: an empty one would be believed.
    #[error("read what pods use")]
    Statistics(#[source] Cause),
    /// What cannot be written to disk or go on from there, on this node or at all.
    #[error("{attempt}: {why}")]
    NoCheckpoint {
        /// What was attempted, and on what.
        attempt: String,
        /// What stands against it.
        why: String,
    },
    /// A checkpoint took longer than it was given.
    #[error(
        "checkpoint of container {container} timed out: timeout {seconds}s exceeded; the container runs on"
    )]
    CheckpointTimeout {
        /// The container.
        container: ContainerId,
        /// What it was given, seconds.
        seconds: u64,
    },
    /// A command ran longer than it was given.
    #[error("command {command:?} in container {container} timed out: timeout {seconds}s exceeded")]
    ExecTimeout {
        /// The container.
        container: ContainerId,
        /// The command's first word.
        command: String,
        /// What it was given, seconds.
        seconds: u64,
    },
    /// A command has ended, but what it left running holds its output open.
    #[error(
        "failed to drain exec process: command {command:?} in container {container} has ended, its output is held open"
    )]
    ExecNotDrained {
        /// The container.
        container: ContainerId,
        /// The command's first word.
        command: String,
    },
}

impl PodError {
    /// A step that failed on a pod, with its cause.
    pub(crate) fn pod_step<E>(step: &'static str, pod: &PodId, source: E) -> Self
    where
        E: Classify + Send + Sync + 'static,
    {
        Self::PodStep { step, pod: pod.clone(), source: Cause::new(source) }
    }

    /// A step that failed on a container, with its cause.
    pub(crate) fn container_step<E>(step: &'static str, container: &ContainerId, source: E) -> Self
    where
        E: Classify + Send + Sync + 'static,
    {
        Self::ContainerStep { step, container: container.clone(), source: Cause::new(source) }
    }
}

impl Classify for PodError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::PodNotFound(_) | Self::ContainerNotFound(_) | Self::ImageNotFound(_) => ErrorKind::NotFound,
            Self::Ambiguous { .. } | Self::Invalid { .. } | Self::UnknownHandler { .. } => ErrorKind::Invalid,
            Self::PodExists { .. } | Self::ContainerExists { .. } => ErrorKind::Exists,
            Self::PodState { .. } | Self::ContainerState { .. } => ErrorKind::WrongState,
            Self::ImageVolume { .. } => ErrorKind::Token(CriToken::ImageVolumeMountFailed),
            Self::PodStep { source, .. }
            | Self::ContainerStep { source, .. }
            | Self::Store(source)
            | Self::Statistics(source) => source.kind,
            Self::AndUndo { first, .. } => first.kind(),
            Self::Stopping => ErrorKind::NotReady,
            Self::NoCheckpoint { .. } => ErrorKind::WrongState,
            Self::CheckpointTimeout { .. } | Self::ExecTimeout { .. } | Self::ExecNotDrained { .. } => {
                ErrorKind::Deadline
            }
        }
    }
}
