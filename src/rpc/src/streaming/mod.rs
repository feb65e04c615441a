//! The streaming server: exec, attach and port-forward for a client that came with a one-time token.
//!
//! ```text
//! CRI Exec ──► token ──► URL      client ──► http: token ──► agree: spdy │ websocket   (framings)
//!                                                              └─► mux: channels  (one abstraction)
//!                                                                    ├─► remote: exec, attach ──► pod
//!                                                                    └─► forward ──► pod
//! ```
//! Plain HTTP on loopback: the kubelet, on the same node, is the only one who is told a token.

mod agree;
mod fd;
mod forward;
mod http;
mod idle;
mod mux;
mod remote;
mod spdy;
mod token;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use model::{Classify, ErrorKind};
use pod::{Pods, Wanted};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use token::TokensFull;

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

/// The streaming server could not listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for streaming on {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl Classify for ListenError {
    fn kind(&self) -> ErrorKind {
        model::error::io_kind(&self.source)
    }
}

/// Gives out URLs.
#[derive(Clone, Debug)]
pub struct Streaming {
    address: SocketAddr,
    tokens: Arc<Tokens>,
}

/// Serves them.
#[derive(Debug)]
pub struct StreamingServer {
    listener: TcpListener,
    tokens: Arc<Tokens>,
}

impl Streaming {
    /// Listens; port 0 is any free one.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn listen(address: SocketAddr) -> Result<(Self, StreamingServer), ListenError> {
        let failed = |source| ListenError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let tokens = Arc::new(Tokens::default());
        Ok((Self { address: bound, tokens: Arc::clone(&tokens) }, StreamingServer { listener, tokens }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An absolute URL that does this task once, within a minute.
    pub(crate) fn admit(&self, task: Task) -> Result<String, TokensFull> {
        let word = task.word();
        let token = self.tokens.issue(task)?;
        Ok(format!("http://{}/{word}/{token}", self.address))
    }
}

impl StreamingServer {
    /// Serves until `stop` is cancelled; sessions end then, the processes behind them do not.
    pub async fn serve(self, pods: Pods, stop: CancellationToken) {
        http::serve(self.listener, self.tokens, pods, stop).await;
    }
}
