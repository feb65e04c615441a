//! What each request does, and what follows when a child ends.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use kernel::pidfd::PidFd;
use kernel::process::{self, Exit};
use kernel::{SysError, seqpacket};
use model::limits::OCI_RUNTIME_MAX;
use model::{ContainerId, ExecId, UnixNanos};
use rustix::fs::MemfdFlags;
use wire::{
    Event, ExecProcess, ExecStarted, Failure, FailureKind, HelloReply, KillContainer, KillExec, ReplyBody,
    RequestBody, RunContainer, Started, StateReply,
};

use crate::attach::Client;
use crate::container::{Container, Phase, not_found, processes_in, record_path};
use crate::cri_log::{CriLog, Stream};
use crate::exec::Exec;
use crate::note::note;
use crate::runtime::{Call, Job, Purpose, failed, read_pid};
use crate::server::Server;
use crate::stdio::{self, Console, Theirs, drain};
use crate::time::now;

const SIGKILL: i32 = 9;
/// How long undoing a failed start may take.
const UNDO_MAX: Duration = Duration::from_secs(10);
/// How often a container's processes are killed again until they are gone.
const SWEEP_AGAIN: Duration = Duration::from_millis(5);
/// After this, processes that do not die (they wait in the kernel) are told as a failure.
const SWEEP_MAX: Duration = Duration::from_secs(8);

/// Whom to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) peer: u64,
    pub(crate) seq: u64,
}

/// A container that is being killed whole.
#[derive(Debug)]
pub(crate) struct Sweep {
    container: ContainerId,
    asked: Asked,
    pub(crate) again_at: Instant,
    until: Instant,
}

type Outcome = Result<ReplyBody, Failure>;

fn failure(stage: &str, message: impl Into<String>, kind: FailureKind) -> Failure {
    Failure { stage: stage.into(), message: message.into(), kind }
}

impl Server {
    /// Does what is asked. `None`: it is answered later.
    pub(crate) fn request(&mut self, asked: Asked, body: RequestBody, fds: Vec<OwnedFd>) -> Option<Outcome> {
        let done = |result: Result<(), Failure>| Some(result.map(|()| ReplyBody::Done));
        match body {
            RequestBody::Hello => Some(Ok(ReplyBody::Hello(HelloReply {
                version: wire::VERSION,
                pid: std::process::id(),
                pod_init: self.pod_init,
            }))),
            RequestBody::Run(spec) => self.run_container(asked, *spec).err().map(Err),
            RequestBody::Kill(kill) => {
                self.kill(asked, &kill).transpose().map(|r| r.map(|()| ReplyBody::Done))
            }
            RequestBody::Delete { container } => self.delete(asked, &container),
            RequestBody::Exec(exec) => self.exec(asked, exec, fds).err().map(Err),
            RequestBody::KillExec(kill) => done(self.kill_exec(&kill)),
            RequestBody::Attach(attach) => done(self.attach(&attach, fds)),
            RequestBody::Resize(resize) => done(self.resize(&resize)),
            RequestBody::CloseStdin { container } => done(self.close_stdin(&container)),
            RequestBody::ReopenLog { container } => done(self.reopen_log(&container)),
            RequestBody::State => Some(Ok(ReplyBody::State(StateReply {
                pod_init: self.pod_init,
                containers: self.containers.values().map(Container::state).collect(),
            }))),
            RequestBody::Shutdown => done(self.shutdown()),
        }
    }

    // === Run ===

    fn run_container(&mut self, asked: Asked, spec: RunContainer) -> Result<(), Failure> {
        const STAGE: &str = "run";
        if self.containers.contains_key(&spec.container) {
            let message = format!("container {} is here already", spec.container);
            return Err(failure(STAGE, message, FailureKind::Exists));
        }
        let log = CriLog::open(spec.log.as_ref()).map_err(|e| {
            let path = spec.log.as_ref().map(|log| log.path.display().to_string()).unwrap_or_default();
            failed("open log", &SysError::path("open", path, e))
        })?;
        let mut container = Container::new(spec, asked, log);
        let spec = &container.spec;
        let mut args: Vec<OsString> = vec!["create".into(), "--bundle".into(), spec.bundle.clone().into()];
        args.extend(["--pid-file".into(), container.pid_file().into()]);
        let (theirs, stderr) = if spec.stdio.tty {
            let console = Console::listen(&spec.bundle, "console.sock").map_err(|e| failed(STAGE, &e))?;
            args.extend(["--console-socket".into(), console.given().into()]);
            container.console = Some(console);
            let (ours, theirs) = stdio::words().map_err(|e| failed(STAGE, &e))?;
            (theirs, Some(ours))
        } else {
            let (outputs, stdin, theirs) = stdio::pipes(spec.stdio).map_err(|e| failed(STAGE, &e))?;
            container.outputs = outputs;
            if let Some(stdin) = stdin {
                container.set_stdin(stdin);
            }
            (theirs, None)
        };
        args.push(container.id.to_string().into());
        let spec = &container.spec;
        let log = spec.bundle.join("runtime.log");
        // What an earlier attempt said is not this one's.
        let _ = fs::remove_file(&log);
        let allowed = Duration::from_millis(spec.deadline_ms).min(OCI_RUNTIME_MAX);
        let call = Call { runtime: &spec.runtime, log, args, theirs, stderr, allowed };
        let (pid, job) = call.start(Purpose::Create(container.id.clone()))?;
        self.jobs.insert(pid, job);
        self.containers.insert(container.id.clone(), container);
        Ok(())
    }

    /// The runtime has created the container: it is taken over, watched, and then let go.
    fn created(&mut self, id: &ContainerId, left: Duration) -> Result<(), Failure> {
        let Some(container) = self.containers.get_mut(id) else { return Ok(()) };
        let pid = read_pid(&container.pid_file())
            .map_err(|message| failure("runtime create", message, FailureKind::Internal))?;
        container.created(&mut self.watch, pid, now())?;
        let (ours, theirs) = stdio::words().map_err(|e| failed("runtime start", &e))?;
        let spec = &container.spec;
        let args = vec!["start".into(), container.id.to_string().into()];
        let log = spec.bundle.join("runtime.log");
        let call = Call { runtime: &spec.runtime, log, args, theirs, stderr: Some(ours), allowed: left };
        let (pid, job) = call.start(Purpose::Start(id.clone()))?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    /// The runtime has let it go: it runs, or has already ended.
    fn started(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let asked = container.asked.take();
        let (started, record) = match std::mem::replace(&mut container.phase, Phase::Creating) {
            Phase::Starting { process, .. } => {
                let started = Started { pid: process.pid(), started_at_ns: now() };
                container.phase = Phase::Running { process, started: started.clone() };
                (started, None)
            }
            Phase::Exited(record) => {
                let started = Started { pid: record.pid, started_at_ns: record.started_at_ns };
                container.phase = Phase::Exited(record.clone());
                (started, Some(record))
            }
            other @ (Phase::Creating | Phase::Running { .. }) => {
                container.phase = other;
                return;
            }
        };
        if let Some(asked) = asked {
            self.answer(asked, Ok(ReplyBody::Started(started)), None);
        }
        if let Some(record) = record {
            self.tell(&Event::Exited { container: id.clone(), record });
        }
    }

    /// Removes what a failed run has left; its failure is told when that is done.
    fn undo(&mut self, id: &ContainerId, failure: Failure) {
        if let Err(error) = self.start_delete(id, UNDO_MAX, Purpose::Undo(id.clone(), failure.clone())) {
            note(format_args!("a failed start is not undone: {error}"));
            self.undone(id, failure);
        }
    }

    fn undone(&mut self, id: &ContainerId, failure: Failure) {
        let Some(mut container) = self.containers.remove(id) else { return };
        container.unwatch(&mut self.watch);
        // It did not run, so it did not exit either.
        let _ = kernel::durable::remove(&record_path(&self.exits, id));
        if let Some(asked) = container.asked {
            self.answer(asked, Err(failure), None);
        }
    }

    // === Kill, delete ===

    fn kill(&mut self, asked: Asked, kill: &KillContainer) -> Result<Option<()>, Failure> {
        const STAGE: &str = "kill";
        let Some(container) = self.containers.get_mut(&kill.container) else {
            return Err(not_found(STAGE, &kill.container));
        };
        let signal = kill.signal.number();
        if matches!(container.phase, Phase::Creating) {
            let message = format!("container {} is being created", kill.container);
            return Err(failure(STAGE, message, FailureKind::WrongState));
        }
        if signal == SIGKILL {
            container.about_to_kill();
        }
        if let Some(process) = container.process() {
            process.signal(signal).map_err(|e| failed(STAGE, &e))?;
        }
        if !kill.all {
            return Ok(Some(()));
        }
        if signal != SIGKILL {
            let first = container.process().map(PidFd::pid);
            for pid in container.spec.memory_cgroup.iter().flat_map(|cgroup| processes_in(cgroup)) {
                if Some(pid) != first {
                    kernel::pidfd::signal(pid, signal).map_err(|e| failed(STAGE, &e))?;
                }
            }
            return Ok(Some(()));
        }
        let at = Instant::now();
        let container = kill.container.clone();
        self.sweeps.push(Sweep { container, asked, again_at: at, until: at + SWEEP_MAX });
        Ok(None)
    }

    /// Kills again what is left of the containers that are being killed whole, and answers for those that
    /// are gone.
    pub(crate) fn sweep(&mut self, at: Instant) {
        for mut sweep in std::mem::take(&mut self.sweeps) {
            let Some(container) = self.containers.get(&sweep.container) else {
                self.answer(sweep.asked, Ok(ReplyBody::Done), None);
                continue;
            };
            let pids = container.spec.memory_cgroup.as_deref().map(processes_in).unwrap_or_default();
            if pids.is_empty() && container.process().is_none() {
                self.answer(sweep.asked, Ok(ReplyBody::Done), None);
            } else if at >= sweep.until {
                let message = format!("processes {pids:?} do not die");
                self.answer(sweep.asked, Err(failure("kill", message, FailureKind::Deadline)), None);
            } else {
                if at >= sweep.again_at {
                    for pid in pids {
                        let _ = kernel::pidfd::signal(pid, SIGKILL);
                    }
                    sweep.again_at = at + SWEEP_AGAIN;
                }
                self.sweeps.push(sweep);
            }
        }
    }

    fn delete(&mut self, asked: Asked, id: &ContainerId) -> Option<Outcome> {
        let Some(container) = self.containers.get_mut(id) else { return Some(Ok(ReplyBody::Done)) };
        if container.asked.is_some() {
            let message = format!("container {id} is being started");
            return Some(Err(failure("delete", message, FailureKind::WrongState)));
        }
        container.about_to_kill();
        self.start_delete(id, OCI_RUNTIME_MAX, Purpose::Delete(id.clone(), asked)).err().map(Err)
    }

    fn start_delete(&mut self, id: &ContainerId, allowed: Duration, purpose: Purpose) -> Result<(), Failure> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let (ours, theirs) = stdio::words().map_err(|e| failed("runtime delete", &e))?;
        let args = vec!["delete".into(), "--force".into(), id.to_string().into()];
        // The bundle may be gone by now; what it says is on standard error too.
        let log = "/dev/null".into();
        let call = Call { runtime: &container.spec.runtime, log, args, theirs, stderr: Some(ours), allowed };
        let (pid, job) = call.start(purpose)?;
        self.jobs.insert(pid, job);
        Ok(())
    }

    fn deleted(&mut self, id: &ContainerId) {
        // Its process may be dead and not reaped yet: then its record comes first.
        self.reap();
        if let Some(mut container) = self.containers.remove(id) {
            container.unwatch(&mut self.watch);
        }
        self.execs.retain(|_, exec| exec.container != *id || exec.process.is_some());
    }

    // === Exec ===

    fn exec(&mut self, asked: Asked, exec: ExecProcess, fds: Vec<OwnedFd>) -> Result<(), Failure> {
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
        let spec = fds.next().ok_or_else(missing)?;
        let mut next =
            |present: bool| if present { fds.next().map(Some).ok_or_else(missing) } else { Ok(None) };
        let streams = [next(exec.stdin)?, next(exec.stdout)?, next(exec.stderr)?];

        let bundle = &container.spec.bundle;
        let short = exec.exec.short();
        let mut entry = Exec::new(exec.container.clone(), asked, bundle.join(format!("exec-{short}.pid")));
        let log = rustix::fs::memfd_create("runtime.log", MemfdFlags::CLOEXEC)
            .map_err(|e| failed(STAGE, &SysError::bare("memfd_create", e)))?;
        let log_path = seqpacket::through(log.as_fd());
        let mut args: Vec<OsString> = vec!["exec".into(), "--detach".into()];
        args.extend(["--process".into(), seqpacket::through(spec.as_fd()).into()]);
        args.extend(["--pid-file".into(), entry.pid_file.clone().into()]);
        entry.files = Some((spec, log));
        let (theirs, stderr) = if exec.tty {
            let console =
                Console::listen(bundle, &format!("exec-{short}.sock")).map_err(|e| failed(STAGE, &e))?;
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
        let allowed = exec.timeout.unwrap_or(OCI_RUNTIME_MAX).min(OCI_RUNTIME_MAX);
        entry.kill_at = exec.timeout.map(|timeout| Instant::now() + timeout);
        let call = Call { runtime: &container.spec.runtime, log: log_path, args, theirs, stderr, allowed };
        let (pid, job) = call.start(Purpose::Exec(exec.exec.clone()))?;
        self.jobs.insert(pid, job);
        self.execs.insert(exec.exec, entry);
        Ok(())
    }

    /// The runtime has started the exec's process: it runs, or has already ended.
    fn exec_started(&mut self, id: &ExecId) -> Result<(), Failure> {
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

    fn exec_exited(&mut self, id: &ExecId, exit: Exit) {
        if let Some(mut exec) = self.execs.remove(id) {
            if exec.killed() {
                // Its process is dead, and what it had started must not outlive the kill either.
                exec.kill(Instant::now());
            }
            self.tell(&Event::ExecExited { exec: id.clone(), code: exit.code, timed_out: exec.timed_out });
        }
    }

    fn kill_exec(&mut self, kill: &KillExec) -> Result<(), Failure> {
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

    // === Streams ===

    fn attach(&mut self, attach: &wire::Attach, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        const STAGE: &str = "attach";
        let container = self.running(STAGE, &attach.container)?;
        let missing = || failure(STAGE, "a file descriptor is missing", FailureKind::Invalid);
        let mut fds = fds.into_iter();
        let mut next =
            |present: bool| if present { fds.next().map(Some).ok_or_else(missing) } else { Ok(None) };
        let stdin = next(attach.stdin)?;
        let mut outputs = Vec::new();
        for (stream, present) in [(Stream::Stdout, attach.stdout), (Stream::Stderr, attach.stderr)] {
            outputs.extend(next(present)?.map(|fd| (stream, fd)));
        }
        let id = container.id.clone();
        // Input for a container without one is not read: its client sees its pipe close.
        let stdin = stdin.filter(|_| container.stdin.is_some());
        let Some(container) = self.containers.get_mut(&id) else { return Ok(()) };
        let client = Client::attach(&mut self.watch, &id, outputs, stdin).map_err(|e| failed(STAGE, &e))?;
        container.clients.push(client);
        Ok(())
    }

    fn resize(&mut self, resize: &wire::Resize) -> Result<(), Failure> {
        const STAGE: &str = "resize";
        let container = self.running(STAGE, &resize.container)?;
        let Some(terminal) = &container.terminal else {
            return Err(failure(STAGE, "the container has no terminal", FailureKind::WrongState));
        };
        kernel::pty::resize(terminal, resize.width, resize.height).map_err(|e| failed(STAGE, &e))
    }

    fn close_stdin(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found("close stdin", id))?;
        container.close_stdin(&mut self.watch);
        Ok(())
    }

    fn reopen_log(&mut self, id: &ContainerId) -> Result<(), Failure> {
        const STAGE: &str = "reopen log";
        let container = self.running(STAGE, id)?;
        container.log.reopen().map_err(|e| {
            let path =
                container.spec.log.as_ref().map(|log| log.path.display().to_string()).unwrap_or_default();
            failed(STAGE, &SysError::path("open", path, e))
        })
    }

    fn running(&mut self, stage: &str, id: &ContainerId) -> Result<&mut Container, Failure> {
        let container = self.containers.get_mut(id).ok_or_else(|| not_found(stage, id))?;
        if matches!(container.phase, Phase::Running { .. }) {
            Ok(container)
        } else {
            Err(failure(stage, format!("container {id} does not run"), FailureKind::WrongState))
        }
    }

    fn shutdown(&mut self) -> Result<(), Failure> {
        if let Some(container) = self.containers.values().find(|c| !matches!(c.phase, Phase::Exited(_))) {
            let message = format!("container {} runs", container.id);
            return Err(failure("shut down", message, FailureKind::WrongState));
        }
        if let Some(init) = self.pod_init.take() {
            kernel::pidfd::signal(init, SIGKILL).map_err(|e| failed("end the PID namespace", &e))?;
        }
        let _ = fs::remove_file(&self.socket);
        self.finished = true;
        Ok(())
    }

    // === Children that have ended ===

    /// Looks at every child that has ended, acts on it, and only then reaps it.
    pub(crate) fn reap(&mut self) {
        loop {
            match process::peek_exit() {
                Ok(Some(exit)) => {
                    self.ended(exit, now());
                    process::reap(exit.pid);
                }
                Ok(None) => break,
                Err(error) => {
                    note(format_args!("{}", model::chain(&error)));
                    break;
                }
            }
        }
        if self.jobs.is_empty() {
            self.strays.clear();
        }
    }

    fn ended(&mut self, exit: Exit, at: UnixNanos) {
        let is = |process: Option<&PidFd>| process.is_some_and(|process| process.pid() == exit.pid);
        if let Some(job) = self.jobs.remove(&exit.pid) {
            self.job_ended(job, exit.code);
        } else if let Some(id) = self.containers.values().find(|c| is(c.process())).map(|c| c.id.clone()) {
            self.container_exited(&id, exit, at);
        } else if let Some(id) =
            self.execs.iter().find(|(_, e)| is(e.process.as_ref())).map(|(id, _)| id.clone())
        {
            self.exec_exited(&id, exit);
        } else if self.pod_init == Some(exit.pid) {
            note(format_args!("pid 1 of the shared PID namespace ended with {}", exit.code));
            self.pod_init = None;
            self.tell(&Event::PodInitExited);
        } else if !self.jobs.is_empty() {
            self.strays.insert(exit.pid, (exit, at));
        }
    }

    fn container_exited(&mut self, id: &ContainerId, exit: Exit, at: UnixNanos) {
        if let Some(container) = self.containers.get_mut(id) {
            container.exited(&mut self.watch, exit, &mut self.buffer, at);
            container.write_record(&self.exits);
            // Who asked for its start is answered first.
            if let (Phase::Exited(record), None) = (&container.phase, container.asked) {
                let event = Event::Exited { container: id.clone(), record: record.clone() };
                self.tell(&event);
            }
        }
    }

    fn job_ended(&mut self, mut job: Job, code: i32) {
        if code == 0 {
            let left = job.deadline.saturating_duration_since(Instant::now());
            let result = match &job.purpose {
                Purpose::Create(id) => self.created(&id.clone(), left).map_err(|f| (id.clone(), f)),
                Purpose::Start(id) => {
                    self.started(&id.clone());
                    Ok(())
                }
                Purpose::Undo(id, failure) => {
                    self.undone(&id.clone(), failure.clone());
                    Ok(())
                }
                Purpose::Delete(id, asked) => {
                    self.deleted(&id.clone());
                    self.answer(*asked, Ok(ReplyBody::Done), None);
                    Ok(())
                }
                Purpose::Exec(id) => {
                    if let Err(failure) = self.exec_started(&id.clone()) {
                        self.exec_failed(&id.clone(), failure);
                    }
                    Ok(())
                }
            };
            if let Err((id, failure)) = result {
                self.undo(&id, failure);
            }
            return;
        }
        let mut more = String::new();
        if let Purpose::Create(id) = &job.purpose
            && let Some(container) = self.containers.get_mut(id)
            && let Some(at) = container.outputs.iter().position(|output| output.stream == Stream::Stderr)
        {
            // Nothing of the container's ran yet: what is there is the runtime's.
            more = drain(container.outputs.remove(at).fd, 64 * 1024);
        }
        let failure = job.failure(code, &more);
        match job.purpose {
            Purpose::Create(id) | Purpose::Start(id) => self.undo(&id, failure),
            Purpose::Undo(id, first) => {
                note(format_args!("undoing a failed start failed: {failure}"));
                self.undone(&id, first);
            }
            Purpose::Delete(_, asked) => self.answer(asked, Err(failure), None),
            Purpose::Exec(id) => self.exec_failed(&id, failure),
        }
    }

    fn exec_failed(&mut self, id: &ExecId, failure: Failure) {
        if let Some(mut exec) = self.execs.remove(id)
            && let Some(asked) = exec.asked.take()
        {
            self.answer(asked, Err(failure), None);
        }
    }
}
