//! What can go wrong between the service and a shim.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kernel::SysError;
use model::error::io_kind;
use model::{Classify, ErrorKind, PodId};
use wire::{EncodeError, Failure};

/// Why a shim did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Nobody listens at the pod's socket: the shim never ran, has shut down, or has died.
    #[error("the shim of pod {pod} is not running")]
    NotRunning {
        /// Whose.
        pod: PodId,
    },
    /// The shim's program could not be run.
    #[error("run {} for pod {pod}", binary.display())]
    Spawn {
        /// Whose.
        pod: PodId,
        /// The program.
        binary: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The shim's program ran and failed before it listened.
    #[error("start the shim of pod {pod}: {status}: {output}")]
    Start {
        /// Whose.
        pod: PodId,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// A system call of this side.
    #[error("{attempt} with the shim of pod {pod}")]
    System {
        /// What was under way.
        attempt: &'static str,
        /// Whose.
        pod: PodId,
        /// Why.
        #[source]
        source: SysError,
    },
    /// The connection ended before the answer came. The shim may have done what was asked: ask its state.
    #[error("{attempt}: the connection to the shim of pod {pod} was lost")]
    Lost {
        /// What was under way.
        attempt: &'static str,
        /// Whose.
        pod: PodId,
    },
    /// No answer in time.
    #[error("{attempt}: the shim of pod {pod} has not answered for {} s", after.as_secs())]
    Deadline {
        /// What was under way.
        attempt: &'static str,
        /// Whose.
        pod: PodId,
        /// For how long this side waited.
        after: Duration,
    },
    /// The request cannot be put into a frame.
    #[error("{attempt}: a request for the shim of pod {pod}")]
    Encode {
        /// What was under way.
        attempt: &'static str,
        /// Whose.
        pod: PodId,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// The shim answered with something that does not answer.
    #[error("{attempt}: the shim of pod {pod} gave an answer of another kind")]
    Unexpected {
        /// What was under way.
        attempt: &'static str,
        /// Whose.
        pod: PodId,
    },
    /// The shim tried and failed, or refused.
    #[error("{attempt}")]
    Failed {
        /// What was under way.
        attempt: &'static str,
        /// Stage and reason, an OCI runtime's own words included.
        #[source]
        failure: Failure,
    },
    /// An exec that this connection did not start.
    #[error("exec {exec} was not started over this connection")]
    UnknownExec {
        /// Which.
        exec: model::ExecId,
    },
    /// The shim's program cannot be run, or is of another make than this service.
    #[error("run {}: {why}", binary.display())]
    Unfit {
        /// The program.
        binary: PathBuf,
        /// Why.
        why: String,
    },
    /// The exit records of a pod.
    #[error("exit records in {}", path.display())]
    Exits {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Classify for ShimError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRunning { .. } | Self::Lost { .. } => ErrorKind::NotReady,
            Self::Deadline { .. } => ErrorKind::Deadline,
            Self::Spawn { source, .. } | Self::Exits { source, .. } => io_kind(source),
            Self::System { source, .. } => io_kind(&source.source),
            Self::Start { .. } | Self::Unexpected { .. } | Self::Unfit { .. } => ErrorKind::Internal,
            Self::Encode { .. } => ErrorKind::Invalid,
            Self::Failed { failure, .. } => failure.kind.into(),
            Self::UnknownExec { .. } => ErrorKind::NotFound,
        }
    }
}
