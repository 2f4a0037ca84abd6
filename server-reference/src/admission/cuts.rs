//! Connections that end without a goodbye after the same quiet time again and again: something between cuts idle ones.

use std::{sync::Mutex, time::Duration};

use crate::sync::lock;

/// Shorter times say nothing.
const SHORTEST: Duration = Duration::from_secs(2);
/// How often the same time must have come in a row.
const OFTEN: u32 = 3;

/// The last quiet time, and how often in a row it came.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Mutex<(Duration, u32)>);

impl Cuts {
    /// Notes that a connection was lost after this quiet time. The words for it, if it is no accident.
    pub(crate) fn note(&self, quiet: Duration) -> Option<String> {
        if quiet < SHORTEST {
            return None;
        }
        let mut last = lock(&self.0);
        let tolerance = last.0 / 20 + Duration::from_millis(100);
        let count = if last.0.abs_diff(quiet) <= tolerance { last.1 + 1 } else { 1 };
        *last = (quiet, count);
        let seconds = quiet.as_secs_f64();
        let half = ((seconds / 2.0) as u64).max(1);
        (count >= OFTEN).then(|| format!("something cuts idle connections after {seconds:.0} s: --heartbeat {half}s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_time_in_a_row_is_no_accident() {
        let cuts = Cuts::default();
        let note = |millis| cuts.note(Duration::from_millis(millis));
        for millis in [10_000, 10_100, 9_000, 10_000, 10_000, 3, 1_999] {
            assert_eq!(note(millis), None, "{millis}");
        }
        assert_eq!(note(10_050).as_deref(), Some("something cuts idle connections after 10 s: --heartbeat 5s"));
        assert_eq!(note(20_000), None);
    }
}
