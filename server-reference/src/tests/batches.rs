//! BATCH, and what else later versions may send.

use datasole_core::{
    StreamKind, codes,
    frame::{Codec, Opcode, decode},
    wire::{push_varuint, split_varuint},
};
use serde_json::{Value, json};

use super::{Gated, Peer, builder, frame, spawn};
use crate::{Context, Protocol, message::Outgoing};

/// The most that a BATCH carries when it is sent.
const MOST: usize = 64 * 1024;

pub(super) fn batch(items: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    for item in items {
        push_varuint(&mut payload, item.len() as u64);
        payload.extend_from_slice(item);
    }
    frame(Opcode::Batch, 0, &payload)
}

pub(super) fn subscribe(id: u32, key: &str) -> Vec<u8> {
    frame(Opcode::Subscribe, id, json!({ "kind": "state", "key": key }).to_string().as_bytes())
}

/// A client that has told that it reads BATCH.
fn reader(peer: &mut Peer) {
    let task = peer.send(Opcode::Client, 0, &json!({ "features": ["later", "batch"], "other": 1 }));
    assert!(task.is_none() && peer.messages().is_empty(), "CLIENT is not answered");
}

/// The messages in these, those of a BATCH one by one.
fn unpacked(messages: &[Vec<u8>]) -> Vec<(Opcode, u32, Value)> {
    let mut items = Vec::new();
    for message in messages {
        let outer = decode(message, usize::MAX).unwrap();
        if outer.opcode != Opcode::Batch {
            items.push(message.clone());
            continue;
        }
        assert!(outer.payload.len() <= MOST && outer.correlation == 0);
        let mut rest = outer.payload;
        while let Some((length, items_left)) = split_varuint(rest) {
            let (item, after) = items_left.split_at(length as usize);
            items.push(item.to_vec());
            rest = after;
        }
        assert!(rest.is_empty());
    }
    let read = |item: &Vec<u8>| {
        let frame = decode(item, usize::MAX).unwrap();
        (frame.opcode, frame.correlation, serde_json::from_slice(frame.payload).unwrap_or_default())
    };
    items.iter().map(read).collect()
}

/// Subscriptions of one BATCH, to states that are in memory and to some that the backend takes its time for: the answers
/// are those of as many SUBSCRIBEs, in as few messages as there are 64 KiB.
#[tokio::test]
async fn a_batch_of_subscriptions_is_answered_by_batches() {
    const STREAMS: u32 = 1_024;
    let backend = Gated::new(true);
    let first = builder().backend(backend.clone()).build();
    let key = |n: u32| format!("key {n}");
    for n in 1..=STREAMS {
        first.state().set(&key(n), &json!({ "n": n, "text": "x".repeat(100) })).await.unwrap();
    }
    let again = builder().backend(backend.clone()).build();
    let items: Vec<_> = (1..=STREAMS).map(|n| subscribe(n, &key(n))).collect();
    for (server, waits) in [(&first, false), (&again, true)] {
        for reads in [true, false] {
            let mut peer = Peer::new(server);
            if reads {
                reader(&mut peer);
            }
            if waits && reads {
                backend.open.send_replace(false);
            }
            let task = peer.take(&batch(&items));
            if waits && reads {
                let task = spawn(task);
                assert!(peer.messages().is_empty(), "they are answered together");
                backend.open.send_replace(true);
                task.await.unwrap();
            }
            let messages = peer.messages();
            let bytes: usize = messages.iter().map(Vec::len).sum();
            if reads {
                assert_eq!(messages.len(), bytes.div_ceil(MOST), "{bytes} bytes");
            } else {
                assert_eq!(messages.len(), 2 * STREAMS as usize);
            }
            let received = unpacked(&messages);
            for (n, pair) in (1..=STREAMS).zip(received.chunks(2)) {
                assert_eq!((pair[0].0, pair[0].1), (Opcode::Subscribed, n));
                assert_eq!((pair[1].0, &pair[1].2["data"]["n"]), (Opcode::StateSnapshot, &json!(n)));
            }
            assert_eq!(received.len(), 2 * STREAMS as usize);
            peer.end().await;
        }
    }
    assert_eq!(again.node().hub.in_memory(StreamKind::State), STREAMS as usize);
}

/// Of the subscriptions in one BATCH those to streams in memory are answered before a later request; only the others wait
/// for the backend.
#[tokio::test]
async fn streams_in_memory_do_not_wait_for_those_that_are_not() {
    let backend = Gated::new(true);
    let first = builder().backend(backend.clone()).build();
    for key in ["kept", "left"] {
        first.state().set(key, &json!(key)).await.unwrap();
    }
    let server = builder().backend(backend.clone()).build();
    assert_eq!(server.state().get("kept").await.unwrap(), Some(json!("kept")));
    let mut peer = Peer::new(&server);
    reader(&mut peer);
    backend.open.send_replace(false);
    let task = spawn(peer.take(&batch(&[subscribe(1, "left"), subscribe(2, "kept")])));
    assert!(peer.send(Opcode::Ping, 3, &json!(null)).is_none());
    let answers = |peer: &mut Peer| -> Vec<_> {
        unpacked(&peer.messages()).into_iter().map(|(opcode, correlation, _)| (opcode, correlation)).collect()
    };
    let at_once = [(Opcode::Subscribed, 2), (Opcode::StateSnapshot, 0), (Opcode::Pong, 3)];
    assert_eq!(answers(&mut peer), at_once);
    backend.open.send_replace(true);
    task.await.unwrap();
    assert_eq!(answers(&mut peer), [(Opcode::Subscribed, 1), (Opcode::StateSnapshot, 0)]);
    peer.end().await;
}

/// The messages of a BATCH are served as if each had come alone, in their order.
#[tokio::test]
async fn the_messages_of_a_batch_are_served_in_order() {
    let server = builder().rpc("double", |_: Context, n: i64| async move { Ok(2 * n) }).build();
    let call = |id: u32, params: &str| {
        frame(Opcode::RpcRequest, id, format!(r#"{{"method":"double","params":{params}}}"#).as_bytes())
    };
    let long = format!(r#"{{"method":"double","params":4,"more":"{}"}}"#, "x".repeat(1_000));
    let compressed = Codec::default().encode(Opcode::RpcRequest, 5, long.as_bytes(), 256);
    let items = [
        call(1, "1"),
        subscribe(2, "k"),
        frame(Opcode::Ping, 3, b"null"),
        vec![0xff; 3],
        frame(Opcode::Batch, 4, &[]),
        compressed,
        frame(Opcode::Cancel, 9, b"null"),
        call(6, "6"),
    ];
    let expected = [
        (Opcode::RpcResponse, 1, json!(2)),
        (Opcode::Pong, 3, Value::Null),
        (Opcode::Error, 0, json!(codes::INVALID_REQUEST)),
        (Opcode::Error, 4, json!(codes::INVALID_REQUEST)),
        (Opcode::RpcResponse, 5, json!(8)),
        (Opcode::RpcResponse, 6, json!(12)),
        (Opcode::Subscribed, 2, Value::Null),
        (Opcode::StateSnapshot, 0, Value::Null),
    ];
    let mut peer = Peer::new(&server);
    assert!(peer.take(&batch(&items)).is_none());
    let told = |body: &Value| body.get("result").or(body.get("code")).cloned().unwrap_or_default();
    let received: Vec<_> = unpacked(&peer.messages()).into_iter().map(|(op, id, body)| (op, id, told(&body))).collect();
    assert_eq!(received, expected);
    // One that is cut off ends the batch; what came before it has been served.
    for cut in [1, 9, 10] {
        let whole = batch(&[call(1, "1"), call(2, "2")]);
        let shorter = frame(Opcode::Batch, 0, &whole[9..whole.len() - cut]);
        assert!(peer.take(&shorter).is_none());
        assert_eq!(peer.opcodes(), [(Opcode::RpcResponse, 1), (Opcode::Error, 0)], "{cut} bytes fewer");
    }
    assert!(peer.take(&batch(&[])).is_none());
    assert_eq!(peer.opcodes(), []);
    let mut old = Peer::of(&server, Protocol::V1);
    old.messages();
    assert!(old.take(&batch(&[call(1, "1")])).is_none());
    assert_eq!(old.opcodes(), [], "version 1 has none");
}

/// The answers to a BATCH are held back like those to single messages: no more is made than is written.
#[tokio::test]
async fn the_answers_to_a_batch_are_bounded() {
    let server = builder().rpc("fill", |_: Context, (): ()| async move { Ok("x".repeat(40_000)) }).build();
    let mut peer = Peer::new(&server);
    let call = |id| frame(Opcode::RpcRequest, id, br#"{"method":"fill"}"#);
    let calls = batch(&(1..=1_000).map(call).collect::<Vec<_>>());
    let mut out = Outgoing::new(super::length);
    let spawn = &mut |_| panic!("each is done at once");
    peer.session.receive(&calls, &mut out, spawn);
    let mut answers = 0;
    loop {
        assert!(out.len() <= MOST + 40_100, "{} bytes", out.len());
        answers += super::split(&std::mem::take(&mut out.bytes)).len();
        if !peer.session.is_busy() {
            break;
        }
        peer.session.go_on(&mut out, spawn);
    }
    assert_eq!(answers, 1_000);
}

#[tokio::test]
async fn what_later_versions_send_is_ignored() {
    let server = builder().build();
    let connection = server.node().connection(Protocol::V2, None);
    assert!(server.node().welcome(&connection, crate::Identity::user("ann")).is_none());
    let mut hello = Outgoing::new(|_, _| {});
    connection.mailbox().drain(&mut hello, usize::MAX);
    let hello: Value = serde_json::from_slice(decode(&hello.bytes, usize::MAX).unwrap().payload).unwrap();
    assert_eq!(hello["features"], json!(["batch", "short"]));

    let (mut peer, mut old) = (Peer::new(&server), Peer::of(&server, Protocol::V1));
    for opcode in (0..=0xffu8).filter(|&opcode| Opcode::from_byte(opcode).is_none() && opcode != 0x78) {
        let mut message = frame(Opcode::Ping, 7, b"null");
        message[0] = opcode;
        let before = server.metrics_snapshot().malformed;
        assert!(peer.take(&message).is_none());
        let ignored = opcode >= 0x30;
        assert_eq!(peer.opcodes().is_empty(), ignored, "{opcode:#x}");
        assert_eq!(server.metrics_snapshot().malformed - before, u64::from(!ignored), "{opcode:#x}");
        assert!(old.take(&message).is_none());
        assert_eq!(old.opcodes(), [], "{opcode:#x}");
    }
    // A compressed one is known only when it is inflated.
    let mut plain = frame(Opcode::Ping, 7, &[b' '; 1_000]);
    plain[0] = 0x60;
    assert!(peer.take(&Codec::default().compress(plain, 0)).is_none());
    assert_eq!(peer.opcodes(), []);
    for (features, told) in [(json!({}), 0), (json!({ "features": 1 }), 1), (json!("batch"), 1)] {
        assert!(peer.send(Opcode::Client, 9, &features).is_none());
        assert_eq!(peer.opcodes().len(), told, "{features}");
    }
}
