//! The HTTP/1.1 door: a token becomes a task, an upgrade becomes a framing.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pod::Pods;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::agree::{Answer, Framing, agree, refuse};
use super::idle::Watched;
use super::tls::Tls;
use super::websocket::Opening;
use super::{AdmitError, Shared, StreamingServer, Task, forward, remote, spdy, websocket};

/// How long a client may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// A request's head, bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Connections beside those of sessions: clients on their way in, and those that are refused.
const DOOR_CONNECTIONS_MAX: usize = 64;
/// How often certificates are looked at that no client has asked for.
const TLS_LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long to wait before accepting again when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

struct Door {
    shared: Arc<Shared>,
    pods: Pods,
    work: TaskTracker,
    stop: CancellationToken,
}

/// Accepts until `stop`; sessions are ended then.
pub(super) async fn serve(server: StreamingServer, pods: Pods, stop: CancellationToken) {
    let StreamingServer { listener, tls, shared } = server;
    let places = Arc::new(Semaphore::new(shared.config.sessions_max.saturating_add(DOOR_CONNECTIONS_MAX)));
    let door = Arc::new(Door { shared, pods, work: TaskTracker::new(), stop: stop.clone() });
    if let Some(tls) = &tls {
        door.work.spawn(until(stop.clone(), look_after(Arc::clone(tls))));
    }
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((connection, place)) => {
                // Keystrokes are small, and each is waited for.
                let _ = connection.set_nodelay(true);
                let greeted = greet(Arc::clone(&door), tls.clone(), connection, Arc::new(place));
                door.work.spawn(until(stop.clone(), greeted));
            }
            Err(error) => {
                tracing::warn!(%error, "accept a streaming connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    door.work.close();
    door.work.wait().await;
}

/// The next connection, once there is a place for it; the others wait in the kernel.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    listener.accept().await.map(|(connection, _)| (connection, place))
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Sees bad certificates that nobody has asked for yet.
async fn look_after(tls: Arc<Tls>) {
    loop {
        tokio::time::sleep(TLS_LOOK_EVERY).await;
        let _ = configuration(&tls).await;
    }
}

async fn configuration(tls: &Arc<Tls>) -> Option<Arc<rustls::ServerConfig>> {
    let tls = Arc::clone(tls);
    tokio::task::spawn_blocking(move || tls.current()).await.ok()
}

async fn greet(
    door: Arc<Door>,
    tls: Option<Arc<Tls>>,
    connection: TcpStream,
    place: Arc<OwnedSemaphorePermit>,
) {
    let Some(tls) = tls else { return converse(door, connection, place).await };
    let Some(config) = configuration(&tls).await else { return };
    let handshake = TlsAcceptor::from(config).accept(connection);
    match tokio::time::timeout(HEAD_MAX, handshake).await {
        Ok(Ok(secured)) => converse(door, secured, place).await,
        Ok(Err(error)) => tracing::info!(%error, "a streaming client's TLS handshake"),
        Err(_) => tracing::debug!("a streaming client's TLS handshake took too long"),
    }
}

async fn converse<S>(door: Arc<Door>, connection: S, place: Arc<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let answer = service_fn(move |request| {
        let (door, place) = (Arc::clone(&door), Arc::clone(&place));
        async move { Ok::<_, Infallible>(answer(&door, request, place)) }
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

fn answer(door: &Arc<Door>, mut request: Request<Incoming>, place: Arc<OwnedSemaphorePermit>) -> Answer {
    // Before the token is spent: the client may come again with it.
    let Ok(session) = Arc::clone(&door.shared.sessions).try_acquire_owned() else {
        let why = AdmitError::Sessions { max: door.shared.config.sessions_max };
        return refuse(StatusCode::SERVICE_UNAVAILABLE, &why.to_string());
    };
    let (word, token) = request.uri().path().trim_start_matches('/').split_once('/').unwrap_or_default();
    let Some(task) = door.shared.tokens.redeem(token).filter(|task| task.word() == word) else {
        return refuse(StatusCode::NOT_FOUND, "the token is unknown, spent or too old");
    };
    let (framing, response) = match agree(request.headers(), &task) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (inside, stop) = (Arc::clone(door), door.stop.clone());
    let span = tracing::info_span!("stream", task = task.word());
    let work = async move {
        match upgrade.await {
            Ok(upgraded) => {
                let config = &inside.shared.config;
                let connection = Watched::new(TokioIo::new(upgraded), config.idle);
                carry_out(&inside.pods, task, framing, config.creation, connection).await;
            }
            Err(error) => tracing::debug!(error = model::chain(&error), "upgrade a streaming connection"),
        }
        drop((session, place));
    };
    door.work.spawn(until(stop, work).instrument(span));
    response
}

async fn carry_out<S>(pods: &Pods, task: Task, framing: Framing, creation: Duration, connection: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match task {
        Task::Exec { container, command, wanted } => match framing {
            Framing::Spdy(version) => {
                spdy::serve(connection, |c| {
                    remote::exec(pods, &container, command, wanted, version, creation, c)
                })
                .await;
            }
            Framing::WebSocket(coding, version) => {
                let handler = |c| remote::exec(pods, &container, command, wanted, version, creation, c);
                websocket::serve(connection, coding, Opening::remote(wanted), handler).await;
            }
            // Agreed upon for port-forward alone.
            Framing::Tunnel => {}
        },
        Task::Attach { container, wanted } => match framing {
            Framing::Spdy(version) => {
                spdy::serve(connection, |c| remote::attach(pods, &container, wanted, version, creation, c))
                    .await;
            }
            Framing::WebSocket(coding, version) => {
                let handler = |c| remote::attach(pods, &container, wanted, version, creation, c);
                websocket::serve(connection, coding, Opening::remote(wanted), handler).await;
            }
            Framing::Tunnel => {}
        },
        Task::PortForward { pod, ports } => {
            let handler = |c| forward::forward(pods, &pod, &ports, creation, c);
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
