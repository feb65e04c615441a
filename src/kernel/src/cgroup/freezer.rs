//! Holding every process of a group still and letting it go on: cgroup v2's `cgroup.freeze` (kernel,
//! Documentation/admin-guide/cgroup-v2.rst), v1's freezer (cgroup-v1/freezer-subsystem.rst).

use std::fs;
use std::io;
use std::path::PathBuf;

use super::write;
use crate::SysError;

/// The freezer of one group.
#[derive(Clone, Debug)]
pub struct Freezer {
    directory: PathBuf,
    v2: bool,
}

impl Freezer {
    /// The freezer of the group whose directory in the freezer's hierarchy, or in the unified one, this is.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let v2 = directory.join("cgroup.freeze").exists();
        Self { directory, v2 }
    }

    /// Begins to hold every process of the group and of those below it. [`Freezer::is_still`] says when all are.
    ///
    /// # Errors
    /// The group is not there, or its hierarchy freezes nothing.
    pub fn hold(&self) -> Result<(), SysError> {
        self.set("1", "FROZEN")
    }

    /// Lets them go on. A group that is gone is success.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn let_go(&self) -> Result<(), SysError> {
        match self.set("0", "THAWED") {
            Err(error) if error.is_gone() || error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Whether every process that is to be held is still. v1 does not hold those that were forked while it froze: it is
    /// told again.
    ///
    /// # Errors
    /// The group cannot be read.
    pub fn is_still(&self) -> Result<bool, SysError> {
        if self.v2 {
            return Ok(self.read("cgroup.events")?.lines().any(|line| line == "frozen 1"));
        }
        let still = self.read("freezer.state")?.trim() == "FROZEN";
        if !still {
            self.hold()?;
        }
        Ok(still)
    }

    fn set(&self, v2: &str, v1: &str) -> Result<(), SysError> {
        match self.v2 {
            true => write(&self.directory.join("cgroup.freeze"), v2),
            false => write(&self.directory.join("freezer.state"), v1),
        }
    }

    fn read(&self, name: &str) -> Result<String, SysError> {
        let file = self.directory.join(name);
        fs::read_to_string(&file).map_err(|e: io::Error| SysError::path("read", &file, e))
    }
}
