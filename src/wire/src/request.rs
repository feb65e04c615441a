//! What the service asks of a shim.

use std::path::PathBuf;
use std::time::Duration;

use model::{ContainerId, ExecId, Signal};
use serde::{Deserialize, Serialize};

/// A request; its reply carries the same number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the service, unique on its connection, never 0.
    pub seq: u64,
    /// What is asked.
    #[serde(flatten)]
    pub body: RequestBody,
}

/// Everything that a shim can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum RequestBody {
    /// Who are you? Answered by `Hello`.
    Hello,
    /// Create and start a container. Answered by `Started` once its process runs.
    Run(Box<RunContainer>),
    /// Signal a container. Answered by `Done`; with `all` once every process of it is gone.
    Kill(KillContainer),
    /// Remove what the OCI runtime keeps of a container, killing it if need be. Of an absent one: `Done`.
    Delete {
        /// Which.
        container: ContainerId,
    },
    /// Start a process in a running container. File descriptors: the OCI Process as JSON in a memfd, then
    /// those of stdin, stdout and stderr that are marked present, then the system call filter where there is one.
    /// Answered by `ExecStarted`.
    Exec(ExecProcess),
    /// Signal an exec's process, or with SIGKILL its whole subtree.
    KillExec(KillExec),
    /// Copy output from now on to the given file descriptors, and one of them to standard input.
    Attach(Attach),
    /// Change the size of a container's terminal.
    Resize(Resize),
    /// Close a container's standard input.
    CloseStdin {
        /// Whose.
        container: ContainerId,
    },
    /// Write to a new file at the log's path. Answered once it exists.
    ReopenLog {
        /// Whose.
        container: ContainerId,
    },
    /// Hold containers still until `Resume`, or until this connection ends. Answered once every process of them is
    /// still. One pause at a time.
    Pause(Pause),
    /// Let the containers that are held still go on. None are: as good.
    Resume,
    /// Write a container's processes to disk, by the OCI runtime and CRIU; it runs on, or stays held. Answered by `Done`
    /// once they are there. Only for shims whose [`crate::HelloReply::checkpoints`] says so.
    Checkpoint(Checkpoint),
    /// Say what you hold, of the containers only those whose ids come after the given one. Answered by `State`, of
    /// as many as one frame has room for. Without a body, as older services ask, it begins at the first.
    State(Option<ContainerId>),
    /// End; refused while a container runs.
    Shutdown,
}

/// How an OCI runtime is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OciRuntime {
    /// The program, absolute.
    pub binary: PathBuf,
    /// Its `--root`, where it keeps the state of its containers.
    pub root: PathBuf,
    /// Pass `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// Further global arguments, before the command.
    pub args: Vec<String>,
}

/// What a container's standard streams are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StdioSpec {
    /// A terminal; its output is logged as stdout.
    pub tty: bool,
    /// Standard input stays open for attached clients; otherwise it is /dev/null.
    pub stdin: bool,
    /// Standard input is closed when the first attached client leaves.
    pub stdin_once: bool,
}

/// Where a container's output is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The log file, in CRI's format; its directory exists.
    pub path: PathBuf,
    /// A longer line is split with the tag P, bytes.
    pub line_bytes_max: usize,
}

/// A container to create and start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunContainer {
    /// Its id, for the OCI runtime too.
    pub container: ContainerId,
    /// The OCI bundle: config.json and the root file system, mounted.
    pub bundle: PathBuf,
    /// What creates it.
    pub runtime: OciRuntime,
    /// Its standard streams; `tty` agrees with the bundle's `process.terminal`.
    pub stdio: StdioSpec,
    /// `None`: output is drained and discarded.
    pub log: Option<LogTarget>,
    /// The directory of its memory cgroup (v1) or its cgroup (v2): for OOM and for killing everything.
    pub memory_cgroup: Option<PathBuf>,
    /// How long all invocations of the OCI runtime may take together, milliseconds.
    pub deadline_ms: u64,
    /// It goes on from a checkpoint in place of beginning. Only for shims whose [`crate::HelloReply::checkpoints`] says
    /// so: older ones ignore this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Dump>,
}

/// Where CRIU keeps the processes of a container. Both directories exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// The processes themselves; only read by a restore.
    pub images: PathBuf,
    /// For what CRIU says of its work: `dump.log`, `restore.log`, statistics.
    pub work: PathBuf,
}

/// Containers to hold still together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// Each of them runs.
    pub containers: Vec<Held>,
}

/// A container to hold still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub container: ContainerId,
    /// The directory of its freezer cgroup (v1) or its cgroup (v2).
    pub freezer: PathBuf,
}

/// A container to write to disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Which; it runs.
    pub container: ContainerId,
    /// Where to; `images` is empty.
    pub to: Dump,
    /// After this the OCI runtime is killed, milliseconds. The container may not survive that: it guards against a CRIU
    /// that hangs, and is no deadline of a request's.
    pub deadline_ms: u64,
}

/// A signal for a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillContainer {
    /// Which.
    pub container: ContainerId,
    /// What it gets.
    pub signal: Signal,
    /// Every process of it, not only the first.
    #[serde(default)]
    pub all: bool,
}

/// A process to start in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecProcess {
    /// Its id.
    pub exec: ExecId,
    /// Where.
    pub container: ContainerId,
    /// With a terminal, whose master goes back with the reply; agrees with the process's `terminal`.
    #[serde(default)]
    pub tty: bool,
    /// After this, its whole subtree is killed.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// Whether a file descriptor for standard input follows.
    #[serde(default)]
    pub stdin: bool,
    /// Whether one for standard output follows.
    #[serde(default)]
    pub stdout: bool,
    /// Whether one for standard error follows.
    #[serde(default)]
    pub stderr: bool,
    /// The shim starts it itself, if it can; absent, or where it cannot, the OCI runtime does. Only for shims whose
    /// [`crate::HelloReply::native_exec`] says so: older ones ignore this, and would the filter's descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<NativeExec>,
}

/// What the shim cannot read from the OCI Process when it starts one itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NativeExec {
    /// The name of the session keyring that the container's processes share; a new keyring without.
    pub keyring: Option<String>,
    /// The flags to load the system call filter with (seccomp(2)); then a memfd of `struct sock_filter`s follows.
    pub filter_flags: Option<u32>,
}

/// A signal for an exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillExec {
    /// Which.
    pub exec: ExecId,
    /// SIGKILL takes the whole subtree.
    pub signal: Signal,
}

/// A client that attaches to a container's streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// To which.
    pub container: ContainerId,
    /// Whether a file descriptor to read standard input from follows.
    #[serde(default)]
    pub stdin: bool,
    /// Whether one to write standard output to follows.
    #[serde(default)]
    pub stdout: bool,
    /// Whether one to write standard error to follows.
    #[serde(default)]
    pub stderr: bool,
}

/// A terminal's new size, in characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resize {
    /// Whose.
    pub container: ContainerId,
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}
