//! Namespaces made, pinned to a path (bind mount), entered by a scratch thread, and let go.
//!
//! setns(2) and unshare(2) change the calling thread for good, so each call here starts a thread of its own
//! and lets it end: no thread of a pool is ever left in a pod's namespace. A pin is a bind mount of
//! `/proc/thread-self/ns/<kind>`, as ip-netns(8) and CNI plugins know it; while it is there the namespace
//! lives without any process.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::thread::{CapabilitiesSecureBits, LinkNameSpaceType, UnshareFlags};

use crate::SysError;

mod user;

pub use user::{IdMaps, IdRange, create_pinned_with_user, open_user};

/// The file system type of what a pin shows (statfs(2)).
const NSFS_MAGIC: u64 = 0x6e73_6673;
/// Mounts that may lie on one pin's path: more than a crash at any instruction leaves.
const STACKED_PINS_MAX: usize = 16;

/// A kind of namespace that a thread may enter alone (namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// network_namespaces(7)
    Net,
    /// ipc_namespaces(7)
    Ipc,
    /// uts_namespaces(7)
    Uts,
}

impl Kind {
    /// The file below `/proc/<pid>/ns`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }

    fn clone_flag(self) -> i32 {
        match self {
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
        }
    }

    fn flag(self) -> UnshareFlags {
        match self {
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
        }
    }
}

/// Makes a new namespace of each kind, all at once, and pins each to its path. Parent directories are made
/// (0755) where absent. On failure none is left.
///
/// # Errors
/// The first system call that failed; `AlreadyExists` where a path holds a pin already.
pub fn create_pinned(pins: &[(Kind, &Path)]) -> Result<(), SysError> {
    pins.iter().try_for_each(|(_, path)| make_parents(path))?;
    let kinds = pins.iter().fold(UnshareFlags::empty(), |flags, (kind, _)| flags | kind.flag());
    let created = scratch(|| {
        // SAFETY: the flags hold only new namespaces (Kind::flag), never CLONE_FILES, which is what makes
        // unshare unsafe; and the thread ends right after.
        unsafe { rustix::thread::unshare_unsafe(kinds) }.map_err(|e| SysError::bare("unshare", e))?;
        let source = |kind: Kind| format!("/proc/thread-self/ns/{}", kind.file_name());
        pins.iter().try_for_each(|(kind, path)| pin(&source(*kind), path))
    })
    .and_then(|done| done);
    if created.is_err() {
        for (_, path) in pins {
            let _ = unpin(path);
        }
    }
    created
}

/// Makes the directory that a new pin's path lies in.
fn make_parents(pin: &Path) -> Result<(), SysError> {
    if is_pinned(pin) {
        return Err(SysError::path("pin namespace", pin, Errno::EXIST));
    }
    let Some(parent) = pin.parent() else { return Ok(()) };
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
    made.map_err(|e| SysError::path("mkdir", parent, e))
}

/// Binds what `source` shows, a file of a process's `ns` directory, on `path`.
fn pin(source: &str, path: &Path) -> Result<(), SysError> {
    // An empty file that a crash left between this line and the mount is taken over.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|e| SysError::path("create", path, e))?;
    rustix::mount::mount_bind(source, path).map_err(|e| SysError::path("mount namespace on", path, e))
}

/// Lets a pinned namespace go: the mount (every one that lies there) and the file. An absent one is success.
/// The kernel reaps the namespace, with the devices in it, some time later.
///
/// # Errors
/// The system call that failed.
pub fn unpin(path: &Path) -> Result<(), SysError> {
    for _ in 0..STACKED_PINS_MAX {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point: all are gone.
            Err(Errno::INVAL) => break,
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(SysError::path("unmount namespace", path, e)),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(SysError::path("unlink", path, e)),
        _ => Ok(()),
    }
}

/// Whether `path` shows a namespace.
pub fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC))
}

/// Runs `work` on a scratch thread inside the network namespace `net`. A panic in it goes on in the caller.
///
/// # Errors
/// A thread that could not start, or a namespace that could not be entered.
pub fn run_in<T: Send>(net: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, SysError> {
    scratch(|| {
        rustix::thread::move_into_link_name_space(net, Some(LinkNameSpaceType::Network))
            .map_err(|e| SysError::bare("enter network namespace", e))?;
        Ok(work())
    })?
}

/// Runs `work` in each of the network namespaces pinned at `paths`, in their order, all on one scratch thread: what
/// is asked of many pods costs one thread.
///
/// # Errors
/// A thread that could not start; and for each namespace, that it could not be entered.
pub fn run_in_each<T: Send>(
    paths: &[&Path],
    work: impl Fn() -> T + Sync,
) -> Result<Vec<Result<T, SysError>>, SysError> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    scratch(|| paths.iter().map(|path| enter(path).map(|()| work())).collect())
}

/// Sets the host name in the UTS namespace pinned at `uts`.
///
/// # Errors
/// The system call that failed.
pub fn set_hostname_in(uts: &Path, name: &str) -> Result<(), SysError> {
    scratch(|| {
        enter(uts)?;
        rustix::system::sethostname(name.as_bytes()).map_err(|e| SysError::named("set host name", name, e))
    })?
}

/// Writes kernel parameters (sysctl(8)) from a thread inside all the pinned namespaces of `paths`, in order.
/// A key separates its parts by `.` or `/`, whichever comes first, and may use the other within a part.
///
/// `owner` is the user and group, as the host counts, that are 0 in the user namespace which owns them: parameters of
/// an IPC namespace are that user's to write, and nobody else's. `None`: the host's user namespace owns them.
///
/// # Errors
/// The first write that failed, or a key that could name anything but a kernel parameter.
pub fn write_sysctls_in(
    paths: &[&Path],
    owner: Option<(u32, u32)>,
    values: &[(&str, &str)],
) -> Result<(), SysError> {
    let files = values
        .iter()
        .map(|(key, value)| Ok((sysctl_file(key)?, *value)))
        .collect::<Result<Vec<_>, SysError>>()?;
    if files.is_empty() {
        return Ok(());
    }
    scratch(|| {
        paths.iter().try_for_each(|path| enter(path))?;
        owner.map_or(Ok(()), |(user, group)| become_keeping_capabilities(user, group))?;
        files.iter().try_for_each(|(file, value)| {
            let mut open =
                OpenOptions::new().write(true).open(file).map_err(|e| SysError::path("open", file, e))?;
            // One write: procfs takes a value whole or not at all.
            io::Write::write_all(&mut open, value.as_bytes()).map_err(|e| SysError::path("write", file, e))
        })
    })?
}

fn sysctl_file(key: &str) -> Result<PathBuf, SysError> {
    let slashed: String = match key.find(['.', '/']) {
        Some(at) if key[at..].starts_with('.') => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            key.chars().map(swap).collect()
        }
        _ => key.to_owned(),
    };
    let relative = Path::new(&slashed);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if slashed.is_empty() || !plain || key.contains('\0') {
        return Err(SysError::named(
            "name sysctl",
            format!("{key:?}"),
            io::Error::from(io::ErrorKind::InvalidInput),
        ));
    }
    Ok(Path::new("/proc/sys").join(relative))
}

fn enter(path: &Path) -> Result<(), SysError> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::path("open namespace", path, e))?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), None)
        .map_err(|e| SysError::path("enter namespace", path, e))
}

/// Makes the calling thread another user's, with the capabilities it has: the network's parameters ask for those.
fn become_keeping_capabilities(user: u32, group: u32) -> Result<(), SysError> {
    let (uid, gid) = (rustix::thread::Uid::from_raw(user), rustix::thread::Gid::from_raw(group));
    let failed = |call| move |e| SysError::named(call, format!("user {user}, group {group}"), e);
    rustix::thread::set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .map_err(failed("prctl PR_SET_SECUREBITS for"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("setresuid"))
}

/// Runs `work` on a thread of its own and waits for it. A panic in it goes on in the caller.
pub(crate) fn scratch<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, SysError> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work);
        let started = started.map_err(|e| SysError::named("start", "scratch thread", e))?;
        Ok(started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// A directory whose pins are let go even when a test panics.
    pub(super) struct Pins(tempfile::TempDir);

    impl Pins {
        pub(super) fn new() -> Option<Self> {
            if rustix::process::geteuid().is_root() {
                return Some(Self(tempfile::tempdir().unwrap()));
            }
            println!("skipped: making namespaces needs root");
            None
        }

        pub(super) fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("pins").join(name)
        }
    }

    impl Drop for Pins {
        fn drop(&mut self) {
            for entry in fs::read_dir(self.0.path().join("pins")).into_iter().flatten().flatten() {
                let _ = unpin(&entry.path());
            }
        }
    }

    fn namespace_of(path: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn namespaces_are_pinned_entered_and_let_go() {
        let Some(pins) = Pins::new() else { return };
        let (net, ipc, uts) = (pins.path("net"), pins.path("ipc"), pins.path("uts"));
        create_pinned(&[(Kind::Net, &net), (Kind::Ipc, &ipc), (Kind::Uts, &uts)]).unwrap();
        assert!(is_pinned(&net) && is_pinned(&ipc) && is_pinned(&uts));
        assert_ne!(namespace_of(&net), namespace_of(Path::new("/proc/self/ns/net")));

        let open = File::open(&net).unwrap();
        let links =
            run_in(open.as_fd(), || fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        let names: Vec<_> =
            links.lines().skip(2).filter_map(|l| l.split(':').next()).map(str::trim).collect();
        assert!(names.contains(&"lo") && !names.contains(&"eth0"), "{names:?}");

        set_hostname_in(&uts, "inner").unwrap();
        let ours = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_ne!(ours.trim(), "inner");
        let inner = scratch(|| {
            enter(&uts).unwrap();
            fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
        });
        assert_eq!(inner.unwrap().trim(), "inner");

        let again = create_pinned(&[(Kind::Net, &net)]).unwrap_err();
        assert_eq!(again.source.kind(), io::ErrorKind::AlreadyExists);
        for path in [&net, &ipc, &uts] {
            unpin(path).unwrap();
            unpin(path).unwrap();
            assert!(!is_pinned(path) && !path.exists());
        }
    }

    #[test]
    fn sysctls_are_written_inside_and_nowhere_else() {
        let Some(pins) = Pins::new() else { return };
        let (net, ipc) = (pins.path("net"), pins.path("ipc"));
        create_pinned(&[(Kind::Net, &net), (Kind::Ipc, &ipc)]).unwrap();
        let read = |file: &str| fs::read_to_string(file).unwrap().trim().to_owned();
        let before = (read("/proc/sys/net/ipv4/ip_default_ttl"), read("/proc/sys/kernel/shmmni"));
        let values = [("net.ipv4.ip_default_ttl", "33"), ("kernel/shmmni", "77")];
        write_sysctls_in(&[&net, &ipc], None, &values).unwrap();
        let inside = scratch(|| {
            enter(&net).unwrap();
            enter(&ipc).unwrap();
            (read("/proc/sys/net/ipv4/ip_default_ttl"), read("/proc/sys/kernel/shmmni"))
        });
        assert_eq!(inside.unwrap(), ("33".to_owned(), "77".to_owned()));
        let after = (read("/proc/sys/net/ipv4/ip_default_ttl"), read("/proc/sys/kernel/shmmni"));
        assert_eq!(after, before);
        let error = write_sysctls_in(&[&net], None, &[("net.ipv4.no_such_thing", "1")]).unwrap_err();
        assert_eq!(error.to_string(), "open /proc/sys/net/ipv4/no_such_thing");
    }

    #[test]
    fn a_failed_creation_leaves_no_pin() {
        let Some(pins) = Pins::new() else { return };
        let good = pins.path("net");
        fs::create_dir_all(pins.path("uts")).unwrap();
        create_pinned(&[(Kind::Net, &good), (Kind::Uts, &pins.path("uts"))]).unwrap_err();
        assert!(!is_pinned(&good) && !good.exists());
    }

    #[test]
    fn sysctl_keys_name_files_below_proc_sys_or_nothing() {
        for (key, file) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net/ipv4/conf/eth0.1/rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"),
            ("net.ipv4.conf.eth0/1.rp_filter", "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"),
        ] {
            assert_eq!(sysctl_file(key).unwrap(), Path::new(file), "{key}");
        }
        for bad in ["", "/etc/passwd", "../../etc/passwd", "net/../../x", "net.//.ipv4", "a\0b"] {
            assert!(sysctl_file(bad).is_err(), "{bad:?}");
        }
    }
}
