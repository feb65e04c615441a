//! Now, as CRI writes it.

use std::time::SystemTime;

use model::UnixNanos;

/// Nanoseconds since the epoch.
pub(crate) fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
