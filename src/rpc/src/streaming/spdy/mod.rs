//! SPDY/3.1 as Kubernetes speaks it: the framing that crictl and the kubelet use by default
//! (SPDY Protocol, Draft 3.1).
//!
//! Channels are SPDY streams, opened by the client. Neither Go's spdystream nor this end keeps SPDY's flow
//! control windows: TCP's own holds a fast sender back, and the bounded channels here do.

mod headers;

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::mux::{self, Channel, Frame, Writer};
use headers::{HeaderReader, HeaderWriter};

/// One frame's payload, bytes. spdystream writes 32 KiB at most, other clients 64 KiB.
const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Streams that may be open at once.
const STREAMS_MAX: usize = 1000;
/// How long what is still to be written may take when a session is over.
const LAST_WORDS_MAX: Duration = Duration::from_secs(10);

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
/// RST_STREAM: REFUSED_STREAM.
const REFUSED: u32 = 3;
const STREAM_ID: u32 = 0x7fff_ffff;

/// Serves a connection: the handler gets its channels; the connection ends when the handler does.
pub(super) async fn serve<S, H>(connection: S, handler: impl FnOnce(mpsc::Receiver<Channel>) -> H)
where
    S: AsyncRead + AsyncWrite,
    H: Future<Output = ()>,
{
    let (read, write) = tokio::io::split(connection);
    let (writer, frames) = mux::writer();
    let (channels, opened) = mpsc::channel(16);
    let mut reading = Box::pin(Reader::new(writer, channels).run(BufReader::new(read)));
    let mut writing = Box::pin(write_frames(write, frames));
    let mut handling = std::pin::pin!(handler(opened));
    tokio::select! {
        () = &mut handling => {
            // Without the reader's end, the writer stops when all is written.
            drop(reading);
            if tokio::time::timeout(LAST_WORDS_MAX, writing).await.is_err() {
                tracing::debug!("a streaming client reads too slowly for its last bytes");
            }
        }
        ended = &mut reading => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a SPDY connection ends");
            }
            // This is how the handler learns that the client is gone.
            drop(writing);
            drop(reading);
            handling.await;
        }
        _ = &mut writing => {
            drop(reading);
            drop(writing);
            handling.await;
        }
    }
}

/// What the client has open.
struct Reader {
    writer: Writer,
    channels: mpsc::Sender<Channel>,
    headers: HeaderReader,
    replies: HeaderWriter,
    /// Where the bytes of each stream go, until it ends.
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
}

impl Reader {
    fn new(writer: Writer, channels: mpsc::Sender<Channel>) -> Self {
        Self {
            writer,
            channels,
            headers: HeaderReader::new(),
            replies: HeaderWriter::default(),
            streams: HashMap::new(),
        }
    }

    /// Reads frames to the end of the connection.
    async fn run<R: AsyncRead + Unpin>(mut self, mut connection: R) -> io::Result<()> {
        loop {
            let mut head = [0; 8];
            match connection.read_exact(&mut head).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            let flags = head[4];
            let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
            if length > FRAME_BYTES_MAX {
                return Err(invalid("a frame is too large"));
            }
            let mut payload = BytesMut::zeroed(length);
            connection.read_exact(&mut payload).await?;
            if first >> 31 == 0 {
                self.data(first, flags, payload.freeze()).await;
                continue;
            }
            let [version, kind] =
                [head[0..2].try_into(), head[2..4].try_into()].map(|b| b.map_or(0, u16::from_be_bytes));
            if version & 0x7fff != VERSION {
                return Err(invalid("not SPDY version 3"));
            }
            match kind {
                SYN_STREAM => self.open(flags, &payload).await?,
                RST_STREAM => {
                    self.streams.remove(&(be32(&payload, 0)? & STREAM_ID));
                }
                // Even ids would be answers to pings of ours, of which there are none.
                PING if be32(&payload, 0)? % 2 == 1 => self.own(control(PING, 0, &payload)).await?,
                GOAWAY => return Ok(()),
                // SETTINGS, WINDOW_UPDATE, HEADERS: nothing here depends on them.
                _ => {}
            }
        }
    }

    async fn data(&mut self, id: u32, flags: u8, bytes: Bytes) {
        if let Some(stream) = self.streams.get(&id) {
            // A handler that reads no more is no fault of the client's: the bytes are dropped.
            if !bytes.is_empty() {
                let _ = stream.send(bytes).await;
            }
        }
        if flags & FLAG_FIN != 0 {
            self.streams.remove(&id);
        }
    }

    async fn open(&mut self, flags: u8, payload: &[u8]) -> io::Result<()> {
        let id = be32(payload, 0)? & STREAM_ID;
        // After the two ids come priority and slot. Headers must be read even for a refused stream: the
        // compression is the connection's.
        let headers = self.headers.read(payload.get(10..).ok_or_else(|| invalid("a cut SYN_STREAM"))?)?;
        if self.streams.len() >= STREAMS_MAX || self.streams.contains_key(&id) {
            let mut reset = BytesMut::new();
            reset.put_u32(id);
            reset.put_u32(REFUSED);
            return self.own(control(RST_STREAM, 0, &reset)).await;
        }
        let (channel, sender) = Channel::new(id, headers, self.writer.clone());
        if flags & FLAG_FIN == 0 {
            self.streams.insert(id, sender);
        }
        let mut reply = BytesMut::new();
        reply.put_u32(id);
        reply.put_slice(&self.replies.empty());
        self.own(control(SYN_REPLY, 0, &reply)).await?;
        self.channels.send(channel).await.map_err(|_| invalid("nobody takes channels any more"))
    }

    async fn own(&self, frame: Bytes) -> io::Result<()> {
        self.writer.send(Frame::Own(frame)).await.map_err(|_| invalid("nobody writes any more"))
    }
}

/// Writes frames until nobody is left to send any, then says goodbye.
async fn write_frames<W: AsyncWrite + Unpin>(
    mut connection: W,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Data(id, bytes) => {
                for piece in bytes.chunks(FRAME_BYTES_MAX) {
                    connection.write_all(&data_head(id, 0, piece.len())).await?;
                    connection.write_all(piece).await?;
                }
            }
            Frame::End(id) => connection.write_all(&data_head(id, FLAG_FIN, 0)).await?,
            Frame::Own(bytes) => connection.write_all(&bytes).await?,
        }
        if frames.is_empty() {
            connection.flush().await?;
        }
    }
    connection.write_all(&control(GOAWAY, 0, &[0; 8])).await?;
    connection.shutdown().await
}

fn data_head(id: u32, flags: u8, length: usize) -> [u8; 8] {
    let ([a, b, c, d], [_, x, y, z]) = (id.to_be_bytes(), u32::try_from(length).unwrap_or(0).to_be_bytes());
    [a, b, c, d, flags, x, y, z]
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(flags);
    frame.put_uint(payload.len() as u64, 3);
    frame.put_slice(payload);
    frame.freeze()
}

fn be32(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_be_bytes).ok_or_else(|| invalid("a cut frame"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
