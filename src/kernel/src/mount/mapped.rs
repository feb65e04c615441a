//! overlayfs over id-mapped layers (mount_setattr(2), `MOUNT_ATTR_IDMAP`): a user namespace's view of an image without
//! a copy of it.
//!
//! overlayfs takes its layers by path and, before Linux 6.15, only from mounts of the caller's own mount namespace. So
//! the id-mapped clones are attached in a mount namespace of a scratch thread's own: no other namespace sees them come
//! and go, and however this ends they end with the thread. Only the finished overlay leaves it, as a descriptor.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::UnshareFlags;

use super::overlay::{detached, no_lower};
use super::{Flags, Overlay, Propagation, attach, holding, mount_setattr, set_propagation, tmpfs};
use crate::SysError;
use crate::namespace::scratch;

/// Room for the directories that the layers are attached on.
const STAGE_BYTES: u64 = 1 << 20;

/// Mounts an overlay on `target` whose lower layers show the ids of the user namespace pinned at `user`: what belongs
/// to user 0 on disk belongs to the namespace's user 0 in the mount. The upper layer holds ids as the host counts them.
/// It appears there whole or not at all.
///
/// # Errors
/// The system call that failed; `Unsupported` where a layer's file system or this kernel's overlayfs (before 5.19)
/// knows no id-mapped mounts.
pub fn overlay_mapped(overlay: &Overlay<'_>, user: &Path, target: &Path) -> Result<(), SysError> {
    if overlay.lower.is_empty() {
        return Err(SysError::path("mount overlay", target, no_lower()));
    }
    let user = rustix::fs::open(user, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::path("open namespace", user, e))?;
    let mounted = scratch(|| {
        // SAFETY: a new mount namespace, and with it a working directory of the thread's own, which ends right after;
        // CLONE_FILES, which is what makes unshare unsafe, is not among the flags.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(|e| SysError::named("unshare", "a mount namespace", e))?;
        set_propagation(Path::new("/"), Propagation::Private, true)?;
        stage(overlay, user.as_fd(), target)
    })??;
    attach(&mounted, target)
}

/// That the mount which holds `path`, and all mounts below `path`, can be id-mapped. `user` is any user namespace but
/// the host's.
///
/// # Errors
/// `Unsupported` with the name of the first file system that has no id-mapped mounts, or the system call that failed.
pub fn check_id_mapped(path: &Path, user: BorrowedFd<'_>) -> Result<(), SysError> {
    mapped(path, user)?;
    let path = path.canonicalize().map_err(|e| SysError::path("realpath", path, e))?;
    super::below(&super::table()?, &path).iter().try_for_each(|mount| {
        match mapped(&mount.mount_point, user) {
            // It may be covered by another, or have gone meanwhile.
            Err(e) if e.is_not_found() => Ok(()),
            tried => tried.map(drop),
        }
    })
}

/// The overlay, made of layers attached below `target`, which nobody else sees.
fn stage(overlay: &Overlay<'_>, user: BorrowedFd<'_>, target: &Path) -> Result<OwnedFd, SysError> {
    tmpfs(target, STAGE_BYTES, 0o700, Flags::PLAIN)?;
    let make = |name: String| {
        let dir = target.join(name);
        fs::create_dir(&dir).map_err(|e| SysError::path("mkdir", &dir, e)).map(|()| dir)
    };
    let mut lower: Vec<PathBuf> = Vec::with_capacity(overlay.lower.len());
    for (n, layer) in overlay.lower.iter().enumerate() {
        let place = make(n.to_string())?;
        attach(&mapped(layer, user)?, &place)?;
        lower.push(place);
    }
    detached(&Overlay { lower: &lower, ..*overlay }, &make("rootfs".to_owned())?)
}

/// A detached clone of the mount at `layer` that shows `user`'s ids.
fn mapped(layer: &Path, user: BorrowedFd<'_>) -> Result<OwnedFd, SysError> {
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, layer, how).map_err(|e| SysError::path("open_tree", layer, e))?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user.as_raw_fd()).unwrap_or_default(),
    };
    mount_setattr(tree.as_fd(), false, &attributes).map_err(|e| match Errno::from_io_error(&e) {
        // What the kernel says of a file system that has no id-mapped mounts, and before 5.12 of the call.
        Some(Errno::INVAL | Errno::NOSYS) => {
            let kind = holding(layer).map_or("unknown".to_owned(), |mount| mount.file_system);
            let why = format!("the file system {kind} has no id-mapped mounts on this kernel");
            SysError::path("id-map", layer, io::Error::new(io::ErrorKind::Unsupported, why))
        }
        _ => SysError::path("mount_setattr", layer, e),
    })?;
    Ok(tree)
}
