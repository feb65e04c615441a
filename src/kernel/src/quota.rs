//! Project quotas as a way to count: what a directory tree takes, kept by the file system itself (quotactl(2),
//! FS_IOC_FSSETXATTR). ext4 and XFS have them where they are mounted with `prjquota`.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::SysError;

/// `struct fsxattr` (include/uapi/linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `_IOR('X', 31, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;
/// What is made in the directory is of its project.
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
/// The kind of quota that counts projects (include/uapi/linux/quota.h).
const PRJQUOTA: libc::c_int = 2;
const _: () = assert!(mem::size_of::<Attributes>() == 28);

/// What a project takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProjectUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Whether the file system of a directory counts what its projects take.
pub fn counts_projects(directory: &Path) -> bool {
    usage(directory, 0).is_ok()
}

/// The project of a directory; 0 is none.
///
/// # Errors
/// The directory could not be opened, or its file system has no such attributes.
pub fn project(directory: &Path) -> Result<u32, SysError> {
    attributes(&open(directory)?, directory).map(|attributes| attributes.project)
}

/// Makes an empty directory, and whatever is made in it from now on, part of a project.
///
/// # Errors
/// The directory could not be opened, or its file system has no projects.
pub fn set_project(directory: &Path, project: u32) -> Result<(), SysError> {
    let file = open(directory)?;
    let mut attributes = attributes(&file, directory)?;
    attributes.project = project;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the descriptor is open, and the argument points to a struct of the size that the number of the call says.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) };
    if done == 0 {
        Ok(())
    } else {
        Err(SysError::path("set project of", directory, io::Error::last_os_error()))
    }
}

/// What a project takes on the file system of a directory.
///
/// # Errors
/// The file system does not count projects, or (XFS) never saw this one.
pub fn usage(directory: &Path, project: u32) -> Result<ProjectUsage, SysError> {
    let file = open(directory)?;
    let command = libc::QCMD(libc::Q_GETQUOTA, PRJQUOTA);
    // SAFETY: a `dqblk` is numbers alone, for which all zeroes is a value.
    let mut quota: libc::dqblk = unsafe { mem::zeroed() };
    // SAFETY: quotactl_fd(2) takes a descriptor, a command, an id and the address of a `dqblk`, which outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, project, &raw mut quota) };
    if done != 0 {
        return Err(SysError::path("quotactl_fd", directory, io::Error::last_os_error()));
    }
    Ok(ProjectUsage { bytes: quota.dqb_curspace, inodes: quota.dqb_curinodes })
}

fn attributes(file: &File, directory: &Path) -> Result<Attributes, SysError> {
    let mut attributes = Attributes::default();
    // SAFETY: as above; the kernel writes one struct to the address.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) };
    if done == 0 {
        Ok(attributes)
    } else {
        Err(SysError::path("get project of", directory, io::Error::last_os_error()))
    }
}

fn open(directory: &Path) -> Result<File, SysError> {
    File::open(directory).map_err(|e| SysError::path("open", directory, e))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file system of its own that counts projects, unmounted on drop.
    struct Disk(tempfile::TempDir);

    impl Disk {
        /// `None` where the kernel has no quotas, or there is no root.
        fn new() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let script = "truncate -s 64M disk && mkfs.ext4 -q -O quota,project -E quotatype=prjquota disk \
                          && mkdir mounted && mount -o loop,prjquota disk mounted";
            let mut command = crate::process::command("/bin/sh");
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir(dir.path()).args(["-c", script]);
            if command.output().is_ok_and(|output| output.status.success()) {
                return Some(Self(dir));
            }
            println!("skipped: this kernel mounts no file system with project quotas");
            None
        }

        fn path(&self) -> std::path::PathBuf {
            self.0.path().join("mounted")
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn a_file_system_counts_what_a_project_takes() {
        let Some(disk) = Disk::new() else { return };
        assert!(counts_projects(&disk.path()));
        let layer = disk.path().join("layer");
        fs::create_dir(&layer).unwrap();
        assert_eq!(project(&layer).unwrap(), 0);
        set_project(&layer, 0x4000_0007).unwrap();
        assert_eq!(project(&layer).unwrap(), 0x4000_0007);
        fs::create_dir_all(layer.join("upper/deep")).unwrap();
        fs::write(layer.join("upper/deep/data"), vec![1; 1_000_000]).unwrap();
        rustix::fs::sync();
        let used = usage(&layer, 0x4000_0007).unwrap();
        assert!(used.bytes >= 1_000_000 && used.inodes == 4, "{used:?}");
        fs::remove_dir_all(layer.join("upper")).unwrap();
        assert_eq!(usage(&layer, 0x4000_0007).unwrap().inodes, 1);
    }

    #[test]
    fn what_counts_no_projects_says_so() {
        assert!(!counts_projects(Path::new("/proc")));
        assert!(project(Path::new("/proc")).is_err());
        assert!(set_project(Path::new("/gantline-no-such"), 1).unwrap_err().is_not_found());
    }
}
