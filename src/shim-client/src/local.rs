//! Shims as processes of this machine.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kernel::{SysError, seqpacket};
use model::PodId;
use model::limits::SHIM_REPLY_MAX;

use crate::exits::directory;
use crate::{Shim, ShimError, ShimSpec, Shims};

/// Starts `gantline-shim` and finds it at `<state>/pods/<pod>/shim.sock`.
#[derive(Clone, Debug)]
pub struct LocalShims {
    /// The program `gantline-shim`.
    pub binary: PathBuf,
    /// The state directory (`--state`), which a reboot discards.
    pub state: PathBuf,
    /// The root directory (`--root`), where exit records are kept.
    pub root: PathBuf,
}

impl LocalShims {
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
        let mut command = kernel::process::command(&self.binary);
        command.args(["run", "--pod", pod.as_str()]);
        command.arg("--dir").arg(&dir).arg("--exits").arg(directory(&self.root, pod));
        if spec.shared_pid {
            command.arg("--shared-pid");
        }
        if let Some(user) = &spec.user_namespace {
            command.arg("--user-namespace").arg(user);
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let spawned =
            |source: io::Error| ShimError::Spawn { pod: pod.clone(), binary: self.binary.clone(), source };
        // The child exits as soon as the socket listens; should the caller go away, it still does.
        let child = tokio::process::Command::from(command).spawn().map_err(spawned)?;
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

    async fn connect(&self, pod: &PodId) -> Result<Shim, ShimError> {
        let path = self.dir(pod).join("shim.sock");
        let socket = seqpacket::connect(&path).map_err(|source| match source.source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ShimError::NotRunning { pod: pod.clone() }
            }
            _ => ShimError::System { attempt: "connect", pod: pod.clone(), source },
        })?;
        match Shim::over(pod.clone(), socket).await {
            // It accepted nobody any more: it was shutting down or dying.
            Err(ShimError::Lost { pod, .. }) => Err(ShimError::NotRunning { pod }),
            other => other,
        }
    }
}
