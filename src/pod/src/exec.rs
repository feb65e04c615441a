//! Commands in running containers, and clients attached to them.
//!
//! The shim starts the process and sees it end; what it reads and writes goes through pipes that this side
//! holds, so output never passes through the shim.

use std::os::fd::OwnedFd;
use std::time::Duration;

use kernel::SysError;
use model::limits::{EXEC_SYNC_DRAIN_MAX, EXEC_SYNC_OUTPUT_BYTES_MAX, PORT_DIAL_MAX, SHIM_REPLY_MAX};
use model::{ContainerId, ExecId, PodId};
use shim_client::{ExecExit, ExecFds, ExecProcess, NativeExec, Shim};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tracing::warn;

use crate::Pods;
use crate::config::{ExecBy, Kind};
use crate::error::{Cause, PodError};
use crate::filters::Filters;
use crate::spec::{self, Spec};
use crate::state::{ContainerStatus, PodPhase};

/// What a command wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, cut where both streams together reach the bound.
    pub stdout: Vec<u8>,
    /// Standard error, likewise.
    pub stderr: Vec<u8>,
    /// Its exit status, 128 + n for signal n.
    pub code: i32,
}

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To write to it.
    pub stdin: bool,
    /// To read its output.
    pub stdout: bool,
    /// To read its errors. Not with a terminal, which has one stream.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

/// The client's ends of the streams: blocking pipes, or a terminal's master.
#[derive(Debug, Default)]
pub struct Streams {
    /// To write to.
    pub stdin: Option<OwnedFd>,
    /// To read from.
    pub stdout: Option<OwnedFd>,
    /// To read from.
    pub stderr: Option<OwnedFd>,
    /// To read from, write to and resize, in place of all three.
    pub terminal: Option<OwnedFd>,
}

/// A command that runs, and its streams.
pub struct Session {
    /// The client's ends.
    pub streams: Streams,
    shim: Shim,
    exec: ExecId,
    container: ContainerId,
}

impl Session {
    /// Waits until the command has ended; its exit status.
    ///
    /// # Errors
    /// When the shim is lost.
    pub async fn wait(&self) -> Result<i32, PodError> {
        let exit = self.shim.wait_exec(&self.exec).await;
        exit.map(|exit| exit.code).map_err(|e| PodError::container_step("exec", &self.container, e))
    }

    /// Ends the command and all that it started.
    pub async fn kill(&self) {
        if let Err(error) = self.shim.kill_exec(&self.exec).await {
            warn!(container.id = self.container.as_str(), error = model::chain(&error), "kill an exec");
        }
    }
}

/// A client attached to a container's own streams.
pub struct Attachment {
    /// The client's ends. With a terminal, output is on `stdout` alone.
    pub streams: Streams,
    shim: Shim,
    container: ContainerId,
}

impl Attachment {
    /// The container.
    pub fn container(&self) -> &ContainerId {
        &self.container
    }

    /// Changes the size of the container's terminal, in characters.
    ///
    /// # Errors
    /// Where it has none.
    pub async fn resize(&self, width: u16, height: u16) -> Result<(), PodError> {
        let resized = self.shim.resize(&self.container, width, height).await;
        resized.map_err(|e| PodError::container_step("resize the terminal", &self.container, e))
    }
}

impl Pods {
    /// Runs a command in a running container, and brings its output. `None`: it may take for ever.
    ///
    /// # Errors
    /// When it cannot run, when the timeout passes, or when its output does not end with it.
    pub async fn exec_sync(
        &self,
        container: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, PodError> {
        let (status, shim, handler) = self.running_with_handler("exec in", container)?;
        let first_word = command.first().cloned().unwrap_or_default();
        let prepared = self.prepare(&status, &shim, &handler, command, false).await;
        let id = status.id;
        let step = |source| PodError::ContainerStep { step: "exec", container: id.clone(), source };
        let (process, native) = prepared.map_err(step)?;
        let exec = new_exec_id().map_err(step)?;
        let (stdout, stdout_end) = pipe_to_read().map_err(step)?;
        let (stderr, stderr_end) = pipe_to_read().map_err(step)?;
        let fds = ExecFds { stdin: None, stdout: Some(stdout_end), stderr: Some(stderr_end) };
        let request =
            ExecProcess { exec: exec.clone(), container: id.clone(), process, tty: false, timeout, native };
        shim.exec(request, fds).await.map_err(|e| PodError::container_step("exec", &id, e))?;
        let mut output = Collected::default();
        let ended = output.until_exit(stdout, stderr, shim.wait_exec(&exec));
        // The shim keeps the timeout; one that hangs must not keep its caller for ever.
        let bound = timeout.map_or(Duration::MAX, |timeout| timeout.saturating_add(SHIM_REPLY_MAX));
        let Ok(ended) = tokio::time::timeout(bound, ended).await else {
            let seconds = timeout.unwrap_or_default().as_secs();
            return Err(PodError::ExecTimeout { container: id, command: first_word, seconds });
        };
        let (exit, drained): (ExecExit, bool) =
            ended.map_err(|e| PodError::container_step("exec", &id, e))?;
        if exit.timed_out {
            let seconds = timeout.unwrap_or_default().as_secs();
            return Err(PodError::ExecTimeout { container: id, command: first_word, seconds });
        }
        if !drained {
            warn!(
                container.id = id.as_str(),
                stdout = %String::from_utf8_lossy(&output.stdout),
                stderr = %String::from_utf8_lossy(&output.stderr),
                "the output of an exec is held open by what it left behind",
            );
            return Err(PodError::ExecNotDrained { container: id, command: first_word });
        }
        Ok(ExecOutput { stdout: output.stdout, stderr: output.stderr, code: exit.code })
    }

    /// Starts a command in a running container for a client that holds its streams.
    ///
    /// # Errors
    /// When it cannot run.
    pub async fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<Session, PodError> {
        let (status, shim, handler) = self.running_with_handler("exec in", container)?;
        let prepared = self.prepare(&status, &shim, &handler, command, wanted.tty).await;
        let id = status.id;
        let step = |source| PodError::ContainerStep { step: "exec", container: id.clone(), source };
        let (process, native) = prepared.map_err(step)?;
        let exec = new_exec_id().map_err(step)?;
        let (mut streams, fds) = if wanted.tty {
            (Streams::default(), ExecFds::default())
        } else {
            pipes(wanted).map_err(step)?
        };
        let request = ExecProcess {
            exec: exec.clone(),
            container: id.clone(),
            process,
            tty: wanted.tty,
            timeout: None,
            native,
        };
        let started = shim.exec(request, fds).await.map_err(|e| PodError::container_step("exec", &id, e))?;
        streams.terminal = started.terminal;
        Ok(Session { streams, shim, exec, container: id })
    }

    /// The process to run, as the container's own specification has it, and what the shim needs to start it itself: if
    /// it can, and the handler's runtime is of a kind that lets it.
    async fn prepare(
        &self,
        status: &ContainerStatus,
        shim: &Shim,
        handler: &str,
        command: Vec<String>,
        tty: bool,
    ) -> Result<(serde_json::Value, Option<NativeExec>), Cause> {
        let by = self.host.sandboxes.config.handlers.get(handler).map_or(ExecBy::Runtime, |h| h.exec);
        let by = if shim.execs_natively() { by } else { ExecBy::Runtime };
        let (path, id, filters) =
            (status.bundle.join("config.json"), status.id.clone(), self.filters.clone());
        let work = move || {
            let bytes = std::fs::read(&path).map_err(|e| Cause::host(SysError::path("read", &path, e)))?;
            let spec: Spec = serde_json::from_slice(&bytes).map_err(Cause::host)?;
            let process = spec::exec_process(&spec, &command, tty).map_err(Cause::new)?;
            let native = match by {
                ExecBy::Runtime => None,
                ExecBy::Shim(kind) => native(&spec, &id, kind, &filters),
            };
            Ok((serde_json::to_value(process).map_err(Cause::host)?, native))
        };
        tokio::task::spawn_blocking(work).await.map_err(Cause::host)?
    }

    /// Attaches a client to a running container's own streams.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn attach(&self, container: &str, wanted: Wanted) -> Result<Attachment, PodError> {
        let (status, shim) = self.running("attach to", container)?;
        let id = status.id;
        let step = |source| PodError::ContainerStep { step: "attach", container: id.clone(), source };
        let (streams, fds) = pipes(wanted).map_err(step)?;
        shim.attach(&id, fds).await.map_err(|e| PodError::container_step("attach", &id, e))?;
        Ok(Attachment { streams, shim, container: id })
    }

    /// Makes the container's log a new file at its path, which exists when this returns.
    ///
    /// # Errors
    /// When it does not run, or the file cannot be made.
    pub async fn reopen_log(&self, container: &str) -> Result<(), PodError> {
        let (status, shim) = self.running("reopen the log of", container)?;
        let reopened = shim.reopen_log(&status.id).await;
        reopened.map_err(|e| PodError::container_step("reopen the log", &status.id, e))
    }

    /// A TCP connection to a port of a ready pod, from inside its network.
    ///
    /// # Errors
    /// When the pod is not ready or nothing listens there.
    pub async fn dial(&self, pod: &str, port: u16) -> Result<tokio::net::TcpStream, PodError> {
        let view = self.pod(pod)?;
        let id: &PodId = &view.pod.id;
        if view.pod.phase != PodPhase::Ready {
            let state = view.pod.phase.word();
            return Err(PodError::PodState { attempt: "forward a port", pod: id.clone(), state });
        }
        let step = |source| PodError::PodStep { step: "forward a port", pod: id.clone(), source };
        let netns = view.pod.netns.clone();
        let dialed = network::dial(netns.as_deref(), port, PORT_DIAL_MAX).await;
        let stream = dialed.map_err(|e| step(Cause::new(e)))?;
        tokio::net::TcpStream::from_std(stream).map_err(|e| step(Cause::host(e)))
    }
}

fn new_exec_id() -> Result<ExecId, Cause> {
    kernel::random::id_bytes().map(ExecId::from_bytes).map_err(Cause::host)
}

/// What the shim cannot read from the process; `None`: this container's execs are for the OCI runtime.
fn native(spec: &Spec, id: &ContainerId, kind: Kind, filters: &Filters) -> Option<NativeExec> {
    let filter = match &spec.linux.seccomp {
        Some(profile) => Some(filters.of(profile, kind)?),
        None => None,
    };
    let keyring = match kind {
        Kind::Runc => Some(format!("_ses.{id}")),
        Kind::Crun => Some(id.to_string()),
        Kind::Other => None,
    };
    Some(NativeExec { keyring, filter })
}

fn pipe_fds() -> Result<(OwnedFd, OwnedFd), Cause> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Cause::host(kernel::SysError::bare("pipe2", e)))
}

/// A pipe that this side reads.
fn pipe_to_read() -> Result<(pipe::Receiver, OwnedFd), Cause> {
    let (read, write) = pipe_fds()?;
    let receiver = pipe::Receiver::from_owned_fd(read).map_err(Cause::host)?;
    Ok((receiver, write))
}

/// The client's ends and the container's ends of the streams that are wanted.
fn pipes(wanted: Wanted) -> Result<(Streams, ExecFds), Cause> {
    let (mut ours, mut theirs) = (Streams::default(), ExecFds::default());
    if wanted.stdin {
        let (read, write) = pipe_fds()?;
        (ours.stdin, theirs.stdin) = (Some(write), Some(read));
    }
    if wanted.stdout {
        let (read, write) = pipe_fds()?;
        (ours.stdout, theirs.stdout) = (Some(read), Some(write));
    }
    if wanted.stderr && !wanted.tty {
        let (read, write) = pipe_fds()?;
        (ours.stderr, theirs.stderr) = (Some(read), Some(write));
    }
    Ok((ours, theirs))
}

/// What a command has written so far. Beyond the bound it is read and dropped, so that the command goes on.
#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Collected {
    /// Reads both streams until the command has ended and they have, or its leftovers hold them too long.
    /// Says how it ended, and whether the streams did.
    async fn until_exit<E>(
        &mut self,
        mut stdout: pipe::Receiver,
        mut stderr: pipe::Receiver,
        exit: impl Future<Output = Result<ExecExit, E>>,
    ) -> Result<(ExecExit, bool), E> {
        let mut room = EXEC_SYNC_OUTPUT_BYTES_MAX;
        let (mut out_open, mut err_open) = (true, true);
        let (mut out_chunk, mut err_chunk) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
        let mut exit = std::pin::pin!(exit);
        let mut exited = None;
        let patience = tokio::time::sleep(Duration::MAX);
        let mut patience = std::pin::pin!(patience);
        loop {
            if let Some(exit) = exited
                && !out_open
                && !err_open
            {
                return Ok((exit, true));
            }
            tokio::select! {
                read = stdout.read(&mut out_chunk), if out_open => {
                    out_open = keep(&mut self.stdout, &mut room, &out_chunk, read);
                }
                read = stderr.read(&mut err_chunk), if err_open => {
                    err_open = keep(&mut self.stderr, &mut room, &err_chunk, read);
                }
                ended = &mut exit, if exited.is_none() => {
                    exited = Some(ended?);
                    patience.as_mut().reset(tokio::time::Instant::now() + EXEC_SYNC_DRAIN_MAX);
                }
                () = &mut patience, if exited.is_some() => {
                    return Ok((exited.unwrap_or(ExecExit { code: 255, timed_out: false }), false));
                }
            }
        }
    }
}

/// Keeps what still fits; says whether the stream goes on.
fn keep(kept: &mut Vec<u8>, room: &mut usize, chunk: &[u8], read: std::io::Result<usize>) -> bool {
    let Ok(bytes) = read else { return false };
    let fits = bytes.min(*room);
    kept.extend_from_slice(&chunk[..fits]);
    *room -= fits;
    bytes > 0
}
