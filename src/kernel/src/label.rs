//! One extended attribute on a whole tree: what relabelling for a security module is (xattr(7)).

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

use crate::SysError;

/// The attribute that holds a file's SELinux label.
pub const SELINUX: &CStr = c"security.selinux";
/// A label is shorter by far.
const VALUE_BYTES_MAX: usize = 4096;
/// Directories that are open at once, from the root to the deepest.
const DEPTH_MAX: usize = 256;

/// Sets an attribute on everything from `root` down, symbolic links themselves included and never followed. A root
/// that has the value already is taken for a tree that has it: it gets it last. File systems without such attributes
/// are passed over. Returns whether anything had to be done.
///
/// # Errors
/// The first system call that failed; the root is not marked then, so that the next call does it all again.
pub fn set_on_tree(root: &Path, name: &CStr, value: &[u8]) -> Result<bool, SysError> {
    if has(root, name, value) {
        return Ok(false);
    }
    let metadata = fs::symlink_metadata(root).map_err(|e| SysError::path("stat", root, e))?;
    if metadata.is_dir() {
        below(root, root, name, value, 0)?;
    }
    set(root, root, name, value)?;
    Ok(true)
}

/// The value is right, with or without the NUL that the kernel ends labels with.
fn has(path: &Path, name: &CStr, value: &[u8]) -> bool {
    let mut found = [0; VALUE_BYTES_MAX];
    lgetxattr(path, name, &mut found).is_ok_and(|length| {
        found.get(..length).is_some_and(|found| found.strip_suffix(&[0]).unwrap_or(found) == value)
    })
}

/// Sets it on what lies in `directory`, which `seen` is in words.
fn below(directory: &Path, seen: &Path, name: &CStr, value: &[u8], depth: usize) -> Result<(), SysError> {
    if depth == DEPTH_MAX {
        return Err(SysError::path("relabel below", seen, io::Error::from(Errno::LOOP)));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Beneath the open directory, whatever becomes of its path meanwhile.
    let open = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(open) => open,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if depth > 0 => return Ok(()),
        Err(e) => return Err(SysError::path("open", seen, e)),
    };
    let entries = rustix::fs::Dir::read_from(&open).map_err(|e| SysError::path("readdir", seen, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| SysError::path("readdir", seen, e))?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let file = std::ffi::OsStr::from_bytes(entry.file_name().to_bytes());
        let by_fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        let (path, seen) = (Path::new(&by_fd).join(file), seen.join(file));
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if is_dir {
            below(&path, &seen, name, value, depth + 1)?;
        }
        set(&path, &seen, name, value)?;
    }
    Ok(())
}

fn set(path: &Path, seen: &Path, name: &CStr, value: &[u8]) -> Result<(), SysError> {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        // It has gone meanwhile, or its file system keeps no such attributes.
        Ok(()) | Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(()),
        Err(e) => Err(SysError::path("lsetxattr", seen, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_whole_tree_is_marked_once_and_nothing_beyond_it() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: trusted attributes need root");
            return;
        }
        // SELinux's own is only there with SELinux; root alone may set these, on links as well.
        let name = c"trusted.gantline-test";
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        fs::write(outside.join("file"), "").unwrap();
        symlink(&outside, root.join("out")).unwrap();
        assert!(set_on_tree(&root, name, b"one").unwrap());
        let inside = ["", "a", "a/b", "a/b/file", "out"];
        assert!(inside.iter().all(|path| has(&root.join(path), name, b"one")));
        assert!(!has(&outside, name, b"one") && !has(&outside.join("file"), name, b"one"));
        // A root that has it is believed; any other value is set anew.
        fs::write(root.join("later"), "").unwrap();
        assert!(!set_on_tree(&root, name, b"one").unwrap());
        assert!(!has(&root.join("later"), name, b"one"));
        assert!(set_on_tree(&root, name, b"two").unwrap());
        assert!(has(&root.join("later"), name, b"two") && has(&root.join("a/b/file"), name, b"two"));
        // One file, and a file system without attributes.
        assert!(set_on_tree(&outside.join("file"), name, b"one").unwrap());
        assert!(set_on_tree(Path::new("/proc/self/fdinfo"), name, b"one").unwrap());
        assert!(set_on_tree(&dir.path().join("absent"), name, b"one").unwrap_err().is_not_found());
    }
}
