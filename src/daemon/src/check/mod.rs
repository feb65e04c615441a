//! Is this node able to run pods? Each finding says what was looked at, how it is, and what to do about it.
//! Nothing on the host is changed.

mod cgroups;
mod host;
mod kernel_features;
mod network;
mod programs;

use serde::Serialize;

use crate::config::Config;

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

/// Looks at everything. `path` is PATH.
pub(crate) fn run(config: &Config, path: &str) -> Report {
    let mut report = Report::default();
    kernel_features::check(&mut report);
    cgroups::check(&mut report);
    programs::check(config, path, &mut report);
    network::check(config, &mut report);
    host::check(config, &mut report);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_looked_at_from_all_sides() {
        let report = run(&Config::default(), "/usr/sbin:/usr/bin:/sbin:/bin");
        let subjects: std::collections::BTreeSet<_> = report.findings.iter().map(|f| f.subject).collect();
        for subject in [
            "kernel",
            "overlayfs",
            "namespaces",
            "seccomp",
            "cgroups",
            "runtimes",
            "shim",
            "cni",
            "storage",
            "mounts",
            "privileges",
        ] {
            assert!(subjects.contains(subject), "{subject} is not in {subjects:?}");
        }
        for finding in &report.findings {
            assert_eq!(finding.level == Level::Ok, finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
