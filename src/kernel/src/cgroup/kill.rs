//! Killing whole groups: by the kernel's own file where it has one, else by freezing and one signal each.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::{Freezer, Group, Hierarchy, write};
use crate::SysError;

/// How long a v1 freezer may take before the killing begins without it.
const FREEZE_WAIT_MAX: Duration = Duration::from_millis(100);
/// How often [`Group::kill`] looks again for processes that a dying one has left.
const KILL_ROUNDS_MAX: usize = 100;

impl Group {
    /// Kills every process of the group and of those below it, also those that fork meanwhile. Does not wait for them
    /// to be gone: see [`Group::pids`]. An absent group is success.
    ///
    /// # Errors
    /// The group could not be read, or processes of it live on after a hundred rounds of killing.
    pub fn kill(&self) -> Result<(), SysError> {
        if let Hierarchy::V2 { root } = &self.hierarchy {
            let file = root.join(&self.path).join("cgroup.kill");
            match write(&file, "1") {
                Ok(()) => return Ok(()),
                // Before 5.14, or no such group.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        let freezer = self.directory("freezer").filter(|_| !self.hierarchy.is_v2()).map(Freezer::new);
        for round in 0..KILL_ROUNDS_MAX {
            let frozen = freezer.as_ref().is_some_and(|freezer| round == 0 && freeze(freezer));
            let pids = self.pids()?;
            for pid in &pids {
                kill(*pid)?;
            }
            if let Some(freezer) = freezer.as_ref().filter(|_| round == 0) {
                // Thawed in any case: a frozen process dies only then.
                let _ = freezer.let_go();
            }
            if frozen || pids.is_empty() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let why = io::Error::other(format!("processes live after {KILL_ROUNDS_MAX} rounds of SIGKILL"));
        Err(SysError::path("kill cgroup", self.path(), why))
    }
}

fn kill(pid: u32) -> Result<(), SysError> {
    // 0 stands for a process of another PID namespace, which no number of ours reaches.
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    match kill_process(target, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(e) => Err(SysError::pid("kill", pid, e)),
    }
}

/// Freezes a group; whether it is frozen in time.
fn freeze(freezer: &Freezer) -> bool {
    let deadline = Instant::now() + FREEZE_WAIT_MAX;
    if freezer.hold().is_err() {
        return false;
    }
    loop {
        match freezer.is_still() {
            Ok(true) => return true,
            Ok(false) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Ok(false) | Err(_) => return false,
        }
    }
}
