//! Files as a container would see them: paths whose every symbolic link, absolute ones too, stays in a root
//! directory (openat2(2), RESOLVE_IN_ROOT). For extraction, which follows no such links, see [`crate::beneath`].

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::SysError;

/// Reads a regular file of at most `bytes_max` bytes; `None` when there is none at that path.
///
/// Nothing but a regular file is opened for reading: an image may hold a FIFO or a device of that name.
///
/// # Errors
/// The system call that failed, or what is there is not a regular file, or a longer one.
pub fn read(root: &Path, path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, SysError> {
    let at = || root.join(path.strip_prefix("/").unwrap_or(path));
    let refused = |why: &str| SysError::path("read", at(), io::Error::new(io::ErrorKind::InvalidData, why));
    let found = match open_path(root, path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(SysError::path("openat2", at(), e)),
    };
    let stat = rustix::fs::fstat(&found).map_err(|e| SysError::path("fstat", at(), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refused("not a regular file"));
    }
    let handle = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::open(handle).map_err(|e| SysError::path("open", at(), e))?;
    let mut bytes = Vec::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|e| SysError::path("read", at(), e))?;
    if bytes.len() > bytes_max {
        return Err(refused("longer than it may be"));
    }
    Ok(Some(bytes))
}

/// Where in the file system the directory `path` of `root` is: every symbolic link resolved, none out of the root.
///
/// What is found stays what it is only while nobody changes the tree: ask it of trees that nobody writes to.
///
/// # Errors
/// The system call that failed: `NotFound`, or `NotADirectory` where it is something else.
pub fn directory(root: &Path, path: &Path) -> Result<PathBuf, SysError> {
    let at = || root.join(path.strip_prefix("/").unwrap_or(path));
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let found = open_path(root, path).map_err(|e| SysError::path("openat2", at(), e))?;
    let stat = rustix::fs::fstat(&found).map_err(|e| SysError::path("fstat", at(), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(SysError::path("openat2", at(), Errno::NOTDIR));
    }
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(|e| SysError::path("readlink", at(), e))
}

/// The id of the mount that holds `path`, where no part of the path is a symbolic link; `None` where one is, where
/// there is nothing, and on a kernel before 5.8.
///
/// # Errors
/// The system call that failed.
pub fn mount_of_plain(path: &Path) -> Result<Option<u64>, SysError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = match rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(found) => found,
        Err(Errno::LOOP | Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(SysError::path("openat2", path, e)),
    };
    let seen = rustix::fs::statx(&found, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .map_err(|e| SysError::path("statx", path, e))?;
    let known = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(known.then_some(seen.stx_mnt_id))
}

fn open_path(root: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let directory =
        rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&directory, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_in_the_root_and_only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("etc/real"), "inside").unwrap();
        symlink("/etc/real", root.join("etc/absolute")).unwrap();
        symlink("../../../etc/real", root.join("etc/climbing")).unwrap();
        symlink("../../secret", root.join("etc/escape")).unwrap();
        symlink("/proc/self/exe", root.join("etc/magic")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
        rustix::fs::mknodat(CWD, root.join("etc/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();

        let check = |path: &str| {
            read(&root, Path::new(path), 100).map(|found| found.map(|b| String::from_utf8(b).unwrap()))
        };
        for path in ["/etc/real", "etc/real", "/etc/absolute", "/etc/climbing"] {
            assert_eq!(check(path).unwrap().as_deref(), Some("inside"), "{path}");
        }
        for path in ["/etc/escape", "/etc/magic", "/etc/absent", "/etc/real/below"] {
            assert_eq!(check(path).unwrap(), None, "{path}");
        }
        for path in ["/etc/fifo", "/etc/loop", "/etc"] {
            assert!(check(path).is_err(), "{path}");
        }
        assert!(read(&root, Path::new("/etc/real"), 5).is_err(), "too long");
    }

    #[test]
    fn directories_are_found_where_their_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("root");
        std::fs::create_dir_all(root.join("data/models")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        symlink("/data", root.join("absolute")).unwrap();
        symlink("../../outside", root.join("escape")).unwrap();
        let check = |path: &str| directory(&root, Path::new(path)).map_err(|e| e.source.kind());
        for (path, expect) in [
            ("", Ok(root.clone())),
            ("/", Ok(root.clone())),
            ("data/models", Ok(root.join("data/models"))),
            ("absolute/models", Ok(root.join("data/models"))),
            ("../../data", Ok(root.join("data"))),
            ("absent", Err(io::ErrorKind::NotFound)),
            ("escape", Err(io::ErrorKind::NotFound)),
            ("file", Err(io::ErrorKind::NotADirectory)),
            ("file/below", Err(io::ErrorKind::NotADirectory)),
        ] {
            assert_eq!(check(path), expect, "{path:?}");
        }
    }
}
