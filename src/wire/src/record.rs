//! How a container ended: what its shim writes before it reaps.

use model::{ContainerId, UnixNanos};
use serde::{Deserialize, Serialize};

/// How a container's first process ended. On disk at `<root>/exits/<pod id>/<container id>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// [`crate::VERSION`] of its writer.
    pub version: u8,
    /// Which container.
    pub container: ContainerId,
    /// What its first process was, on the host.
    pub pid: u32,
    /// The exit code, or 128 and the signal's number.
    pub code: i32,
    /// The signal that killed it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the kernel killed it for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// When it started.
    pub started_at_ns: UnixNanos,
    /// When its shim saw it dead.
    pub finished_at_ns: UnixNanos,
    /// Output that never reached the log, for want of disk space, bytes.
    #[serde(default)]
    pub log_bytes_dropped: u64,
}
