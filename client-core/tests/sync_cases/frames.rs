//! Frames as vectors and transcripts write them: `{op, id}` with `payload` (JSON), `hex` (bytes), of a frame with a JSON part
//! and raw bytes both, and of a BATCH `items`.

use datasole_core::{
    Limits,
    frame::{Codec, Frame, Opcode},
    wire::{join_binary, push_item, split_binary, split_item},
};
use serde_json::{Value, json};

/// The payload of a frame.
fn content(frame: &Value) -> Vec<u8> {
    if frame.get("items").is_some() {
        let items = frame["items"].as_array().unwrap();
        let mut payload = Vec::new();
        for item in items {
            push_item(&mut payload, &message(item));
        }
        return payload;
    }
    let bytes = || unhex(frame["hex"].as_str().unwrap());
    match (frame.get("payload"), frame.get("hex")) {
        (None, Some(_)) => bytes(),
        (Some(json), Some(_)) => join_binary(json.to_string().as_bytes(), &bytes()),
        _ => frame["payload"].to_string().into_bytes(),
    }
}

/// A frame as a message; compressed when longer than 256 bytes.
pub(super) fn message(frame: &Value) -> Vec<u8> {
    let id = u32::try_from(frame["id"].as_u64().unwrap_or(0)).unwrap();
    Codec::default().encode(opcode(frame["op"].as_str().unwrap()), id, &content(frame), 256)
}

/// A message as a frame.
pub(super) fn frame(message: &[u8]) -> Value {
    let mut codec = Codec::default();
    let Frame { opcode, correlation: id, payload } = codec.decode(message, &Limits::default()).unwrap();
    let op = name(opcode);
    match opcode {
        Opcode::Batch => {
            let (mut rest, mut items) = (payload, Vec::new());
            while let Some((item, after)) = split_item(rest) {
                items.push(frame(item));
                rest = after;
            }
            json!({"op": op, "id": id, "items": items})
        }
        Opcode::Ack | Opcode::Doc | Opcode::Entry | Opcode::Call | Opcode::Result => {
            json!({"op": op, "id": id, "hex": hex(payload)})
        }
        _ if opcode as u8 >= 0x20 => {
            let (head, bytes) = split_binary(payload).unwrap();
            json!({"op": op, "id": id, "payload": serde_json::from_slice::<Value>(head).unwrap(), "hex": hex(bytes)})
        }
        _ => json!({"op": op, "id": id, "payload": serde_json::from_slice::<Value>(payload).unwrap()}),
    }
}

const NAMES: [(&str, Opcode); 30] = [
    ("RPC_REQ", Opcode::RpcRequest),
    ("RPC_RES", Opcode::RpcResponse),
    ("EVENT_C2S", Opcode::ClientEvent),
    ("EVENT_S2C", Opcode::ServerEvent),
    ("STATE_PATCH", Opcode::StatePatch),
    ("STATE_SNAPSHOT", Opcode::StateSnapshot),
    ("PING", Opcode::Ping),
    ("PONG", Opcode::Pong),
    ("ERROR", Opcode::Error),
    ("CRDT_OP", Opcode::CrdtOp),
    ("CRDT_STATE", Opcode::CrdtState),
    ("HELLO", Opcode::Hello),
    ("AUTH", Opcode::Auth),
    ("AUTHED", Opcode::Authed),
    ("SUBSCRIBE", Opcode::Subscribe),
    ("SUBSCRIBED", Opcode::Subscribed),
    ("UNSUBSCRIBE", Opcode::Unsubscribe),
    ("CANCEL", Opcode::Cancel),
    ("ACK", Opcode::Ack),
    ("PRESENCE", Opcode::Presence),
    ("DOC", Opcode::Doc),
    ("CLIENT", Opcode::Client),
    ("BATCH", Opcode::Batch),
    ("RPC_REQ_BIN", Opcode::RpcRequestBinary),
    ("RPC_RES_BIN", Opcode::RpcResponseBinary),
    ("EVENT_C2S_BIN", Opcode::ClientEventBinary),
    ("EVENT_S2C_BIN", Opcode::ServerEventBinary),
    ("ENTRY", Opcode::Entry),
    ("CALL", Opcode::Call),
    ("RESULT", Opcode::Result),
];

/// The opcode of a name in `docs/protocol.md`.
fn opcode(name: &str) -> Opcode {
    NAMES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("unknown: {name}")).1
}

fn name(opcode: Opcode) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == opcode).unwrap_or_else(|| panic!("unknown: {opcode:?}")).0
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
