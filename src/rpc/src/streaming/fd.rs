//! The ends that the pod room gives: pipes and terminals, made asynchronous.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;

use super::mux::READ;

/// A pipe that this side makes larger holds so much, bytes: its writer is woken less often. What is not used takes no
/// memory.
const PIPE: usize = 256 * 1024;

/// A pipe's end or a terminal's master.
#[derive(Debug)]
pub(super) struct Fd(AsyncFd<OwnedFd>);

impl Fd {
    /// Takes a descriptor and makes it non-blocking.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe for types that lie about their fd; OwnedFd cannot"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Makes a pipe larger, as far as the node lets us (fcntl(2), F_SETPIPE_SZ).
    pub(super) fn widen(&self) {
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&self.0, PIPE) {
            tracing::debug!(%error, "make a pipe larger");
        }
    }

    /// The next bytes; empty at the end. A terminal ends with EIO when its last process has (pty(7)). The buffer is
    /// empty between calls: large reads leave with their memory, small ones are copied out of it.
    pub(super) async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Bytes> {
        buffer.reserve(READ);
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, spare_capacity(buffer))?)) {
                Ok(Ok(read)) if read >= READ / 8 => return Ok(std::mem::take(buffer).into()),
                Ok(Ok(_)) => {
                    let bytes = Bytes::copy_from_slice(buffer);
                    buffer.clear();
                    return Ok(bytes);
                }

                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(Bytes::new());
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Writes all of it.
    pub(super) async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
                Ok(Ok(written)) => bytes = &bytes[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Changes a terminal's size, in characters.
    pub(super) fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.0, size)?)
    }
}
