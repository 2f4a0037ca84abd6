//! One ordered stream: a position, a bounded log of recent messages, the followers and what the entries amount to.
//!
//! Everything that must agree is under one lock: a follower gets the past and joins the present in one step, and an
//! entry is logged and handed to every mailbox in one step. Nothing is written to a socket under it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind, frame::Opcode, wire::Subscribed};
use tokio::sync::OwnedMutexGuard;

use super::{
    content::Content,
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
    rules: Rules,
    inner: Mutex<Inner>,
    /// Held by whoever appends to the backend, so that writers are linearised without holding `inner` meanwhile. Shared,
    /// because an append goes on when its caller is dropped.
    writer: Arc<tokio::sync::Mutex<()>>,
}

/// The right to append to a stream.
pub(crate) type Writer = OwnedMutexGuard<()>;

/// What a stream goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// What it keeps for those who come back.
    pub(crate) replay: Replay,
    /// What may follow the backend's newest snapshot before it gets another.
    pub(crate) compaction: Replay,
    pub(crate) compress_above: usize,
    /// What names a document in frames; 0 for the other kinds.
    pub(crate) channel: u32,
}

#[derive(Debug)]
struct Inner {
    position: Position,
    log: VecDeque<Logged>,
    log_bytes: usize,
    followers: Members,
    content: Content,
    /// The message that shows the content to followers of either version, made when first asked for.
    snapshots: [Option<Bytes>; 2],
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

/// Where a stream begins, or begins again.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) position: Position,
    pub(crate) content: Content,
    /// What the backend has kept, up to `position`.
    pub(crate) entries: Vec<Bytes>,
    /// How many of those follow its newest snapshot.
    pub(crate) fresh: usize,
    /// Unix milliseconds.
    pub(crate) now: u64,
}

/// Whose frame an entry came in: it is acknowledged in the same step as the entry is published.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) connection: Arc<Connection>,
    pub(crate) correlation: u32,
}

impl Stream {
    pub(crate) fn new(id: StreamId, start: Start, rules: Rules) -> Self {
        let inner = Inner {
            position: Position::default(),
            log: VecDeque::new(),
            log_bytes: 0,
            followers: Members::default(),
            content: Content::Topic,
            snapshots: [None, None],
            held: Held::default(),
        };
        let stream = Self { id, rules, inner: Mutex::new(inner), writer: Arc::default() };
        stream.begin(&mut lock(&stream.inner), start);
        stream
    }

    pub(crate) fn id(&self) -> &StreamId {
        &self.id
    }

    /// What names a document in frames; 0 for the other kinds.
    #[cfg(feature = "docs")]
    pub(crate) fn channel(&self) -> u32 {
        self.rules.channel
    }

    pub(crate) fn position(&self) -> Position {
        lock(&self.inner).position
    }

    /// Waits for the right to append.
    pub(crate) async fn writer(&self) -> Writer {
        self.writer.clone().lock_owned().await
    }

    /// Whether nobody needs it in memory. What a state went through before it was removed is nothing: whoever comes back
    /// learns from a snapshot that it is gone. Version 1 clients follow every state and CRDT, and miss none that does not
    /// exist.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = lock(&self.inner);
        match self.id.kind {
            StreamKind::State | StreamKind::Crdt if inner.content.is_gone() => {
                inner.followers.iter().all(|follower| follower.protocol() == Protocol::V1)
            }
            StreamKind::State => false,
            StreamKind::Event => inner.followers.is_empty() && inner.log.is_empty(),
            StreamKind::Crdt | StreamKind::Doc => inner.followers.is_empty(),
            StreamKind::Presence => inner.followers.is_empty() && inner.content.is_gone(),
        }
    }

    /// Whether it comes to nothing, so that dropping it would lose nothing but its position; where it is.
    pub(crate) fn gone_at(&self) -> Option<Position> {
        let inner = lock(&self.inner);
        inner.content.is_gone().then_some(inner.position)
    }

    /// Looks at the content, or changes it in a way that [`publish`](Self::publish) will follow.
    pub(crate) fn with_content<R>(&self, f: impl FnOnce(&mut Content) -> R) -> R {
        f(&mut lock(&self.inner).content)
    }

    /// The same together with those who follow: what is handed to them here is in order with the entries.
    #[cfg(feature = "docs")]
    pub(crate) fn with_followers<R>(&self, f: impl FnOnce(&mut Content, &Members) -> R) -> R {
        let mut inner = lock(&self.inner);
        let Inner { content, followers, .. } = &mut *inner;
        f(content, followers)
    }

    /// Makes `entry` the stream's next: `change` brings the content in step, under the same lock. The author of a
    /// document's entry gets the acknowledgement in its place.
    pub(crate) fn publish(
        self: &Arc<Self>,
        entry: &Entry,
        now: u64,
        v1: &[Arc<Connection>],
        author: Option<&Author>,
        change: impl FnOnce(&mut Content),
    ) -> Position {
        let mut inner = lock(&self.inner);
        change(&mut inner.content);
        self.push(&mut inner, entry, now, v1, author)
    }

    /// The same with an entry that `plan` makes of the content, which it brings in step: for what is not stored.
    pub(crate) fn publish_planned<E>(
        self: &Arc<Self>,
        now: u64,
        author: Option<&Author>,
        plan: impl FnOnce(&mut Content) -> Result<Entry, E>,
    ) -> Result<Position, E> {
        let mut inner = lock(&self.inner);
        let entry = plan(&mut inner.content)?;
        Ok(self.push(&mut inner, &entry, now, &[], author))
    }

    fn push(
        self: &Arc<Self>,
        inner: &mut Inner,
        entry: &Entry,
        now: u64,
        v1: &[Arc<Connection>],
        author: Option<&Author>,
    ) -> Position {
        inner.position.seq += 1;
        let message = entry.message(&self.id, self.rules.channel, inner.position, self.rules.compress_above);
        inner.snapshots = [None, None];
        inner.log_push(message.clone(), now, &self.rules.replay);
        match self.id.kind {
            StreamKind::State | StreamKind::Presence => {
                for connection in inner.followers.iter() {
                    connection.mailbox().push_entry(message.clone(), self);
                }
            }
            StreamKind::Event => {
                for connection in inner.followers.iter().chain(v1) {
                    connection.mailbox().push(message.clone());
                }
            }
            StreamKind::Crdt => {
                for connection in inner.followers.iter() {
                    match connection.protocol() {
                        Protocol::V1 => connection.mailbox().owe(self),
                        Protocol::V2 => connection.mailbox().push_entry(message.clone(), self),
                    }
                }
            }
            StreamKind::Doc => {
                let author = author.map(|author| author.connection.serial());
                for connection in inner.followers.iter().filter(|follower| Some(follower.serial()) != author) {
                    connection.mailbox().push(message.clone());
                }
            }
        }
        if let Some(author) = author {
            author.connection.acknowledge(author.correlation, inner.position.seq);
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
        let above = self.rules.compress_above;
        let mut inner = lock(&self.inner);
        inner.expire(now, &self.rules.replay);
        // State vectors say better than positions what a document's follower has missed.
        let missed = since.filter(|_| self.id.kind != StreamKind::Doc).and_then(|since| inner.missed(since));
        let from = if missed.is_some() { since.unwrap_or_default() } else { inner.position };
        let channel = Some(self.rules.channel).filter(|&channel| channel != 0);
        let answer = Subscribed { epoch: from.epoch, seq: from.seq, recovered: missed.is_some(), channel };
        let mailbox = connection.mailbox();
        mailbox.push(message::shared(Opcode::Subscribed, correlation, &entry::json(&answer), above));
        if let Some(missed) = missed {
            let at = inner.log.len() - missed;
            for logged in inner.log.range(at..) {
                match self.id.kind {
                    StreamKind::Event => mailbox.push_missed(logged.message.clone()),
                    _ => mailbox.push_entry(logged.message.clone(), self),
                }
            }
        } else if let Some(snapshot) = inner.snapshot(&self.id, connection.protocol(), above) {
            mailbox.push_entry(snapshot, self);
        }
        #[cfg(feature = "docs")]
        if let Content::Doc(document) = &inner.content {
            for message in document.greeting() {
                mailbox.push_answer(entry::doc(self.rules.channel, 0, &message, above));
            }
        }
        inner.followers.insert(connection);
    }

    /// Joins a version 1 client, which gets the content, if there is any, and then every change.
    pub(crate) fn subscribe_v1(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut inner = lock(&self.inner);
        if inner.followers.insert(connection)
            && !inner.content.is_gone()
            && let Some(snapshot) = inner.snapshot(&self.id, Protocol::V1, self.rules.compress_above)
        {
            connection.mailbox().push_entry(snapshot, self);
        }
    }

    /// Starts over from what the backend holds: another life, or entries that were appended elsewhere. Followers of what
    /// has a snapshot get it; the others see a gap at the next entry, and ask for what they missed.
    pub(crate) fn reset(self: &Arc<Self>, start: Start) {
        let mut inner = lock(&self.inner);
        self.begin(&mut inner, start);
        let inner = &mut *inner;
        for at in 0..inner.followers.len() {
            let Some(connection) = inner.followers.as_slice().get(at).cloned() else { break };
            if let Some(snapshot) = inner.snapshot(&self.id, connection.protocol(), self.rules.compress_above) {
                connection.mailbox().push_entry(snapshot, self);
            }
        }
    }

    fn begin(&self, inner: &mut Inner, start: Start) {
        let Start { position, content, entries, fresh, now } = start;
        inner.position = position;
        inner.content = content;
        inner.snapshots = [None, None];
        inner.log_clear();
        let since_snapshot = entries.len().saturating_sub(fresh)..;
        let bytes = entries.get(since_snapshot).unwrap_or_default().iter().map(Bytes::len).sum();
        inner.held = Held { entries: fresh, bytes };
        // The rest would only be made to be dropped.
        let skip = entries.len().saturating_sub(self.rules.replay.entries);
        let first = position.seq.saturating_sub((entries.len() - skip) as u64);
        for (seq, bytes) in (first + 1..).zip(&entries[skip..]) {
            // Behind an entry that cannot be read the log begins anew: it has no gaps.
            let Some(entry) = &Entry::decode(bytes) else {
                inner.log_clear();
                continue;
            };
            // Only events are stored with their time.
            let at = if let Entry::Event { timestamp, .. } = entry { *timestamp } else { now };
            let position = Position { seq, ..position };
            let message = entry.message(&self.id, self.rules.channel, position, self.rules.compress_above);
            inner.log_push(message, at, &self.rules.replay);
        }
    }

    /// Takes note of an entry of so many bytes that the backend has stored: whether it should get a snapshot now.
    pub(crate) fn note(&self, bytes: usize) -> bool {
        let mut inner = lock(&self.inner);
        inner.held.entries += 1;
        inner.held.bytes += bytes;
        let Replay { entries: most, bytes: most_bytes, .. } = self.rules.compaction;
        let due = inner.held.entries > most || inner.held.bytes > most_bytes;
        if due {
            inner.held = Held::default();
        }
        due
    }

    /// What the backend is to keep in place of the entries, if that can be told: where it was taken, and how many entries
    /// before it are still promised to those who come back.
    pub(crate) fn stored(&self) -> Option<(Position, Bytes, u64)> {
        let mut inner = lock(&self.inner);
        let snapshot = inner.content.stored()?;
        Some((inner.position, snapshot, inner.log.len() as u64))
    }

    pub(crate) fn unsubscribe(&self, connection: &Connection) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.followers.remove(connection);
        #[cfg(feature = "docs")]
        if let Content::Doc(document) = &mut inner.content
            && let Some(message) = document.leave(connection.serial())
        {
            let message = entry::doc(self.rules.channel, 0, &message, self.rules.compress_above);
            inner.followers.iter().for_each(|follower| follower.mailbox().push(message.clone()));
        }
    }

    /// Hands the message that shows the content to `f`, with no entry in between.
    pub(crate) fn with_snapshot(&self, protocol: Protocol, f: impl FnOnce(Option<Bytes>)) {
        let mut inner = lock(&self.inner);
        let snapshot = inner.snapshot(&self.id, protocol, self.rules.compress_above);
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

    fn snapshot(&mut self, id: &StreamId, protocol: Protocol, compress_above: usize) -> Option<Bytes> {
        let at = usize::from(protocol == Protocol::V1 && id.kind == StreamKind::Crdt);
        if self.snapshots[at].is_none() {
            self.snapshots[at] = self.content.snapshot(id, self.position, protocol, compress_above);
        }
        self.snapshots[at].clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datasole_core::Payload;

    use super::*;
    use crate::limits::Limits;

    impl Stream {
        /// One without a hub: empty, at a position, its messages uncompressed.
        pub(crate) fn alone(id: StreamId, position: Position, replay: Replay) -> Self {
            let content = Content::restore(&id, None, &Limits::default()).unwrap();
            let start = Start { position, content, entries: Vec::new(), fresh: 0, now: 0 };
            Self::new(id, start, Rules { replay, compaction: replay, compress_above: usize::MAX, channel: 0 })
        }
    }

    /// A topic of one entry at each of these times, seen at `now`: how many of the newest can be had again.
    fn check(replay: Replay, times: &[u64], now: u64, kept: usize) {
        let id = StreamId::event("t");
        let topic = Arc::new(Stream::alone(id, Position { epoch: 9, seq: 100 }, replay));
        for &at in times {
            topic.publish(&entry(), at, &[], None, |_| {});
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
        let one = entry().message(&StreamId::event("t"), 0, Position { epoch: 9, seq: 101 }, usize::MAX).len();
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
