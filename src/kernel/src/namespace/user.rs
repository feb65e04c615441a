//! User namespaces (user_namespaces(7)): made with their id mappings, pinned, and owning the namespaces made with them.
//!
//! A thread of a process of many can neither make nor enter one, so a child process does, and only that: it is
//! cloned into the new namespaces, waits while its parent writes the mappings and pins what it holds, and is killed.
//! It runs no code but a few system calls, because another thread's locks may be held for ever in it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use super::{Kind, make_parents, pin, unpin};
use crate::SysError;

/// A run of ids: `length` of them from `inside` on are `outside` and on in the parent user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id in the namespace.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// The ids that a user namespace knows.
#[derive(Clone, Copy, Debug)]
pub struct IdMaps<'a> {
    /// Of users.
    pub users: &'a [IdRange],
    /// Of groups.
    pub groups: &'a [IdRange],
}

/// Makes a new user namespace with these ids and, owned by it, a new namespace of each kind of `pins`; pins them all.
/// Parent directories are made (0755) where absent. On failure none is left.
///
/// # Errors
/// The first system call that failed; `AlreadyExists` where a path holds a pin already.
pub fn create_pinned_with_user(
    user: &Path,
    maps: IdMaps<'_>,
    pins: &[(Kind, &Path)],
) -> Result<(), SysError> {
    let paths = || pins.iter().map(|(_, path)| *path).chain([user]);
    paths().try_for_each(make_parents)?;
    let flags = pins.iter().fold(libc::CLONE_NEWUSER, |flags, (kind, _)| flags | kind.clone_flag());
    let holder = Holder::start(flags)?;
    let made = holder.write_maps(maps).and_then(|()| {
        pin(&holder.namespace("user"), user)?;
        pins.iter().try_for_each(|(kind, path)| pin(&holder.namespace(kind.file_name()), path))
    });
    if made.is_err() {
        for path in paths() {
            let _ = unpin(path);
        }
    }
    made
}

/// A new user namespace with these ids, which lives as long as its descriptor. For id-mapped mounts: nobody is in it.
///
/// # Errors
/// The first system call that failed.
pub fn open_user(maps: IdMaps<'_>) -> Result<OwnedFd, SysError> {
    let holder = Holder::start(libc::CLONE_NEWUSER)?;
    holder.write_maps(maps)?;
    let path = holder.namespace("user");
    rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::path("open namespace", &path, e))
}

/// A child process that holds new namespaces open. It is gone when this value is.
struct Holder(Pid);

impl Holder {
    fn start(flags: i32) -> Result<Self, SysError> {
        let parent = std::process::id();
        let flags = libc::c_long::from(flags | libc::SIGCHLD);
        // Handlers of ours would run in the child, on descriptors that are also its parent's.
        let before = block_all_signals()?;
        // SAFETY: without CLONE_VM and a stack this is fork(2): the child has a copy of this thread and its memory.
        // It goes on in `hold`, which makes system calls only and never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            hold(parent);
        }
        let cloned = match pid {
            // What clone(2) says with ENOSPC is about disks to most people.
            -1 => Err(match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENOSPC) => io::Error::other(
                    "the limit user.max_user_namespaces, or another of user.max_*, is reached",
                ),
                error => error,
            }),
            pid => i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .ok_or_else(|| io::Error::other("not a process id")),
        };
        restore_signals(&before);
        cloned.map(Self).map_err(|e| SysError::named("clone into", "a new user namespace", e))
    }

    fn namespace(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.0)
    }

    fn write_maps(&self, maps: IdMaps<'_>) -> Result<(), SysError> {
        for (file, ranges) in [("uid_map", maps.users), ("gid_map", maps.groups)] {
            let path = format!("/proc/{}/{file}", self.0);
            // One write: the kernel takes a map whole or not at all, and only once.
            fs::write(&path, map_text(ranges))
                .map_err(|e| SysError::named("write", format!("{file} {}", map_text(ranges).trim()), e))?;
        }
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        while matches!(rustix::process::waitpid(Some(self.0), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// As uid_map has it: inside, outside, length.
fn map_text(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.length);
        text
    })
}

/// The child's whole life. It ends with the thread that cloned it at the latest, and keeps nothing of its parent's
/// open: after a SIGKILL of the service its lock and sockets may seem to be in use until this has run, and no longer.
fn hold(parent: u32) -> ! {
    // SAFETY: plain system calls on numbers; nothing here touches memory that another thread may have left half
    // changed, and every descriptor of this process is its own to close.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, 0_u32);
        // A parent that had died before the first line would never be told of.
        while libc::syscall(libc::SYS_getppid) == libc::c_long::from(parent) {
            libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
        }
        libc::_exit(0)
    }
}

fn block_all_signals() -> Result<libc::sigset_t, SysError> {
    // SAFETY: an all-zero sigset_t is a valid object.
    let (mut all, mut before) =
        unsafe { (std::mem::zeroed::<libc::sigset_t>(), std::mem::zeroed::<libc::sigset_t>()) };
    // SAFETY: `all` is a valid sigset_t.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both are valid sigset_t.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) } {
        0 => Ok(before),
        code => Err(SysError::bare("pthread_sigmask", io::Error::from_raw_os_error(code))),
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is what pthread_sigmask filled in; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::from_ref(before), std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::super::tests::Pins;
    use super::super::{create_pinned, is_pinned, write_sysctls_in};
    use super::*;

    const RANGE: IdRange = IdRange { inside: 0, outside: 300_000, length: 65_536 };
    const MAPS: IdMaps<'static> = IdMaps { users: &[RANGE], groups: &[RANGE] };

    #[test]
    fn namespaces_belong_to_the_user_namespace_made_with_them() {
        let Some(pins) = Pins::new() else { return };
        let (user, net, ipc) = (pins.path("user"), pins.path("net"), pins.path("ipc"));
        create_pinned_with_user(&user, MAPS, &[(Kind::Net, &net), (Kind::Ipc, &ipc)]).unwrap();
        assert!(is_pinned(&user) && is_pinned(&net) && is_pinned(&ipc));
        use std::os::unix::fs::MetadataExt as _;
        let script = format!(
            "nsenter --user={} --net={} --ipc={} --setuid 0 --setgid 0 sh -c \
             'cat /proc/self/uid_map; ip link set lo up && ip -br link'",
            user.display(),
            net.display(),
            ipc.display()
        );
        let mut shell = crate::process::command("/bin/sh");
        shell.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-c", &script]);
        let said = shell.output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words[..3], ["0", "300000", "65536"], "{text}");
        assert!(text.contains("lo "), "{text}");
        let ours = fs::metadata("/proc/self/ns/user").unwrap().ino();
        assert_ne!(fs::metadata(&user).unwrap().ino(), ours);

        // As its owner, the host's root may write what the IPC namespace calls its own.
        write_sysctls_in(
            &[&net, &ipc],
            Some((300_000, 300_000)),
            &[("kernel.shmmni", "77"), ("net.ipv4.ip_default_ttl", "33")],
        )
        .unwrap();

        let again = create_pinned_with_user(&user, MAPS, &[]).unwrap_err();
        assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_mapping_that_the_kernel_refuses_leaves_nothing() {
        let Some(pins) = Pins::new() else { return };
        let (user, uts) = (pins.path("user"), pins.path("uts"));
        let twice = IdMaps { users: &[RANGE, RANGE], groups: &[RANGE] };
        let error = create_pinned_with_user(&user, twice, &[(Kind::Uts, &uts)]).unwrap_err();
        assert!(error.to_string().starts_with("write uid_map 0 300000 65536"), "{error}");
        assert!(!user.exists() && !uts.exists());
        // And the paths can be used again.
        create_pinned(&[(Kind::Uts, &uts)]).unwrap();
    }
}
