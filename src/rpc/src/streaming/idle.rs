//! A connection on which nothing moves for too long counts as lost.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A connection whose reads fail with [`io::ErrorKind::TimedOut`] once neither direction has moved a byte for
/// `limit`.
#[derive(Debug)]
pub(super) struct Watched<S> {
    connection: S,
    limit: Duration,
    moved: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> Watched<S> {
    pub(super) fn new(connection: S, limit: Duration) -> Self {
        Self { connection, limit, moved: Instant::now(), timer: Box::pin(tokio::time::sleep(limit)) }
    }

    /// Ready when the connection has been idle for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let end = self.moved + self.limit;
            if Instant::now() >= end {
                return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long"));
            }
            // The timer is only moved here, not at each byte.
            self.timer.as_mut().reset(end);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.connection).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                self.moved = Instant::now();
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_idle(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.connection).poll_write(cx, bytes));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.connection).poll_write_vectored(cx, pieces));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_and_a_byte_puts_it_off() {
        let (mut client, server) = tokio::io::duplex(64);
        let limit = Duration::from_millis(200);
        let mut server = Watched::new(server, limit);
        let began = Instant::now();
        let talk = async {
            for _ in 0..5 {
                tokio::time::sleep(limit / 2).await;
                client.write_all(b"x").await.unwrap();
            }
        };
        let mut bytes = [0; 5];
        let (read, ()) = tokio::join!(server.read_exact(&mut bytes), talk);
        read.unwrap();
        assert!(began.elapsed() > limit);
        let error = server.read_exact(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
