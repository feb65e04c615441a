//! Port-forward over channels: pairs of a data and an error channel, one pair a TCP connection
//! (`portforward.k8s.io`).

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use pod::Pods;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::mux::{Channel, Incoming, Outgoing};

/// One read, bytes.
const READ: usize = 32 * 1024;
/// Channels whose other half has not come yet.
const UNPAIRED_MAX: usize = 256;

/// Serves connections until the client leaves.
pub(super) async fn forward(pods: &Pods, pod: &str, ports: &[u16], mut channels: mpsc::Receiver<Channel>) {
    let mut unpaired: HashMap<String, Channel> = HashMap::new();
    let mut connections = FuturesUnordered::new();
    loop {
        let channel = tokio::select! {
            Some(()) = connections.next() => continue,
            channel = channels.recv() => channel,
        };
        let Some(channel) = channel else { break };
        // Old clients number nothing: their pairs come one after the other, by port.
        let key = match channel.header("requestid") {
            "" => channel.header("port").to_owned(),
            id => id.to_owned(),
        };
        match unpaired.remove(&key) {
            None if unpaired.len() < UNPAIRED_MAX => drop(unpaired.insert(key, channel)),
            None => tracing::warn!(pod.id = pod, "a port-forward client opens channels without their pair"),
            Some(other) => {
                let (data, error) = match channel.header("streamtype") {
                    "data" => (channel, other),
                    _ => (other, channel),
                };
                connections.push(connection(pods, pod, ports, data, error.outgoing));
            }
        }
    }
    while connections.next().await.is_some() {}
}

/// One connection, from the dialling to the end of both directions. Its error, if any, is its own.
async fn connection(pods: &Pods, pod: &str, ports: &[u16], data: Channel, error: Outgoing) {
    let dialled = match data.header("port").parse::<u16>() {
        Ok(port) if port != 0 && (ports.is_empty() || ports.contains(&port)) => {
            pods.dial(pod, port).await.map_err(|error| model::chain(&error))
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

/// Both directions, each to its own end: a half-closed connection goes on in the other half.
async fn carry(stream: TcpStream, mut incoming: Incoming, outgoing: Outgoing) -> std::io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let up = async {
        while let Some(bytes) = incoming.recv().await {
            write.write_all(&bytes).await?;
        }
        write.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; READ];
        loop {
            let bytes = read.read(&mut buffer).await?;
            if bytes == 0 || outgoing.send(Bytes::copy_from_slice(&buffer[..bytes])).await.is_err() {
                outgoing.end().await;
                return Ok(());
            }
        }
    };
    // An error in one direction ends both; an end does not.
    tokio::try_join!(up, down).map(|_| ())
}
