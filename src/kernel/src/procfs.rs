//! What /proc tells of processes' open files and memory, and of the node's. A process that is gone is a `None`.

use std::fs;
use std::mem::MaybeUninit;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir};

/// Room for names of open files, bytes: those of most processes are read at once.
const NAMES_BYTES: usize = 2048;

/// The open files of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// All of them.
    pub count: u64,
    /// Those that are sockets; `None` where there were too many to look at.
    pub sockets: Option<u64>,
}

/// Counts a process's open files (proc_pid_fd(5)). Sockets are told from the rest by a look at each file: with more
/// than `look_at_most` they are not counted.
pub fn open_files(pid: u32, look_at_most: u64) -> Option<OpenFiles> {
    // Everything is asked of the open directory: a path through /proc/PID checks its way at each step.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(format!("/proc/{pid}/fd"), flags, Mode::empty()).ok()?;
    // Since 6.2 the directory's size is their number, for one call.
    let known = u64::try_from(rustix::fs::fstat(&directory).ok()?.st_size).unwrap_or_default();
    if known > look_at_most {
        return Some(OpenFiles { count: known, sockets: None });
    }
    let mut files = OpenFiles { count: 0, sockets: Some(0) };
    let mut names = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut names = RawDir::new(&directory, &mut names);
    while let Some(Ok(name)) = names.next() {
        let name = name.file_name();
        if name.to_bytes().starts_with(b".") {
            continue;
        }
        files.count += 1;
        if files.count > look_at_most {
            files.sockets = None;
        }
        if let Some(sockets) = &mut files.sockets {
            let mut target = [0; b"socket:".len()];
            // A longer target is cut: its beginning is all that is asked.
            let length = rustix::fs::readlinkat_raw(&directory, name, &mut target).unwrap_or_default();
            *sockets += u64::from(&target[..length] == b"socket:");
        }
    }
    Some(files)
}

/// A process's soft limit on open files (proc_pid_limits(5)); `None` also where it has none. Not by prlimit(2),
/// which wants CAP_SYS_RESOURCE where the process is another user's.
pub fn open_files_max(pid: u32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?, "Max open files")
}

/// The memory of a process that is in RAM, bytes (proc_pid_status(5)).
pub fn resident_bytes(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// The CPU time that this process and its threads have used.
pub fn own_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// The node's memory, bytes: all of it, and what new work could have without swapping (proc_kilobytes(5)).
pub fn node_memory() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    Some((kilobytes(&text, "MemTotal:")?, kilobytes(&text, "MemAvailable:")?))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.saturating_mul(1024))
}

fn soft_limit(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_files_are_counted() {
        let pid = std::process::id();
        let before = open_files(pid, 10_000).unwrap();
        let sockets: Vec<_> = (0..40).map(|_| std::os::unix::net::UnixDatagram::unbound().unwrap()).collect();
        let after = open_files(pid, 10_000).unwrap();
        // Other tests of this process open and close files too.
        assert!(
            after.count >= 40 && after.sockets.unwrap() >= before.sockets.unwrap() + 30,
            "{before:?} {after:?}"
        );
        assert_eq!(open_files(pid, 3).unwrap().sockets, None);
        drop(sockets);
        assert_eq!(open_files(u32::MAX, 10), None);
    }

    #[test]
    fn limits_stand_after_their_names() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max cpu time"), None);
        assert!(open_files_max(std::process::id()).is_some());
    }

    #[test]
    fn memory_and_time_are_told() {
        assert_eq!(kilobytes("MemTotal:        2048 kB\nMemFree: 1 kB\n", "MemTotal:"), Some(2 << 20));
        let (all, available) = node_memory().unwrap();
        assert!(all >= available && available > 0);
        assert!(resident_bytes(std::process::id()).unwrap() > 4096);
        assert_eq!(resident_bytes(u32::MAX), None);
        assert!(own_cpu_time() > Duration::ZERO);
    }
}
