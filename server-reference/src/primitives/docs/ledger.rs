//! [`Ledger`]: the memory of the documents that are loaded, and who has made them grow.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{account::Standing, hub::Room, limits::Limits};

/// The memory of all documents that are loaded; estimated, bytes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    total: AtomicUsize,
    limit: usize,
    /// By one owner.
    share: usize,
}

impl Ledger {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limit: limits.max_docs_memory, share: limits.max_docs_memory_per_user, ..Self::default() }
    }

    /// The room that is left in memory.
    pub(super) fn room(&self) -> Room {
        match self.total.load(Ordering::Relaxed) {
            total if total >= self.limit => Room::None,
            total if total >= self.limit / 2 => Room::Short,
            total if total >= self.limit / 4 => Room::Tight,
            _ => Room::Ample,
        }
    }

    /// How much the documents may grow, by this owner.
    fn left(&self, owner: &Standing) -> usize {
        let left = self.limit.saturating_sub(self.total.load(Ordering::Relaxed));
        left.min(self.share.saturating_sub(owner.memory()))
    }
}

/// The part of one document, given back when dropped.
#[derive(Debug)]
pub(super) struct Account {
    ledger: Arc<Ledger>,
    bytes: usize,
    /// The authors by whom it has grown since it was loaded.
    grown: Vec<(Arc<Standing>, usize)>,
}

impl Account {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, bytes: 0, grown: Vec::new() }
    }

    /// How much the document may grow, by this owner.
    pub(super) fn left(&self, owner: &Standing) -> usize {
        self.ledger.left(owner)
    }

    /// The document's memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of the document's memory, and of who has changed it, unless it is the server.
    pub(super) fn settle(&mut self, bytes: usize, by: Option<&Arc<Standing>>) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes >= before {
            let more = bytes - before;
            self.ledger.total.fetch_add(more, Ordering::Relaxed);
            let Some(by) = by.filter(|_| more > 0) else { return };
            by.memory.fetch_add(more, Ordering::Relaxed);
            match self.grown.iter_mut().find(|(owner, _)| Arc::ptr_eq(owner, by)) {
                Some((_, grown)) => *grown += more,
                None => self.grown.push((by.clone(), more)),
            }
        } else {
            let mut less = before - bytes;
            self.ledger.total.fetch_sub(less, Ordering::Relaxed);
            while less > 0
                && let Some((owner, grown)) = self.grown.last_mut()
            {
                let part = less.min(*grown);
                owner.memory.fetch_sub(part, Ordering::Relaxed);
                (*grown, less) = (*grown - part, less - part);
                if *grown == 0 {
                    self.grown.pop();
                }
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle(0, None);
        for (owner, grown) in self.grown.drain(..) {
            owner.memory.fetch_sub(grown, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_its_authors_until_it_shrinks_or_goes() {
        let limits = Limits { max_docs_memory: 400, max_docs_memory_per_user: 100, ..Limits::default() };
        let (ledger, ann, bob) = (Arc::new(Ledger::new(&limits)), Standing::new(1), Standing::new(2));
        let mut document = Account::new(ledger.clone());
        document.settle(40, None);
        document.settle(100, Some(&ann));
        document.settle(120, Some(&bob));
        assert_eq!((ann.memory(), bob.memory(), ledger.left(&ann), ledger.left(&bob)), (60, 20, 40, 80));
        assert_eq!(ledger.room(), Room::Tight);
        document.settle(90, Some(&ann));
        assert_eq!((ann.memory(), bob.memory(), ledger.room()), (50, 0, Room::Ample));
        document.settle(10, None);
        assert_eq!((ann.memory(), ledger.left(&bob)), (0, 100));
        let mut other = Account::new(ledger.clone());
        for (bytes, left, room) in [
            (189, 100, Room::Tight),
            (190, 100, Room::Short),
            (389, 1, Room::Short),
            (390, 0, Room::None),
            (90, 100, Room::Tight),
            (89, 100, Room::Ample),
        ] {
            other.settle(bytes, None);
            assert_eq!((ledger.left(&ann), ledger.room()), (left, room), "{bytes}");
        }
        document.settle(50, Some(&ann));
        drop((document, other));
        assert_eq!((ann.memory(), ledger.left(&ann), ledger.room()), (0, 100, Room::Ample));
    }
}
