//! The set in which an addition wins over a removal that has not seen it, without tombstones (Bieniusa, Zawirski,
//! Preguiça, Shapiro, Baquero, Balegas and Duarte, "An optimized conflict-free replicated set", INRIA 8083, 2012).
//!
//! An element is there while one of its additions (dots) is. What a state has seen and does not have, it has removed. An
//! addition takes the place of those its replica saw, so that there are no more of them than replicas.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Json, op::Dot, seen::History, value::quoted_len};

/// Live additions by element, which is known by its canonical text; none is without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OrSet {
    elements: BTreeMap<Arc<str>, BTreeSet<Dot>>,
    /// Upper bound of the JSON's bytes.
    size: usize,
}

/// Bytes of an element beside its text, and of a dot beside its name.
const ELEMENT: usize = 5;
const DOT: usize = 20;

impl OrSet {
    pub(super) fn contains(&self, value: &Json) -> bool {
        self.elements.contains_key(value.text())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<Dot>)> {
        self.elements.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The live additions of an element.
    pub(super) fn dots(&self, value: &Json) -> impl Iterator<Item = &Dot> {
        self.elements.get(value.text()).into_iter().flatten()
    }

    /// By how much [`size`](Self::size) would grow.
    pub(super) fn growth(&self, value: &Json, node: &str, replaced: &[Dot]) -> isize {
        let element = if self.contains(value) { 0 } else { ELEMENT + value.get().len() };
        (element + DOT + quoted_len(node)).cast_signed() - self.freed(value, replaced).cast_signed()
    }

    /// By how much [`size`](Self::size) would shrink without these additions: each counts once, however often it is named.
    pub(super) fn freed(&self, value: &Json, removed: &[Dot]) -> usize {
        self.dots(value).filter(|dot| removed.contains(dot)).map(size).sum()
    }

    pub(super) fn add(&mut self, text: &Arc<str>, dot: Dot) {
        let live = self.elements.entry(text.clone()).or_insert_with(|| {
            self.size += ELEMENT + text.len();
            BTreeSet::new()
        });
        let added = size(&dot);
        if live.insert(dot) {
            self.size += added;
        }
    }

    pub(super) fn remove(&mut self, text: &Arc<str>, dots: &[Dot]) {
        if let Some(live) = self.elements.get_mut(text) {
            for dot in dots {
                if live.remove(dot) {
                    self.size -= size(dot);
                }
            }
            if live.is_empty() {
                self.elements.remove(text);
                self.size -= ELEMENT + text.len();
            }
        }
    }

    /// Keeps what both have, and what one has and the other has not seen.
    pub(super) fn merge(&mut self, other: &Self, mine: &History<'_>, theirs: &History<'_>) {
        let mut merged = Self::default();
        let has = |set: &Self, text: &str, dot: &Dot| set.elements.get(text).is_some_and(|live| live.contains(dot));
        for (text, live) in &self.elements {
            for dot in live.iter().filter(|dot| has(other, text, dot) || !theirs.has_seen(dot, mine)) {
                merged.add(text, dot.clone());
            }
        }
        for (text, live) in &other.elements {
            for dot in live.iter().filter(|dot| !mine.has_seen(dot, theirs)) {
                merged.add(text, dot.clone());
            }
        }
        *self = merged;
    }
}

fn size((node, _): &Dot) -> usize {
    DOT + quoted_len(node)
}
