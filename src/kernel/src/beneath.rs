//! Making files beneath a directory whatever their paths say: every look-up is openat2(2) with
//! RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS, every last component is a plain name that is never followed.
//!
//! For unpacking archives that nobody vouches for. A path with `..`, an absolute symlink on the way or one
//! that leads out is an error, and nothing outside the directory has been touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::SysError;

/// Removes a directory and everything in it, following no symlink. An absent one is success.
///
/// # Errors
/// The system call that failed.
pub fn remove_tree(path: &Path) -> Result<(), SysError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(SysError::path("remove tree", path, e)),
    }
}
