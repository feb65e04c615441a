//! Stacking directories with overlayfs, in one place until `kernel::mount::overlay` is here.

use std::io;
use std::path::{Path, PathBuf};

use kernel::SysError;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

/// Mounts `lower` (top first) on `target`; with `upper` and `work` writable, without them read-only.
pub(super) fn overlay(
    lower: &[PathBuf],
    writable: Option<(&Path, &Path)>,
    target: &Path,
) -> Result<(), SysError> {
    let failed = |call| move |e: rustix::io::Errno| SysError::path(call, target, e);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen overlay for"))?;
    let set = |key: &str, value: &Path| {
        fsconfig_set_string(&context, key, value).map_err(|e| SysError::path("fsconfig overlay", value, e))
    };
    for dir in lower {
        set("lowerdir+", dir)?;
    }
    if let Some((upper, work)) = writable {
        set("upperdir", upper)?;
        set("workdir", work)?;
    }
    fsconfig_create(&context).map_err(failed("create overlay for"))?;
    let attributes =
        if writable.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(failed("fsmount overlay for"))?;
    move_mount(mount, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("mount overlay on"))
}

/// Unmounts everything that is mounted on `target`; busy or not, it is gone from the tree.
pub(super) fn unmount_all(target: &Path) -> Result<(), SysError> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(e) if e == rustix::io::Errno::INVAL || e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(SysError::path("unmount", target, e)),
        }
    }
}
