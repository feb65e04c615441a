//! What this process may do (capabilities(7)), and the clamps that follow from what it may not.

use std::io;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::SysError;

/// Every capability by its number, as capabilities(7) names them, without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The resource limits that Linux has, as getrlimit(2) names them.
const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_STACK", Resource::Stack),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
];

/// The capabilities that this process can hand on, by name without `CAP_`, in the kernel's order.
///
/// # Errors
/// capget(2) failed.
pub fn permitted() -> Result<Vec<&'static str>, SysError> {
    let sets = capabilities(None).map_err(|e| SysError::bare("capget", e))?;
    Ok(names(sets.permitted))
}

/// Whether this process may raise limits and lower oom_score_adj (CAP_SYS_RESOURCE). A failing capget(2) is no.
pub fn has_sys_resource() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// The lowest oom_score_adj that this process may give to another: its own, or -1000 with CAP_SYS_RESOURCE.
///
/// # Errors
/// /proc/self/oom_score_adj could not be read.
pub fn oom_score_adj_min() -> Result<i32, SysError> {
    if has_sys_resource() {
        return Ok(-1000);
    }
    let path = "/proc/self/oom_score_adj";
    let failed = |e| SysError::path("read", path, e);
    let text = std::fs::read_to_string(path).map_err(failed)?;
    text.trim().parse().map_err(|e| failed(io::Error::new(io::ErrorKind::InvalidData, e)))
}

/// `wanted`, or the lowest value that this process may give.
pub fn clamp_oom_score_adj(wanted: i32) -> i32 {
    oom_score_adj_min().map_or(wanted, |lowest| wanted.max(lowest))
}

/// The hard limit that this process may not exceed for another, by name; `None`: no limit, or an unknown name.
pub fn rlimit_max(name: &str) -> Option<u64> {
    let resource = rlimit(name)?;
    if has_sys_resource() { None } else { getrlimit(resource).maximum }
}

/// How many files this process may have open.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// A limit's soft and hard value, lowered to what this process may give.
pub fn clamp_rlimit(name: &str, soft: u64, hard: u64) -> (u64, u64) {
    let most = rlimit_max(name).unwrap_or(u64::MAX);
    (soft.min(most), hard.min(most))
}

/// Whether getrlimit(2) knows the name: `RLIMIT_NOFILE`.
pub fn is_rlimit(name: &str) -> bool {
    rlimit(name).is_some()
}

/// The set of these capabilities, by name with or without `CAP_`; the first unknown name where there is one.
///
/// # Errors
/// A name that is no capability's.
pub fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<CapabilitySet, &'a str> {
    names.into_iter().try_fold(CapabilitySet::empty(), |set, name| {
        let plain = name.strip_prefix("CAP_").unwrap_or(name);
        let number = NAMES.iter().position(|known| *known == plain).ok_or(name)?;
        Ok(set | CapabilitySet::from_bits_retain(1 << number))
    })
}

/// A resource of getrlimit(2) by name, `RLIMIT_NOFILE`.
pub fn rlimit(name: &str) -> Option<Resource> {
    LIMITS.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource)
}

fn names(set: CapabilitySet) -> Vec<&'static str> {
    let bits = set.bits();
    NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kernels_numbers() {
        let set = CapabilitySet::CHOWN | CapabilitySet::SYS_RESOURCE | CapabilitySet::CHECKPOINT_RESTORE;
        assert_eq!(names(set), ["CHOWN", "SYS_RESOURCE", "CHECKPOINT_RESTORE"]);
        assert_eq!(NAMES.iter().position(|name| *name == "SYS_ADMIN"), Some(21));
        assert_eq!(super::set(["CAP_CHOWN", "SYS_RESOURCE", "CHECKPOINT_RESTORE"]), Ok(set));
        assert_eq!(super::set(["CHOWN", "CAP_FLY"]), Err("CAP_FLY"));
    }

    #[test]
    fn what_the_process_holds_is_what_proc_says() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
        let bits = u64::from_str_radix(line.trim(), 16).unwrap();
        let held = permitted().unwrap();
        assert_eq!(held.len(), (bits & ((1 << NAMES.len()) - 1)).count_ones() as usize);
        assert_eq!(held.contains(&"SYS_RESOURCE"), bits >> 24 & 1 == 1);
    }

    #[test]
    fn clamps_follow_from_cap_sys_resource() {
        let own = if has_sys_resource() { -1000 } else { oom_score_adj_min().unwrap() };
        assert_eq!(clamp_oom_score_adj(-1000), own);
        assert_eq!(clamp_oom_score_adj(1000), 1000);
        let most = rlimit_max("RLIMIT_NOFILE").unwrap_or(u64::MAX);
        assert_eq!(clamp_rlimit("RLIMIT_NOFILE", 10, u64::MAX), (10, most));
        assert!(is_rlimit("RLIMIT_CORE") && !is_rlimit("RLIMIT_NOPE"));
    }
}
