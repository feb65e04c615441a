//! Random choices that can be made again: a seed, printed, and the same choices from the same seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (xorshift64*).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From [`seed`].
    pub fn seeded() -> Self {
        Self(seed() | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// `$E2E_SEED`, else one from the clock; it is printed, and shown when the test fails.
#[allow(clippy::print_stdout)]
pub fn seed() -> u64 {
    let given = std::env::var("E2E_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = given.unwrap_or_else(clock);
    println!("E2E_SEED={seed}");
    seed
}
