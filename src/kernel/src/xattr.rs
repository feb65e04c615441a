//! Extended attributes of files (xattr(7)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::io::Errno;

use crate::SysError;

/// The longest list of names, and the longest value, that Linux has.
const BYTES_MAX: usize = 64 * 1024;

/// Every attribute that a path itself has, a symbolic link not followed. None where the file system has none.
///
/// # Errors
/// The system call that failed.
pub fn read(path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, SysError> {
    let mut buffer = vec![0; BYTES_MAX];
    let length = match rustix::fs::llistxattr(path, &mut buffer) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(SysError::path("llistxattr", path, e)),
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let names: Vec<OsString> = names.map(|name| OsString::from_vec(name.to_vec())).collect();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let length = rustix::fs::lgetxattr(path, &name, &mut buffer)
            .map_err(|e| SysError::path("lgetxattr", path, e))?;
        found.push((name, buffer[..length].to_vec()));
    }
    Ok(found)
}
