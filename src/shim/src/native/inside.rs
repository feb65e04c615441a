//! What is looked up inside the container, by its own files and with its own eyes: all of it may be hostile.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use kernel::SysError;
use model::limits::ACCOUNT_FILE_BYTES_MAX;
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

/// The home directory of a user by /etc/passwd as it is now; `/` where that does not say.
pub(super) fn home(uid: u32) -> String {
    passwd().ok().and_then(|text| home_in(&text, uid)).unwrap_or_else(|| "/".to_owned())
}

fn passwd() -> io::Result<String> {
    // A FIFO of that name must not hold us, a device do nothing, and a magic link lead nowhere.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(CWD, "/etc/passwd", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    File::from(file).take(ACCOUNT_FILE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// passwd(5): `name:password:uid:gid:comment:home:shell`.
fn home_in(text: &str, uid: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let is_user = fields.next()?.trim().parse() == Ok(uid);
        let home = fields.nth(2)?;
        (is_user && !home.is_empty() && !home.contains('\0')).then(|| home.to_owned())
    })
}

/// The program that a command names: as it is with a slash in it, otherwise the first executable file of that name in
/// the directories of PATH.
pub(super) fn program(command: &CString, path: &str) -> Result<CString, String> {
    let name = command.to_string_lossy();
    if command.as_bytes().contains(&b'/') {
        return Ok(command.clone());
    }
    let candidates = path.split(':').filter(|directory| directory.starts_with('/'));
    candidates
        .map(|directory| Path::new(directory).join(&*name))
        .find(|candidate| is_executable(candidate))
        .and_then(|found| CString::new(found.into_os_string().into_encoded_bytes()).ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        && rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// That the working directory is one that can be named from the container's root: a descriptor that leads out of it
/// would make `..` a way to the host (CVE-2024-21626).
pub(super) fn check_cwd() -> Result<(), SysError> {
    let failed = |why: io::Error| SysError::named("getcwd", "the working directory", why);
    let cwd = rustix::process::getcwd(Vec::new()).map_err(|e| failed(e.into()))?;
    // The kernel puts "(unreachable)" before what is elsewhere.
    if cwd.as_bytes().first() == Some(&b'/') {
        return Ok(());
    }
    let why = format!("{} is outside of the container", cwd.to_string_lossy());
    Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_found_by_number() {
        let text = "root:x:0:0:root:/root:/bin/sh\n\nbroken\n# x\na:x:7:7::/a:\nb:x:7:7::/b:\nc:x:8:8:::\n";
        for (uid, expected) in [(0, Some("/root")), (7, Some("/a")), (8, None), (9, None)] {
            assert_eq!(home_in(text, uid).as_deref(), expected, "{uid}");
        }
    }

    #[test]
    fn programs_are_found_as_a_runtime_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("directory")).unwrap();
        std::fs::write(path("plain"), "").unwrap();
        let search = format!(":relative:{}:/bin", dir.path().display());
        let find = |name: &str| program(&CString::new(name).unwrap(), &search);
        assert_eq!(find("sh").unwrap(), c"/bin/sh".to_owned());
        assert_eq!(find("./anything").unwrap(), c"./anything".to_owned());
        for absent in ["directory", "plain", "no-such-program"] {
            let expected = format!("exec: {absent:?}: executable file not found in $PATH");
            assert_eq!(find(absent).unwrap_err(), expected);
        }
        assert!(program(&c"sh".to_owned(), "").is_err());
    }

    #[test]
    fn a_working_directory_that_has_a_name_is_inside() {
        check_cwd().unwrap();
    }
}
