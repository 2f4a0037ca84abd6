//! What server code does with CRDTs.

use datasole_core::frame::Opcode;
use datasole_server::{CrdtError, CrdtKind, EditError, Limits, Server};
use serde_json::{Value, json};

use crate::{Client, increment, now, op, server};

#[tokio::test]
async fn every_type_by_its_handle() {
    let server = Server::builder().crdt("up", CrdtKind::GCounter).crdt("kept", CrdtKind::GSet).build();
    let crdt = server.crdt();
    assert_eq!(crdt.counter("n").value().await.unwrap(), 0);
    crdt.counter("n").increment(5).await.unwrap();
    crdt.counter("n").decrement(7).await.unwrap();
    assert_eq!(crdt.counter("n").value().await.unwrap(), -2);
    crdt.counter("up").increment(3).await.unwrap();
    assert!(crdt.counter("up").decrement(1).await.is_err(), "it only grows");
    assert_eq!(crdt.counter("up").value().await.unwrap(), 3);

    assert_eq!(crdt.register("title").get::<String>().await.unwrap(), None);
    crdt.register("title").set(&"a").await.unwrap();
    crdt.register("title").set(&"b").await.unwrap();
    assert_eq!(crdt.register("title").get::<String>().await.unwrap().unwrap(), "b");
    assert!(matches!(crdt.register("title").get::<u64>().await, Err(EditError::Json(_))));

    crdt.map("m").set("x", &1).await.unwrap();
    crdt.map("m").set("y", &json!([2])).await.unwrap();
    crdt.map("m").remove("x").await.unwrap();
    crdt.map("m").remove("z").await.unwrap();
    assert_eq!(crdt.map("m").get::<u64>("x").await.unwrap(), None);
    assert_eq!(crdt.map("m").entries().await.unwrap(), [("y".to_owned(), json!([2]))].into());

    for set in ["s", "kept"] {
        crdt.set(set).add(&"b").await.unwrap();
        crdt.set(set).add(&"a").await.unwrap();
        assert_eq!(crdt.set(set).remove(&"b").await.is_ok(), set == "s");
        assert_eq!(crdt.set(set).contains(&"b").await.unwrap(), set == "kept");
    }
    assert_eq!(crdt.set("s").values::<String>().await.unwrap(), ["a"]);

    let kinds = [("kept", CrdtKind::GSet), ("m", CrdtKind::LwwMap), ("n", CrdtKind::PnCounter), ("s", CrdtKind::OrSet)];
    for (key, kind) in kinds {
        assert_eq!(crdt.kind(key).await.unwrap(), Some(kind));
        let wrong = crdt.register(key).set(&1).await;
        assert!(matches!(wrong, Err(EditError::Refused(CrdtError::WrongKind { .. }))));
        assert!(crdt.register(key).get::<Value>().await.is_err());
    }
    assert_eq!(crdt.keys().await.unwrap(), ["kept", "m", "n", "s", "title", "up"]);
    assert!(matches!(crdt.counter("").increment(1).await, Err(EditError::Key { .. })));
    assert!(matches!(crdt.counter("n").increment(0).await, Err(EditError::Refused(_))));
    assert!(matches!(crdt.counter("n").increment(1 << 53).await, Err(EditError::Refused(_))));
    assert_eq!(crdt.kind("none").await.unwrap(), None);
    assert_eq!(crdt.counter("none").value().await.unwrap(), 0, "reading creates nothing");
    assert_eq!(crdt.keys().await.unwrap().len(), 6);
}

/// The server's edits are operations like any other: later than what was seen, published, seen by both versions.
#[tokio::test]
async fn what_the_server_edits_reaches_everybody() {
    let server = server(Limits::default());
    let (mut old, mut new) = (Client::v1(&server), Client::v2(&server));
    new.follow("title", None);
    let ahead = now() + 30_000;
    new.op("title", &op("lww-register", "a", ahead, json!({ "counter": 1, "op": "set", "value": "theirs" }))).unwrap();
    server.crdt().register("title").set(&"ours").await.unwrap();
    let frames = new.received();
    let last = frames.last().unwrap();
    assert_eq!((last.0, &last.2["seq"], &last.2["op"]["value"]), (Opcode::CrdtOp, &json!(2), &json!("ours")));
    assert_eq!(old.states("title").1, "ours", "an edit made after another holds, whatever the other's clock");
}

/// Handlers that edit the same CRDT at once, with clients that do: nothing is lost.
#[tokio::test]
async fn edits_at_once_all_count() {
    let server = server(Limits::default());
    let mut client = Client::v2(&server);
    let edits = (0..50).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.crdt().counter("n").increment(1).await })
    });
    let edits: Vec<_> = edits.collect();
    for n in 1..=50 {
        client.op("n", &increment("a", n, 1)).unwrap();
        tokio::task::yield_now().await;
    }
    for edit in edits {
        edit.await.unwrap().unwrap();
    }
    assert_eq!(server.crdt().counter("n").value().await.unwrap(), 100);
}
