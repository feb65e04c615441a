//! The wall clock, as CRI and the records write it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, nanoseconds since the epoch; at least 1, since 0 means "not set" to every client.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
}
