//! The counter that goes both ways: two that grow (Shapiro et al. 2011, specification 7). A counter that only grows is
//! one whose second half stays empty.

use std::sync::Arc;

use super::{CrdtError, MAX_INTEGER, g_counter::GCounter, g_counter::amount, op::RETIRED, seen::Seen};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PnCounter {
    pub(super) increments: GCounter,
    pub(super) decrements: GCounter,
}

impl PnCounter {
    pub(super) fn value(&self) -> i64 {
        // In range, or the operation or state would have been refused.
        self.exact().and_then(|value| i64::try_from(value).ok()).unwrap_or(0)
    }

    fn exact(&self) -> Option<i128> {
        let half = |counter: &GCounter| i128::try_from(counter.sum()).ok();
        half(&self.increments)?.checked_sub(half(&self.decrements)?)
    }

    pub(super) fn size(&self) -> usize {
        self.increments.size() + self.decrements.size()
    }

    /// Whether `effect` of this replica keeps everything in range.
    pub(super) fn admits(&self, node: &str, effect: i64) -> bool {
        let after = |counter: &GCounter, sign| counter.get(node).saturating_add(amount(effect, sign));
        let value = self.exact().map(|value| value + i128::from(effect));
        after(&self.increments, 1) <= MAX_INTEGER
            && after(&self.decrements, -1) <= MAX_INTEGER
            && value.is_some_and(|value| value.unsigned_abs() <= u128::from(MAX_INTEGER))
    }

    /// Whether this replica has contributed in this direction.
    pub(super) fn has(&self, node: &str, effect: i64) -> bool {
        let half = if effect > 0 { &self.increments } else { &self.decrements };
        half.get(node) > 0
    }

    pub(super) fn apply(&mut self, node: &Arc<str>, effect: i64) {
        if effect > 0 {
            self.increments.add(node, amount(effect, 1));
        } else if effect < 0 {
            self.decrements.add(node, amount(effect, -1));
        }
    }

    /// Whether everything is in range.
    pub(super) fn check(&self) -> Result<(), CrdtError> {
        let totals = self.increments.iter().chain(self.decrements.iter());
        let fits = totals.into_iter().all(|(_, total)| total <= MAX_INTEGER);
        let value = self.exact().is_some_and(|value| value.unsigned_abs() <= u128::from(MAX_INTEGER));
        if fits && value { Ok(()) } else { Err(CrdtError::Range) }
    }

    pub(super) fn merge(&mut self, other: &Self, mine: &Seen, theirs: &Seen) {
        self.increments.merge(&other.increments, mine, theirs, 1);
        self.decrements.merge(&other.decrements, mine, theirs, -1);
    }

    pub(super) fn merge_totals(&mut self, other: &Self) {
        self.increments.merge_totals(&other.increments);
        self.decrements.merge_totals(&other.decrements);
    }

    /// Moves what a replica contributed to the one that stands for all that have been forgotten. Where that would leave its
    /// range only the difference of the two halves is kept; otherwise both, as clients of version 1 expect totals to grow.
    /// `false` when even the difference is too much: then nothing has changed.
    pub(super) fn retire(&mut self, node: &str) -> bool {
        let together = |half: &GCounter| half.get(node) + half.get(RETIRED);
        let (up, down) = (together(&self.increments), together(&self.decrements));
        let both = if up.max(down) > MAX_INTEGER { up.min(down) } else { 0 };
        if up.max(down) - both > MAX_INTEGER {
            return false;
        }
        for (half, total) in [(&mut self.increments, up), (&mut self.decrements, down)] {
            half.set(&node.into(), 0);
            half.set(&RETIRED.into(), total - both);
        }
        true
    }

    /// Drops what these replicas contributed: the other state of a merge has it under another name.
    pub(super) fn drop_nodes(&mut self, nodes: &[Arc<str>]) {
        for node in nodes {
            self.increments.set(node, 0);
            self.decrements.set(node, 0);
        }
    }
}
