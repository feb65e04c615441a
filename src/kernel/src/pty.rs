//! Pseudo-terminals (pty(7)): the console socket of OCI runtimes, window sizes.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::termios::Winsize;

use crate::SysError;
use crate::seqpacket::with_address;

/// Tells a terminal its size in characters; the foreground process gets SIGWINCH.
///
/// # Errors
/// The system call: not a terminal.
pub fn resize(terminal: impl AsFd, width: u16, height: u16) -> Result<(), SysError> {
    let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).map_err(|e| SysError::bare("ioctl TIOCSWINSZ", e))
}

/// The socket to which an OCI runtime sends a terminal's master (runc, docs/terminals.md).
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: OwnedFd,
}

impl ConsoleSocket {
    /// Listens at `path`, which must be free.
    ///
    /// # Errors
    /// The system call that failed.
    pub fn listen(path: &Path) -> Result<Self, SysError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|e| SysError::bare("socket", e))?;
        with_address(path, |address| rustix::net::bind(&listener, address))
            .map_err(|e| SysError::path("bind", path, e))?;
        rustix::net::listen(&listener, 1).map_err(|e| SysError::path("listen", path, e))?;
        Ok(Self { listener })
    }

    /// The terminal's master that a runtime has sent. Runtimes do not wait for an answer: once one has
    /// succeeded, its connection and message are queued here. The master does not block.
    ///
    /// # Errors
    /// The system call; `WouldBlock` when no runtime has sent anything.
    pub fn receive(&self) -> io::Result<OwnedFd> {
        let socket = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut name = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut name)], &mut ancillary, flags)?;
        let master = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .next()
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a console message without a terminal")
            })?;
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(master)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
    use rustix::pty::OpenptFlags;

    use super::*;

    fn send(path: &Path, fds: &[BorrowedFd<'_>]) {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let bytes = [io::IoSlice::new(b"/dev/ptmx")];
        rustix::net::sendmsg(&socket, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_terminal_is_received_after_its_sender_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.sock");
        let console = ConsoleSocket::listen(&path).unwrap();
        assert_eq!(console.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&path, &[]);
        assert_eq!(console.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        send(&path, &[master.as_fd()]);
        let received = console.receive().unwrap();
        resize(&received, 132, 43).unwrap();
        let size = rustix::termios::tcgetwinsize(&master).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
    }
}
