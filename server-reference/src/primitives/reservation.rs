//! Reservations of keys that are about to be created, within their limits.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A key's part in one or more counts, given back when dropped before the key exists.
#[derive(Debug, Default)]
pub(crate) struct Reservation(Vec<Arc<AtomicUsize>>);

impl Reservation {
    /// Counts the key; returns the count before.
    pub(crate) fn take(&mut self, count: &Arc<AtomicUsize>) -> usize {
        self.0.push(count.clone());
        count.fetch_add(1, Ordering::Relaxed)
    }

    /// The key exists.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
