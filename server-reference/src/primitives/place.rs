//! Places among those that there are for keys which clients bring into being.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Places for a key in one or more counts, given back when dropped before the key exists.
#[derive(Debug, Default)]
pub(crate) struct Place(Vec<Arc<AtomicUsize>>);

impl Place {
    /// Takes a place: how many were taken before.
    pub(crate) fn take(&mut self, count: &Arc<AtomicUsize>) -> usize {
        self.0.push(count.clone());
        count.fetch_add(1, Ordering::Relaxed)
    }

    /// The key exists.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
