//! The set that only grows: its union is its merge (Shapiro et al. 2011, specification 11).

use std::{collections::BTreeSet, sync::Arc};

use super::Json;

/// Elements by their canonical text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GSet {
    elements: BTreeSet<Arc<str>>,
    /// Upper bound of the JSON's bytes.
    size: usize,
}

impl GSet {
    pub(super) fn contains(&self, value: &Json) -> bool {
        self.elements.contains(value.text())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.elements.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn add(&mut self, text: &Arc<str>) {
        if self.elements.insert(text.clone()) {
            self.size += text.len() + 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for element in &other.elements {
            self.add(element);
        }
    }
}
