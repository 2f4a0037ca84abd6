//! [`Habit`]: how long the last updates of a document have taken, from which the next one is judged.
//!
//! What an update costs depends on the document around it: the worst case is far from the usual one, which is typing. A
//! document whose updates have been quick is trusted to take the next one at once, off no other thread; each that
//! abuses the trust makes it dearer.

use std::time::Duration;

/// An update that takes no longer is quick.
const QUICK: Duration = Duration::from_micros(250);
/// Quick updates in a row after which the next is expected to be quick, too.
const FIRST: u32 = 64;
/// The factor by which more are needed after one that was not.
const DEARER: u32 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct Habit {
    /// Quick updates in a row.
    quick: u32,
    needed: u32,
}

impl Default for Habit {
    fn default() -> Self {
        Self { quick: 0, needed: FIRST }
    }
}

impl Habit {
    /// True if the next update is expected to be quick.
    pub(super) fn is_quick(&self) -> bool {
        self.quick >= self.needed
    }

    /// Takes note of the time that an update took.
    pub(super) fn learn(&mut self, took: Duration) {
        if took <= QUICK {
            self.quick = self.quick.saturating_add(1);
            return;
        }
        if self.is_quick() {
            self.needed = self.needed.saturating_mul(DEARER);
        }
        self.quick = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_and_becomes_dearer_when_it_is_abused() {
        let mut habit = Habit::default();
        for needed in [FIRST, FIRST * DEARER, FIRST * DEARER * DEARER] {
            for _ in 0..needed {
                assert!(!habit.is_quick(), "after {} of {needed}", habit.quick);
                habit.learn(QUICK);
            }
            assert!(habit.is_quick());
            habit.learn(QUICK + Duration::from_nanos(1));
        }
        habit.learn(QUICK);
        habit.learn(QUICK * 2);
        assert_eq!(habit.needed, FIRST * DEARER * DEARER * DEARER, "who has no trust abuses none");
    }
}
