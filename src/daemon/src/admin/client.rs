//! The commands' end of the admin socket.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// One line of an answer, bytes: the progress of 500 layers fits many times.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Why the service could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nobody serves the socket.
    #[error("no service answers at {0}; start `gantline serve`")]
    NotRunning(PathBuf),
    /// The socket is not ours to use.
    #[error("{0} may only be used by root")]
    Denied(PathBuf),
    /// The connection failed.
    #[error("connect to {path}")]
    Connect {
        /// The admin socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The exchange broke off: the service was stopped, or is not ours.
    #[error("{path} on the admin socket")]
    Http {
        /// What was asked.
        path: &'static str,
        /// What went wrong.
        #[source]
        source: hyper::Error,
    },
    /// The service refused, and said why.
    #[error("the service answered {status}: {message}")]
    Refused {
        /// HTTP's word for it.
        status: StatusCode,
        /// Its own words.
        message: String,
    },
    /// The answer is not what this version understands.
    #[error("the service's answer to {path} is not understood; is it of another version?")]
    Answer {
        /// What was asked.
        path: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks for one JSON value.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &'static str) -> Result<T, AskError> {
    whole(send(socket, Method::GET, path, Bytes::new()).await?, path).await
}

/// Asks with a body for one JSON value.
pub(crate) async fn ask<T: DeserializeOwned>(
    socket: &Path,
    path: &'static str,
    body: &impl Serialize,
) -> Result<T, AskError> {
    let body = serde_json::to_vec(body).map_err(|source| AskError::Answer { path, source })?;
    whole(send(socket, Method::POST, path, body.into()).await?, path).await
}

async fn whole<T: DeserializeOwned>(response: Response<Incoming>, path: &'static str) -> Result<T, AskError> {
    let body = response.into_body().collect().await.map_err(|source| AskError::Http { path, source })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|source| AskError::Answer { path, source })
}

/// Asks for work and passes on what it reports, one JSON value a line, until its end.
pub(crate) async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &'static str,
    body: &impl Serialize,
    events: mpsc::Sender<T>,
) -> Result<(), AskError> {
    let body = serde_json::to_vec(body).map_err(|source| AskError::Answer { path, source })?;
    let mut response = send(socket, Method::POST, path, body.into()).await?;
    let mut pending = Vec::new();
    while let Some(frame) = response.frame().await {
        let frame = frame.map_err(|source| AskError::Http { path, source })?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let event = serde_json::from_slice(&line).map_err(|source| AskError::Answer { path, source })?;
            // Whoever watched has gone; the service finishes all the same.
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        if pending.len() > LINE_BYTES_MAX {
            let message = format!("a line of more than {LINE_BYTES_MAX} bytes");
            return Err(AskError::Refused { status: StatusCode::OK, message });
        }
    }
    Ok(())
}

async fn send(
    socket: &Path,
    method: Method,
    path: &'static str,
    body: Bytes,
) -> Result<Response<Incoming>, AskError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NotRunning(socket.to_owned()),
        io::ErrorKind::PermissionDenied => AskError::Denied(socket.to_owned()),
        _ => AskError::Connect { path: socket.to_owned(), source },
    })?;
    let http = |source| AskError::Http { path, source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // Its errors come out of the request as well.
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = hyper::Uri::from_static(path);
    request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("gantline"));
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let body = response.into_body().collect().await.map_err(http)?.to_bytes();
    let message = String::from_utf8_lossy(&body).trim().to_owned();
    Err(AskError::Refused { status, message })
}
