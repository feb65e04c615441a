//! Processes that are started in a running container beside its first one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::enter::Mark;
use kernel::pidfd::{PidFd, SIGKILL};
use kernel::process::Exit;
use kernel::{SysError, seqpacket};
use model::ExecId;
use model::limits::OCI_RUNTIME_MAX;
use rustix::fs::MemfdFlags;
use wire::{Event, ExecProcess, ExecStarted, Failure, FailureKind, KillExec, ReplyBody};

use crate::container::{Phase, not_found};
use crate::native::Start;
use crate::note::note;
use crate::requests::{Asked, failure};
use crate::runtime::{Call, Purpose, failed, read_pid};
use crate::server::Server;
use crate::stdio::{self, Console, Theirs};
use crate::subtree;

/// How often what survives a kill is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// What was asked for, until its process runs.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) exec: ExecProcess,
    /// The OCI Process as JSON, in a memfd.
    pub(crate) process: OwnedFd,
    /// Standard input, output, error.
    pub(crate) streams: [Option<OwnedFd>; 3],
}

impl Request {
    /// How long its start may take.
    fn allowed(&self) -> Duration {
        self.exec.timeout.unwrap_or(OCI_RUNTIME_MAX).min(OCI_RUNTIME_MAX)
    }
}

/// An exec, from its request to its exit.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Who asked, until the start is answered.
    pub(crate) asked: Option<Asked>,
    pub(crate) console: Option<Console>,
    /// The OCI Process and the runtime's log, in memory, while the runtime works.
    pub(crate) files: Option<(OwnedFd, OwnedFd)>,
    pub(crate) pid_file: PathBuf,
    pub(crate) process: Option<PidFd>,
    /// While this shim starts it itself.
    pub(crate) start: Option<Start>,
    /// What it and all that it starts carry, when this shim has started it.
    pub(crate) mark: Option<Mark>,
    /// When its subtree is killed (again).
    pub(crate) kill_at: Option<Instant>,
    pub(crate) timed_out: bool,
    /// What was found to belong to it.
    tree: BTreeSet<u32>,
}

impl Exec {
    pub(crate) fn new(asked: Asked, pid_file: PathBuf) -> Self {
        Self {
            asked: Some(asked),
            console: None,
            files: None,
            pid_file,
            process: None,
            start: None,
            mark: None,
            kill_at: None,
            timed_out: false,
            tree: BTreeSet::new(),
        }
    }

    /// Kills the whole subtree now, and again until its process has ended.
    pub(crate) fn kill(&mut self, now: Instant) {
        if let Some(process) = &self.process {
            self.tree.insert(process.pid());
            subtree::kill(&mut self.tree, self.mark.as_ref());
        }
        if let Some(start) = &self.start {
            start.kill(self.process.as_ref());
        }
        self.kill_at = Some(now + KILL_AGAIN);
    }

    /// Whether anybody has killed it: then nothing that it started may outlive it.
    pub(crate) fn killed(&self) -> bool {
        !self.tree.is_empty()
    }

    /// Kills it when its time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        if let Some(start) = &mut self.start {
            start.expire(now, self.process.as_ref());
            return;
        }
        // While the runtime still starts it, the runtime's own deadline is the one that counts.
        if self.process.is_some() && self.kill_at.is_some_and(|at| now >= at) {
            // A kill that was asked for is no timeout.
            self.timed_out |= !self.killed();
            self.kill(now);
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

impl Server {
    pub(crate) fn exec(&mut self, asked: Asked, exec: ExecProcess, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        const STAGE: &str = "exec";
        let Some(container) = self.containers.get(&exec.container) else {
            return Err(not_found(STAGE, &exec.container));
        };
        if !matches!(container.phase, Phase::Running { .. }) {
            let message = format!("container {} does not run", exec.container);
            return Err(failure(STAGE, message, FailureKind::WrongState));
        }
        if self.execs.contains_key(&exec.exec) {
            return Err(failure(STAGE, format!("exec {} is here already", exec.exec), FailureKind::Exists));
        }
        let missing = || failure(STAGE, "a file descriptor is missing", FailureKind::Invalid);
        let mut fds = fds.into_iter();
        let process = fds.next().ok_or_else(missing)?;
        let mut next =
            |present: bool| if present { fds.next().map(Some).ok_or_else(missing) } else { Ok(None) };
        let streams = [next(exec.stdin)?, next(exec.stdout)?, next(exec.stderr)?];
        let filter = next(exec.native.as_ref().is_some_and(|native| native.filter_flags.is_some()))?;

        let id = exec.exec.clone();
        let bundle = &container.spec.bundle;
        let mut entry = Exec::new(asked, bundle.join(format!("exec-{}.pid", id.short())));
        // A time that the clock cannot reach never comes.
        entry.kill_at = exec.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut request = Request { exec, process, streams };
        if let Some(native) = request.exec.native.take().filter(|_| self.sealed) {
            let allowed = request.allowed();
            match self.start_native(request, &native, filter, allowed) {
                Ok(start) => {
                    entry.start = Some(start);
                    self.execs.insert(id, entry);
                    return Ok(());
                }
                Err((unable, failure)) => {
                    note(format_args!("an exec is left to the OCI runtime: {failure}"));
                    request = *unable;
                }
            }
        }
        self.execs.insert(id.clone(), entry);
        self.exec_by_runtime(&id, request).inspect_err(|_| drop(self.execs.remove(&id)))
    }

    /// Lets the OCI runtime start the process of an exec.
    pub(crate) fn exec_by_runtime(&mut self, id: &ExecId, request: Request) -> Result<(), Failure> {
        const STAGE: &str = "exec";
        let allowed = request.allowed();
        let Request { exec, process, streams } = request;
        let Some(container) = self.containers.get(&exec.container) else {
            return Err(not_found(STAGE, &exec.container));
        };
        let Some(entry) = self.execs.get_mut(id) else { return Ok(()) };
        let bundle = &container.spec.bundle;
        let log = rustix::fs::memfd_create("runtime.log", MemfdFlags::CLOEXEC)
            .map_err(|e| failed(STAGE, &SysError::bare("memfd_create", e)))?;
        let log_path = seqpacket::through(log.as_fd());
        let mut args: Vec<OsString> = vec!["exec".into(), "--detach".into()];
        args.extend(["--process".into(), seqpacket::through(process.as_fd()).into()]);
        args.extend(["--pid-file".into(), entry.pid_file.clone().into()]);
        entry.files = Some((process, log));
        let (theirs, stderr) = if exec.tty {
            let console = Console::listen(bundle, &format!("exec-{}.sock", id.short()))
                .map_err(|e| failed(STAGE, &e))?;
            args.extend(["--console-socket".into(), console.given().into()]);
            entry.console = Some(console);
            let (ours, theirs) = stdio::words().map_err(|e| failed(STAGE, &e))?;
            (theirs, Some(ours))
        } else {
            let [stdin, stdout, stderr] =
                streams.map(|fd| fd.map_or_else(std::process::Stdio::null, Into::into));
            (Theirs { stdin, stdout, stderr }, None)
        };
        args.push(exec.container.to_string().into());
        let call = Call { runtime: &container.spec.runtime, log: log_path, args, theirs, stderr, allowed };
        let (pid, job) = call.start(Purpose::Exec(id.clone()))?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has started the exec's process: it runs, or has already ended.
    pub(crate) fn exec_started(&mut self, id: &ExecId) -> Result<(), Failure> {
        const STAGE: &str = "runtime exec";
        let Some(exec) = self.execs.get_mut(id) else { return Ok(()) };
        let pid =
            read_pid(&exec.pid_file).map_err(|message| failure(STAGE, message, FailureKind::Internal))?;
        let _ = fs::remove_file(&exec.pid_file);
        exec.files = None;
        let terminal = match exec.console.take() {
            Some(console) => {
                let sent = console.receive().map_err(|e| SysError::named("receive", "the terminal", e));
                Some(sent.map_err(|e| failed(STAGE, &e))?)
            }
            None => None,
        };
        let ended = self.strays.remove(&pid);
        if ended.is_none() {
            exec.process = Some(PidFd::open(pid).map_err(|e| failed(STAGE, &e))?);
        }
        if let Some(asked) = exec.asked.take() {
            self.answer(asked, Ok(ReplyBody::ExecStarted(ExecStarted { pid })), terminal);
        }
        if let Some((exit, _)) = ended {
            self.exec_exited(id, exit);
        }
        Ok(())
    }

    pub(crate) fn exec_exited(&mut self, id: &ExecId, exit: Exit) {
        // Who asked for its start is answered first.
        self.native_started(id);
        if let Some(mut exec) = self.execs.remove(id) {
            if exec.killed() {
                // Its process is dead, and what it had started must not outlive the kill either.
                exec.kill(Instant::now());
            }
            self.tell(&Event::ExecExited { exec: id.clone(), code: exit.code, timed_out: exec.timed_out });
        }
    }

    pub(crate) fn kill_exec(&mut self, kill: &KillExec) -> Result<(), Failure> {
        // An exec that is not here has ended.
        let Some(exec) = self.execs.get_mut(&kill.exec) else { return Ok(()) };
        if kill.signal.number() == SIGKILL {
            exec.kill(Instant::now());
            return Ok(());
        }
        match &exec.process {
            Some(process) => process.signal(kill.signal.number()).map_err(|e| failed("kill exec", &e)),
            None => Err(failure("kill exec", "it is being started", FailureKind::WrongState)),
        }
    }

    pub(crate) fn exec_failed(&mut self, id: &ExecId, failure: Failure) {
        if let Some(mut exec) = self.execs.remove(id)
            && let Some(asked) = exec.asked.take()
        {
            self.answer(asked, Err(failure), None);
        }
    }
}
