//! File systems and the devices that they lie on, as a metric names them.

use std::fs;
use std::path::Path;

use crate::{SysError, mount};

/// A file system: how large it is, and what is left of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// All bytes.
    pub bytes: u64,
    /// Those that a process without privileges may still take.
    pub bytes_available: u64,
    /// All inodes; 0 where there is no such bound.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

/// The capacity of the file system that a path is on.
///
/// # Errors
/// statvfs(3).
pub fn capacity(path: &Path) -> Result<Capacity, SysError> {
    let stat = rustix::fs::statvfs(path).map_err(|e| SysError::path("statvfs", path, e))?;
    let bytes = stat.f_blocks.saturating_mul(stat.f_frsize);
    let bytes_available = stat.f_bavail.saturating_mul(stat.f_frsize);
    Ok(Capacity { bytes, bytes_available, inodes: stat.f_files, inodes_free: stat.f_ffree })
}

/// What is left of a file system for those who may not use its administrator's reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; `u64::MAX` where there is no such bound.
    pub inodes: u64,
}

/// What is left of the file system that a path is on.
///
/// # Errors
/// statvfs(3).
pub fn free(path: &Path) -> Result<Free, SysError> {
    let stat = rustix::fs::statvfs(path).map_err(|e| SysError::path("statvfs", path, e))?;
    let inodes = if stat.f_files == 0 { u64::MAX } else { stat.f_favail };
    Ok(Free { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), inodes })
}

/// A block device by its numbers: `/dev/vda`; `None` where the kernel has none of these numbers.
pub fn device_name(major: u32, minor: u32) -> Option<String> {
    let uevent = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

/// What the file system of a path lies on: its device, or whatever the mount table names where it has none of its own
/// (btrfs, overlayfs, tmpfs).
///
/// # Errors
/// The path or the mount table could not be read.
pub fn source(path: &Path) -> Result<String, SysError> {
    let stat = rustix::fs::stat(path).map_err(|e| SysError::path("stat", path, e))?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    if let Some(name) = device_name(major, minor) {
        return Ok(name);
    }
    let whole = fs::canonicalize(path).map_err(|e| SysError::path("resolve", path, e))?;
    let table = mount::table()?;
    let above = table.iter().filter(|mount| whole.starts_with(&mount.mount_point));
    // Of several on one place the last covers the others.
    let mount = above.max_by_key(|mount| mount.mount_point.as_os_str().len());
    Ok(mount.map_or_else(|| format!("{major}:{minor}"), |mount| mount.source.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_file_system_lies_on_something() {
        let capacity = capacity(Path::new("/")).unwrap();
        assert!(capacity.bytes > 0 && capacity.bytes >= capacity.bytes_available);
        assert!(capacity.inodes >= capacity.inodes_free);
        assert!(!source(Path::new("/")).unwrap().is_empty());
        assert_eq!(device_name(0, 0), None);
        assert!(super::capacity(Path::new("/gantline-no-such")).unwrap_err().is_not_found());
    }

    #[test]
    fn a_file_system_without_a_device_is_named_by_its_mount() {
        assert_eq!(source(Path::new("/proc/self")).unwrap(), "proc");
    }
}
