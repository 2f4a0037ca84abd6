//! The grow-only counter: a total per replica (Shapiro, Preguiça, Baquero and Zawirski, "A comprehensive study of
//! Convergent and Commutative Replicated Data Types", INRIA 7506, 2011, specification 6).
//!
//! There, merging takes the greater total of each replica, which needs operations in order. Here they may come in any
//! order: the total of the operations without a gap goes with the greater `upto`, those after a gap are united.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    seen::{Node, Seen},
    value::quoted_len,
};

/// Totals by replica; none is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GCounter {
    totals: BTreeMap<Arc<str>, u64>,
    sum: u128,
    /// Upper bound of the JSON's bytes.
    size: usize,
}

/// Bytes of a replica beside its name.
pub(super) const TOTAL: usize = 18;

impl GCounter {
    pub(super) fn sum(&self) -> u128 {
        self.sum
    }

    pub(super) fn get(&self, node: &str) -> u64 {
        self.totals.get(node).copied().unwrap_or(0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.totals.iter().map(|(node, &total)| (node, total))
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn add(&mut self, node: &Arc<str>, by: u64) {
        self.set(node, self.get(node).saturating_add(by));
    }

    pub(super) fn set(&mut self, node: &Arc<str>, total: u64) {
        let before = if total == 0 { self.totals.remove(node) } else { self.totals.insert(node.clone(), total) };
        self.sum = self.sum + u128::from(total) - u128::from(before.unwrap_or(0));
        let entry = TOTAL + quoted_len(node);
        self.size = self.size + usize::from(total > 0) * entry - usize::from(before.is_some()) * entry;
    }

    /// Merges what two states have seen. `sign`: of the effects that are counted here.
    pub(super) fn merge(&mut self, other: &Self, mine: &Seen, theirs: &Seen, sign: i64) {
        let nothing = Node::default();
        let nodes: Vec<_> = self.totals.keys().chain(other.totals.keys()).cloned().collect();
        let mut merged = Self::default();
        for node in nodes {
            let (a, b) = (mine.get(&node).unwrap_or(&nothing), theirs.get(&node).unwrap_or(&nothing));
            let prefix = |total: u64, seen: &Node| {
                total.saturating_sub(seen.ahead.values().map(|effect| amount(*effect, sign)).sum())
            };
            let (ours, other) = (prefix(self.get(&node), a), prefix(other.get(&node), b));
            let upto = a.upto.max(b.upto);
            let mut total = match a.upto.cmp(&b.upto) {
                std::cmp::Ordering::Greater => ours,
                std::cmp::Ordering::Less => other,
                std::cmp::Ordering::Equal => ours.max(other),
            };
            let mut ahead = a.ahead.clone();
            for (&counter, &effect) in &b.ahead {
                let known = ahead.entry(counter).or_insert(effect);
                *known = effect.max(*known);
            }
            for (_, effect) in ahead.range(upto + 1..) {
                total = total.saturating_add(amount(*effect, sign));
            }
            merged.set(&node, total);
        }
        *self = merged;
    }

    /// Merges totals of a peer that does not say what it has seen: the greater one counts.
    pub(super) fn merge_totals(&mut self, other: &Self) {
        for (node, total) in other.iter() {
            self.set(node, total.max(self.get(node)));
        }
    }
}

/// What an effect adds to the counter of this sign.
pub(super) fn amount(effect: i64, sign: i64) -> u64 {
    effect.saturating_mul(sign).max(0).unsigned_abs()
}
