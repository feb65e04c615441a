//! Another process's namespaces, entered as it is in them (namespaces(7)); and a mark that what starts there carries.
//!
//! The process is named by a pidfd, so that a reused pid is never entered. These calls change the calling process for
//! good: they are for a fork that ends in another program ([`crate::alone`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::io::Errno;
pub use rustix::thread::ThreadNameSpaceType as Kinds;
use rustix::thread::{Gid, Uid, UnshareFlags};

use crate::SysError;
use crate::pidfd::PidFd;

/// The kinds by their files below `/proc/<pid>/ns`. No kind is left out: a container that shares one with us is in
/// the same namespace there.
const FILES: [(&str, Kinds); 8] = [
    ("user", Kinds::USER),
    ("mnt", Kinds::MOUNT),
    ("pid", Kinds::PROCESS_ID),
    ("net", Kinds::NETWORK),
    ("ipc", Kinds::INTER_PROCESS_COMMUNICATION),
    ("uts", Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("cgroup", Kinds::CONTROL_GROUP),
    ("time", Kinds::TIME),
];

/// The kinds of namespace in which the process is not where we are.
///
/// # Errors
/// The process is gone, or what it is in cannot be read.
pub fn apart(process: &PidFd) -> Result<Kinds, SysError> {
    let mut kinds = Kinds::empty();
    for (file, kind) in FILES {
        // A kernel without a kind has no file for it, for nobody.
        let Some(own) = identity(PathBuf::from("/proc/self/ns").join(file))? else { continue };
        let path = PathBuf::from(format!("/proc/{}/ns/{file}", process.pid()));
        if identity(path)? != Some(own) {
            kinds |= kind;
        }
    }
    // It was this process that was read about, and no later one of its number.
    process.signal_strictly(0)?;
    Ok(kinds)
}

fn identity(path: PathBuf) -> Result<Option<(u64, u64)>, SysError> {
    match path.metadata() {
        Ok(namespace) => Ok(Some((namespace.dev(), namespace.ino()))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SysError::path("stat", path, e)),
    }
}

/// Enters these namespaces of the process, all or none; the one of PIDs and of time for children alone. In a user
/// namespace this becomes its root, with every capability there and none elsewhere.
///
/// # Errors
/// The system call. Where a user namespace has no id 0, nothing can be done in it.
pub fn enter(process: &PidFd, kinds: Kinds) -> Result<(), SysError> {
    let failed = |call: &'static str| move |e: Errno| SysError::pid(call, process.pid(), e);
    rustix::thread::move_into_thread_name_spaces(process.as_fd(), kinds)
        .map_err(failed("setns to the namespaces of"))?;
    if kinds.contains(Kinds::USER) {
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
            .and_then(|()| rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
            .map_err(failed("become root in the user namespace of"))?;
    }
    Ok(())
}

/// Gives the children of this process a time namespace of their own, with the clocks as they are. Nobody notices; but
/// all that descends from them is in it, however often it has forked and whoever its parent is now, and leaving wants
/// CAP_SYS_ADMIN. [`Mark::of`] reads it. A kernel without time namespaces gives none, which is no error.
pub fn mark_children() {
    // SAFETY: a time namespace for children, and nothing else, changes nothing of this process.
    let _ = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) };
}

/// What [`mark_children`] gave to a process and to all that it starts.
#[derive(Debug)]
pub struct Mark {
    identity: (u64, u64),
    /// While it is open no other namespace gets this identity.
    _held: OwnedFd,
}

impl Mark {
    /// The mark of a process, unless it is in our own time namespace or in that of the process `beside`, which mark
    /// nobody.
    pub fn of(pid: u32, beside: u32) -> Option<Self> {
        let held = File::open(time_of(pid)).ok()?;
        let metadata = held.metadata().ok()?;
        let identity = (metadata.dev(), metadata.ino());
        let own = self::identity("/proc/self/ns/time".into()).ok()??;
        let others = self::identity(time_of(beside)).ok()??;
        (identity != own && identity != others).then(|| Self { identity, _held: held.into() })
    }

    /// Whether a process carries it.
    pub fn is_on(&self, pid: u32) -> bool {
        identity(time_of(pid)).is_ok_and(|identity| identity == Some(self.identity))
    }
}

fn time_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/time").into()
}
