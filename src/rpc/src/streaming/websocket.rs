//! WebSocket (RFC 6455) as Kubernetes speaks it: the first byte of each message is the channel it is for.
//! `v5` adds the end of one channel; the base64 protocols are text, for browsers.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use pod::Wanted;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::mux::{self, Channel, Frame, Headers, Inlet, Room, Writer};

/// The channels of exec and attach, by number; every version shares them.
const STREAMS: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];
const ERROR: u32 = 3;
/// v5: this byte and a channel's number are the end of that channel.
const END: u8 = 255;
/// One message, bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// How often a client is told that this end lives while nothing is read from it. Kubernetes' clients give up
/// when no pong came for a minute.
const PONG_EVERY: Duration = Duration::from_secs(15);
/// Read from the socket at once, and bytes of SPDY in one message, bytes.
const BUFFER: usize = 32 * 1024;

/// How bytes are in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// As they are, after the channel's number.
    Binary,
    /// In base64, after the channel's number as a digit.
    Base64,
}

/// The connections of a task: which channels they have from the beginning, and what is first said on them.
#[derive(Debug)]
pub(super) struct Opening(Vec<Option<(Headers, Bytes)>>);

impl Opening {
    /// Exec and attach: where the client asked for them. An empty message tells it that the session is open.
    pub(super) fn remote(wanted: Wanted) -> Self {
        let asked = [wanted.stdin, wanted.stdout, wanted.stderr, true, wanted.tty];
        let named = |(name, asked): (&str, bool)| {
            let headers = Headers::from([("streamtype".to_owned(), name.to_owned())]);
            asked.then(|| (headers, Bytes::new()))
        };
        Self(STREAMS.into_iter().zip(asked).map(named).collect())
    }

    /// Port-forward: a pair for each port, which is the first thing said on both (two bytes, little-endian).
    pub(super) fn forward(ports: &[u16]) -> Self {
        let mut channels = Vec::new();
        for (at, port) in ports.iter().enumerate() {
            for kind in ["data", "error"] {
                let header = |name: &str, value: String| (name.to_owned(), value);
                let headers = Headers::from([
                    header("streamtype", kind.to_owned()),
                    header("port", port.to_string()),
                    header("requestid", at.to_string()),
                ]);
                channels.push(Some((headers, Bytes::copy_from_slice(&port.to_le_bytes()))));
            }
        }
        Self(channels)
    }

    /// Every channel's first words, for the client; of those of exec and attach the first output's will do.
    fn greetings(&self) -> Vec<(u32, Bytes)> {
        let open =
            (0_u32..).zip(&self.0).filter_map(|(id, c)| c.as_ref().map(|(_, said)| (id, said.clone())));
        let all: Vec<_> = open.collect();
        match all.iter().all(|(_, said)| said.is_empty()) {
            true => all.into_iter().filter(|(id, _)| (1..=ERROR).contains(id)).take(1).collect(),
            false => all,
        }
    }
}

async fn accept<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(MESSAGE_BYTES_MAX);
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// What ends a session as it should (without it, clients report code 1005 or 1006 and fail).
fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Serves a connection that has been upgraded: the handler gets its channels; the connection ends when the
/// handler does.
pub(super) async fn serve<S, H>(
    connection: S,
    coding: Coding,
    opening: Opening,
    handler: impl FnOnce(mpsc::Receiver<Channel>) -> H,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Future<Output = ()>,
{
    let (sink, messages) = accept(connection).await.split();
    let (writer, frames) = mux::writer();
    let greetings = opening.greetings();
    let (channels, opened) = mpsc::channel(opening.0.len().max(1));
    let (room, mut inlets) = (Room::default(), Vec::new());
    for (id, headers) in (0_u32..).zip(opening.0) {
        let inlet = headers.map(|(headers, _)| {
            let (channel, inlet) = Channel::new(id, headers, writer.clone(), &room);
            // There is room for every one.
            let _ = channels.try_send(channel);
            inlet
        });
        inlets.push(inlet);
    }
    drop(channels);
    let reading = read_messages(messages, coding, inlets, writer.clone());
    let writing = write_frames(sink, coding, greetings, frames);
    mux::carry(handler(opened), reading, writing, writer).await;
}

/// Reads messages to the end of the connection.
async fn read_messages<M>(
    mut messages: M,
    coding: Coding,
    mut inlets: Vec<Option<Inlet>>,
    writer: Writer,
) -> io::Result<()>
where
    M: Stream<Item = Result<Message, Error>> + Unpin,
{
    while let Some(message) = messages.next().await {
        let Some(bytes) = payload(message.map_err(io::Error::other)?) else { continue };
        let (channel, bytes) = match (coding, &*bytes) {
            (_, []) => continue,
            (Coding::Binary, [END, channel]) => {
                if let Some(Some(inlet)) = inlets.get_mut(usize::from(*channel)) {
                    inlet.end();
                }
                continue;
            }
            (Coding::Binary, [channel, ..]) => (*channel, bytes.slice(1..)),
            (Coding::Base64, [digit, text @ ..]) => {
                let decoded = BASE64.decode(text).map_err(io::Error::other)?;
                (digit.wrapping_sub(b'0'), Bytes::from(decoded))
            }
        };
        if let Some(Some(inlet)) = inlets.get(usize::from(channel))
            && !bytes.is_empty()
        {
            let mut put = std::pin::pin!(inlet.put(bytes));
            // While a process does not take its input nothing is read, and no ping is answered.
            while tokio::time::timeout(PONG_EVERY, &mut put).await.is_err() {
                let _ = writer.try_send(Frame::Own(Bytes::new()));
            }
        }
    }
    Ok(())
}

/// The bytes of a message of data. tungstenite answers pings itself, and ends after a close.
fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) | Message::Close(_) => None,
    }
}

async fn write_frames<W>(
    mut sink: W,
    coding: Coding,
    greetings: Vec<(u32, Bytes)>,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()>
where
    W: futures_util::Sink<Message, Error = Error> + Unpin,
{
    for (id, bytes) in greetings {
        sink.send(message(coding, id, &bytes)).await.map_err(io::Error::other)?;
    }
    while let Some(frame) = frames.recv().await {
        match frame {
            Frame::Data(id, bytes) => {
                sink.send(message(coding, id, &bytes)).await.map_err(io::Error::other)?;
            }
            // The end of one output has no message: the client sees the end of them all.
            Frame::End(_) => {}
            Frame::Own(pong) => sink.send(Message::Pong(pong)).await.map_err(io::Error::other)?,
            Frame::Goodbye => break,
        }
    }
    sink.send(goodbye()).await.map_err(io::Error::other)
}

fn message(coding: Coding, id: u32, bytes: &[u8]) -> Message {
    let id = u8::try_from(id).unwrap_or_default();
    match coding {
        Coding::Binary => {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(id);
            message.put_slice(bytes);
            Message::Binary(message.freeze())
        }
        Coding::Base64 => {
            let mut text = String::from(char::from(b'0'.wrapping_add(id)));
            BASE64.encode_string(bytes, &mut text);
            Message::Text(text.into())
        }
    }
}

/// Carries the bytes in a WebSocket's messages to `work` and back: SPDY inside of WebSocket.
pub(super) async fn tunnel<S, H>(connection: S, work: impl FnOnce(DuplexStream) -> H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Future<Output = ()>,
{
    let (mut sink, mut messages) = accept(connection).await.split();
    let (near, far) = tokio::io::duplex(BUFFER);
    let (mut from_work, mut to_work) = tokio::io::split(far);
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            if let Some(bytes) = payload(message)
                && to_work.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        // This is how the work learns that the client is gone.
        let _ = to_work.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from_work.read(&mut buffer).await.unwrap_or(0);
            let message = match read {
                0 => goodbye(),
                _ => Message::Binary(Bytes::copy_from_slice(&buffer[..read])),
            };
            if sink.send(message).await.is_err() || read == 0 {
                break;
            }
        }
    };
    let pumps = async {
        tokio::join!(inward, outward);
        // The work ends by itself, and says its last words to nobody.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work(near) => {}
        () = pumps => {}
    }
}

#[cfg(test)]
mod tests;
