//! A sliding window in slots: never over its limit, whichever window is looked at.

use std::{collections::VecDeque, time::Duration};

use super::kv::{Quota, Taken};

/// Slots of a window. A grant counts until its whole slot has left the window: at most a slot too long.
const SLOTS: u64 = 16;

/// The grants of the last window. At most `SLOTS + 1` numbers.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The number of a slot and what was granted within it, oldest first.
    granted: VecDeque<(u64, u64)>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn slot_length(window: Duration) -> u64 {
    nanos(window).div_ceil(SLOTS).max(1)
}

impl Meter {
    pub(super) fn take(&mut self, now: Duration, quota: Quota) -> Taken {
        let length = slot_length(quota.window);
        let slot = nanos(now) / length;
        self.forget(now, quota.window);
        let used: u64 = self.granted.iter().map(|(_, granted)| granted).sum();
        let left = quota.limit.saturating_sub(used);
        if quota.cost <= left {
            match self.granted.back_mut() {
                Some((newest, granted)) if *newest == slot => *granted += quota.cost,
                _ => self.granted.push_back((slot, quota.cost)),
            }
            return Taken { granted: true, left: left - quota.cost, retry_after: Duration::ZERO };
        }
        let mut free = left;
        let enough = self.granted.iter().find(|(_, granted)| {
            free += granted;
            free >= quota.cost
        });
        let retry_after = match enough {
            Some((slot, _)) => Duration::from_nanos((slot + SLOTS + 1).saturating_mul(length)).saturating_sub(now),
            None => Duration::MAX,
        };
        Taken { granted: false, left, retry_after }
    }

    /// The grants, as [`slots`](Self::slots) gave them.
    #[cfg(feature = "nats")]
    pub(super) fn from_slots(slots: impl Iterator<Item = (u64, u64)>) -> Self {
        Self { granted: slots.collect() }
    }

    /// The number of a slot and what was granted within it, oldest first.
    #[cfg(feature = "nats")]
    pub(super) fn slots(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.granted.iter().copied()
    }

    fn forget(&mut self, now: Duration, window: Duration) {
        let slot = nanos(now) / slot_length(window);
        while self.granted.front().is_some_and(|(oldest, _)| oldest + SLOTS < slot) {
            self.granted.pop_front();
        }
    }

    /// Whether nothing within a window of this length was granted.
    pub(super) fn is_idle(&mut self, now: Duration, window: Duration) -> bool {
        self.forget(now, window);
        self.granted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(1_000);

    fn quota(limit: u64, cost: u64) -> Quota {
        Quota { limit, window: WINDOW, cost }
    }

    #[test]
    fn a_refusal_says_when_it_will_be_granted() {
        let mut meter = Meter::default();
        let at = Duration::from_millis;
        assert!(meter.take(at(0), quota(3, 2)).granted);
        assert_eq!(meter.take(at(500), quota(3, 1)), Taken { granted: true, left: 0, retry_after: Duration::ZERO });
        let refused = meter.take(at(600), quota(3, 2));
        assert_eq!((refused.granted, refused.left), (false, 0));
        let again = at(600) + refused.retry_after;
        assert!(again > WINDOW && again <= WINDOW + WINDOW / 8, "{again:?}");
        assert!(!meter.take(again - Duration::from_nanos(1), quota(3, 2)).granted);
        assert!(meter.take(again, quota(3, 2)).granted);
        assert_eq!(meter.take(again, quota(3, 4)).retry_after, Duration::MAX, "more than the limit");
        assert!(!meter.is_idle(again, WINDOW));
        assert!(meter.is_idle(again + WINDOW * 2, WINDOW));
    }

    proptest! {
        #[test]
        fn no_window_is_ever_over(limit in 1_u64..20, requests in prop::collection::vec((0_u64..300, 0_u64..5), 1..200)) {
            let (mut meter, mut now, mut granted) = (Meter::default(), Duration::ZERO, Vec::new());
            for (wait, cost) in requests {
                now += Duration::from_millis(wait);
                if meter.take(now, quota(limit, cost)).granted {
                    granted.push((now, cost));
                }
                prop_assert!(meter.granted.len() <= SLOTS as usize + 1);
            }
            for (start, _) in &granted {
                let within = granted.iter().filter(|(at, _)| at >= start && *at < *start + WINDOW);
                prop_assert!(within.map(|(_, cost)| cost).sum::<u64>() <= limit);
            }
        }
    }
}
