//! Randomness that a failed test can be repeated with: the seed is printed, and taken from `DATASOLE_SEED` if set.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed from the environment or the clock, told on standard output, which the test harness shows on failure.
    pub fn announced() -> Self {
        let given = std::env::var("DATASOLE_SEED").ok().map(|seed| seed.parse().expect("DATASOLE_SEED is a u64"));
        let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
        println!("repeat with DATASOLE_SEED={seed}");
        Self(seed)
    }

    /// Any number.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`, where `bound` is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.u64() % bound
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.u64() & 1 == 1
    }

    /// A number of `1..=2^bits`, small ones as likely as large ones: uniform in its number of bits.
    pub fn magnitude(&mut self, bits: u32) -> u64 {
        let bound = 1 << self.below(u64::from(bits) + 1);
        1 + self.below(bound)
    }
}
