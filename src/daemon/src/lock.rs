//! One service for one root directory: an flock(2) that the kernel gives back however the holder ends, with
//! the holder's pid in the file for whoever is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use kernel::SysError;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::moment;

/// Why the root directory could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("{root} is held by another gantline, pid {pid}; stop it, or choose another --root and --state")]
    Held {
        /// The root directory.
        root: PathBuf,
        /// The holder, or "unknown" in the moment before it has written its pid.
        pid: String,
    },
    /// The file system refused.
    #[error("lock the root directory")]
    System(#[from] SysError),
}

/// The root directory is ours until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct RootLock {
    // flock(2): held by the open file description, given back when it is closed.
    _file: File,
}

impl RootLock {
    /// Takes `<root>/lock`, making the directory where it is absent. Does not wait for a holder that lives; for the
    /// children of one that was killed, a [moment].
    pub(crate) fn take(root: &Path) -> Result<Self, LockError> {
        fs::create_dir_all(root).map_err(|e| SysError::path("create directory", root, e))?;
        let path = root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| SysError::path("open", &path, e))?;
        let lock = || flock(&file, FlockOperation::NonBlockingLockExclusive);
        match moment::outlast(lock, |errno| *errno == Errno::WOULDBLOCK && !lives(&holder(&file))) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(LockError::Held { root: root.to_owned(), pid: holder(&file) });
            }
            Err(errno) => return Err(SysError::path("flock", &path, errno).into()),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| SysError::path("write", &path, e))?;
        Ok(Self { _file: file })
    }
}

/// The pid in the file, or "unknown".
fn holder(mut file: &File) -> String {
    let mut pid = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut pid));
    if pid.trim().is_empty() { "unknown".into() } else { pid.trim().into() }
}

/// Whether a process with this pid is there; one that has not written its pid yet is.
fn lives(pid: &str) -> bool {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Takes it, and outlasts what another test forks: that may hold a copy of the file until it executes.
    fn take(root: &Path) -> RootLock {
        let began = Instant::now();
        loop {
            match RootLock::take(root) {
                Ok(lock) => return lock,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_second_holder_is_refused_with_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        let first = RootLock::take(&root).unwrap();
        let refused = RootLock::take(&root).unwrap_err().to_string();
        let expected = format!("{} is held by another gantline, pid {};", root.display(), std::process::id());
        assert!(refused.starts_with(&expected), "{refused}");
        drop(first);
        take(&root);
    }

    #[test]
    fn the_children_of_a_killed_holder_are_outlasted() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = kernel::process::command("/bin/true").spawn().unwrap();
        ended.wait().unwrap();
        // What a child between clone(2) and execve(2) holds.
        let copy = File::create(dir.path().join("lock")).unwrap();
        writeln!(&copy, "{}", ended.id()).unwrap();
        flock(&copy, FlockOperation::NonBlockingLockExclusive).unwrap();
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(copy);
        });
        RootLock::take(dir.path()).unwrap();
        child.join().unwrap();

        // A holder that lives is told of at once.
        let _held = take(dir.path());
        RootLock::take(dir.path()).unwrap_err();
    }

    #[test]
    fn a_longer_pid_of_a_dead_holder_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("lock"), "99999999999999\nrubbish\n").unwrap();
        let _held = RootLock::take(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
