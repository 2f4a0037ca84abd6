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
    /// out for it.
    fn with_snapshot(&self, protocol: Protocol, f: &mut dyn FnMut(&mut dyn Iterator<Item = &Bytes>)) -> usize;
}

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
    /// Items that do not count towards the limit.
    missed: usize,
    /// Streams whose entries were dropped; a snapshot is owed.
    stale: Vec<Arc<dyn Conflate>>,
    close: Option<Box<Close>>,
}

#[derive(Debug)]
struct Item {
    message: Bytes,
    /// Its share of the limit; bytes.
    weight: usize,
    /// The stream whose entry this is, if it may be conflated.
    stream: Option<Arc<dyn Conflate>>,
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
        self.insert(Item { weight: message.len(), message, stream: None });
    }

    /// Queues an entry that a later snapshot may replace, or a snapshot. The caller holds the stream's lock.
    pub(crate) fn push_entry(&self, message: Bytes, stream: &Arc<impl Conflate + 'static>) {
        self.insert(Item { weight: message.len(), message, stream: Some(stream.clone()) });
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
        self.insert(Item { weight: 0, message, stream: None });
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

    /// Registers the connection's task to be woken by the next push or order.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Moves up to about `room` bytes of waiting messages to `out`, in order. Owed snapshots follow once the queue is
    /// empty, as many as may be written out at a time.
    pub(crate) fn drain(&self, out: &mut Outgoing, room: usize) {
        let mut written = 0;
        loop {
            let stale = {
                let mut queue = lock(&self.queue);
                queue.take(out, room, self.packs.load(Ordering::Relaxed));
                if !queue.items.is_empty() {
                    return;
                }
                match queue.stale.last() {
                    Some(stream) if out.len() < room && written < AT_ONCE => stream.clone(),
                    Some(_) => return,
                    None => {
                        self.filled.store(queue.close.is_some(), Ordering::Release);
                        return;
                    }
                }
            };
            // Under the stream's lock no entry can slip between the snapshot and the end of staleness.
            let cost = stale.with_snapshot(self.protocol, &mut |messages| {
                let mut queue = lock(&self.queue);
                queue.stale.retain(|stream| !is_same(stream, &stale));
                for message in messages {
                    let weight = message.len();
                    queue.bytes += weight;
                    queue.items.push_back(Item { weight, message: message.clone(), stream: Some(stale.clone()) });
                }
            });
            written += cost;
        }
    }

    /// Moves all queued messages to `out`, in order; the limit bounds them. Owed snapshots stay: no limit bounds those.
    pub(crate) fn drain_queued(&self, out: &mut Outgoing) {
        let mut queue = lock(&self.queue);
        queue.take(out, usize::MAX, self.packs.load(Ordering::Relaxed));
        self.filled.store(queue.close.is_some() || !queue.stale.is_empty(), Ordering::Release);
    }

    fn insert(&self, item: Item) {
        {
            let mut queue = lock(&self.queue);
            if queue.close.is_some() {
                return;
            }
            if item.stream.as_ref().is_some_and(|stream| queue.is_stale(stream)) {
                return;
            }
            let weight = item.weight;
            queue.bytes += weight;
            queue.missed += usize::from(weight == 0);
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

    fn take(&mut self, out: &mut Outgoing, room: usize, packs: bool) {
        while out.len() < room && !self.items.is_empty() {
            let packed = if packs { self.packable() } else { (1, 0) };
            if let (count @ 2.., payload) = packed {
                let batch = out.begin(Opcode::Batch, payload);
                for item in self.items.drain(..count) {
                    push_varuint(batch, item.message.len() as u64);
                    batch.extend_from_slice(&item.message);
                    self.bytes -= item.weight;
                    self.missed -= usize::from(item.weight == 0);
                }
            } else if let Some(item) = self.items.pop_front() {
                self.bytes -= item.weight;
                self.missed -= usize::from(item.weight == 0);
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
            match item.stream {
                Some(stream) => {
                    self.bytes -= item.weight;
                    if !self.is_stale(&stream) {
                        self.stale.push(stream);
                    }
                }
                None => kept.push_back(item),
            }
        }
        self.items = kept;
    }
}

fn is_same(a: &Arc<dyn Conflate>, b: &Arc<dyn Conflate>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use datasole_core::{Position, frame, wire::split_varuint};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        Replay,
        connection::Connection,
        hub::{Stream, testing::Numbers},
        message::shared,
        tests::{length, split},
    };

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn watched(mailbox: &Mailbox) -> Arc<Wakes> {
        let wakes = Arc::new(Wakes::default());
        mailbox.register(&wakes.clone().into());
        wakes
    }

    #[test]
    fn an_order_to_end_wakes_a_connection_that_cannot_drain() {
        let check = |order: fn(&Mailbox), code: u16| {
            let mailbox = Mailbox::new(10, Protocol::V2);
            mailbox.push(Bytes::from_static(b"12345"));
            let wakes = watched(&mailbox);
            mailbox.push(Bytes::from_static(b"12345"));
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it was on its way already");
            order(&mailbox);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
            assert_eq!(mailbox.closing().unwrap().code, code);
        };
        check(|mailbox| mailbox.close(1001, "shutdown"), 1001);
        check(|mailbox| mailbox.push(Bytes::from_static(b"6")), CLOSE_FELL_BEHIND);
    }

    #[test]
    fn the_limit_counts_what_waits_but_not_what_was_missed() {
        let check = |missed: usize, pushed: &[usize], closes: bool| {
            let mailbox = Mailbox::new(10, Protocol::V2);
            (0..missed).for_each(|_| mailbox.push_missed(vec![0; 8].into()));
            pushed.iter().for_each(|&length| mailbox.push(vec![0; length].into()));
            assert_eq!(mailbox.closing().is_some(), closes, "{missed} missed, {pushed:?}");
            if !closes {
                let mut out = Outgoing::new(|_, _| {});
                mailbox.drain(&mut out, usize::MAX);
                assert_eq!(out.len(), 8 * missed + pushed.iter().sum::<usize>());
                assert!(!mailbox.is_filled());
            }
        };
        check(0, &[5, 4], false);
        check(0, &[5, 5], false);
        check(0, &[5, 6], true);
        check(0, &[11], false);
        check(0, &[11, 1], true);
        check(100, &[5, 5], false);
        check(100, &[11], false);
        check(100, &[5, 6], true);
    }

    /// A stream whose content is the number of its changes.
    fn counter(key: &str) -> Arc<Stream> {
        Numbers::stream(key, Position::default(), Replay::NONE)
    }

    fn count(stream: &Arc<Stream>) {
        Numbers::count(stream);
    }

    /// A connection that follows these states and has read all there was.
    fn follower(limit: usize, states: &[&Arc<Stream>]) -> Arc<Connection> {
        let connection = Arc::new(Connection::new(1, 1, Protocol::V2, limit, usize::MAX));
        for (id, state) in (1..).zip(states) {
            state.subscribe(&connection, id, None, 0, &mut usize::MAX.clone());
        }
        drained(&connection, usize::MAX);
        connection
    }

    /// The payloads of what was queued.
    fn drained(connection: &Connection, room: usize) -> Vec<Value> {
        let mut out = Outgoing::new(length);
        connection.mailbox().drain(&mut out, room);
        let payload = |message: &Vec<u8>| serde_json::from_slice(frame::decode(message, 1 << 20).unwrap().payload);
        split(&out.bytes).iter().map(|message| payload(message).unwrap()).collect()
    }

    #[test]
    fn states_are_conflated_and_nothing_else() {
        let (a, b, quiet) = (counter("a"), counter("b"), counter("quiet"));
        let connection = follower(900, &[&a, &b, &quiet]);
        let mut events = Vec::new();
        for n in 0..5 {
            let payload = json!({"event": n}).to_string();
            connection.mailbox().push(shared(Opcode::ServerEvent, 0, payload.as_bytes(), usize::MAX));
            events.push(json!({"event": n}));
            (0..50).for_each(|_| count(&a));
            (0..2).for_each(|_| count(&b));
        }
        let received = drained(&connection, usize::MAX);
        assert_eq!(received[..5], events, "in order, before the snapshots owed");
        let mut snapshots: Vec<_> =
            received[5..].iter().map(|message| (message["key"].as_str(), &message["data"], &message["seq"])).collect();
        snapshots.sort_by_key(|snapshot| snapshot.0);
        assert_eq!(snapshots, [(Some("a"), &json!(250), &json!(250)), (Some("b"), &json!(10), &json!(10))]);
        assert!(connection.mailbox().closing().is_none() && !connection.mailbox().is_filled());
        count(&a);
        assert_eq!(drained(&connection, usize::MAX)[0]["patches"][0]["value"], 251, "and patches again");
    }

    #[test]
    fn the_limit_for_states_below_at_and_above() {
        let state = counter("a");
        let ample = follower(1_000, &[&state]);
        count(&state);
        let mut one = Outgoing::new(|_, _| {});
        ample.mailbox().drain(&mut one, usize::MAX);
        for (limit, snapshots) in [(3 * one.len() + 1, 0), (3 * one.len(), 0), (3 * one.len() - 1, 1)] {
            // As many digits as above, in every number.
            let state = counter("a");
            let connection = follower(limit, &[&state]);
            (0..3).for_each(|_| count(&state));
            let received = drained(&connection, usize::MAX);
            assert_eq!(received.iter().filter(|message| message.get("data").is_some()).count(), snapshots);
            assert_eq!(received.len(), if snapshots == 0 { 3 } else { 1 });
        }
    }

    #[test]
    fn closes_when_conflating_is_not_enough() {
        let state = counter("a");
        let connection = follower(100, &[&state]);
        connection.mailbox().push(vec![0; 60].into());
        count(&state);
        connection.mailbox().push(vec![0; 60].into());
        assert_eq!(connection.mailbox().closing().unwrap().code, CLOSE_FELL_BEHIND);
        assert_eq!(drained(&connection, usize::MAX), [Value::Null; 0], "nothing is held any more");
        count(&state);
        assert!(drained(&connection, usize::MAX).is_empty());
        connection.mailbox().close(1001, "too late");
        assert_eq!(connection.mailbox().closing().unwrap().code, CLOSE_FELL_BEHIND, "the first order stands");
    }

    /// Another thread publishes while this one drains in small portions: whatever is dropped, there is never a gap.
    #[test]
    fn no_gap_where_a_snapshot_ends_staleness() {
        const CHANGES: u64 = 20_000;
        let state = counter("a");
        let connection = follower(500, &[&state]);
        let publisher = thread::spawn({
            let state = state.clone();
            move || (0..CHANGES).for_each(|_| count(&state))
        });
        let (mut at, mut snapshots) = (0, 0);
        while at < CHANGES {
            let finished = publisher.is_finished();
            let received = drained(&connection, 300);
            assert!(!(finished && received.is_empty()), "nothing came after {at}");
            for message in received {
                let seq = message["seq"].as_u64().unwrap();
                match message.get("data") {
                    Some(data) => {
                        assert_eq!(*data, json!(seq), "the value of this very position");
                        assert!(seq >= at, "{seq} after {at}");
                        snapshots += 1;
                    }
                    None => assert_eq!(seq, at + 1),
                }
                at = seq;
            }
        }
        publisher.join().unwrap();
        assert!(!connection.mailbox().is_filled() || drained(&connection, usize::MAX).is_empty());
        println!("{snapshots} snapshots");
    }

    /// Packed messages are those that were queued, in as few batches as there are 64 KiB.
    #[test]
    fn messages_are_packed_for_who_reads_batches() {
        let check = |lengths: &[usize], expected: &[usize]| {
            let mailbox = Mailbox::new(usize::MAX, Protocol::V2);
            let queue = || lengths.iter().for_each(|&length| mailbox.push(vec![7; length].into()));
            let drained = || {
                let mut out = Outgoing::new(length);
                mailbox.drain(&mut out, usize::MAX);
                split(&out.bytes)
            };
            queue();
            let plain = drained();
            assert_eq!(plain.len(), lengths.len(), "as they are");
            mailbox.pack();
            queue();
            let mut packed = Vec::new();
            let mut counts = Vec::new();
            for message in drained() {
                let before = packed.len();
                match frame::decode(&message, usize::MAX) {
                    Ok(batch) if batch.opcode == Opcode::Batch => {
                        assert!(batch.payload.len() <= BATCH);
                        let mut rest = batch.payload;
                        while let Some((length, items)) = split_varuint(rest) {
                            let (item, items) = items.split_at(length as usize);
                            packed.push(item.to_vec());
                            rest = items;
                        }
                        assert!(rest.is_empty());
                    }
                    _ => packed.push(message),
                }
                counts.push(packed.len() - before);
            }
            assert!(packed == plain, "{lengths:?}");
            assert_eq!(counts, expected, "{lengths:?}");
        };
        check(&[], &[]);
        check(&[100], &[1]);
        check(&[100, 100], &[2]);
        check(&[0, 127, 128, 16_383, 16_384], &[5]);
        check(&[BATCH / 2 - 3, BATCH / 2 - 3, 1], &[2, 1]);
        check(&[BATCH / 2 - 3, BATCH / 2 - 2, 1], &[1, 2]);
        check(&[BATCH - 3, 1], &[1, 1]);
        check(&[1, BATCH, BATCH + 1, 1, 1], &[1, 1, 1, 2]);
        check(&[60; 3_000], &[1_074, 1_074, 852]);
    }

    #[test]
    fn what_is_gathered_wakes_once() {
        let mailbox = Mailbox::new(100, Protocol::V2);
        let wakes = watched(&mailbox);
        let gathering = mailbox.gather();
        mailbox.push(Bytes::from_static(b"1"));
        mailbox.push(Bytes::from_static(b"2"));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        drop(gathering);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        let wakes = watched(&mailbox);
        let gathering = mailbox.gather();
        mailbox.close(1001, "an order does not wait");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        drop(gathering);
    }
}
