//! The machine goes down: systemd has ended every unit, asks each process that is left to end, and waits 90 s before it
//! kills (systemd-shutdown(8)). It would wait for shims, and for containers that do not heed SIGTERM.
//!
//! Any other SIGTERM, a service manager's to the service's group or a person's, is none of the shim's business: pods
//! outlive the service.

use std::time::{Duration, Instant};

use kernel::pidfd::{SIGKILL, SIGTERM};
use kernel::process::Signalled;

use crate::note::note;
use crate::server::Server;

/// What pid 1 is called then, cut as the kernel does (proc_pid_comm(5)).
const SHUTDOWN: &str = "systemd-shutdow\n";
/// How long containers have for their end. Whoever runs them has had their own time before.
const GRACE: Duration = Duration::from_secs(10);
/// And for dying.
const DEATH: Duration = Duration::from_secs(2);

/// A shim that ends because the machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Down {
    /// Its containers are killed at this moment.
    KillAt(Instant),
    /// They are; at this moment it ends all the same.
    EndAt(Instant),
}

impl Server {
    /// Hears signals for the word that the machine goes down.
    pub(crate) fn heard(&mut self, signals: &[Signalled]) {
        let asked = signals.iter().any(|signal| signal.signal == SIGTERM && signal.sender == 1);
        let is_shutdown = || std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name == SHUTDOWN);
        if asked && self.down.is_none() && is_shutdown() {
            note(format_args!("the machine goes down"));
            self.down = Some(Down::KillAt(Instant::now() + GRACE));
        }
    }

    /// When there is something to do about it.
    pub(crate) fn look_at_down(&self) -> Option<Instant> {
        self.down.map(|(Down::KillAt(at) | Down::EndAt(at))| at)
    }

    /// Ends as soon as no container runs.
    pub(crate) fn go_down(&mut self, now: Instant) {
        let Some(down) = self.down else { return };
        if self.shutdown().is_ok() {
            return;
        }
        match down {
            Down::KillAt(at) if now >= at => {
                self.down = Some(Down::EndAt(now + DEATH));
                let running = self.containers.values().filter(|container| container.process().is_some());
                for id in running.map(|container| container.id.clone()).collect::<Vec<_>>() {
                    self.let_die(&id);
                    let Some(container) = self.containers.get_mut(&id) else { continue };
                    container.about_to_kill();
                    if let Some(Err(error)) = container.process().map(|process| process.signal(SIGKILL)) {
                        note(format_args!("kill container {}: {}", id.short(), model::chain(&error)));
                    }
                }
            }
            Down::EndAt(at) if now >= at => self.finished = true,
            _ => {}
        }
    }
}
