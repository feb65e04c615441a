//! Mounts through the new mount API (fsopen(2), open_tree(2), move_mount(2)), and the mount table.
//!
//! A mount appears whole at its target or not at all: it is made detached, given its attributes, and only then
//! moved into place. Every unmount is lazy and idempotent, so that an undo may be repeated after a crash.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree,
};

use crate::SysError;

mod mapped;
mod overlay;
mod table;

pub use mapped::{check_id_mapped, overlay_mapped};
pub use overlay::{Overlay, overlay, overlay_takes_many_layers};
pub use table::{
    MountInfo, below, holding, holding_in, id_of, is_mount_point, leading_to, parse, propagation, table,
};

/// Mounts stacked on one target that [`unmount`] takes away: more is a loop of somebody else's making.
const STACK_MAX: usize = 64;

/// What a mount allows, and how much of a tree a bind takes along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Take the mounts below the source along (binds only).
    pub recursive: bool,
    /// Refuse writes; with `recursive` on everything below as well.
    pub readonly: bool,
    /// Ignore set-user-id bits and file capabilities.
    pub nosuid: bool,
    /// Refuse to open device nodes.
    pub nodev: bool,
    /// Refuse to execute.
    pub noexec: bool,
}

/// How mount and unmount events travel to and from a mount (mount_namespaces(7), shared subtrees).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways, within its peer group.
    Shared,
    /// Into it only.
    Slave,
    /// Neither way.
    Private,
    /// Neither way, and it cannot be bound.
    Unbindable,
}

/// Binds `source` on `target` with its flags in force from the first moment; the new mount is private.
///
/// A kernel before 5.12 has no mount_setattr(2): there the flags follow the bind, on the top mount alone, and
/// `recursive` with `readonly` is refused.
///
/// # Errors
/// The system call that failed, on the source or the target. Nothing is mounted then.
pub fn bind(source: &Path, target: &Path, flags: Flags) -> Result<(), SysError> {
    let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if flags.recursive {
        how |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = match open_tree(CWD, source, how) {
        Ok(tree) => tree,
        Err(Errno::NOSYS) => return bind_classic(source, target, flags),
        Err(e) => return Err(SysError::path("open_tree", source, e)),
    };
    match set_attributes(&tree, flags) {
        Ok(()) => attach(&tree, target),
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => bind_classic(source, target, flags),
        Err(e) => Err(SysError::path("mount_setattr", source, e)),
    }
}

/// Mounts a tmpfs of at most `bytes` on `target`, its root with `mode`.
///
/// # Errors
/// mount(2) failed.
pub fn tmpfs(target: &Path, bytes: u64, mode: u32, flags: Flags) -> Result<(), SysError> {
    tmpfs_of((0, 0), target, bytes, mode, flags)
}

/// The same, its root a user's and a group's.
///
/// # Errors
/// As [`tmpfs`].
pub fn tmpfs_of(
    (uid, gid): (u32, u32),
    target: &Path,
    bytes: u64,
    mode: u32,
    flags: Flags,
) -> Result<(), SysError> {
    let data = format!("size={bytes},mode={mode:o},uid={uid},gid={gid}");
    let data = std::ffi::CString::new(data).unwrap_or_default();
    mount("tmpfs", target, "tmpfs", flags.classic(), Some(data.as_c_str()))
        .map_err(|e| SysError::path("mount tmpfs", target, e))
}

/// Detaches every mount on `target` (umount2(2) with `MNT_DETACH`). No mount and no such path are success.
///
/// # Errors
/// The system call that failed.
pub fn unmount(target: &Path) -> Result<(), SysError> {
    for _ in 0..STACK_MAX {
        match rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(e) => return Err(SysError::path("umount2", target, e)),
        }
    }
    Err(SysError::path("umount2", target, io::Error::other(format!("{STACK_MAX} mounts are stacked here"))))
}

/// Detaches every mount on or below `directory`, the deepest first.
///
/// # Errors
/// The mount table could not be read, or the first unmount that failed; the others are tried all the same.
pub fn unmount_below(directory: &Path) -> Result<(), SysError> {
    let mut outcome = Ok(());
    for mount in below(&table()?, directory).iter().rev() {
        outcome = outcome.and(unmount(&mount.mount_point));
    }
    outcome
}

/// Changes how mount events travel at the mount point `target`, and below it when `recursive`.
///
/// # Errors
/// mount(2) failed: `EINVAL` where `target` is no mount point.
pub fn set_propagation(target: &Path, wanted: Propagation, recursive: bool) -> Result<(), SysError> {
    let mut flags = match wanted {
        Propagation::Shared => MountPropagationFlags::SHARED,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Unbindable => MountPropagationFlags::UNBINDABLE,
    };
    if recursive {
        flags |= MountPropagationFlags::REC;
    }
    mount_change(target, flags).map_err(|e| SysError::path("mount propagation of", target, e))
}

/// Makes one mount point private.
///
/// # Errors
/// As [`set_propagation`].
pub fn make_private(target: &Path) -> Result<(), SysError> {
    set_propagation(target, Propagation::Private, false)
}

// === impl Flags ===

impl Flags {
    /// nosuid, nodev and noexec: what a directory of plain files needs.
    pub const PLAIN: Self =
        Self { recursive: false, readonly: false, nosuid: true, nodev: true, noexec: true };
    /// Read-only, nothing else.
    pub const READ_ONLY: Self =
        Self { recursive: false, readonly: true, nosuid: false, nodev: false, noexec: false };

    fn attributes(self) -> u64 {
        [
            (self.readonly, libc::MOUNT_ATTR_RDONLY),
            (self.nosuid, libc::MOUNT_ATTR_NOSUID),
            (self.nodev, libc::MOUNT_ATTR_NODEV),
            (self.noexec, libc::MOUNT_ATTR_NOEXEC),
        ]
        .into_iter()
        .fold(0, |set, (wanted, bit)| if wanted { set | bit } else { set })
    }

    fn classic(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.readonly);
        flags.set(MountFlags::NOSUID, self.nosuid);
        flags.set(MountFlags::NODEV, self.nodev);
        flags.set(MountFlags::NOEXEC, self.noexec);
        flags
    }
}

/// Moves a detached mount to `target`.
fn attach(detached: &OwnedFd, target: &Path) -> Result<(), SysError> {
    move_mount(detached.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| SysError::path("move_mount", target, e))
}

/// Gives a detached tree its flags and makes it private (mount_setattr(2)).
fn set_attributes(tree: &OwnedFd, flags: Flags) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: flags.attributes(),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    mount_setattr(tree.as_fd(), flags.recursive, &attributes)
}

fn mount_setattr(tree: BorrowedFd<'_>, recursive: bool, attributes: &libc::mount_attr) -> io::Result<()> {
    let mut how = libc::AT_EMPTY_PATH;
    if recursive {
        how |= libc::AT_RECURSIVE;
    }
    // SAFETY: the fd is open for the duration of the call, the path is a NUL-terminated empty string, and the
    // attributes are a live, initialised `mount_attr` whose exact size is given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            how,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The same through mount(2), where the kernel is too old for the rest.
fn bind_classic(source: &Path, target: &Path, flags: Flags) -> Result<(), SysError> {
    if flags.recursive && flags.readonly {
        return Err(SysError::path("mount_setattr", source, Errno::NOSYS));
    }
    let bound =
        if flags.recursive { mount_bind_recursive(source, target) } else { mount_bind(source, target) };
    bound.map_err(|e| SysError::path("mount bind", target, e))?;
    let dressed = set_propagation(target, Propagation::Private, flags.recursive).and_then(|()| {
        let classic = flags.classic();
        if classic.is_empty() {
            return Ok(());
        }
        mount_remount(target, MountFlags::BIND | classic, c"")
            .map_err(|e| SysError::path("remount bind", target, e))
    });
    if dressed.is_err() {
        let _ = rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
    dressed
}

#[cfg(test)]
mod tests;
