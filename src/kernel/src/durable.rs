//! Files that are whole or absent after a crash: written aside, synced, renamed, and the directory synced.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::SysError;

/// Replaces `path` with `contents`, durably: after a crash it holds the old bytes or the new, never a part.
///
/// # Errors
/// The first system call that failed; the file aside is removed then.
pub fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), SysError> {
    let aside = aside(path);
    let written = write_aside(&aside, contents, mode)
        .and_then(|()| fs::rename(&aside, path).map_err(|e| SysError::path("rename", path, e)))
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Replaces `path` with `contents` in one rename, without waiting for the disk: for what a reboot discards.
///
/// # Errors
/// The first system call that failed; the file aside is removed then.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> Result<(), SysError> {
    let aside = aside(path);
    let written = create(&aside, mode)
        .and_then(|mut file| file.write_all(contents).map_err(|e| SysError::path("write", &aside, e)))
        .and_then(|()| fs::rename(&aside, path).map_err(|e| SysError::path("rename", path, e)));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Removes a file and makes the removal durable. An absent file is success.
///
/// # Errors
/// The system call that failed.
pub fn remove(path: &Path) -> Result<(), SysError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(SysError::path("unlink", path, e)),
    }
}

/// Waits until everything written to the file system that holds `path` is on disk (syncfs(2)).
///
/// # Errors
/// The system call that failed.
pub fn sync_file_system(path: &Path) -> Result<(), SysError> {
    let file = File::open(path).map_err(|e| SysError::path("open", path, e))?;
    rustix::fs::syncfs(&file).map_err(|e| SysError::path("syncfs", path, e))
}

/// Makes the directory entry of `path` durable.
///
/// # Errors
/// The system call that failed.
pub fn sync_parent(path: &Path) -> Result<(), SysError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| SysError::path("fsync", parent, e))
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn create(path: &Path, mode: u32) -> Result<File, SysError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .map_err(|e| SysError::path("create", path, e))
}

fn write_aside(aside: &Path, contents: &[u8], mode: u32) -> Result<(), SysError> {
    let mut file = create(aside, mode)?;
    file.write_all(contents).map_err(|e| SysError::path("write", aside, e))?;
    file.sync_all().map_err(|e| SysError::path("fsync", aside, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_lies_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn an_error_names_the_call_and_the_path() {
        let error = write(Path::new("/proc/nope/record"), b"", 0o600).unwrap_err();
        assert_eq!(error.to_string(), "create /proc/nope/record.new");
    }
}
