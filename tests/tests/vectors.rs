//! The frames of `tests/vectors/v2-frames.json`, sent to a server: the good ones are taken, the malformed ones answered as
//! the file says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use datasole_core::{
    Limits,
    frame::{Codec, Frame, Opcode},
    wire::{push_varuint, split_item},
};
use datasole_server::{Context, Identity, Peer, Protocol, Server};
use serde_json::{Value, json};

fn vectors(member: &str) -> Vec<Value> {
    let text = include_str!("../vectors/v2-frames.json");
    let mut file: Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(file[member].take()).unwrap()
}

fn wire(record: &Value) -> Vec<u8> {
    let text = record["wire"].as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A connection that has been greeted.
fn connect() -> Peer {
    let server = Server::builder().rpc("add", |_: Context, (a, b): (i64, i64)| async move { Ok(a + b) }).build();
    let mut peer = server.peer(Protocol::V2, Identity::user("ann"));
    assert!(peer.poll_message().is_some(), "HELLO");
    peer
}

/// What the server sends: opcode, correlation id and, of a failure, its code.
fn answers(peer: &mut Peer) -> Vec<(Opcode, u32, Option<i64>)> {
    fn add(message: &[u8], found: &mut Vec<(Opcode, u32, Option<i64>)>) {
        let mut codec = Codec::default();
        let Frame { opcode, correlation, payload } = codec.decode(message, &Limits::default()).unwrap();
        let mut rest = payload;
        if opcode == Opcode::Batch {
            while let Some((item, after)) = split_item(rest) {
                add(item, found);
                rest = after;
            }
            return;
        }
        let json: Value = serde_json::from_slice(payload).unwrap_or_default();
        let code = if opcode == Opcode::Error { &json["code"] } else { &json["error"]["code"] };
        found.push((opcode, correlation, code.as_i64()));
    }
    let mut found = Vec::new();
    while let Some(message) = peer.poll_message() {
        add(&message, &mut found);
    }
    found
}

#[test]
fn malformed_frames_are_answered_as_the_file_says() {
    let records = vectors("malformed");
    let of_servers: Vec<_> = records.iter().filter(|record| record.get("server").is_some()).collect();
    assert!(of_servers.len() > 30, "{}", of_servers.len());
    for record in of_servers {
        let mut peer = connect();
        peer.receive(&wire(record));
        let expected = record["server"].as_array().unwrap();
        let opcode = |answer: &Value| match answer["op"].as_str().unwrap() {
            "PONG" => Opcode::Pong,
            "RPC_RES" => Opcode::RpcResponse,
            _ => Opcode::Error,
        };
        let expected: Vec<_> = expected
            .iter()
            .map(|answer| (opcode(answer), answer["id"].as_u64().unwrap() as u32, answer["code"].as_i64()))
            .collect();
        assert_eq!(answers(&mut peer), expected, "{}", record["name"]);
        assert_eq!(peer.closing(), None, "{}", record["name"]);
    }
}

#[test]
fn frames_of_clients_are_taken() {
    for record in vectors("frames").iter().filter(|record| record["from"] == "client") {
        let name = &record["name"];
        let mut peer = connect();
        let mut message = wire(record);
        if record["op"] == "DOC" {
            // The channel is the server's to choose.
            let mut codec = Codec::default();
            peer.receive(&codec.encode(Opcode::Subscribe, 99, br#"{"kind":"doc","key":"notes"}"#, 256));
            let subscribed = peer.poll_message().unwrap();
            let subscribed: Value =
                serde_json::from_slice(codec.decode(&subscribed, &Limits::default()).unwrap().payload).unwrap();
            let id = record["id"].as_u64().unwrap() as u32;
            let mut payload = Vec::new();
            push_varuint(&mut payload, subscribed["channel"].as_u64().unwrap());
            payload.extend(wire(&json!({ "wire": record["message"] })));
            message = codec.encode(Opcode::Doc, id, &payload, 256);
            answers(&mut peer);
        }
        peer.receive(&message);
        // `-32700`: the payload does not fit its opcode. `-32600`: the frame means nothing here.
        let answers = answers(&mut peer);
        let refused = answers.iter().any(|(.., code)| matches!(code, Some(-32700 | -32600)));
        assert!(!refused && peer.closing().is_none(), "{name}: {answers:?}, {:?}", peer.closing());
    }
}
