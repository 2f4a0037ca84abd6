//! What a run tells, in the order of its own time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use datasole_server::{
    Position,
    clock::{Clock, Manual},
};

use super::Stats;
use crate::history::{Event, Function, History, How, Id, Kind, Mark, Micros};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What happened.
    pub history: History,
    /// How often.
    pub stats: Stats,
    /// How long rooms may show what was, at the end.
    pub presence: Micros,
}

/// The history of a run, while it is written.
#[derive(Clone)]
pub(super) struct Record(Arc<Mutex<Inner>>);

struct Inner {
    clock: Arc<Manual>,
    start: Duration,
    history: History,
    stats: Stats,
    ids: u64,
    /// Events that may follow the last by time.
    time: u64,
}

pub(super) fn mark(position: Position) -> Mark {
    Mark { epoch: position.epoch, seq: position.seq }
}

impl Record {
    pub(super) fn new(clock: Arc<Manual>) -> Self {
        let start = clock.monotonic();
        let (history, stats) = (History::default(), Stats::default());
        Self(Arc::new(Mutex::new(Inner { clock, start, history, stats, ids: 0, time: 0 })))
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    pub(super) fn count(&self, what: &'static str) {
        self.with(|inner| inner.stats.count(what));
    }

    pub(super) fn tell(&self, process: u32, node: usize, kind: Kind, key: &str, function: Function) {
        self.with(|inner| {
            let now = (inner.clock.monotonic() - inner.start).as_micros() as u64;
            inner.time = now.max(inner.time + 1);
            let key = inner.history.key(key);
            let node = u32::try_from(node).unwrap();
            inner.history.events.push(Event { time: inner.time, process, node, kind, key, function });
        });
    }

    /// The number of generations so far.
    pub(super) fn life(&self) -> u64 {
        self.with(|inner| inner.stats.get("generations"))
    }

    /// The number of a new write or message.
    pub(super) fn next(&self) -> u64 {
        self.with(|inner| {
            inner.ids += 1;
            inner.ids
        })
    }

    /// A new write, which begins.
    pub(super) fn begin(&self, process: u32, node: usize, key: &str, how: How) -> u64 {
        let id = self.next();
        self.tell(process, node, Kind::Invoke, key, Function::Write { how, id: Id(id), mark: None });
        id
    }

    pub(super) fn end(self, presence: Micros) -> Outcome {
        self.with(|inner| Outcome { history: inner.history.clone(), stats: inner.stats.clone(), presence })
    }
}
