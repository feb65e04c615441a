//! Unix sockets of type SOCK_SEQPACKET that carry frames and file descriptors (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::SysError;

/// File descriptors that one message may carry.
pub const FDS_MAX: usize = 5;

/// Room in a socket's send buffer, bytes: the kernel counts each message at more than twice its size.
const SEND_BUFFER_BYTES: usize = 512 * 1024;

/// One message as it came.
#[derive(Debug)]
pub struct Message {
    /// Bytes of the caller's buffer that it fills. 0: the other side has closed.
    pub length: usize,
    /// The file descriptors that came along, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, as this PID namespace knows it; only on a socket that [`tell_senders`] was called on.
    pub sender: Option<u32>,
}

/// Binds and listens at `path`, replacing a socket that a dead owner left there. Mode 0600.
///
/// # Errors
/// The system call that failed.
pub fn listen(path: &Path) -> Result<OwnedFd, SysError> {
    let socket = open()?;
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(SysError::path("unlink", path, e)),
    }
    with_address(path, |address| rustix::net::bind(&socket, address))
        .map_err(|e| SysError::path("bind", path, e))?;
    // Nobody connects in between: connecting needs a listening socket.
    rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR).map_err(|e| SysError::path("chmod", path, e))?;
    rustix::net::listen(&socket, 16).map_err(|e| SysError::path("listen", path, e))?;
    Ok(socket)
}

/// Connects to the listener at `path`. The socket does not block afterwards.
///
/// # Errors
/// The system call: `NotFound` and `ConnectionRefused` mean that nobody listens.
pub fn connect(path: &Path) -> Result<OwnedFd, SysError> {
    let socket = open()?;
    with_address(path, |address| rustix::net::connect(&socket, address))
        .map_err(|e| SysError::path("connect", path, e))?;
    Ok(socket)
}

/// Takes the next connection; `None` when there is none now.
///
/// # Errors
/// The system call.
pub fn accept(listener: BorrowedFd<'_>) -> Result<Option<OwnedFd>, SysError> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(socket) => {
            widen(&socket);
            Ok(Some(socket))
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => Ok(None),
        Err(e) => Err(SysError::bare("accept", e)),
    }
}

/// Two connected sockets that do not block.
///
/// # Errors
/// The system call.
pub fn pair() -> Result<(OwnedFd, OwnedFd), SysError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| SysError::bare("socketpair", e))?;
    widen(&a);
    widen(&b);
    Ok((a, b))
}

/// Messages that this socket receives say from now on which process sent them (unix(7), SO_PASSCRED).
///
/// # Errors
/// The system call.
pub fn tell_senders(socket: BorrowedFd<'_>) -> Result<(), SysError> {
    rustix::net::sockopt::set_socket_passcred(socket, true)
        .map_err(|e| SysError::bare("setsockopt SO_PASSCRED", e))
}

/// Sends one message with its file descriptors, whole or not at all.
///
/// # Errors
/// The system call; `WouldBlock` when the other side does not read.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors for one message"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
    })?;
    Ok(())
}

/// The length of the next message, which stays; 0 when the other side has closed.
///
/// # Errors
/// The system call, `WouldBlock` when there is no message now.
pub fn next_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut [0; 1], flags))?;
    Ok(length)
}

/// Receives one message into `buffer`.
///
/// # Errors
/// The system call, `WouldBlock` when there is no message now; `InvalidData` when it does not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Message> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)
    })?;
    let (mut fds, mut sender) = (Vec::new(), None);
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(received) => fds.extend(received),
            RecvAncillaryMessage::ScmCredentials(who) => {
                sender = u32::try_from(who.pid.as_raw_nonzero().get()).ok()
            }
            _ => {}
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message larger than any frame"));
    }
    Ok(Message { length: received.bytes, fds, sender })
}

fn open() -> Result<OwnedFd, SysError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| SysError::bare("socket", e))?;
    widen(&socket);
    Ok(socket)
}

/// Larger frames need more than the default send buffer; where the bound forbids it, they fail to send.
fn widen(socket: &OwnedFd) {
    let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER_BYTES)
        .or_else(|_| rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES));
}

/// Calls `f` with the address of `path`, however long: sun_path has 108 bytes, so a longer path goes through
/// its directory's file descriptor.
pub(crate) fn with_address<T>(
    path: &Path,
    f: impl FnOnce(&SocketAddrUnix) -> rustix::io::Result<T>,
) -> rustix::io::Result<T> {
    if let Ok(address) = SocketAddrUnix::new(path) {
        return f(&address);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(rustix::io::Errno::INVAL);
    };
    let dir = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    f(&SocketAddrUnix::new(through(dir.as_fd()).join(name))?)
}

/// A path to what `fd` is open on, for as long as it is open, that other processes can follow too.
pub fn through(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// What comes of it at last: what another test forks holds copies of descriptors until it executes.
    fn outlasted<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
        let began = std::time::Instant::now();
        loop {
            if let Some(got) = attempt() {
                return got;
            }
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "somebody holds a copy for ever");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = pair().unwrap();
        let (read, write) = io::pipe().unwrap();
        send(a.as_fd(), b"one", &[write.as_fd()]).unwrap();
        send(a.as_fd(), &vec![7; 128 * 1024], &[]).unwrap();
        drop(write);
        let mut buffer = vec![0; 128 * 1024];
        assert_eq!(next_length(b.as_fd()).unwrap(), 3);
        let mut first = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((first.length, first.fds.len()), (3, 1));
        std::fs::File::from(first.fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        { read }.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(receive(b.as_fd(), &mut buffer).unwrap().length, 128 * 1024);
        let none = receive(b.as_fd(), &mut buffer).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        let end = outlasted(|| match receive(b.as_fd(), &mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            other => Some(other.unwrap().length),
        });
        assert_eq!(end, 0);
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error_not_a_part() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"0123456789", &[]).unwrap();
        let error = receive(b.as_fd(), &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_socket_at_a_long_path_is_reached_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("shim.sock");
        let missing = connect(&path).unwrap_err();
        assert!(missing.is_not_found(), "{missing:?}");
        drop(listen(&path).unwrap());
        let refused = outlasted(|| connect(&path).err());
        assert_eq!(refused.source.kind(), io::ErrorKind::ConnectionRefused);
        let listener = listen(&path).unwrap();
        let _client = connect(&path).unwrap();
        assert!(accept(listener.as_fd()).unwrap().is_some());
        assert!(accept(listener.as_fd()).unwrap().is_none());
    }
}
