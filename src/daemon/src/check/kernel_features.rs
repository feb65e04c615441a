//! What the kernel offers, and what this process may ask of it.

use std::path::Path;

use super::{Host, Report};

/// openat2(2) is of 5.6, pidfds in full of 5.4, CLONE_INTO_CGROUP of 5.7; 5.10 is the long-term release with all.
const KERNEL_MIN: (u32, u32) = (5, 10);
/// What some pods ask for, and the release that it came with (the kernel's own changelogs; runtime-spec).
const LATER: [((u32, u32), &str, &str); 2] = [
    ((5, 12), "recursive read-only mounts", "pods that ask for them (recursiveReadOnly) are refused"),
    ((5, 19), "id-mapped layers of overlayfs", "pods with hostUsers: false are refused"),
];

pub(super) fn check(host: &Host<'_>, report: &mut Report) {
    version(host, report);
    calls(host, report);
    privileges(host, report);
    overlayfs(host, report);
    namespaces(host, report);
    if host.files.exists(Path::new("/proc/sys/kernel/seccomp/actions_avail")) {
        report.ok("seccomp", "filters");
    } else {
        report.warn(
            "seccomp",
            "the kernel has no seccomp filters",
            "containers with a seccomp profile will not start; boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    security_modules(host, report);
}

/// Major and minor, where the release is understood.
pub(super) fn release(host: &Host<'_>) -> Option<(u32, u32)> {
    kernel::release::parse(&host.files.word("/proc/sys/kernel/osrelease"))
}

fn version(host: &Host<'_>, report: &mut Report) {
    let text = host.files.word("/proc/sys/kernel/osrelease");
    match release(host) {
        Some(version) if version < KERNEL_MIN => report.fail(
            "kernel",
            format!("Linux {text} is older than {}.{}", KERNEL_MIN.0, KERNEL_MIN.1),
            "boot a newer kernel",
        ),
        Some(version) => {
            report.ok("kernel", format!("Linux {text}"));
            for (since, what, then) in LATER.iter().filter(|(since, ..)| version < *since) {
                let found = format!("Linux {text} has no {what}");
                report.warn("kernel", found, format!("{then}; boot Linux {}.{} or newer", since.0, since.1));
            }
        }
        None => report.warn(
            "kernel",
            format!("the release {text:?} is not understood"),
            format!("make sure that it is {}.{} or newer", KERNEL_MIN.0, KERNEL_MIN.1),
        ),
    }
}

/// A kernel that is new enough may still have them taken away, by the filter of a container that this runs in.
fn calls(host: &Host<'_>, report: &mut Report) {
    let calls = [("openat2", host.probe.openat2()), ("pidfd_open", host.probe.pidfd())];
    let missing: Vec<_> = calls.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        report.ok("system calls", "openat2, pidfd_open");
    } else {
        report.fail(
            "system calls",
            format!("no {}", missing.join(", ")),
            "boot a newer kernel, or run outside of a container whose seccomp profile forbids them",
        );
    }
}

const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

fn privileges(host: &Host<'_>, report: &mut Report) {
    let subject = "privileges";
    let status = host.files.word("/proc/self/status");
    // The second of the four is the effective one (proc_pid_status(5)).
    let uid = field(&status, "Uid:").and_then(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok());
    let held = field(&status, "CapEff:").and_then(|line| u64::from_str_radix(line.trim(), 16).ok());
    match (uid, held) {
        (Some(uid), _) if uid != 0 => report.warn(
            subject,
            format!("run by user {uid}: what only root may ask was not asked"),
            "run this check once more as root; the service itself must be root",
        ),
        (_, Some(held)) if held & SYS_ADMIN == 0 => report.fail(
            subject,
            "root without CAP_SYS_ADMIN",
            "run the service outside of a container, or in a privileged one",
        ),
        (_, Some(held)) if held & SYS_RESOURCE == 0 => report.warn(
            subject,
            "root without CAP_SYS_RESOURCE",
            "oom_score_adj and resource limits below the service's own are clamped to it; give the service \
             CAP_SYS_RESOURCE to have them as pods ask",
        ),
        (_, Some(_)) => report.ok(subject, "root with all that is needed"),
        (_, None) => {
            report.warn(subject, "capabilities are not readable in /proc/self/status", "mount /proc")
        }
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

fn overlayfs(host: &Host<'_>, report: &mut Report) {
    let subject = "overlayfs";
    let known = host.files.word("/proc/filesystems");
    let known = known.lines().any(|line| line.split_whitespace().last() == Some("overlay"));
    match host.probe.overlay_takes_many_layers() {
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
        Err(error) => report.fail(subject, format!("is not there: {error}"), "load the module: modprobe overlay"),
    }
}

fn namespaces(host: &Host<'_>, report: &mut Report) {
    let subject = "namespaces";
    // Links that lead nowhere in the file system: their names are what counts.
    let kinds = host.files.list(Path::new("/proc/self/ns"));
    let there = |kind: &str| kinds.iter().any(|path| path.ends_with(kind));
    let missing: Vec<_> =
        ["mnt", "net", "ipc", "uts", "pid", "cgroup"].into_iter().filter(|kind| !there(kind)).collect();
    if missing.is_empty() {
        report.ok(subject, "mount, network, ipc, uts, pid, cgroup");
    } else {
        report.fail(
            subject,
            format!("the kernel has no {} namespaces", missing.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES and all its kinds",
        );
    }
    let most = host.files.word("/proc/sys/user/max_user_namespaces");
    if !there("user") {
        report.warn(subject, "no user namespaces", "pods with hostUsers: false will be refused");
    } else if most == "0" {
        report.warn(
            subject,
            "no user namespace may be made",
            "pods with hostUsers: false will be refused; sysctl -w user.max_user_namespaces=15000",
        );
    } else {
        report.ok(subject, "user");
    }
    if there("time") {
        report.ok(subject, "time");
    } else {
        report.warn(
            subject,
            "no time namespaces",
            "processes of an exec whose caller was killed are not all found; boot a kernel with CONFIG_TIME_NS",
        );
    }
}

fn security_modules(host: &Host<'_>, report: &mut Report) {
    let subject = "lsm";
    let modules = host.files.word("/sys/kernel/security/lsm");
    if modules.is_empty() {
        return report
            .ok(subject, "the list of security modules is not readable (securityfs is not mounted)");
    }
    report.ok(subject, format!("security modules: {}", modules.replace(',', ", ")));
    let has = |name: &str| modules.split(',').any(|module| module == name);
    let apparmor = has("apparmor") && host.files.word("/sys/module/apparmor/parameters/enabled") == "Y";
    let parser = host
        .path
        .split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|directory| host.files.is_executable(&Path::new(directory).join("apparmor_parser")));
    if apparmor && !parser {
        report.warn(
            subject,
            "AppArmor is on, and apparmor_parser is not installed",
            "containers that ask for RuntimeDefault by name are refused: install apparmor",
        );
    }
    if has("selinux") && host.files.word("/sys/fs/selinux/enforce") == "1" {
        report.warn(
            subject,
            "SELinux is enforcing",
            "Gantline labels containers, but was never run on such a node: try one before you move all",
        );
    }
}
