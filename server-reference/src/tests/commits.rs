//! The one commit loop: what others append meanwhile, what is pending, and what fails.

use std::sync::atomic::Ordering;

use datasole_core::{Position, frame::Opcode, tree::Tree};
use futures_util::FutureExt;
use serde_json::{Value, json};

use super::{Gated, Peer, builder, plain};
use crate::{Limits, Replay, Server, StateError};

fn seqs(peer: &mut Peer) -> Vec<(Opcode, Value)> {
    peer.received().into_iter().map(|(opcode, _, body)| (opcode, body["seq"].clone())).collect()
}

/// Followers of a server that comes too late get what the other has appended, entry by entry, and nothing twice.
#[tokio::test]
async fn a_conflict_is_caught_up_with_entry_by_entry() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    ours.state().set("k", &json!({ "n": 0 })).await.unwrap();
    let mut peer = Peer::new(&ours);
    assert!(peer.subscribe(1, "state", "k", None).is_none());
    assert_eq!(peer.received().len(), 2);
    for n in 1..=3 {
        theirs.state().update("k", |draft| draft.set("/n", n)).await.unwrap();
    }
    theirs.state().set("k", &json!({ "n": 10 })).await.unwrap();
    let mut planned = Vec::new();
    let changed = ours.state().update("k", |draft| {
        planned.push(draft.get("/n").and_then(Tree::as_i64));
        draft.add("/n", 1)
    });
    changed.await.unwrap();
    assert_eq!(planned, [Some(0), Some(10)], "planned again on what the other has made of it");
    assert_eq!(ours.state().get("k").await.unwrap(), Some(json!({ "n": 11 })));
    let patch = |seq| (Opcode::StatePatch, json!(seq));
    let whole = |seq| (Opcode::StateSnapshot, json!(seq));
    assert_eq!(seqs(&mut peer), [patch(2), patch(3), patch(4), whole(5), patch(6)]);
}

/// Where the log has lost the entries, the whole takes their place.
#[tokio::test]
async fn a_conflict_over_more_than_is_kept_loads_the_whole() {
    let backend = Gated::new(true);
    let replay = Replay { entries: 2, ..Replay::default() };
    let server = || builder().limits(Limits { replay, ..plain() }).backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    ours.state().set("k", &json!([0, ""])).await.unwrap();
    let mut peer = Peer::new(&ours);
    assert!(peer.subscribe(1, "state", "k", None).is_none());
    assert_eq!(peer.received().len(), 2);
    // More bytes than are kept for other servers.
    let long = "x".repeat(40_000);
    for n in 1..=10 {
        let changed = theirs.state().update("k", |draft| {
            draft.set("/0", n)?;
            draft.set("/1", format!("{n}{long}"))
        });
        changed.await.unwrap();
    }
    ours.state().update("k", |draft| draft.add("/0", 100)).await.unwrap();
    assert_eq!(ours.state().get("k").await.unwrap(), Some(json!([110, format!("10{long}")])));
    // With what came since it was owed.
    let received = peer.next().await;
    let seqs: Vec<_> = received.iter().map(|(opcode, _, body)| (*opcode, body["seq"].clone())).collect();
    assert_eq!(seqs, [(Opcode::StateSnapshot, json!(12))]);
}

/// An update of several operations that waits for the backend, on a key that exists and on one that does not.
async fn pending(server: &Server, backend: &Gated, key: &str, before: Option<Value>) {
    let position = |peer: &mut Peer| {
        let received = peer.received();
        let at = |body: &Value| Position { epoch: body["epoch"].as_u64().unwrap(), seq: body["seq"].as_u64().unwrap() };
        (at(&received[0].2), received[1].2["data"].clone())
    };
    let update = server.state().update(key, |draft| {
        draft.set("", json!({}))?;
        draft.set("/a", 1)?;
        draft.set("/b", 2)
    });
    // Somebody follows it: it is in memory.
    let mut early = Peer::new(server);
    assert!(early.subscribe(1, "state", key, None).is_none());
    assert_eq!(position(&mut early).1, before.clone().unwrap_or(Value::Null));
    let mut update = Box::pin(update);
    backend.open.send_replace(false);
    assert!(update.as_mut().now_or_never().is_none());
    // Whoever looks, or joins, sees what is stored.
    assert_eq!(server.state().get(key).now_or_never().unwrap().unwrap(), before);
    let mut peer = Peer::new(server);
    assert!(peer.subscribe(1, "state", key, None).is_none());
    let (at, shown) = position(&mut peer);
    assert_eq!(shown, before.clone().unwrap_or(Value::Null));
    backend.open.send_replace(true);
    update.await.unwrap();
    let received = peer.received();
    assert_eq!(received.len(), 1);
    assert_eq!(early.received(), received);
    assert_eq!(received[0].2["seq"], json!(at.seq + 1));
    assert_eq!(received[0].0, if before.is_some() { Opcode::StatePatch } else { Opcode::StateSnapshot });
    assert_eq!(server.state().get(key).await.unwrap(), Some(json!({ "a": 1, "b": 2 })));
}

#[tokio::test]
async fn what_is_pending_is_not_shown() {
    let backend = Gated::new(true);
    let server = builder().backend(backend.clone()).build();
    server.state().set("old", &json!([7])).await.unwrap();
    pending(&server, &backend, "old", Some(json!([7]))).await;
    pending(&server, &backend, "new", None).await;
}

#[tokio::test]
async fn what_could_not_be_stored_never_was() {
    let backend = Gated::new(true);
    let server = builder().backend(backend.clone()).build();
    let state = server.state();
    state.set("k", &json!({ "n": 1 })).await.unwrap();
    server.crdt().counter("c").increment(1).await.unwrap();
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "state", "k", None).is_none());
    assert!(peer.subscribe(2, "crdt", "c", None).is_none());
    assert_eq!(peer.received().len(), 4);
    backend.failing.store(true, Ordering::Relaxed);
    let outcomes = [
        state.set("k", &json!({ "n": 2 })).await.map(drop),
        state.update("k", |draft| draft.set("/n", 3).and_then(|()| draft.set("/m", 4))).await.map(drop),
        state.remove("k").await,
        state.set("new", &1).await.map(drop),
    ];
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StateError::Backend(_)))));
    assert!(server.crdt().counter("c").increment(5).await.is_err());
    assert!(server.crdt().counter("other").increment(5).await.is_err());
    backend.failing.store(false, Ordering::Relaxed);
    assert_eq!(state.get("k").await.unwrap(), Some(json!({ "n": 1 })));
    assert_eq!(state.keys().await.unwrap(), ["k"]);
    assert_eq!(server.crdt().keys().await.unwrap(), ["c"]);
    state.update("k", |draft| draft.add("/n", 1)).await.unwrap();
    server.crdt().counter("c").increment(1).await.unwrap();
    assert_eq!(server.crdt().counter("c").value().await.unwrap(), 2);
    assert_eq!(seqs(&mut peer), [(Opcode::StatePatch, json!(2)), (Opcode::CrdtOp, json!(2))]);
}
