//! Port-forward's dial: a connection to a port of a pod's own loopback.
//!
//! A socket belongs to the network namespace it was made in, whoever uses it. So only its making needs a thread
//! inside; connecting and everything after happen in the caller's own loop.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel::SysError;
use model::{Classify, ErrorKind};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::time::timeout;

/// A port that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The pod's network namespace could not be entered.
    #[error("make a socket in the pod's network namespace")]
    Enter(#[source] SysError),
    /// Nothing listens, on either family.
    #[error("connect to port {port} at 127.0.0.1 ({v4}) and at ::1")]
    Refused {
        /// The port.
        port: u16,
        /// What IPv4 said.
        v4: io::Error,
        /// What IPv6 said.
        #[source]
        v6: io::Error,
    },
    /// Nobody answered in time.
    #[error("connect to port {port}: no answer within {} s", after.as_secs_f32())]
    Deadline {
        /// The port.
        port: u16,
        /// The time it had.
        after: Duration,
    },
    /// The service is ending.
    #[error("the service is ending")]
    Ending,
}

impl Classify for DialError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Enter(e) if e.is_not_found() => ErrorKind::WrongState,
            Self::Enter(_) => ErrorKind::Internal,
            Self::Refused { .. } => ErrorKind::NotReady,
            Self::Deadline { .. } => ErrorKind::Deadline,
            Self::Ending => ErrorKind::NotReady,
        }
    }
}

/// Connects to `port` of 127.0.0.1, then of ::1, in the network namespace pinned at `netns` (`None`: the
/// host's). The stream is non-blocking. The deadline covers both attempts.
///
/// # Errors
/// [`DialError`].
pub async fn dial(netns: Option<&Path>, port: u16, deadline: Duration) -> Result<TcpStream, DialError> {
    let done = timeout(deadline, either(netns, port)).await;
    done.unwrap_or(Err(DialError::Deadline { port, after: deadline }))
}

async fn either(netns: Option<&Path>, port: u16) -> Result<TcpStream, DialError> {
    let v4 = match connect(netns, (Ipv4Addr::LOCALHOST, port).into()).await? {
        Ok(stream) => return Ok(stream),
        Err(e) => e,
    };
    let stream = connect(netns, (Ipv6Addr::LOCALHOST, port).into()).await?;
    stream.map_err(|v6| DialError::Refused { port, v4, v6 })
}

/// The outer error: another address would fail too.
async fn connect(netns: Option<&Path>, address: SocketAddr) -> Result<io::Result<TcpStream>, DialError> {
    let netns = netns.map(Path::to_owned);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let made = crate::journal::blocking(move || make_socket(netns, family)).await;
    let socket = match made.map_err(|_| DialError::Ending)?.map_err(DialError::Enter)? {
        Ok(socket) => socket,
        Err(e) => return Ok(Err(e)),
    };
    let socket = tokio::net::TcpSocket::from_std_stream(TcpStream::from(socket));
    Ok(socket.connect(address).await.and_then(tokio::net::TcpStream::into_std))
}

/// The inner error: the kernel has no such family.
fn make_socket(netns: Option<PathBuf>, family: AddressFamily) -> Result<io::Result<OwnedFd>, SysError> {
    let make = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None).map_err(io::Error::from)
    };
    let Some(path) = netns else { return Ok(make()) };
    let namespace =
        std::fs::File::open(&path).map_err(|e| SysError::path("open network namespace", &path, e))?;
    kernel::namespace::run_in(namespace.as_fd(), make)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const LONG: Duration = Duration::from_secs(10);

    fn echo_once(listener: TcpListener) {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(&word).unwrap();
        });
    }

    #[tokio::test]
    async fn a_port_inside_is_reached_on_either_family() {
        let Some(netns) = crate::netns::tests::Scratch::new() else { return };
        crate::lo_up(&netns.path).unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let file = std::fs::File::open(&netns.path).unwrap();
            let listen = || TcpListener::bind(address).unwrap();
            let listener = kernel::namespace::run_in(file.as_fd(), listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            echo_once(listener);
            let mut stream = dial(Some(&netns.path), port, LONG).await.unwrap();
            stream.set_nonblocking(false).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            assert_eq!(&word, b"ping", "{address}");
        }
    }

    #[tokio::test]
    async fn failures_say_what_was_tried() {
        let Some(netns) = crate::netns::tests::Scratch::new() else { return };
        crate::lo_up(&netns.path).unwrap();
        let refused = dial(Some(&netns.path), 9, LONG).await.unwrap_err();
        assert_eq!(
            model::chain(&refused),
            "connect to port 9 at 127.0.0.1 (Connection refused (os error 111)) and at ::1: Connection refused (os error 111)"
        );
        let gone = dial(Some(Path::new("/nowhere")), 9, LONG).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::WrongState);
        let late = dial(Some(&netns.path), 9, Duration::ZERO).await;
        assert!(late.is_err());
    }
}
