//! Shims as processes of this machine.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::{SysError, seqpacket};
use model::PodId;
use model::limits::SHIM_REPLY_MAX;
use telemetry::Stages;

use crate::exits::directory;
use crate::{Shim, ShimError, ShimSpec, Shims};

/// Starts `gantline-shim` and finds it at `<state>/pods/<pod>/shim.sock`.
///
/// The shims run from a sealed copy of the program in memory, made once for all of them: they enter containers, and
/// through `/proc/<pid>/exe` a container could reach what they run from (CVE-2019-5736).
#[derive(Clone, Debug)]
pub struct LocalShims {
    /// The program `gantline-shim`.
    pub binary: PathBuf,
    /// The state directory (`--state`), which a reboot discards.
    pub state: PathBuf,
    /// The root directory (`--root`), where exit records are kept.
    pub root: PathBuf,
    copy: Arc<Mutex<Option<Copy>>>,
    stages: Stages,
}

/// A sealed copy of the program, and of which file it is one.
#[derive(Clone, Debug)]
struct Copy {
    of: Identity,
    memory: Arc<OwnedFd>,
}

/// Device, inode, size, time of the last change.
type Identity = (u64, u64, u64, (i64, i64));

impl LocalShims {
    /// Shims of a program, with their sockets and their exit records below two directories.
    pub fn new(binary: PathBuf, state: PathBuf, root: PathBuf) -> Self {
        Self { binary, state, root, copy: Arc::default(), stages: Stages::default() }
    }

    /// With their calls timed there.
    #[must_use]
    pub fn timed(self, stages: Stages) -> Self {
        Self { stages, ..self }
    }

    /// The program to run: its sealed copy, anew when the file was replaced. Where memory may not be executed it is the
    /// file itself; such a shim knows, and leaves execs to the OCI runtime.
    fn program(&self) -> io::Result<(PathBuf, Option<Arc<OwnedFd>>)> {
        let file = fs::metadata(&self.binary)?;
        let of = (file.dev(), file.ino(), file.len(), (file.ctime(), file.ctime_nsec()));
        // Nothing panics while it holds the lock; if it did, the copy would still be whole.
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if copy.as_ref().is_none_or(|copy| copy.of != of) {
            match kernel::sealed::copy(&self.binary) {
                Ok(memory) => *copy = Some(Copy { of, memory: Arc::new(memory) }),
                Err(error) => {
                    tracing::warn!(
                        error = model::chain(&error),
                        "shims run from a file: execs go through the OCI runtime"
                    );
                    return Ok((self.binary.clone(), None));
                }
            }
        }
        let memory = copy.as_ref().map(|copy| Arc::clone(&copy.memory));
        let path = memory.as_ref().map(|memory| format!("/proc/self/fd/{}", memory.as_raw_fd()).into());
        Ok((path.unwrap_or_else(|| self.binary.clone()), memory))
    }

    fn dir(&self, pod: &PodId) -> PathBuf {
        self.state.join("pods").join(pod)
    }
}

/// The directory that holds a pod's socket. Most often it is there, with more of the pod in it. It is made here and
/// not by the shim: a shim that comes late, when its pod has been removed again, must not bring it back.
fn make(dir: &Path) -> Result<(), SysError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.map_err(|e| SysError::path("mkdir", dir, e))
}

#[async_trait::async_trait]
impl Shims for LocalShims {
    async fn start(&self, spec: &ShimSpec) -> Result<Shim, ShimError> {
        let pod = &spec.pod;
        // Two shims would fight over one pod: one that a killed service had started is used.
        match self.connect(pod).await {
            Err(ShimError::NotRunning { .. }) => {}
            found => return found,
        }
        let dir = self.dir(pod);
        make(&dir).map_err(|source| ShimError::System { attempt: "start", pod: pod.clone(), source })?;
        let spawned =
            |source: io::Error| ShimError::Spawn { pod: pod.clone(), binary: self.binary.clone(), source };
        let (program, memory) = self.program().map_err(spawned)?;
        let mut command = kernel::process::command(program);
        // As process lists show it.
        command.arg0(&self.binary);
        command.args(["run", "--pod", pod.as_str()]);
        command.arg("--dir").arg(&dir).arg("--exits").arg(directory(&self.root, pod));
        if spec.shared_pid {
            command.arg("--shared-pid");
        }
        if let Some(user) = &spec.user_namespace {
            command.arg("--user-namespace").arg(user);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        // The child exits as soon as the socket listens; should the caller go away, it still does.
        let child = tokio::process::Command::from(command).spawn().map_err(spawned)?;
        drop(memory);
        let output = tokio::time::timeout(SHIM_REPLY_MAX, child.wait_with_output())
            .await
            .map_err(|_| ShimError::Deadline { attempt: "start", pod: pod.clone(), after: SHIM_REPLY_MAX })?
            .map_err(spawned)?;
        if !output.status.success() {
            return Err(ShimError::Start {
                pod: pod.clone(),
                status: output.status.to_string(),
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        self.connect(pod).await
    }

    async fn probe(&self) -> Result<(), ShimError> {
        let unfit = |why: String| ShimError::Unfit { binary: self.binary.clone(), why };
        let spawned = |error: io::Error| unfit(error.to_string());
        // As a pod's shim is run: from the same sealed copy.
        let (program, memory) = self.program().map_err(spawned)?;
        let mut command = kernel::process::command(program);
        command.arg0(&self.binary).arg("version");
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn().map_err(spawned)?;
        drop(memory);
        let output = tokio::time::timeout(SHIM_REPLY_MAX, child.wait_with_output())
            .await
            .map_err(|_| unfit(format!("no answer within {} s", SHIM_REPLY_MAX.as_secs())))?
            .map_err(spawned)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let ours = format!("(frames {})", wire::VERSION);
        match output.status.success() && said.contains(&ours) {
            true => Ok(()),
            false => Err(unfit(format!("{}: {:?} where {ours} is wanted", output.status, said.trim()))),
        }
    }

    async fn connect(&self, pod: &PodId) -> Result<Shim, ShimError> {
        let path = self.dir(pod).join("shim.sock");
        let socket = seqpacket::connect(&path).map_err(|source| match source.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ShimError::NotRunning { pod: pod.clone() }
            }
            _ => ShimError::System { attempt: "connect", pod: pod.clone(), source },
        })?;
        match Shim::over(pod.clone(), socket, self.stages.clone()).await {
            // It accepted nobody any more: it was shutting down or dying.
            Err(ShimError::Lost { pod, .. }) => Err(ShimError::NotRunning { pod }),
            other => other,
        }
    }
}
