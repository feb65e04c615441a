//! Is this node able to run pods? Each finding says what was looked at, how it is, and what to do about it.
//! Nothing on the host is changed.

mod cgroups;
mod kernel_features;
mod modules;
mod network;
mod node;
mod others;
mod probe;
mod programs;
mod storage;

use serde::Serialize;

use crate::config::Config;
use crate::files::Files;

use probe::{Probe, System};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Pods run, but something will be missing or slow.
    Warn,
    /// Pods will not run.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at: `kernel`, `cgroups`.
    pub(crate) subject: &'static str,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; empty when all is well.
    pub(crate) remedy: String,
}

/// All findings, in the order of looking.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The findings.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    fn ok(&mut self, subject: &'static str, found: impl Into<String>) {
        self.add(subject, Level::Ok, found, "");
    }

    fn warn(&mut self, subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(subject, Level::Warn, found, remedy);
    }

    fn fail(&mut self, subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(subject, Level::Fail, found, remedy);
    }

    fn add(
        &mut self,
        subject: &'static str,
        level: Level,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding { subject, level, found: found.into(), remedy: remedy.into() });
    }

    /// The worst finding.
    pub(crate) fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }
}

/// What is looked at: the files of a node, and what only asking the system tells.
struct Host<'a> {
    files: &'a Files,
    probe: &'a dyn Probe,
    config: &'a Config,
    /// PATH.
    path: &'a str,
}

/// Looks at everything. `path` is PATH.
pub(crate) fn run(config: &Config, path: &str) -> Report {
    look(&Host { files: &Files::below("/"), probe: &System, config, path })
}

fn look(host: &Host<'_>) -> Report {
    let mut report = Report::default();
    kernel_features::check(host, &mut report);
    modules::check(host, &mut report);
    cgroups::check(host, &mut report);
    programs::check(host, &mut report);
    network::check(host, &mut report);
    storage::check(host, &mut report);
    node::check(host, &mut report);
    others::check(host, &mut report);
    report
}

#[cfg(test)]
mod tests;
