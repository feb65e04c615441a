//! A shim that nobody will ever find: its service died between starting it and its socket, and the next one has
//! removed the pod's directory meanwhile.
//!
//! Only a shim that never had a connection looks, so that one in use never wakes up for it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel::SysError;

/// How often it is looked whether the socket can still be found.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The socket as it was bound.
#[derive(Debug)]
pub(crate) struct Orphan {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    look_at: Option<Instant>,
}

impl Orphan {
    pub(crate) fn new(path: PathBuf) -> Result<Self, SysError> {
        let file = identity(&path).map_err(|e| SysError::path("stat", &path, e))?;
        Ok(Self { path, file, look_at: Some(Instant::now() + LOOK_AGAIN) })
    }

    /// Somebody has found it: it is in a service's books from now on.
    pub(crate) fn found(&mut self) {
        self.look_at = None;
    }

    pub(crate) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether it is time to look, and nobody can connect any more.
    pub(crate) fn is_lost(&mut self, at: Instant) -> bool {
        if self.look_at.is_none_or(|look_at| at < look_at) {
            return false;
        }
        self.look_at = Some(at + LOOK_AGAIN);
        match identity(&self.path) {
            Ok(file) => file != self.file,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

fn identity(path: &PathBuf) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_is_gone_or_anothers_is_lost_and_only_before_the_first_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.sock");
        assert!(Orphan::new(path.clone()).is_err());
        fs::write(&path, "").unwrap();
        let mut orphan = Orphan::new(path.clone()).unwrap();
        let (soon, later) = (Instant::now(), Instant::now() + 2 * LOOK_AGAIN);
        assert!(!orphan.is_lost(later));
        fs::rename(&path, dir.path().join("kept")).unwrap();
        assert!(!orphan.is_lost(soon) && orphan.is_lost(later + LOOK_AGAIN));
        fs::write(&path, "").unwrap();
        assert!(orphan.is_lost(later + 2 * LOOK_AGAIN));
        orphan.found();
        assert!(orphan.look_at().is_none() && !orphan.is_lost(later + 9 * LOOK_AGAIN));
    }
}
