//! CRDTs as streams: positions, acknowledgements, resuming, also across a restart of the server.

use datasole_core::{
    StreamId,
    crdt::{Crdt, CrdtLimits, Op},
    frame::Opcode,
};
use datasole_server::{
    CrdtKind, Limits, Replay, Server,
    backend::{Memory, log::Loaded},
};
use serde_json::{Value, json};

use crate::{Client, increment, now, op, server};

#[tokio::test]
async fn an_operation_is_published_then_acknowledged_and_a_replay_changes_nothing() {
    let server = server(Limits::default());
    let (mut author, mut other) = (Client::v2(&server), Client::v2(&server));
    let (subscribed, _) = author.follow("n", None);
    other.follow("n", None);
    let first = increment("a", 1, 2);
    author.send(Opcode::CrdtOp, 77, &json!({ "key": "n", "op": first }));
    let frames = author.received();
    assert_eq!((frames[0].0, frames[0].1, &frames[0].2["op"]["value"]), (Opcode::CrdtOp, 0, &json!(2)));
    assert_eq!(frames[0].2["epoch"], subscribed["epoch"]);
    assert_eq!(frames[1], (Opcode::Ack, 77, json!(1)));
    assert_eq!(author.op("n", &first), Ok(0), "a replay");
    assert_eq!(author.op("n", &increment("a", 3, 4)), Ok(2), "ahead of the second");
    assert_eq!(author.op("n", &increment("a", 2, 1)), Ok(3));
    assert_eq!(author.op("n", &increment("a", 3, 4)), Ok(0));
    let seqs: Vec<Value> = other.received().into_iter().map(|frame| frame.2["seq"].clone()).collect();
    assert_eq!(seqs, [json!(1), json!(2), json!(3)], "each once");
    assert_eq!(server.crdt().counter("n").value().await.unwrap(), 7);
}

#[tokio::test]
async fn a_client_that_comes_back_gets_what_it_missed() {
    let server = server(Limits::default().with(|limits| limits.replay = Replay::default().entries(3)));
    let mut author = Client::v2(&server);
    let (subscribed, _) = author.follow("n", None);
    for n in 1..=5 {
        author.op("n", &increment("a", n, 1)).unwrap();
    }
    let since = |seq: u64| json!({ "epoch": subscribed["epoch"], "seq": seq });
    for (seq, missed) in [(5, Some(0)), (4, Some(1)), (2, Some(3)), (1, None), (6, None)] {
        let (subscribed, frames) = Client::v2(&server).follow("n", Some(&since(seq)));
        assert_eq!(subscribed["recovered"], missed.is_some(), "since {seq}");
        match missed {
            Some(missed) => {
                assert_eq!(frames.len(), missed);
                assert!(frames.iter().all(|frame| frame["op"]["type"] == "pn-counter"));
            }
            None => assert_eq!((frames.len(), &frames[0]["state"]["value"]), (1, &json!(5))),
        }
    }
}

/// A server that has stopped, and another with the same backend: positions and values go on, for both versions.
#[tokio::test]
async fn a_restart_is_not_noticed() {
    let backend = Memory::default();
    let start = || Server::builder().backend(backend.clone()).crdt("votes", CrdtKind::PnCounter).build();
    let first = start();
    let mut client = Client::v2(&first);
    let (subscribed, _) = client.follow("votes", None);
    client.op("votes", &increment("a", 1, 1)).unwrap();
    client.op("votes", &increment("a", 2, 1)).unwrap();
    first.state().set("dashboard", &json!({ "n": 0 })).await.unwrap();
    let at = first.state().update("dashboard", |draft| draft.set("/n", 1)).await.unwrap();
    drop((client, first));

    let second = start();
    let (mut old, mut new) = (Client::v1(&second), Client::v2(&second));
    let shown: Vec<_> = old.received().into_iter().map(|frame| (frame.0, frame.2["key"].clone())).collect();
    assert_eq!(shown, [(Opcode::StateSnapshot, json!("dashboard")), (Opcode::CrdtState, json!("votes"))]);
    let since = json!({ "epoch": subscribed["epoch"], "seq": 1 });
    let (subscribed, missed) = new.follow("votes", Some(&since));
    assert_eq!(subscribed["recovered"], true);
    assert_eq!((missed.len(), &missed[0]["op"]["counter"], &missed[0]["seq"]), (1, &json!(2), &json!(2)));
    assert_eq!(new.op("votes", &increment("a", 2, 1)), Ok(0), "what was acknowledged is remembered");
    assert_eq!(new.op("votes", &increment("a", 3, 1)), Ok(3), "and counting goes on");
    assert_eq!(old.states("votes").1, 3);

    // A state likewise.
    let since = json!({ "kind": "state", "key": "dashboard", "since": { "epoch": at.epoch, "seq": at.seq - 1 } });
    new.received();
    new.send(Opcode::Subscribe, 99, &since);
    let frames = new.received();
    assert_eq!((&frames[0].2["recovered"], frames.len()), (&json!(true), 2));
    assert_eq!((frames[1].0, &frames[1].2["patches"][0]["value"]), (Opcode::StatePatch, &json!(1)));
}

async fn stored(memory: &Memory, key: &str) -> Loaded {
    memory.node().log.load(&StreamId::crdt(key), None).await.unwrap()
}

/// What the backend holds stays bounded, and still makes the same value and the promised past.
#[tokio::test]
async fn the_backend_is_not_left_with_more_than_the_replay() {
    let backend = Memory::default();
    let replay = Replay::default().entries(10);
    let start = || {
        Server::builder()
            .backend(backend.clone())
            .limits(Limits::default().with(|limits| limits.replay = replay))
            .build()
    };
    let first = start();
    let mut client = Client::v2(&first);
    let (subscribed, _) = client.follow("n", None);
    for n in 1..=100 {
        client.op("n", &increment("a", n, n)).unwrap();
        let Loaded::Whole(stored) = stored(&backend, "n").await else { panic!("it is not stored") };
        assert!(stored.entries.len() <= 20, "{} entries", stored.entries.len());
    }
    drop((client, first));
    let second = start();
    let (again, missed) = Client::v2(&second).follow("n", Some(&json!({ "epoch": subscribed["epoch"], "seq": 90 })));
    assert_eq!((&again["recovered"], missed.len()), (&json!(true), 10));
    assert_eq!(second.crdt().counter("n").value().await.unwrap(), 5_050);
}

/// Whoever applies what is published has what the server has, to the byte, through collections, removals and snapshots.
#[tokio::test]
async fn a_follower_has_what_the_server_has() {
    let retention = std::time::Duration::from_secs(1_200);
    let replay = Replay::default().entries(4);
    let limits = Limits::default().with(|limits| {
        limits.replay = replay;
        limits.crdt_retention = retention;
        limits.max_crdt_replicas_per_user = 40;
    });
    let server = server(limits);
    let (mut author, mut follower) = (Client::v2(&server), Client::v2(&server));
    follower.follow("m", None);
    let limits = CrdtLimits::default();
    let mut mine: Option<Crdt> = None;
    let mut collections = 0;
    let hour = 3_600_000;
    for n in 1..=40u64 {
        // Every replica but the last few has been silent for long.
        let time = if n > 35 { now() } else { now() - hour + n };
        let rest = match n % 4 {
            3 => json!({ "counter": 1, "op": "remove", "key": format!("k{}", n - 1) }),
            _ => json!({ "counter": 1, "op": "set", "key": format!("k{n}"), "value": n }),
        };
        let outcome = author.op("m", &op("lww-map", &format!("node {n}"), time, rest));
        assert_eq!(outcome.is_err(), collections > 0 && n <= 35, "older than what is remembered");
        for (opcode, _, body) in follower.received() {
            match opcode {
                Opcode::CrdtOp => {
                    let op = Op::parse(&body["op"].to_string(), &limits).unwrap();
                    mine.get_or_insert_with(|| Crdt::new(op.kind())).apply(&op, &limits).unwrap();
                }
                Opcode::CrdtState => {
                    collections += 1;
                    mine = Crdt::from_json(&body["state"].to_string(), &limits).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
        let (_, shown) = Client::v2(&server).follow("m", None);
        assert_eq!(mine.as_ref().unwrap().to_json().get(), shown[0]["state"].to_string(), "after {n}");
    }
    assert!(collections > 0, "something was old enough to be forgotten");
    assert!(mine.unwrap().replicas() < 10);
}

#[tokio::test]
async fn a_removed_key_is_null_and_begins_again() {
    let backend = Memory::default();
    let server = Server::builder().backend(backend.clone()).build();
    let mut client = Client::v2(&server);
    client.follow("n", None);
    client.op("n", &increment("a", 1, 5)).unwrap();
    server.crdt().remove("n").await.unwrap();
    server.crdt().remove("n").await.unwrap();
    let frames = client.received();
    assert_eq!((frames.len(), frames[1].0), (2, Opcode::CrdtState));
    assert_eq!((&frames[1].2["state"], &frames[1].2["seq"]), (&Value::Null, &json!(2)));
    assert_eq!(server.crdt().keys().await.unwrap(), [""; 0]);
    let mut next = increment("a", 2, 1);
    next["done"] = json!(1);
    assert_eq!(client.op("n", &next), Ok(3));
    assert_eq!(server.crdt().counter("n").value().await.unwrap(), 1);
    server.crdt().remove("n").await.unwrap();
    drop(client);
    assert_eq!(stored(&backend, "n").await, Loaded::Absent, "nobody follows it: it is forgotten");
}

/// To a client that does not read, one state takes the place of many operations.
#[tokio::test]
async fn a_client_that_falls_behind_gets_a_state() {
    let server = server(Limits::default().with(|limits| limits.max_queue = 4_000));
    let (mut slow, mut author) = (Client::v2(&server), Client::v2(&server));
    slow.follow("n", None);
    for n in 1..=200 {
        author.op("n", &increment("a", n, 1)).unwrap();
    }
    let frames = slow.received();
    assert!(slow.peer.closing().is_none());
    let last = frames.last().unwrap();
    assert_eq!((last.0, &last.2["seq"], &last.2["state"]["value"]), (Opcode::CrdtState, &json!(200), &json!(200)));
    author.op("n", &increment("a", 201, 1)).unwrap();
    let frames = slow.received();
    assert_eq!((frames.len(), frames[0].0, &frames[0].2["seq"]), (1, Opcode::CrdtOp, &json!(201)));
}
