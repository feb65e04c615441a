//! Waiting for something to become true, with a bound.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// A deadline of the harness as long as this machine needs it: times `GANTLINE_E2E_PATIENCE`, a whole number, where
/// that is set. An emulated machine is ten times slower; what is asserted stays the same.
pub fn patient(deadline: Duration) -> Duration {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    let patience = PATIENCE.get_or_init(|| match std::env::var("GANTLINE_E2E_PATIENCE") {
        Ok(text) => text.parse().expect("GANTLINE_E2E_PATIENCE is a whole number"),
        Err(_) => 1,
    });
    deadline * *patience
}

/// Looks until `check` gives a value; panics with its last complaint after `bound`, which is made [`patient`].
#[track_caller]
pub fn eventually<T>(what: &str, bound: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let (start, bound) = (Instant::now(), patient(bound));
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
