//! Starting, finding and driving the shims of pods.
//!
//! A [`Shim`] is one connection. When it is lost, the shim and its pod live on: a new one is made with
//! [`Shims::connect`], and [`Shim::state`] tells everything that happened in between. This crate must never
//! know what a pod is made of, or decide what to do when a container exits.

mod connection;
mod error;
mod exits;
#[cfg(any(test, feature = "test-util"))]
pub mod fake;
mod local;
mod shim;

pub use error::ShimError;
pub use exits::{exit_records, forget_exits};
pub use local::LocalShims;
pub use shim::{ExecExit, ExecFds, ExecProcess, ExecStarted, Filter, NativeExec, Shim};
// What callers say and hear: they know these words, and no frame.
pub use wire::{
    ContainerState, Dump, Event, ExitRecord, LogTarget, OciRuntime, Phase, RUNTIME_PATH, RunContainer,
    Started, StateReply, StdioSpec,
};

/// What a shim tells, from when it was asked for on.
pub type Events = tokio::sync::broadcast::Receiver<Event>;

use std::path::PathBuf;

use model::PodId;

/// How a pod's shim is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimSpec {
    /// Whose.
    pub pod: PodId,
    /// The containers of the pod share a PID namespace, which the shim makes, with its pid 1.
    pub shared_pid: bool,
    /// The pin of the pod's own user namespace, where it has one.
    pub user_namespace: Option<PathBuf>,
}

/// Whatever starts shims and finds them again.
#[async_trait::async_trait]
pub trait Shims: Send + Sync {
    /// Starts the pod's shim, or connects to the one that runs already.
    async fn start(&self, spec: &ShimSpec) -> Result<Shim, ShimError>;

    /// Connects to the pod's shim; [`ShimError::NotRunning`] when none answers.
    async fn connect(&self, pod: &PodId) -> Result<Shim, ShimError>;

    /// Runs the shim's program far enough to tell that it can be run, and speaks our frames. Leaves nothing.
    async fn probe(&self) -> Result<(), ShimError>;
}
