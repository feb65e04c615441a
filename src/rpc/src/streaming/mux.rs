//! Many channels over one connection, whatever frames it speaks.
//!
//! A framing turns the connection into [`Channel`]s and writes what they send. Each direction of a channel
//! is bounded and ends on its own: [`Outgoing::end`] says "no more from here", an ended [`Incoming`] "no more
//! from there". What a connection may hold in memory is bounded too, however many channels it opens.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::window::Window;

/// One read from a pipe or a socket of this node, bytes.
pub(super) const READ: usize = 64 * 1024;
/// Pieces that wait in one direction of one channel.
const PIECES_MAX: usize = 16;
/// Bytes from the client that wait in all channels of a connection together.
const WAITING_BYTES_MAX: u32 = 1024 * 1024;
/// How long the goodbye of a session that is over may take, with what was still to be written.
const GOODBYE_MAX: Duration = Duration::from_secs(10);

/// What the client said about a channel when it opened it, names in lower case.
pub(super) type Headers = BTreeMap<String, String>;

/// Something for the framing to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Bytes of a channel.
    Data(u32, Bytes),
    /// No more bytes of a channel.
    End(u32),
    /// A frame of the framing's own, ready to be sent.
    Own(Bytes),
    /// The session is over: say so and write no more.
    Goodbye,
}

/// Where frames go to be written.
pub(super) type Writer = mpsc::Sender<Frame>;

/// Frames that wait to be written.
pub(super) fn writer() -> (Writer, mpsc::Receiver<Frame>) {
    mpsc::channel(PIECES_MAX)
}

/// Carries a session: the two halves of its framing beside the handler of its channels.
///
/// When the handler is done, what it sent is written, then the goodbye; the client's last bytes are read
/// meanwhile, for a socket that is closed over unread bytes resets, and takes what was written with it. When
/// either half ends first the client is gone: both are dropped, by which the handler learns it, and the
/// handler alone goes on to its own end.
pub(super) async fn carry(
    handler: impl Future<Output = ()>,
    reading: impl Future<Output = io::Result<()>>,
    writing: impl Future<Output = io::Result<()>>,
    writer: Writer,
) {
    let (mut reading, mut writing) = (Box::pin(reading), Box::pin(writing));
    let mut handler = std::pin::pin!(handler);
    let ended = tokio::select! {
        () = &mut handler => {
            let goodbye = async {
                let _ = writer.send(Frame::Goodbye).await;
                tokio::join!(writing, reading)
            };
            if tokio::time::timeout(GOODBYE_MAX, goodbye).await.is_err() {
                tracing::debug!("a streaming client does not take its last bytes, or does not close");
            }
            return;
        }
        ended = &mut reading => ended,
        ended = &mut writing => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a streaming connection ends");
    }
    drop((reading, writing, writer));
    handler.await;
}

/// One channel of a connection.
#[derive(Debug)]
pub(super) struct Channel {
    /// What it is for.
    pub(super) headers: Headers,
    /// From the client.
    pub(super) incoming: Incoming,
    /// To the client.
    pub(super) outgoing: Outgoing,
}

/// The room for bytes from the client, which a connection's channels share.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// Bytes, and the room they take until the next are asked for.
type Piece = (Bytes, OwnedSemaphorePermit);

/// Bytes from the client.
#[derive(Debug)]
pub(super) struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    held: Option<OwnedSemaphorePermit>,
    credit: Option<Credit>,
}

/// Tells the client how much of a channel has been taken.
pub(super) struct Credit {
    writer: Writer,
    /// Bytes that it has not been told of.
    taken: u32,
    /// The frame that tells it of so many.
    frame: Box<dyn Fn(u32) -> Bytes + Send>,
}

/// So many bytes are told at once.
const CREDIT_BYTES: u32 = 32 * 1024;

/// The framing's end of a channel.
#[derive(Debug)]
pub(super) struct Inlet {
    /// `None` once the client has said that no more comes.
    pieces: Option<mpsc::Sender<Piece>>,
    room: Room,
    closed: CancellationToken,
}

/// Bytes to the client.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: u32,
    writer: Writer,
    closed: CancellationToken,
    window: Option<Arc<Window>>,
}

/// The connection is lost, or the client has reset the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct Gone;

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WAITING_BYTES_MAX as usize)))
    }
}

impl Channel {
    /// A channel, and where its framing puts what the client sends.
    pub(super) fn new(id: u32, headers: Headers, writer: Writer, room: &Room) -> (Self, Inlet) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let closed = CancellationToken::new();
        let inlet = Inlet { pieces: Some(sender), room: room.clone(), closed: closed.clone() };
        let incoming = Incoming { pieces, held: None, credit: None };
        let outgoing = Outgoing { id, writer, closed, window: None };
        (Self { headers, incoming, outgoing }, inlet)
    }

    /// The same with flow control: a window for what is sent, and a frame that gives back what was taken.
    pub(super) fn with_windows(
        mut self,
        window: Arc<Window>,
        frame: impl Fn(u32) -> Bytes + Send + 'static,
    ) -> Self {
        let writer = self.outgoing.writer.clone();
        self.incoming.credit = Some(Credit { writer, taken: 0, frame: Box::new(frame) });
        self.outgoing.window = Some(window);
        self
    }

    /// One of its headers, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Incoming {
    /// The next bytes; `None` is their end.
    pub(super) async fn recv(&mut self) -> Option<Bytes> {
        if let (Some(_), Some(credit)) = (self.held.take(), &mut self.credit) {
            credit.give_back();
        }
        let (bytes, room) = self.pieces.recv().await?;
        if let Some(credit) = &mut self.credit {
            credit.taken += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        }
        self.held = Some(room);
        Some(bytes)
    }
}

impl Credit {
    /// Does not wait for room: a client that reads nothing would hold up what it writes. What is not told now is
    /// told with the next.
    fn give_back(&mut self) {
        if self.taken >= CREDIT_BYTES && self.writer.try_send(Frame::Own((self.frame)(self.taken))).is_ok() {
            self.taken = 0;
        }
    }
}

impl std::fmt::Debug for Credit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credit").field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Inlet {
    /// Hands bytes over, waiting while there is no room. Those that nobody reads any more are dropped: a
    /// handler that has had enough is no fault of the client's.
    pub(super) async fn put(&self, bytes: Bytes) {
        let Some(pieces) = self.pieces.as_ref().filter(|pieces| !pieces.is_closed()) else { return };
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX).clamp(1, WAITING_BYTES_MAX);
        let room = Arc::clone(&self.room.0).acquire_many_owned(size);
        let room = tokio::select! {
            Ok(room) = room => room,
            () = pieces.closed() => return,
            else => return,
        };
        let _ = pieces.send((bytes, room)).await;
    }

    /// The client has no more bytes.
    pub(super) fn end(&mut self) {
        self.pieces = None;
    }

    /// The client wants nothing more of this channel, in either direction.
    pub(super) fn reset(self) {
        self.closed.cancel();
    }

    /// Whether nothing can come or go any more.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_cancelled() && self.pieces.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

impl Outgoing {
    /// Sends bytes, waiting while the client reads slowly.
    pub(super) async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        let send = async {
            while let Some(window) = &self.window {
                let allowed = tokio::select! {
                    biased;
                    allowed = window.take(bytes.len()) => allowed,
                    () = self.writer.closed() => return Err(Gone),
                };
                if allowed >= bytes.len() {
                    break;
                }
                let piece = bytes.split_to(allowed);
                self.writer.send(Frame::Data(self.id, piece)).await.map_err(|_| Gone)?;
            }
            self.writer.send(Frame::Data(self.id, bytes)).await.map_err(|_| Gone)
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Gone),
            sent = send => sent,
        }
    }

    /// Says that nothing more comes.
    pub(super) async fn end(self) {
        if !self.closed.is_cancelled() {
            // Lost connections need no goodbye.
            let _ = self.writer.send(Frame::End(self.id)).await;
        }
    }

    /// Resolves when the connection is lost or the client has reset the channel.
    pub(super) async fn gone(&self) {
        tokio::select! {
            () = self.writer.closed() => {}
            () = self.closed.cancelled() => {}
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_holds_so_many_bytes_and_no_more() {
        let (writer, _frames) = writer();
        let room = Room::default();
        let (mut first, inlet) = Channel::new(1, Headers::new(), writer.clone(), &room);
        let (mut second, other) = Channel::new(3, Headers::new(), writer, &room);
        let half = Bytes::from(vec![0; WAITING_BYTES_MAX as usize / 2]);
        inlet.put(half.clone()).await;
        inlet.put(half.clone()).await;
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, other.put(half.clone())).await.is_err(), "there is no room");
        assert_eq!(first.incoming.recv().await.map(|bytes| bytes.len()), Some(half.len()));
        assert!(tokio::time::timeout(soon, other.put(half.clone())).await.is_err(), "it is still held");
        first.incoming.recv().await;
        other.put(half.clone()).await;
        drop(first);
        // Nobody reads these: they take no room.
        for _ in 0..8 {
            inlet.put(half.clone()).await;
        }
        assert_eq!(second.incoming.recv().await.map(|bytes| bytes.len()), Some(half.len()));
    }

    #[tokio::test]
    async fn a_reset_channel_ends_both_ways() {
        let (writer, mut frames) = writer();
        let (mut channel, inlet) = Channel::new(1, Headers::new(), writer, &Room::default());
        inlet.reset();
        channel.outgoing.gone().await;
        assert_eq!(channel.outgoing.send(Bytes::from_static(b"x")).await, Err(Gone));
        assert_eq!(channel.incoming.recv().await, None);
        channel.outgoing.end().await;
        assert_eq!(frames.recv().await, None, "nothing is said on a channel that was reset");
    }
}
