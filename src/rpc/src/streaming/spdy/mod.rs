//! SPDY/3.1 as Kubernetes speaks it: the framing that crictl and the kubelet use by default
//! (SPDY Protocol, Draft 3.1).
//!
//! Channels are SPDY streams, opened by the client. Go's spdystream keeps no flow control windows: TCP's own holds a
//! fast sender back, and the bounded channels here do (ADR 041). Those of a client that keeps them are kept
//! (`window`).

mod headers;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::mux::{self, Channel, Frame, Inlet, Room, Writer};
use super::window::{self, Kept, Window};
use headers::{HeaderReader, HeaderWriter};

/// One control frame's payload, bytes. The largest that Kubernetes sends has a few hundred.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a data frame are handed on in pieces of this size: its length costs no memory.
const PIECE: usize = 32 * 1024;
/// Streams that may be open at once.
const STREAMS_MAX: usize = 1000;
/// Opened channels that wait for the handler to take them.
const OPENED_MAX: usize = 16;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
/// SETTINGS: INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u32 = 7;
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
    let (channels, opened) = mpsc::channel(OPENED_MAX);
    let reading = Reader::new(writer.clone(), channels).run(BufReader::new(read));
    mux::carry(handler(opened), reading, write_frames(write, frames), writer).await;
}

/// What the client has open.
struct Reader {
    writer: Writer,
    channels: mpsc::Sender<Channel>,
    headers: HeaderReader,
    replies: HeaderWriter,
    room: Room,
    /// Where the bytes of each stream go, and how many may come back.
    streams: HashMap<u32, (Inlet, Arc<Window>)>,
    windows_kept: Kept,
    /// The window of a stream that is opened now.
    initial_window: i64,
}

impl Reader {
    fn new(writer: Writer, channels: mpsc::Sender<Channel>) -> Self {
        Self {
            writer,
            channels,
            headers: HeaderReader::new(),
            replies: HeaderWriter::default(),
            room: Room::default(),
            streams: HashMap::new(),
            windows_kept: Kept::default(),
            initial_window: window::INITIAL,
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
            if first >> 31 == 0 {
                self.data(first, flags, length, &mut connection).await?;
                continue;
            }
            if length > CONTROL_BYTES_MAX {
                return Err(invalid("a control frame is too large"));
            }
            let mut payload = BytesMut::zeroed(length);
            connection.read_exact(&mut payload).await?;
            let [version, kind] =
                [head[0..2].try_into(), head[2..4].try_into()].map(|b| b.map_or(0, u16::from_be_bytes));
            if version & 0x7fff != VERSION {
                return Err(invalid("not SPDY version 3"));
            }
            match kind {
                SYN_STREAM => self.open(flags, &payload).await?,
                RST_STREAM => {
                    if let Some((stream, _)) = self.streams.remove(&(be32(&payload, 0)? & STREAM_ID)) {
                        stream.reset();
                    }
                }
                // Nothing depends on them, but the compression of all blocks is one stream.
                HEADERS => drop(self.headers.read(payload.get(4..).unwrap_or_default())?),
                // Even ids would be answers to pings of ours, of which there are none.
                PING if be32(&payload, 0)? % 2 == 1 => self.own(control(PING, 0, &payload[..4])).await,
                GOAWAY => return Ok(()),
                SETTINGS => self.settings(&payload)?,
                WINDOW_UPDATE => {
                    self.windows_kept.store(true, Ordering::Relaxed);
                    let (id, more) = (be32(&payload, 0)? & STREAM_ID, be32(&payload, 4)? & STREAM_ID);
                    if let Some((_, window)) = self.streams.get(&id) {
                        window.grow(more.into());
                    }
                }
                // What the specification does not know is skipped (Draft 3.1, 2.2.1).
                _ => {}
            }
        }
    }

    /// Of all settings, the initial window is for this end to keep to: it changes the windows of open streams too.
    fn settings(&mut self, payload: &[u8]) -> io::Result<()> {
        let entries = usize::try_from(be32(payload, 0)?).unwrap_or(usize::MAX);
        for entry in payload[4..].chunks_exact(8).take(entries) {
            // Eight bits of flags, then the setting's number.
            if be32(entry, 0)? & 0x00ff_ffff == INITIAL_WINDOW {
                let initial = i64::from(be32(entry, 4)? & STREAM_ID);
                let change = initial - std::mem::replace(&mut self.initial_window, initial);
                self.windows_kept.store(true, Ordering::Relaxed);
                self.streams.values().for_each(|(_, window)| window.grow(change));
            }
        }
        Ok(())
    }

    async fn data<R: AsyncRead + Unpin>(
        &mut self,
        id: u32,
        flags: u8,
        mut length: usize,
        connection: &mut R,
    ) -> io::Result<()> {
        while length > 0 {
            let mut piece = BytesMut::with_capacity(length.min(PIECE));
            if connection.read_buf(&mut (&mut piece).limit(length.min(PIECE))).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length -= piece.len();
            if let Some((stream, _)) = self.streams.get(&id) {
                stream.put(piece.freeze()).await;
            }
        }
        if flags & FLAG_FIN != 0
            && let Some((stream, _)) = self.streams.get_mut(&id)
        {
            stream.end();
        }
        Ok(())
    }

    async fn open(&mut self, flags: u8, payload: &[u8]) -> io::Result<()> {
        let id = be32(payload, 0)? & STREAM_ID;
        // After the two ids come priority and slot. Headers must be read even for a refused stream: the
        // compression is the connection's.
        let headers = self.headers.read(payload.get(10..).ok_or_else(|| invalid("a cut SYN_STREAM"))?)?;
        if self.streams.len() >= STREAMS_MAX {
            self.streams.retain(|_, (stream, _)| !stream.is_over());
        }
        let full = self.streams.len() >= STREAMS_MAX || self.streams.contains_key(&id);
        let place = if full { None } else { self.channels.clone().reserve_owned().await.ok() };
        let Some(place) = place else {
            let mut reset = BytesMut::new();
            reset.put_u32(id);
            reset.put_u32(REFUSED);
            self.own(control(RST_STREAM, 0, &reset)).await;
            return Ok(());
        };
        let (channel, mut inlet) = Channel::new(id, headers, self.writer.clone(), &self.room);
        if flags & FLAG_FIN != 0 {
            inlet.end();
        }
        let window = Window::new(Arc::clone(&self.windows_kept), self.initial_window);
        let channel = channel.with_windows(Arc::clone(&window), move |taken| window_update(id, taken));
        self.streams.insert(id, (inlet, window));
        let mut reply = BytesMut::new();
        reply.put_u32(id);
        reply.put_slice(&self.replies.empty());
        self.own(control(SYN_REPLY, 0, &reply)).await;
        place.send(channel);
        Ok(())
    }

    async fn own(&self, frame: Bytes) {
        // When nobody writes any more, the session is over and this end only waits for the client's.
        let _ = self.writer.send(Frame::Own(frame)).await;
    }
}

/// Writes frames to the goodbye.
async fn write_frames<W: AsyncWrite + Unpin>(
    mut connection: W,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Data(id, bytes) => {
                // Head and bytes in one system call, and nothing copied.
                let head = data_head(id, 0, bytes.len());
                connection.write_all_buf(&mut head.chain(bytes)).await?;
            }
            Frame::End(id) => connection.write_all(&data_head(id, FLAG_FIN, 0)).await?,
            Frame::Own(bytes) => connection.write_all(&bytes).await?,
            Frame::Goodbye => break,
        }
        if frames.is_empty() {
            connection.flush().await?;
        }
    }
    drop(frames);
    connection.write_all(&control(GOAWAY, 0, &[0; 8])).await?;
    connection.shutdown().await
}

fn data_head(id: u32, flags: u8, length: usize) -> Bytes {
    let ([a, b, c, d], [_, x, y, z]) = (id.to_be_bytes(), u32::try_from(length).unwrap_or(0).to_be_bytes());
    Bytes::copy_from_slice(&[a, b, c, d, flags, x, y, z])
}

fn window_update(id: u32, more: u32) -> Bytes {
    control(WINDOW_UPDATE, 0, &[id.to_be_bytes(), more.to_be_bytes()].concat())
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
