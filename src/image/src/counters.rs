//! Plain counters that telemetry reads; they only ever grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// What pulls have done since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes received from registries, compressed, manifests included.
    pub pulled_bytes: AtomicU64,
    /// Pulls that ended well.
    pub pulls: AtomicU64,
    /// Pulls that failed.
    pub pull_failures: AtomicU64,
    /// Layers that were fetched and unpacked.
    pub layers_pulled: AtomicU64,
    /// Layers that a pull needed and that were there already, or under way for another pull.
    pub layers_reused: AtomicU64,
    /// Compressed bytes of the layers that were there already.
    pub skipped_bytes: AtomicU64,
    /// Requests to registries that were tried again.
    pub retries: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}
