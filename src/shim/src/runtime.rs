//! The OCI runtime as a child process: how it is called, and what it said when it failed.
//!
//! Nothing here waits: an invocation is a [`Job`] that the event loop finishes when the child has ended, or
//! kills with all it started when its deadline has passed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kernel::clock::now;
use model::{ContainerId, ExecId, UnixNanos, chain};
use serde::Deserialize;
use wire::{Failure, FailureKind, OciRuntime, RuntimeCall};

use crate::requests::Asked;
use crate::stdio::{Theirs, drain};
use crate::subtree;

/// How much of what a runtime said goes into a failure, bytes.
const WORDS_BYTES_MAX: usize = 4096;

/// What an invocation is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Create(ContainerId),
    /// In place of create and start: it goes on from a checkpoint.
    Restore(ContainerId),
    Start(ContainerId),
    /// Removes what a failed create or start has left; then the failure is told.
    Undo(ContainerId, Failure),
    /// Of one that has exited.
    Delete(ContainerId, Asked),
    /// Of one that runs, or that the runtime did not delete when it was asked softly.
    DeleteByForce(ContainerId, Asked),
    Exec(ExecId),
    /// Of one that runs on.
    Checkpoint(ContainerId, Asked),
}

impl Purpose {
    /// The container that it starts.
    pub(crate) fn starts(&self) -> Option<&ContainerId> {
        match self {
            Self::Create(id) | Self::Restore(id) | Self::Start(id) => Some(id),
            _ => None,
        }
    }

    /// The container that it removes.
    pub(crate) fn removes(&self) -> Option<&ContainerId> {
        match self {
            Self::Undo(id, _) | Self::Delete(id, _) | Self::DeleteByForce(id, _) => Some(id),
            _ => None,
        }
    }

    /// As failures name it.
    pub(crate) fn stage(&self) -> &'static str {
        match self {
            Self::Create(_) => "runtime create",
            Self::Restore(_) => "runtime restore",
            Self::Start(_) => "runtime start",
            Self::Undo(..) | Self::Delete(..) | Self::DeleteByForce(..) => "runtime delete",
            Self::Exec(_) => "runtime exec",
            Self::Checkpoint(..) => "runtime checkpoint",
        }
    }

    /// As the runtime calls it.
    fn command(&self) -> &'static str {
        self.stage().trim_start_matches("runtime ")
    }
}

/// A running invocation.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) purpose: Purpose,
    pub(crate) deadline: Instant,
    /// When it began, on the clock and for measuring.
    began: (UnixNanos, Instant),
    allowed: Duration,
    /// Killed because its deadline had passed.
    late: bool,
    /// Killed because its container is wanted gone.
    aborted: bool,
    /// What its `--log` is.
    log: PathBuf,
    /// What it printed, where that is not the container's own standard error.
    stderr: Option<OwnedFd>,
    /// It, and what was found to be started by it.
    tree: BTreeSet<u32>,
}

/// An invocation to make.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) runtime: &'a OciRuntime,
    pub(crate) log: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) theirs: Theirs,
    /// The other end of its standard error.
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) allowed: Duration,
}

impl Call<'_> {
    /// Starts the runtime, in a process group of its own.
    pub(crate) fn start(self, purpose: Purpose) -> Result<(u32, Job), Failure> {
        let runtime = self.runtime;
        let mut command = kernel::process::command(&runtime.binary);
        command.env("PATH", wire::RUNTIME_PATH).arg("--root").arg(&runtime.root);
        command.arg("--log").arg(&self.log).args(["--log-format", "json"]);
        if runtime.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.args(&runtime.args).args(&self.args);
        command.stdin(self.theirs.stdin).stdout(self.theirs.stdout).stderr(self.theirs.stderr);
        let child = command.process_group(0).spawn().map_err(|e| Failure {
            stage: purpose.stage().into(),
            message: format!("run {}: {e}", runtime.binary.display()),
            kind: FailureKind::Internal,
        })?;
        let pid = child.id();
        let began = (now(), Instant::now());
        let deadline = Instant::now() + self.allowed;
        let tree = BTreeSet::from([pid]);
        let job = Job {
            purpose,
            deadline,
            began,
            allowed: self.allowed,
            late: false,
            aborted: false,
            log: self.log,
            stderr: self.stderr,
            tree,
        };
        Ok((pid, job))
    }
}

impl Job {
    /// Kills the invocation and all that it has started, once its deadline has passed. It is called again
    /// and again until the child has ended.
    pub(crate) fn expire(&mut self, now: Instant) {
        if now >= self.deadline {
            self.late |= !self.aborted;
            subtree::kill(&mut self.tree, None);
            self.deadline = now + Duration::from_millis(50);
        }
    }

    /// Kills the invocation and all that it has started, now; `expire` goes on until it has ended.
    pub(crate) fn abort(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.aborted, true) {
            self.deadline = now;
        }
    }

    /// The invocation, which has just ended, for those who count.
    pub(crate) fn call(&self, done: bool) -> RuntimeCall {
        let (began_at_ns, began) = self.began;
        RuntimeCall {
            command: self.purpose.command().into(),
            began_at_ns,
            took_ns: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            done,
        }
    }

    /// Whether it is to fail, whatever its exit code.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted
    }

    /// Whether its deadline has ended it.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }

    /// Why it failed: its stage, its exit, its own words; `more` is standard error that was the container's.
    pub(crate) fn failure(&mut self, code: i32, more: &str) -> Failure {
        let printed = self.stderr.take().map(|fd| drain(fd, 64 * 1024)).unwrap_or_default();
        let words = words(&fs::read(&self.log).unwrap_or_default(), &[&printed, more]);
        let (what, kind) = if self.aborted {
            ("aborted: the container was killed or deleted meanwhile".to_owned(), FailureKind::WrongState)
        } else if self.late {
            (format!("not done after {} ms, killed", self.allowed.as_millis()), FailureKind::Deadline)
        } else {
            (format!("exit status {code}"), FailureKind::Internal)
        };
        let message = if words.is_empty() { what } else { format!("{what}: {words}") };
        Failure { stage: self.purpose.stage().into(), message, kind }
    }
}

/// One line of a runtime's JSON log.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    msg: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    level: std::borrow::Cow<'a, str>,
}

/// What a runtime logged as errors, and what it printed beyond that.
fn words(log: &[u8], printed: &[&str]) -> String {
    let log = String::from_utf8_lossy(log);
    let mut parts: Vec<String> = Vec::new();
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let part = match serde_json::from_str::<Line<'_>>(line) {
            Ok(line) if matches!(&*line.level, "debug" | "info" | "warning" | "warn") => continue,
            Ok(line) => line.msg.into_owned(),
            // Not every runtime keeps to the format.
            Err(_) => line.to_owned(),
        };
        parts.push(part);
    }
    for text in printed.iter().flat_map(|text| text.lines()).map(str::trim) {
        // Most print what they log.
        if !text.is_empty() && !parts.iter().any(|part| text.contains(part.as_str()) || part.contains(text)) {
            parts.push(text.to_owned());
        }
    }
    tail(&parts.join("; ")).to_owned()
}

/// The end of a text, where the cause is, cut at a character.
fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(WORDS_BYTES_MAX);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[from..]
}

/// The process id that a runtime wrote to its `--pid-file`.
pub(crate) fn read_pid(path: &Path) -> Result<u32, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{} has {text:?}, not a process id", path.display()))
}

/// A failure of this side's.
pub(crate) fn failed(stage: &str, error: &dyn std::error::Error) -> Failure {
    Failure { stage: stage.into(), message: chain(error), kind: FailureKind::Internal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_words_are_told_once() {
        let crun = br#"{"msg":"executable file `x` not found in $PATH: No such file or directory","level":"error","time":"t"}"#;
        let said = "executable file `x` not found in $PATH: No such file or directory";
        for (log, printed, expected) in [
            (&crun[..], vec![said], said),
            (b"", vec!["  boom\n\n"], "boom"),
            (b"{\"level\":\"warning\",\"msg\":\"w\"}\nraw", vec!["", "other"], "raw; other"),
            (b"", vec![], ""),
        ] {
            assert_eq!(words(log, &printed), expected);
        }
        let long = "é".repeat(5000);
        assert!(words(long.as_bytes(), &[]).len() <= WORDS_BYTES_MAX);
    }
}
