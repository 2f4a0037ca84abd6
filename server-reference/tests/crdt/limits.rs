//! What the server refuses: too much, the wrong type, those who may not; and hostile operations, which change nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datasole_core::frame::Opcode;
use datasole_server::{CrdtKind, CrdtLimits, Limits, Server, backend::Memory, clock::Manual};
use serde_json::{Value, json};

use crate::{Client, increment, now, op, server};

const INVALID: i64 = -32602;
const FORBIDDEN: i64 = -32002;
const LIMIT: i64 = -32004;

#[tokio::test]
async fn keys_of_a_server_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| {
        limits.max_crdt_keys = 3;
        limits.max_crdt_keys_per_connection = 2;
    });
    let server = Server::builder().limits(limits).crdt("registered", CrdtKind::PnCounter).build();
    let (mut ann, mut bob) = (Client::v2(&server), Client::v2(&server));
    for (key, outcome) in [("1", Ok(1)), ("2", Ok(1)), ("3", Err(LIMIT)), ("registered", Ok(1)), ("2", Ok(2))] {
        let n = if outcome == Ok(2) { 2 } else { 1 };
        assert_eq!(ann.op(key, &increment("a", n, 1)), outcome, "one client, {key}");
    }
    assert_eq!(bob.op("3", &increment("b", 1, 1)), Ok(1), "there is room for others");
    assert_eq!(bob.op("4", &increment("b", 1, 1)), Err(LIMIT), "but no more than the server has");
    let none = op("pn-counter", "b", now(), json!({ "counter": 1, "op": "none" }));
    assert_eq!(bob.op("4", &none), Ok(0), "what takes its place creates nothing");
    assert_eq!(server.crdt().keys().await.unwrap(), ["1", "2", "3", "registered"]);
    server.crdt().counter("5").increment(1).await.unwrap();
    server.crdt().remove("5").await.unwrap();
    server.crdt().remove("3").await.unwrap();
    assert_eq!(bob.op("4", &increment("b", 1, 1)), Ok(1), "a key that is gone makes room");
    assert_eq!(bob.op("5", &increment("b", 1, 1)), Err(LIMIT));
}

/// A user's keys count together, whatever the connections; those of others do not.
#[tokio::test]
async fn keys_of_a_user_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| limits.max_crdt_keys_per_user = 2);
    let server = Server::builder().limits(limits).crdt("registered", CrdtKind::PnCounter).build();
    for (user, key, outcome) in [
        ("ann", "1", Ok(1)),
        ("ann", "2", Ok(1)),
        ("ann", "3", Err(LIMIT)),
        ("ann", "registered", Ok(1)),
        ("ann", "1", Ok(2)),
        ("bob", "3", Ok(1)),
    ] {
        let mut client = Client::user(&server, user);
        let replica = format!("{user} {key} {outcome:?}");
        assert_eq!(client.op(key, &increment(&replica, 1, 1)), outcome, "{replica}");
    }
    let mut old = Client::v1(&server);
    old.send(Opcode::CrdtOp, 0, &json!({ "key": "4", "op": increment("old", 1, 1) }));
    assert_eq!(server.crdt().keys().await.unwrap(), ["1", "2", "3", "registered"], "nor by version 1");
}

/// Servers of one backend count a user's keys together.
#[tokio::test]
async fn keys_of_a_user_are_counted_on_all_servers() {
    let clock = Arc::new(Manual::default());
    let names = AtomicU64::new(1);
    let memory = Memory::new(clock.clone(), Arc::new(move || names.fetch_add(1, Ordering::Relaxed)));
    let server = || {
        let limits = Limits::default().with(|limits| limits.max_crdt_keys_per_user = 3);
        Server::builder().limits(limits).crdt("registered", CrdtKind::PnCounter).backend(memory.clone()).build()
    };
    let replicas = AtomicU64::new(0);
    let create = |server: &Server, user: &str, key: &str| {
        // Each client is a replica of its own.
        let mut client = Client::user(server, user);
        let replica = format!("{user} {}", replicas.fetch_add(1, Ordering::Relaxed));
        client.op(key, &increment(&replica, 1, 1))
    };
    let (a, b) = (server(), server());
    assert_eq!((create(&a, "ann", "1"), create(&b, "ann", "2")), (Ok(1), Ok(1)), "below");
    assert_eq!(create(&a, "ann", "3"), Ok(1), "at the limit");
    assert_eq!((create(&a, "ann", "4"), create(&b, "ann", "4")), (Err(LIMIT), Err(LIMIT)), "above it, on each");
    assert_eq!(create(&b, "ann", "registered"), Ok(1), "registered ones are not counted");
    assert_eq!(create(&b, "ann", "3"), Ok(2), "what exists is changed");
    assert_eq!(create(&b, "bob", "4"), Ok(1), "nor are those of others");
    b.crdt().counter("5").increment(1).await.unwrap();
    let restarted = server();
    assert_eq!(create(&restarted, "ann", "6"), Err(LIMIT), "a server that starts begins with what was created");
    clock.advance(Duration::from_secs(26 * 3_600));
    assert_eq!(create(&restarted, "ann", "6"), Ok(1), "after a day");
}

#[tokio::test]
async fn clients_create_keys_only_where_they_may() {
    let server = Server::builder().crdt("registered", CrdtKind::LwwMap).client_crdts(false).build();
    let mut client = Client::v2(&server);
    assert_eq!(client.op("n", &increment("a", 1, 1)), Err(FORBIDDEN));
    assert_eq!(client.op("registered", &increment("a", 1, 1)), Err(INVALID), "its type was said");
    server.crdt().counter("n").increment(1).await.unwrap();
    assert_eq!(client.op("n", &increment("a", 1, 1)), Ok(2), "the server may, and then it is there");
}

#[tokio::test]
async fn values_and_states_below_at_and_above_the_limit() {
    let crdt = CrdtLimits { max_value: 10, max_bytes: 1_000, ..CrdtLimits::default() };
    let server = server(Limits::default().with(|limits| limits.crdt = crdt));
    let mut client = Client::v2(&server);
    let mut set = |n: u64, length: usize| {
        let value = "x".repeat(length - 2);
        let rest = json!({ "counter": n, "op": "set", "key": format!("k{n}"), "value": value });
        client.op("m", &op("lww-map", "a", now(), rest))
    };
    assert_eq!([set(1, 9), set(2, 10), set(3, 11)], [Ok(1), Ok(2), Err(LIMIT)]);
    let mut n = 3;
    let refused = loop {
        match set(n, 10) {
            Ok(_) => n += 1,
            Err(code) => break code,
        }
    };
    assert_eq!(refused, LIMIT);
    assert!(n > 4);
    let (_, shown) = client.follow("m", None);
    assert!(shown[0]["state"].to_string().len() <= 1_000);
}

/// A state must fit in a frame with the longest key, whatever its own limit.
#[tokio::test]
async fn a_state_fits_in_a_frame() {
    let limits = Limits::default().with(|limits| {
        limits.max_payload = 2_000;
        limits.max_key = 8;
    });
    let server = server(limits);
    let mut client = Client::v2(&server);
    let mut n = 1;
    while client
        .op(
            "\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}",
            &op("g-set", "a", now(), json!({"counter": n, "op": "add", "value": n})),
        )
        .is_ok()
    {
        n += 1;
    }
    assert!(n > 100);
    let mut follower = Client::v2(&server);
    let (_, shown) = follower.follow("\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}\u{1}", None);
    assert!(shown[0].to_string().len() <= 2_000);
}

#[tokio::test]
async fn who_may_read_and_who_may_write() {
    let server = Server::builder()
        .authorize_read(|identity, stream| stream.key != "private" || identity.user_id == "ann")
        .authorize_write(|identity, stream| {
            assert_ne!(stream.key, "panic");
            stream.key != "board" || identity.user_id == "ann"
        })
        .build();
    let (mut ann, mut bob) = (Client::user(&server, "ann"), Client::user(&server, "bob"));
    assert_eq!(ann.op("board", &increment("a", 1, 1)), Ok(1));
    assert_eq!(bob.op("board", &increment("b", 1, 1)), Err(FORBIDDEN));
    assert_eq!(bob.op("panic", &increment("b", 1, 1)), Err(FORBIDDEN));
    assert_eq!(bob.op("private", &increment("b", 1, 1)), Ok(1), "writing is not reading");
    assert_eq!(bob.follow("board", None).1[0]["state"]["value"], 1);
    ann.follow("private", None);
    bob.send(Opcode::Subscribe, 99, &json!({ "kind": "crdt", "key": "private" }));
    let refused = bob.received();
    assert_eq!((refused[0].0, refused[0].1, &refused[0].2["code"]), (Opcode::Error, 99, &json!(FORBIDDEN)));
    let mut old = Client::of(&server, datasole_server::Protocol::V1, "bob");
    let shown: Vec<_> = old.received().into_iter().map(|frame| frame.2["key"].clone()).collect();
    assert_eq!(shown, ["board"]);
}

/// A clock that is ahead wins nothing: what is written after it, by clocks that are right, holds.
#[tokio::test]
async fn stamps_from_the_future_are_set_back() {
    let server = server(Limits::default());
    let mut client = Client::v2(&server);
    client.follow("title", None);
    let set = |node: &str, time: u64, value: &str| {
        op("lww-register", node, time, json!({ "counter": 1, "op": "set", "value": value }))
    };
    for (node, ahead) in [("a", 3_600_000), ("b", 1 << 52)] {
        let before = now();
        client.op("title", &set(node, now() + ahead, "from the future")).unwrap();
        let time = client.received().last().unwrap().2["op"]["timestamp"].as_u64().unwrap();
        assert!((before..=now()).contains(&time));
    }
    client.op("title", &set("c", now() + 1, "now")).unwrap();
    assert_eq!(server.crdt().register("title").get::<String>().await.unwrap().unwrap(), "now");
}

#[tokio::test]
async fn hostile_operations_change_nothing() {
    let server = server(Limits::default());
    let mut client = Client::v2(&server);
    client.op("n", &increment("a", 1, 1)).unwrap();
    client.op("set", &op("or-set", "a", now(), json!({ "counter": 1, "op": "add", "value": 1 }))).unwrap();
    let with = |member: &str, value: Value| {
        let mut op = increment("b", 1, 1);
        op[member] = value;
        op
    };
    let max = (1u64 << 53) - 1;
    for (key, op, code) in [
        ("n", with("value", json!(0)), INVALID),
        ("n", with("value", json!(-1)), INVALID),
        ("n", with("value", json!(0.5)), INVALID),
        ("n", with("value", json!(max)), INVALID),
        ("n", with("value", json!(max + 1)), INVALID),
        ("n", with("value", json!("1")), INVALID),
        ("n", with("counter", json!(0)), INVALID),
        ("n", with("counter", json!(-1)), INVALID),
        ("n", with("counter", json!(max + 1)), INVALID),
        ("n", with("counter", json!(null)), INVALID),
        ("n", with("timestamp", json!(-1)), INVALID),
        ("n", with("timestamp", json!("now")), INVALID),
        ("n", with("logical", json!(max + 1)), INVALID),
        ("n", with("nodeId", json!("")), INVALID),
        ("n", with("nodeId", json!("v1:a")), INVALID),
        ("n", with("nodeId", json!("retired")), INVALID),
        ("n", with("nodeId", json!("x".repeat(129))), LIMIT),
        ("n", with("op", json!("set")), INVALID),
        ("n", with("type", json!("lww-map")), INVALID),
        ("n", with("type", json!("none")), INVALID),
        ("n", json!({}), INVALID),
        ("n", json!(null), INVALID),
        ("n", json!([1]), INVALID),
        ("set", op("or-set", "b", now(), json!({ "counter": 1, "op": "add" , "dots": [["a"]]})), INVALID),
        ("set", op("or-set", "b", now(), json!({ "counter": 1, "op": "remove", "value": "x".repeat(70_000)})), LIMIT),
    ] {
        assert_eq!(client.op(key, &op), Err(code), "{key}: {}", &op.to_string()[..op.to_string().len().min(200)]);
    }
    for (correlation, payload, code) in [
        (0, json!({ "key": "n", "op": increment("b", 1, 1) }), -32600),
        (5, json!({ "key": "", "op": increment("b", 1, 1) }), -32600),
        (6, json!({ "key": "x".repeat(257), "op": increment("b", 1, 1) }), -32600),
        (7, json!({ "op": increment("b", 1, 1) }), -32700),
        (8, json!({ "key": "n" }), -32700),
        (9, json!(7), -32700),
    ] {
        client.send(Opcode::CrdtOp, correlation, &payload);
        let frames = client.received();
        assert_eq!((frames.len(), frames[0].0, frames[0].1), (1, Opcode::Error, correlation), "{payload}");
        assert_eq!(frames[0].2["code"], code, "{payload}");
    }
    // The server's own replica is nobody else's to use up.
    server.crdt().set("set").add(&1).await.unwrap();
    let (_, shown) = client.follow("set", None);
    let seen = shown[0]["state"]["metadata"]["seen"].as_object().unwrap();
    let own = seen.keys().find(|node| node.starts_with("server-")).unwrap();
    let last = op("or-set", own, now(), json!({ "counter": max, "done": max - 1, "op": "none" }));
    assert_eq!(client.op("set", &last), Err(INVALID));
    // Claims to have seen, and removes, what is yet to come: it does not.
    let dots: Vec<_> = (1..=200).map(|n| json!(["victim", n])).collect();
    client
        .op("set", &op("or-set", "b", now(), json!({ "counter": 1, "op": "remove", "value": 2, "dots": dots })))
        .unwrap();
    client.op("set", &op("or-set", "victim", now(), json!({ "counter": 1, "op": "add", "value": 2 }))).unwrap();
    assert_eq!(server.crdt().set("set").values::<u64>().await.unwrap(), [1, 2]);
    assert_eq!(server.crdt().counter("n").value().await.unwrap(), 1);
    assert_eq!(server.crdt().keys().await.unwrap(), ["n", "set"]);
}

/// How many CRDTs stay in memory that nobody follows is bounded; the backend has them all.
#[tokio::test]
async fn idle_crdts_leave_memory_and_come_back() {
    let server = server(Limits::default().with(|limits| limits.max_idle_crdts = 2));
    let mut client = Client::v2(&server);
    for n in 0..10u64 {
        client.op(&format!("n{n}"), &increment("a", 1, n + 1)).unwrap();
    }
    for n in 0..10u64 {
        let key = format!("n{n}");
        assert_eq!(client.op(&key, &increment("a", 1, n + 1)), Ok(0), "{key} is remembered");
        assert_eq!(server.crdt().counter(&key).value().await.unwrap(), i64::try_from(n).unwrap() + 1);
    }
}
