//! Large contents: what they cost does not grow with them, and nobody waits for what is done on the whole of one.

use std::sync::atomic::Ordering;

use datasole_core::{
    Payload, Position, StreamKind, codes,
    frame::{Opcode, decode},
};
use futures_util::FutureExt;
use serde_json::{Value, json, value::to_raw_value};
use tokio::task::yield_now;

use super::{Gated, Peer, batches, builder, length, plain, split};
use crate::{Limits, Protocol, Server, connection::Connection, message::Outgoing, primitives::state};

pub(super) fn rows(count: usize) -> Value {
    (0..count).map(|id| json!({"id": id, "name": format!("row {id}"), "n": 0})).collect()
}

/// The opcodes and positions of what a peer has received.
pub(super) fn seen(peer: &mut Peer) -> Vec<(Opcode, u64)> {
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
    let seats = server.node().hub.desk().occupy().await;
    let empty = json!([]);
    let mut cleared = Box::pin(state.set("k", &empty));
    assert!(cleared.as_mut().now_or_never().is_none(), "a small value in place of a large one");
    drop(seats);
    cleared.await.unwrap();
    assert!(state.set("k", &json!([1])).now_or_never().is_some());
}

/// The same where the change comes during the comparison.
#[tokio::test]
async fn a_large_value_is_compared_again_where_news_come_meanwhile() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    let (ours_state, theirs_state) = (ours.state(), theirs.state());
    let mut value = rows(5_000);
    ours_state.set("k", &value).await.unwrap();
    let _follower = {
        let mut peer = Peer::new(&ours);
        if let Some(task) = peer.subscribe(1, "state", "k", None) {
            task.await;
        }
        peer
    };
    let stream = ours.node().hub.known(StreamKind::State, "k").unwrap();
    let seats = ours.node().hub.desk().occupy().await;
    value[8]["n"] = json!("ours");
    let mut set = Box::pin(ours_state.set("k", &value));
    assert!(set.as_mut().now_or_never().is_none());
    let news = theirs_state.update("k", |draft| draft.set("/7/n", "theirs")).await.unwrap();
    while stream.position() != news {
        yield_now().await;
    }
    drop(seats);
    assert_eq!(set.await.unwrap().seq, news.seq + 1);
    for server in [&ours, &server()] {
        assert!(server.state().get("k").await.unwrap().as_ref() == Some(&value));
    }
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

/// Who resumes leaves the whole that is there to those who come next.
#[tokio::test(start_paused = true)]
async fn who_resumes_leaves_the_whole_to_others() {
    let server = builder().build();
    let state = server.state();
    state.set("large", &rows(5_000)).await.unwrap();
    follow(&server).await;
    state.update("large", |draft| draft.set("/7/n", 1)).await.unwrap();
    let at = state.update("large", |draft| draft.set("/7/n", 2)).await.unwrap();
    state.update("large", |draft| draft.set("/7/n", 3)).await.unwrap();
    let mut peer = Peer::new(&server);
    assert!(peer.subscribe(1, "state", "large", Some(at)).is_none());
    assert_eq!(seen(&mut peer), [(Opcode::Subscribed, 3), (Opcode::StatePatch, 4)]);
    let (waited, received) = follow(&server).await;
    assert_eq!((waited, received[1]), (false, (Opcode::StateSnapshot, 1)));
}

/// The entries that follow a shared whole leave room in the queue of a slow follower for what comes next.
#[tokio::test(start_paused = true)]
async fn a_slow_follower_of_a_large_busy_state_is_not_shown_the_same_again() {
    let limits = Limits { replay: crate::Replay::NONE, max_queue: 20_000, ..plain() };
    let server = builder().limits(limits).build();
    let state = server.state();
    state.set("large", &rows(5_000)).await.unwrap();
    follow(&server).await;
    let change = |n: usize| state.update("large", move |draft| draft.set("/7/n", format!("{n:02000}")));
    for n in 0..12 {
        change(n).await.unwrap();
    }
    let mut peer = Peer::new(&server);
    if let Some(task) = peer.subscribe(1, "state", "large", None) {
        task.await;
    }
    let mut received = Vec::new();
    let mut last = Position::default();
    for n in 12..60 {
        received.extend(peer.some(1));
        last = change(n).await.unwrap();
    }
    received.extend(peer.messages());
    let mut at = 0;
    for message in &received {
        let frame = decode(message, usize::MAX).unwrap();
        let seq = serde_json::from_slice::<Value>(frame.payload).unwrap()["seq"].as_u64().unwrap();
        match frame.opcode {
            Opcode::StateSnapshot => assert!(seq > at, "{seq} is shown to who is at {at}"),
            Opcode::StatePatch => assert_eq!(seq, at + 1),
            other => assert_eq!(other, Opcode::Subscribed),
        }
        at = if frame.opcode == Opcode::Subscribed { at } else { seq };
    }
    assert_eq!(at, last.seq);
}

/// Once what may be written out for one BATCH is, the others are owed.
#[tokio::test]
async fn large_states_of_one_batch_are_not_written_out_at_once() {
    let server = builder().build();
    for key in ["a", "b"] {
        server.state().set(key, &rows(10_000)).await.unwrap();
    }
    let mut peer = Peer::new(&server);
    let seats = server.node().hub.desk().occupy().await;
    let task = peer.take(&batches::batch(&[batches::subscribe(1, "a"), batches::subscribe(2, "b")]));
    assert_eq!(peer.some(1).len(), 1, "SUBSCRIBED of the second; the first waits for the desk");
    drop(seats);
    task.unwrap().await;
    let mut received = Vec::new();
    while received.len() < 3 {
        received.extend(peer.next().await);
    }
    let keys: Vec<_> = received.into_iter().map(|(opcode, _, body)| (opcode, body["key"].clone())).collect();
    let expected = [(Opcode::Subscribed, Value::Null), (Opcode::StateSnapshot, "a".into())];
    assert!(keys.starts_with(&expected) || keys.ends_with(&expected), "{keys:?}");
    assert_eq!(keys.len(), 3);
}

/// What this server has written is read back whatever peers may send.
#[tokio::test]
async fn a_state_is_read_where_it_is_longer_than_what_peers_may_send() {
    let server = builder().limits(Limits { max_message: 16, max_inflated: 1_000, ..Limits::default() }).build();
    let hub = &server.node().hub;
    for count in [1, 20, 2_000] {
        let value = rows(count);
        server.state().set("k", &value).await.unwrap();
        let text = state::read(hub, "k", 0).await.unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["value"], value);
    }
    server.state().remove("k").await.unwrap();
    assert_eq!(state::read(hub, "k", 0).await.unwrap(), None);
}

/// Answers below, at and above what the client takes.
#[test]
fn an_answer_that_the_client_would_drop_is_an_error() {
    const MIB: usize = 1024 * 1024;
    for (protocol, raised, most) in
        [(Protocol::V1, 2 * MIB, MIB), (Protocol::V1, MIB / 2, MIB / 2), (Protocol::V2, 2 * MIB, 2 * MIB)]
    {
        let connection = Connection::new(1, 1, protocol, usize::MAX, usize::MAX);
        let answer = |text: &str| {
            let mut out = Outgoing::new(length);
            connection.answer(&mut out, 7, &Ok(Payload::Json(to_raw_value(text).unwrap())), raised);
            let message = split(&out.bytes).remove(0);
            let payload = decode(&message, usize::MAX).unwrap().payload.to_vec();
            (payload.len(), serde_json::from_slice::<Value>(&payload).unwrap())
        };
        let around = answer("").0;
        for (bytes, fits) in [(most - 1, true), (most, true), (most + 1, false)] {
            let (sent, body) = answer(&"x".repeat(bytes - around));
            assert_eq!(sent == bytes, fits, "{bytes} bytes to {protocol:?}");
            assert_eq!(body["error"]["code"] == codes::TOO_LARGE, !fits);
        }
    }
}
