//! Execs that the shim starts itself: no OCI runtime, no file, two forks (ADR 100).
//!
//! The event loop never waits for them. What the children say comes over a socket of the loop's; when it closes, the
//! program has begun, or nobody is left who could begin it. An exec that cannot be started from here, with nothing
//! tried yet, is left to the OCI runtime.

mod child;
mod inside;
mod process;

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use kernel::alone::{self, Side};
use kernel::cgroup::Hierarchy;
use kernel::enter::{self, Mark};
use kernel::epoll::Interest;
use kernel::pidfd::{PidFd, SIGKILL};
use kernel::{SysError, seqpacket};
use model::ExecId;
use rustix::fs::{Mode, OFlags};
use wire::{ExecStarted, Failure, FailureKind, NativeExec, ReplyBody};

use self::child::{STAGE, Word, Work};
use crate::exec::Request;
use crate::note::note;
use crate::requests::failure;
use crate::runtime::failed;
use crate::server::{Server, Source};

/// A word and the error in it, bytes; a longer one cannot be read, and counts as no word.
const WORD_BYTES_MAX: usize = 8 * 1024;
/// How often children that were killed are killed again.
const KILL_AGAIN: Duration = Duration::from_millis(50);

/// A start under way.
#[derive(Debug)]
pub(crate) struct Start {
    words: OwnedFd,
    token: u64,
    /// The process that prepares; the exec's own is its sibling.
    helper: PidFd,
    /// When both are killed (again).
    pub(crate) deadline: Instant,
    allowed: Duration,
    late: bool,
    terminal: Option<OwnedFd>,
    /// For the OCI runtime, should it have to do it.
    request: Request,
}

impl Start {
    /// Kills what prepares, once its deadline has passed; again and again until it has ended.
    pub(crate) fn expire(&mut self, now: Instant, process: Option<&PidFd>) {
        if now >= self.deadline {
            self.late = true;
            self.kill(process);
            self.deadline = now + KILL_AGAIN;
        }
    }

    pub(crate) fn kill(&self, process: Option<&PidFd>) {
        for child in [Some(&self.helper), process].into_iter().flatten() {
            let _ = child.signal(SIGKILL);
        }
    }
}

impl Server {
    /// Begins an exec. When it cannot be begun from here, the request comes back with the reason.
    pub(crate) fn start_native(
        &mut self,
        request: Request,
        native: &NativeExec,
        filter: Option<OwnedFd>,
        allowed: Duration,
    ) -> Result<Start, (Box<Request>, Failure)> {
        match self.fork_helper(&request, native, filter) {
            Ok((words, token, helper)) => Ok(Start {
                words,
                token,
                helper,
                deadline: Instant::now() + allowed,
                allowed,
                late: false,
                terminal: None,
                request,
            }),
            Err(error) => Err((Box::new(request), failed(STAGE, &error))),
        }
    }

    fn fork_helper(
        &mut self,
        request: &Request,
        native: &NativeExec,
        filter: Option<OwnedFd>,
    ) -> Result<(OwnedFd, u64, PidFd), SysError> {
        if self.hierarchy.is_none() {
            self.hierarchy = Some(Hierarchy::detect()?);
        }
        let missing = |what: &str| SysError::named("find", what, std::io::ErrorKind::NotFound);
        let hierarchy = self.hierarchy.as_ref().ok_or_else(|| missing("the cgroups"))?;
        let container = self.containers.get(&request.exec.container);
        let init =
            container.and_then(|c| c.process()).ok_or_else(|| missing("the container's first process"))?;
        let seats = hierarchy.seats(init)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let group = seats.v2.as_ref().and_then(|v2| rustix::fs::open(v2, directory, Mode::empty()).ok());
        let (ours, theirs) = child::words()?;
        let mut work = Work {
            process: request.process.as_fd(),
            streams: request.streams.each_ref().map(|stream| stream.as_ref().map(|fd| fd.as_fd())),
            tty: request.exec.tty,
            filter: filter.as_ref().map(|fd| fd.as_fd()).zip(native.filter_flags),
            keyring: native.keyring.as_deref(),
            init,
            kinds: enter::apart(init)?,
            seats: &seats,
            born_in_v2: group.is_some(),
            words: theirs.as_fd(),
        };
        let forked = match alone::fork(group.as_ref().map(|fd| fd.as_fd())) {
            // A group that takes no process at birth may take one later, or say why not.
            Err(_) if group.is_some() => {
                work.born_in_v2 = false;
                alone::fork(None)?
            }
            other => other?,
        };
        let pid = match forked {
            Side::Parent(pid) => pid,
            Side::Child(alone) => child::run(&alone, &work),
        };
        let helper = PidFd::open(pid)?;
        let source = Source::Words(request.exec.exec.clone());
        let token = self.watch.add(&ours, source, Interest::Read).inspect_err(|_| {
            let _ = helper.signal(SIGKILL);
        })?;
        Ok((ours, token, helper))
    }

    /// Reads what the children of every start have said: before an exit is looked at, so that it is known whose it was.
    pub(crate) fn hear_all(&mut self) {
        let starting = self.execs.iter().filter(|(_, exec)| exec.start.is_some());
        for id in starting.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.hear(&id);
        }
    }

    /// Reads what the children of one start have said.
    pub(crate) fn hear(&mut self, id: &ExecId) {
        let mut buffer = [0; WORD_BYTES_MAX];
        loop {
            let Some(exec) = self.execs.get_mut(id) else { return };
            let Some(start) = &mut exec.start else { return };
            let message = match seqpacket::receive(start.words.as_fd(), &mut buffer) {
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Ok(message) if message.length > 0 => message,
                Ok(_) | Err(_) => return self.native_started(id),
            };
            match Word::read(&buffer[..message.length]) {
                Some(Word::Born) => {
                    let init = self.containers.get(&start.request.exec.container).and_then(|c| c.process());
                    let (pid, init) = (message.sender.unwrap_or_default(), init.map_or(0, PidFd::pid));
                    // It is not reaped before this was read: the number is its own.
                    match PidFd::open(pid) {
                        Ok(process) => exec.process = Some(process),
                        Err(error) => note(format_args!("an exec cannot be held: {}", model::chain(&error))),
                    }
                    exec.mark = Mark::of(pid, init);
                }
                Some(Word::Terminal) => start.terminal = message.fds.into_iter().next(),
                Some(Word::Failed { failure, try_runtime }) => {
                    return self.native_failed(id, failure, try_runtime);
                }
                None => {}
            }
        }
    }

    /// Nobody who could fail is left: the program has begun, or ended, or there never was one.
    pub(crate) fn native_started(&mut self, id: &ExecId) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some(start) = exec.start.take() else { return };
        self.watch.remove(&start.words, start.token);
        let Some(process) = &exec.process else {
            let failure = if start.late {
                let message = format!("not done after {} ms, killed", start.allowed.as_millis());
                failure(STAGE, message, FailureKind::Deadline)
            } else {
                failure(STAGE, "killed before the command began", FailureKind::Internal)
            };
            return self.exec_failed(id, failure);
        };
        let pid = process.pid();
        if let Some(terminal) = &start.terminal {
            // Its reader waits with epoll.
            let _ = rustix::io::ioctl_fionbio(terminal, true);
        }
        if let Some(asked) = exec.asked.take() {
            self.answer(asked, Ok(ReplyBody::ExecStarted(ExecStarted { pid })), start.terminal);
        }
    }

    fn native_failed(&mut self, id: &ExecId, failure: Failure, try_runtime: bool) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some(start) = exec.start.take() else { return };
        self.watch.remove(&start.words, start.token);
        (exec.process, exec.mark) = (None, None);
        if !try_runtime {
            return self.exec_failed(id, failure);
        }
        note(format_args!(
            "an exec in {} is left to the OCI runtime: {failure}",
            start.request.exec.container.short()
        ));
        if let Err(failure) = self.exec_by_runtime(id, start.request) {
            self.exec_failed(id, failure);
        }
    }
}
