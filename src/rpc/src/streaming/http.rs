//! The HTTP/1.1 door: a token becomes a task, an upgrade becomes a framing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pod::Pods;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::remote::{self, Version};
use super::token::Tokens;
use super::{Task, forward, spdy, websocket};

/// How long a client may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The header in which SPDY clients and servers agree on a protocol.
const PROTOCOL: &str = "x-stream-protocol-version";
const SPDY: &str = "SPDY/3.1";
const REMOTE_PROTOCOLS: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version::Json),
    ("v3.channel.k8s.io", Version::Text),
    ("v2.channel.k8s.io", Version::Text),
    ("channel.k8s.io", Version::Text),
];
const FORWARD_PROTOCOL: &str = "portforward.k8s.io";

type Answer = Response<Full<Bytes>>;

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
        .serve_connection(TokioIo::new(connection), answer)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(error = model::chain(&error), "a streaming request");
    }
}

/// How the client wants to go on.
enum Framing {
    Spdy(Version),
    WebSocket(Version),
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
            Ok(upgraded) => carry_out(&session.pods, task, framing, TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(error = model::chain(&error), "upgrade a streaming connection"),
        }
    };
    door.sessions.spawn(until(stop, work).instrument(span));
    response
}

/// Framing and protocol, and the answer that says so.
fn agree(headers: &HeaderMap, task: &Task) -> Result<(Framing, Answer), Box<Answer>> {
    let refuse = |code, why: &str| Err(Box::new(refuse(code, why)));
    let upgrade = words(headers, UPGRADE.as_str());
    let wants = |name: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(name));
    if wants("websocket") {
        if let Task::PortForward { .. } = task {
            let why = "gantline has not built port-forward over WebSocket yet: use SPDY/3.1";
            return refuse(StatusCode::NOT_IMPLEMENTED, why);
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
            return refuse(StatusCode::BAD_REQUEST, "a WebSocket without Sec-WebSocket-Key");
        };
        let offers = words(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
        let Some(protocol) = websocket::negotiate(offers.iter().map(String::as_str)) else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "none of v5.channel.k8s.io, v4.channel.k8s.io, channel.k8s.io",
            );
        };
        let mut response = switching("websocket");
        if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
            response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if !protocol.name.is_empty() {
            let name = http::HeaderValue::from_static(protocol.name);
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, name);
        }
        return Ok((Framing::WebSocket(protocol.version), response));
    }
    if !wants(SPDY) {
        return refuse(StatusCode::BAD_REQUEST, "an upgrade to SPDY/3.1 or websocket is expected");
    }
    let offers = words(headers, PROTOCOL);
    let known: &[(&'static str, Version)] = match task {
        Task::PortForward { .. } => &[(FORWARD_PROTOCOL, Version::Text)],
        Task::Exec { .. } | Task::Attach { .. } => &REMOTE_PROTOCOLS,
    };
    // A client that offers nothing speaks the first version.
    let agreed = match offers.is_empty() {
        true => known.last(),
        false => offers.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer)),
    };
    let Some((name, version)) = agreed else {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        return refuse(StatusCode::FORBIDDEN, &format!("no known protocol: {} are", names.join(", ")));
    };
    let mut response = switching(SPDY);
    response.headers_mut().insert(PROTOCOL, http::HeaderValue::from_static(name));
    Ok((Framing::Spdy(*version), response))
}

/// The words of a header that may come several times, and hold several each.
fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|w| !w.is_empty())
        .collect()
}

fn switching(protocol: &'static str) -> Answer {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, http::HeaderValue::from_static(protocol));
    response
}

fn refuse(code: StatusCode, why: &str) -> Answer {
    let mut response = Response::new(Full::from(format!("{why}\n")));
    *response.status_mut() = code;
    response
}

async fn carry_out<S>(pods: &Pods, task: Task, framing: Framing, connection: S)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    match (task, framing) {
        (Task::Exec { container, command, wanted }, Framing::Spdy(version)) => {
            spdy::serve(connection, |c| remote::exec(pods, &container, command, wanted, version, c)).await;
        }
        (Task::Exec { container, command, wanted }, Framing::WebSocket(version)) => {
            let handler = |c| remote::exec(pods, &container, command, wanted, version, c);
            websocket::serve(connection, wanted, handler).await;
        }
        (Task::Attach { container, wanted }, Framing::Spdy(version)) => {
            spdy::serve(connection, |c| remote::attach(pods, &container, wanted, version, c)).await;
        }
        (Task::Attach { container, wanted }, Framing::WebSocket(version)) => {
            websocket::serve(connection, wanted, |c| remote::attach(pods, &container, wanted, version, c))
                .await;
        }
        (Task::PortForward { pod, ports }, Framing::Spdy(_)) => {
            spdy::serve(connection, |c| forward::forward(pods, &pod, &ports, c)).await;
        }
        // `agree` refuses it before.
        (Task::PortForward { .. }, Framing::WebSocket(_)) => {}
    }
}
