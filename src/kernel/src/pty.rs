//! Pseudo-terminals (pty(7)): the console socket of OCI runtimes, window sizes.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::pty::OpenptFlags;
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

/// Opens a new terminal of the instance that `/dev/ptmx` belongs to where this process is: its master, which does not
/// block, and its other side. Neither becomes the controlling terminal.
///
/// # Errors
/// The system call; what is at that path is not the multiplexer (an image or a container may put anything there).
pub fn open_here() -> Result<(OwnedFd, OwnedFd), SysError> {
    const PATH: &str = "/dev/ptmx";
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = rustix::fs::open(PATH, flags, Mode::empty()).map_err(|e| SysError::path("open", PATH, e))?;
    let stat = rustix::fs::fstat(&master).map_err(|e| SysError::path("fstat", PATH, e))?;
    // The kernel's list of devices: the multiplexer, also as pts/ptmx, is 5:2.
    let is_multiplexer = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2);
    if !is_multiplexer {
        let why = io::Error::new(io::ErrorKind::InvalidData, "not the terminal multiplexer");
        return Err(SysError::path("open", PATH, why));
    }
    rustix::pty::unlockpt(&master).map_err(|e| SysError::path("ioctl TIOCSPTLCK", PATH, e))?;
    // From the master itself: a path below /dev/pts could be another's.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let other = rustix::pty::ioctl_tiocgptpeer(&master, flags)
        .map_err(|e| SysError::path("ioctl TIOCGPTPEER", PATH, e))?;
    Ok((master, other))
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

    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};

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
    fn both_sides_of_a_new_terminal_are_one() {
        let (master, other) = open_here().unwrap();
        assert!(rustix::termios::isatty(&other));
        resize(&master, 77, 33).unwrap();
        let size = rustix::termios::tcgetwinsize(&other).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (77, 33));
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
