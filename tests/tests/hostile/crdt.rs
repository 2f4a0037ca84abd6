//! Operations on CRDTs that no client should send, over real sockets, from clients of both versions.

use datasole_core::frame::Opcode;
use datasole_server::{CrdtLimits, Limits};
use datasole_tests::{
    peer::{Peer, Received},
    random::Random,
};
use serde_json::{Value, json};

use super::serve;

/// Members and values that mean something somewhere.
const NAMES: [&str; 12] =
    ["type", "nodeId", "counter", "timestamp", "logical", "done", "op", "key", "value", "dots", "epoch", "__proto__"];
const TYPES: [&str; 7] = ["g-counter", "pn-counter", "lww-register", "lww-map", "g-set", "or-set", "none"];
const OPS: [&str; 6] = ["increment", "decrement", "set", "add", "remove", "none"];

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len() as u64) as usize]
}

fn any(random: &mut Random) -> Value {
    match random.below(12) {
        0 => json!(null),
        1 => json!(-1),
        2 => json!(0),
        3 => json!(1e300),
        4 => json!((1u64 << 53) - 1),
        5 => json!(u64::MAX),
        6 => json!(pick(random, &NAMES)),
        7 => json!([["a", 1], ["b", 2]]),
        8 => json!({ "__proto__": [] }),
        9 => json!("x".repeat(300)),
        10 => (0..100).fold(json!(1), |value, _| json!([value])),
        _ => json!(random.below(5)),
    }
}

/// An operation that may be a good one, or nearly.
fn op(random: &mut Random) -> Value {
    let node = random.below(50).to_string();
    let mut op = json!({
        "type": pick(random, &TYPES), "op": pick(random, &OPS), "nodeId": node, "counter": random.below(9),
        "timestamp": random.below(1 << 41), "key": "k", "value": random.below(4),
    });
    for _ in 0..random.below(3) {
        op[pick(random, &NAMES)] = any(random);
    }
    op
}

/// Whatever is sent: every frame with an id is answered, nothing grows beyond its limits, and everybody else is served.
#[tokio::test]
async fn operations_at_random() {
    let crdt = CrdtLimits { max_replicas: 20, max_entries: 8, max_bytes: 4_000, max_dots: 4, ..CrdtLimits::default() };
    let limits = Limits::default().with(|limits| {
        limits.max_crdt_keys = 12;
        limits.max_crdt_keys_per_connection = 10;
        limits.crdt = crdt;
    });
    for seed in 0..4 {
        let running = serve(|builder| builder.limits(limits.clone())).await;
        let mut random = Random::new(seed);
        let (mut v1, mut v2) = (Peer::v1(running.address).await, Peer::v2(running.address).await);
        for id in 1..=1_500 {
            let key = format!("key {}", random.below(20));
            let payload = json!({ "key": key, "op": op(&mut random) }).to_string();
            v1.send(Opcode::CrdtOp, 0, &payload).await;
            v2.send(Opcode::CrdtOp, id, &payload).await;
            let (opcode, correlation) = match v2.receive().await {
                Received::Frame(opcode, correlation, _) => (opcode, correlation),
                other => panic!("seed {seed}: {other:?}"),
            };
            assert!(matches!(opcode, Opcode::Ack | Opcode::Error) && correlation == id, "seed {seed}: {payload}");
        }
        // Version 1 is told states only, and is still there; what it said has been served before.
        v1.begin(9, "add", "[2, 3]").await;
        loop {
            match v1.receive().await {
                Received::Frame(Opcode::CrdtState, 0, _) => {}
                Received::Frame(Opcode::RpcResponse, 9, _) => break,
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        let keys = running.server.crdt().keys().await.unwrap();
        assert!(keys.len() <= 12, "seed {seed}: {} keys", keys.len());
        for (id, key) in (5_000..).zip(&keys) {
            v2.send(Opcode::Subscribe, id, json!({ "kind": "crdt", "key": key }).to_string()).await;
            v2.expect(Opcode::Subscribed, id).await;
            let state = v2.expect(Opcode::CrdtState, 0).await["state"].to_string();
            assert!(state.len() <= 4_000, "seed {seed}: {} bytes", state.len());
        }
        assert_eq!(v2.call(10_000, "add", "[1, 2]").await["result"], 3);
    }
}
