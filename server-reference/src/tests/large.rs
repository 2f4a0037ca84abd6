//! Large contents: what they cost does not grow with them, and nobody waits for what is done on the whole of one.

use std::sync::atomic::Ordering;

use datasole_core::{Position, frame::Opcode};
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Gated, Peer, builder, plain};
use crate::{Limits, Server};

fn rows(count: usize) -> Value {
    (0..count).map(|id| json!({"id": id, "name": format!("row {id}"), "n": 0})).collect()
}

/// The opcodes and positions of what a peer has received.
fn seen(peer: &mut Peer) -> Vec<(Opcode, u64)> {
    peer.received().into_iter().map(|(opcode, _, body)| (opcode, body["seq"].as_u64().unwrap())).collect()
}

/// Snapshots for the backend, all together, are no more bytes than the entries that they take the place of, and two of the
/// largest: the share of an entry does not grow with the content.
async fn assert_compaction(backend: &Gated, entries: usize, largest: usize) {
    let (snapshots, bytes) = (backend.snapshots.load(Ordering::Relaxed), backend.written.load(Ordering::Relaxed));
    assert!(snapshots >= 2, "{snapshots} snapshots");
    let most = entries * (100 + 64) + 2 * largest;
    assert!(bytes <= most, "{snapshots} snapshots of {bytes} bytes, not of {most}");
}

#[tokio::test]
async fn snapshots_for_the_backend_do_not_cost_more_where_the_state_is_larger() {
    const CHANGES: usize = 4_000;
    for count in [10, 100, 5_000] {
        let backend = Gated::new(true);
        let server = builder().backend(backend.clone()).build();
        let (state, value) = (server.state(), rows(count));
        state.set("k", &value).await.unwrap();
        for n in 0..CHANGES {
            state.update("k", |draft| draft.set(&format!("/{}/n", n % count), n)).await.unwrap();
        }
        assert_compaction(&backend, CHANGES, value.to_string().len() + 10 * count).await;
        // A server that comes later has as much to read as the value has, or as many entries as ever.
        let again = builder().backend(backend.clone()).build();
        assert_eq!(again.state().get("k").await.unwrap(), state.get("k").await.unwrap());
    }
}

#[tokio::test]
async fn snapshots_for_the_backend_do_not_cost_more_where_the_crdt_is_larger() {
    const CHANGES: usize = 4_000;
    let backend = Gated::new(true);
    let server = builder().backend(backend.clone()).build();
    let map = server.crdt().map("m");
    for n in 0..CHANGES {
        map.set(&format!("{n:05}"), &n).await.unwrap();
    }
    assert_compaction(&backend, 2 * CHANGES, 400 * 1024).await;
}

#[tokio::test]
async fn a_large_value_is_compared_elsewhere_and_in_order() {
    let server = builder().build();
    let state = server.state();
    let before = rows(5_000);
    assert!(before.to_string().len() > 64 * 1024);
    let first = state.set("k", &before).await.unwrap();
    let mut after = before.clone();
    after[4_000]["n"] = json!(1);
    let seats = server.node().hub.desk().occupy().await;
    let mut set = Box::pin(state.set("k", &after));
    assert!(set.as_mut().now_or_never().is_none(), "the caller's thread does not compare");
    // Asked for later, it takes effect later; whoever reads does not wait.
    let mut update = Box::pin(state.update("k", |draft| draft.add("/4000/n", 1)));
    assert!(update.as_mut().now_or_never().is_none());
    assert_eq!(state.get("k").now_or_never().unwrap().unwrap(), Some(before));
    drop(seats);
    let (set, update) = tokio::join!(set, update);
    assert_eq!((set.unwrap().seq, update.unwrap().seq), (first.seq + 1, first.seq + 2));
    after[4_000]["n"] = json!(2);
    assert_eq!(state.get("k").await.unwrap(), Some(after.clone()));
    // The same again is no change; another value takes the place of this one.
    assert_eq!(state.set("k", &after).await.unwrap().seq, first.seq + 2);
    let other: Value = (0..20_000).map(Value::from).collect();
    assert_eq!(state.set("k", &other).await.unwrap().seq, first.seq + 3);
    assert_eq!(state.get("k").await.unwrap(), Some(other));
    assert!(state.set("small", &rows(10)).now_or_never().is_some());
}

/// What a comparison has found is of no use once another server has changed the value.
#[tokio::test]
async fn a_large_value_is_compared_again_where_another_server_was_faster() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    let mut value = rows(5_000);
    ours.state().set("k", &value).await.unwrap();
    theirs.state().update("k", |draft| draft.set("/7/n", "theirs")).await.unwrap();
    value[8]["n"] = json!("ours");
    ours.state().set("k", &value).await.unwrap();
    for server in [&ours, &server()] {
        assert!(server.state().get("k").await.unwrap().as_ref() == Some(&value));
    }
}

#[tokio::test]
async fn a_value_that_is_nested_too_deeply_is_refused_wherever_it_is_compared() {
    let server = builder().build();
    let mut deep = json!("x".repeat(100_000));
    for _ in 0..130 {
        deep = json!([deep]);
    }
    assert!(server.state().set("k", &deep).await.is_err());
    assert_eq!(server.state().get("k").await.unwrap(), None);
    assert!(server.node().hub.known(datasole_core::StreamKind::State, "k").is_none(), "it left nothing");
}

/// Subscribes to the large state: whether that had to wait for the whole to be written out, and what came.
async fn follow(server: &Server) -> (bool, Vec<(Opcode, u64)>) {
    let mut peer = Peer::new(server);
    let seats = server.node().hub.desk().occupy().await;
    let task = peer.subscribe(1, "state", "large", None);
    drop(seats);
    let waited = task.is_some();
    if let Some(task) = task {
        task.await;
    }
    (waited, seen(&mut peer))
}

/// The whole is written out off the async workers, and the change that overtakes it does not make the next one wait.
#[tokio::test(start_paused = true)]
async fn a_large_state_is_written_out_elsewhere_and_seldom() {
    let server = builder().limits(Limits { replay: crate::Replay::NONE, ..plain() }).build();
    let state = server.state();
    state.set("large", &rows(5_000)).await.unwrap();
    let from = |seq, entries: u64| -> Vec<(Opcode, u64)> {
        let changes = (1..=entries).map(|n| (Opcode::StatePatch, seq + n));
        [(Opcode::Subscribed, seq), (Opcode::StateSnapshot, seq)].into_iter().chain(changes).collect()
    };
    assert_eq!(follow(&server).await, (true, from(1, 0)));
    assert_eq!(follow(&server).await, (false, from(1, 0)));
    for n in 1..=3 {
        state.update("large", |draft| draft.set("/7/n", n)).await.unwrap();
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        assert_eq!(follow(&server).await, (false, from(1, n)));
    }
    // Nobody has come for long: the next change ends it.
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    state.update("large", |draft| draft.set("/7/n", 4)).await.unwrap();
    assert_eq!(follow(&server).await, (true, from(5, 0)));
    // The changes since are longer than the whole.
    for n in 0..30 {
        state.update("large", |draft| draft.set("/7/n", "x".repeat(10_000 + n))).await.unwrap();
    }
    let (_, received) = follow(&server).await;
    let bytes = state.get("large").await.unwrap().unwrap().to_string().len();
    assert!(received.len() <= 2 + bytes / 10_000, "{} messages", received.len());
    assert_eq!(received.last().unwrap().1, 35);
}

/// Who has more than the whole that others were shown is shown another.
#[tokio::test]
async fn nobody_is_shown_a_large_state_that_they_are_past() {
    let server = builder().limits(Limits { replay: crate::Replay::NONE, ..plain() }).build();
    let state = server.state();
    let first = state.set("large", &rows(5_000)).await.unwrap();
    follow(&server).await;
    let second = state.update("large", |draft| draft.set("/7/n", 1)).await.unwrap();
    state.update("large", |draft| draft.set("/7/n", 2)).await.unwrap();
    for (since, expected) in [(first, vec![1, 1, 2, 3]), (second, vec![3, 3])] {
        let mut peer = Peer::new(&server);
        if let Some(task) = peer.subscribe(1, "state", "large", Some(since)) {
            task.await;
        }
        let received: Vec<u64> = seen(&mut peer).into_iter().map(|(_, seq)| seq).collect();
        assert_eq!(received, expected, "since {}", since.seq);
    }
}

/// Who comes with a position gets what was missed, and nothing is written out.
#[tokio::test]
async fn who_resumes_a_large_state_does_not_wait() {
    let server = builder().build();
    let at: Position = server.state().set("large", &rows(5_000)).await.unwrap();
    server.state().update("large", |draft| draft.set("/7/n", 1)).await.unwrap();
    let mut peer = Peer::new(&server);
    let _seats = server.node().hub.desk().occupy().await;
    assert!(peer.subscribe(1, "state", "large", Some(at)).is_none());
    assert_eq!(seen(&mut peer), [(Opcode::Subscribed, 1), (Opcode::StatePatch, 2)]);
}
