//! The HTTP/1.1 door: a token becomes a task, an upgrade becomes a framing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::limits::STREAM_IDLE_MAX;
use pod::Pods;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::agree::{Answer, Framing, agree, refuse};
use super::idle::Watched;
use super::token::Tokens;
use super::websocket::Opening;
use super::{Task, forward, remote, spdy, websocket};

/// How long a client may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// A request's head, bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

struct Door {
    tokens: Arc<Tokens>,
    pods: Pods,
    sessions: TaskTracker,
    stop: CancellationToken,
}

/// Accepts until `stop`; sessions are ended then.
pub(super) async fn serve(listener: TcpListener, tokens: Arc<Tokens>, pods: Pods, stop: CancellationToken) {
    let door = Arc::new(Door { tokens, pods, sessions: TaskTracker::new(), stop: stop.clone() });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((connection, _)) => {
                // Keystrokes are small, and each is waited for.
                let _ = connection.set_nodelay(true);
                door.sessions.spawn(until(stop.clone(), converse(Arc::clone(&door), connection)));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a streaming connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    door.sessions.close();
    door.sessions.wait().await;
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

async fn converse(door: Arc<Door>, connection: TcpStream) {
    let answer = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(answer(&door, request)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(connection), answer)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(error = model::chain(&error), "a streaming request");
    }
}

fn answer(door: &Arc<Door>, mut request: Request<Incoming>) -> Answer {
    let (word, token) = request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
    let Some(task) = door.tokens.redeem(token).filter(|task| task.word() == word) else {
        return refuse(StatusCode::NOT_FOUND, "the token is unknown, spent or older than a minute");
    };
    let (framing, response) = match agree(request.headers(), &task) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (session, stop) = (Arc::clone(door), door.stop.clone());
    let span = tracing::info_span!("stream", task = task.word());
    let work = async move {
        match upgrade.await {
            Ok(upgraded) => {
                let connection = Watched::new(TokioIo::new(upgraded), STREAM_IDLE_MAX);
                carry_out(&session.pods, task, framing, connection).await;
            }
            Err(error) => tracing::debug!(error = model::chain(&error), "upgrade a streaming connection"),
        }
    };
    door.sessions.spawn(until(stop, work).instrument(span));
    response
}

async fn carry_out<S>(pods: &Pods, task: Task, framing: Framing, connection: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    match task {
        Task::Exec { container, command, wanted } => match framing {
            Framing::Spdy(version) => {
                spdy::serve(connection, |c| remote::exec(pods, &container, command, wanted, version, c))
                    .await;
            }
            Framing::WebSocket(coding, version) => {
                let handler = |c| remote::exec(pods, &container, command, wanted, version, c);
                websocket::serve(connection, coding, Opening::remote(wanted), handler).await;
            }
            // Agreed upon for port-forward alone.
            Framing::Tunnel => {}
        },
        Task::Attach { container, wanted } => match framing {
            Framing::Spdy(version) => {
                spdy::serve(connection, |c| remote::attach(pods, &container, wanted, version, c)).await;
            }
            Framing::WebSocket(coding, version) => {
                let handler = |c| remote::attach(pods, &container, wanted, version, c);
                websocket::serve(connection, coding, Opening::remote(wanted), handler).await;
            }
            Framing::Tunnel => {}
        },
        Task::PortForward { pod, ports } => {
            let handler = |c| forward::forward(pods, &pod, &ports, c);
            match framing {
                Framing::Spdy(_) => spdy::serve(connection, handler).await,
                Framing::WebSocket(coding, _) => {
                    websocket::serve(connection, coding, Opening::forward(&ports), handler).await;
                }
                Framing::Tunnel => {
                    websocket::tunnel(connection, |inner| spdy::serve(inner, handler)).await;
                }
            }
        }
    }
}
