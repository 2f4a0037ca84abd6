//! [`Budget`]: the memory of handlers and frames under way, of each connection and of all.
//!
//! A connection may hold as much as it is allowed alone, and no more than all others leave free: however many take all they
//! can, as much as each of them holds stays free for the next one. A little is always there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that a connection may hold in any case, and that are not counted with those of all.
const FREE: usize = 64 * 1024;
/// Bytes of a handler or a frame under way beside its payload.
const HANDLER: usize = 512;
/// Bytes of a JSON value in memory, beside its text.
const VALUE: usize = 32;

/// The bounds of what is under way; bytes.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Of one connection. A single frame may exceed it.
    each: usize,
    /// Of all connections.
    total: usize,
    used: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(usize::MAX, usize::MAX)
    }
}

impl Budget {
    pub(crate) fn new(each: usize, total: usize) -> Self {
        Self { each, total, used: AtomicUsize::new(0) }
    }
}

/// The bytes that one connection holds; under the connection's lock.
#[derive(Debug, Default)]
pub(crate) struct Held(usize);

impl Held {
    /// True if so much more may be held.
    pub(crate) fn room(&self, budget: &Budget, more: usize) -> bool {
        let after = self.0.saturating_add(more);
        after <= FREE.min(budget.each) || self.shares(budget, more) && (after <= budget.each || self.0 == 0)
    }

    /// The same as far as all others are concerned.
    fn shares(&self, budget: &Budget, more: usize) -> bool {
        let after = self.0.saturating_add(more);
        after <= FREE || after <= budget.total.saturating_sub(budget.used.load(Ordering::Relaxed))
    }

    pub(crate) fn take(&mut self, budget: &Budget, bytes: usize) {
        let before = self.0.saturating_sub(FREE);
        self.0 += bytes;
        if self.0 > FREE {
            budget.used.fetch_add(self.0 - FREE - before, Ordering::Relaxed);
        }
    }

    pub(crate) fn release(&mut self, budget: &Budget, bytes: usize) {
        let before = self.0.saturating_sub(FREE);
        self.0 -= bytes;
        if before > 0 {
            budget.used.fetch_sub(before - self.0.saturating_sub(FREE), Ordering::Relaxed);
        }
    }
}

/// The bytes of a message whose end is missing: a share of what there is for all. The longest message bounds them, too.
#[derive(Debug)]
pub(crate) struct Arriving {
    held: Held,
    budget: Arc<Budget>,
}

impl Arriving {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { held: Held::default(), budget }
    }

    /// Takes note of bytes that have come; `false` if no more should.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        self.held.take(&self.budget, bytes);
        self.held.shares(&self.budget, 0)
    }

    /// The message is complete.
    pub(crate) fn clear(&mut self) {
        self.held.release(&self.budget, self.held.0);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The bytes that a frame with this payload holds while it is under way: the payload, and the values that a handler may have
/// read from it. Each value but the first follows a comma, a colon or a bracket.
pub(crate) fn weight(payload: &[u8]) -> usize {
    // In runs that a byte can count: so many bytes are compared at once.
    let values = |run: &[u8]| run.iter().map(|byte| u8::from(matches!(byte, b',' | b':' | b'['))).sum::<u8>();
    let values: usize = payload.chunks(255).map(|run| usize::from(values(run))).sum();
    HANDLER + payload.len() + VALUE * values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_its_own_bound_and_one_frame_above_it() {
        let budget = Budget::new(100_000, usize::MAX);
        let mut held = Held::default();
        assert!(held.room(&budget, 1_000_000), "one alone");
        held.take(&budget, 99_000);
        for (more, fits) in [(999, true), (1_000, true), (1_001, false)] {
            assert_eq!(held.room(&budget, more), fits, "{more}");
        }
        held.release(&budget, 99_000);
        assert!(held.room(&budget, 100_000) && budget.used.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn those_who_take_all_they_can_leave_as_much_for_the_next() {
        let total = 16 * 1024 * 1024;
        let budget = Budget::new(total, total);
        let mut greedy: Vec<Held> = (0..7).map(|_| Held::default()).collect();
        for _ in 0..total / 1_000 {
            for held in &mut greedy {
                if held.room(&budget, 1_000) {
                    held.take(&budget, 1_000);
                }
            }
        }
        let used = budget.used.load(Ordering::Relaxed);
        assert!(used <= total);
        assert!(Held::default().room(&budget, total / 8 - FREE), "{used} of {total} are used");
        // Whatever the others hold, a little is there.
        budget.used.store(total, Ordering::Relaxed);
        assert!(Held::default().room(&budget, FREE) && !Held::default().room(&budget, FREE + 1));
    }

    #[test]
    fn what_arrives_has_a_share_and_gives_it_back() {
        let budget = Arc::new(Budget::new(FREE, 2 * FREE));
        let arriving = || Arriving::new(budget.clone());
        let (mut first, mut second) = (arriving(), arriving());
        // What it holds stays free for the next one: 1.5 times what is free in any case.
        assert!(first.grow(FREE) && first.grow(FREE / 2) && !first.grow(1));
        assert!(second.grow(FREE) && !second.grow(FREE));
        first.clear();
        second.clear();
        assert!(first.grow(FREE + FREE / 2));
        drop((first, second));
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn values_weigh_more_than_their_text() {
        let (numbers, text) = ("[0,0,0,0]", "\"0000000\"");
        assert!(weight(numbers.as_bytes()) >= weight(text.as_bytes()) + 4 * VALUE);
    }
}
