//! The service's own door, beside CRI: metrics and health over HTTP for machines, pulls and status over a
//! Unix socket for `gantline pull`, `import`, `status`, `top`, `events` and `why`.
//!
//! It runs on a thread and a runtime of its own, so that a busy request path cannot starve it. Work that it
//! is asked for runs on the main runtime. The TCP listener has metrics and health alone.

pub(crate) mod api;
pub(crate) mod client;
mod collect;
pub(crate) mod events;
mod node;
mod server;
pub(crate) mod status;
pub(crate) mod story;
pub(crate) mod top;

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::{Instant, UNIX_EPOCH};

use telemetry::Metrics;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

pub(crate) use node::{Node, TellConditions};

/// Where the service is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Opening its rooms.
    Starting,
    /// Taking over what was running; Version, Status and ImageFsInfo are answered.
    Recovering,
    /// Answering everything.
    Serving,
    /// Finishing what is under way.
    Draining,
}

impl Phase {
    /// In one word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// What the door shows. The service writes, the admin thread reads.
pub(crate) struct Shown {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) socket: PathBuf,
    started: Instant,
    /// The same, seconds since 1970.
    started_at: f64,
    phase: RwLock<Phase>,
    recovery_ms: OnceLock<u64>,
    node: OnceLock<Node>,
    /// The main runtime, where pulls run.
    main: Handle,
}

impl Shown {
    /// A service that starts. Must be called in the main runtime.
    pub(crate) fn new(metrics: Arc<Metrics>, socket: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            socket,
            started: Instant::now(),
            started_at: UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64()),
            phase: RwLock::new(Phase::Starting),
            recovery_ms: OnceLock::new(),
            node: OnceLock::new(),
            main: Handle::current(),
        })
    }

    /// The rooms are open.
    pub(crate) fn opened(&self, node: Node) {
        // Opened once; a second set would be a bug that changes nothing.
        let _ = self.node.set(node);
        self.enter(Phase::Recovering);
    }

    /// What was running has been taken over.
    pub(crate) fn recovered(&self) {
        let elapsed = self.started.elapsed().as_millis();
        let _ = self.recovery_ms.set(u64::try_from(elapsed).unwrap_or(u64::MAX));
        self.enter(Phase::Serving);
    }

    /// The service is now in this phase. Draining is never left.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut now = self.phase.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *now != Phase::Draining {
            *now = phase;
        }
    }

    /// Where the service is in its life.
    pub(crate) fn phase(&self) -> Phase {
        let phase = *self.phase.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        // The pod room's own word, as for everybody else: it turns true a moment before this is told.
        let recovered = self.node.get().is_some_and(|node| node.pods.is_recovered());
        if phase == Phase::Recovering && recovered { Phase::Serving } else { phase }
    }
}

/// The admin thread. Dropped, it ends.
pub(crate) struct Admin {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves on the Unix socket, and on TCP where that is wanted. Both must be non-blocking.
    pub(crate) fn start(shown: Arc<Shown>, unix: UnixListener, tcp: Option<TcpListener>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (unix, tcp) = {
            let _in = runtime.enter();
            let tcp = tcp.map(tokio::net::TcpListener::from_std).transpose()?;
            (tokio::net::UnixListener::from_std(unix)?, tcp)
        };
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(server::serve(shown, unix, tcp, stopped)))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It panicked, then; the hook has logged that.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
