//! A history looked up: operations by id, entries by stream and position. Built once, read by every check of logs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::digest::mix;
use super::event::{At, Function, History, How, Id, Key, Kind, Mark, Placed};
use super::violation::Violation;

/// A map whose keys are numbers of our own, which nobody chooses to collide.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Numbers>>;

/// Hashes numbers by mixing their bits.
#[derive(Default)]
pub(super) struct Numbers(u64);

impl Hasher for Numbers {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
}

/// A change of a stream, from its beginning to what became of it.
pub(super) struct Write {
    pub(super) id: Id,
    pub(super) key: Key,
    pub(super) how: How,
    pub(super) invoked: At,
    /// The end and its kind; a write without one counts as `Info`.
    pub(super) ended: Option<(Kind, At)>,
    /// Where the entry is; its least position, if it has several.
    pub(super) place: Option<Seen>,
}

impl Write {
    /// The event that acknowledged it.
    pub(super) fn acknowledged(&self) -> Option<At> {
        self.ended.and_then(|(kind, at)| (kind == Kind::Ok).then_some(at))
    }
}

/// An entry that an event tells of.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) mark: Mark,
    pub(super) id: Id,
    pub(super) at: At,
}

/// A value that an event tells of.
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) mark: Mark,
    pub(super) at: At,
    pub(super) hash: u64,
}

/// What is known of a stream.
pub(super) struct Log<'h> {
    pub(super) key: Key,
    /// Who told of which entry, by position, then by time.
    pub(super) seen: Vec<Seen>,
    /// By position, then by time.
    pub(super) values: Vec<Value>,
    /// What the final reads tell.
    pub(super) finals: Vec<(At, &'h [Placed])>,
    /// Its writes, of [`Index::writes`].
    pub(super) writes: Vec<usize>,
    /// Some writes are merges: the log cannot be replayed here.
    pub(super) merges: bool,
}

impl<'h> Log<'h> {
    /// Each entry at each of its positions once, by position: the first event that told of it.
    pub(super) fn entries(&self) -> impl Iterator<Item = Seen> + '_ {
        let mut last = None;
        self.seen.iter().copied().filter(move |seen| last.replace((seen.mark, seen.id)) != Some((seen.mark, seen.id)))
    }

    /// The final reads that differ from all the others: one, if they agree.
    pub(super) fn readings(&self) -> Vec<(At, &'h [Placed])> {
        let mut readings: Vec<(At, &'h [Placed])> = Vec::new();
        for &(at, entries) in &self.finals {
            if readings.iter().all(|(_, other)| *other != entries) {
                readings.push((at, entries));
            }
        }
        readings
    }
}

/// Everything that the checks look up.
pub(super) struct Index<'h> {
    pub(super) history: &'h History,
    /// In the order of their beginnings.
    pub(super) writes: Vec<Write>,
    /// One for each key; empty for keys that name no stream.
    pub(super) logs: Vec<Log<'h>>,
    by_id: Map<Id, usize>,
}

impl<'h> Index<'h> {
    pub(super) fn new(history: &'h History, violations: &mut Vec<Violation>) -> Self {
        let logs = (0..history.keys()).map(|key| Log {
            key: Key(key as u32),
            seen: Vec::new(),
            values: Vec::new(),
            finals: Vec::new(),
            writes: Vec::new(),
            merges: false,
        });
        let mut index = Self { history, writes: Vec::new(), logs: logs.collect(), by_id: Map::default() };
        let mut time = 0;
        for (at, event) in history.events.iter().enumerate() {
            let malformed = if event.time < time {
                Some("the events are not in the order of time")
            } else if event.key.index() >= index.logs.len() {
                Some("the key is of another history")
            } else {
                index.take(at)
            };
            violations.extend(malformed.map(|why| Violation::Malformed { at, why }));
            time = event.time;
        }
        for log in &mut index.logs {
            log.seen.sort_unstable_by_key(|seen| (seen.mark, seen.at));
            log.values.sort_unstable_by_key(|value| (value.mark, value.at));
            for seen in &log.seen {
                let write = index.by_id.get(&seen.id).map(|&write| &mut index.writes[write]);
                if let Some(write) = write.filter(|write| write.key == log.key) {
                    write.place.get_or_insert(*seen);
                }
            }
        }
        index
    }

    /// Files one event; an error tells why it cannot be.
    fn take(&mut self, at: At) -> Option<&'static str> {
        let history = self.history;
        let event = &history.events[at];
        let log = &mut self.logs[event.key.index()];
        match &event.function {
            &Function::Write { how, id, mark } => {
                if event.kind == Kind::Invoke {
                    log.merges |= how == How::Merge;
                    let write = Write { id, key: event.key, how, invoked: at, ended: None, place: None };
                    log.writes.push(self.writes.len());
                    let twice = self.by_id.insert(id, self.writes.len()).is_some();
                    self.writes.push(write);
                    return twice.then_some("a write is invoked twice");
                }
                let Some(write) = self.by_id.get(&id).map(|&write| &mut self.writes[write]) else {
                    return Some("a write ends that was not invoked");
                };
                if write.ended.replace((event.kind, at)).is_some() {
                    return Some("a write ends twice");
                }
                if write.key != event.key {
                    return Some("a write ends on another stream");
                }
                match (event.kind, mark) {
                    (Kind::Ok, Some(mark)) => log.seen.push(Seen { mark, id, at }),
                    (_, Some(_)) => return Some("a write that is not acknowledged has a position"),
                    _ => {}
                }
            }
            &Function::Observe { id, mark, hash } => {
                log.seen.push(Seen { mark, id, at });
                log.values.extend(hash.map(|hash| Value { mark, at, hash }));
            }
            &Function::Subscribe { since, recovered, mark, hash } => {
                log.values.extend(hash.map(|hash| Value { mark, at, hash }));
                if recovered && since.is_none() {
                    return Some("a subscription is recovered since nothing");
                }
            }
            &Function::Snapshot { mark, hash } => log.values.push(Value { mark, at, hash }),
            Function::ReadFinal { entries } => {
                let seen = entries.iter().filter_map(|entry| Some(Seen { mark: entry.mark?, id: entry.id, at }));
                log.seen.extend(seen);
                log.finals.push((at, entries));
            }
            _ => {}
        }
        None
    }

    /// The write of this id to this stream.
    pub(super) fn get(&self, key: Key, id: Id) -> Option<&Write> {
        self.by_id.get(&id).map(|&write| &self.writes[write]).filter(|write| write.key == key)
    }

    /// Where a final read's entry is, as far as anybody knows.
    pub(super) fn place(&self, key: Key, entry: &Placed) -> Option<Mark> {
        entry.mark.or_else(|| Some(self.get(key, entry.id)?.place?.mark))
    }

    pub(super) fn time(&self, at: At) -> u64 {
        self.history.events[at].time
    }
}
