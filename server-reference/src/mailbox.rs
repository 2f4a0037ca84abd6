//! The bounded queue of messages for one connection. Backpressure: a full mailbox conflates first, and closes only if
//! that fails.
//!
//! Publishers push under their stream's lock; the connection's task drains. A mailbox never blocks anyone: when it is
//! over its limit, the pending entries of its states, CRDTs and presence rooms are dropped and those marked stale, to
//! be sent as snapshots once the queue has drained; when that does not help, the connection is told to close with 4001.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use datasole_core::{
    frame::Opcode,
    wire::{CLOSE_FELL_BEHIND, push_varuint},
};
use futures_util::task::AtomicWaker;

use crate::{connection::Protocol, message::Outgoing, sync::lock};

/// A stream whose pending entries a snapshot can replace.
pub(crate) trait Conflate: std::fmt::Debug + Send + Sync {
    /// Hands the messages that show the stream's content to `f`, with no entry in between; the bytes that had to be written
    /// out for it. `None` is handed to `f` where that takes long: if it returns `true`, the messages are
    /// [delivered](Mailbox::deliver) later.
    fn with_snapshot(self: Arc<Self>, protocol: Protocol, f: &mut dyn FnMut(Option<Messages<'_, '_>>) -> bool)
    -> usize;
}

/// Messages that show a stream's content.
pub(crate) type Messages<'a, 'b> = &'a mut dyn Iterator<Item = &'b Bytes>;

#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    /// True if the queue holds anything; read without the lock.
    filled: AtomicBool,
    waker: AtomicWaker,
    /// True while messages are being gathered: the connection is woken once all are here.
    gathering: AtomicBool,
    /// True if the client reads BATCH.
    packs: AtomicBool,
    /// True if the client reads ENTRY and RESULT.
    short: AtomicBool,
    limit: usize,
    protocol: Protocol,
}

/// Bytes of contents that are written out for one connection at a time; the one that exceeds them included.
pub(crate) const AT_ONCE: usize = 256 * 1024;

/// Most bytes of messages in one BATCH.
const BATCH: usize = 64 * 1024;

/// Messages that are being gathered, until it is dropped.
pub(crate) struct Gathering<'a>(&'a Mailbox);

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        // In one order with those of `wake`: one of the two sees what the other has done.
        self.0.gathering.swap(false, Ordering::SeqCst);
        if self.0.filled.load(Ordering::SeqCst) {
            self.0.waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Missed entries and large answers, which do not count towards the limit.
    missed: usize,
    /// Streams whose entries were dropped; a snapshot is owed. The connection follows all of them.
    stale: Vec<Arc<dyn Conflate>>,
    /// How many of the first of them take long: the first is going to be delivered, the others wait for that.
    large: usize,
    close: Option<Box<Close>>,
}

#[derive(Debug)]
struct Item {
    message: Bytes,
    /// Its share of the limit; bytes.
    weight: usize,
    of: Of,
}

/// The stream that a message is an entry of, if it is.
#[derive(Debug)]
enum Of {
    /// Of nothing that a snapshot can replace.
    Nothing,
    /// Of this stream, or a snapshot of it. One that was owed does not count, and is not conflated: who reads slowly gets it
    /// in the end.
    Stream(Arc<dyn Conflate>),
    /// Of a stream that the client has left: nothing replaces it.
    Left,
}

impl Item {
    fn is_missed(&self) -> bool {
        self.weight == 0 && matches!(self.of, Of::Nothing)
    }
}

/// An order to end the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) reason: String,
}

impl Mailbox {
    pub(crate) fn new(limit: usize, protocol: Protocol) -> Self {
        Self {
            queue: Mutex::default(),
            filled: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            gathering: AtomicBool::new(false),
            packs: AtomicBool::new(false),
            short: AtomicBool::new(false),
            limit,
            protocol,
        }
    }

    /// Packs messages that wait at the same time into BATCH frames from now on: the client reads them.
    pub(crate) fn pack(&self) {
        self.packs.store(true, Ordering::Relaxed);
    }

    /// Lets the client have short frames from now on: it reads them.
    pub(crate) fn shorten(&self) {
        self.short.store(true, Ordering::Relaxed);
    }

    /// Whether the client reads short frames.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Gathers queued messages until the guard is dropped: the connection is woken once for all of them.
    pub(crate) fn gather(&self) -> Gathering<'_> {
        self.gathering.store(true, Ordering::Release);
        Gathering(self)
    }

    /// Queues a message that must not be dropped.
    pub(crate) fn push(&self, message: Bytes) {
        self.insert(Item { weight: message.len(), message, of: Of::Nothing });
    }

    /// Queues an entry that a later snapshot may replace, or a snapshot. The caller holds the stream's lock.
    pub(crate) fn push_entry(&self, message: Bytes, stream: &Arc<impl Conflate + 'static>) {
        self.insert(Item { weight: message.len(), message, of: Of::Stream(stream.clone()) });
    }

    /// Owes the client a snapshot of the stream, once the queue has drained. The caller holds the stream's lock.
    pub(crate) fn owe(&self, stream: &Arc<impl Conflate + 'static>) {
        let stream: Arc<dyn Conflate> = stream.clone();
        {
            let mut queue = lock(&self.queue);
            if queue.close.is_some() || queue.is_stale(&stream) {
                return;
            }
            queue.stale.push(stream);
        }
        self.wake();
    }

    /// Queues an entry of a topic that the client has missed. Not counted toward `max_queue`, because the topic's log
    /// already bounds it, and a client closed for falling behind would ask for the same entries again.
    pub(crate) fn push_missed(&self, message: Bytes) {
        self.insert(Item { weight: 0, message, of: Of::Nothing });
    }

    /// Queues a large answer. Not counted toward `max_queue` either, unless another one waits: a client closed for it
    /// would ask again, and the server reads nothing from the client meanwhile.
    pub(crate) fn push_answer(&self, message: Bytes) {
        if self.is_replaying() { self.push(message) } else { self.push_missed(message) }
    }

    /// Orders the connection to end once all queued messages have been sent. The first order stands.
    pub(crate) fn close(&self, code: u16, reason: impl Into<String>) {
        lock(&self.queue).close.get_or_insert_with(|| Box::new(Close { code, reason: reason.into() }));
        self.order();
    }

    /// Drops all messages, present and future: the connection has ended and must not keep any stream in memory.
    pub(crate) fn end(&self) {
        let mut queue = lock(&self.queue);
        let close = queue.close.take().unwrap_or_else(|| Box::new(Close { code: 1000, reason: String::new() }));
        *queue = Queue { close: Some(close), ..Queue::default() };
    }

    /// The order to end the connection, if one was given.
    pub(crate) fn closing(&self) -> Option<Close> {
        lock(&self.queue).close.as_deref().cloned()
    }

    /// True if draining would yield anything.
    pub(crate) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// True while missed entries wait. These are not counted, so the client must not ask for more meanwhile.
    pub(crate) fn is_replaying(&self) -> bool {
        self.is_filled() && lock(&self.queue).missed > 0
    }

    /// Wakes the connection's task for another reason than a message.
    pub(crate) fn nudge(&self) {
        self.waker.wake();
    }

    /// Queues the snapshot of a stream that is awaited, or closes where there is none; nothing where another is awaited. The
    /// caller holds the stream's lock.
    pub(crate) fn deliver(&self, stream: &Arc<impl Conflate + 'static>, messages: Option<Messages<'_, '_>>) {
        let stream: Arc<dyn Conflate> = stream.clone();
        {
            let mut queue = lock(&self.queue);
            if queue.large == 0 || !queue.is_at(0, &stream) {
                return;
            }
            queue.large = 0;
            match messages {
                Some(messages) => queue.show(0, messages),
                None => {
                    queue.stale.clear();
                    drop(queue);
                    return self.close(1011, "a snapshot could not be made");
                }
            }
        }
        self.wake();
    }

    /// Owes no snapshot of a stream any more, whatever happens to its entries that wait: the client has left it. The caller
    /// holds the stream's lock.
    pub(crate) fn forgive(&self, stream: &Arc<impl Conflate + 'static>) {
        let stream: Arc<dyn Conflate> = stream.clone();
        {
            let mut queue = lock(&self.queue);
            queue.items.retain_mut(|item| {
                if !matches!(&item.of, Of::Stream(of) if is_same(of, &stream)) {
                    return true;
                }
                item.of = Of::Left;
                // The debt goes.
                item.weight > 0
            });
            let Some(at) = queue.stale.iter().position(|stale| is_same(stale, &stream)) else { return };
            queue.stale.remove(at);
            if at > 0 || queue.large == 0 {
                queue.large -= usize::from(at < queue.large);
                return;
            }
            queue.large = 0;
        }
        // The others have waited for it.
        self.wake();
    }

    /// Registers the connection's task to be woken by the next push or order.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Moves up to about `room` bytes of waiting messages to `out`, in order. Owed snapshots follow once the queue is
    /// empty, as many as may be written out at a time; those that take long one after the other, behind the others.
    pub(crate) fn drain(&self, out: &mut Outgoing, room: usize) {
        let mut written = 0;
        loop {
            let stale = {
                let mut queue = lock(&self.queue);
                queue.take(out, room, self.packs.load(Ordering::Relaxed));
                if !queue.items.is_empty() {
                    return;
                }
                match queue.stale.get(queue.large) {
                    Some(stream) => {
                        if out.len() >= room || written >= AT_ONCE {
                            return;
                        }
                        stream.clone()
                    }
                    // Whoever delivers what is awaited wakes.
                    None => {
                        self.filled.store(queue.close.is_some(), Ordering::Release);
                        return;
                    }
                }
            };
            // Under the stream's lock no entry can slip between the snapshot and the end of staleness.
            written += stale.clone().with_snapshot(self.protocol, &mut |messages| {
                let mut queue = lock(&self.queue);
                let next = queue.large;
                match messages {
                    // The client may have left it meanwhile.
                    _ if !queue.is_at(next, &stale) => false,
                    Some(messages) => {
                        queue.show(next, messages);
                        false
                    }
                    None => {
                        queue.large += 1;
                        next == 0
                    }
                }
            });
        }
    }

    /// Moves all queued messages to `out`, in order; the limit bounds them. Owed snapshots stay: no limit bounds those.
    pub(crate) fn drain_queued(&self, out: &mut Outgoing) {
        let mut queue = lock(&self.queue);
        queue.take(out, usize::MAX, self.packs.load(Ordering::Relaxed));
        let owes = queue.stale.len() > queue.large;
        self.filled.store(queue.close.is_some() || owes, Ordering::Release);
    }

    fn insert(&self, item: Item) {
        {
            let mut queue = lock(&self.queue);
            if queue.close.is_some() {
                return;
            }
            if matches!(&item.of, Of::Stream(stream) if queue.is_stale(stream)) {
                return;
            }
            let weight = item.weight;
            queue.bytes += weight;
            queue.missed += usize::from(item.is_missed());
            queue.items.push_back(item);
            // A single message over the limit is let through: the frame limit bounds it.
            if weight > 0 && queue.bytes > self.limit && queue.bytes > weight {
                queue.conflate();
                if queue.bytes > self.limit {
                    *queue = Queue::default();
                    let close = Close { code: CLOSE_FELL_BEHIND, reason: "fell behind".into() };
                    queue.close = Some(Box::new(close));
                    drop(queue);
                    return self.order();
                }
            }
        }
        self.wake();
    }

    /// Wakes for an order to end. A connection that waits for its peer to read has a filled mailbox and does not drain.
    fn order(&self) {
        self.filled.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn wake(&self) {
        // The first filler wakes; later ones find the task already on its way.
        if !self.filled.swap(true, Ordering::SeqCst) && !self.gathering.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

impl Queue {
    fn is_stale(&self, stream: &Arc<dyn Conflate>) -> bool {
        self.stale.iter().any(|stale| is_same(stale, stream))
    }

    fn is_at(&self, at: usize, stream: &Arc<dyn Conflate>) -> bool {
        self.stale.get(at).is_some_and(|stale| is_same(stale, stream))
    }

    /// Queues the snapshot of the stale stream at this place. Not counted: large ones come one at a time.
    fn show(&mut self, at: usize, messages: Messages<'_, '_>) {
        let stream = self.stale.remove(at);
        let item = |message: &Bytes| Item { weight: 0, message: message.clone(), of: Of::Stream(stream.clone()) };
        self.items.extend(messages.map(item));
    }

    fn take(&mut self, out: &mut Outgoing, room: usize, packs: bool) {
        while out.len() < room && !self.items.is_empty() {
            let packed = if packs { self.packable() } else { (1, 0) };
            if let (count @ 2.., payload) = packed {
                let batch = out.begin(Opcode::Batch, payload);
                for item in self.items.drain(..count) {
                    push_varuint(batch, item.message.len() as u64);
                    batch.extend_from_slice(&item.message);
                    self.bytes -= item.weight;
                    self.missed -= usize::from(item.is_missed());
                }
            } else if let Some(item) = self.items.pop_front() {
                self.bytes -= item.weight;
                self.missed -= usize::from(item.is_missed());
                out.push(&item.message);
            }
        }
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
    }

    /// The number of first messages that fit into one BATCH, and the length of its payload; bytes.
    fn packable(&self) -> (usize, usize) {
        let (mut count, mut payload) = (0, 0);
        for item in &self.items {
            let length = item.message.len();
            // Seven bits of a length to the byte.
            let next = payload + length.checked_ilog2().map_or(1, |bits| bits as usize / 7 + 1) + length;
            if next > BATCH {
                break;
            }
            (count, payload) = (count + 1, next);
        }
        (count, payload)
    }

    fn conflate(&mut self) {
        let mut kept = VecDeque::new();
        for item in std::mem::take(&mut self.items) {
            match item.of {
                Of::Left => self.bytes -= item.weight,
                Of::Stream(stream) if item.weight > 0 => {
                    self.bytes -= item.weight;
                    if !self.is_stale(&stream) {
                        self.stale.push(stream);
                    }
                }
                _ => kept.push_back(item),
            }
        }
        self.items = kept;
    }
}

fn is_same(a: &Arc<dyn Conflate>, b: &Arc<dyn Conflate>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

#[cfg(test)]
mod tests;
