//! The end of the service: which signals mean it, and who is told. Pods are not among those who are told.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Resolves for everybody who waits once the service is to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain(CancellationToken);

impl Drain {
    /// The service is to end.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }

    /// For rooms that end with the service.
    pub(crate) fn token(&self) -> CancellationToken {
        self.0.clone()
    }

    /// Resolves when it is.
    pub(crate) async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// SIGTERM, SIGINT: stop serving.
    Stop,
    /// SIGHUP: read `log.level` again.
    Reload,
}

/// The signals that this process acts on. While it exists they no longer kill the process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over. Must be called in a tokio runtime.
    pub(crate) fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}
