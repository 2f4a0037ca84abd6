//! Waits between attempts to reach an engine that is away.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// 50 ms after the first failure, doubled after each up to 2 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    wait: Duration,
}

impl Backoff {
    /// The next wait: half of it at least, so that the nodes of an engine that comes back spread over the other half.
    pub(super) fn next(&mut self, random: u32) -> Duration {
        self.wait = (self.wait * 2).clamp(FIRST, LONGEST);
        self.wait / 2 + self.wait / 2 * (random % 1_000) / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let half = Duration::from_millis(whole) / 2;
            let wait = backoff.next(whole as u32 * 7);
            assert!(wait >= half && wait < half * 2, "{wait:?} of {whole} ms");
        }
        assert_eq!(Backoff::default().next(0), FIRST / 2);
    }
}
