//! Programs that run from memory that nobody can change (memfd_create(2), `F_SEAL_WRITE`).
//!
//! A process that enters a container can be reached there through `/proc/<pid>/exe`, and so can the file that it runs
//! from (CVE-2019-5736). What is reached of a sealed copy is worth nothing: it cannot be written, and it is no file of
//! the host's. One copy serves any number of processes, which share its pages as they would the file's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::SysError;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed copy of a program, under the program's own name. It can be executed as `/proc/self/fd/<n>`.
///
/// # Errors
/// The file could not be read, or the kernel gives no memory that may be executed (`vm.memfd_noexec`).
pub fn copy(program: &Path) -> Result<OwnedFd, SysError> {
    let mut source = File::open(program).map_err(|e| SysError::path("open", program, e))?;
    let name = program.file_name().unwrap_or_default();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before 6.3 every memfd could be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    };
    let mut copy = File::from(memory.map_err(|e| SysError::path("memfd_create for", program, e))?);
    io::copy(&mut source, &mut copy).map_err(|e| SysError::path("copy", program, e))?;
    rustix::fs::fcntl_add_seals(&copy, SEALS).map_err(|e| SysError::path("seal a copy of", program, e))?;
    Ok(copy.into())
}

/// Whether this process's own program can no longer be written by anybody.
pub fn is_own_program() -> bool {
    let seals = File::open("/proc/self/exe").ok().and_then(|exe| rustix::fs::fcntl_get_seals(exe).ok());
    seals.is_some_and(|seals| seals.contains(SEALS))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_copy_runs_and_cannot_be_written() {
        let copy = copy(Path::new("/bin/echo")).unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let output = crate::process::command(&path).arg("it runs").output().unwrap();
        assert_eq!(output.stdout, b"it runs\n");
        let mut file = File::from(copy);
        file.rewind().unwrap();
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(rustix::fs::ftruncate(&file, 0).is_err());
        let again = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!((&again).write(b"x").is_err(), "opened anew it is sealed still");
    }

    #[test]
    fn a_program_from_a_file_is_not_sealed() {
        assert!(!is_own_program());
        assert_eq!(copy(Path::new("/nonexistent")).unwrap_err().to_string(), "open /nonexistent");
    }
}
