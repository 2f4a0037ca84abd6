//! The core's only generator: xoshiro256++ (Blackman and Vigna, 2018), for jitter. Nothing secret is made with it.

/// 32 bytes from the host's cryptographic random number generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

/// Deterministic per seed.
#[derive(Clone, Debug)]
pub(crate) struct Rng([u64; 4]);

impl Rng {
    pub(crate) fn new(Seed(bytes): Seed) -> Self {
        let mut state = [0; 4];
        for (word, chunk) in state.iter_mut().zip(bytes.chunks_exact(8)) {
            for (shift, &byte) in chunk.iter().enumerate() {
                *word |= u64::from(byte) << (8 * shift);
            }
        }
        if state == [0; 4] {
            // The generator's one fixed point.
            state[0] = 0x9e37_79b9_7f4a_7c15;
        }
        Self(state)
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `0..=upper`; the bias of the multiplication is below 2^-32 for every delay in use.
    pub(crate) fn up_to(&mut self, upper: u64) -> u64 {
        ((u128::from(self.next()) * (u128::from(upper) + 1)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Rng, Seed};

    #[test]
    fn stays_in_range_and_reaches_both_ends() {
        let mut rng = Rng::new(Seed([0; 32]));
        let drawn: Vec<u64> = (0..1_000).map(|_| rng.up_to(9)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&0), Some(&9)));
        assert_eq!(rng.up_to(0), 0);
        rng.up_to(u64::MAX);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(Rng::new(Seed([1; 32])).next(), Rng::new(Seed([2; 32])).next());
    }
}
