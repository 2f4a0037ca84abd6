//! Streams in a map behind one lock.

use std::{
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use tokio::sync::mpsc;

use super::super::{
    epoch::{END, epoch},
    error::BackendError,
    feed::{Feed, Feeds},
    judge::{Claim, Verdict, chain, follows},
    log::{Append, Appended, Entry, Loaded, Log, Mark, News, Stored, Tag},
};
use crate::{clock::Clock, few::Few, sync::lock};

/// Keys that were removed whose own epochs are remembered; those of earlier ones count for all keys.
const REMOVED: usize = 4_096;

/// The streams that all nodes share.
pub(super) struct Streams {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    feeds: Arc<Feeds>,
}

#[derive(Default)]
struct State {
    /// Boxed, because a map keeps room for more than it holds.
    map: HashMap<StreamId, Box<Held>>,
    /// New lives begin above this epoch, and those of keys that were removed lately above their own.
    floor: u64,
    removed: HashMap<StreamId, u64>,
    /// Its keys, the earliest first.
    removals: VecDeque<StreamId>,
    /// The greatest epoch that anybody has tried to begin a life with.
    proposed: u64,
    generation: u64,
    /// Whether any stream ever had a lifetime: most servers have none, and need no look at the clock.
    expires: bool,
    /// Streams are swept when there are more.
    sweep_at: usize,
}

#[derive(Debug)]
struct Held {
    mark: Mark,
    /// Most streams are short, and have none.
    snapshot: Option<Box<(u64, Bytes)>>,
    entries: Few<Entry>,
    expires: Option<Duration>,
}

impl Held {
    /// The `seq` before the first kept entry.
    fn first_seq(&self) -> u64 {
        self.mark.position.seq - self.entries.len() as u64
    }

    /// The kept entries after `seq`.
    fn after(&self, seq: u64) -> Vec<Entry> {
        let skip = usize::try_from(seq.saturating_sub(self.first_seq())).unwrap_or(usize::MAX);
        self.entries.from(skip).cloned().collect()
    }

    /// The tag of the entry at `seq`, if that is kept or the newest.
    fn tag_at(&self, seq: u64) -> Option<Tag> {
        if seq == self.mark.position.seq {
            return Some(self.mark.tag);
        }
        let index = seq.checked_sub(self.first_seq() + 1).and_then(|index| usize::try_from(index).ok())?;
        self.entries.get(index).map(|entry| entry.tag)
    }

    fn append(&mut self, claim: Claim, entries: &[Bytes], expires: Option<Duration>) {
        chain(self.mark.tag, claim.tag, entries).for_each(|entry| self.entries.push_back(entry));
        self.mark.position.seq += entries.len() as u64;
        self.mark.tag = claim.tag;
        self.expires = expires;
    }
}

impl State {
    fn remove(&mut self, stream: &StreamId) {
        if self.map.remove(stream).is_none() {
            return;
        }
        if self.removed.insert(stream.clone(), self.proposed).is_none() {
            self.removals.push_back(stream.clone());
        }
        if self.removals.len() > REMOVED
            && let Some(earliest) = self.removals.pop_front()
            && let Some(floor) = self.removed.remove(&earliest)
        {
            self.floor = self.floor.max(floor);
        }
    }

    /// The epoch above which a life of this key begins.
    fn floor(&self, stream: &StreamId) -> u64 {
        self.removed.get(stream).map_or(self.floor, |floor| self.floor.max(*floor))
    }

    /// Removes the stream if its time is over.
    fn expire(&mut self, stream: &StreamId, clock: &dyn Clock) {
        if self.expires
            && let Some(expires) = self.map.get(stream).and_then(|held| held.expires)
            && expires <= clock.monotonic()
        {
            self.remove(stream);
        }
    }

    /// Removes all whose time is over, if the number of streams has doubled since the last time or `now` must be exact.
    fn sweep(&mut self, clock: &dyn Clock, always: bool) {
        if !self.expires || !(always || self.map.len() > self.sweep_at) {
            return;
        }
        let (now, before) = (clock.monotonic(), self.map.len());
        self.map.retain(|_, held| held.expires.is_none_or(|expires| expires > now));
        if self.map.len() < before {
            self.floor = self.proposed;
        }
        self.sweep_at = (self.map.len() * 2).max(1_024);
    }
}

impl Streams {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { feeds: Arc::new(Feeds::new(Arc::clone(&clock))), clock, state: Mutex::default() }
    }

    pub(super) fn begin_generation(&self, seen: u64) -> u64 {
        let mut state = lock(&self.state);
        if state.generation == seen {
            state.generation += 1;
            let newest = state.map.values().map(|held| held.mark.position.epoch).fold(state.proposed, u64::max);
            let life = epoch(self.clock.unix_millis(), 0).max(newest + 1).min(END - 1);
            state.proposed = life;
            state.map.values_mut().for_each(|held| held.mark.position.epoch = life);
            self.feeds.begin(state.generation);
        }
        state.generation
    }
}

/// One node's handle.
pub(super) struct Handle {
    streams: Arc<Streams>,
    feed: Feed,
}

impl Handle {
    pub(super) fn new(streams: &Arc<Streams>) -> Self {
        Self { streams: Arc::clone(streams), feed: streams.feeds.join() }
    }
}

#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let claim = Claim::of(&append)?;
        let Append { stream, entries, .. } = append;
        let clock = &*self.streams.clock;
        let mut state = lock(&self.streams.state);
        state.expire(stream, clock);
        if claim.after.position.seq == 0 {
            state.proposed = state.proposed.max(claim.after.position.epoch);
        }
        let expires = append.ttl.map(|ttl| clock.monotonic().saturating_add(ttl));
        state.expires |= expires.is_some();
        let floor = if claim.after.position.seq == 0 { state.floor(stream) } else { 0 };
        let (before, between, mark) = match state.map.get_mut(stream) {
            Some(held) => {
                let between = match claim.judge(Some(held.mark), floor, |seq| Ok::<_, BackendError>(held.after(seq)))? {
                    Verdict::Append(between) => between,
                    Verdict::Create => Vec::new(),
                    Verdict::Answer(answer) => return Ok(answer),
                };
                let before = held.mark.tag;
                held.append(claim, entries, expires);
                (before, between, held.mark)
            }
            None => {
                if let Verdict::Answer(answer) = claim.judge(None, floor, |_| Ok::<_, BackendError>(Vec::new()))? {
                    return Ok(answer);
                }
                let mut held =
                    Box::new(Held { mark: claim.after, snapshot: None, entries: Few::default(), expires: None });
                held.mark.tag = Tag::default();
                held.append(claim, entries, expires);
                let mark = held.mark;
                state.map.insert(stream.clone(), held);
                state.sweep(clock, false);
                (Tag::default(), Vec::new(), mark)
            }
        };
        self.feed.publish(stream, before, entries, mark, append.turn);
        Ok(Appended::At { between, mark })
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let mut state = lock(&self.streams.state);
        state.expire(stream, &*self.streams.clock);
        let Some(held) = state.map.get(stream) else { return Ok(Loaded::Absent) };
        if let Some(since) = since.filter(|since| since.position.seq >= held.first_seq()) {
            let entries = held.after(since.position.seq);
            if follows(held.mark, since, &entries) {
                return Ok(Loaded::Since(entries));
            }
        }
        let entries = held.after(held.first_seq());
        Ok(Loaded::Whole(Stored { mark: held.mark, snapshot: held.snapshot.as_deref().cloned(), entries }))
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        let mut state = lock(&self.streams.state);
        let head = |stream| {
            state.expire(stream, &*self.streams.clock);
            state.map.get(stream).map(|held| held.mark)
        };
        Ok(streams.iter().map(head).collect())
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        let mut state = lock(&self.streams.state);
        state.expire(stream, &*self.streams.clock);
        let Some(held) = state.map.get_mut(stream) else { return Ok(()) };
        let seq = at.position.seq;
        let is_newer = held.snapshot.as_ref().is_none_or(|newest| newest.0 < seq);
        if is_newer && held.mark.position.epoch == at.position.epoch && held.tag_at(seq) == Some(at.tag) {
            let forget = seq.saturating_sub(keep).saturating_sub(held.first_seq());
            (0..forget).for_each(|_| drop(held.entries.pop_front()));
            held.snapshot = Some(Box::new((seq, bytes)));
        }
        Ok(())
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        let mut state = lock(&self.streams.state);
        if state.map.get(stream).is_some_and(|held| held.mark == at) {
            state.remove(stream);
        }
        Ok(())
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        let mut state = lock(&self.streams.state);
        state.sweep(&*self.streams.clock, true);
        let mut first = BinaryHeap::new();
        for id in state.map.keys() {
            if id.kind == kind && after.is_none_or(|after| id.key.as_str() > after) {
                first.push(id.key.as_str());
                if first.len() > limit {
                    first.pop();
                }
            }
        }
        Ok(first.into_sorted_vec().into_iter().map(str::to_owned).collect())
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.feed.follow(streams);
        Ok(())
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.feed.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.feed.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        Ok(self.feed.take_turn(stream))
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.feed.end_turn(stream);
        Ok(())
    }
}
