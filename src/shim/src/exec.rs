//! Processes that are started in a running container beside its first one.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::pidfd::PidFd;
use model::ContainerId;

use crate::requests::Asked;
use crate::stdio::Console;
use crate::subtree;

/// How often what survives a kill is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// An exec, from its request to its exit.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) container: ContainerId,
    /// Who asked, until the start is answered.
    pub(crate) asked: Option<Asked>,
    pub(crate) console: Option<Console>,
    /// The OCI Process and the runtime's log, in memory, while the runtime works.
    pub(crate) files: Option<(OwnedFd, OwnedFd)>,
    pub(crate) pid_file: PathBuf,
    pub(crate) process: Option<PidFd>,
    /// When its subtree is killed (again).
    pub(crate) kill_at: Option<Instant>,
    pub(crate) timed_out: bool,
    /// What was found to belong to it.
    tree: BTreeSet<u32>,
}

impl Exec {
    pub(crate) fn new(container: ContainerId, asked: Asked, pid_file: PathBuf) -> Self {
        Self {
            container,
            asked: Some(asked),
            console: None,
            files: None,
            pid_file,
            process: None,
            kill_at: None,
            timed_out: false,
            tree: BTreeSet::new(),
        }
    }

    /// Kills the whole subtree now, and again until its process has ended.
    pub(crate) fn kill(&mut self, now: Instant) {
        if let Some(process) = &self.process {
            self.tree.insert(process.pid());
            subtree::kill(&mut self.tree);
        }
        self.kill_at = Some(now + KILL_AGAIN);
    }

    /// Whether anybody has killed it: then nothing that it started may outlive it.
    pub(crate) fn killed(&self) -> bool {
        !self.tree.is_empty()
    }

    /// Kills it when its time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        // While the runtime still starts it, the runtime's own deadline is the one that counts.
        if self.process.is_some() && self.kill_at.is_some_and(|at| now >= at) {
            // A kill that was asked for is no timeout.
            self.timed_out |= !self.killed();
            self.kill(now);
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
    }
}
