//! WebSocket (RFC 6455) as Kubernetes speaks it for exec and attach: the first byte of each binary message
//! is the channel (`channel.k8s.io`, `v4`, `v5`; v5 adds the end of one channel).

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use pod::Wanted;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::mux::{self, Channel, Frame, Headers, Writer};
use super::remote::Version;

/// Channel numbers, which every version shares.
const STREAMS: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];
const ERROR: u32 = 3;
/// v5: this byte and a channel's number are the end of that channel.
const END: u8 = 255;
/// One message, bytes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// How long what is still to be written may take when a session is over.
const LAST_WORDS_MAX: Duration = Duration::from_secs(10);

/// A protocol that both ends know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    /// As the client offered it; empty: it offered none.
    pub(super) name: &'static str,
    /// How its errors look.
    pub(super) version: Version,
}

/// The first of the client's offers that is known here.
pub(super) fn negotiate<'a>(mut offers: impl Iterator<Item = &'a str>) -> Option<Protocol> {
    const KNOWN: [Protocol; 3] = [
        Protocol { name: "v5.channel.k8s.io", version: Version::Json },
        Protocol { name: "v4.channel.k8s.io", version: Version::Json },
        Protocol { name: "channel.k8s.io", version: Version::Text },
    ];
    let first = offers.next();
    let Some(first) = first else { return Some(Protocol { name: "", version: Version::Text }) };
    std::iter::once(first).chain(offers).find_map(|offer| KNOWN.into_iter().find(|known| known.name == offer))
}

/// Serves a connection that has been upgraded: the handler gets its channels; the connection ends when the
/// handler does.
pub(super) async fn serve<S, H>(
    connection: S,
    wanted: Wanted,
    handler: impl FnOnce(mpsc::Receiver<Channel>) -> H,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Future<Output = ()>,
{
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await;
    let (sink, messages) = socket.split();
    let (writer, frames) = mux::writer();
    let (opened, inputs) = open(wanted, &writer).await;
    let mut reading = Box::pin(read_messages(messages, inputs, writer));
    let mut writing = Box::pin(write_frames(sink, frames));
    let mut handling = std::pin::pin!(handler(opened));
    tokio::select! {
        () = &mut handling => {
            drop(reading);
            if tokio::time::timeout(LAST_WORDS_MAX, writing).await.is_err() {
                tracing::debug!("a streaming client reads too slowly for its last bytes");
            }
        }
        () = &mut reading => {
            drop(writing);
            handling.await;
        }
        _ = &mut writing => {
            drop(reading);
            drop(writing);
            handling.await;
        }
    }
}

/// All channels are there from the beginning. An empty message tells the client that the session is.
async fn open(
    wanted: Wanted,
    writer: &Writer,
) -> (mpsc::Receiver<Channel>, Vec<Option<mpsc::Sender<Bytes>>>) {
    let (channels, opened) = mpsc::channel(STREAMS.len());
    let asked = [wanted.stdin, wanted.stdout, wanted.stderr, true, wanted.tty];
    let mut inputs = Vec::new();
    for (id, (name, asked)) in (0_u32..).zip(STREAMS.into_iter().zip(asked)) {
        if !asked {
            inputs.push(None);
            continue;
        }
        let headers = Headers::from([("streamtype".to_owned(), name.to_owned())]);
        let (channel, sender) = Channel::new(id, headers, writer.clone());
        inputs.push(Some(sender));
        // There is room for every one.
        let _ = channels.send(channel).await;
    }
    let first_output = if wanted.stdout {
        1
    } else if wanted.stderr {
        2
    } else {
        ERROR
    };
    let _ = writer.send(Frame::Data(first_output, Bytes::new())).await;
    (opened, inputs)
}

/// Reads messages to the end of the connection. Holds a writer, so that the connection lives as long.
async fn read_messages<M>(mut messages: M, mut inputs: Vec<Option<mpsc::Sender<Bytes>>>, _writer: Writer)
where
    M: Stream<Item = Result<Message, Error>> + Unpin,
{
    loop {
        let bytes = match messages.next().await {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => text.into(),
            // tungstenite answers pings itself.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) | None => return,
            Some(Err(error)) => {
                tracing::debug!(%error, "a WebSocket connection ends");
                return;
            }
        };
        match *bytes {
            [END, channel] => {
                if let Some(input) = inputs.get_mut(usize::from(channel)) {
                    *input = None;
                }
            }
            [channel, _, ..] => {
                if let Some(Some(input)) = inputs.get(usize::from(channel)) {
                    // A process that reads no more is no fault of the client's.
                    let _ = input.send(bytes.slice(1..)).await;
                }
            }
            _ => {}
        }
    }
}

async fn write_frames<W>(mut sink: W, mut frames: mpsc::Receiver<Frame>) -> Result<(), Error>
where
    W: futures_util::Sink<Message, Error = Error> + Unpin,
{
    while let Some(frame) = frames.recv().await {
        if let Frame::Data(id, bytes) = frame {
            let mut message = BytesMut::with_capacity(1 + bytes.len());
            message.put_u8(u8::try_from(id).unwrap_or_default());
            message.put_slice(&bytes);
            sink.send(Message::Binary(message.freeze())).await?;
        }
        // The end of one output has no message: the client sees the end of them all.
    }
    sink.send(Message::Close(None)).await?;
    sink.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_offer_counts() {
        let name = |offers: &[&str]| negotiate(offers.iter().copied()).map(|protocol| protocol.name);
        assert_eq!(name(&["v5.channel.k8s.io", "v4.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        assert_eq!(name(&["v9.channel.k8s.io", "channel.k8s.io"]), Some("channel.k8s.io"));
        assert_eq!(name(&[]), Some(""));
        assert_eq!(name(&["base64.channel.k8s.io"]), None);
    }
}
