//! What clients and faults tell, in the order in which they do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use crate::history::{Event, Function, History, Kind};

/// The history of a run, while it is written.
#[derive(Clone, Debug)]
pub(super) struct Record(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    history: History,
    counts: BTreeMap<&'static str, u64>,
    ids: u64,
    time: u64,
}

impl Default for Record {
    fn default() -> Self {
        let (history, counts) = (History::default(), BTreeMap::new());
        Self(Arc::new(Mutex::new(Inner { begun: Instant::now(), history, counts, ids: 0, time: 0 })))
    }
}

impl Record {
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count(&self, what: &'static str) {
        self.with(|inner| *inner.counts.entry(what).or_default() += 1);
    }

    /// The number of a new write or message.
    pub(super) fn next(&self) -> u64 {
        self.with(|inner| {
            inner.ids += 1;
            inner.ids
        })
    }

    pub(super) fn tell(&self, process: u32, node: usize, kind: Kind, key: &str, function: Function) {
        self.with(|inner| {
            let now = inner.begun.elapsed().as_micros() as u64;
            inner.time = now.max(inner.time + 1);
            let (time, key) = (inner.time, inner.history.key(key));
            inner.history.events.push(Event { time, process, node: node as u32, kind, key, function });
        });
    }

    pub(super) fn end(self) -> (History, BTreeMap<&'static str, u64>) {
        self.with(|inner| (std::mem::take(&mut inner.history), std::mem::take(&mut inner.counts)))
    }
}
