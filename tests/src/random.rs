//! Random choices that can be made again: a failed test prints its seed.

use std::{
    env,
    time::{SystemTime, UNIX_EPOCH},
};

/// Environment variable: the seed to use, as a failed test printed it.
const SEED: &str = "CONTAINERD_TESTS_SEED";

/// A small generator (xorshift64*); good enough to pick moments and victims.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Seeds from the environment or the clock, and says so in the output that
    /// is shown when the test fails.
    pub fn new() -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos());
        let given = env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed =
            given.unwrap_or_else(|| u64::try_from(clock() & 0xffff_ffff).unwrap_or(1)).max(1);
        println!("to make the same choices again: {SEED}={seed}");
        Self(seed)
    }

    /// Another generator whose choices follow from this one's.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next().max(1))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of `items`; there must be some.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(items.len() as u64)).ok()?;
        items.get(index)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
