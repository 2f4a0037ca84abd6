//! CRDTs against a scripted server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use datasole_client::{
    Client, CommandError, Counter, CrdtError, CrdtStorage, EditError, FollowError, Map, Set, SyncStatus, codes,
};
use serde_json::{Value, json};

use crate::fake::*;

/// Answers the SUBSCRIBE that must come with a snapshot at 0 of a key that does not exist.
async fn accept_new(peer: &mut Peer, key: &str) {
    peer.accept_subscription("crdt", key, json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    peer.send(CRDT_STATE, 0, &json!({"key": key, "state": null, "epoch": 1, "seq": 0})).await;
}

/// A client with the counter `n`, which does not exist on the server.
async fn counting(server: &Fake) -> (Client, Counter, Peer) {
    let (client, mut peer) = server.pair().await;
    let counter = client.crdt().counter("n").unwrap();
    accept_new(&mut peer, "n").await;
    counter.synced().await.unwrap();
    assert!(counter.is_loaded());
    (client, counter, peer)
}

/// The operation that must come next, and the correlation id of its answer.
async fn expect_op(peer: &mut Peer, key: &str) -> (u32, Value) {
    let (correlation, mut sent) = peer.expect(CRDT_OP).await;
    assert_eq!(sent["key"], key);
    (correlation, sent["op"].take())
}

async fn publish(peer: &mut Peer, key: &str, seq: u64, op: &Value) {
    peer.send(CRDT_OP, 0, &json!({"key": key, "op": op, "epoch": 1, "seq": seq})).await;
}

fn other(counter: u64, op: &str, value: i64) -> Value {
    json!({"type": "pn-counter", "nodeId": "other", "counter": counter, "timestamp": 1000 + counter, "op": op, "value": value})
}

/// Waits until the handle's value is this.
async fn counts(counter: &Counter, value: i64) {
    let mut changes = counter.changes();
    while counter.value() != value {
        changes.next().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_edit_counts_at_once_and_once() {
    let server = Fake::listen().await;
    let (client, counter, mut peer) = counting(&server).await;
    counter.increment(5).unwrap();
    counter.decrement(2).unwrap();
    counter.increment(0).unwrap();
    assert_eq!((counter.value(), counter.status(), client.crdt().pending()), (3, SyncStatus::Pending(2), 2));
    let (first, op) = expect_op(&mut peer, "n").await;
    assert_eq!((&op["op"], &op["value"], &op["counter"]), (&json!("increment"), &json!(5), &json!(1)));
    let (second, next) = expect_op(&mut peer, "n").await;
    assert_eq!((&next["op"], &next["value"], &next["counter"]), (&json!("decrement"), &json!(2), &json!(2)));
    assert_eq!(op["nodeId"], next["nodeId"]);

    // The entry comes before its answer, and the other way round.
    publish(&mut peer, "n", 1, &op).await;
    peer.send_raw(ACK, first, &[1]).await;
    peer.send_raw(ACK, second, &[2]).await;
    counter.synced().await.unwrap();
    assert_eq!(counter.value(), 3);
    publish(&mut peer, "n", 2, &next).await;
    publish(&mut peer, "n", 3, &other(1, "increment", 10)).await;
    counts(&counter, 13).await;
    assert_eq!((counter.status(), client.crdt().pending()), (SyncStatus::Synced, 0));
}

#[tokio::test]
async fn no_more_than_64_are_unanswered_and_the_rest_follows_in_order() {
    let server = Fake::listen().await;
    let (client, counter, mut peer) = counting(&server).await;
    for _ in 0..100 {
        counter.increment(1).unwrap();
    }
    client.emit("mark", &()).await.unwrap();
    let mut answers = Vec::new();
    for number in 1..=64 {
        let (correlation, op) = expect_op(&mut peer, "n").await;
        assert_eq!(op["counter"], number);
        answers.push(correlation);
    }
    peer.expect(EVENT_C2S).await;
    for (number, correlation) in (65..=100).zip(answers) {
        peer.send_raw(ACK, correlation, &[1]).await;
        assert_eq!(expect_op(&mut peer, "n").await.1["counter"], number);
    }
}

#[tokio::test]
async fn what_is_not_confirmed_is_sent_again_after_a_cut() {
    let server = Fake::listen().await;
    let (_client, counter, mut peer) = counting(&server).await;
    counter.increment(1).unwrap();
    counter.increment(2).unwrap();
    let (_, stored) = expect_op(&mut peer, "n").await;
    let (_, lost) = expect_op(&mut peer, "n").await;
    drop(peer);
    let mut peer = server.accept_v2().await;
    counter.increment(4).unwrap();
    assert_eq!(counter.value(), 7);

    let answer = json!({"epoch": 1, "seq": 0, "recovered": false});
    let (_, asked) = peer.accept_subscription("crdt", "n", answer).await;
    assert_eq!(asked["since"], json!({"epoch": 1, "seq": 0}));
    // The server has the first, in another life of the stream.
    let node = stored["nodeId"].as_str().unwrap();
    let state = json!({
        "type": "pn-counter", "value": 1,
        "metadata": {
            "type": "pn-counter", "nodeId": node, "timestamp": stored["timestamp"], "version": 1,
            "vector": {"increments": {node: 1}, "decrements": {}}, "seen": {node: [1, stored["timestamp"]]}
        }
    });
    peer.send(CRDT_STATE, 0, &json!({"key": "n", "state": state, "epoch": 2, "seq": 9})).await;
    let (_, again) = expect_op(&mut peer, "n").await;
    assert_eq!((&again["counter"], &again["timestamp"]), (&lost["counter"], &lost["timestamp"]));
    assert_eq!(expect_op(&mut peer, "n").await.1["counter"], 3);
    assert_eq!(counter.value(), 7);
}

#[tokio::test]
async fn a_refused_edit_is_undone_told_and_replaced() {
    let server = Fake::listen().await;
    let (client, counter, mut peer) = counting(&server).await;
    let mut refusals = client.refusals();
    counter.increment(5).unwrap();
    counter.increment(7).unwrap();
    let (first, _) = expect_op(&mut peer, "n").await;
    let (second, _) = expect_op(&mut peer, "n").await;
    peer.send(ERROR, first, &json!({"message": "not you", "code": codes::FORBIDDEN})).await;
    let refusal = refusals.next().await.unwrap();
    assert_eq!(
        (refusal.code, refusal.message.as_str(), refusal.stream.key.as_str()),
        (codes::FORBIDDEN, "not you", "n")
    );
    assert_eq!(serde_json::from_str::<Value>(refusal.payload.as_json().unwrap()).unwrap()["value"], 5);
    assert_eq!(counter.value(), 7);
    let (none, op) = expect_op(&mut peer, "n").await;
    assert_eq!((&op["counter"], &op["op"]), (&json!(1), &json!("none")));
    assert_eq!(client.crdt().pending(), 1, "what was refused is settled");
    peer.send_raw(ACK, none, &[1]).await;
    peer.send_raw(ACK, second, &[2]).await;
    client.crdt().synced().await.unwrap();
    assert_eq!(counter.value(), 7);
}

#[tokio::test]
async fn the_server_may_ask_to_wait() {
    let server = Fake::listen().await;
    let (_client, counter, mut peer) = counting(&server).await;
    counter.increment(1).unwrap();
    let (correlation, op) = expect_op(&mut peer, "n").await;
    let wait = json!({"message": "slowly", "code": codes::LIMIT, "retryAfter": 20});
    peer.send(ERROR, correlation, &wait).await;
    let (_, again) = expect_op(&mut peer, "n").await;
    assert_eq!(again, op);
    assert_eq!(counter.value(), 1);
}

#[tokio::test]
async fn maps_registers_and_sets_are_typed() {
    let server = Fake::listen().await;
    let (client, _peer) = server.pair().await;
    let crdt = client.crdt();
    let map: Map<u32> = crdt.map("map").unwrap();
    map.insert("a", &1).unwrap();
    map.insert("b", &2).unwrap();
    crdt.map::<Value>("map").unwrap().insert("c", &json!("text")).unwrap();
    assert_eq!((map.get("a").unwrap(), map.get("x").unwrap(), map.len()), (Some(1), None, 3));
    assert!(matches!(map.get("c"), Err(EditError::Value(_))));
    assert_eq!(map.iter().collect::<Vec<_>>(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    map.remove("a").unwrap();
    map.remove("a").unwrap();
    assert!(!map.contains_key("a") && map.contains_key("b") && !map.is_empty());
    assert_eq!(map.to_json(), json!({"b": 2, "c": "text"}));

    let register = crdt.register::<Vec<u8>>("register").unwrap();
    assert_eq!(register.get().unwrap(), None);
    register.set(&vec![1, 2]).unwrap();
    assert_eq!(register.get().unwrap(), Some(vec![1, 2]));

    let set: Set<String> = crdt.set("set").unwrap();
    for element in ["b", "a", "b"] {
        set.add(&element.into()).unwrap();
    }
    assert!(set.contains(&"a".into()));
    set.remove(&"a".into()).unwrap();
    assert_eq!(set.iter().collect::<Vec<_>>(), ["b"]);
    let grows = crdt.g_set::<u8>("grows").unwrap();
    grows.add(&3).unwrap();
    assert!(grows.contains(&3) && grows.iter().eq([3]));
    let up = crdt.g_counter("up").unwrap();
    up.increment(2).unwrap();
    assert_eq!((up.value(), up.clone().key()), (2, "up"));
}

#[tokio::test]
async fn what_cannot_be_is_an_error_and_changes_nothing() {
    let server = Fake::listen().await;
    let (client, _peer) = server.pair().await;
    let crdt = client.crdt();
    let counter = crdt.counter("n").unwrap();
    let error = crdt.set::<u8>("n").unwrap_err();
    assert!(matches!(error, EditError::Crdt(CrdtError::WrongKind { .. })), "{error}");
    assert!(matches!(crdt.counter(""), Err(EditError::Command(_))));
    counter.increment((1 << 53) - 1).unwrap();
    assert!(matches!(counter.increment(1), Err(EditError::Crdt(CrdtError::Range))));
    let error = crdt.register("big").unwrap().set(&"x".repeat(70_000)).unwrap_err();
    assert_eq!(error.code(), codes::LOCAL_LIMIT, "{error}");
    assert_eq!((counter.value(), client.crdt().pending()), ((1 << 53) - 1, 1));
}

#[tokio::test]
async fn a_refused_key_says_why() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let counter = client.crdt().counter("secret").unwrap();
    let mut changes = counter.changes();
    let (id, _) = peer.expect(SUBSCRIBE).await;
    peer.send(ERROR, id, &json!({"message": "not for you", "code": codes::FORBIDDEN})).await;
    assert!(matches!(changes.next().await, Some(Err(FollowError::Refused { code: codes::FORBIDDEN, .. }))));
    assert!(changes.next().await.is_none());
    assert!(matches!(counter.synced().await, Err(EditError::Refused { .. })));
    assert!(matches!(counter.changes().next().await, Some(Err(FollowError::Refused { .. }))), "later readers, too");

    // A client that may not read may still write, unless writing is refused as well.
    let mut refusals = client.refusals();
    counter.increment(1).unwrap();
    assert_eq!((counter.value(), counter.status()), (1, SyncStatus::Pending(1)));
    let (correlation, op) = expect_op(&mut peer, "secret").await;
    peer.send(ERROR, correlation, &json!({"message": "nor for you", "code": codes::FORBIDDEN})).await;
    let refusal = refusals.next().await.unwrap();
    assert_eq!((refusal.code, refusal.message.as_str()), (codes::FORBIDDEN, "nor for you"));
    assert_eq!(serde_json::from_str::<Value>(refusal.payload.as_json().unwrap()).unwrap(), op);
    client.crdt().synced().await.unwrap();
    assert_eq!(counter.value(), 0);
    let error = counter.increment(1).unwrap_err();
    assert!(matches!(&error, EditError::Refused { code: codes::FORBIDDEN, message } if message == "nor for you"));
    assert_eq!((counter.value(), client.crdt().pending()), (0, 0));
}

#[tokio::test]
async fn edits_of_a_key_that_may_not_be_read_any_more_are_sent() {
    let server = Fake::listen().await;
    let (client, counter, peer) = counting(&server).await;
    counter.increment(1).unwrap();
    assert_eq!(client.crdt().pending(), 1);
    let mut changes = counter.changes();
    drop(peer);
    let mut peer = server.accept_v2().await;
    let (id, _) = peer.expect(SUBSCRIBE).await;
    peer.send(ERROR, id, &json!({"message": "no longer", "code": codes::FORBIDDEN})).await;
    while !matches!(changes.next().await, Some(Err(FollowError::Refused { .. }))) {}
    let (correlation, _) = expect_op(&mut peer, "n").await;
    peer.send_raw(ACK, correlation, &[1]).await;
    client.crdt().synced().await.unwrap();
    assert_eq!((counter.value(), client.crdt().pending()), (1, 0));
    assert!(matches!(counter.status(), SyncStatus::Refused { code: codes::FORBIDDEN, .. }));

    // Opening the key again asks again.
    let again = client.crdt().counter("n").unwrap();
    let (synced, ()) = tokio::join!(again.synced(), accept_new(&mut peer, "n"));
    synced.unwrap();
    assert_eq!((again.value(), counter.value()), (0, 0), "the server has lost what it had");
}

#[tokio::test]
async fn handles_share_a_replica_and_the_last_leaves_once_all_is_stored() {
    let server = Fake::listen().await;
    let (client, counter, mut peer) = counting(&server).await;
    let second = client.crdt().counter("n").unwrap();
    second.increment(1).unwrap();
    assert_eq!(counter.value(), 1);
    let (correlation, _) = expect_op(&mut peer, "n").await;
    drop((counter, second));
    client.emit("between", &()).await.unwrap();
    peer.expect(EVENT_C2S).await;
    peer.send_raw(ACK, correlation, &[1]).await;
    peer.expect(UNSUBSCRIBE).await;
    assert_eq!(client.crdt().pending(), 0);
}

#[tokio::test]
async fn closing_ends_what_waits() {
    let server = Fake::listen().await;
    let (client, peer) = server.pair().await;
    let counter = client.crdt().counter("n").unwrap();
    counter.increment(1).unwrap();
    let (mut changes, crdt) = (counter.changes(), client.crdt());
    drop(peer);
    client.close().await;
    assert!(changes.next().await.is_none());
    assert!(matches!(counter.synced().await, Err(EditError::Closed)));
    assert!(matches!(crdt.synced().await, Err(EditError::Closed)));
    assert!(counter.increment(1).is_err());
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<HashMap<String, String>>>);

impl CrdtStorage for Memory {
    fn load(&self, key: &str) -> Option<String> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn save(&self, key: &str, replica: Option<&str>) {
        let mut saved = self.0.lock().unwrap();
        match replica {
            Some(replica) => drop(saved.insert(key.into(), replica.into())),
            None => drop(saved.remove(key)),
        }
    }
}

#[tokio::test]
async fn unsent_edits_survive_a_restart() {
    let server = Fake::listen().await;
    let storage = Memory::default();
    let (client, _peer) = server.pair_with(server.client().node_id("phone").crdt_storage(storage.clone())).await;
    client.crdt().counter("n").unwrap().increment(3).unwrap();
    client.crdt().counter("m").unwrap().increment(3).unwrap();
    let [saved, other] = ["n", "m"].map(|key| serde_json::from_str::<Value>(&storage.load(key).unwrap()).unwrap());
    assert_ne!(saved["node"], other["node"]);
    storage.save("m", None);
    drop(client);

    let (client, mut peer) = server.pair_with(server.client().crdt_storage(storage.clone())).await;
    let counter = client.crdt().counter("n").unwrap();
    assert_eq!((counter.value(), client.crdt().pending()), (3, 1));
    accept_new(&mut peer, "n").await;
    let (correlation, op) = expect_op(&mut peer, "n").await;
    assert!(op["nodeId"].as_str().unwrap().starts_with("phone."), "the same replica");
    assert_eq!((&op["nodeId"], &op["secret"]), (&saved["node"], &saved["secret"]), "and it can show that it is");
    assert_eq!(op["secret"].as_str().unwrap().len(), 32);
    peer.send_raw(ACK, correlation, &[1]).await;
    counter.synced().await.unwrap();
    assert!(storage.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_edit_that_cannot_be_queued_is_undone_and_not_saved() {
    let server = Fake::listen().await;
    let storage = Memory::default();
    let (client, _peer) = server.pair_with(server.client().crdt_storage(storage.clone())).await;
    let register = client.crdt().register::<String>("r").unwrap();
    let values = (0..).map(|n| format!("{n}{}", "x".repeat(60_000)));
    let mut last = None;
    for value in values {
        match register.set(&value) {
            Ok(()) => last = Some(value),
            Err(error) => {
                assert!(matches!(error, EditError::Command(CommandError::Limit { .. })), "{error}");
                break;
            }
        }
    }
    // 4 MiB of operations.
    assert_eq!(client.crdt().pending(), 69);
    assert_eq!(register.get().unwrap(), last);
    let saved: Value = serde_json::from_str(&storage.load("r").unwrap()).unwrap();
    assert_eq!(saved["pending"].as_array().unwrap().len(), 69);
}

#[tokio::test]
async fn nothing_is_sent_to_a_version_1_server() {
    let server = Fake::listen().await;
    let (client, mut peer) = tokio::join!(server.client().connect(), server.accept(Some("datasole.v1")));
    let client = client.unwrap();
    let counter = client.crdt().counter("n").unwrap();
    counter.increment(2).unwrap();
    client.crdt().synced().await.unwrap();
    assert_eq!((client.crdt().pending(), counter.value()), (0, 2));
    client.emit("next", &1).await.unwrap();
    peer.expect(EVENT_C2S).await;
    let state = json!({
        "type": "pn-counter", "value": 9,
        "metadata": {
            "type": "pn-counter", "nodeId": "x", "timestamp": 1, "version": 1,
            "vector": {"increments": {"x": 7}, "decrements": {}}
        }
    });
    peer.send(CRDT_STATE, 0, &json!({"key": "n", "state": state})).await;
    counts(&counter, 9).await;
}

#[tokio::test]
async fn a_history_that_cannot_be_read_is_asked_for_again_and_then_given_up() {
    let server = Fake::listen().await;
    let (_client, counter, mut peer) = counting(&server).await;
    publish(&mut peer, "n", 1, &json!({"type": "g-set", "op": "add"})).await;
    for seq in [5, 6] {
        peer.expect(UNSUBSCRIBE).await;
        peer.accept_subscription("crdt", "n", json!({"epoch": 1, "seq": seq, "recovered": false})).await;
        peer.send(CRDT_STATE, 0, &json!({"key": "n", "state": "what", "epoch": 1, "seq": seq})).await;
    }
    peer.expect(UNSUBSCRIBE).await;
    assert!(matches!(counter.synced().await, Err(EditError::Refused { code: codes::PARSE, .. })));
}
