//! Plugins that outlived whoever started them. A service that is killed leaves the plugin of an ADD running, and
//! what that takes after the DEL would never be given back. So before the DEL of an attachment that was cut
//! short, every process that still works on it is awaited, and killed only when it does not end: a plugin that is killed
//! in the middle may lose what it was about to write down.
//!
//! They are known by their environment, which everything that a plugin starts inherits.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How long a plugin has to end by itself. An ADD takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the processes are looked through to be killed: one that is found may just have started another.
const PASSES_MAX: usize = 8;
/// How long a killed process is awaited; one that hangs in the kernel can take no more addresses.
const GONE_MAX: Duration = Duration::from_secs(2);

/// Waits for the end of every process that has `CNI_CONTAINERID=<container_id>` in its environment, and kills those that
/// take too long. Returns how many were killed. Blocks.
pub(crate) fn sweep(container_id: &str) -> usize {
    let variable = format!("CNI_CONTAINERID={container_id}");
    let working =
        || -> Vec<OwnedFd> { processes().filter_map(|pid| working_on(pid, variable.as_bytes())).collect() };
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let found = working();
        if found.is_empty() {
            return 0;
        }
        await_end(&found, end);
    }
    let mut killed = 0;
    for _ in 0..PASSES_MAX {
        let found = working();
        if found.is_empty() {
            break;
        }
        let signalled = |process: &&OwnedFd| pidfd_send_signal(process, Signal::KILL).is_ok();
        killed += found.iter().filter(signalled).count();
        await_end(&found, Instant::now() + GONE_MAX);
    }
    killed
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process, if it has this variable in its environment.
fn working_on(pid: i32, variable: &[u8]) -> Option<OwnedFd> {
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
    ours().then_some(process)
}

fn await_end(processes: &[OwnedFd], end: Instant) {
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

    #[test]
    fn what_ends_by_itself_is_awaited_and_not_killed() {
        let id = format!("test-brief-{}", std::process::id());
        let mut command = kernel::process::command("/bin/sh");
        command.args(["-c", "sleep 0.5"]).env("CNI_CONTAINERID", &id).env("PATH", "/usr/bin:/bin");
        let mut brief = command.spawn().unwrap();
        // Started, and not only forked.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(sweep(&id), 0);
        assert!(brief.try_wait().unwrap().is_some_and(|status| status.success()), "it had ended, by itself");
    }
}
