//! Whose a replica's name is: of the user or the secret that first wrote under it, on every node and after a restart.

use datasole_server::{CrdtKind, CrdtLimits, Limits, Server, backend::Memory};
use serde_json::{Value, json};

use crate::{Client, increment, now, op, server};

const FORBIDDEN: i64 = -32002;
const LIMIT: i64 = -32004;

fn with(mut op: Value, member: &str, value: impl Into<Value>) -> Value {
    op[member] = value.into();
    op
}

/// The n-th increment, with a secret.
fn secret(node: &str, n: u64, secret: &str) -> Value {
    with(increment(node, n, 1), "secret", secret)
}

#[tokio::test]
async fn nobody_writes_in_the_name_of_another_user() {
    let server = server(Limits::default());
    let (mut victim, mut mallory) = (Client::user(&server, "victim"), Client::user(&server, "mallory"));
    assert_eq!(victim.op("n", &increment("v", 1, 100)), Ok(1));
    for stolen in [
        increment("v", 2, 1),
        increment("v", 1, 1),
        with(increment("v", (1 << 53) - 1, 1), "done", (1u64 << 53) - 2),
        op("pn-counter", "v", now(), json!({"counter": 2, "op": "none"})),
        secret("v", 2, "guess"),
    ] {
        assert_eq!(mallory.op("n", &stolen), Err(FORBIDDEN), "{stolen}");
    }
    for n in 2..=5 {
        assert_eq!(victim.op("n", &increment("v", n, 100)), Ok(n));
    }
    assert_eq!(server.crdt().counter("n").value().await.unwrap(), 500);
    let mut elsewhere = Client::user(&server, "victim");
    assert_eq!(elsewhere.op("n", &increment("v", 6, 1)), Ok(6), "the same user");
    assert_eq!(elsewhere.op("n", &increment("v", 6, 1)), Ok(0), "a repetition");
    assert_eq!(mallory.op("other", &increment("v", 1, 1)), Ok(1), "another key is another replica");
    assert_eq!(victim.op("other", &increment("v", 1, 1)), Err(FORBIDDEN), "and its owner is told");
}

#[tokio::test]
async fn without_a_user_the_secret_counts() {
    let server = server(Limits::default());
    let mut first = Client::anonymous(&server);
    let (_, shown) = first.follow("n", None);
    assert_eq!(shown.len(), 1);
    assert_eq!(first.op("n", &secret("a", 1, "one")), Ok(1));
    let published = first.received();
    assert!(
        !published.is_empty() && published.iter().all(|frame| !frame.2.to_string().contains("one")),
        "{published:?}"
    );
    drop(first);
    let mut mallory = Client::anonymous(&server);
    for stolen in [increment("a", 2, 1), secret("a", 2, "two"), secret("a", 2, "")] {
        assert!([Err(FORBIDDEN), Err(-32602)].contains(&mallory.op("n", &stolen)), "{stolen}");
    }
    assert_eq!(Client::anonymous(&server).op("n", &secret("a", 2, "one")), Ok(2), "after a reconnect");
    assert_eq!(Client::user(&server, "ann").op("n", &secret("a", 3, "one")), Ok(3), "after signing in");
    assert_eq!(mallory.op("n", &secret("b", 1, &"x".repeat(64))), Ok(4));
    assert_eq!(mallory.op("n", &secret("c", 1, &"x".repeat(65))), Err(-32602));
}

/// A client that knows nothing of secrets: the name is its connection's while that lasts.
#[tokio::test]
async fn a_client_without_a_secret_goes_on_after_a_reconnect() {
    let server =
        server(Limits::default().with(|limits| limits.crdt = CrdtLimits { max_ahead: 5, ..CrdtLimits::default() }));
    let (mut old, mut mallory) = (Client::anonymous(&server), Client::anonymous(&server));
    assert_eq!(old.op("n", &increment("a", 1, 1)), Ok(1));
    assert_eq!(mallory.op("n", &increment("a", 2, 1)), Err(FORBIDDEN));
    assert_eq!(mallory.op("n", &secret("a", 2, "x")), Err(FORBIDDEN));
    drop(old);
    let far = with(increment("a", (1 << 53) - 1, 1), "done", (1u64 << 53) - 2);
    assert_eq!(mallory.op("n", &far), Err(LIMIT), "what was seen bounds what can be claimed");
    assert_eq!(mallory.op("n", &with(increment("a", 7, 1), "done", 6)), Err(LIMIT), "above");
    let mut old = Client::anonymous(&server);
    assert_eq!(old.op("n", &with(increment("a", 6, 1), "done", 5)), Ok(2), "at the limit");
}

#[tokio::test]
async fn owners_are_kept_with_the_key_on_every_node_and_through_compaction() {
    let memory = Memory::default();
    let node = || {
        let replay = datasole_server::Replay::default().entries(4);
        let limits = Limits::default().with(|limits| limits.replay = replay);
        Server::builder().limits(limits).crdt("n", CrdtKind::PnCounter).backend(memory.clone()).build()
    };
    let (one, two) = (node(), node());
    let mut victim = Client::user(&one, "victim");
    for n in 1..=3 {
        assert_eq!(victim.op("n", &increment("v", n, 1)), Ok(n));
    }
    assert_eq!(Client::user(&two, "mallory").op("n", &increment("v", 4, 1)), Err(FORBIDDEN), "another node");
    for n in 4..=20 {
        assert!(victim.op("n", &increment("v", n, 1)).is_ok());
    }
    drop((victim, one));
    let again = node();
    assert_eq!(Client::user(&again, "mallory").op("n", &increment("v", 21, 1)), Err(FORBIDDEN), "after a restart");
    assert!(Client::user(&again, "victim").op("n", &increment("v", 21, 1)).is_ok());
    assert_eq!(again.crdt().counter("n").value().await.unwrap(), 21);
    again.crdt().remove("n").await.unwrap();
    assert!(Client::user(&again, "mallory").op("n", &increment("v", 1, 1)).is_ok(), "a key that was removed is new");
}

#[tokio::test]
async fn new_replicas_below_at_and_above_the_limit() {
    let server = server(Limits::default().with(|limits| limits.max_crdt_replicas_per_user = 3));
    let (mut ann, mut too) = (Client::user(&server, "ann"), Client::user(&server, "ann"));
    for n in 0..3 {
        assert!(ann.op("n", &increment(&format!("r{n}"), 1, 1)).is_ok(), "{n}");
    }
    too.send(datasole_core::frame::Opcode::CrdtOp, 1, &json!({"key": "n", "op": increment("r3", 1, 1)}));
    let refused = too.received().remove(0);
    assert_eq!(refused.2["code"], LIMIT);
    assert!((1..=2_001).contains(&refused.2["retryAfter"].as_u64().unwrap()), "{refused:?}");
    assert!(ann.op("n", &increment("r0", 2, 1)).is_ok(), "those that are known go on");
    assert!(ann.op("m", &increment("r3", 1, 1)).is_ok(), "other keys have room");
    assert!(Client::user(&server, "bob").op("n", &increment("b", 1, 1)).is_ok(), "and so have others");
}
