//! What a node draws from for streams: epochs for new lives, tags for appends.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    backend::{
        Epochs,
        bus::NodeId,
        log::{Mark, Tag},
    },
    clock::unix_millis,
};

/// The epochs of lives that begin on this node.
#[derive(Debug)]
pub(crate) struct Lives {
    epochs: Epochs,
    /// Added to with each life; `None` where epochs are counted.
    random: Option<AtomicU64>,
}

impl Lives {
    /// Lives whose epochs tell when they began, apart from those of other nodes by randomness that begins with `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { epochs: Epochs::default(), random: Some(AtomicU64::new(seed)) }
    }

    /// Lives whose epochs are counted from `first`.
    pub(crate) fn counted(first: u64) -> Self {
        let epochs = Epochs::default();
        epochs.observe(first.saturating_sub(1));
        Self { epochs, random: None }
    }

    /// The beginning of a new life.
    pub(super) fn birth(&self) -> Mark {
        // The bits of a multiple of the golden ratio are spread.
        let random = |random: &AtomicU64| random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 32;
        let (now, random) = self.random.as_ref().map_or((0, 0), |seed| (unix_millis(), random(seed)));
        Mark::birth(self.epochs.next(now, random))
    }

    /// Makes later lives have epochs above this one.
    pub(super) fn observe(&self, epoch: u64) {
        self.epochs.observe(epoch);
    }
}

/// The names of this node's appends.
#[derive(Debug)]
pub(super) struct Tags {
    node: u64,
    count: AtomicU64,
}

impl Tags {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node: node.0, count: AtomicU64::new(1) }
    }

    pub(super) fn next(&self) -> Tag {
        Tag { node: self.node, count: self.count.fetch_add(1, Ordering::Relaxed) }
    }
}
