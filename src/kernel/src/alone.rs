//! Forks of a process of one thread, for work that ends in another program: in a cgroup, in namespaces, with less
//! privilege.
//!
//! fork(2) leaves a child only the thread that forked, and whatever lock another one held is held for ever there.
//! [`Alone`] says that there was no other: so a child may allocate, read files and serialise as any program may.

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::SysError;
use crate::process::{self, Fork};

/// A process that was forked from one of a single thread, and has made no other.
#[derive(Debug)]
pub struct Alone {
    // Not Send: a second thread would take the proof away.
    _thread: PhantomData<*const ()>,
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side {
    /// The caller, with its new child's id.
    Parent(u32),
    /// The new child.
    Child(Alone),
}

/// struct clone_args (clone3(2)), as of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// fork(2), the child born in a cgroup of the v2 hierarchy where one is given (its directory).
///
/// # Errors
/// The system call, or the presence of other threads.
pub fn fork(cgroup: Option<BorrowedFd<'_>>) -> Result<Side, SysError> {
    let Some(cgroup) = cgroup else {
        return process::fork().map(|side| match side {
            Fork::Parent(pid) => Side::Parent(pid),
            Fork::Child => Side::Child(Alone { _thread: PhantomData }),
        });
    };
    process::check_single_thread()?;
    let group = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    clone(CloneArgs { flags: CLONE_INTO_CGROUP, cgroup: group, ..CloneArgs::default() })
}

impl Alone {
    /// Closes every descriptor but these and the standard streams. What this process was before it was forked owned
    /// them: it must not go back to being that.
    ///
    /// # Errors
    /// The system call.
    pub fn keep_only(&self, keep: &[BorrowedFd<'_>]) -> Result<(), SysError> {
        let mut keep: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
        keep.sort_unstable();
        let mut from = 3;
        for kept in keep.into_iter().filter(|kept| *kept >= 3).chain([u32::MAX]) {
            let to = kept.saturating_sub(u32::from(kept != u32::MAX));
            // SAFETY: the descriptors belong to objects of the parent's that this process never uses again, as the
            // documentation demands, and it ends without dropping them (`exec`, `leave`).
            if from <= to && unsafe { libc::syscall(libc::SYS_close_range, from, to, 0_u32) } != 0 {
                return Err(SysError::bare("close_range", io::Error::last_os_error()));
            }
            from = kept.saturating_add(1);
        }
        Ok(())
    }

    /// Blocks no signal and ignores none, as a new program expects it.
    ///
    /// # Errors
    /// The system call.
    pub fn reset_signals(&self) -> Result<(), SysError> {
        // SAFETY: an all-zero sigset_t is a valid object, which sigemptyset then initialises.
        let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `none` is a valid sigset_t.
        unsafe { libc::sigemptyset(&raw mut none) };
        // SAFETY: `none` is initialised, and the old mask is not asked for.
        if unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) } != 0 {
            return Err(SysError::bare("sigprocmask", io::Error::last_os_error()));
        }
        // The one signal that Rust's runtime ignores; handlers go with the program.
        // SAFETY: the default disposition installs no code.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        Ok(())
    }

    /// Runs on any processor that its cgroup allows, whatever its parents were pinned to. Where that cannot be it stays.
    pub fn any_cpu(&self) {
        let mut all = rustix::thread::CpuSet::new();
        (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        let _ = rustix::thread::sched_setaffinity(None, &all);
    }

    /// Becomes another program; returns only if that fails.
    pub fn exec(&self, program: &CStr, args: &[CString], env: &[CString]) -> SysError {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(args), pointers(env));
        // SAFETY: all three are valid until the call returns, the lists end with a null pointer.
        unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
        SysError::named("execve", program.to_string_lossy(), io::Error::last_os_error())
    }

    /// Ends this process at once: nothing of the parent's is flushed or dropped.
    pub fn leave(&self, code: i32) -> ! {
        // SAFETY: _exit(2) runs nothing of this program.
        unsafe { libc::_exit(code) }
    }

    /// Forks a sibling: a child of this process's parent, which reaps it. It is in the PID and time namespaces that
    /// this process has chosen for its children (setns(2), unshare(2)).
    ///
    /// # Errors
    /// The system call.
    pub fn fork_sibling(&self) -> Result<Side, SysError> {
        clone(CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() })
    }
}

fn clone(mut args: CloneArgs) -> Result<Side, SysError> {
    // CLONE_PARENT takes the signal from its caller, and refuses another (clone3(2)).
    if args.flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    let size = size_of::<CloneArgs>();
    // SAFETY: the arguments are a valid clone_args of that size. Without CLONE_VM and a stack the call returns twice as
    // fork(2) does, in memory of its own. Nothing is locked, as there is one thread (checked in `fork`, and an `Alone`
    // says so).
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size) } {
        -1 => Err(SysError::bare("clone3", io::Error::last_os_error())),
        0 => Ok(Side::Child(Alone { _thread: PhantomData })),
        pid => Ok(Side::Parent(u32::try_from(pid).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_many_threads_is_not_forked() {
        let null = std::fs::File::open("/dev/null").unwrap();
        std::thread::scope(|scope| {
            // With the one that waits for it there are two, however the tests are run.
            scope.spawn(|| {
                assert!(matches!(fork(None), Err(e) if e.call == "fork"));
                assert!(matches!(fork(Some(std::os::fd::AsFd::as_fd(&null))), Err(e) if e.call == "fork"));
            });
        });
    }
}
