//! The gRPC server on its Unix socket: connections in, services behind the layer, a graceful end.

use std::io;
use std::time::Duration;

use api::served::image_service_server::ImageServiceServer;
use api::served::runtime_service_server::RuntimeServiceServer;
use futures_util::stream::{self, Stream};
use model::limits::GRPC_MESSAGE_BYTES_MAX;
use model::{Classify, ErrorKind};
use telemetry::Operations;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;

use crate::authority::Tolerant;
use crate::layer::{Readiness, RequestLayer};
use crate::{ImageRpc, RuntimeRpc};

/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// HTTP/2 windows, bytes: a message of CRI's usual size arrives without waiting for an update.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The server could not go on.
#[derive(Debug, thiserror::Error)]
#[error("serve CRI on the socket")]
pub struct ServeError(#[source] tonic::transport::Error);

impl Classify for ServeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }
}

/// Serves until `stop` resolves, then takes no more requests and gives those under way `grace` to end.
///
/// # Errors
/// [`ServeError`], when HTTP/2 itself cannot be served. A client's misbehaviour is no error.
pub async fn serve(
    listener: UnixListener,
    runtime: RuntimeRpc,
    image: ImageRpc,
    readiness: Readiness,
    operations: Operations,
    stop: impl Future<Output = ()>,
    grace: Duration,
) -> Result<(), ServeError> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let streams_end = runtime.drain();
    let runtime = RuntimeServiceServer::new(runtime)
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let image = ImageServiceServer::new(image)
        .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .layer(RequestLayer { operations, readiness })
        .add_service(runtime)
        .add_service(image)
        .serve_with_incoming_shutdown(incoming(listener), async move {
            // The sender lives as long as this future does.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(ServeError),
        () = stop => {}
    }
    // Event streams have no end of their own.
    streams_end.cancel();
    stopping.send_replace(true);
    match tokio::time::timeout(grace, server).await {
        Ok(ended) => ended.map_err(ServeError),
        Err(_) => {
            tracing::warn!(
                "requests were still under way after {grace:?}; their jobs go on at the next start"
            );
            Ok(())
        }
    }
}

/// Connections, one after the other. A failed accept is never the end of the server.
fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Tolerant<UnixStream>>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(Tolerant::new(connection)), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accept a CRI connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
