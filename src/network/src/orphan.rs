//! Plugins that outlived whoever started them. A service that is killed leaves the plugin of an ADD running, and
//! what that takes after the DEL would never be given back. So before the DEL of an attachment that was cut
//! short, every process that still works on it is killed and awaited.
//!
//! They are known by their environment, which everything that a plugin starts inherits.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often the processes are looked through: one that is found may just have started another.
const PASSES_MAX: usize = 8;
/// How long a killed process is awaited; one that hangs in the kernel can take no more addresses.
const GONE_MAX: Duration = Duration::from_secs(2);

/// Kills every process that has `CNI_CONTAINERID=<container_id>` in its environment, and waits for their end.
/// Returns how many there were. Blocks.
pub(crate) fn sweep(container_id: &str) -> usize {
    let variable = format!("CNI_CONTAINERID={container_id}");
    let mut killed = 0;
    for _ in 0..PASSES_MAX {
        let found: Vec<OwnedFd> = processes().filter_map(|pid| kill(pid, variable.as_bytes())).collect();
        if found.is_empty() {
            break;
        }
        killed += found.len();
        await_end(&found);
    }
    killed
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn kill(pid: i32, variable: &[u8]) -> Option<OwnedFd> {
    let ours = || {
        // Empty for kernel threads and for those that ended already.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable)
    };
    if !ours() {
        return None;
    }
    // Held by a pidfd and looked at again, so that a reused number is not killed.
    let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    if !ours() {
        return None;
    }
    pidfd_send_signal(&process, Signal::KILL).ok()?;
    Some(process)
}

fn await_end(processes: &[OwnedFd]) {
    let end = Instant::now() + GONE_MAX;
    for process in processes {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_on_an_attachment_is_killed_and_nothing_else() {
        let started = |id: &str| {
            let mut command = kernel::process::command("/bin/sh");
            command
                .args(["-c", "sleep 1000 & sleep 1000"])
                .env("CNI_CONTAINERID", id)
                .env("PATH", "/usr/bin:/bin");
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command.spawn().unwrap()
        };
        let id = format!("test-{}", std::process::id());
        let (mut ours, mut other) = (started(&id), started(&format!("{id}0")));
        // Both shells have started their sleep.
        std::thread::sleep(Duration::from_millis(200));
        let killed = sweep(&id);
        let other_lives = other.try_wait().unwrap().is_none();
        let _ = rustix::process::kill_process_group(Pid::from_child(&other), Signal::KILL);
        let _ = other.wait();
        assert!(killed >= 2, "{killed}");
        assert!(!ours.wait().unwrap().success());
        assert!(other_lives);
        assert_eq!(sweep(&id), 0);
    }
}
