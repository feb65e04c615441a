//! The processes of a native exec, from the fork to the program.
//!
//! ```text
//! shim ─fork─▶ helper: cgroups, limits, labels, namespaces, terminal, directory, user, capabilities
//!                 └─fork a sibling─▶ the process, first seen by the container here: session, filter, program
//! ```
//!
//! All that needs privilege is done by the helper, which is in none of the container's PID namespaces: nobody in there
//! can see or trace it. What is born into the namespace has the user, the groups and the bounding set of the container
//! already, no descriptor but its streams and the socket that closes as its program begins, and at most CAP_SYS_ADMIN
//! more than it will have: a filter may not be loaded without, unless no_new_privs is set.
//!
//! The shim has one thread, so both may do as any program does after a fork (`kernel::alone`).

use std::convert::Infallible;
use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use kernel::alone::{Alone, Side};
use kernel::cgroup::Seats;
use kernel::enter::{self, Kinds};
use kernel::pidfd::PidFd;
use kernel::privileges::{self, CapabilitySet};
use kernel::seccomp::Filter;
use kernel::{SysError, pty, seqpacket};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wire::{Failure, FailureKind};

use super::inside;
use super::process::Process;
use crate::runtime::failed;

pub(super) const STAGE: &str = "exec";

/// What a helper needs of the shim.
pub(super) struct Work<'a> {
    /// The OCI Process, as JSON.
    pub(super) process: BorrowedFd<'a>,
    /// Standard input, output, error; absent ones are /dev/null.
    pub(super) streams: [Option<BorrowedFd<'a>>; 3],
    pub(super) tty: bool,
    /// A filter's bytes, and its flags.
    pub(super) filter: Option<(BorrowedFd<'a>, u32)>,
    pub(super) keyring: Option<&'a str>,
    /// The container's first process, and where it is.
    pub(super) init: &'a PidFd,
    pub(super) kinds: Kinds,
    pub(super) seats: &'a Seats,
    pub(super) born_in_v2: bool,
    /// To the shim.
    pub(super) words: BorrowedFd<'a>,
}

/// What they tell the shim. The socket closes when the program has begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The sender is the process.
    Born,
    /// The terminal's master comes along.
    Terminal,
    /// It did not become the program.
    Failed {
        failure: Failure,
        /// Nothing has been tried that an OCI runtime could not do better.
        try_runtime: bool,
    },
}

impl Word {
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    fn send(&self, words: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        seqpacket::send(words, &serde_json::to_vec(self)?, fds)
    }
}

/// Why there is no program.
struct Stop {
    failure: Failure,
    try_runtime: bool,
}

impl From<SysError> for Stop {
    fn from(error: SysError) -> Self {
        Self { failure: failed(STAGE, &error), try_runtime: false }
    }
}

impl Stop {
    fn says(message: impl Into<String>) -> Self {
        let failure = Failure { stage: STAGE.into(), message: message.into(), kind: FailureKind::Internal };
        Self { failure, try_runtime: false }
    }

    /// Of what does not work from here.
    fn unable(message: impl fmt::Display) -> Self {
        Self { try_runtime: true, ..Self::says(message.to_string()) }
    }
}

/// The helper, from the fork on.
pub(super) fn run(alone: &Alone, work: &Work<'_>) -> ! {
    let Err(Stop { failure, try_runtime }) = set_up(alone, work);
    // If the shim is gone nobody waits for it.
    let _ = Word::Failed { failure, try_runtime }.send(work.words, &[]);
    alone.leave(1)
}

fn set_up(alone: &Alone, work: &Work<'_>) -> Result<Infallible, Stop> {
    privileges::hide()?;
    alone.reset_signals()?;
    streams(work)?;
    let mut keep = vec![work.process, work.words, work.init.as_fd()];
    keep.extend(work.filter.map(|(fd, _)| fd));
    // Nothing of the host's is open when the container's files are looked at (CVE-2024-21626).
    alone.keep_only(&keep)?;
    let process = Process::parse(&contents(work.process)?).map_err(Stop::unable)?;
    if process.terminal != work.tty {
        return Err(Stop::says("the process and the request do not agree about a terminal"));
    }
    let filter = work.filter.map(|(fd, flags)| Filter::new(&contents(fd)?, flags)).transpose()?;
    if let Some(score) = process.oom_score_adj {
        set_oom_score_adj(score)?;
    }
    confine(&process)?;
    let unable = |error: SysError| Stop::unable(model::chain(&error));
    work.seats.take(work.born_in_v2).map_err(unable)?;
    alone.any_cpu();
    // Before a user namespace is entered, in which no limit can be raised.
    for (resource, limit) in &process.rlimits {
        rustix::process::setrlimit(*resource, *limit)
            .map_err(|e| SysError::named("setrlimit", format!("{resource:?}"), e))?;
    }
    enter::enter(work.init, work.kinds).map_err(unable)?;
    enter::mark_children();
    alone.keep_only(&[work.words])?;
    privileges::join_session_keyring(work.keyring)?;
    if work.tty {
        let (master, other) = pty::open_here()?;
        Word::Terminal
            .send(work.words, &[master.as_fd()])
            .map_err(|e| SysError::named("send", "the terminal", e))?;
        standard_streams([other.as_fd(); 3])?;
    }
    own_streams(process.user.uid)?;
    let mut env = process.env.clone();
    if process.variable("HOME").is_none_or(str::is_empty) {
        env.retain(|entry| !entry.starts_with("HOME="));
        env.push(format!("HOME={}", inside::home(process.user.uid)));
    }
    let env: Result<Vec<_>, _> = env.into_iter().map(CString::new).collect();
    let env = env.map_err(|e| Stop::says(format!("env: {e}")))?;
    become_user(&process)?;
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    let late_filter = process.no_new_privileges || filter.is_none();
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(|e| SysError::bare("prctl PR_SET_NO_NEW_PRIVS", e))?;
    }
    let also = if late_filter { CapabilitySet::empty() } else { CapabilitySet::SYS_ADMIN };
    privileges::hold(&process.capabilities, also)?;
    // A change of credentials may have undone it.
    privileges::hide()?;
    match alone.fork_sibling().map_err(unable)? {
        Side::Parent(_) => alone.leave(0),
        Side::Child(alone) => {
            let Err(Stop { failure, .. }) = begin(&alone, work, &process, filter.as_ref(), late_filter, &env);
            let _ = Word::Failed { failure, try_runtime: false }.send(work.words, &[]);
            alone.leave(1)
        }
    }
}

/// The process itself, from its birth in the container's PID namespace on.
fn begin(
    alone: &Alone,
    work: &Work<'_>,
    process: &Process,
    filter: Option<&Filter>,
    late_filter: bool,
    env: &[CString],
) -> Result<Infallible, Stop> {
    Word::Born.send(work.words, &[]).map_err(|e| SysError::named("send", "a word", e))?;
    rustix::process::setsid().map_err(|e| SysError::bare("setsid", e))?;
    if work.tty {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
            .map_err(|e| SysError::bare("ioctl TIOCSCTTY", e))?;
    }
    let program = inside::program(&process.args[0], process.variable("PATH").unwrap_or_default())
        .map_err(Stop::says)?;
    if let Some(filter) = filter {
        filter.load()?;
    }
    if !late_filter {
        privileges::hold(&process.capabilities, CapabilitySet::empty())?;
    }
    Err(alone.exec(&program, &process.args, env).into())
}

fn contents(memory: BorrowedFd<'_>) -> Result<Vec<u8>, SysError> {
    let failed = |e: io::Error| SysError::named("read", "a memfd", e);
    let file = File::from(memory.try_clone_to_owned().map_err(failed)?);
    let length = file.metadata().map_err(failed)?.len();
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    // At offsets: other execs read the same open file, whose position they share.
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(bytes)
}

fn streams(work: &Work<'_>) -> Result<(), SysError> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::path("open", "/dev/null", e))?;
    standard_streams(work.streams.map(|stream| stream.unwrap_or(null.as_fd())))
}

fn standard_streams([stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> Result<(), SysError> {
    rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .map_err(|e| SysError::named("dup2", "a standard stream", e))
}

/// Gives the streams to the user, who may want to open them anew (/dev/stdout); where that cannot be they stay as they
/// are.
fn own_streams(uid: u32) -> Result<(), SysError> {
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let failed = |e: Errno| SysError::named("chown", "a standard stream", e);
        let stat = rustix::fs::fstat(stream).map_err(failed)?;
        if stat.st_uid == uid || stat.st_rdev == rustix::fs::makedev(1, 3) {
            continue;
        }
        match rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>) {
            Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(())
}

fn set_oom_score_adj(score: i32) -> Result<(), SysError> {
    let path = "/proc/self/oom_score_adj";
    // Its own value may always be kept; a lower one wants CAP_SYS_RESOURCE.
    if fs::read_to_string(path).is_ok_and(|now| now.trim() == score.to_string()) {
        return Ok(());
    }
    fs::write(path, score.to_string()).map_err(|e| SysError::path("write", path, e))
}

/// Says how the program shall be confined; a fork takes that along.
fn confine(process: &Process) -> Result<(), SysError> {
    let write = |path: &str, text: &str| {
        fs::OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|e| SysError::path("write", path, e))
    };
    if let Some(label) = &process.selinux_label {
        write("/proc/self/attr/exec", label)?;
    }
    if let Some(profile) = &process.apparmor_profile {
        let text = format!("exec {profile}");
        match write("/proc/self/attr/apparmor/exec", &text) {
            // Before 5.1 the modules shared one file.
            Err(e) if e.is_not_found() => write("/proc/self/attr/exec", &text)?,
            other => other?,
        }
    }
    Ok(())
}

/// Goes to the working directory and becomes the user, whichever of the two may go there.
fn become_user(process: &Process) -> Result<(), Stop> {
    let cwd = process.cwd.as_str();
    let failed = |e: Errno| Stop::says(format!("chdir to cwd ({cwd:?}): {}", io::Error::from(e)));
    let there = match rustix::process::chdir(cwd) {
        Ok(()) => true,
        Err(Errno::ACCESS | Errno::PERM) => false,
        Err(e) => return Err(failed(e)),
    };
    privileges::become_user(&process.user, process.capabilities.bounding)?;
    if !there {
        rustix::process::chdir(cwd).map_err(failed)?;
    }
    Ok(inside::check_cwd()?)
}

/// The other end of what the children say: the shim's, and theirs.
pub(super) fn words() -> Result<(OwnedFd, OwnedFd), SysError> {
    let (ours, theirs) = seqpacket::pair()?;
    seqpacket::tell_senders(ours.as_fd())?;
    Ok((ours, theirs))
}
