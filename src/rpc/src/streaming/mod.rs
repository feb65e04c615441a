//! The streaming server: exec, attach and port-forward for a client that came with a one-time token.
//!
//! ```text
//! CRI Exec ──► token ──► URL      client ──► http: token ──► agree: spdy │ websocket   (framings)
//!                                                              └─► mux: channels  (one abstraction)
//!                                                                    ├─► remote: exec, attach ──► pod
//!                                                                    └─► forward ──► pod
//! ```
//! Plain HTTP on loopback where no certificate is configured: the kubelet, on the same node, is the only one who
//! is told a token.

mod agree;
mod fd;
mod forward;
mod http;
mod idle;
mod mux;
mod remote;
mod spdy;
mod tls;
mod token;
mod websocket;
mod window;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use model::limits::{
    STREAM_CREATION_DEFAULT, STREAM_IDLE_DEFAULT, STREAM_SESSIONS_DEFAULT, STREAM_TOKEN_DEFAULT,
};
use model::{Classify, ErrorKind};
use pod::{Pods, Wanted};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use tls::{TlsError, TlsFiles};
pub use token::TokensFull;

use tls::Tls;
use token::Tokens;

/// What a token lets its holder do, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Run a command.
    Exec {
        /// Where.
        container: String,
        /// What.
        command: Vec<String>,
        /// With which streams.
        wanted: Wanted,
    },
    /// Join the container's own streams.
    Attach {
        /// Which container.
        container: String,
        /// Which of them.
        wanted: Wanted,
    },
    /// Connect to ports.
    PortForward {
        /// Of which pod.
        pod: String,
        /// Which; none is any.
        ports: Vec<u16>,
    },
}

impl Task {
    /// The first part of its URL's path.
    fn word(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
            Self::PortForward { .. } => "portforward",
        }
    }
}

/// What the streaming server keeps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamingConfig {
    /// How long a connection may go without a byte in either direction before it counts as lost.
    pub idle: Duration,
    /// How long a client may take to open the channels that belong together.
    pub creation: Duration,
    /// How long a URL is good.
    pub token: Duration,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Whether and how it speaks TLS.
    pub tls: Option<TlsFiles>,
}

impl Default for StreamingConfig {
    fn default() -> Self {
        Self {
            idle: STREAM_IDLE_DEFAULT,
            creation: STREAM_CREATION_DEFAULT,
            token: STREAM_TOKEN_DEFAULT,
            sessions_max: STREAM_SESSIONS_DEFAULT,
            tls: None,
        }
    }
}

/// The streaming server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket is of no use.
    #[error("take over the streaming server's socket")]
    Socket(#[source] io::Error),
    /// Not with these certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Classify for ListenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Socket(error) => model::error::io_kind(error),
            Self::Tls(error) => error.kind(),
        }
    }
}

/// No URL is given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// As many sessions run as may.
    #[error("{max} streaming sessions run, which is streaming.sessions_max: end some, or raise it")]
    Sessions {
        /// The setting.
        max: usize,
    },
    /// No token.
    #[error(transparent)]
    Tokens(#[from] TokensFull),
}

impl Classify for AdmitError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Sessions { .. } => ErrorKind::Busy,
            Self::Tokens(error) => error.kind(),
        }
    }
}

/// Gives out URLs.
#[derive(Clone, Debug)]
pub struct Streaming {
    scheme: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the one who gives out URLs and the one who serves them share.
#[derive(Debug)]
struct Shared {
    tokens: Tokens,
    /// One permit a session.
    sessions: Arc<Semaphore>,
    config: StreamingConfig,
}

/// Serves them.
#[derive(Debug)]
pub struct StreamingServer {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    shared: Arc<Shared>,
}

impl Streaming {
    /// Reads the certificates, then takes over a non-blocking listener. Must be called in a runtime.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(
        listener: std::net::TcpListener,
        config: StreamingConfig,
    ) -> Result<(Self, StreamingServer), ListenError> {
        let tls = config.tls.clone().map(Tls::load).transpose()?.map(Arc::new);
        let listener = TcpListener::from_std(listener).map_err(ListenError::Socket)?;
        let bound = listener.local_addr().map_err(ListenError::Socket)?;
        if tls.is_none() && !bound.ip().is_loopback() {
            tracing::warn!(
                address = %bound,
                "streaming is reachable from other machines without TLS: set streaming.tls_certificate",
            );
        }
        let shared = Arc::new(Shared {
            tokens: Tokens::new(config.token),
            sessions: Arc::new(Semaphore::new(config.sessions_max)),
            config,
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let urls = Self { scheme, address: reachable(bound), shared: Arc::clone(&shared) };
        Ok((urls, StreamingServer { listener, tls, shared }))
    }

    /// Where a client on this node finds it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sessions that run, and tokens that are out.
    pub fn levels(&self) -> (usize, usize) {
        let free = self.shared.sessions.available_permits();
        (self.shared.config.sessions_max.saturating_sub(free), self.shared.tokens.out())
    }

    /// An absolute URL that does this task once, while its token is good.
    pub(crate) fn admit(&self, task: Task) -> Result<String, AdmitError> {
        if self.shared.sessions.available_permits() == 0 {
            return Err(AdmitError::Sessions { max: self.shared.config.sessions_max });
        }
        let word = task.word();
        let token = self.shared.tokens.issue(task)?;
        Ok(format!("{}://{}/{word}/{token}", self.scheme, self.address))
    }
}

/// A server that listens everywhere is found on loopback, by the kubelet of its node.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

impl StreamingServer {
    /// Serves until `stop` is cancelled; sessions end then, the processes behind them do not.
    pub async fn serve(self, pods: Pods, stop: CancellationToken) {
        http::serve(self, pods, stop).await;
    }
}
