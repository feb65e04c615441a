//! Waiting for something to become true, with a bound.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Looks until `check` gives a value; panics with its last complaint after `bound`.
#[track_caller]
pub fn eventually<T>(what: &str, bound: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(complaint) if start.elapsed() > bound => {
                panic!("{what}: not within {} s: {complaint}", bound.as_secs_f32())
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}
