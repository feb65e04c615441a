//! Many channels over one connection, whatever frames it speaks.
//!
//! A framing turns the connection into [`Channel`]s and writes what they send. Each direction of a channel
//! is bounded and ends on its own: [`Outgoing::end`] says "no more from here", an ended [`Incoming`] "no more
//! from there".

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Pieces that wait in one direction of one channel.
const PIECES_MAX: usize = 16;

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
}

/// Where frames go to be written.
pub(super) type Writer = mpsc::Sender<Frame>;

/// Frames that wait to be written.
pub(super) fn writer() -> (Writer, mpsc::Receiver<Frame>) {
    mpsc::channel(PIECES_MAX)
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

/// Bytes from the client; `None` is their end.
pub(super) type Incoming = mpsc::Receiver<Bytes>;

/// Bytes to the client.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: u32,
    writer: Writer,
}

/// The connection is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client is gone")]
pub(super) struct Gone;

impl Channel {
    /// A channel, and where its framing puts what the client sends.
    pub(super) fn new(id: u32, headers: Headers, writer: Writer) -> (Self, mpsc::Sender<Bytes>) {
        let (sender, incoming) = mpsc::channel(PIECES_MAX);
        (Self { headers, incoming, outgoing: Outgoing { id, writer } }, sender)
    }

    /// One of its headers, or nothing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Outgoing {
    /// Sends bytes, waiting while the client reads slowly.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.writer.send(Frame::Data(self.id, bytes)).await.map_err(|_| Gone)
    }

    /// Says that nothing more comes.
    pub(super) async fn end(self) {
        // Lost connections need no goodbye.
        let _ = self.writer.send(Frame::End(self.id)).await;
    }

    /// Resolves when the connection is lost.
    pub(super) async fn gone(&self) {
        self.writer.closed().await;
    }
}
