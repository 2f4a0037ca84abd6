//! What goes wrong only when things happen at the same time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasole_core::{
    Position, StreamId, StreamKind, codes,
    frame::{Opcode, decode},
    patch::Patch,
};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use yrs::{Text, WriteTxn};

use super::{Gated, Peer, builder, length, plain, spawn};
use crate::{Identity, Limits, Protocol, Replay, RpcError, message::Outgoing};

#[tokio::test]
async fn a_subscription_given_up_while_it_opens_leaves_nothing() {
    let backend = Gated::new(false);
    let server = builder().backend(backend.clone()).build();
    let mut peer = Peer::new(&server);
    let first = spawn(peer.subscribe(1, "state", "a", None));
    assert!(peer.send(Opcode::Unsubscribe, 1, &Value::Null).is_none());
    assert!(peer.subscribe(1, "state", "b", None).is_none());
    assert_eq!(peer.opcodes(), [(Opcode::Error, 1)], "the id is in use until the backend has answered");
    let second = spawn(peer.subscribe(2, "state", "a", None));
    backend.open.send_replace(true);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(peer.opcodes(), [(Opcode::Subscribed, 2), (Opcode::StateSnapshot, 0)]);
    peer.end().await;
    assert!(server.node().hub.known(StreamKind::State, "a").is_none());
}

/// A burst of subscriptions to what is not in memory asks the backend once. A failure is everybody's who waited for it.
#[tokio::test]
async fn who_comes_together_loads_once() {
    let backend = Gated::new(true);
    let before = builder().backend(backend.clone()).build();
    before.state().set("k", &1).await.unwrap();
    before.crdt().counter("k").increment(1).await.unwrap();
    before.docs().edit("k", |_| ()).await.unwrap();
    for kind in ["state", "crdt", "doc"] {
        let server = builder().backend(backend.clone()).build();
        let mut peers: Vec<Peer> = (0..10).map(|_| Peer::new(&server)).collect();
        for (correlation, failing) in [(1, true), (2, false)] {
            backend.open.send_replace(false);
            backend.failing.store(failing, Ordering::Relaxed);
            backend.loads.store(0, Ordering::Relaxed);
            let subscribe = |peer: &mut Peer| spawn(peer.subscribe(correlation, kind, "k", None));
            let tasks: Vec<_> = peers.iter_mut().map(subscribe).collect();
            backend.open.send_replace(true);
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(backend.loads.load(Ordering::Relaxed), 1, "{kind}");
            let answer = if failing { Opcode::Error } else { Opcode::Subscribed };
            for peer in &mut peers {
                let first = peer.messages().remove(0);
                let frame = decode(&first, usize::MAX).unwrap();
                assert_eq!((frame.opcode, frame.correlation), (answer, correlation), "{kind}");
            }
        }
    }
}

/// An idle stream that somebody holds when it should leave memory is met again.
#[tokio::test]
async fn what_is_held_for_a_moment_leaves_later() {
    let limits = Limits { max_idle_docs: 1, doc_stay: Duration::ZERO, ..plain() };
    let server = builder().limits(limits).build();
    let (docs, hub) = (server.docs(), &server.node().hub);
    let known = |key: &str| hub.known(StreamKind::Doc, key);
    docs.edit("a", |_| ()).await.unwrap();
    let held = known("a").unwrap();
    docs.edit("b", |_| ()).await.unwrap();
    assert!(known("b").is_none(), "the other one had to go");
    drop(held);
    docs.edit("c", |_| ()).await.unwrap();
    assert!(known("a").is_none() && known("c").is_some());
}

/// A topic that is published on is remembered beside those that are followed.
#[tokio::test]
async fn topics_that_are_followed_take_no_place_of_others() {
    let server = builder().limits(Limits { max_idle_topics: 1, ..plain() }).build();
    let mut peer = Peer::new(&server);
    for (correlation, topic) in [(1, "a"), (2, "b")] {
        assert!(peer.subscribe(correlation, "event", topic, None).is_none());
    }
    for (topic, is_known) in [("b", true), ("c", true), ("d", false)] {
        server.broadcast(topic, &1).await.unwrap();
        assert_eq!(server.node().hub.known(StreamKind::Event, topic).is_some(), is_known, "{topic}");
    }
}

/// A document that waits for its turn to leave memory leaves at once when it has grown over half of what there is.
#[tokio::test]
async fn an_idle_document_that_has_grown_leaves_at_once() {
    let limits = Limits { max_docs_memory: 64 * 1024, doc_stay: Duration::from_secs(600), ..plain() };
    let server = builder().limits(limits).build();
    let (docs, hub) = (server.docs(), &server.node().hub);
    for (length, stays) in [(1_000, true), (40_000, false)] {
        let text = "x".repeat(length);
        docs.edit("a", |edit| edit.get_or_insert_text("t").push(edit, &text)).await.unwrap();
        assert_eq!(hub.known(StreamKind::Doc, "a").is_some(), stays, "{length} more");
    }
}

#[tokio::test]
async fn subscriptions_given_up_count_until_they_are_over() {
    let backend = Gated::new(false);
    let server = builder().limits(Limits { max_subscriptions: 2, ..plain() }).backend(backend.clone()).build();
    let mut peer = Peer::new(&server);
    let mut tasks = Vec::new();
    for id in 1..=2 {
        tasks.push(spawn(peer.subscribe(id, "state", &format!("key {id}"), None)));
        assert!(peer.send(Opcode::Unsubscribe, id, &Value::Null).is_none());
    }
    assert!(peer.subscribe(3, "state", "key 3", None).is_none());
    let (opcode, correlation, body) = peer.received().remove(0);
    assert_eq!((opcode, correlation, &body["code"]), (Opcode::Error, 3, &json!(codes::LIMIT)));
    backend.open.send_replace(true);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(peer.subscribe(3, "state", "key 3", None).is_none());
    assert_eq!(peer.opcodes(), [(Opcode::Subscribed, 3), (Opcode::StateSnapshot, 0)]);
}

#[tokio::test]
async fn a_session_that_ends_while_it_authenticates_is_no_member() {
    let open = watch::Sender::new(false);
    let gate = open.clone();
    let server = builder()
        .auth(move |_| {
            let mut gate = gate.subscribe();
            async move {
                gate.wait_for(|open| *open).await.unwrap();
                Ok(Identity::user("ann"))
            }
        })
        .build();
    let mut peer = Peer::stranger(&server);
    let task = spawn(peer.send(Opcode::Auth, 1, &json!({ "token": "x" })));
    peer.end().await;
    open.send_replace(true);
    task.await.unwrap();
    assert_eq!(server.metrics_snapshot().connections, 0);
    assert!(server.node().hub.connection("ann").is_none());
}

#[tokio::test]
async fn renewals_under_way_are_bounded() {
    let server =
        builder().limits(Limits { max_pending: 2, ..plain() }).auth(|_| async { std::future::pending().await }).build();
    let mut peer = Peer::new(&server);
    let auth = json!({ "token": "x" });
    let tasks = [peer.send(Opcode::Auth, 1, &auth).unwrap(), peer.send(Opcode::Auth, 2, &auth).unwrap()];
    assert!(peer.send(Opcode::Auth, 3, &auth).is_none());
    assert_eq!(peer.opcodes(), [(Opcode::Error, 3)]);
    drop(tasks);
    assert!(peer.send(Opcode::Auth, 4, &auth).is_some(), "what is dropped no longer counts");
}

#[tokio::test]
async fn a_call_that_is_refused_has_not_begun() {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let server = builder()
        .limits(Limits { max_pending: 2, ..plain() })
        .rpc("wait", move |_, (): ()| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Result<(), RpcError>>()
        })
        .build();
    let mut peer = Peer::new(&server);
    let call = json!({ "method": "wait", "params": null });
    let tasks = [peer.send(Opcode::RpcRequest, 1, &call).unwrap(), peer.send(Opcode::RpcRequest, 2, &call).unwrap()];
    for id in [2, 3] {
        assert!(peer.send(Opcode::RpcRequest, id, &call).is_none());
        let (opcode, correlation, body) = peer.received().remove(0);
        assert_eq!((opcode, correlation), (Opcode::RpcResponse, id));
        assert_eq!(body["error"]["code"], codes::LIMIT);
    }
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    drop(tasks);
}

#[tokio::test]
async fn states_that_nobody_needs_are_forgotten() {
    let server = builder().build();
    let existing = Peer::of(&server, Protocol::V1);
    // Ended with its snapshots still queued.
    let mut peer = Peer::new(&server);
    for id in 1..=100 {
        assert!(peer.subscribe(id, "state", &format!("key {id}"), None).is_none());
    }
    peer.end().await;
    assert_eq!(server.node().hub.in_memory(StreamKind::State), 0);

    // Removed, while a version 1 client has not read of it yet.
    for n in 0..10_000 {
        let key = format!("key {n}");
        server.state().set(&key, &n).await.unwrap();
        server.state().remove(&key).await.unwrap();
        assert!(server.node().hub.in_memory(StreamKind::State) <= 4096);
        if n % 1000 == 0 {
            existing.session.connection().mailbox().drain(&mut Outgoing::new(length), usize::MAX);
        }
    }
    assert!(server.state().keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_update_that_was_stored_is_published_although_its_caller_is_gone() {
    let backend = Gated::new(true);
    let server = builder().backend(backend.clone()).topic("talk", Replay::default()).build();
    server.state().set("n", &json!({ "n": 1 })).await.unwrap();
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "state", "n", None).is_none());
    assert!(peer.subscribe(2, "event", "talk", None).is_none());
    assert_eq!(peer.opcodes().len(), 3);

    backend.open.send_replace(false);
    assert!(server.state().update("n", |draft| draft.set("/n", 2)).now_or_never().is_none());
    assert!(server.broadcast("talk", &"hello").now_or_never().is_none());
    backend.open.send_replace(true);

    // The next ones wait for those.
    server.state().update("n", |draft| draft.set("/n", 3)).await.unwrap();
    server.broadcast("talk", &"again").await.unwrap();
    let seqs = |received: &[(Opcode, u32, Value)], opcode: Opcode| -> Vec<u64> {
        let those = received.iter().filter(|(found, ..)| *found == opcode);
        those.map(|(_, _, body)| body["seq"].as_u64().unwrap()).collect()
    };
    let received = peer.received();
    assert_eq!(seqs(&received, Opcode::StatePatch), [2, 3]);
    assert_eq!(seqs(&received, Opcode::ServerEvent), [1, 2]);
}

#[tokio::test]
async fn a_topic_goes_on_after_others_have_published_on_it() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).topic("talk", Replay::default()).build();
    let (ours, theirs) = (server(), server());
    ours.broadcast("talk", &1).await.unwrap();
    theirs.broadcast("talk", &2).await.unwrap();
    theirs.broadcast("talk", &3).await.unwrap();
    ours.broadcast("talk", &4).await.unwrap();

    let epoch = ours.node().hub.open(StreamKind::Event, "talk").await.unwrap().position().epoch;
    let mut peer = Peer::new(&ours);
    assert!(peer.subscribe(1, "event", "talk", Some(Position { epoch, seq: 1 })).is_none());
    let received = peer.received();
    assert_eq!(received[0].2, json!({ "epoch": epoch, "seq": 1, "recovered": true }));
    let data: Vec<&Value> = received[1..].iter().map(|(_, _, body)| &body["data"]).collect();
    assert_eq!(data, [&json!(2), &json!(3), &json!(4)]);
}

#[tokio::test]
async fn a_replay_longer_than_the_queue_closes_nobody() {
    let server = builder()
        .limits(Limits { max_queue: 10_000, ..plain() })
        .topic("talk", Replay { entries: 100, ..Replay::default() })
        .build();
    for _ in 0..101 {
        server.broadcast("talk", &"x".repeat(1_000)).await.unwrap();
    }
    let epoch = server.node().hub.open(StreamKind::Event, "talk").await.unwrap().position().epoch;
    for (seq, missed) in [(0, 0), (1, 100)] {
        let mut peer = Peer::new(&server);
        assert!(peer.subscribe(1, "event", "talk", Some(Position { epoch, seq })).is_none());
        assert!(peer.session.connection().mailbox().closing().is_none());
        assert_eq!(peer.received().len(), 1 + missed, "since {seq}");
    }
}

#[tokio::test]
async fn the_backend_is_not_left_with_more_than_the_replay() {
    let backend = Gated::new(true);
    let replay = Replay { entries: 10, bytes: 10_000, age: None };
    let server = builder().limits(Limits { replay, ..plain() }).backend(backend.clone()).topic("talk", replay).build();
    for n in 0..100 {
        let text = format!("{n}{}", "x".repeat(3_000));
        server.state().set("text", &text).await.unwrap();
        server.broadcast("talk", &text).await.unwrap();
        server.state().set("n", &n).await.unwrap();
        for stream in [StreamId::state("text"), StreamId::event("talk"), StreamId::state("n")] {
            let stored = backend.stored(&stream).await;
            assert_eq!(stored.mark.position.seq, n + 1);
            assert!(stored.entries.len() <= 20, "{stream:?}: {} entries", stored.entries.len());
            assert!(stored.entries.iter().map(|entry| entry.bytes.len()).sum::<usize>() <= 20_000, "{stream:?}");
        }
    }
    // Another start finds the value, and what the topic promises.
    let again = builder().limits(Limits { replay, ..plain() }).backend(backend).topic("talk", replay).build();
    assert_eq!(again.state().get("n").await.unwrap(), Some(json!(99)));
    let position = again.node().hub.open(StreamKind::Event, "talk").await.unwrap().position();
    let mut peer = Peer::new(&again);
    assert!(peer.subscribe(1, "event", "talk", Some(Position { seq: 97, ..position })).is_none());
    assert_eq!(peer.received().len(), 1 + 3);
}

#[tokio::test]
async fn a_state_cannot_outgrow_a_frame_by_copying() {
    let server = builder().build();
    let state = server.state();
    state.set("k", &json!({ "a": "x".repeat(600_000) })).await.unwrap();
    let copy =
        |to: &str| Patch::parse(&json!([{"op": "copy", "from": "/a", "path": to}]).to_string(), &Default::default());
    assert!(matches!(state.patch("k", &copy("/b").unwrap()).await, Err(crate::StateError::TooLarge { .. })));
    assert_eq!(state.get("k").await.unwrap().unwrap().as_object().unwrap().len(), 1);
    state.set("k", &json!({ "a": "x".repeat(300_000) })).await.unwrap();
    state.patch("k", &copy("/b").unwrap()).await.unwrap();
    state.patch("k", &copy("/c").unwrap()).await.unwrap();
    assert!(state.patch("k", &copy("/d").unwrap()).await.is_err());
}

#[tokio::test]
async fn an_update_that_fails_leaves_no_trace() {
    let server = builder().build();
    let state = server.state();
    state.set("k", &json!([0])).await.unwrap();
    let position = state.set("k", &json!([1])).await.unwrap();
    for key in ["k", "new"] {
        let panicked = std::panic::AssertUnwindSafe(state.update(key, |draft| {
            draft.set("", [2])?;
            panic!("on purpose")
        }));
        assert!(panicked.catch_unwind().await.is_err());
        // More operations than any client takes in one patch.
        let many = state.update(key, |draft| {
            draft.set("", [0])?;
            (0..100_000).try_for_each(|n| draft.set("/0", n))
        });
        assert!(matches!(many.await, Err(crate::StateError::Patch(_))));
    }
    assert_eq!(state.get("k").await.unwrap(), Some(json!([1])));
    assert_eq!(state.get("new").await.unwrap(), None);
    let next = state.update("k", |draft| draft.set("/0", 3)).await.unwrap();
    assert_eq!(next.seq, position.seq + 1);
}

#[tokio::test]
async fn a_policy_that_panics_refuses() {
    let server = builder().authorize_read(|_, stream| stream.key.as_bytes()[3] == b'x').build();
    let mut peer = Peer::new(&server);
    for (id, key, opcode) in [(1, "a", Opcode::Error), (2, "abcy", Opcode::Error), (3, "abcx", Opcode::Subscribed)] {
        assert!(peer.subscribe(id, "state", key, None).is_none());
        assert_eq!(peer.opcodes()[0], (opcode, id));
    }
}

#[tokio::test]
async fn a_shutdown_reaches_those_who_come_and_those_who_have_not_said_who_they_are() {
    let server = builder().build();
    let (member, stranger) = (Peer::new(&server), Peer::stranger(&server));
    server.shutdown().await;
    let late = Peer::new(&server);
    for peer in [member, stranger, late, Peer::stranger(&server)] {
        assert_eq!(peer.session.connection().mailbox().closing().unwrap().code, 1001);
    }
}

/// Keys that were removed make later lives begin with a greater epoch, in the end also those of streams that are followed
/// already: who follows one is given its first entry all the same.
#[tokio::test]
async fn the_first_entry_of_a_life_that_begins_late_reaches_who_waits_for_it() {
    let server = builder().topic("talk", Replay::default()).build();
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "event", "talk", None).is_none());
    let told = peer.received()[0].2.clone();
    // More than the memory remembers one by one.
    for n in 0..=4_096 {
        server.state().set(&n.to_string(), &1).await.unwrap();
        server.state().remove(&n.to_string()).await.unwrap();
    }
    server.broadcast("talk", &"first").await.unwrap();
    let first = peer.received()[0].2.clone();
    assert_eq!((&first["data"], &first["seq"]), (&json!("first"), &json!(1)));
    assert_ne!(first["epoch"], told["epoch"], "which the client takes for a gap, and asks again");
    let mut again = Peer::new(&server);
    let since = Position { epoch: told["epoch"].as_u64().unwrap(), seq: told["seq"].as_u64().unwrap() };
    assert!(again.subscribe(1, "event", "talk", Some(since)).is_none());
    let received = again.received();
    assert_eq!(received[0].2, json!({ "epoch": first["epoch"], "seq": 0, "recovered": true }));
    assert_eq!(received[1].2, first);
}
