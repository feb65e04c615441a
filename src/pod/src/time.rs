//! The wall clock, as CRI writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use model::UnixNanos;

/// Now, nanoseconds since the epoch; at least 1, since 0 means "not set" to every client.
pub(crate) fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos::try_from(since.as_nanos()).unwrap_or(UnixNanos::MAX).max(1)
}
