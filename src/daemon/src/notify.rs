//! What the service tells systemd (sd_notify(3)). Without systemd all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Requests are accepted.
pub(crate) fn ready() {
    send(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// No new requests are taken.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("finishing requests under way; pods keep running")]);
}

/// Tells systemd's watchdog, where it is set, that the calling runtime still runs tasks. Never returns: it
/// is a task, and that it is polled is what it reports.
pub(crate) async fn heartbeat() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(interval(limit));
    loop {
        tick.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

/// Three times in the watchdog's time, so that one late tick does no harm.
fn interval(limit: Duration) -> Duration {
    (limit / 3).max(Duration::from_millis(1))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "tell systemd");
    }
}
