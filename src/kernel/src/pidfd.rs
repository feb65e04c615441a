//! Processes held by pidfd_open(2), so that a reused pid is never signalled.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::PidfdFlags;

use crate::SysError;
use crate::process::to_pid;

/// Signals by their names (signal(7)).
pub use libc::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM};

/// A process that this handle keeps naming, even when it is dead and its number has a new owner.
#[derive(Debug)]
pub struct PidFd {
    pid: u32,
    fd: OwnedFd,
}

impl PidFd {
    /// Takes hold of a process.
    ///
    /// # Errors
    /// The system call; `is_gone` tells a process that is not there.
    pub fn open(pid: u32) -> Result<Self, SysError> {
        let target =
            to_pid(pid).ok_or_else(|| SysError::pid("pidfd_open", pid, io::ErrorKind::InvalidInput))?;
        let fd = rustix::process::pidfd_open(target, PidfdFlags::empty())
            .map_err(|e| SysError::pid("pidfd_open", pid, e))?;
        Ok(Self { pid, fd })
    }

    /// The number that it had when it was opened.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by number, real-time ones too. A process that is dead is success.
    ///
    /// # Errors
    /// The system call.
    pub fn signal(&self, signal: i32) -> Result<(), SysError> {
        match self.signal_strictly(signal) {
            Err(e) if e.source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// As [`Self::signal`], with a process that is dead and reaped as an error; 0 only looks whether it is.
    ///
    /// # Errors
    /// The system call.
    pub fn signal_strictly(&self, signal: i32) -> Result<(), SysError> {
        let null = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and a null siginfo asks for the defaults of kill(2).
        let result =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal, null, 0_u32) };
        if result == 0 {
            return Ok(());
        }
        Err(SysError::pid("pidfd_send_signal", self.pid, io::Error::last_os_error()))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Signals a process by its number: for a number that was just read from the process table or a cgroup, and
/// may have vanished since, which is success.
///
/// # Errors
/// The system calls.
pub fn signal(pid: u32, signal: i32) -> Result<(), SysError> {
    match PidFd::open(pid) {
        Ok(process) => process.signal(signal),
        Err(e) if e.source.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn signals_reach_the_process_and_no_later_one() {
        let mut child = crate::process::command("/bin/sleep").arg("60").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        assert!(process.signal(99).is_err());
        process.signal(37).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(37));
        process.signal(SIGKILL).unwrap();
        signal(process.pid(), SIGKILL).unwrap();
    }
}
