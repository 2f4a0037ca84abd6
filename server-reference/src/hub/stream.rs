//! One ordered stream: a position, a bounded log of recent messages, the followers and what the entries come to.
//!
//! Everything that must agree is under one lock: a follower gets the past and joins the present in one step, and an
//! entry is applied, logged and handed to every mailbox in one step. Nothing is written to a socket under it.

mod audience;
mod common;
mod followers;
mod gathering;
mod recent;
mod showing;
mod taking;
#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use tokio::sync::OwnedMutexGuard;

use self::followers::Followers;
pub(crate) use self::{common::Common, taking::Rest};
use super::{
    following::Lag,
    held::Held,
    kind::{self, At, Compaction, Delivery, Kind, Lent, Rules},
    window::Window,
};
use crate::{
    backend::log::Mark,
    connection::{Connection, Protocol},
    desk::Desk,
    entry::Entry,
    sync::lock,
};

#[derive(Debug)]
pub(crate) struct Stream {
    id: StreamId,
    common: Arc<Common>,
    /// The number that names it in frames; 0 where it has none.
    channel: u32,
    inner: Mutex<Inner>,
    /// Held by whoever makes a large message that shows the content.
    showing: Mutex<()>,
    /// Whether its news come.
    pub(super) followed: AtomicBool,
    /// When it was last used, and when it last had news; by the hub's count of ticks.
    pub(super) used: AtomicU64,
    pub(super) heard: AtomicU64,
    pub(super) lag: Lag,
    /// Whether it is in the queue of those that may leave memory.
    pub(super) queued: AtomicBool,
}

/// Contents of so many bytes, where they are not compressed, are written out anew as quickly as they are looked for.
const SHORT: usize = 1024;

/// The right to append to a stream.
pub(crate) type Writer = OwnedMutexGuard<()>;

#[derive(Debug)]
struct Inner {
    mark: Mark,
    /// The epoch that the stream's number implies.
    numbered: u64,
    window: Window,
    content: Box<dyn Kind>,
    held: Held,
    /// Held by whoever appends to the backend, so that writers are linearised without holding this lock meanwhile; `None` while
    /// nobody does. Shared, because an append goes on when its caller is dropped.
    writer: Option<Arc<tokio::sync::Mutex<()>>>,
    /// `None` where nobody follows.
    followers: Option<Box<Followers>>,
    /// Whether the log says that version 1 clients do not take the whole.
    is_told: bool,
}

/// Where a stream begins, or begins again.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) mark: Mark,
    pub(crate) content: Box<dyn Kind>,
    /// The newest entries before `mark`.
    pub(crate) window: Window,
    pub(crate) held: Held,
    /// Messages that those who follow already get behind the whole.
    pub(crate) again: Vec<Bytes>,
}

impl Stream {
    pub(crate) fn new(id: StreamId, start: Start, common: Arc<Common>, channel: u32) -> Self {
        let Start { mark, content, window, held, again: _ } = start;
        if !common.rules.evictable {
            common.needed.fetch_add(1, Ordering::Relaxed);
        }
        let inner = Inner {
            mark,
            numbered: mark.position.epoch,
            window,
            content,
            held,
            writer: None,
            followers: None,
            is_told: false,
        };
        Self {
            id,
            common,
            channel,
            inner: Mutex::new(inner),
            showing: Mutex::default(),
            followed: AtomicBool::new(false),
            used: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            lag: Lag::default(),
            queued: AtomicBool::new(false),
        }
    }

    pub(crate) fn id(&self) -> &StreamId {
        &self.id
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.common.rules
    }

    pub(super) fn common(&self) -> &Arc<Common> {
        &self.common
    }

    /// The number that names it in frames; 0 where it has none.
    pub(crate) fn channel(&self) -> u32 {
        self.channel
    }

    pub(crate) fn position(&self) -> Position {
        self.mark().position
    }

    /// Where it is.
    pub(crate) fn mark(&self) -> Mark {
        lock(&self.inner).mark
    }

    /// Whether no connection follows it.
    pub(super) fn is_unfollowed(&self) -> bool {
        lock(&self.inner).followers().is_empty()
    }

    fn at(&self, position: Position) -> At<'_> {
        At { key: &self.id.key, channel: self.channel, position, compress_above: self.common.compress_above }
    }

    /// Waits for the right to append.
    pub(crate) async fn writer(&self) -> Writer {
        let writer = lock(&self.inner).writer.get_or_insert_default().clone();
        writer.lock_owned().await
    }

    /// The same at once; `None` while somebody has it.
    pub(super) fn try_writer(&self) -> Option<Writer> {
        let writer = lock(&self.inner).writer.get_or_insert_default().clone();
        writer.try_lock_owned().ok()
    }

    /// Gives up what only those need who write to it or follow it, while nobody does.
    pub(super) fn rest(&self) {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        inner.writer.take_if(|writer| Arc::strong_count(writer) == 1);
        let is_short = inner.content.weight() <= SHORT.min(self.common.compress_above);
        inner.followers.take_if(|followers| followers.are_over(is_short));
    }

    /// True if the stream can be evicted. A removed stream needs no history: a client that resumes it gets a snapshot that
    /// says so, and version 1 clients, which follow all streams of their kinds, do not keep it.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = lock(&self.inner);
        if inner.content.is_gone() {
            return inner.followers().iter().all(|follower| follower.protocol() == Protocol::V1);
        }
        self.common.rules.evictable && inner.followers().is_empty()
    }

    /// Whether it comes to nothing, so that dropping it would lose nothing but its position; where it is.
    pub(crate) fn gone_at(&self) -> Option<Mark> {
        let inner = lock(&self.inner);
        inner.content.is_gone().then_some(inner.mark)
    }

    /// Plans on the content; where it was then.
    pub(super) fn plan<R>(&self, f: impl FnOnce(&mut dyn Kind) -> R) -> (Mark, R) {
        let mut inner = lock(&self.inner);
        (inner.mark, f(&mut *inner.content))
    }

    /// Gives up what is pending in the content.
    pub(crate) fn retract(&self) {
        if let Some(displaced) = self.with_content(|content| content.retract()) {
            Desk::discard(displaced);
        }
    }

    /// Looks at the content, or changes it.
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
        let position = inner.mark.position;
        f(&mut *inner.content, &self.at(position))
    }

    /// Whether the stream's number names it in its present life.
    fn is_numbered(&self, inner: &Inner) -> bool {
        self.channel != 0 && inner.numbered == inner.mark.position.epoch
    }

    /// Hands the followers, but for the connection `except`, a message that is no entry, in order with the entries.
    #[cfg(feature = "docs")]
    pub(crate) fn tell<E>(
        &self,
        except: u64,
        message: impl FnOnce(&mut dyn Kind, &At<'_>) -> Result<Option<Bytes>, E>,
    ) -> Result<(), E> {
        let mut inner = lock(&self.inner);
        let position = inner.mark.position;
        if let Some(message) = message(&mut *inner.content, &self.at(position))? {
            for follower in inner.followers().iter().filter(|follower| follower.serial() != except) {
                follower.mailbox().push(message.clone());
            }
        }
        Ok(())
    }

    /// Starts over from what the backend holds, unless the stream has moved since it was at `since`: another life, or so
    /// much that its entries are gone. Followers of what has a snapshot get it; those of a document its greeting; the
    /// others the newest entry, before which they see a gap and ask for what they missed.
    /// The content before is returned: dropping it may take long.
    pub(crate) fn reset(self: &Arc<Self>, since: Mark, start: Start) -> Option<Box<dyn Kind>> {
        let Start { mark, mut content, window, held, mut again } = start;
        let mut inner = lock(&self.inner);
        if inner.mark != since {
            return None;
        }
        content.inherit(&mut *inner.content);
        if since.position.seq == 0 || inner.followers.is_some() {
            inner.followers_mut().start_over(since.position);
        }
        inner.mark = mark;
        (inner.window, inner.held) = (window, held);
        let before = std::mem::replace(&mut inner.content, content);
        again.extend(inner.content.greeting(&self.at(mark.position)));
        for at in 0..inner.followers().len() {
            let Some(connection) = inner.followers().get(at).cloned() else { break };
            if self.is_dear(&inner, connection.protocol()) {
                connection.mailbox().owe(self);
            } else if let Some(shown) = self.shown(&mut inner, connection.protocol()) {
                shown.messages().for_each(|message| connection.mailbox().push_entry(message.clone(), self));
            } else if self.common.rules.delivery == Delivery::Each {
                self.newest(&mut inner, 1).for_each(|message| connection.mailbox().push(message.clone()));
            }
            again.iter().for_each(|message| connection.mailbox().push(message.clone()));
        }
        Some(before)
    }

    /// Takes note of an entry of so many bytes that the backend has stored: whether it should get a snapshot now.
    pub(crate) fn note(&self, bytes: usize) -> bool {
        lock(&self.inner).held.note(bytes, &self.common.rules.compaction)
    }

    /// The snapshot for the backend, if there can be one: where it was taken, its bytes, and how many entries
    /// before it are still promised to those who come back, or, with `others`, needed by nodes that are behind.
    pub(super) fn snapshot(&self, others: bool) -> Option<(Mark, Bytes, u64)> {
        let (mark, keep, job) = {
            let mut inner = lock(&self.inner);
            let keep = inner.window.len().max(if others { inner.held.keep() } else { 0 });
            (inner.mark, keep as u64, inner.content.snapshot()?)
        };
        let snapshot = job();
        let whole = Entry::stored(snapshot.clone()).map(|whole| whole.content().len());
        let mut inner = lock(&self.inner);
        inner.weighs(mark, whole);
        if inner.mark.position.epoch == mark.position.epoch {
            inner.held.compacted(snapshot.len());
        }
        Some((mark, snapshot, keep))
    }

    /// Where it is, and what finds an entry that leaves out what may be forgotten.
    pub(super) fn compaction(&self, now: u64) -> (Mark, Option<Compaction>) {
        let inner = lock(&self.inner);
        (inner.mark, inner.content.compact(now))
    }

    /// Finds out how many bytes the content has.
    pub(super) fn measure(&self) {
        let (mark, job) = {
            let mut inner = lock(&self.inner);
            (inner.mark, inner.content.measure())
        };
        let bytes = job.map(|job| job());
        let mut inner = lock(&self.inner);
        inner.weighs(mark, bytes);
        let bytes = bytes.unwrap_or_else(|| inner.content.weight());
        if inner.mark.position.epoch == mark.position.epoch {
            inner.held.compacted(bytes);
        }
    }

    /// Bytes of memory that are counted for each who follows.
    pub(crate) fn memory(&self) -> usize {
        lock(&self.inner).content.memory()
    }

    /// Whether taking entries of so many bytes takes milliseconds.
    pub(super) fn is_long(&self, bytes: usize) -> bool {
        lock(&self.inner).content.is_long(bytes)
    }

    /// Takes entries by `f`, for who has the right to append: what changing the content takes long is done afterwards, without
    /// the lock. `None` where that fails: then the stream is to be loaded again.
    pub(super) fn apart<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let lent = self.with_content(|content| content.part_with());
        let result = catch_unwind(AssertUnwindSafe(f));
        let is_whole = lent.is_none_or(|lent| self.give_back(lent));
        result.map_or_else(|panic| resume_unwind(panic), |result| is_whole.then_some(result))
    }

    /// Gives back what the content has [parted with](Kind::part_with); whether it has it again.
    fn give_back(&self, mut lent: Lent) -> bool {
        loop {
            let Some(job) = self.with_content(|content| content.take_back(lent)) else { return true };
            let Some(next) = job() else { return false };
            lent = next;
        }
    }

    /// About how many bytes the content has.
    pub(crate) fn weight(&self) -> usize {
        lock(&self.inner).content.weight()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.common.rules.evictable || !self.is_unfollowed() {
            self.common.needed.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Inner {
    fn followers(&self) -> &[Arc<Connection>] {
        self.followers.as_deref().map_or(&[], Followers::as_slice)
    }

    fn followers_mut(&mut self) -> &mut Followers {
        self.followers.get_or_insert_default()
    }

    /// Takes note of the bytes that the content had at `mark`, if it is there still.
    fn weighs(&mut self, mark: Mark, bytes: Option<usize>) {
        if let Some(bytes) = bytes.filter(|_| self.mark == mark) {
            self.content.weighs(bytes);
        }
    }

    /// The same position in this life, for who was there before the first entry. Each node has an epoch of its own for
    /// what nobody has written yet: whoever has nothing of a content has nothing of it in every life, and `all` that follows
    /// leads to it. Of entries that count one by one only those lives go on that have begun nowhere else meanwhile.
    fn born(&self, since: Position, all: bool) -> Position {
        let were_told = || self.followers.as_deref().is_some_and(|followers| followers.were_told(since.epoch));
        let is_before = since.seq == 0 && (all || were_told());
        if is_before { Position { epoch: self.mark.position.epoch, seq: 0 } } else { since }
    }

    /// How many entries follow `since`, if all of them are still here.
    fn missed(&self, since: Position) -> Option<usize> {
        let Position { epoch, seq } = self.mark.position;
        if since.epoch != epoch {
            return None;
        }
        let missed = usize::try_from(seq.checked_sub(since.seq)?).ok()?;
        (missed <= self.window.len()).then_some(missed)
    }
}
