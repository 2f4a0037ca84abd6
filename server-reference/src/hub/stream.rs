//! One ordered stream: a position, a bounded log of recent messages, the subscribers and, for a state, the value.
//!
//! Everything that must agree is under one lock: a subscriber gets the past and joins the present in one step, and an
//! entry is logged and handed to every mailbox in one step. Nothing is written to a socket under it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind, frame::Opcode, wire::Subscribed};
use serde_json::{Value, value::to_raw_value};
use tokio::sync::OwnedMutexGuard;

use super::{
    entry::{self, Entry},
    members::Members,
};
use crate::{
    connection::{Connection, Protocol},
    limits::Replay,
    mailbox::lock,
    message,
};

#[derive(Debug)]
pub(crate) struct Stream {
    id: StreamId,
    replay: Replay,
    compress_above: usize,
    inner: Mutex<Inner>,
    /// Held by whoever appends to the backend, so that writers are linearised without holding `inner` meanwhile. Shared,
    /// because an append goes on when its caller is dropped.
    writer: Arc<tokio::sync::Mutex<()>>,
}

/// The right to append to a stream.
pub(crate) type Writer = OwnedMutexGuard<()>;

#[derive(Debug)]
struct Inner {
    position: Position,
    log: VecDeque<Logged>,
    log_bytes: usize,
    subscribers: Members,
    document: Document,
    /// The message of the current value, made when first asked for.
    snapshot: Option<Bytes>,
    held: Held,
}

/// What the backend holds since its newest snapshot.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    entries: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Logged {
    message: Bytes,
    /// Unix milliseconds.
    at: u64,
}

/// A state's value, and an upper bound of its length as JSON text.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) value: Option<Value>,
    pub(crate) bound: usize,
}

/// Where a stream begins, or begins again.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) position: Position,
    /// A state's value.
    pub(crate) document: Document,
    /// What the backend has kept since its snapshot, up to `position`.
    pub(crate) entries: Vec<Bytes>,
}

impl Stream {
    pub(crate) fn new(id: StreamId, start: Start, replay: Replay, compress_above: usize) -> Self {
        let inner = Inner {
            position: Position::default(),
            log: VecDeque::new(),
            log_bytes: 0,
            subscribers: Members::default(),
            document: Document::default(),
            snapshot: None,
            held: Held::default(),
        };
        let stream = Self { id, replay, compress_above, inner: Mutex::new(inner), writer: Arc::default() };
        stream.begin(&mut lock(&stream.inner), start);
        stream
    }

    pub(crate) fn id(&self) -> &StreamId {
        &self.id
    }

    pub(crate) fn position(&self) -> Position {
        lock(&self.inner).position
    }

    /// Waits for the right to append.
    pub(crate) async fn writer(&self) -> Writer {
        self.writer.clone().lock_owned().await
    }

    /// Whether dropping it would lose nothing but its position. What a state went through before it was removed is
    /// nothing: whoever comes back learns from a snapshot that it is gone. Version 1 clients follow every state, and miss
    /// none that does not exist.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = lock(&self.inner);
        if self.id.kind == StreamKind::State {
            return inner.document.value.is_none() && inner.subscribers.iter().all(|c| c.protocol() == Protocol::V1);
        }
        inner.subscribers.is_empty() && inner.log.is_empty()
    }

    /// Looks at the value, or changes it in a way that [`publish`](Self::publish) will follow.
    pub(crate) fn with_document<R>(&self, f: impl FnOnce(&mut Document) -> R) -> R {
        f(&mut lock(&self.inner).document)
    }

    /// Makes `entry` the stream's next: `change` brings the document in step, under the same lock.
    pub(crate) fn publish(
        self: &Arc<Self>,
        entry: &Entry,
        now: u64,
        v1: &[Arc<Connection>],
        change: impl FnOnce(&mut Document),
    ) -> Position {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.position.seq += 1;
        let message = entry.message(&self.id.key, inner.position, self.compress_above);
        change(&mut inner.document);
        inner.snapshot = None;
        inner.log_push(message.clone(), now, &self.replay);
        if self.id.kind == StreamKind::State {
            for connection in inner.subscribers.iter() {
                connection.mailbox().push_state(message.clone(), self);
            }
        } else {
            for connection in inner.subscribers.iter().chain(v1) {
                connection.mailbox().push(message.clone());
            }
        }
        inner.position
    }

    /// Joins `connection` and queues, in this order: SUBSCRIBED (with `correlation`), what was missed or a snapshot.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        correlation: u32,
        since: Option<Position>,
        now: u64,
    ) {
        let mut inner = lock(&self.inner);
        inner.expire(now, &self.replay);
        let missed = since.and_then(|since| inner.missed(since));
        let from = if missed.is_some() { since.unwrap_or_default() } else { inner.position };
        let answer = Subscribed { epoch: from.epoch, seq: from.seq, recovered: missed.is_some(), channel: None };
        let mailbox = connection.mailbox();
        mailbox.push(message::shared(Opcode::Subscribed, correlation, &entry::json(&answer), self.compress_above));
        match missed {
            Some(missed) => {
                let at = inner.log.len() - missed;
                for logged in inner.log.range(at..) {
                    match self.id.kind {
                        StreamKind::State => mailbox.push_state(logged.message.clone(), self),
                        _ => mailbox.push_missed(logged.message.clone()),
                    }
                }
            }
            None if self.id.kind == StreamKind::State => {
                let snapshot = inner.snapshot(&self.id.key, self.compress_above);
                mailbox.push_state(snapshot, self);
            }
            None => {}
        }
        inner.subscribers.insert(connection);
    }

    /// Joins a version 1 client, which gets the value, if there is one, and then every change.
    pub(crate) fn subscribe_v1(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut inner = lock(&self.inner);
        if inner.subscribers.insert(connection) && inner.document.value.is_some() {
            let snapshot = inner.snapshot(&self.id.key, self.compress_above);
            connection.mailbox().push_state(snapshot, self);
        }
    }

    /// Starts over from what the backend holds: another life, or entries that were appended elsewhere. Followers of a
    /// state get its value; those of a topic see a gap at its next event, and ask for what they missed.
    pub(crate) fn reset(self: &Arc<Self>, start: Start) {
        let mut inner = lock(&self.inner);
        self.begin(&mut inner, start);
        if self.id.kind == StreamKind::State {
            let snapshot = inner.snapshot(&self.id.key, self.compress_above);
            for connection in inner.subscribers.iter() {
                connection.mailbox().push_state(snapshot.clone(), self);
            }
        }
    }

    fn begin(&self, inner: &mut Inner, start: Start) {
        let Start { position, document, entries } = start;
        inner.position = position;
        inner.document = document;
        inner.snapshot = None;
        inner.log_clear();
        inner.held = Held { entries: entries.len(), bytes: entries.iter().map(Bytes::len).sum() };
        if self.id.kind == StreamKind::State {
            return;
        }
        let first = position.seq.saturating_sub(entries.len() as u64);
        for (seq, bytes) in (first + 1..).zip(&entries) {
            // Behind an entry that cannot be read the log begins anew: it has no gaps.
            let Some(entry @ Entry::Event { timestamp, .. }) = &Entry::decode(bytes) else {
                inner.log_clear();
                continue;
            };
            let position = Position { seq, ..position };
            inner.log_push(entry.message(&self.id.key, position, self.compress_above), *timestamp, &self.replay);
        }
    }

    /// Takes note of an entry of so many bytes that the backend has stored: up to where it may forget now, if it holds
    /// more than those who come back are promised. A state is held by a snapshot, a topic's log is still needed.
    pub(crate) fn compact_to(&self, bytes: usize) -> Option<Position> {
        let mut inner = lock(&self.inner);
        inner.held.entries += 1;
        inner.held.bytes += bytes;
        if inner.held.entries <= self.replay.entries && inner.held.bytes <= self.replay.bytes {
            return None;
        }
        inner.held = Held::default();
        let kept = if self.id.kind == StreamKind::State { 0 } else { inner.log.len() as u64 };
        Some(Position { seq: inner.position.seq.saturating_sub(kept), ..inner.position })
    }

    pub(crate) fn unsubscribe(&self, connection: &Connection) {
        lock(&self.inner).subscribers.remove(connection);
    }

    /// Hands the message of the current value to `f`, with no entry in between.
    pub(crate) fn with_snapshot(&self, f: impl FnOnce(Bytes)) {
        let mut inner = lock(&self.inner);
        let snapshot = inner.snapshot(&self.id.key, self.compress_above);
        f(snapshot);
    }
}

impl Inner {
    fn log_push(&mut self, message: Bytes, at: u64, replay: &Replay) {
        if replay.entries == 0 {
            return;
        }
        self.log_bytes += message.len();
        self.log.push_back(Logged { message, at });
        while self.log.len() > replay.entries || self.log_bytes > replay.bytes {
            self.log_pop();
        }
        self.expire(at, replay);
    }

    fn log_clear(&mut self) {
        self.log.clear();
        self.log_bytes = 0;
    }

    fn log_pop(&mut self) {
        if let Some(logged) = self.log.pop_front() {
            self.log_bytes -= logged.message.len();
        }
    }

    fn expire(&mut self, now: u64, replay: &Replay) {
        let Some(age) = replay.age else { return };
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        while self.log.front().is_some_and(|logged| logged.at.saturating_add(age) < now) {
            self.log_pop();
        }
    }

    /// How many entries follow `since`, if all of them are still here.
    fn missed(&self, since: Position) -> Option<usize> {
        if since.epoch != self.position.epoch {
            return None;
        }
        let missed = usize::try_from(self.position.seq.checked_sub(since.seq)?).ok()?;
        (missed <= self.log.len()).then_some(missed)
    }

    fn snapshot(&mut self, key: &str, compress_above: usize) -> Bytes {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.clone();
        }
        // A Value has string keys and finite numbers: it can always be written.
        let text = self.document.value.as_ref().and_then(|value| to_raw_value(value).ok());
        if let Some(text) = &text {
            self.document.bound = text.get().len();
        }
        let snapshot = entry::snapshot(key, text.as_deref(), self.position, compress_above);
        self.snapshot = Some(snapshot.clone());
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datasole_core::Payload;

    use super::*;

    /// A topic of one entry at each of these times, seen at `now`: how many of the newest can be had again.
    fn check(replay: Replay, times: &[u64], now: u64, kept: usize) {
        let start = Start { position: Position { epoch: 9, seq: 100 }, ..Start::default() };
        let topic = Arc::new(Stream::new(StreamId::event("t"), start, replay, usize::MAX));
        for &at in times {
            topic.publish(&entry(), at, &[], |_| {});
        }
        let mut inner = lock(&topic.inner);
        inner.expire(now, &replay);
        let newest = 100 + times.len() as u64;
        for missed in 0..=times.len() + 1 {
            let since = Position { epoch: 9, seq: newest - missed as u64 };
            assert_eq!(inner.missed(since), (missed <= kept).then_some(missed), "{replay:?}, {missed} missed");
        }
        assert_eq!(inner.missed(Position { epoch: 9, seq: newest + 1 }), None, "the future");
        assert_eq!(inner.missed(Position { epoch: 8, seq: newest }), None, "another life");
        assert_eq!(inner.log.len(), kept);
        assert_eq!(inner.log_bytes, inner.log.iter().map(|logged| logged.message.len()).sum::<usize>());
    }

    fn entry() -> Entry {
        Entry::Event { data: Payload::Empty, timestamp: 0 }
    }

    #[test]
    fn the_replay_window_is_bounded_by_entries() {
        let replay = |entries| Replay { entries, ..Replay::default() };
        check(Replay::NONE, &[0; 3], 0, 0);
        check(replay(4), &[0; 3], 0, 3);
        check(replay(3), &[0; 3], 0, 3);
        check(replay(2), &[0; 3], 0, 2);
    }

    #[test]
    fn the_replay_window_is_bounded_by_bytes() {
        let one = entry().message("t", Position { epoch: 9, seq: 101 }, usize::MAX).len();
        let replay = |bytes| Replay { bytes, ..Replay::default() };
        check(replay(3 * one + 1), &[0; 3], 0, 3);
        check(replay(3 * one), &[0; 3], 0, 3);
        check(replay(3 * one - 1), &[0; 3], 0, 2);
        check(replay(one - 1), &[0; 3], 0, 0);
    }

    #[test]
    fn the_replay_window_is_bounded_by_age() {
        let replay = Replay { age: Some(Duration::from_millis(10)), ..Replay::default() };
        check(replay, &[100, 101, 102], 109, 3);
        check(replay, &[100, 101, 102], 110, 3);
        check(replay, &[100, 101, 102], 111, 2);
        check(replay, &[100, 101, 102], 113, 0);
        check(replay, &[100, 111], 111, 1);
        check(Replay::default(), &[100, 101], u64::MAX, 2);
    }
}
