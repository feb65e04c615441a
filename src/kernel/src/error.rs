//! The one error of this crate: a system call that failed, and on what.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A system call that failed on an object.
#[derive(Debug, thiserror::Error)]
#[error("{call} {object}")]
pub struct SysError {
    /// The call, or the operation in the kernel's words: `mount overlay`, `openat2`.
    pub call: &'static str,
    /// What it was called on: a path, a pid, a socket.
    pub object: Object,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// What a system call was called on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A path.
    Path(PathBuf),
    /// A process id.
    Pid(u32),
    /// Anything else, in words.
    Named(String),
    /// Nothing that has a name.
    None,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "pid {pid}"),
            Self::Named(name) => f.write_str(name),
            Self::None => Ok(()),
        }
    }
}

impl SysError {
    /// A call that failed on a path.
    pub fn path(call: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self { call, object: Object::Path(path.as_ref().to_owned()), source: source.into() }
    }

    /// A call that failed on a process.
    pub fn pid(call: &'static str, pid: u32, source: impl Into<io::Error>) -> Self {
        Self { call, object: Object::Pid(pid), source: source.into() }
    }

    /// A call that failed on something that words describe best.
    pub fn named(call: &'static str, name: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { call, object: Object::Named(name.into()), source: source.into() }
    }

    /// A call that failed on nothing in particular.
    pub fn bare(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self { call, object: Object::None, source: source.into() }
    }

    /// Whether the kernel said that the object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the object does not exist, or ceased to while the kernel looked: files of a cgroup that somebody
    /// removes answer ENODEV to those who have them open.
    pub fn is_gone(&self) -> bool {
        self.is_not_found() || self.source.raw_os_error() == Some(libc::ENODEV)
    }
}
