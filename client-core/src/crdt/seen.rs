//! Which operations have been applied: a version vector with exceptions ("dotted version vector", Preguiça et al. 2010;
//! the "dot clouds" of Almeida, Shoker and Baquero, "Delta State Replicated Data Types", 2018).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    op::{Dot, RETIRED},
    value::quoted_len,
};

/// Operations by replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    nodes: BTreeMap<Arc<str>, Node>,
    /// Upper bound of the JSON's bytes.
    size: usize,
}

/// What has been seen of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Every operation up to this one.
    pub(super) upto: u64,
    /// The latest timestamp.
    pub(super) time: u64,
    /// Operations after a gap, with what they did to a counter.
    pub(super) ahead: BTreeMap<u64, i64>,
}

impl Node {
    pub(super) fn contains(&self, counter: u64) -> bool {
        counter <= self.upto || self.ahead.contains_key(&counter)
    }

    /// The highest number seen.
    pub(super) fn last(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.upto, |(&last, _)| last)
    }

    /// Raises `upto` over what has become contiguous.
    fn absorb(&mut self) {
        while let Some(next) = self.ahead.first_entry() {
            match *next.key() {
                counter if counter <= self.upto => _ = next.remove(),
                counter if counter == self.upto + 1 => {
                    self.upto = counter;
                    next.remove();
                }
                _ => break,
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.upto = self.upto.max(other.upto);
        self.time = self.time.max(other.time);
        for (&counter, &effect) in &other.ahead {
            let known = self.ahead.entry(counter).or_insert(effect);
            *known = effect.max(*known);
        }
        self.absorb();
    }

    fn size(&self, name: &str) -> usize {
        NODE + quoted_len(name) + AHEAD * self.ahead.len()
    }
}

/// Bytes of a replica beside its name, and of an operation after a gap.
pub(super) const NODE: usize = 48;
pub(super) const AHEAD: usize = 40;

impl Seen {
    pub(super) fn contains(&self, node: &str, counter: u64) -> bool {
        self.nodes.get(node).is_some_and(|seen| seen.contains(counter))
    }

    pub(super) fn get(&self, node: &str) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// The name of a replica, shared where it is remembered.
    pub(super) fn name(&self, node: &str) -> Arc<str> {
        self.nodes.get_key_value(node).map_or_else(|| node.into(), |(name, _)| name.clone())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Node)> {
        self.nodes.iter()
    }

    /// Number of replicas.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// How many operations.
    pub(super) fn count(&self) -> i128 {
        self.nodes.values().map(|node| i128::from(node.upto) + node.ahead.len() as i128).sum()
    }

    /// Upper bound of the JSON's bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Notes one operation. `done`: no operation up to this one is to come any more. Returns how many of those had not
    /// been seen.
    pub(super) fn mark(&mut self, node: &Arc<str>, counter: u64, done: u64, time: u64, effect: i64) -> u64 {
        let mut skipped = 0;
        self.change(node, |seen| {
            skipped = done.saturating_sub(seen.upto) - seen.ahead.range(..=done).count() as u64;
            seen.upto = seen.upto.max(done);
            seen.time = seen.time.max(time);
            if counter > seen.upto {
                seen.ahead.insert(counter, effect);
            }
            seen.absorb();
        });
        skipped
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (node, theirs) in &other.nodes {
            self.change(node, |seen| seen.merge(theirs));
        }
    }

    /// Puts a replica in, as read.
    pub(super) fn insert(&mut self, node: &Arc<str>, read: Node) {
        self.change(node, |seen| {
            *seen = read;
            seen.absorb();
        });
    }

    /// Forgets the replicas that `keep` does not keep.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        let size = &mut self.size;
        self.nodes.retain(|node, seen| {
            let kept = keep(node, seen);
            if !kept {
                *size -= seen.size(node);
            }
            kept
        });
    }

    fn change(&mut self, node: &Arc<str>, change: impl FnOnce(&mut Node)) {
        let seen = match self.nodes.get_mut(node) {
            Some(seen) => {
                self.size -= seen.size(node);
                seen
            }
            None => self.nodes.entry(node.clone()).or_default(),
        };
        change(seen);
        self.size += seen.size(node);
    }
}

/// What one side of a merge knows of the past.
pub(super) struct History<'a> {
    pub(super) seen: &'a Seen,
    pub(super) floor: u64,
}

impl History<'_> {
    /// Whether this side has seen, and forgotten, a replica that the other side remembers so.
    pub(super) fn has_forgotten(&self, node: &str, theirs: &Node) -> bool {
        theirs.time < self.floor && self.seen.get(node).is_none()
    }

    /// Of the other side's totals, those that are part of what this side's forgotten replicas contributed.
    pub(super) fn forgotten_of(&self, other: &Self) -> Vec<Arc<str>> {
        let forgotten = other.seen.iter().filter(|(node, seen)| self.has_forgotten(node, seen));
        let retired = (other.floor < self.floor).then(|| RETIRED.into());
        forgotten.map(|(node, _)| node.clone()).chain(retired).collect()
    }

    /// Whether this side has seen an addition that lives on the other. A replica that neither side remembers has been
    /// seen and forgotten, as has one that the other remembers from before our floor.
    pub(super) fn has_seen(&self, (node, counter): &Dot, other: &Self) -> bool {
        let forgotten = || match other.seen.get(node) {
            Some(theirs) => self.has_forgotten(node, theirs),
            None => self.floor > 0 && self.seen.get(node).is_none(),
        };
        self.seen.contains(node, *counter) || forgotten()
    }
}
