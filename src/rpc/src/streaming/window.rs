//! Flow control of one channel, for a framing that has it (SPDY Protocol, Draft 3.1, 2.6.8).
//!
//! Kubernetes' clients keep no windows, and would wait for ever for an end that insisted on theirs. A client that
//! sends WINDOW_UPDATE, or an initial window, does keep them: from then on nothing goes beyond what it allows. What
//! is taken from a client is given back to it in any case (ADR 110).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What a stream may send before the first update, bytes.
pub(super) const INITIAL: i64 = 64 * 1024;
/// The largest window, bytes.
const MAX: i64 = i32::MAX as i64;

/// Whether the client of a connection keeps windows.
pub(super) type Kept = Arc<AtomicBool>;

/// What may still be sent on one channel.
#[derive(Debug)]
pub(super) struct Window {
    kept: Kept,
    left: Mutex<i64>,
    grown: Notify,
}

impl Window {
    pub(super) fn new(kept: Kept, initial: i64) -> Arc<Self> {
        Arc::new(Self { kept, left: Mutex::new(initial), grown: Notify::new() })
    }

    /// How many of `wanted` bytes may go now; waits while none may.
    pub(super) async fn take(&self, wanted: usize) -> usize {
        loop {
            let grown = self.grown.notified();
            if let Some(taken) = self.try_take(wanted) {
                return taken;
            }
            grown.await;
        }
    }

    fn try_take(&self, wanted: usize) -> Option<usize> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match (self.kept.load(Ordering::Relaxed), usize::try_from(*left)) {
            (false, _) => wanted,
            (true, Ok(left)) if left > 0 => wanted.min(left),
            (true, _) if wanted == 0 => 0,
            (true, _) => return None,
        };
        // Counted from the first byte: the client may say later that it keeps windows.
        *left = left.saturating_sub(i64::try_from(taken).unwrap_or(MAX));
        Some(taken)
    }

    /// The client allows so much more, or less.
    pub(super) fn grow(&self, by: i64) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = left.saturating_add(by).min(MAX);
        drop(left);
        self.grown.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_window_counts_from_the_first_byte_and_binds_once_it_is_kept() {
        let kept = Kept::default();
        let window = Window::new(Arc::clone(&kept), INITIAL);
        assert_eq!(window.take(100_000).await, 100_000, "nobody keeps it yet");
        kept.store(true, Ordering::Relaxed);
        let soon = Duration::from_millis(30);
        assert!(tokio::time::timeout(soon, window.take(1)).await.is_err(), "too much has gone already");
        assert_eq!(window.take(0).await, 0);
        let grow = async {
            tokio::time::sleep(soon).await;
            window.grow(100_000 - INITIAL + 7);
        };
        assert_eq!(tokio::join!(window.take(50), grow).0, 7);
        window.grow(i64::from(u32::MAX));
        assert_eq!(window.take(usize::MAX).await as i64, MAX, "it cannot be larger");
    }
}
