//! Frames that are short on the wire and long to serve: an honest client notices none of them.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use datasole_core::{
    frame::{Codec, Opcode},
    wire::push_varuint,
};
use datasole_server::{Context, Identity, Limits, Protocol, Server};
use datasole_tests::{
    peer::{Peer, Received, frame, masked},
    running::Running,
};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{assert_serves, probe::assert_unnoticed, serve};

/// Requests of an attacker that wait for an answer.
const IN_FLIGHT: usize = 32;

const PONG: u8 = Opcode::Pong as u8;

/// A compressed frame as it goes over the wire.
fn compressed(opcode: Opcode, correlation: u32, payload: &str) -> Vec<u8> {
    let frame = Codec::default().encode(opcode, correlation, payload.as_bytes(), 256);
    assert!(frame.len() < 5_000, "{} bytes", frame.len());
    masked(0x82, &frame)
}

fn call(method: &str, params: &str) -> Vec<u8> {
    compressed(Opcode::RpcRequest, 1, &format!(r#"{{"method":"{method}","params":{params}}}"#))
}

/// Two attackers send this message without end, and read what is answered.
async fn assert_harmless(running: &Running, message: Vec<u8>) {
    let (address, message) = (running.address, Arc::new(message));
    assert_unnoticed(running, move || {
        let message = message.clone();
        async move {
            let mut peer = Peer::v2(address).await;
            peer.write(&message.repeat(IN_FLIGHT)).await;
            loop {
                peer.binary().await;
                peer.write(&message).await;
            }
        }
    })
    .await;
    assert_serves(running).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_methods_of_a_megabyte() {
    let running = serve(|builder| builder).await;
    assert_harmless(&running, call(&"m".repeat(1_000_000), "null")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_million_numbers_that_no_method_takes() {
    let running = serve(|builder| builder).await;
    assert_harmless(&running, call("add", &format!("[{}0]", "0,".repeat(500_000)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_million_numbers_that_come_back() {
    let running = serve(|builder| builder).await;
    assert_harmless(&running, call("echo", &format!("[{}0]", "0,".repeat(500_000)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_that_comes_back() {
    let running = serve(|builder| builder).await;
    assert_harmless(&running, call("echo", &format!("{:?}", "x".repeat(1_000_000)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_of_junk() {
    let running = serve(|builder| builder).await;
    assert_harmless(&running, compressed(Opcode::RpcRequest, 1, &"x".repeat(1_000_000))).await;
}

/// Waiting frames hold their values: more than three megabytes for a frame of a kilobyte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_wait() {
    let running = serve(|builder| {
        builder.rpc("wait", |_: Context, value: Value| async move {
            sleep(Duration::from_millis(100)).await;
            Ok(value.as_array().map_or(0, Vec::len))
        })
    })
    .await;
    let (address, numbers) = (running.address, format!("[{}0]", "0,".repeat(100_000)));
    let payload = Arc::new(format!(r#"{{"method":"wait","params":{numbers}}}"#));
    assert_unnoticed(&running, move || {
        let payload = payload.clone();
        async move {
            let mut peer = Peer::v2(address).await;
            let mut codec = Codec::default();
            for id in 1u32.. {
                let frame = codec.encode(Opcode::RpcRequest, id, payload.as_bytes(), 256);
                peer.message(0x82, &frame).await;
                if id > IN_FLIGHT as u32 {
                    peer.binary().await;
                }
            }
        }
    })
    .await;
    assert_serves(&running).await;
}

/// A client changes a stream of nearly a megabyte and has the whole shown to it, again and again.
async fn assert_shown_harmlessly(running: &Running, kind: &'static str, change: fn(u32, u32) -> (Opcode, Value)) {
    let (address, attackers) = (running.address, Arc::new(AtomicU32::new(0)));
    let shown = Arc::new(AtomicU32::new(0));
    assert_unnoticed(running, || {
        let (attacker, shown) = (attackers.fetch_add(1, Relaxed), shown.clone());
        async move {
            let mut peer = Peer::v2(address).await;
            for n in 1.. {
                let (opcode, payload) = change(attacker, n);
                peer.send(opcode, 1, payload.to_string()).await;
                peer.send(Opcode::Subscribe, 2, format!(r#"{{"kind":{kind:?},"key":"big"}}"#)).await;
                peer.send(Opcode::Ping, 3, "null").await;
                while !matches!(peer.binary().await[..], [PONG, 0, 0, 0, 3, ..]) {}
                peer.send(Opcode::Unsubscribe, 2, "null").await;
                shown.fetch_add(1, Relaxed);
            }
        }
    })
    .await;
    assert!(shown.load(Relaxed) > 50, "the attackers were served, too: {shown:?}");
    let mut peer = Peer::v2(address).await;
    assert_eq!(peer.call(1, "add", "[1, 2]").await["result"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crdt_that_changes_and_is_shown() {
    fn set(node: &str, n: u32, key: u32, value: &str) -> (Opcode, Value) {
        let op = json!({"type": "lww-map", "nodeId": node, "counter": n, "timestamp": n, "op": "set", "key": key.to_string(),
            "value": value});
        (Opcode::CrdtOp, json!({"key": "big", "op": op}))
    }
    let running = serve(|builder| builder).await;
    let (mut owner, value) = (Peer::v2(running.address).await, "v".repeat(50_000));
    for n in 1..=18 {
        owner.send(Opcode::CrdtOp, n, set("owner", n, n, &value).1.to_string()).await;
        assert!(matches!(owner.receive().await, Received::Frame(Opcode::Ack, ..)));
    }
    assert_shown_harmlessly(&running, "crdt", |attacker, n| set(&format!("a{attacker}"), n, 0, "x")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_changes_and_is_shown() {
    let running = serve(|builder| builder).await;
    let mut members = Vec::new();
    for _ in 0..230 {
        let mut member = Peer::v2(running.address).await;
        member.send(Opcode::Presence, 1, json!({"key": "big", "value": "v".repeat(4_000)}).to_string()).await;
        assert!(matches!(member.receive().await, Received::Frame(Opcode::Ack, ..)));
        members.push(member);
    }
    assert_shown_harmlessly(&running, "presence", |_, n| (Opcode::Presence, json!({"key": "big", "value": n}))).await;
}

/// A large content is encoded once: who comes later gets what the last one got, and the changes since, until those are
/// longer, or nobody has come for ten seconds.
#[tokio::test(start_paused = true)]
async fn a_whole_is_shared() {
    let limits = Limits::default().with(|limits| limits.compress_above = usize::MAX);
    let server = Server::builder().limits(limits).build();
    let follow = async |key: &str| {
        let mut codec = Codec::default();
        let mut peer = server.peer(Protocol::V2, Identity::anonymous());
        let subscribe = format!(r#"{{"kind":"state","key":{key:?}}}"#);
        peer.receive(&codec.encode(Opcode::Subscribe, 1, subscribe.as_bytes(), 256));
        let mut seen: Vec<(Opcode, u64)> = Vec::new();
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            while let Some(message) = peer.poll_message() {
                let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
                let body: Value = serde_json::from_slice(frame.payload).unwrap();
                if frame.opcode != Opcode::Hello {
                    assert!(body["recovered"].is_null() || body["recovered"] == false);
                    seen.push((frame.opcode, body["seq"].as_u64().unwrap()));
                }
            }
            // What is long is written out by another task, and comes all at once.
            if !seen.is_empty() || std::time::Instant::now() > patience {
                return seen;
            }
            tokio::task::yield_now().await;
        }
    };
    let count = |key: &'static str| {
        let state = server.state();
        async move { state.update(key, |draft| draft.add("/n", 1)).await.unwrap() }
    };
    let from = |seq, entries: u64| -> Vec<(Opcode, u64)> {
        let changes = (1..=entries).map(|n| (Opcode::StatePatch, seq + n));
        [(Opcode::Subscribed, seq), (Opcode::StateSnapshot, seq)].into_iter().chain(changes).collect()
    };
    for (key, length) in [("small", 1_000), ("large", 20_000)] {
        server.state().set(key, &json!({"n": 0, "text": "x".repeat(length)})).await.unwrap();
        assert_eq!(follow(key).await, from(1, 0));
        count(key).await;
        assert_eq!(follow(key).await, if key == "small" { from(2, 0) } else { from(1, 1) });
    }
    tokio::time::advance(Duration::from_millis(49)).await;
    count("large").await;
    assert_eq!(follow("large").await, from(1, 2));
    tokio::time::advance(Duration::from_millis(9_999)).await;
    count("large").await;
    assert_eq!(follow("large").await, from(1, 3));
    tokio::time::advance(Duration::from_millis(10_000)).await;
    assert_eq!(follow("large").await, from(1, 3), "nothing has changed");
    tokio::time::advance(Duration::from_millis(10_000)).await;
    count("large").await;
    assert_eq!(follow("large").await, from(5, 0), "it was for nobody");
    // More changes than are kept: what is longer than the whole is not handed out.
    for n in 0..4 {
        let state = server.state();
        state.update("large", |draft| draft.set("/text", "y".repeat(20_000 + n))).await.unwrap();
    }
    assert_eq!(follow("large").await, from(9, 0));
}

/// What a connection asks for at once is not written out at once: beyond a quarter of a megabyte snapshots are owed.
#[test]
fn snapshots_beyond_what_is_written_at_once_are_owed() {
    const KEYS: u32 = 40;
    let server = Server::builder().build();
    let set = |key: u32, value: Value| {
        server.state().set(&key.to_string(), &value).now_or_never().unwrap().unwrap();
    };
    (1..=KEYS).for_each(|key| set(key, json!("x".repeat(30_000))));
    let (mut codec, mut batch) = (Codec::default(), Vec::new());
    for key in 1..=KEYS {
        let subscribe =
            codec.encode(Opcode::Subscribe, key, format!(r#"{{"kind":"state","key":"{key}"}}"#).as_bytes(), 256);
        push_varuint(&mut batch, subscribe.len() as u64);
        batch.extend_from_slice(&subscribe);
    }
    let mut peer = server.peer(Protocol::V2, Identity::anonymous());
    peer.receive(&frame(Opcode::Batch as u8, 0, &batch));
    set(KEYS, json!(2));
    let mut seen = Vec::new();
    while let Some(message) = peer.poll_message() {
        let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
        let body: Value = serde_json::from_slice(frame.payload).unwrap();
        match frame.opcode {
            Opcode::Subscribed => seen.push((frame.correlation, false, 1)),
            Opcode::StateSnapshot => {
                seen.push((body["key"].as_str().unwrap().parse().unwrap(), true, body["seq"].as_u64().unwrap()));
            }
            opcode => assert_eq!(opcode, Opcode::Hello),
        }
    }
    // Nine of 30,000 bytes are the first to exceed 256 KiB.
    let shown: Vec<_> = (1..=9).flat_map(|key| [(key, false, 1), (key, true, 1)]).collect();
    let asked: Vec<_> = (10..=KEYS).map(|key| (key, false, 1)).collect();
    assert_eq!(seen[..18], shown);
    assert_eq!(seen[18..18 + asked.len()], asked);
    let mut owed = seen[18 + asked.len()..].to_vec();
    owed.sort_unstable();
    let expected: Vec<_> = (10..=KEYS).map(|key| (key, true, if key == KEYS { 2 } else { 1 })).collect();
    assert_eq!(owed, expected, "the newest, and once");
}

/// A client of version 1 follows everything without asking: what comes to more than is written at once, it is owed, too.
#[test]
fn a_client_of_version_1_is_owed_what_is_not_written_at_once() {
    let server = Server::builder().build();
    let set = |key: u32, n: u32| {
        let value = json!({"n": n, "text": "x".repeat(30_000)});
        server.state().set(&format!("{key:02}"), &value).now_or_never().unwrap().unwrap();
    };
    (1..=40).for_each(|key| set(key, 1));
    let mut peer = server.peer(Protocol::V1, Identity::anonymous());
    // The one is on its way already, the other is owed.
    set(1, 2);
    set(40, 2);
    let (mut codec, mut seen) = (Codec::default(), vec![Vec::new(); 40]);
    while let Some(message) = peer.poll_message() {
        let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
        let body: Value = serde_json::from_slice(frame.payload).unwrap();
        let key: usize = body["key"].as_str().unwrap().parse().unwrap();
        seen[key - 1].push((frame.opcode, body["seq"].as_u64().unwrap()));
    }
    let once = |key: usize| vec![(Opcode::StateSnapshot, if key == 40 { 2 } else { 1 })];
    assert_eq!(seen[0], [(Opcode::StateSnapshot, 1), (Opcode::StatePatch, 2)]);
    (2..=40).for_each(|key| assert_eq!(seen[key - 1], once(key), "{key}"));
}

/// Where a rate is set, what exceeds it is read later; others are not concerned.
#[tokio::test]
async fn a_rate_is_kept() {
    let limits = Limits::default().with(|limits| limits.max_rate = NonZeroU32::new(20_000));
    let running = serve(|builder| builder.limits(limits)).await;
    let (mut greedy, mut modest) = (Peer::v2(running.address).await, Peer::v2(running.address).await);
    let (text, started) = (format!("{:?}", "x".repeat(2_000)), Instant::now());
    for id in 1..=20 {
        greedy.begin(id, "echo", &text).await;
    }
    modest.call(1, "add", "[1, 2]").await;
    for id in 1..=20 {
        greedy.expect(Opcode::RpcResponse, id).await;
    }
    // 40,000 bytes and more: a second's worth at once, and the last one.
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
}
