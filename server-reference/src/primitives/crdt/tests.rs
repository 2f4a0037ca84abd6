//! Operations over a backend that takes its time, and what is in memory.

use std::sync::atomic::Ordering;

use datasole_core::{
    Position, StreamKind, codes,
    crdt::{Crdt, CrdtKind, CrdtLimits, Op},
    frame::Opcode,
};
use serde_json::{Value, json};

use super::content::{RETENTION, collected};
use crate::{
    Limits, Protocol,
    tests::{Gated, Peer, builder, plain, spawn},
};

/// The n-th operation of a replica on an `or-set`.
fn op(counter: u64, verb: &str, dots: &Value) -> Value {
    let op = json!({ "type": "or-set", "nodeId": "a", "counter": counter, "timestamp": 1, "op": verb, "value": 1, "dots": dots });
    json!({ "key": "set", "op": op })
}

/// What one connection sends is served in its order, however long the key takes to open; and no more than so much at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_wait_in_order_and_are_bounded() {
    let backend = Gated::new(false);
    let server = builder().limits(Limits { max_pending: 100, ..plain() }).backend(backend.clone()).build();
    let mut peer = Peer::new(&server);
    let mut tasks = Vec::new();
    for n in 1..=100u32 {
        let (verb, dots) = if n % 2 == 1 { ("add", json!([])) } else { ("remove", json!([["a", n - 1]])) };
        tasks.push(spawn(peer.send(Opcode::CrdtOp, n, &op(n.into(), verb, &dots))));
    }
    assert!(peer.send(Opcode::CrdtOp, 101, &op(101, "add", &json!([]))).is_none());
    let (opcode, correlation, body) = peer.received().remove(0);
    assert_eq!((opcode, correlation), (Opcode::Error, 101));
    assert_eq!((&body["code"], &body["retryAfter"]), (&json!(codes::LIMIT), &json!(1_000)));
    backend.open.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<_> = (1..=100).map(|n| (Opcode::Ack, n, json!(n))).collect();
    assert!(peer.received() == expected, "each is acknowledged with its place");
    assert_eq!(
        server.crdt().set("set").values::<u64>().await.unwrap(),
        [0u64; 0],
        "every removal came after its addition"
    );
}

/// A version 1 client that is gone before the backend has answered is not shown anything, and holds nothing.
#[tokio::test]
async fn what_is_stored_is_fetched_for_version_1() {
    let backend = Gated::new(true);
    let first = builder().backend(backend.clone()).build();
    for n in 0..3 {
        first.crdt().counter(&format!("n{n}")).increment(1).await.unwrap();
        first.state().set(&format!("s{n}"), &n).await.unwrap();
    }
    let again = builder().backend(backend.clone()).build();
    backend.open.send_replace(false);
    let connection = again.node().connection(Protocol::V1, None);
    let recall = spawn(again.node().welcome(&connection, crate::Identity::user("ann")));
    tokio::task::yield_now().await;
    connection.end();
    again.node().hub.leave(&connection);
    backend.open.send_replace(true);
    recall.await.unwrap();
    assert!(again.node().hub.in_memory(StreamKind::State) <= 1, "it stopped where it was");
    assert_eq!(again.node().hub.in_memory(StreamKind::Crdt), 0);
    let mut peer = Peer::of(&again, Protocol::V1);
    let shown: Vec<_> = peer.opcodes().into_iter().map(|frame| frame.0).collect();
    assert_eq!(shown, [[Opcode::StateSnapshot; 3], [Opcode::CrdtState; 3]].concat());
}

#[tokio::test]
async fn crdts_in_memory_that_nobody_follows_are_bounded() {
    let server = builder().limits(Limits { max_idle_crdts: 3, ..plain() }).build();
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "crdt", "followed", None).is_none());
    for (n, held) in [(1, 2), (2, 3), (3, 4), (4, 4)] {
        server.crdt().counter(&format!("n{n}")).increment(1).await.unwrap();
        assert_eq!(server.node().hub.in_memory(StreamKind::Crdt), held, "after {n}");
    }
    let position = server.node().hub.known(StreamKind::Crdt, "followed").unwrap().position();
    peer.end().await;
    assert!(server.node().hub.known(StreamKind::Crdt, "followed").is_none(), "there was nothing to keep");
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "crdt", "followed", Some(position)).is_none());
    assert_eq!(peer.opcodes(), [(Opcode::Subscribed, 1)], "it goes on from nothing, in whatever life");
    // A version 1 client follows them all, and is not shown them again and again.
    let mut old = Peer::of(&server, Protocol::V1);
    assert_eq!(old.opcodes().len(), 4);
    for n in 1..=4 {
        assert_eq!(server.crdt().counter(&format!("n{n}")).value().await.unwrap(), 1);
    }
    assert_eq!(old.opcodes(), []);
    old.end().await;
    assert!(server.node().hub.in_memory(StreamKind::Crdt) <= 4);
}

/// A key that could not be stored costs no more when it is tried again; another one costs.
#[tokio::test]
async fn a_key_that_is_not_stored_is_counted_once() {
    let backend = Gated::new(true);
    let limits = Limits { max_crdt_keys_per_user: 2, ..plain() };
    let server = || builder().limits(limits.clone()).backend(backend.clone()).build();
    let (one, another) = (server(), server());
    let mut peer = Peer::new(&one);
    let create = async |peer: &mut Peer, key: &str| {
        let mut op = op(1, "add", &json!([]));
        op["key"] = json!(key);
        if let Some(task) = peer.send(Opcode::CrdtOp, 1, &op) {
            task.await;
        }
        let (opcode, _, body) = peer.received().remove(0);
        if opcode == Opcode::Ack { Ok(()) } else { Err(body["code"].as_i64().unwrap()) }
    };
    backend.failing.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(create(&mut peer, "a").await, Err(codes::INTERNAL.into()));
    }
    backend.failing.store(false, Ordering::Relaxed);
    assert_eq!(create(&mut peer, "a").await, Ok(()));
    one.crdt().remove("a").await.unwrap();
    assert_eq!(create(&mut peer, "a").await, Ok(()), "the second, of the same name");
    one.crdt().remove("a").await.unwrap();
    assert_eq!(create(&mut Peer::new(&another), "b").await, Err(codes::LIMIT.into()), "on every server");
    assert_eq!(create(&mut peer, "a").await, Err(codes::LIMIT.into()), "a key that has been there costs again");
}

/// Servers that share a backend: an operation that was planned too early is planned again, and followers catch up.
#[tokio::test]
async fn another_server_was_faster() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    ours.crdt().counter("n").increment(1).await.unwrap();
    let mut peer = Peer::new(&ours);
    assert!(peer.subscribe(1, "crdt", "n", None).is_none());
    theirs.crdt().counter("n").increment(10).await.unwrap();
    ours.crdt().counter("n").increment(100).await.unwrap();
    assert_eq!(ours.crdt().counter("n").value().await.unwrap(), 111);
    let frames = peer.received();
    let seqs: Vec<_> = frames.iter().map(|(opcode, _, body)| (*opcode, body["seq"].as_u64().unwrap_or(0))).collect();
    assert_eq!(seqs[2..], [(Opcode::CrdtOp, 2), (Opcode::CrdtOp, 3)]);
}

/// `silent` replicas of an hour ago and `busy` ones of now: how many are remembered.
fn check(limits: CrdtLimits, retention_minutes: u64, (silent, busy): (u64, u64), left: Option<usize>) {
    let now = 1_000_000_000_000;
    let mut crdt = Crdt::new(CrdtKind::PnCounter);
    for n in 0..silent + busy {
        let time = if n < silent { now - 3_600_000 } else { now };
        let op = json!({ "type": "pn-counter", "nodeId": format!("{n:04}"), "counter": 1, "timestamp": time, "op": "increment" });
        crdt.apply(&Op::parse(&op.to_string(), &limits).unwrap(), &limits).unwrap();
    }
    let retention = std::time::Duration::from_secs(60 * retention_minutes);
    let collected = collected(&crdt, now, retention, &limits);
    assert_eq!(collected.as_ref().map(|crdt| crdt.replicas()), left, "{silent} silent, {busy} busy");
    if let Some(collected) = collected {
        assert_eq!(collected.counter(), crdt.counter(), "nothing is lost");
        assert!(collected.floor() <= now - u64::try_from(RETENTION.as_millis()).unwrap());
    }
}

#[test]
fn a_crowd_is_remembered_for_a_shorter_time() {
    let limits = CrdtLimits { max_replicas: 100, ..CrdtLimits::default() };
    check(limits, 120, (10, 10), None);
    check(limits, 30, (10, 10), None);
    check(limits, 29, (10, 10), Some(10));
    check(limits, 120, (40, 10), None);
    check(limits, 120, (41, 10), Some(10));
    check(limits, 120, (0, 60), None);
    let limits = CrdtLimits { max_bytes: 4_000, ..CrdtLimits::default() };
    check(limits, 1_000_000, (10, 10), None);
    check(limits, 1_000_000, (40, 5), Some(5));
}

#[tokio::test]
async fn a_position_is_kept_while_the_key_is_opened_twice() {
    let backend = Gated::new(false);
    let server = builder().limits(Limits { max_idle_crdts: 0, ..plain() }).backend(backend.clone()).build();
    let (mut a, mut b) = (Peer::new(&server), Peer::new(&server));
    let first = spawn(a.send(Opcode::CrdtOp, 1, &op(1, "add", &json!([]))));
    let slow = spawn(b.subscribe(1, "crdt", "set", None));
    backend.open.send_replace(true);
    first.await.unwrap();
    slow.await.unwrap();
    let position = server.node().hub.known(StreamKind::Crdt, "set").unwrap().position();
    assert_eq!(position.seq, 1);
    let seqs: Vec<_> = b.received().into_iter().filter_map(|frame| frame.2["seq"].as_u64()).collect();
    assert_eq!(seqs.last(), Some(&1), "a follower has all there is: {seqs:?}");
    assert_ne!(position, Position::default());
}
