//! The rest of a Kubernetes node: mounts, swap, and who makes cgroups.

use std::path::Path;

use kernel::mount::Propagation;

use super::{Host, Level, Report};
use crate::config::value::CgroupDriver;
use crate::kubelet;

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    let table = host.files.word("/proc/self/mountinfo");
    let mounts = kernel::mount::parse(format!("{table}\n").as_bytes()).unwrap_or_default();
    match mounts.iter().rfind(|mount| mount.mount_point == Path::new("/")) {
        Some(root) if root.propagation() == Propagation::Shared => report.ok("mounts", "/ is a shared mount"),
        Some(_) => report.warn(
            "mounts",
            "/ is not a shared mount",
            "the kubelet and pods with mount propagation need it: mount --make-rshared /",
        ),
        None => report.warn("mounts", "/proc/self/mountinfo does not tell of /", "mount /proc"),
    }
    swap(host, report);
    driver(host, report);
}

fn swap(host: &Host<'_>, report: &mut Report) {
    // The first line is a heading.
    let used: Vec<String> = host
        .files
        .word("/proc/swaps")
        .lines()
        .skip(1)
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect();
    let kubelet = kubelet::look(host.files);
    let allowed = kubelet.fail_swap_on.last().is_some_and(|said| said.value == "false");
    if used.is_empty() || allowed {
        let how = if used.is_empty() { "off" } else { "on, and the kubelet is told to allow it" };
        report.ok("swap", how);
    } else {
        report.warn(
            "swap",
            format!("on: {}", used.join(", ")),
            "kubelets refuse to start with it: swapoff -a and take it out of /etc/fstab, or failSwapOn: false",
        );
    }
}

/// The driver that would be used, against systemd and the kubelet.
fn driver(host: &Host<'_>, report: &mut Report) {
    let subject = "cgroup driver";
    let systemd = host.files.exists(Path::new("/run/systemd/system"));
    let v2 = host.files.exists(Path::new("/sys/fs/cgroup/cgroup.controllers"));
    let (used, by) = match host.config.cgroup.driver {
        CgroupDriver::Systemd => ("systemd", "cgroup.driver"),
        CgroupDriver::Cgroupfs => ("cgroupfs", "cgroup.driver"),
        CgroupDriver::Auto if systemd && v2 => ("systemd", "auto"),
        CgroupDriver::Auto => ("cgroupfs", "auto"),
    };
    let level = if used == "systemd" && !systemd {
        report.fail(
            subject,
            "systemd is asked for, and is not pid 1 here",
            "set cgroup.driver = \"cgroupfs\", or \"auto\"",
        );
        Level::Fail
    } else if used == "cgroupfs" && systemd && v2 {
        report.warn(
            subject,
            "cgroupfs beside systemd",
            "two who write to one tree can undo each other's limits: set cgroup.driver = \"systemd\", or \"auto\"",
        );
        Level::Warn
    } else {
        report.ok(subject, format!("{used} ({by})"));
        Level::Ok
    };
    let kubelet = kubelet::look(host.files);
    if let Some(said) = kubelet.drivers.iter().find(|said| said.value != used)
        && level < Level::Fail
    {
        report.warn(
            subject,
            format!(
                "{}:{} says {} {}, and Gantline would use {used}",
                said.file.display(),
                said.line,
                said.name,
                said.value
            ),
            "a kubelet since 1.28 takes what Gantline says; for an older one set cgroup.driver to the same",
        );
    }
}
