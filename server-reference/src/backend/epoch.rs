//! Epochs: numbers of the lives of streams, which grow within a key and never repeat.

use std::sync::atomic::{AtomicU64, Ordering};

/// 2020-01-01 00:00 UTC; Unix milliseconds.
const START: u64 = 1_577_836_800_000;
/// Random bits below the time.
const RANDOM_BITS: u32 = 12;
/// Epochs are below this, so that JavaScript's numbers hold them.
pub(super) const END: u64 = 1 << 53;

/// The epoch of a life that begins at `unix_millis`: 41 bits of milliseconds since 2020, then 12 of `random`. At least
/// 1.
pub fn epoch(unix_millis: u64, random: u64) -> u64 {
    let time = unix_millis.saturating_sub(START).min((END >> RANDOM_BITS) - 1);
    ((time << RANDOM_BITS) | (random & ((1 << RANDOM_BITS) - 1))).max(1)
}

/// The epochs that one node begins lives with: each greater than the one before, also when the clock steps back.
#[derive(Debug, Default)]
pub struct Epochs {
    last: AtomicU64,
}

impl Epochs {
    /// The next epoch, for a life that begins at `unix_millis`.
    pub fn next(&self, unix_millis: u64, random: u64) -> u64 {
        let fresh = epoch(unix_millis, random);
        let above = |last: u64| fresh.max(last + 1).min(END - 1);
        // The closure always answers: both arms hold the value before.
        let (Ok(last) | Err(last)) =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(above(last)));
        above(last)
    }

    /// Makes every later epoch greater than `epoch`, which a conflict has shown.
    pub fn observe(&self, epoch: u64) {
        self.last.fetch_max(epoch.min(END - 1), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_time_then_randomness() {
        assert_eq!(epoch(START + 1, 0), 1 << 12);
        assert_eq!(epoch(START + 1, u64::MAX), (2 << 12) - 1);
        assert_eq!(epoch(START, 0), 1, "0 is no epoch");
        assert_eq!(epoch(0, 7), 7, "a clock before 2020");
        assert_eq!(epoch(u64::MAX, u64::MAX), END - 1, "a clock after 2089");
    }

    #[test]
    fn epochs_grow_whatever_the_clock_does() {
        let epochs = Epochs::default();
        let mut last = 0;
        for (time, random) in [(5, 9), (5, 9), (5, 1), (4, 4_095), (6, 0), (0, 0)] {
            let next = epochs.next(START + time, random);
            assert!(next > last, "{next} follows {last}");
            last = next;
        }
        epochs.observe(last + 1_000_000);
        assert_eq!(epochs.next(START, 0), last + 1_000_001);
        epochs.observe(u64::MAX);
        assert!(epochs.next(START, 0) < END);
    }
}
