//! The sockets that the service listens on. Unix sockets are there whole or not at all: bound aside, given their mode and
//! group, then renamed. Each is had a [moment] after another service that had it was killed.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use kernel::SysError;

use crate::moment;

/// Why a socket could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Somebody answers there; taking the name away would cut off their clients.
    #[error("{0} is served by another process; stop it, or choose another socket")]
    Answered(PathBuf),
    /// Something that is no socket has the name.
    #[error("{0} exists and is not a socket; move it away, or choose another socket")]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("make the socket")]
    System(#[from] SysError),
}

/// Listens at `path`, replacing the socket that a dead process left there. The directory is made if it is
/// absent. A crash here leaves at most `<path>.new`, which the next call replaces.
pub(crate) fn bind(path: &Path, mode: u32, gid: Option<u32>) -> Result<UnixListener, BindError> {
    moment::outlast(|| free(path), |error| matches!(error, BindError::Answered(_)))?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|e| SysError::path("create directory", parent, e))?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match std::fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(SysError::path("unlink", &aside, e).into());
        }
        _ => {}
    }
    let listener = UnixListener::bind(&aside).map_err(|e| SysError::path("bind", &aside, e))?;
    let listen = || -> Result<(), SysError> {
        if let Some(gid) = gid {
            std::os::unix::fs::chown(&aside, None, Some(gid))
                .map_err(|e| SysError::path("chown", &aside, e))?;
        }
        // Until the rename nobody knows the name, so that nobody connects under the umask's mode.
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(mode))
            .map_err(|e| SysError::path("chmod", &aside, e))?;
        listener.set_nonblocking(true).map_err(|e| SysError::path("set non-blocking", &aside, e))?;
        std::fs::rename(&aside, path).map_err(|e| SysError::path("rename", path, e))
    };
    listen().inspect_err(|_| drop(std::fs::remove_file(&aside)))?;
    Ok(listener)
}

/// Whether the name can be taken: nobody listens there, and nothing else has it.
fn free(path: &Path) -> Result<(), BindError> {
    match path.symlink_metadata() {
        Ok(data) if !data.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(BindError::Answered(path.to_owned())),
        _ => Ok(()),
    }
}

/// Listens at a TCP address, without blocking.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || TcpListener::bind(address);
    let listener = moment::outlast(bind, |error| error.kind() == io::ErrorKind::AddrInUse)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::Ipv4Addr;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_has_its_mode_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/a.sock");
        drop(bind(&path, 0o600, None).unwrap());
        // What another test forks may hold a copy of it until it executes.
        while UnixStream::connect(&path).is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
        let listener = bind(&path, 0o660, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        assert!(matches!(bind(&path, 0o660, None), Err(BindError::Answered(_))));
        drop(listener);
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 1);
    }

    #[test]
    fn who_listened_a_moment_ago_is_outlasted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let unix = bind(&path, 0o660, None).unwrap();
        let tcp = bind_tcp((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = tcp.local_addr().unwrap();
        let child = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop((unix, tcp));
        });
        bind_tcp(address).unwrap();
        bind(&path, 0o660, None).unwrap();
        child.join().unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o660, None), Err(BindError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
