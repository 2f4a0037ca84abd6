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
