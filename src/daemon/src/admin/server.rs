//! HTTP/1 on the admin socket and on the metrics address: routes, and answers as one body or as lines.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::story::WhyBody;
use super::{Phase, Shown, collect, events, status, story, top};
use crate::jobs;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A request's body, bytes: a reference and credentials.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take for its request line and headers.
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Reports that a slow reader may lag behind.
const EVENTS_MAX: usize = 4;

/// Which routes a listener has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The Unix socket, mode 0600: root alone.
    Admin,
    /// TCP, without authentication.
    Metrics,
}

/// Serves until `stop`.
pub(super) async fn serve(
    shown: Arc<Shown>,
    unix: UnixListener,
    tcp: Option<TcpListener>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = unix.accept() => accepted.map(|(stream, _)| Stream::Unix(stream)),
            accepted = accept(tcp.as_ref()) => accepted.map(Stream::Tcp),
        };
        let shown = Arc::clone(&shown);
        match accepted {
            Ok(Stream::Unix(stream)) => {
                tokio::spawn(async move {
                    connection(stream, shown, Door::Admin).await;
                    drop(permit);
                });
            }
            Ok(Stream::Tcp(stream)) => {
                tokio::spawn(async move {
                    connection(stream, shown, Door::Metrics).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn accept(tcp: Option<&TcpListener>) -> std::io::Result<tokio::net::TcpStream> {
    match tcp {
        Some(tcp) => tcp.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn connection<S>(stream: S, shown: Arc<Shown>, door: Door)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shown = Arc::clone(&shown);
        async move { Ok::<_, Infallible>(answer(request, &shown, door).await) }
    });
    // A client that breaks off is no event for anybody.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, shown: &Arc<Shown>, door: Door) -> Response<Answer> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str(), door) {
        (&Method::GET, "/metrics", _) => {
            collect::collect(shown);
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            let form = telemetry::Exposition::wanted(accept);
            text(StatusCode::OK, form.content_type(), shown.metrics.encode(form))
        }
        (&Method::GET, "/healthz", _) => plain(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz", _) => match shown.phase() {
            Phase::Serving => plain(StatusCode::OK, "ok\n"),
            phase => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", phase.word())),
        },
        (&Method::GET, "/status", Door::Admin) => json(&status::tell(shown)),
        (&Method::GET, "/top", Door::Admin) => match shown.node.get() {
            Some(node) => match top::tell(&node.pods).await {
                Ok(told) => json(&told),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", model::chain(&error))),
            },
            None => starting(),
        },
        (&Method::GET, "/debug/state", Door::Admin) => match shown.node.get() {
            Some(node) => json(&node.debug()),
            None => starting(),
        },
        (&Method::POST, "/why", Door::Admin) => match (shown.node.get(), body::<WhyBody>(request).await) {
            (None, _) => starting(),
            (_, Err(refusal)) => refusal,
            (Some(node), Ok(body)) => json(&story::tell(&node.pods, &body.pod)),
        },
        (&Method::POST, "/events", Door::Admin) => match (shown.node.get(), body(request).await) {
            (None, _) => starting(),
            (_, Err(refusal)) => refusal,
            (Some(node), Ok(body)) => lines(shown, |lines| events::tell(node.pods.clone(), body, lines)),
        },
        (&Method::POST, "/pull", Door::Admin) => match (shown.node.get(), body(request).await) {
            (None, _) => starting(),
            (_, Err(refusal)) => refusal,
            (Some(node), Ok(body)) => lines(shown, |events| jobs::pull(node.images.clone(), body, events)),
        },
        (&Method::POST, "/import", Door::Admin) => match (shown.node.get(), body(request).await) {
            (None, _) => starting(),
            (_, Err(refusal)) => refusal,
            (Some(node), Ok(body)) => lines(shown, |events| jobs::import(node.images.clone(), body, events)),
        },
        _ => plain(StatusCode::NOT_FOUND, "no such path\n"),
    }
}

/// Runs a job on the main runtime and answers with its events, one a line.
fn lines<T, J>(shown: &Shown, job: impl FnOnce(mpsc::Sender<T>) -> J) -> Response<Answer>
where
    T: Serialize + Send + 'static,
    J: Future<Output = ()> + Send + 'static,
{
    let (events, mut received) = mpsc::channel(EVENTS_MAX);
    shown.main.spawn(job(events));
    let next = move |cx: &mut Context<'_>| {
        received.poll_recv(cx).map(|event| {
            let mut line = serde_json::to_vec(&event?).unwrap_or_default();
            line.push(b'\n');
            Some(line.into())
        })
    };
    respond(StatusCode::OK, "application/x-ndjson", Answer::Lines(Box::new(next)))
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Response<Answer>> {
    let refuse = |why: String| plain(StatusCode::BAD_REQUEST, format!("{why}\n"));
    let limited = Limited::new(request.into_body(), BODY_BYTES_MAX);
    let bytes = limited.collect().await.map_err(|error| refuse(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))
}

fn starting() -> Response<Answer> {
    plain(StatusCode::SERVICE_UNAVAILABLE, "the service is starting; try again\n")
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    text(status, "text/plain; charset=utf-8", body)
}

fn json(value: &impl serde::Serialize) -> Response<Answer> {
    match serde_json::to_vec(value) {
        Ok(bytes) => text(StatusCode::OK, "application/json", bytes),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    respond(status, kind, Answer::Whole(Some(body.into())))
}

fn respond(status: StatusCode, kind: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

type NextLine = Box<dyn FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send>;

/// The body of an answer.
enum Answer {
    /// All at once.
    Whole(Option<Bytes>),
    /// As it happens.
    Lines(NextLine),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(next) => next(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }
}
