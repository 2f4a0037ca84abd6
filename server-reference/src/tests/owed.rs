//! Large snapshots that are owed: made off the async workers, while the connection goes on with other messages.

use std::thread;

use datasole_core::frame::Opcode;
use serde_json::{Value, json};

use super::{Peer, builder, plain};
use crate::{Limits, Protocol, Server};

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
