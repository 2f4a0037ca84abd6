//! One ordered stream: a position, a bounded log of recent messages, the followers and what the entries come to.
//!
//! Everything that must agree is under one lock: a follower gets the past and joins the present in one step, and an
//! entry is applied, logged and handed to every mailbox in one step. Nothing is written to a socket under it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, frame::Opcode, wire::Subscribed};
use tokio::sync::OwnedMutexGuard;

use super::{
    kind::{self, At, Delivery, Inapplicable, Kind, Rules, V1},
    members::Members,
};
use crate::{
    answer::Author,
    backend::Stored,
    connection::{Connection, Protocol},
    entry::Entry,
    limits::Replay,
    mailbox::Conflate,
    message,
    sync::lock,
};

#[derive(Debug)]
pub(crate) struct Stream {
    id: StreamId,
    rules: Rules,
    /// The number that names it in frames; 0 where it has none.
    channel: u32,
    /// Longer frames are compressed; bytes.
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
    followers: Members,
    content: Box<dyn Kind>,
    /// The message that shows the content to followers of either version, made when first asked for.
    shown: [Option<Bytes>; 2],
    held: Held,
}

/// Entries and bytes that the backend holds since its newest snapshot.
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
    pub(crate) content: Box<dyn Kind>,
    /// The backend's newest snapshot and the entries it has kept, up to `position`.
    pub(crate) stored: Stored,
    /// Unix milliseconds.
    pub(crate) now: u64,
}

impl Stream {
    pub(crate) fn new(id: StreamId, start: Start, rules: Rules, channel: u32, compress_above: usize) -> Self {
        let Start { position, content, stored, now } = start;
        let inner = Inner {
            position,
            log: VecDeque::new(),
            log_bytes: 0,
            followers: Members::default(),
            content,
            shown: [None, None],
            held: Held::default(),
        };
        let stream = Self { id, rules, channel, compress_above, inner: Mutex::new(inner), writer: Arc::default() };
        stream.remember(&mut lock(&stream.inner), &stored, now);
        stream
    }

    pub(crate) fn id(&self) -> &StreamId {
        &self.id
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The number that names it in frames; 0 where it has none.
    pub(crate) fn channel(&self) -> u32 {
        self.channel
    }

    pub(crate) fn position(&self) -> Position {
        lock(&self.inner).position
    }

    fn at(&self, position: Position) -> At<'_> {
        At { key: &self.id.key, channel: self.channel, position, compress_above: self.compress_above }
    }

    /// Waits for the right to append.
    pub(crate) async fn writer(&self) -> Writer {
        self.writer.clone().lock_owned().await
    }

    /// Whether nobody needs it in memory. Version 1 clients follow all streams of their kinds, and miss none that comes to
    /// nothing: whoever comes back learns from a snapshot that it is gone.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = lock(&self.inner);
        if inner.content.is_gone() {
            return inner.followers.iter().all(|follower| follower.protocol() == Protocol::V1);
        }
        self.rules.evictable && inner.followers.is_empty()
    }

    /// Whether it comes to nothing, so that dropping it would lose nothing but its position; where it is.
    pub(crate) fn gone_at(&self) -> Option<Position> {
        let inner = lock(&self.inner);
        inner.content.is_gone().then_some(inner.position)
    }

    /// Looks at the content, or plans on it.
    pub(crate) fn with_content<R>(&self, f: impl FnOnce(&mut dyn Kind) -> R) -> R {
        f(&mut *lock(&self.inner).content)
    }

    /// The same where the content is of this kind; else what `R` is by default.
    pub(crate) fn with<K: Kind, R: Default>(&self, f: impl FnOnce(&mut K) -> R) -> R {
        self.with_content(|content| kind::of(content).map_or_else(R::default, f))
    }

    /// The same together with where a message of the stream belongs: what is queued here is in order with the entries.
    #[cfg(feature = "docs")]
    pub(crate) fn at_present<R>(&self, f: impl FnOnce(&mut dyn Kind, &At<'_>) -> R) -> R {
        let mut inner = lock(&self.inner);
        let position = inner.position;
        f(&mut *inner.content, &self.at(position))
    }

    /// Applies `entry`, which the backend has at the next position, and hands it to the followers, to version 1 clients
    /// `v1` and, as an acknowledgement, to its author.
    pub(crate) fn publish(
        self: &Arc<Self>,
        entry: &Entry,
        now: u64,
        v1: &[Arc<Connection>],
        author: Option<&Author>,
    ) -> Result<Position, Inapplicable> {
        let mut inner = lock(&self.inner);
        inner.content.apply(entry)?;
        Ok(self.push(&mut inner, entry, now, v1, author))
    }

    /// The same with an entry that `plan` makes of the content, for what no backend keeps.
    pub(crate) fn publish_planned<E>(
        self: &Arc<Self>,
        now: u64,
        v1: &[Arc<Connection>],
        author: Option<&Author>,
        plan: impl FnOnce(&mut dyn Kind) -> Result<Entry, E>,
    ) -> Result<Option<Position>, E> {
        let mut inner = lock(&self.inner);
        let entry = plan(&mut *inner.content)?;
        if inner.content.apply(&entry).is_err() {
            return Ok(None);
        }
        Ok(Some(self.push(&mut inner, &entry, now, v1, author)))
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
        let message = inner.content.message(entry, &self.at(inner.position));
        inner.shown = [None, None];
        inner.log_push(message.clone(), now, &self.rules.replay);
        match self.rules.delivery {
            Delivery::Each => {
                let v1 = if !v1.is_empty() && inner.content.is_v1(entry) { v1 } else { &[] };
                for connection in inner.followers.iter().chain(v1) {
                    connection.mailbox().push(message.clone());
                }
            }
            Delivery::Conflated => {
                for connection in inner.followers.iter() {
                    match (self.rules.v1, connection.protocol()) {
                        (V1::Whole, Protocol::V1) => connection.mailbox().owe(self),
                        _ => connection.mailbox().push_entry(message.clone(), self),
                    }
                }
            }
            Delivery::Others => {
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

    /// Hands the followers, but for the connection `except`, a message that is no entry, in order with the entries.
    #[cfg(feature = "docs")]
    pub(crate) fn tell<E>(
        &self,
        except: u64,
        message: impl FnOnce(&mut dyn Kind, &At<'_>) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let mut inner = lock(&self.inner);
        let position = inner.position;
        if let Some(message) = message(&mut *inner.content, &self.at(position))? {
            for follower in inner.followers.iter().filter(|follower| follower.serial() != except) {
                follower.mailbox().push(message.clone());
            }
        }
        Ok(())
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
        inner.expire(now, &self.rules.replay);
        let resumed = since.filter(|_| self.rules.delivery != Delivery::Others);
        let missed = resumed.and_then(|since| inner.missed(since));
        let from = if missed.is_some() { since.unwrap_or_default() } else { inner.position };
        let channel = Some(self.at(from).channel).filter(|&channel| channel != 0);
        let answer = Subscribed { epoch: from.epoch, seq: from.seq, recovered: missed.is_some(), channel };
        let mailbox = connection.mailbox();
        mailbox.push(message::shared(Opcode::Subscribed, correlation, &message::json(&answer), self.compress_above));
        if let Some(missed) = missed {
            let at = inner.log.len() - missed;
            for logged in inner.log.range(at..) {
                match self.rules.delivery {
                    Delivery::Each => mailbox.push_missed(logged.message.clone()),
                    Delivery::Conflated | Delivery::Others => mailbox.push_entry(logged.message.clone(), self),
                }
            }
        } else if let Some(snapshot) = self.shown(&mut inner, connection.protocol()) {
            mailbox.push_entry(snapshot, self);
        }
        for message in inner.content.greeting(&self.at(inner.position)) {
            mailbox.push_answer(message);
        }
        inner.followers.insert(connection);
    }

    /// Joins a version 1 client, which gets the content, if there is any, and then every change.
    pub(crate) fn subscribe_v1(self: &Arc<Self>, connection: &Arc<Connection>) {
        let mut inner = lock(&self.inner);
        if inner.followers.insert(connection)
            && !inner.content.is_gone()
            && let Some(snapshot) = self.shown(&mut inner, Protocol::V1)
        {
            connection.mailbox().push_entry(snapshot, self);
        }
    }

    /// Ends what [`subscribe`](Self::subscribe) began.
    pub(crate) fn unsubscribe(&self, connection: &Connection) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.followers.remove(connection);
        if let Some(message) = inner.content.leave(connection.serial(), &self.at(inner.position)) {
            inner.followers.iter().for_each(|follower| follower.mailbox().push(message.clone()));
        }
    }

    /// Takes entries that others have appended right behind `since`, and hands them to the followers. Those that are here
    /// already are passed over.
    pub(crate) fn accept(
        self: &Arc<Self>,
        since: Position,
        entries: &[Entry],
        now: u64,
        v1: &[Arc<Connection>],
    ) -> Result<(), Inapplicable> {
        let mut inner = lock(&self.inner);
        for (seq, entry) in (since.seq + 1..).zip(entries) {
            if inner.position.epoch != since.epoch || seq > inner.position.seq + 1 {
                return Err(Inapplicable);
            }
            if seq == inner.position.seq + 1 {
                if !inner.content.reads(entry) {
                    return Err(Inapplicable);
                }
                inner.content.apply(entry)?;
                let now = inner.content.time(entry).unwrap_or(now);
                self.push(&mut inner, entry, now, v1, None);
            }
        }
        Ok(())
    }

    /// Starts over from what the backend holds: another life, or so much that its entries are gone. Followers of what has
    /// a snapshot get it; the others see a gap at the next entry, and ask for what they missed.
    pub(crate) fn reset(self: &Arc<Self>, start: Start) {
        let Start { position, content, stored, now } = start;
        let mut inner = lock(&self.inner);
        inner.position = position;
        inner.content = content;
        inner.shown = [None, None];
        self.remember(&mut inner, &stored, now);
        for at in 0..inner.followers.len() {
            let Some(connection) = inner.followers.as_slice().get(at).cloned() else { break };
            if let Some(snapshot) = self.shown(&mut inner, connection.protocol()) {
                connection.mailbox().push_entry(snapshot, self);
            }
        }
    }

    /// Fills the log with what the backend has kept.
    fn remember(&self, inner: &mut Inner, stored: &Stored, now: u64) {
        inner.log_clear();
        let fresh = stored.since_snapshot();
        inner.held = Held { entries: fresh.len(), bytes: fresh.iter().map(Bytes::len).sum() };
        // The rest would only be made to be dropped.
        let skip = stored.entries.len().saturating_sub(self.rules.replay.entries);
        let kept = &stored.entries[skip..];
        let first = inner.position.seq.saturating_sub(kept.len() as u64);
        for (seq, bytes) in (first + 1..).zip(kept) {
            // Behind an entry that cannot be read the log begins anew: it has no gaps.
            let Some(entry) = Entry::stored(bytes.clone()).filter(|entry| inner.content.reads(entry)) else {
                inner.log_clear();
                continue;
            };
            let time = inner.content.time(&entry).unwrap_or(now);
            let message = inner.content.message(&entry, &self.at(Position { seq, ..inner.position }));
            inner.log_push(message, time, &self.rules.replay);
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

    /// The snapshot for the backend, if there can be one: where it was taken, its bytes, and how many entries
    /// before it are still promised to those who come back.
    pub(crate) fn snapshot(&self) -> Option<(Position, Bytes, u64)> {
        let mut inner = lock(&self.inner);
        let snapshot = inner.content.snapshot()?;
        Some((inner.position, snapshot, inner.log.len() as u64))
    }

    fn shown(&self, inner: &mut Inner, protocol: Protocol) -> Option<Bytes> {
        let at = usize::from(protocol == Protocol::V1 && self.rules.v1 == V1::Whole);
        if inner.shown[at].is_none() {
            inner.shown[at] = inner.content.show(protocol, &self.at(inner.position));
        }
        inner.shown[at].clone()
    }
}

impl Conflate for Stream {
    fn with_snapshot(&self, protocol: Protocol, f: &mut dyn FnMut(Option<Bytes>)) {
        let mut inner = lock(&self.inner);
        f(self.shown(&mut inner, protocol));
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hub::testing::{Numbers, number};

    /// A topic of one entry at each of these times, seen at `now`: how many of the newest can be had again.
    fn check(replay: Replay, times: &[u64], now: u64, kept: usize) {
        let topic = Numbers::stream("t", Position { epoch: 9, seq: 100 }, replay);
        for &at in times {
            topic.publish(&number(1), at, &[], None).unwrap();
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
        let at = At { key: "t", channel: 0, position: Position { epoch: 9, seq: 101 }, compress_above: usize::MAX };
        let one = Numbers::default().message(&number(1), &at).len();
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
