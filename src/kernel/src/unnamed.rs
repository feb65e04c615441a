//! Files without a name until they are whole (open(2), `O_TMPFILE`): a crash leaves nothing of them.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;

use crate::{SysError, durable};

/// A file that goes away with this, unless it is given its name.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    path: PathBuf,
}

impl Unnamed {
    /// An empty file on the file system where `path` is to be, readable by its owner alone.
    ///
    /// # Errors
    /// The directory is not there, or its file system has no such files.
    pub fn create(path: &Path) -> Result<Self, SysError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(parent);
        let file = file.map_err(|e| SysError::path("create a file in", parent, e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The file, to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives it its name, in place of what bears it, once it is on disk.
    ///
    /// # Errors
    /// The first system call that failed. Nothing bears another name then.
    pub fn name(self) -> Result<(), SysError> {
        let path = &self.path;
        self.file.sync_all().map_err(|e| SysError::path("fsync", path, e))?;
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |to: &Path| linkat(CWD, &own, CWD, to, AtFlags::SYMLINK_FOLLOW);
        match link(path) {
            Ok(()) => return durable::sync_parent(path),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(SysError::path("link", path, e)),
        }
        // It takes the place of another. A crash may have left what was to.
        let mut aside = path.file_name().unwrap_or_default().to_owned();
        aside.push(".new");
        let aside = path.with_file_name(aside);
        let _ = fs::remove_file(&aside);
        link(&aside).map_err(|e| SysError::path("link", &aside, e))?;
        if let Err(e) = fs::rename(&aside, path) {
            let _ = fs::remove_file(&aside);
            return Err(SysError::path("rename", path, e));
        }
        durable::sync_parent(path)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn it_is_there_once_it_is_named_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("whole");
        fs::write(&path, "old").unwrap();
        let mut dropped = Unnamed::create(&path).unwrap();
        dropped.file().write_all(b"part").unwrap();
        drop(dropped);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        // As a crash in the middle of the naming leaves it.
        fs::write(dir.path().join("whole.new"), "left").unwrap();
        let mut named = Unnamed::create(&path).unwrap();
        named.file().write_all(b"new").unwrap();
        named.name().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let first = dir.path().join("first");
        Unnamed::create(&first).unwrap().name().unwrap();
        assert!(first.exists(), "where there was none");
        let error = Unnamed::create(Path::new("/proc/none/x")).unwrap_err();
        assert_eq!(error.to_string(), "create a file in /proc/none");
    }
}
