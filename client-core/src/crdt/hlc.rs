//! The hybrid logical clock of Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks" (OPODIS 2014):
//! close to the wall clock, yet later than everything its owner has seen.

use std::{cmp::Ordering, sync::Arc};

use super::{CrdtError, MAX_INTEGER, value::order};

/// When something was written, and by whom. Totally ordered: by time, then count, then node, so that ties are never
/// decided by arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Unix milliseconds.
    pub timestamp: u64,
    /// Orders what one clock stamped within one millisecond.
    pub logical: u64,
    /// The replica that wrote.
    pub node: Arc<str>,
}

impl Stamp {
    /// Earlier than everything.
    pub fn zero() -> Self {
        Self { timestamp: 0, logical: 0, node: "".into() }
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        let time = (self.timestamp, self.logical).cmp(&(other.timestamp, other.logical));
        time.then_with(|| order(&self.node, &other.node))
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A clock. Wall time is passed in; Unix milliseconds.
///
/// ```
/// use datasole_core::crdt::Hlc;
/// let mut clock = Hlc::new(60_000);
/// assert_eq!(clock.tick(1_000), Ok((1_000, 0)));
/// assert_eq!(clock.tick(999), Ok((1_000, 1)), "a wall clock that jumps back does not reorder what was written");
/// assert!(clock.observe((5_000, 3), 1_000));
/// assert_eq!(clock.tick(1_001), Ok((5_000, 4)), "later than what was seen");
/// assert!(!clock.observe((70_000, 0), 1_001), "too far ahead to be followed");
/// ```
#[derive(Clone, Debug)]
pub struct Hlc {
    timestamp: u64,
    logical: u64,
    max_drift: u64,
}

impl Hlc {
    /// A clock that follows others no further than `max_drift` milliseconds ahead of its own wall clock.
    pub fn new(max_drift: u64) -> Self {
        Self { timestamp: 0, logical: 0, max_drift }
    }

    /// Time and count for something that is written now.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Clock`] at the end of time, where only a peer without a clock can have led it.
    pub fn tick(&mut self, now: u64) -> Result<(u64, u64), CrdtError> {
        let next = if now > self.timestamp {
            (now, 0)
        } else if self.logical < MAX_INTEGER {
            (self.timestamp, self.logical + 1)
        } else {
            (self.timestamp + 1, 0)
        };
        if next.0 > MAX_INTEGER {
            return Err(CrdtError::Clock);
        }
        (self.timestamp, self.logical) = next;
        Ok(next)
    }

    /// Takes note of a stamp's time and count: what is written from now on is later. Returns whether it was close enough
    /// to be followed.
    pub fn observe(&mut self, (timestamp, logical): (u64, u64), now: u64) -> bool {
        let close = timestamp <= now.saturating_add(self.max_drift);
        if close && (timestamp, logical) > (self.timestamp, self.logical) {
            (self.timestamp, self.logical) = (timestamp, logical);
        }
        close
    }

    /// Time and count of the latest tick or observation.
    pub fn latest(&self) -> (u64, u64) {
        (self.timestamp, self.logical)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_ordered_by_time_then_count_then_node() {
        let stamp = |timestamp, logical, node: &str| Stamp { timestamp, logical, node: node.into() };
        let sorted = [stamp(0, 0, ""), stamp(1, 0, "b"), stamp(1, 1, "a"), stamp(1, 1, "b"), stamp(2, 0, "a")];
        assert!(sorted.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn drift_is_bounded_at_the_limit() {
        for (timestamp, followed) in [(109, true), (110, true), (111, false), (u64::MAX, false)] {
            let mut clock = Hlc::new(10);
            assert_eq!(clock.observe((timestamp, 7), 100), followed, "{timestamp}");
            assert_eq!(clock.tick(100), Ok(if followed { (timestamp, 8) } else { (100, 0) }));
        }
    }

    #[test]
    fn the_end_of_time_is_an_error() {
        let mut clock = Hlc::new(u64::MAX);
        assert!(clock.observe((MAX_INTEGER - 1, MAX_INTEGER), 0));
        assert_eq!(clock.tick(0), Ok((MAX_INTEGER, 0)));
        assert!(clock.observe((MAX_INTEGER, MAX_INTEGER), 0));
        assert_eq!(clock.tick(0), Err(CrdtError::Clock));
        assert_eq!(clock.tick(u64::MAX), Err(CrdtError::Clock));
        assert_eq!(clock.latest(), (MAX_INTEGER, MAX_INTEGER), "unchanged");
    }
}
