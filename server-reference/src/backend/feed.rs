//! News for the nodes of this process: who follows which stream, and whose turn it is to append.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use tokio::sync::mpsc;

use super::{
    error::BackendError,
    judge::chain,
    log::{MAX_PUSH, Mark, News, TURN, Tag, Turn},
    outlet::Outlet,
};
use crate::{clock::Clock, sync::lock};

/// News that wait for a node, at most.
const WAITING: usize = 1_024;

/// The feeds of all nodes on one log. Whoever appends publishes in the order of the log.
pub(super) struct Feeds {
    clock: Arc<dyn Clock>,
    /// How many nodes there are: one alone needs no news.
    nodes: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By number.
    nodes: BTreeMap<u64, Node>,
    turns: HashMap<StreamId, Held>,
    next: u64,
    /// Turns are swept when there are more.
    sweep_at: usize,
}

/// A node that news are for.
struct Node {
    outlet: Outlet<News>,
    /// The streams that it follows.
    followed: HashSet<StreamId>,
}

/// A turn that a node has.
#[derive(Debug)]
struct Held {
    holder: u64,
    until: Duration,
    queue: VecDeque<u64>,
}

/// The feed of one node, which ends when this is dropped.
pub(super) struct Feed {
    feeds: Arc<Feeds>,
    node: u64,
    receiver: Mutex<Option<mpsc::Receiver<News>>>,
}

impl Feeds {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, nodes: AtomicUsize::new(0), inner: Mutex::default() }
    }

    pub(super) fn join(self: &Arc<Self>) -> Feed {
        let (outlet, receiver) = Outlet::new(WAITING, || News::Lost);
        let mut inner = lock(&self.inner);
        let node = inner.next;
        inner.next += 1;
        inner.nodes.insert(node, Node { outlet, followed: HashSet::new() });
        self.nodes.store(inner.nodes.len(), Ordering::SeqCst);
        Feed { feeds: Arc::clone(self), node, receiver: Mutex::new(Some(receiver)) }
    }

    /// Tells followers but the author that `entries` were appended after the tag `before`, ending at `mark`.
    fn publish(&self, author: u64, stream: &StreamId, before: Tag, entries: &[Bytes], mark: Mark, turn: Turn) {
        if self.nodes.load(Ordering::SeqCst) <= 1 && turn == Turn::None {
            return;
        }
        let mut inner = lock(&self.inner);
        let size: usize = entries.iter().map(Bytes::len).sum();
        for (_, node) in inner.nodes.iter_mut().filter(|(node, _)| **node != author) {
            if !node.followed.contains(stream) {
                continue;
            }
            node.outlet.send(if size > MAX_PUSH {
                News::Advanced { stream: stream.clone(), position: mark.position }
            } else {
                let seq = mark.position.seq + 1 - entries.len() as u64;
                let first = Position { seq, ..mark.position };
                News::Entries { stream: stream.clone(), first, entries: chain(before, mark.tag, entries).collect() }
            });
        }
        if turn == Turn::HandOn {
            inner.hand_on(author, stream, self.clock.monotonic());
        }
    }

    /// Tells every node that all streams have begun new lives.
    pub(super) fn begin(&self, generation: u64) {
        lock(&self.inner).nodes.values_mut().for_each(|node| node.outlet.send(News::Generation(generation)));
    }
}

impl Inner {
    fn take_turn(&mut self, node: u64, stream: &StreamId, now: Duration) -> bool {
        let until = now + TURN;
        match self.turns.get_mut(stream) {
            Some(turn) if turn.until > now => {
                if turn.holder != node && !turn.queue.contains(&node) {
                    turn.queue.push_back(node);
                }
                turn.holder == node
            }
            // The holder is gone. Whoever asks is not.
            Some(turn) => {
                turn.queue.retain(|queued| *queued != node);
                (turn.holder, turn.until) = (node, until);
                true
            }
            None => {
                if self.turns.len() >= self.sweep_at {
                    self.turns.retain(|_, turn| turn.until > now);
                    self.sweep_at = (self.turns.len() * 2).max(1_024);
                }
                self.turns.insert(stream.clone(), Held { holder: node, until, queue: VecDeque::new() });
                true
            }
        }
    }

    fn hand_on(&mut self, node: u64, stream: &StreamId, now: Duration) {
        let Some(turn) = self.turns.get_mut(stream) else { return };
        turn.queue.retain(|queued| *queued != node);
        if turn.holder != node {
            return;
        }
        let Some(next) = turn.queue.pop_front() else {
            self.turns.remove(stream);
            return;
        };
        (turn.holder, turn.until) = (next, now + TURN);
        if let Some(node) = self.nodes.get_mut(&next) {
            node.outlet.send(News::Turn(stream.clone()));
        }
    }
}

impl Feed {
    pub(super) fn publish(&self, stream: &StreamId, before: Tag, entries: &[Bytes], mark: Mark, turn: Turn) {
        self.feeds.publish(self.node, stream, before, entries, mark, turn);
    }

    pub(super) fn follow(&self, streams: &[StreamId]) {
        self.with_followed(|followed| {
            for stream in streams {
                if !followed.contains(stream) {
                    followed.insert(stream.clone());
                }
            }
        });
    }

    pub(super) fn unfollow(&self, streams: &[StreamId]) {
        self.with_followed(|followed| {
            for stream in streams {
                followed.remove(stream);
            }
        });
    }

    fn with_followed(&self, f: impl FnOnce(&mut HashSet<StreamId>)) {
        if let Some(node) = lock(&self.feeds.inner).nodes.get_mut(&self.node) {
            f(&mut node.followed);
        }
    }

    pub(super) fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        lock(&self.receiver).take().ok_or_else(|| BackendError::Taken("this handle's news are another node's".into()))
    }

    pub(super) fn take_turn(&self, stream: &StreamId) -> bool {
        lock(&self.feeds.inner).take_turn(self.node, stream, self.feeds.clock.monotonic())
    }

    pub(super) fn end_turn(&self, stream: &StreamId) {
        lock(&self.feeds.inner).hand_on(self.node, stream, self.feeds.clock.monotonic());
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut inner = lock(&self.feeds.inner);
        inner.nodes.remove(&self.node);
        self.feeds.nodes.store(inner.nodes.len(), Ordering::SeqCst);
        let mut touched: Vec<_> = inner.turns.keys().cloned().collect();
        touched.sort_unstable();
        for stream in touched {
            inner.hand_on(self.node, &stream, self.feeds.clock.monotonic());
        }
    }
}
