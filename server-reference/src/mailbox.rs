//! What waits for one connection: a bounded queue that prefers conflating states to closing.
//!
//! Publishers push under their stream's lock; the connection's task drains. A mailbox never blocks anyone: when it is
//! over its limit, the pending entries of its states are dropped and the states marked stale, to be sent as snapshots
//! once the queue has drained; when that does not help, the connection is told to close with 4001.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use datasole_core::wire::CLOSE_FELL_BEHIND;
use futures_util::task::AtomicWaker;

use crate::hub::Stream;

/// Locks without regard to poisoning: no code here or in the hub panics between two states that matter.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    /// Whether the queue holds anything: read without the lock.
    filled: AtomicBool,
    waker: AtomicWaker,
    limit: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// States whose entries were dropped; a snapshot is owed.
    stale: Vec<Arc<Stream>>,
    close: Option<Close>,
}

#[derive(Debug)]
struct Item {
    message: Bytes,
    /// The state whose entry this is, if it may be conflated.
    state: Option<Arc<Stream>>,
}

/// An order to end the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Mailbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self { queue: Mutex::default(), filled: AtomicBool::new(false), waker: AtomicWaker::new(), limit }
    }

    /// Queues a message that must not be dropped.
    pub(crate) fn push(&self, message: Bytes) {
        self.insert(Item { message, state: None });
    }

    /// Queues an entry of a state, which a later snapshot may replace. The caller holds the stream's lock.
    pub(crate) fn push_state(&self, message: Bytes, state: &Arc<Stream>) {
        self.insert(Item { message, state: Some(state.clone()) });
    }

    /// Orders the connection to end once what is queued has been sent. The first order stands.
    pub(crate) fn close(&self, code: u16, reason: impl Into<String>) {
        lock(&self.queue).close.get_or_insert_with(|| Close { code, reason: reason.into() });
        self.wake();
    }

    /// Whether an order to end was given.
    pub(crate) fn closing(&self) -> Option<Close> {
        lock(&self.queue).close.clone()
    }

    /// Whether draining would yield anything.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Registers the connection's task to be woken by the next push or order.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Moves up to about `room` bytes of what waits to `out`, in order. Snapshots owed follow once the queue is empty.
    pub(crate) fn drain(&self, out: &mut Vec<u8>, room: usize) {
        loop {
            let stale = {
                let mut queue = lock(&self.queue);
                while out.len() < room
                    && let Some(item) = queue.items.pop_front()
                {
                    queue.bytes -= item.message.len();
                    out.extend_from_slice(&item.message);
                }
                if !queue.items.is_empty() {
                    return;
                }
                queue.items = VecDeque::new();
                match queue.stale.last() {
                    Some(stream) if out.len() < room => stream.clone(),
                    Some(_) => return,
                    None => {
                        self.filled.store(queue.close.is_some(), Ordering::Release);
                        return;
                    }
                }
            };
            // Under the stream's lock no entry can slip between the snapshot and the end of staleness.
            stale.with_snapshot(|snapshot| {
                let mut queue = lock(&self.queue);
                queue.stale.retain(|stream| !Arc::ptr_eq(stream, &stale));
                queue.bytes += snapshot.len();
                queue.items.push_back(Item { message: snapshot, state: Some(stale.clone()) });
            });
        }
    }

    fn insert(&self, item: Item) {
        {
            let mut queue = lock(&self.queue);
            if queue.close.is_some() {
                return;
            }
            if let Some(state) = &item.state
                && queue.stale.iter().any(|stale| Arc::ptr_eq(stale, state))
            {
                return;
            }
            queue.bytes += item.message.len();
            queue.items.push_back(item);
            // A single message over the limit is let through: the frame limit bounds it.
            if queue.bytes > self.limit && queue.items.len() > 1 {
                queue.conflate();
                if queue.bytes > self.limit {
                    *queue = Queue::default();
                    queue.close = Some(Close { code: CLOSE_FELL_BEHIND, reason: "fell behind".into() });
                }
            }
        }
        self.wake();
    }

    fn wake(&self) {
        // The first filler wakes; later ones find the task already on its way.
        if !self.filled.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }
}

impl Queue {
    fn conflate(&mut self) {
        let mut kept = VecDeque::new();
        for item in self.items.drain(..) {
            match item.state {
                Some(state) => {
                    self.bytes -= item.message.len();
                    if !self.stale.iter().any(|stale| Arc::ptr_eq(stale, &state)) {
                        self.stale.push(state);
                    }
                }
                None => kept.push_back(item),
            }
        }
        self.items = kept;
    }
}
