//! Child processes: how they are spawned, waited for, found in the process table, and forked.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use crate::SysError;

mod pid_init;

pub use pid_init::spawn_pid_init;

/// The start of every child process: working directory `/`, no environment, standard input from /dev/null.
/// Callers add what their program needs (`env`, `stdin`, …), and never take that away from others.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the replacement that the ban names")]
    let mut command = Command::new(program);
    command.current_dir("/").env_clear().stdin(Stdio::null());
    command
}

/// Which side of a fork this is.
#[derive(Debug, PartialEq, Eq)]
pub enum Fork {
    /// The caller, with its new child's id.
    Parent(u32),
    /// The new child.
    Child,
}

/// fork(2), for a process of one thread only.
///
/// # Errors
/// The system call, or the presence of other threads, whose locks would be held for ever in the child.
pub fn fork() -> Result<Fork, SysError> {
    check_single_thread()?;
    // SAFETY: no other thread exists (checked above, and none can appear), so no lock is held by one.
    match unsafe { libc::fork() } {
        -1 => Err(SysError::bare("fork", io::Error::last_os_error())),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid.unsigned_abs())),
    }
}

pub(crate) fn check_single_thread() -> Result<(), SysError> {
    let threads =
        fs::read_dir("/proc/self/task").map_err(|e| SysError::path("readdir", "/proc/self/task", e))?;
    if threads.count() == 1 {
        return Ok(());
    }
    Err(SysError::bare("fork", io::Error::other("this process has more than one thread")))
}

/// Makes this process the parent of its orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// The system call.
pub fn become_subreaper() -> Result<(), SysError> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| SysError::bare("prctl PR_SET_CHILD_SUBREAPER", e))
}

/// Gives what this program makes the usual modes, whatever umask it was started with: containers of any user look
/// into many of its directories, and what is nobody's business is made with a mode of its own. Children inherit it.
pub fn usual_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Ignores no signal any more that whoever started this program had it ignore: an ignored SIGCHLD would have its children
/// reaped unseen, and they inherit what is ignored. Handlers stay, and so does SIGPIPE, which Rust's runtime ignores for
/// itself and not for children that [`command`] spawns.
pub fn heed_signals() {
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
        // SAFETY: an all-zero sigaction is a valid object, which the call then fills in.
        let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: `now` is valid, and nothing is changed; a signal that the C library keeps to itself is refused.
        let known = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut now) } == 0;
        if known && now.sa_sigaction == libc::SIG_IGN {
            // SAFETY: the default disposition installs no code.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Blocks `signals` and delivers them to the returned signalfd(2) instead. Children that [`command`] spawns
/// have them neither blocked nor ignored.
///
/// # Errors
/// The system call that failed.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd, SysError> {
    // SAFETY: an all-zero sigset_t is a valid object, which sigemptyset then initialises.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid sigset_t.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: `set` is initialised; a bad number is refused by the call.
        unsafe { libc::sigaddset(&raw mut set, *signal) };
    }
    // SAFETY: `set` is initialised, and the old mask is not asked for.
    if unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } != 0 {
        return Err(SysError::bare("sigprocmask", io::Error::last_os_error()));
    }
    // SAFETY: `set` is initialised, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(SysError::bare("signalfd", io::Error::last_os_error()));
    }
    // SAFETY: the call just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A signal that was taken from a signalfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signalled {
    /// Its number.
    pub signal: i32,
    /// Who sent it, as this process's PID namespace calls them; 0 is somebody outside of it.
    pub sender: u32,
}

/// Takes what a signalfd holds.
pub fn take_signals(fd: &OwnedFd) -> Vec<Signalled> {
    // struct signalfd_siginfo (signalfd(2)): 128 bytes, ssi_signo first and ssi_pid fourth of its numbers.
    const RECORD: usize = 128;
    let mut taken = Vec::new();
    let mut buffer = [0; 8 * RECORD];
    while let Ok(length @ 1..) = rustix::io::read(fd, &mut buffer) {
        taken.extend(buffer[..length].as_chunks::<RECORD>().0.iter().map(|record| {
            let numbers = record.as_chunks().0;
            Signalled { signal: i32::from_ne_bytes(numbers[0]), sender: u32::from_ne_bytes(numbers[3]) }
        }));
    }
    taken
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Which.
    pub pid: u32,
    /// Its exit code, or 128 and the signal's number.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

/// A child that has ended and is not reaped, without reaping it (waitid(2), WNOWAIT). Children come in the
/// order in which they became this process's.
///
/// # Errors
/// The system call; having no children is `None`.
pub fn peek_exit() -> Result<Option<Exit>, SysError> {
    // SAFETY: an all-zero siginfo_t is a valid object.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a valid siginfo_t to write to.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD | libc::EINTR) => Ok(None),
            _ => Err(SysError::bare("waitid", error)),
        };
    }
    // SAFETY: waitid filled in the fields of SIGCHLD, or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let killed = info.si_code == libc::CLD_KILLED || info.si_code == libc::CLD_DUMPED;
    Ok(Some(Exit {
        pid: pid.unsigned_abs(),
        code: if killed { 128 + status } else { status },
        signal: killed.then_some(status),
    }))
}

/// Reaps a child that has ended. One that is not there any more is success.
pub fn reap(pid: u32) {
    if let Some(pid) = to_pid(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
    }
}

pub(crate) fn to_pid(pid: u32) -> Option<rustix::process::Pid> {
    i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
}

/// Kills a child's whole process group, which the child leads.
pub fn kill_group(leader: u32) {
    if let Some(pid) = to_pid(leader) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

/// One process of the table, with ids as this process's namespace has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Itself.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// Dead and not reaped.
    pub zombie: bool,
}

/// The process table. A process that vanishes while it is read is left out.
///
/// # Errors
/// When /proc cannot be read.
pub fn table() -> Result<Vec<Process>, SysError> {
    let entries = fs::read_dir("/proc").map_err(|e| SysError::path("readdir", "/proc", e))?;
    Ok(entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid = name.to_str()?.parse().ok()?;
            parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
        })
        .collect())
}

/// proc_pid_stat(5): the command's name is in parentheses and may hold any byte, so fields count from the last.
fn parse_stat(pid: u32, stat: &[u8]) -> Option<Process> {
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let mut number = || fields.next()?.parse().ok();
    Some(Process { pid, parent: number()?, group: number()?, session: number()?, zombie })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_starts_from_nothing() {
        let output = command("/usr/bin/env").env("ONLY", "this").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "ONLY=this\n");
        let output = command("/bin/pwd").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "/\n");
    }

    #[test]
    fn the_table_survives_names_that_look_like_fields() {
        let stat = b"42 (a) Z 9 (b) R 7 5 3 0 -1";
        let expected = Process { pid: 42, parent: 7, group: 5, session: 3, zombie: false };
        assert_eq!(parse_stat(42, stat), Some(expected));
        assert_eq!(parse_stat(42, b"42 (sh"), None);
        let own = std::process::id();
        assert!(table().unwrap().iter().any(|process| process.pid == own && !process.zombie));
    }

    #[test]
    fn a_process_of_many_threads_is_not_forked() {
        std::thread::scope(|scope| {
            let (stop, wait) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || wait.recv());
            assert!(fork().is_err());
            drop(stop);
        });
    }
}
