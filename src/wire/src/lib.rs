//! What the service and a pod's shim say to each other, and the record that a dead container leaves.
//!
//! One frame is one message of a SOCK_SEQPACKET socket: a fixed header ([`frame`]) and a JSON body. Bodies
//! grow by adding fields and kinds: a reader ignores fields that it does not know, and a request of an
//! unknown kind gets a [`Failure`] of kind `Unsupported`, so that a newer service drives an older shim.
//! [`VERSION`] changes only when that is not enough. This crate does no I/O and must never know a file
//! descriptor, an OCI runtime or a cgroup.

pub mod frame;
mod record;
mod reply;
mod request;

pub use frame::{DecodeError, EncodeError, Frame};
pub use record::ExitRecord;
pub use reply::{
    ContainerState, Event, ExecStarted, Failure, FailureKind, HelloReply, Phase, Reply, ReplyBody,
    RuntimeCall, Started, StateReply,
};
pub use request::{
    Attach, Checkpoint, Dump, ExecProcess, Held, KillContainer, KillExec, LogTarget, NativeExec, OciRuntime,
    Pause, Request, RequestBody, Resize, RunContainer, StdioSpec,
};

/// Where OCI runtimes and their hooks find programs, CRIU among them: the service's own environment does not reach them.
pub const RUNTIME_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The version of the frames and of the exit record.
pub const VERSION: u8 = 1;
