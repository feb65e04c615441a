//! The ends that the pod room gives: pipes and terminals, made asynchronous.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;

/// One read, bytes.
const READ: usize = 16 * 1024;

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

    /// The next bytes; empty at the end. A terminal ends with EIO when its last process has (pty(7)).
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        let mut buffer = vec![0; READ];
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer)?)) {
                Ok(Ok(read)) => {
                    buffer.truncate(read);
                    return Ok(buffer.into());
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
