//! Port-forward over channels: pairs of a data and an error channel, one pair a TCP connection
//! (`portforward.k8s.io`).

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use pod::Pods;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::mux::{Channel, Incoming, Outgoing, READ};

/// Channels whose other half has not come yet.
const UNPAIRED_MAX: usize = 256;
/// How long a server that takes nothing any more may go on speaking.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// Serves connections until the client leaves.
pub(super) async fn forward(
    pods: &Pods,
    pod: &str,
    ports: &[u16],
    creation: Duration,
    mut channels: mpsc::Receiver<Channel>,
) {
    let mut halves = Halves::new(creation);
    let mut connections = FuturesUnordered::new();
    loop {
        let channel = tokio::select! {
            Some(()) = connections.next() => continue,
            () = tokio::time::sleep_until(halves.next_expiry()) => {
                halves.expire(Instant::now()).await;
                continue;
            }
            channel = channels.recv() => channel,
        };
        let Some(channel) = channel else { break };
        match halves.add(channel, Instant::now()) {
            Ok(Some(Pair { data, error })) => connections.push(connection(pods, pod, ports, data, error)),
            Ok(None) => {}
            Err((channel, why)) => {
                tracing::info!(pod.id = pod, error = why, "port-forward");
                refuse(*channel, why).await;
            }
        }
    }
    while connections.next().await.is_some() {}
}

/// The two channels of one connection.
#[derive(Debug)]
struct Pair {
    data: Channel,
    error: Outgoing,
}

/// Channels whose other half has not come yet, by request.
#[derive(Debug)]
struct Halves {
    /// How long one waits.
    creation: Duration,
    waiting: HashMap<String, (Instant, Channel)>,
}

impl Halves {
    fn new(creation: Duration) -> Self {
        Self { creation, waiting: HashMap::new() }
    }

    /// Joins a channel to its other half, or keeps it until that comes.
    fn add(&mut self, channel: Channel, now: Instant) -> Result<Option<Pair>, (Box<Channel>, &'static str)> {
        if !matches!(channel.header("streamtype"), "data" | "error") {
            return Err((Box::new(channel), "a channel is neither of data nor of errors"));
        }
        // Old clients number nothing: their pairs come one after the other, by port.
        let key = match channel.header("requestid") {
            "" => format!("port {}", channel.header("port")),
            id => id.to_owned(),
        };
        let Some((since, other)) = self.waiting.remove(&key) else {
            if self.waiting.len() >= UNPAIRED_MAX {
                return Err((Box::new(channel), "too many channels wait for their other half"));
            }
            self.waiting.insert(key, (now + self.creation, channel));
            return Ok(None);
        };
        match (channel.header("streamtype"), other.header("streamtype")) {
            ("data", "error") => Ok(Some(Pair { data: channel, error: other.outgoing })),
            ("error", "data") => Ok(Some(Pair { data: other, error: channel.outgoing })),
            _ => {
                self.waiting.insert(key, (since, other));
                Err((Box::new(channel), "a request has two channels of one kind"))
            }
        }
    }

    /// When the oldest will have waited for long enough; far away when there is none.
    fn next_expiry(&self) -> Instant {
        let far = Instant::now() + self.creation;
        self.waiting.values().map(|(expiry, _)| *expiry).min().unwrap_or(far)
    }

    /// Refuses those that have.
    async fn expire(&mut self, now: Instant) {
        let late: Vec<String> = self
            .waiting
            .iter()
            .filter(|(_, (expiry, _))| *expiry <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in late {
            if let Some((_, channel)) = self.waiting.remove(&key) {
                refuse(channel, "the channel's other half did not come").await;
            }
        }
    }
}

/// Ends a channel; one of errors says why.
async fn refuse(channel: Channel, why: &'static str) {
    if channel.header("streamtype") == "error" {
        let _ = channel.outgoing.send(Bytes::from_static(why.as_bytes())).await;
    }
    channel.outgoing.end().await;
}

/// One connection, from the dialling to the end of both directions. Its error, if any, is its own.
async fn connection(pods: &Pods, pod: &str, ports: &[u16], data: Channel, error: Outgoing) {
    let dialled = match data.header("port").parse::<u16>() {
        Ok(port) if port != 0 && (ports.is_empty() || ports.contains(&port)) => {
            let dialled = tokio::select! {
                dialled = pods.dial(pod, port) => dialled,
                () = data.outgoing.gone() => return,
            };
            dialled.map_err(|error| model::chain(&error))
        }
        _ => Err(format!("port {:?} was not asked for", data.header("port"))),
    };
    let failed = match dialled {
        Ok(stream) => {
            carry(stream, data.incoming, data.outgoing).await.map_err(|e| format!("forward a port: {e}"))
        }
        Err(message) => {
            data.outgoing.end().await;
            Err(message)
        }
    };
    if let Err(message) = failed {
        tracing::info!(pod.id = pod, error = message, "port-forward");
        // A client that is gone reads no error.
        let _ = error.send(Bytes::from(message)).await;
    }
    error.end().await;
}

/// Both directions, each to its own end: a half-closed connection goes on in the other half. A client that
/// resets the channel, or is gone, ends both.
async fn carry(stream: TcpStream, mut incoming: Incoming, outgoing: Outgoing) -> io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(bytes) = incoming.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            let bytes = tokio::select! {
                bytes = read.read_buf(&mut buffer) => bytes?,
                () = outgoing.gone() => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            if bytes == 0 {
                outgoing.end().await;
                return Ok(());
            }
            if outgoing.send(buffer.split().freeze()).await.is_err() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    };
    tokio::pin!(up, down);
    // An end of one direction leaves the other; an error ends both, but what a server has said before it closed on
    // what is still sent to it is heard.
    let ended = tokio::select! {
        sent = &mut up => match sent {
            Ok(()) => down.await,
            Err(error) => tokio::time::timeout(LAST_WORDS_MAX, down).await.unwrap_or(Ok(())).and(Err(error)),
        },
        heard = &mut down => match heard {
            Ok(()) => up.await,
            Err(error) => Err(error),
        },
    };
    match ended {
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
