//! Copies of whole trees, as they are: owners, modes, times, extended attributes, links, device nodes.
//!
//! Paths are walked by name and no symbolic link is followed. Nobody else may change either tree meanwhile.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::{SysError, xattr};

/// Attributes that belong to a place rather than to what lies there.
const NOT_COPIED: [&str; 2] = ["security.selinux", "trusted.overlay."];

/// Copies the directory `from` with all that is in it to `to`, which must not exist.
///
/// # Errors
/// The system call that failed; what was copied until then stays.
pub fn tree(from: &Path, to: &Path) -> Result<(), SysError> {
    let metadata = fs::symlink_metadata(from).map_err(|e| SysError::path("lstat", from, e))?;
    if !metadata.is_dir() {
        return Err(SysError::path("copy", from, io::Error::from(io::ErrorKind::NotADirectory)));
    }
    Copy::default().directory(from, to, &metadata)
}

#[derive(Default)]
struct Copy {
    /// Where files of several names went first, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> Result<(), SysError> {
        fs::create_dir(to).map_err(|e| SysError::path("mkdir", to, e))?;
        for entry in fs::read_dir(from).map_err(|e| SysError::path("readdir", from, e))? {
            let name = entry.map_err(|e| SysError::path("readdir", from, e))?.file_name();
            self.entry(&from.join(&name), &to.join(&name))?;
        }
        dress(from, to, metadata)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<(), SysError> {
        let metadata = fs::symlink_metadata(from).map_err(|e| SysError::path("lstat", from, e))?;
        if metadata.is_dir() {
            return self.directory(from, to, &metadata);
        }
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&inode) {
                return fs::hard_link(first, to).map_err(|e| SysError::path("link", to, e));
            }
            self.linked.insert(inode, to.to_owned());
        }
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(from).map_err(|e| SysError::path("readlink", from, e))?;
            symlink(target, to).map_err(|e| SysError::path("symlink", to, e))?;
        } else if kind.is_file() {
            contents(from, to)?;
        } else {
            let kind = match () {
                () if kind.is_fifo() => FileType::Fifo,
                () if kind.is_char_device() => FileType::CharacterDevice,
                () if kind.is_block_device() => FileType::BlockDevice,
                () => FileType::Socket,
            };
            rustix::fs::mknodat(CWD, to, kind, Mode::empty(), metadata.rdev())
                .map_err(|e| SysError::path("mknod", to, e))?;
        }
        dress(from, to, &metadata)
    }
}

fn contents(from: &Path, to: &Path) -> Result<(), SysError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW);
    let mut source = options.open(from).map_err(|e| SysError::path("open", from, e))?;
    let mut copy = File::create_new(to).map_err(|e| SysError::path("create", to, e))?;
    io::copy(&mut source, &mut copy).map(drop).map_err(|e| SysError::path("copy", to, e))
}

/// Gives `to` the owner, attributes, mode and times of `from`, in this order: each may change those before.
fn dress(from: &Path, to: &Path, metadata: &Metadata) -> Result<(), SysError> {
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(|e| SysError::path("lchown", to, e))?;
    if !metadata.is_symlink() {
        attributes(from, to)?;
        fs::set_permissions(to, metadata.permissions()).map_err(|e| SysError::path("chmod", to, e))?;
    }
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(metadata.atime(), metadata.atime_nsec()),
        last_modification: time(metadata.mtime(), metadata.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| SysError::path("utimensat", to, e))
}

fn attributes(from: &Path, to: &Path) -> Result<(), SysError> {
    let is_copied = |name: &OsStr| !NOT_COPIED.iter().any(|not| name.as_bytes().starts_with(not.as_bytes()));
    for (name, value) in xattr::read(from)?.iter().filter(|(name, _)| is_copied(name)) {
        match rustix::fs::lsetxattr(to, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(SysError::path("lsetxattr", to, e)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_copy_is_as_the_tree_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub/empty")).unwrap();
        fs::write(from.join("sub/file"), vec![7; 300_000]).unwrap();
        fs::hard_link(from.join("sub/file"), from.join("twin")).unwrap();
        symlink("/nowhere/else", from.join("link")).unwrap();
        rustix::fs::mknodat(CWD, from.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o2751)).unwrap();
        fs::set_permissions(from.join("twin"), fs::Permissions::from_mode(0o4755)).unwrap();
        let past = Timespec { tv_sec: 1_000_000, tv_nsec: 5 };
        let times = Timestamps { last_access: past, last_modification: past };
        rustix::fs::utimensat(CWD, from.join("sub"), &times, AtFlags::empty()).unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::lchown(from.join("link"), Some(12), Some(34)).unwrap();
            std::os::unix::fs::chown(&from, Some(56), Some(78)).unwrap();
        }
        let kept = rustix::fs::setxattr(from.join("twin"), "user.note", b"x", XattrFlags::empty()).is_ok();

        tree(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("sub/file")).unwrap(), vec![7; 300_000]);
        let of = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
        assert_eq!(of("twin").ino(), of("sub/file").ino(), "hard links stay links");
        assert_eq!(
            (of("sub").mode() & 0o7777, of("sub").mtime(), of("sub").mtime_nsec()),
            (0o2751, 1_000_000, 5)
        );
        assert_eq!(of("twin").mode() & 0o7777, 0o4755);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/nowhere/else"));
        assert!(of("pipe").file_type().is_fifo() && of("sub/empty").is_dir());
        if root {
            assert_eq!((of("link").uid(), of("link").gid()), (12, 34));
            assert_eq!((of("").uid(), of("").gid()), (56, 78));
        }
        if kept {
            let mut value = [0; 8];
            let length = rustix::fs::getxattr(to.join("twin"), "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"x");
        }
        assert!(tree(&from, &to).is_err(), "nothing is copied over what is there");
        assert!(tree(&from.join("twin"), &dir.path().join("other")).is_err(), "only directories");
    }
}
