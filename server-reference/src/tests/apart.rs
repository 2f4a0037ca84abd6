//! Work that takes milliseconds is done off the async workers and without its stream's lock: nobody waits for it but who
//! needs what comes of it.

use datasole_core::{Position, StreamKind, frame::Opcode};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::task::yield_now;

use super::{
    Gated, Peer, builder,
    large::{rows, seen},
    plain,
};
use crate::{Limits, Replay, Server};

/// Follows a stream of this kind.
async fn follow_stream(server: &Server, kind: &str, key: &str) -> Peer {
    let mut peer = Peer::new(server);
    if let Some(task) = peer.subscribe(1, kind, key, None) {
        task.await;
    }
    peer.messages();
    peer
}

/// A large value of another server is read off the async workers, and its next change waits for that.
#[tokio::test]
async fn a_large_value_of_another_server_is_read_elsewhere_and_in_order() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    let first = theirs.state().set("k", &json!([0])).await.unwrap();
    let mut peer = follow_stream(&ours, "state", "k").await;
    let stream = ours.node().hub.known(StreamKind::State, "k").unwrap();
    let seats = ours.node().hub.desk().occupy().await;
    let mut value = rows(5_000);
    theirs.state().set("k", &value).await.unwrap();
    let last = theirs.state().update("k", |draft| draft.set("/7/n", 1)).await.unwrap();
    for _ in 0..64 {
        yield_now().await;
    }
    assert_eq!(stream.position(), first);
    assert!(ours.state().set("small", &1).now_or_never().is_some());
    assert_eq!(ours.state().get("k").now_or_never().unwrap().unwrap(), Some(json!([0])));
    drop(seats);
    while stream.position() != last {
        yield_now().await;
    }
    assert_eq!(seen(&mut peer), [(Opcode::StateSnapshot, first.seq + 1), (Opcode::StatePatch, last.seq)]);
    value[7]["n"] = json!(1);
    assert!(ours.state().get("k").await.unwrap() == Some(value));
}

/// A change that goes over the whole is made on a copy: who reads or changes another state does not wait.
#[tokio::test]
async fn a_large_value_is_edited_as_a_type_elsewhere() {
    let server = builder().build();
    let (state, value) = (server.state(), rows(5_000));
    state.set("k", &value).await.unwrap();
    let seats = server.node().hub.desk().occupy().await;
    let mut edit = Box::pin(state.edit("k", |rows: &mut Vec<Value>| {
        rows[7]["n"] = json!(1);
        Ok(())
    }));
    assert!(edit.as_mut().now_or_never().is_none());
    assert!(state.get("k").now_or_never().unwrap().unwrap() == Some(value));
    assert!(state.set("small", &1).now_or_never().is_some());
    drop(seats);
    edit.await.unwrap();
    assert_eq!(state.get("k").await.unwrap().unwrap()[7]["n"], 1);
}

/// The message of a long event is compressed off the async workers, in the order of the events.
#[tokio::test]
async fn a_long_event_is_published_elsewhere_and_in_order() {
    let server = builder().topic("t", Replay::default()).topic("other", Replay::default()).build();
    let mut peer = follow_stream(&server, "event", "t").await;
    let seats = server.node().hub.desk().occupy().await;
    let long = "x".repeat(100_000);
    let mut first = Box::pin(server.broadcast("t", &long));
    assert!(first.as_mut().now_or_never().is_none());
    let mut second = Box::pin(server.broadcast("t", &2));
    assert!(second.as_mut().now_or_never().is_none());
    assert!(server.broadcast("other", &1).now_or_never().is_some());
    assert!(peer.received().is_empty());
    drop(seats);
    let (first, second) = tokio::join!(first, second);
    first.and(second).unwrap();
    let received: Vec<Value> = peer.received().into_iter().map(|(_, _, body)| body["data"].clone()).collect();
    assert_eq!(received, [json!(long), json!(2)]);
}

/// A large CRDT forgets, and is written out, off the async workers; what others do meanwhile is not lost.
#[tokio::test]
async fn a_large_crdt_is_compacted_elsewhere() {
    let backend = Gated::new(true);
    let limits = Limits { replay: Replay::default().entries(2), ..plain() };
    let server = || builder().limits(limits.clone()).backend(backend.clone()).build();
    let ours = server();
    let (map, value) = (ours.crdt().map("m"), "x".repeat(60_000));
    for n in 0..5 {
        map.set(&format!("{n}"), &value).await.unwrap();
    }
    let seats = ours.node().hub.desk().occupy().await;
    let mut sixth = Box::pin(map.set("5", &value));
    assert!(sixth.as_mut().now_or_never().is_none(), "a snapshot is due");
    assert_eq!(map.get("5").now_or_never().unwrap().unwrap().as_ref(), Some(&value), "it is published already");
    assert!(ours.crdt().map("other").set("a", &1).now_or_never().is_some());
    drop(seats);
    sixth.await.unwrap();
    map.remove("0").await.unwrap();
    let theirs = server();
    let entries = theirs.crdt().map("m").entries().await.unwrap();
    assert!(entries == map.entries().await.unwrap() && entries.len() == 5);
}

/// The log for those who come back is made off the async workers as a stream is loaded.
#[tokio::test]
async fn a_long_history_is_loaded_elsewhere() {
    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).topic("t", Replay::default()).build();
    let (ours, theirs) = (server(), server());
    for n in 0..100 {
        theirs.broadcast("t", &format!("{n:02000}")).await.unwrap();
    }
    let seats = ours.node().hub.desk().occupy().await;
    let mut peer = Peer::new(&ours);
    let task = peer.subscribe(1, "event", "t", Some(Position::default()));
    let mut task = task.expect("it waits for the desk");
    assert!(task.as_mut().now_or_never().is_none());
    assert!(ours.state().set("small", &1).now_or_never().is_some());
    drop(seats);
    task.await;
    assert_eq!(peer.received()[0].0, Opcode::Subscribed);
}

/// Updates of others are taken into a document off the async workers, and edits come behind them.
#[cfg(feature = "docs")]
#[tokio::test]
async fn a_large_update_of_another_server_is_taken_elsewhere() {
    use yrs::{Text, TransactionMut, WriteTxn};

    let backend = Gated::new(true);
    let server = || builder().backend(backend.clone()).build();
    let (ours, theirs) = (server(), server());
    let write = |text: String| move |edit: &mut TransactionMut<'_>| edit.get_or_insert_text("t").push(edit, &text);
    theirs.docs().edit("d", write("a".into())).await.unwrap();
    let _peer = follow_stream(&ours, "doc", "d").await;
    let stream = ours.node().hub.known(StreamKind::Doc, "d").unwrap();
    let (first, seats) = (stream.position(), ours.node().hub.desk().occupy().await);
    theirs.docs().edit("d", write("b".repeat(10_000))).await.unwrap();
    for _ in 0..64 {
        yield_now().await;
    }
    assert_eq!(stream.position(), first);
    assert!(ours.docs().edit("other", write("a".into())).now_or_never().is_some());
    let (ours_docs, theirs_docs) = (ours.docs(), theirs.docs());
    let mut edit = Box::pin(ours_docs.edit("d", write("c".into())));
    assert!(edit.as_mut().now_or_never().is_none());
    drop(seats);
    edit.await.unwrap();
    let expected = format!("a{}c", "b".repeat(10_000));
    assert_eq!(ours_docs.text("d", "t").await.unwrap(), expected);
    while theirs_docs.text("d", "t").await.unwrap() != expected {
        yield_now().await;
    }
}
