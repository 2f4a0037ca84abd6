//! Version 1 takes part with its own messages, and none of its traps: what the issue asks for, frame by frame.

use datasole_core::frame::Opcode;
use datasole_server::{CrdtKind, Limits, Server};
use serde_json::{Value, json};

use crate::{Client, now, op, server};

/// A version 1 client says `op` of `key`.
fn say(client: &mut Client, key: &str, op: &Value) {
    client.send(Opcode::CrdtOp, 0, &json!({ "key": key, "op": op }));
}

#[tokio::test]
async fn two_counts_each_by_two_clients_end_at_five() {
    let server = server(Limits::default());
    let (mut a, mut b) = (Client::v1(&server), Client::v1(&server));
    let time = now();
    let count =
        |node: &str, verb: &str, value: i64| op("pn-counter", node, time, json!({ "op": verb, "value": value }));
    // Equal to the byte, within one millisecond: two increments.
    say(&mut a, "votes", &count("a", "increment", 1));
    say(&mut a, "votes", &count("a", "increment", 1));
    say(&mut b, "votes", &count("b", "increment", 5));
    say(&mut b, "votes", &count("b", "decrement", 2));
    for client in [&mut a, &mut b] {
        let states = client.states("votes");
        assert_eq!(states.1, 5);
        assert!(states.0 <= 4, "its own are not sent back as more than a state");
    }
    assert_eq!(server.crdt().counter("votes").value().await.unwrap(), 5);
    let mut late = Client::v1(&server);
    let frames = late.received();
    assert_eq!(frames.len(), 1, "the state is there when the connection opens");
    let vector = json!({ "increments": { "a": 2, "b": 5 }, "decrements": { "b": 2 } });
    assert_eq!(frames[0].2["state"]["metadata"]["vector"], vector);
    // A negative increment is a decrement.
    say(&mut a, "votes", &count("a", "increment", -3));
    assert_eq!(late.states("votes").1, 2);
}

#[tokio::test]
async fn map_fields_survive_each_other() {
    let server = server(Limits::default());
    let (mut a, mut b) = (Client::v1(&server), Client::v1(&server));
    let set = |node: &str, key: &str, value: i64| {
        op("lww-map", node, now(), json!({ "op": "set", "key": key, "value": value }))
    };
    say(&mut a, "profile", &set("a", "x", 1));
    say(&mut b, "profile", &set("b", "y", 2));
    say(&mut a, "profile", &set("a", "profile", 3));
    for client in [&mut a, &mut b] {
        assert_eq!(client.states("profile").1, json!({ "x": 1, "y": 2, "profile": 3 }));
    }
}

#[tokio::test]
async fn a_removal_holds_against_an_older_set() {
    let server = server(Limits::default());
    let (mut a, mut b) = (Client::v1(&server), Client::v1(&server));
    let time = now() - 1_000;
    let set =
        |node: &str, after: u64| op("lww-map", node, time + after, json!({ "op": "set", "key": "x", "value": 1 }));
    say(&mut a, "m", &set("a", 10));
    say(&mut a, "m", &op("lww-map", "a", time + 20, json!({ "op": "remove", "key": "x" })));
    say(&mut b, "m", &set("b", 15));
    assert_eq!(a.states("m").1, json!({}));
    let mut late = Client::v1(&server);
    assert_eq!(late.states("m").1, json!({}));
    say(&mut b, "m", &set("b", 21));
    assert_eq!(late.states("m").1, json!({ "x": 1 }));
}

#[tokio::test]
async fn equal_timestamps_end_the_same_in_both_orders() {
    let time = now();
    let check = async |kind: &str, rest: fn(&str) -> Value| {
        let mut ends = Vec::new();
        for order in [["a", "b"], ["b", "a"]] {
            let server = server(Limits::default());
            let mut client = Client::v1(&server);
            for node in order {
                say(&mut client, "k", &op(kind, node, time, rest(node)));
            }
            ends.push(client.states("k").1);
        }
        assert_eq!(ends[0], ends[1], "{kind}");
        assert_ne!(ends[0], Value::Null);
    };
    check("lww-register", |node| json!({ "op": "set", "value": node })).await;
    check("lww-map", |node| json!({ "op": "set", "key": "x", "value": node })).await;
    check("lww-map", |node| match node {
        "a" => json!({ "op": "set", "key": "x", "value": 1 }),
        _ => json!({ "op": "remove", "key": "x" }),
    })
    .await;
}

#[tokio::test]
async fn of_what_one_replica_says_within_a_millisecond_the_last_holds() {
    let server = server(Limits::default());
    let mut client = Client::v1(&server);
    let time = now();
    for value in ["z", "m", "a"] {
        say(&mut client, "title", &op("lww-register", "a", time, json!({ "op": "set", "value": value })));
    }
    assert_eq!(client.states("title").1, "a");
}

#[tokio::test]
async fn a_set_without_dots_removes_what_the_server_has_seen() {
    let server = server(Limits::default());
    let (mut old, mut new) = (Client::v1(&server), Client::v2(&server));
    new.op("todo", &op("or-set", "new", now(), json!({ "counter": 1, "op": "add", "value": "milk" }))).unwrap();
    say(&mut old, "todo", &op("or-set", "old", now(), json!({ "op": "remove", "value": "milk" })));
    assert_eq!(old.states("todo").1, json!([]));
    say(&mut old, "todo", &op("or-set", "old", now(), json!({ "op": "add", "value": "tea" })));
    assert_eq!(server.crdt().set("todo").values::<String>().await.unwrap(), ["tea"]);
}

/// Clients of both versions see each other's edits, each in the form of its own.
#[tokio::test]
async fn both_versions_at_once() {
    let server = server(Limits::default());
    let (mut old, mut new) = (Client::v1(&server), Client::v2(&server));
    let (subscribed, first) = new.follow("n", None);
    assert_eq!((&subscribed["recovered"], &subscribed["seq"]), (&json!(false), &json!(0)));
    assert_eq!(first[0]["state"], Value::Null);
    say(&mut old, "n", &op("pn-counter", "old", now(), json!({ "op": "increment" })));
    new.op("n", &crate::increment("new", 1, 10)).unwrap();
    let entries = new.received();
    let seen: Vec<_> = entries.iter().map(|(opcode, _, body)| (*opcode, &body["seq"], &body["op"]["nodeId"])).collect();
    assert_eq!(
        seen,
        [(Opcode::CrdtOp, &json!(1), &json!("v1:old")), (Opcode::CrdtOp, &json!(2), &json!("new"))],
        "version 2 sees operations, its own included"
    );
    assert_eq!(old.states("n"), (1, json!(11)), "version 1 sees one state, once it reads");
}

/// Everything that is refused is refused in silence, and changes nothing.
#[tokio::test]
async fn what_is_refused_is_dropped_in_silence() {
    let server = Server::builder()
        .limits(Limits::default().with(|limits| limits.max_crdt_keys = 2))
        .crdt("map", CrdtKind::LwwMap)
        .authorize_write(|_, stream| stream.key != "secret")
        .build();
    let mut client = Client::v1(&server);
    let good = op("pn-counter", "a", now(), json!({ "op": "increment", "value": 1 }));
    for (key, op) in [
        ("map", good.clone()),
        ("secret", good.clone()),
        ("", good.clone()),
        ("n", op("pn-counter", "a", now(), json!({ "op": "increment", "value": "1" }))),
        ("n", op("pn-counter", "a", now(), json!({ "op": "increment", "value": 0.5 }))),
        ("n", op("pn-counter", "a", now(), json!({ "op": "increment", "value": 1e300 }))),
        ("n", op("pn-counter", "", now(), json!({ "op": "increment" }))),
        ("n", op("pn-counter", "a", now(), json!({ "op": "multiply" }))),
        ("n", op("counter", "a", now(), json!({ "op": "increment" }))),
        ("n", json!(null)),
        ("n", json!([])),
    ] {
        say(&mut client, key, &op);
    }
    client.send(Opcode::CrdtOp, 7, &json!({}));
    client.send(Opcode::CrdtOp, 7, &json!(7));
    assert_eq!(client.received(), []);
    assert_eq!(server.crdt().keys().await.unwrap(), [""; 0]);
    say(&mut client, "n", &good);
    assert_eq!(client.states("n").1, 1);
    // It has no word for a key that is gone, and keeps what it had.
    server.crdt().remove("n").await.unwrap();
    assert_eq!(client.received(), []);
    say(&mut client, "n", &good);
    assert_eq!(client.states("n").1, 1);
}

/// A large CRDT that changes all the time is written out once in a moment for all clients of version 1: each ends with the
/// newest state, and sees no more of them than there are moments.
#[tokio::test(start_paused = true)]
async fn a_large_state_is_shown_once_in_a_moment() {
    let server = server(Limits::default());
    let map = server.crdt().map("m");
    for (key, length, at_once) in [("small", 10_000, true), ("large", 20_000, false)] {
        map.set(key, &"x".repeat(length)).await.unwrap();
        let (mut first, mut second) = (Client::v1(&server), Client::v1(&server));
        let n = |client: &mut Client| {
            let states = client.states("m");
            (states.0, states.1["n"].clone())
        };
        n(&mut first);
        n(&mut second);
        map.set("n", &1).await.unwrap();
        map.set("n", &2).await.unwrap();
        let early = n(&mut first);
        assert_eq!(early, if at_once { (1, json!(2)) } else { (0, Value::Null) }, "{key}");
        let mut late = Client::v1(&server);
        // It may be shown what the others have seen, and gets the rest with them.
        n(&mut late);
        tokio::time::sleep(std::time::Duration::from_millis(49)).await;
        assert_eq!(n(&mut second), if at_once { (1, json!(2)) } else { (0, Value::Null) }, "{key}");
        map.set("n", &3).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        for client in [&mut first, &mut second, &mut late] {
            assert_eq!(n(client), (1, json!(3)), "{key}");
        }
        map.remove("n").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
