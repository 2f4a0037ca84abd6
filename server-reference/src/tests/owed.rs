//! Large snapshots that are owed: made off the async workers, while the connection goes on with other messages.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
};

use datasole_core::frame::{Opcode, decode};
use serde_json::{Value, json};

use super::{Peer, builder, length, plain, split};
use crate::{
    Identity, Limits, Protocol, Server, connection::Connection, hub::testing::Numbers, mailbox::Close,
    message::Outgoing,
};

/// A state of about so many bytes.
fn value(bytes: usize) -> Value {
    json!({ "text": "x".repeat(bytes), "n": "" })
}

const LARGE: usize = 100_000;

fn narrow() -> Limits {
    Limits { max_queue: 20_000, ..plain() }
}

/// Opcodes, keys and positions of messages that have a key.
fn keyed(received: Vec<(Opcode, u32, Value)>) -> Vec<(Opcode, String, u64)> {
    let keyed = |(opcode, _, body): (Opcode, u32, Value)| {
        Some((opcode, body["key"].as_str()?.to_owned(), body["seq"].as_u64().unwrap_or_default()))
    };
    received.into_iter().filter_map(keyed).collect()
}

/// Those that are there for it.
fn seen(peer: &mut Peer) -> Vec<(Opcode, String, u64)> {
    keyed(peer.received())
}

/// Those that come next, be they made elsewhere.
async fn next(peer: &mut Peer) -> Vec<(Opcode, String, u64)> {
    keyed(peer.next().await)
}

fn snapshot(key: &str, seq: u64) -> (Opcode, String, u64) {
    (Opcode::StateSnapshot, key.to_owned(), seq)
}

fn patch(key: &str, seq: u64) -> (Opcode, String, u64) {
    (Opcode::StatePatch, key.to_owned(), seq)
}

async fn subscribe(peer: &mut Peer, keys: &[&str]) {
    for (id, key) in (1..).zip(keys) {
        if let Some(task) = peer.subscribe(id, "state", key, None) {
            task.await;
        }
    }
}

/// Changes states by so much that those who do not read fall behind.
async fn overfill(server: &Server, keys: &[&str]) {
    for n in 0..12 {
        for key in keys {
            let text = format!("{n:02000}");
            server.state().update(key, move |draft| draft.set("/n", text.as_str())).await.unwrap();
        }
    }
}

/// Followers of states of so many bytes that have fallen behind.
async fn behind(bytes: usize, keys: &[&str], followers: usize) -> (Server, Vec<Peer>) {
    let server = builder().limits(narrow()).build();
    for key in keys.iter().chain(&["other"]) {
        let bytes = if *key == "other" { 1 } else { bytes };
        server.state().set(key, &value(bytes)).await.unwrap();
    }
    let mut peers = Vec::new();
    for _ in 0..followers {
        let mut peer = Peer::new(&server);
        subscribe(&mut peer, keys).await;
        subscribe_other(&mut peer).await;
        while !peer.messages().is_empty() {}
        peers.push(peer);
    }
    overfill(&server, keys).await;
    (server, peers)
}

/// The keys of messages that are queued, whatever is owed.
fn queued(peer: &Peer) -> Vec<String> {
    let mut out = Outgoing::new(length);
    peer.session.connection().mailbox().drain_queued(&mut out);
    let key = |message: &Vec<u8>| {
        let body: Value = serde_json::from_slice(decode(message, usize::MAX).unwrap().payload).unwrap();
        body["key"].as_str().map(str::to_owned)
    };
    split(&out.bytes).iter().filter_map(key).collect()
}

async fn subscribe_other(peer: &mut Peer) {
    if let Some(task) = peer.subscribe(99, "state", "other", None) {
        task.await;
    }
}

#[tokio::test]
async fn a_large_snapshot_that_is_owed_is_made_elsewhere() {
    let (server, mut peers) = behind(LARGE, &["large"], 2).await;
    let seats = server.node().hub.desk().occupy().await;
    for peer in &mut peers {
        assert_eq!(seen(peer), [], "the connection's thread does not make it");
        assert!(!peer.session.connection().mailbox().is_filled(), "and does not turn round for it");
    }
    // What else there is comes meanwhile, and a change of what is owed is in the snapshot.
    server.state().update("other", |draft| draft.set("/n", 1)).await.unwrap();
    server.state().update("large", |draft| draft.set("/n", 1)).await.unwrap();
    for peer in &mut peers {
        assert_eq!(seen(peer), [patch("other", 2)]);
    }
    drop(seats);
    for peer in &mut peers {
        assert_eq!(next(peer).await, [snapshot("large", 14)]);
    }
    server.state().update("large", |draft| draft.set("/n", 2)).await.unwrap();
    for peer in &mut peers {
        assert_eq!(seen(peer), [patch("large", 15)]);
    }
}

/// Below, at and above the size from which a snapshot is made elsewhere.
#[tokio::test]
async fn a_small_snapshot_that_is_owed_is_made_at_once() {
    const DEAR: usize = 64 * 1024;
    for (length, at_once) in [(1_000, true), (DEAR - 1, true), (DEAR, false)] {
        let server = builder().limits(narrow()).build();
        // As long as its text, once that was written out.
        let around = value(0).to_string().len();
        server.state().set("k", &value(length - around)).await.unwrap();
        let mut peer = Peer::new(&server);
        subscribe(&mut peer, &["k"]).await;
        while !peer.messages().is_empty() {}
        // Another whole of the same length, too long for the queue together with the other messages.
        let mut next = value(length - around);
        next["text"] = "y".repeat(length - around).into();
        let connection = peer.session.connection().clone();
        connection.mailbox().push(vec![0; 15_000].into());
        server.state().set("k", &next).await.unwrap();
        connection.mailbox().push(vec![0; 4_000].into());
        let _seats = server.node().hub.desk().occupy().await;
        let wholes = peer.messages().iter().filter(|message| message[0] == Opcode::StateSnapshot as u8).count();
        assert_eq!(wholes == 1, at_once, "{length} bytes");
    }
}

/// One at a time, the others after it; and who leaves a stream does not let the others wait for it.
#[tokio::test]
async fn snapshots_that_are_owed_come_one_after_the_other() {
    let keys = ["a", "b", "c"];
    let (server, mut peers) = behind(LARGE, &keys, 1).await;
    let peer = &mut peers[0];
    let seats = server.node().hub.desk().occupy().await;
    assert_eq!(seen(peer), []);
    for id in [1, 2] {
        peer.send(Opcode::Unsubscribe, id, &Value::Null);
    }
    drop(seats);
    assert_eq!(next(peer).await, [snapshot("c", 13)], "and nothing of what was left");
    assert!(!peer.session.connection().mailbox().is_filled());
}

#[tokio::test]
async fn a_client_of_version_1_is_shown_large_states_and_crdts_by_the_desk() {
    let server = builder().build();
    server.state().set("large", &value(LARGE)).await.unwrap();
    server.state().set("small", &value(1)).await.unwrap();
    let map = server.crdt().map("map");
    for n in 0..100 {
        map.set(&format!("{n}"), &"x".repeat(1_000)).await.unwrap();
    }
    let seats = server.node().hub.desk().occupy().await;
    let mut peer = Peer::of(&server, Protocol::V1);
    assert_eq!(seen(&mut peer), [snapshot("small", 1)]);
    drop(seats);
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(next(&mut peer).await);
    }
    received.sort_by_key(|(_, key, _)| key.clone());
    let keys: Vec<_> = received.iter().map(|(opcode, key, _)| (*opcode, key.as_str())).collect();
    assert_eq!(keys, [(Opcode::StateSnapshot, "large"), (Opcode::CrdtState, "map")]);
    // After each change it is shown the whole.
    let seats = server.node().hub.desk().occupy().await;
    map.set("0", &1).await.unwrap();
    assert_eq!(seen(&mut peer), []);
    drop(seats);
    let (opcode, key, _) = next(&mut peer).await.remove(0);
    assert_eq!((opcode, key.as_str()), (Opcode::CrdtState, "map"));
}

/// Where there is no runtime nobody would make it elsewhere.
#[tokio::test]
async fn a_large_snapshot_is_made_at_once_where_no_runtime_is() {
    let (server, mut peers) = behind(LARGE, &["large"], 1).await;
    let _seats = server.node().hub.desk().occupy().await;
    let received = thread::scope(|scope| scope.spawn(|| seen(&mut peers[0])).join().unwrap());
    assert_eq!(received, [snapshot("large", 13)]);
}

/// What a runtime has begun and does not end is done by those who need it.
#[test]
fn a_large_snapshot_comes_where_the_runtime_ends_meanwhile() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (server, mut peers) = first.block_on(behind(LARGE, &["large"], 1));
    let seats = first.block_on(async {
        let seats = server.node().hub.desk().occupy().await;
        assert_eq!(seen(&mut peers[0]), []);
        seats
    });
    drop(first);
    runtime().block_on(async {
        assert_eq!(next(&mut peers[0]).await, [snapshot("large", 13)]);
    });
    drop(seats);
}

/// Entries of what was left neither make a snapshot owed, which nobody would deliver, nor are they sent.
#[tokio::test]
async fn nothing_is_owed_of_what_was_left() {
    for (kind, bytes) in [("state", 1_000), ("state", LARGE), ("crdt", 1_000), ("crdt", LARGE)] {
        let server = builder().limits(narrow()).build();
        let map = server.crdt().map("left");
        for n in 0..bytes / 1_000 {
            map.set(&format!("{n}"), &"x".repeat(1_000)).await.unwrap();
        }
        server.state().set("left", &value(bytes)).await.unwrap();
        server.state().set("other", &value(1)).await.unwrap();
        let mut peer = Peer::new(&server);
        if let Some(task) = peer.subscribe(1, kind, "left", None) {
            task.await;
        }
        subscribe_other(&mut peer).await;
        while !peer.messages().is_empty() {}
        for n in 0..4 {
            let text = format!("{n:02000}");
            map.set("n", &text).await.unwrap();
            server.state().update("left", |draft| draft.set("/n", text.as_str())).await.unwrap();
        }
        assert!(peer.session.connection().mailbox().is_filled());
        peer.send(Opcode::Unsubscribe, 1, &Value::Null);
        overfill(&server, &["other"]).await;
        assert_eq!(seen(&mut peer), [snapshot("other", 13)], "{kind}, {bytes} bytes");
        server.state().update("other", |draft| draft.set("/n", 1)).await.unwrap();
        assert_eq!(seen(&mut peer), [patch("other", 14)]);
    }
}

/// Queued messages are sent where there is room: SUBSCRIBED without its snapshot would be half an answer.
#[tokio::test]
async fn what_was_queued_before_leaving_is_sent() {
    let server = builder().build();
    server.state().set("left", &value(1)).await.unwrap();
    let mut peer = Peer::new(&server);
    subscribe(&mut peer, &["left"]).await;
    peer.send(Opcode::Unsubscribe, 1, &Value::Null);
    assert_eq!(peer.opcodes(), [(Opcode::Subscribed, 1), (Opcode::StateSnapshot, 0)]);
}

/// The same where the right to read is taken away.
#[tokio::test]
async fn nothing_is_owed_of_what_is_not_allowed_any_more() {
    for bytes in [1_000, LARGE] {
        let allowed = Arc::new(AtomicBool::new(true));
        let policy = allowed.clone();
        let server = builder()
            .limits(narrow())
            .auth(|_| async { Ok(Identity::user("ann")) })
            .authorize_read(move |_, stream| stream.key == "other" || policy.load(Ordering::Relaxed))
            .build();
        server.state().set("left", &value(bytes)).await.unwrap();
        server.state().set("other", &value(1)).await.unwrap();
        let mut peer = Peer::new(&server);
        subscribe(&mut peer, &["left"]).await;
        subscribe_other(&mut peer).await;
        while !peer.messages().is_empty() {}
        server.state().update("left", |draft| draft.set("/n", 1)).await.unwrap();
        allowed.store(false, Ordering::Relaxed);
        if let Some(task) = peer.send(Opcode::Auth, 9, &json!({ "token": "x" })) {
            task.await;
        }
        overfill(&server, &["left", "other"]).await;
        let received = peer.received();
        assert!(received.iter().any(|(opcode, id, _)| (*opcode, *id) == (Opcode::Error, 1)), "{received:?}");
        assert_eq!(keyed(received), [snapshot("other", 13)], "{bytes} bytes");
    }
}

/// What is queued waits for who reads slowly: no other message takes it away, nor is it counted.
#[tokio::test]
async fn a_large_snapshot_that_was_made_is_sent() {
    let (server, mut peers) = behind(LARGE, &["large"], 1).await;
    let peer = &mut peers[0];
    assert_eq!(seen(peer), []);
    peer.filled().await;
    overfill(&server, &["other"]).await;
    assert_eq!(seen(peer), [snapshot("large", 13), snapshot("other", 13)]);
    // Its own entries do not take it away either.
    overfill(&server, &["large"]).await;
    assert_eq!(seen(peer), []);
    peer.filled().await;
    overfill(&server, &["large"]).await;
    assert_eq!(seen(peer), [snapshot("large", 25)]);
    assert_eq!(next(peer).await, [snapshot("large", 37)]);
}

#[tokio::test]
async fn the_limit_does_not_count_a_snapshot_that_was_owed() {
    let limit = narrow().max_queue;
    for (waiting, closes) in [(limit - 1, false), (limit, false), (limit + 1, true)] {
        let (_server, mut peers) = behind(LARGE, &["large"], 1).await;
        let peer = &mut peers[0];
        assert_eq!(seen(peer), []);
        peer.filled().await;
        let mailbox = peer.session.connection().mailbox();
        for length in [1, waiting - 1] {
            mailbox.push(vec![0; length].into());
        }
        assert_eq!(mailbox.closing().is_some(), closes, "{waiting} bytes");
    }
}

/// A large one holds up no small one, neither when it is first owed nor when the client has read.
#[tokio::test]
async fn small_snapshots_pass_large_ones() {
    let (server, mut peers) = behind(LARGE, &["a", "b"], 1).await;
    let peer = &mut peers[0];
    overfill(&server, &["other"]).await;
    let seats = server.node().hub.desk().occupy().await;
    assert_eq!(seen(peer), [snapshot("other", 13)]);
    drop(seats);
    assert_eq!(next(peer).await, [snapshot("a", 13)]);
    assert_eq!(next(peer).await, [snapshot("b", 13)]);
    let server = builder().build();
    for key in ["a", "b", "c", "small"] {
        server.state().set(key, &value(if key == "small" { 1 } else { LARGE })).await.unwrap();
    }
    let peer = Peer::of(&server, Protocol::V1);
    assert_eq!(queued(&peer), ["small"], "three large ones take no room from it");
}

/// Who waits for what fails is told, and may wait again.
#[tokio::test]
async fn a_large_snapshot_that_cannot_be_made_closes() {
    let stream = Numbers::broken("k");
    for serial in 1..=2 {
        let connection = Arc::new(Connection::new(serial, 1, Protocol::V2, usize::MAX, usize::MAX));
        stream.subscribe(&connection, 1, None, 0, &mut 0);
        connection.mailbox().drain(&mut Outgoing::new(length), usize::MAX);
        let close = poll_fn(|cx| {
            connection.mailbox().register(cx.waker());
            connection.mailbox().closing().map_or(Poll::Pending, Poll::Ready)
        });
        assert_eq!(close.await, Close { code: 1011, reason: "a snapshot could not be made".into() });
    }
}
