//! Short frames: who gets them, and that they say the same in few bytes.

use datasole_core::{
    frame::{Opcode, decode},
    wire::{push_item, split_varuint},
};
use serde_json::{Value, json};

use super::{Peer, builder};
use crate::{Context, Payload, Server};

/// Bytes of a WebSocket's header on a short message: from the server, and from a client, with its mask.
const DOWN: usize = 2;
const UP: usize = 6;

fn server() -> Server {
    let echo = |_: Context, value: Value| async move { Ok(value) };
    let nothing = |_: Context, (): ()| async move { Ok(()) };
    let fail = |_: Context, (): ()| async move { Err::<(), _>(crate::RpcError::new("no")) };
    builder().rpc("echo", echo).rpc("nothing", nothing).rpc("fail", fail).build()
}

fn short(server: &Server) -> Peer {
    let mut peer = Peer::new(server);
    assert!(peer.send(Opcode::Client, 0, &json!({ "features": ["short"] })).is_none());
    peer
}

/// Subscribes; the number of the stream, if one is told.
fn follow(peer: &mut Peer, kind: &str, key: &str) -> Option<u32> {
    assert!(peer.subscribe(1, kind, key, None).is_none());
    let subscribed = peer.received().remove(0);
    assert_eq!((subscribed.0, subscribed.1), (Opcode::Subscribed, 1));
    subscribed.2["channel"].as_u64().map(|channel| channel.try_into().unwrap())
}

/// The numbers and the JSON of an ENTRY.
fn entry(message: &[u8], channel: u32, numbers: usize) -> (Vec<u64>, Value) {
    let frame = decode(message, usize::MAX).unwrap();
    assert_eq!((frame.opcode, frame.correlation), (Opcode::Entry, channel));
    let (mut rest, mut read) = (frame.payload, Vec::new());
    for _ in 0..numbers {
        let (number, after) = split_varuint(rest).unwrap();
        read.push(number);
        rest = after;
    }
    (read, serde_json::from_slice(rest).unwrap_or_default())
}

#[tokio::test]
async fn a_small_event_takes_60_bytes_and_says_the_same() {
    let server = server();
    let (mut short, mut long) = (short(&server), Peer::new(&server));
    let channel = follow(&mut short, "event", "prices").unwrap();
    assert_eq!(follow(&mut long, "event", "prices"), None);
    let data = json!({"id": 12, "price": 34.5});
    server.broadcast("prices", &data).await.unwrap();
    let ours = short.messages();
    let (_, _, theirs) = long.received().remove(0);
    assert_eq!(ours.len(), 1);
    assert!(ours[0].len() + DOWN <= 60, "{} bytes", ours[0].len());
    println!("event: {} bytes", ours[0].len() + DOWN);
    let (numbers, read) = entry(&ours[0], channel, 2);
    let numbers: Vec<Value> = numbers.into_iter().map(Value::from).collect();
    assert_eq!(numbers, [theirs["seq"].clone(), theirs["timestamp"].clone()]);
    assert_eq!((&read, &theirs["data"]), (&data, &data));
}

#[tokio::test]
async fn a_patch_is_short_and_what_replaces_the_whole_is_not() {
    let server = server();
    let state = server.state();
    state.set("board", &json!({"rows": [{"n": 0}, {"n": 0}], "text": "x".repeat(100)})).await.unwrap();
    let (mut short, mut long) = (short(&server), Peer::new(&server));
    let channel = follow(&mut short, "state", "board").unwrap();
    assert_eq!(follow(&mut long, "state", "board"), None);
    let at = state.update("board", |draft| draft.set("/rows/1/n", 7)).await.unwrap();
    let ours = short.messages();
    let (opcode, _, theirs) = long.received().remove(0);
    assert_eq!(opcode, Opcode::StatePatch);
    let (numbers, patches) = entry(&ours[0], channel, 1);
    assert_eq!((numbers, &patches), (vec![at.seq], &theirs["patches"]));
    println!("patch: {} bytes", ours[0].len() + DOWN);
    assert!(ours[0].len() + DOWN <= 64, "{} bytes", ours[0].len());
    state.set("board", &1).await.unwrap();
    state.remove("board").await.unwrap();
    assert_eq!(short.opcodes(), [(Opcode::StateSnapshot, 0), (Opcode::StateSnapshot, 0)]);
}

#[tokio::test]
async fn a_small_call_takes_90_bytes_both_ways() {
    let server = server();
    let mut peer = short(&server);
    let call = |method: &str, params: &str| {
        let mut payload = Vec::new();
        push_item(&mut payload, method.as_bytes());
        payload.extend_from_slice(params.as_bytes());
        super::frame(Opcode::Call, 7, &payload)
    };
    let request = call("echo", r#"{"id":12,"n":3}"#);
    assert!(peer.take(&request).is_none());
    let answer = peer.messages().remove(0);
    let frame = decode(&answer, usize::MAX).unwrap();
    assert_eq!((frame.opcode, frame.correlation, frame.payload), (Opcode::Result, 7, &br#"{"id":12,"n":3}"#[..]));
    let bytes = UP + request.len() + DOWN + answer.len();
    println!("call: {bytes} bytes");
    assert!(bytes <= 90, "{bytes} bytes");
    assert!(peer.take(&call("nothing", "null")).is_none());
    assert_eq!(decode(&peer.messages()[0], usize::MAX).unwrap().payload, b"", "void");
    // Errors have names, as ever; so has what cannot be read.
    for (request, code) in [
        (call("fail", "null"), -32_000),
        (call("missing", "null"), -32_601),
        (call("echo", "{"), -32_700),
        (call("echo", ""), -32_700),
        (super::frame(Opcode::Call, 7, b"\x09echo"), -32_700),
        (super::frame(Opcode::Call, 7, b"\x01\xff1"), -32_700),
        (super::frame(Opcode::Call, 7, b""), -32_700),
    ] {
        assert!(peer.take(&request).is_none());
        let (opcode, id, body) = peer.received().remove(0);
        assert_eq!((opcode, id, body["error"]["code"].as_i64()), (Opcode::RpcResponse, 7, Some(code)));
    }
}

/// A client that has not said so gets no short frame, nor one whose subscriptions were answered before.
#[tokio::test]
async fn who_has_subscribed_before_gets_the_long_form() {
    let server = server();
    let mut peer = Peer::new(&server);
    assert_eq!(follow(&mut peer, "event", "prices"), None);
    assert!(peer.send(Opcode::Client, 0, &json!({ "features": ["short"] })).is_none());
    server.broadcast("prices", &1).await.unwrap();
    assert_eq!(peer.opcodes(), [(Opcode::ServerEvent, 0)]);
}

/// Raw bytes have no short form; what is resumed comes in the long one.
#[tokio::test]
async fn the_long_form_may_come_at_any_time() {
    let server = server();
    let mut peer = short(&server);
    follow(&mut peer, "event", "raw").unwrap();
    server.broadcast_payload("raw", Payload::Binary(vec![1, 2])).await.unwrap();
    assert_eq!(decode(&peer.messages()[0], usize::MAX).unwrap().opcode, Opcode::ServerEventBinary);
    let at = server.state().set("k", &json!([0])).await.unwrap();
    server.state().update("k", |draft| draft.set("/0", 1)).await.unwrap();
    let mut again = short(&server);
    assert!(again.subscribe(1, "state", "k", Some(at)).is_none());
    assert_eq!(again.opcodes(), [(Opcode::Subscribed, 1), (Opcode::StatePatch, 0)]);
    server.state().update("k", |draft| draft.set("/0", 2)).await.unwrap();
    assert_eq!(decode(&again.messages()[0], usize::MAX).unwrap().opcode, Opcode::Entry);
}
