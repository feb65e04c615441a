//! The handle to one shim: a method for each request.

use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kernel::SysError;
use model::limits::{CHECKPOINT_MAX, OCI_RUNTIME_MAX, SHIM_REPLY_MAX};
use model::{ContainerId, ExecId, PodId, Signal};
use rustix::fs::MemfdFlags;
use telemetry::Stages;
use tokio::sync::broadcast;
use wire::{
    ContainerState, Dump, Event, HelloReply, ReplyBody, RequestBody, RunContainer, Started, StateReply,
};

use crate::ShimError;
use crate::connection::Connection;

/// A system call filter as the kernel takes it.
#[derive(Clone, Debug)]
pub struct Filter {
    /// A memfd of `struct sock_filter`s.
    pub memory: Arc<OwnedFd>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// What a shim that starts an exec's process itself cannot read from the OCI Process.
#[derive(Clone, Debug, Default)]
pub struct NativeExec {
    /// The name of the session keyring that the container's processes share; a new keyring without.
    pub keyring: Option<String>,
    /// The container's filter, if it has one.
    pub filter: Option<Filter>,
}

/// A process to start in a running container.
#[derive(Clone, Debug)]
pub struct ExecProcess {
    /// Its id, made by the caller.
    pub exec: ExecId,
    /// Where.
    pub container: ContainerId,
    /// The OCI Process; its `terminal` agrees with `tty`.
    pub process: serde_json::Value,
    /// With a terminal, whose master the caller gets.
    pub tty: bool,
    /// After this, the shim kills its whole subtree.
    pub timeout: Option<Duration>,
    /// The shim starts it itself, if it can. Absent, or where it cannot: the OCI runtime does.
    pub native: Option<NativeExec>,
}

/// The caller's ends of standard streams: one to read from, two to write to. Absent ones are /dev/null.
#[derive(Debug, Default)]
pub struct ExecFds {
    /// Read by the process.
    pub stdin: Option<OwnedFd>,
    /// Written by it.
    pub stdout: Option<OwnedFd>,
    /// Written by it.
    pub stderr: Option<OwnedFd>,
}

/// An exec that runs.
#[derive(Debug)]
pub struct ExecStarted {
    /// Its process, on the host.
    pub pid: u32,
    /// Its terminal's master, when it has one: read, write and resize it (`kernel::pty::resize`).
    pub terminal: Option<OwnedFd>,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// 128 and the signal's number when it was killed by one.
    pub code: i32,
    /// Whether its timeout was the reason.
    pub timed_out: bool,
}

/// A connection to a pod's shim. Clones share it.
#[derive(Clone)]
pub struct Shim {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
    hello: HelloReply,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shim(pod {}, pid {})", self.shared.connection.pod.short(), self.shared.hello.pid)
    }
}

impl Shim {
    /// Speaks over a connected socket, beginning with a hello.
    pub(crate) async fn over(pod: PodId, socket: OwnedFd, stages: Stages) -> Result<Self, ShimError> {
        let connection = Arc::new(Connection::new(pod, socket, stages)?);
        let reader = tokio::spawn(Arc::clone(&connection).read());
        let hello = connection.call("hello", RequestBody::Hello, &[], SHIM_REPLY_MAX).await;
        match hello {
            Ok((ReplyBody::Hello(hello), _)) => {
                Ok(Self { shared: Arc::new(Shared { connection, hello, reader }) })
            }
            other => {
                reader.abort();
                Err(other.map_or_else(|e| e, |_| unexpected("hello", &connection.pod)))
            }
        }
    }

    /// The pod whose shim it is.
    pub fn pod(&self) -> &PodId {
        &self.shared.connection.pod
    }

    /// The shim's process id.
    pub fn pid(&self) -> u32 {
        self.shared.hello.pid
    }

    /// The host's id of pid 1 in the pod's shared PID namespace, as it was when the connection was made.
    pub fn pod_init(&self) -> Option<u32> {
        self.shared.hello.pod_init
    }

    /// Whether it starts execs itself when it is asked to. Older shims do not, nor one whose program could be written.
    pub fn execs_natively(&self) -> bool {
        self.shared.hello.native_exec
    }

    /// Creates and starts a container.
    ///
    /// # Errors
    /// [`ShimError`]; an OCI runtime's failure is in its own words, and nothing of the container is left.
    pub async fn run(&self, container: RunContainer) -> Result<Started, ShimError> {
        // The shim keeps the deadline; this side only guards against a shim that hangs.
        let within = Duration::from_millis(container.deadline_ms).saturating_add(SHIM_REPLY_MAX);
        match self.call("run a container", RequestBody::Run(Box::new(container)), &[], within).await? {
            (ReplyBody::Started(started), _) => Ok(started),
            _ => Err(unexpected("run a container", self.pod())),
        }
    }

    /// Signals a container's first process, or all of them; with `all` and SIGKILL, returns when they are gone.
    /// A container that has exited is success.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn kill(&self, container: &ContainerId, signal: Signal, all: bool) -> Result<(), ShimError> {
        let body = RequestBody::Kill(wire::KillContainer { container: container.clone(), signal, all });
        self.done("kill a container", body, SHIM_REPLY_MAX).await
    }

    /// Removes what the OCI runtime keeps of a container. An absent one is success.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn delete(&self, container: &ContainerId) -> Result<(), ShimError> {
        let body = RequestBody::Delete { container: container.clone() };
        self.done("delete a container", body, OCI_RUNTIME_MAX + SHIM_REPLY_MAX).await
    }

    /// Starts a process in a running container. Its exit is had from [`Self::wait_exec`], once.
    ///
    /// # Errors
    /// [`ShimError`]; an OCI runtime's failure is in its own words.
    pub async fn exec(&self, exec: ExecProcess, fds: ExecFds) -> Result<ExecStarted, ShimError> {
        const ATTEMPT: &str = "exec";
        let connection = &self.shared.connection;
        let process = self.in_memory(ATTEMPT, &exec.process)?;
        let native = exec.native.as_ref().filter(|_| self.execs_natively());
        let body = RequestBody::Exec(wire::ExecProcess {
            exec: exec.exec.clone(),
            container: exec.container,
            tty: exec.tty,
            timeout: exec.timeout,
            stdin: fds.stdin.is_some(),
            stdout: fds.stdout.is_some(),
            stderr: fds.stderr.is_some(),
            native: native.map(|native| wire::NativeExec {
                keyring: native.keyring.clone(),
                filter_flags: native.filter.as_ref().map(|filter| filter.flags),
            }),
        });
        let mut borrowed = vec![process.as_fd()];
        borrowed.extend(borrow(&fds));
        borrowed.extend(native.and_then(|native| native.filter.as_ref()).map(|filter| filter.memory.as_fd()));
        connection.expect_exit(&exec.exec);
        let forget = Forget { connection, exec: Some(&exec.exec) };
        let started = match self.call(ATTEMPT, body, &borrowed, OCI_RUNTIME_MAX + SHIM_REPLY_MAX).await? {
            (ReplyBody::ExecStarted(started), fds) => {
                ExecStarted { pid: started.pid, terminal: fds.into_iter().next() }
            }
            _ => return Err(unexpected(ATTEMPT, self.pod())),
        };
        forget.keep();
        Ok(started)
    }

    /// Waits for an exec to end. Tells it once; dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ShimError::Lost`] with the connection: exec exits are not kept for the next one.
    pub async fn wait_exec(&self, exec: &ExecId) -> Result<ExecExit, ShimError> {
        self.shared.connection.wait_exit(exec).await
    }

    /// Kills an exec's whole subtree. An exec that has ended is success.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn kill_exec(&self, exec: &ExecId) -> Result<(), ShimError> {
        let body = RequestBody::KillExec(wire::KillExec { exec: exec.clone(), signal: Signal::KILL });
        self.done("kill an exec", body, SHIM_REPLY_MAX).await
    }

    /// Signals an exec's process, as a client that hangs up does with SIGHUP.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn signal_exec(&self, exec: &ExecId, signal: Signal) -> Result<(), ShimError> {
        let body = RequestBody::KillExec(wire::KillExec { exec: exec.clone(), signal });
        self.done("signal an exec", body, SHIM_REPLY_MAX).await
    }

    /// Copies a container's output from now on to `stdout` and `stderr`, and `stdin` to it. The shim closes
    /// them when the container's streams end; closing this side's ends detaches.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn attach(&self, container: &ContainerId, fds: ExecFds) -> Result<(), ShimError> {
        let body = RequestBody::Attach(wire::Attach {
            container: container.clone(),
            stdin: fds.stdin.is_some(),
            stdout: fds.stdout.is_some(),
            stderr: fds.stderr.is_some(),
        });
        let borrowed: Vec<_> = borrow(&fds).collect();
        match self.call("attach", body, &borrowed, SHIM_REPLY_MAX).await? {
            (ReplyBody::Done, _) => Ok(()),
            _ => Err(unexpected("attach", self.pod())),
        }
    }

    /// Changes the size of a container's terminal, in characters.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resize(&self, container: &ContainerId, width: u16, height: u16) -> Result<(), ShimError> {
        let body = RequestBody::Resize(wire::Resize { container: container.clone(), width, height });
        self.done("resize a terminal", body, SHIM_REPLY_MAX).await
    }

    /// Closes a container's standard input.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn close_stdin(&self, container: &ContainerId) -> Result<(), ShimError> {
        let body = RequestBody::CloseStdin { container: container.clone() };
        self.done("close standard input", body, SHIM_REPLY_MAX).await
    }

    /// Opens a container's log anew: the file exists when this returns, and no record is split.
    ///
    /// # Errors
    /// [`ShimError`]; the old file stays in use then.
    pub async fn reopen_log(&self, container: &ContainerId) -> Result<(), ShimError> {
        let body = RequestBody::ReopenLog { container: container.clone() };
        self.done("reopen a log", body, SHIM_REPLY_MAX).await
    }

    /// Whether it holds containers still, writes them to disk, and starts them from there. Older shims do not.
    pub fn checkpoints(&self) -> bool {
        self.shared.hello.checkpoints
    }

    /// Holds containers still, each with the directory of its freezer cgroup (v1) or cgroup (v2), until
    /// [`Self::resume`] or until this connection is lost. Every process of them is still when this returns.
    ///
    /// # Errors
    /// [`ShimError`]; nothing is held then.
    pub async fn pause(&self, containers: Vec<(ContainerId, PathBuf)>) -> Result<(), ShimError> {
        let held = |(container, freezer)| wire::Held { container, freezer };
        let containers = containers.into_iter().map(held).collect();
        self.done("hold containers still", RequestBody::Pause(wire::Pause { containers }), SHIM_REPLY_MAX)
            .await
    }

    /// Lets the containers that are held still go on, once the OCI runtime is done with what it writes.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resume(&self) -> Result<(), ShimError> {
        self.done("let containers go on", RequestBody::Resume, CHECKPOINT_MAX + SHIM_REPLY_MAX).await
    }

    /// Writes a running container's processes to disk. It runs on.
    ///
    /// # Errors
    /// [`ShimError`]; the OCI runtime's failure is in its own words.
    pub async fn checkpoint(&self, container: &ContainerId, to: Dump) -> Result<(), ShimError> {
        let deadline_ms = u64::try_from(CHECKPOINT_MAX.as_millis()).unwrap_or(u64::MAX);
        let body =
            RequestBody::Checkpoint(wire::Checkpoint { container: container.clone(), to, deadline_ms });
        self.done("checkpoint a container", body, CHECKPOINT_MAX + SHIM_REPLY_MAX).await
    }

    /// Everything that the shim holds: its containers, how they are, how they ended.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn state(&self) -> Result<Vec<ContainerState>, ShimError> {
        Ok(self.whole_state().await?.containers)
    }

    /// As [`Self::state`], with the pod's pid 1 if it lives.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn whole_state(&self) -> Result<StateReply, ShimError> {
        const ATTEMPT: &str = "ask for the state";
        let mut containers = Vec::new();
        loop {
            let after = containers.last().map(|last: &ContainerState| last.container.clone());
            match self.call(ATTEMPT, RequestBody::State(after.clone()), &[], SHIM_REPLY_MAX).await? {
                (ReplyBody::State(page), _) => {
                    // A shim that repeated itself would be asked for ever.
                    let further = page.containers.last().map(|last| &last.container) > after.as_ref();
                    containers.extend(page.containers);
                    if !(page.more && further) {
                        return Ok(StateReply { pod_init: page.pod_init, containers, more: false });
                    }
                }
                _ => return Err(unexpected(ATTEMPT, self.pod())),
            }
        }
    }

    /// Ends the shim; refused while a container runs.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        match self.done("shut down the shim", RequestBody::Shutdown, SHIM_REPLY_MAX).await {
            // It may be gone before its answer is read.
            Err(ShimError::Lost { .. }) => Ok(()),
            other => other,
        }
    }

    /// What the shim tells from now on, or, to the first who asks, has told on this connection. A receiver that lags too far is told so and then asks the state.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.connection.events()
    }

    /// Resolves when the connection is lost.
    pub async fn closed(&self) {
        self.shared.connection.closed().await;
    }

    async fn call(
        &self,
        attempt: &'static str,
        body: RequestBody,
        fds: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(ReplyBody, Vec<OwnedFd>), ShimError> {
        self.shared.connection.call(attempt, body, fds, within).await
    }

    async fn done(
        &self,
        attempt: &'static str,
        body: RequestBody,
        within: Duration,
    ) -> Result<(), ShimError> {
        match self.call(attempt, body, &[], within).await? {
            (ReplyBody::Done, _) => Ok(()),
            _ => Err(unexpected(attempt, self.pod())),
        }
    }

    /// JSON in a memfd: it has no bound as a frame has, and leaves no file behind.
    fn in_memory(&self, attempt: &'static str, value: &serde_json::Value) -> Result<OwnedFd, ShimError> {
        let failed = |source| ShimError::System { attempt, pod: self.pod().clone(), source };
        let memory = rustix::fs::memfd_create("process.json", MemfdFlags::CLOEXEC)
            .map_err(|e| failed(SysError::bare("memfd_create", e)))?;
        let mut file = std::fs::File::from(memory);
        file.write_all(value.to_string().as_bytes())
            .map_err(|e| failed(SysError::named("write", "a memfd", e)))?;
        Ok(file.into())
    }
}

fn unexpected(attempt: &'static str, pod: &PodId) -> ShimError {
    ShimError::Unexpected { attempt, pod: pod.clone() }
}

fn borrow(fds: &ExecFds) -> impl Iterator<Item = BorrowedFd<'_>> {
    [&fds.stdin, &fds.stdout, &fds.stderr].into_iter().flatten().map(|fd| fd.as_fd())
}

/// Takes back the expectation of an exit when the exec did not start, or its caller went away.
struct Forget<'a> {
    connection: &'a Connection,
    exec: Option<&'a ExecId>,
}

impl Forget<'_> {
    fn keep(mut self) {
        self.exec = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(exec) = self.exec {
            self.connection.forget_exit(exec);
        }
    }
}
