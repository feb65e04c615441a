//! What the kernel offers, and what this process may ask of it.

use std::fs;
use std::path::Path;

use kernel::mount::overlay_takes_many_layers;

use super::Report;

/// openat2(2) is of 5.6, pidfds in full of 5.4, CLONE_INTO_CGROUP of 5.7; 5.10 is the long-term release with all.
const KERNEL_MIN: (u32, u32) = (5, 10);

pub(super) fn check(report: &mut Report) {
    version(report);
    privileges(report);
    overlayfs(report);
    namespaces(report);
    seccomp(report);
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if modules.is_empty() {
        report.ok("lsm", "the list of security modules is not readable (securityfs is not mounted)");
    } else {
        report.ok("lsm", format!("security modules: {}", modules.trim()));
    }
}

fn version(report: &mut Report) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match kernel::release::parse(release) {
        Some(version) if version >= KERNEL_MIN => report.ok("kernel", format!("Linux {release}")),
        Some(_) => report.fail(
            "kernel",
            format!("Linux {release} is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1),
            "boot a newer kernel",
        ),
        None => report.warn(
            "kernel",
            format!("the release {release:?} is not understood"),
            format!("make sure that it is {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
    }
}

fn privileges(report: &mut Report) {
    let subject = "privileges";
    if !rustix::process::geteuid().is_root() {
        report.fail(subject, "not root", "run this check and the service as root");
        return;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(held) if held & SYS_ADMIN == 0 => report.fail(
            subject,
            "root without CAP_SYS_ADMIN",
            "run the service outside of a container, or in a privileged one",
        ),
        Some(held) if held & SYS_RESOURCE == 0 => report.warn(
            subject,
            "root without CAP_SYS_RESOURCE",
            "oom_score_adj and resource limits below the service's own are clamped to it; give the service \
             CAP_SYS_RESOURCE to have them as pods ask",
        ),
        Some(_) => report.ok(subject, "root with all that is needed"),
        None => report.warn(subject, "capabilities are not readable in /proc/self/status", "mount /proc"),
    }
}

const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// `CapEff` of proc_pid_status(5).
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn overlayfs(report: &mut Report) {
    let subject = "overlayfs";
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    match overlay_takes_many_layers() {
        Ok(true) => report.ok(subject, "with lowerdir+ (images of up to 500 layers)"),
        Ok(false) => report.warn(
            subject,
            "without lowerdir+ (Linux 6.7)",
            "images of about 200 layers and more do not mount: their paths must fit into one page; boot Linux 6.7 or newer",
        ),
        Err(_) if known => report.warn(
            subject,
            "is there, but what it offers could not be asked",
            "run this check as root",
        ),
        Err(error) => {
            let found = format!("is not there: {}", model::chain(&error));
            report.fail(subject, found, "load the module: modprobe overlay");
        }
    }
}

fn namespaces(report: &mut Report) {
    let subject = "namespaces";
    let missing: Vec<_> = ["mnt", "net", "ipc", "uts", "pid", "cgroup"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if !missing.is_empty() {
        report.fail(
            subject,
            format!("the kernel has no {} namespaces", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and all its kinds",
        );
    } else if !Path::new("/proc/self/ns/user").exists() {
        report.warn(subject, "no user namespaces", "pods with hostUsers: false will be refused");
    } else {
        report.ok(subject, "mount, network, ipc, uts, pid, cgroup, user");
    }
}

fn seccomp(report: &mut Report) {
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        report.ok("seccomp", "filters");
    } else {
        report.warn(
            "seccomp",
            "the kernel has no seccomp filters",
            "containers with a seccomp profile will not start; boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        let held = effective_capabilities(status).unwrap();
        assert_eq!((held & SYS_ADMIN != 0, held & SYS_RESOURCE != 0), (true, false));
        assert_eq!(effective_capabilities("Name: x"), None);
    }
}
