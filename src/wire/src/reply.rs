//! What a shim answers, and what it tells unasked.

use model::{ContainerId, ErrorKind, ExecId, UnixNanos};
use serde::{Deserialize, Serialize};

use crate::ExitRecord;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number; 0 when the request's own could not be read.
    pub seq: u64,
    /// What came of it.
    pub outcome: Result<ReplyBody, Failure>,
    /// The OCI runtime's part in it, in order. Older shims do not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtime: Vec<RuntimeCall>,
}

impl Reply {
    /// An answer that no OCI runtime had a part in.
    pub fn new(seq: u64, outcome: Result<ReplyBody, Failure>) -> Self {
        Self { seq, outcome, runtime: Vec::new() }
    }
}

/// One invocation of an OCI runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCall {
    /// What it was asked for: `create`, `start`, `exec`, `delete`.
    pub command: String,
    /// When it began.
    pub began_at_ns: UnixNanos,
    /// How long it took, nanoseconds.
    pub took_ns: u64,
    /// Whether it did what it was asked for.
    pub done: bool,
}

/// What a request brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum ReplyBody {
    /// To `Hello`.
    Hello(HelloReply),
    /// To `Run`.
    Started(Started),
    /// To `Exec`; with a terminal its master is the one file descriptor that comes along.
    ExecStarted(ExecStarted),
    /// To `State`.
    State(StateReply),
    /// To everything else.
    Done,
}

/// Who a shim is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The version of its frames.
    pub version: u8,
    /// The shim's process id on the host.
    pub pid: u32,
    /// The host's id of pid 1 in the pod's shared PID namespace, while it lives.
    #[serde(default)]
    pub pod_init: Option<u32>,
    /// Whether it starts execs itself when it is asked to.
    #[serde(default)]
    pub native_exec: bool,
    /// Whether it holds containers still, writes them to disk, and starts them from there.
    #[serde(default)]
    pub checkpoints: bool,
}

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its first process, on the host.
    pub pid: u32,
    /// When it started.
    pub started_at_ns: UnixNanos,
}

/// An exec that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStarted {
    /// Its process, on the host.
    pub pid: u32,
}

/// Containers in one [`StateReply`]: what has the most to say, an exit record, takes less than 450 bytes of a frame's 128 KiB.
const STATE_PAGE_MAX: usize = 256;

/// What a shim holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateReply {
    /// As in [`HelloReply`].
    pub pod_init: Option<u32>,
    /// The containers that were run and not deleted, by id.
    pub containers: Vec<ContainerState>,
    /// There are more after the last one: ask for those after it. Older shims tell all at once, or cannot.
    pub more: bool,
}

impl StateReply {
    /// One page: as many of `containers`, which come by id, as one frame has room for.
    pub fn page(pod_init: Option<u32>, containers: impl IntoIterator<Item = ContainerState>) -> Self {
        let mut rest = containers.into_iter();
        let containers = rest.by_ref().take(STATE_PAGE_MAX).collect();
        Self { pod_init, containers, more: rest.next().is_some() }
    }
}

/// One container as a shim holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Which.
    pub container: ContainerId,
    /// Where it is in its life.
    pub phase: Phase,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The OCI runtime is at work.
    Starting,
    /// Its first process lives.
    Running(Started),
    /// Its first process is gone.
    Exited(ExitRecord),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was under way: `runtime create`, `open log`.
    pub stage: String,
    /// Why, in whole; what an OCI runtime said is in its own words.
    pub message: String,
    /// What a caller can do about it.
    pub kind: FailureKind,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)
    }
}

impl std::error::Error for Failure {}

/// The kinds of failure that cross the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No such container or exec.
    NotFound,
    /// The request can never succeed as it is.
    Invalid,
    /// Not in this state.
    WrongState,
    /// It is there already.
    Exists,
    /// A bound is reached, or the disk is full.
    Busy,
    /// The stage's deadline passed.
    Deadline,
    /// This shim does not know the request.
    Unsupported,
    /// The shim, the OCI runtime or the host failed; also every kind that is newer than the reader.
    #[serde(other)]
    Internal,
}

impl From<FailureKind> for ErrorKind {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::NotFound => Self::NotFound,
            FailureKind::Invalid => Self::Invalid,
            FailureKind::WrongState => Self::WrongState,
            FailureKind::Exists => Self::Exists,
            FailureKind::Busy => Self::Busy,
            FailureKind::Deadline => Self::Deadline,
            FailureKind::Unsupported => Self::Unsupported,
            FailureKind::Internal => Self::Internal,
        }
    }
}

/// What a shim tells every connection unasked. `State` has all of it too, but for exec exits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// A container's first process is gone; its record is on disk.
    Exited {
        /// Which.
        container: ContainerId,
        /// How.
        record: ExitRecord,
    },
    /// An exec's process is gone.
    ExecExited {
        /// Which.
        exec: ExecId,
        /// 128 and the signal's number when it was killed by one.
        code: i32,
        /// Whether its timeout was the reason.
        #[serde(default)]
        timed_out: bool,
    },
    /// The kernel killed a process in a container's cgroup for want of memory: not always its first.
    Oom {
        /// Which.
        container: ContainerId,
    },
    /// Pid 1 of the shared PID namespace is gone, and with it every process that shared it.
    PodInitExited,
}
