//! The frames of version 2: the committed file is what is written here, so that what changes on the wire shows in a diff;
//! the codec reads each frame as it is written down; and a client meets what a server must not send as the file says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

mod frame_cases;
#[path = "sync_cases/frames.rs"]
mod frames;

use std::collections::BTreeSet;

use datasole_core::{
    Client, Config, Input, Millis, Output, Seed, SocketId,
    frame::{Opcode, decode},
    wire,
};
use serde_json::{Value, json};

use self::{
    frame_cases::{malformed, of_client, of_server},
    frames::{frame, message, unhex},
};

const ABOUT: &str = "Version 2 frames (hex). `frames`: `wire` decodes to `op` (`opcode`), `id` and `payload` (JSON) or `hex` \
    (bytes), of a frame with a JSON part and raw bytes both, of a BATCH `items`; ACK has its `seq`, DOC `channel`, `seq` (of a \
    server) and `message`. An encoder need not reproduce compressed bytes or the order of members. `malformed`: `server`: the \
    answers of a server with a method `add`, all ids but 0 unused; `client`: the close code of a client after HELLO, or null \
    where the frame is ignored.";

#[test]
fn the_committed_frames_are_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/v2-frames.json");
    let lines = |records: Vec<Value>| records.iter().map(Value::to_string).collect::<Vec<_>>().join(",\n  ");
    let frames = lines([of_client(), of_server()].concat());
    let text = format!(
        "{{\n \"about\": {},\n \"frames\": [\n  {frames}\n ],\n \"malformed\": [\n  {}\n ]\n}}\n",
        Value::from(ABOUT),
        lines(malformed())
    );
    if std::env::var_os("DATASOLE_WRITE_VECTORS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "run with DATASOLE_WRITE_VECTORS=1, and see the diff");
}

#[test]
fn every_opcode_has_a_frame() {
    let opcodes =
        |records: Vec<Value>| records.iter().map(|record| record["opcode"].as_u64().unwrap()).collect::<BTreeSet<_>>();
    let (client, server) = (opcodes(of_client()), opcodes(of_server()));
    let reserved = [Opcode::Propose, Opcode::ProposeResult].map(|opcode| opcode as u64);
    let known: BTreeSet<_> = (0..=255).filter_map(|byte| Opcode::from_byte(byte).map(|opcode| opcode as u64)).collect();
    let found: BTreeSet<_> = client.union(&server).copied().chain(reserved).collect();
    assert_eq!(found, known);
    let both = [Opcode::CrdtOp, Opcode::Presence, Opcode::Doc, Opcode::Batch].map(|opcode| opcode as u64);
    assert_eq!(client.intersection(&server).copied().collect::<BTreeSet<_>>(), BTreeSet::from(both));
}

/// The payload read into its struct and written again: nothing that version 2 sends may get lost.
fn through_struct(record: &Value) -> Option<Value> {
    fn through<'a, T: serde::Serialize + serde::Deserialize<'a>>(payload: &'a str) -> Option<Value> {
        Some(serde_json::to_value(serde_json::from_str::<T>(payload).unwrap()).unwrap())
    }
    let payload = &record["payload"].to_string();
    match (record["op"].as_str().unwrap(), record["from"].as_str().unwrap()) {
        ("RPC_REQ" | "RPC_REQ_BIN", _) => through::<wire::RpcRequest<'_>>(payload),
        ("RPC_RES" | "RPC_RES_BIN", _) => through::<wire::RpcResponse<'_>>(payload),
        ("EVENT_C2S" | "EVENT_C2S_BIN", _) => through::<wire::ClientEvent<'_>>(payload),
        ("EVENT_S2C" | "EVENT_S2C_BIN", _) => through::<wire::ServerEvent<'_>>(payload),
        ("STATE_PATCH", _) => through::<wire::StatePatch<'_>>(payload),
        ("STATE_SNAPSHOT", _) => through::<wire::StateSnapshot<'_>>(payload),
        ("CRDT_OP", _) => through::<wire::CrdtOp<'_>>(payload),
        ("CRDT_STATE", _) => through::<wire::CrdtState<'_>>(payload),
        ("PRESENCE", "client") => through::<wire::ClientPresence<'_>>(payload),
        ("PRESENCE", _) => through::<wire::ServerPresence<'_>>(payload),
        ("ERROR", _) => through::<wire::ErrorBody<'_>>(payload),
        ("AUTH", _) => through::<wire::Auth<'_>>(payload),
        ("AUTHED", _) => through::<wire::Authed<'_>>(payload),
        ("SUBSCRIBE", _) => through::<wire::Subscribe<'_>>(payload),
        ("SUBSCRIBED", _) => through::<wire::Subscribed>(payload),
        ("CLIENT", _) => through::<wire::ClientHello<'_>>(payload),
        _ => None,
    }
}

#[test]
fn frames_are_read_as_they_are_written_down() {
    for record in [of_client(), of_server()].concat() {
        let name = &record["name"];
        let read = frame(&unhex(record["wire"].as_str().unwrap()));
        for (member, value) in read.as_object().unwrap() {
            assert_eq!(value, &record[member], "{member} of {name}");
        }
        if let Some(again) = through_struct(&record) {
            assert_eq!(again, record["payload"], "{name}");
        }
        assert_eq!(frame(&message(&record)), read, "{name}, written again");
    }
}

/// A client of version 2 that has been greeted; the close code after `message`, if any.
fn meet(message: &[u8]) -> Value {
    let mut client = Client::new(Config::new("ws://localhost/__ds"), Seed([1; 32]));
    client.connect(Millis(0));
    let mut outputs = Vec::new();
    let mut input = |input: Input<'_>| {
        client.handle_input(Millis(1), input);
        outputs.extend(std::iter::from_fn(|| client.poll_output()));
    };
    let socket = SocketId(1);
    input(Input::SocketOpened { socket, protocol: Some("datasole.v2") });
    let hello = of_server().swap_remove(0);
    input(Input::Message { socket, bytes: &unhex(hello["wire"].as_str().unwrap()) });
    input(Input::Message { socket, bytes: message });
    let close = outputs.into_iter().find_map(|output| match output {
        Output::CloseSocket { code, .. } => Some(code),
        _ => None,
    });
    json!(close)
}

#[test]
fn a_client_meets_what_is_wrong_as_the_file_says() {
    let records = malformed();
    let of_clients = records.iter().filter(|record| record.get("client").is_some());
    assert!(of_clients.clone().count() > 30);
    for record in of_clients {
        assert_eq!(meet(&unhex(record["wire"].as_str().unwrap())), record["client"], "{}", record["name"]);
    }
    for record in of_server().iter().filter(|record| record["op"] != "HELLO") {
        let wire = unhex(record["wire"].as_str().unwrap());
        assert_eq!(meet(&wire), Value::Null, "{}", record["name"]);
        assert!(wire[0] == 0x78 || decode(&wire, 1 << 20).is_ok(), "{}", record["name"]);
    }
}
