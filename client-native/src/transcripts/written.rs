//! Frames and events as the transcripts write them.

use datasole_core::{EditOutcome, Event, Payload, Question, StreamId, SyncPhase, frame::Opcode};
use serde_json::{Value, json};

/// The message without members that a host decides.
pub(super) fn masked(mut value: Value) -> Value {
    if value["op"] == "DOC" {
        // The channel, the kind of the message, and of a sync message which step.
        let bytes = unhex(value["hex"].as_str().unwrap());
        value["hex"] = bytes[..if bytes[1] == 0 { 3 } else { 2 }].into();
    }
    if value["t"] == "ask" {
        value["hex"] = value["hex"].as_array().map_or(0, Vec::len).into();
    }
    if let Some(operation) = value.get_mut("data").and_then(Value::as_object_mut) {
        // The core writes it when it sends.
        operation.remove("done");
    }
    unstamp(&mut value);
    value
}

fn unstamp(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !["timestamp", "logical"].contains(&name.as_str()));
            members.values_mut().for_each(unstamp);
        }
        Value::Array(elements) => elements.iter_mut().for_each(unstamp),
        _ => {}
    }
}

/// An event as the worker protocol writes it; nothing for what is no stream's.
pub(super) fn told(event: &Event) -> Option<Value> {
    let of = |t: &str, stream: &StreamId| json!({"t": t, "kind": stream.kind.name(), "key": stream.key});
    let error = |code: &i32, message: &String| json!({"code": code, "message": message});
    let data = |told: &mut Value, payload: &Payload| match payload {
        Payload::Json(raw) => told["data"] = serde_json::from_str(raw.get()).unwrap(),
        Payload::Binary(bytes) => told["hex"] = hex(bytes).into(),
        Payload::Empty => {}
    };
    Some(match event {
        Event::Entry { stream, payload, whole, .. } => {
            let mut told = of("entry", stream);
            data(&mut told, payload);
            if *whole {
                told["whole"] = true.into();
            }
            told
        }
        Event::Settled { stream, edit, outcome } => {
            let mut told = of("settled", stream);
            told["id"] = (*edit).into();
            match outcome {
                EditOutcome::Stored { returns } => told["returns"] = (*returns).into(),
                EditOutcome::Refused { code, message } => told["error"] = error(code, message),
            }
            told
        }
        Event::Progress { stream, progress } => {
            let mut told = of("progress", stream);
            let (phase, refused) = match &progress.phase {
                SyncPhase::Loading => ("loading", None),
                SyncPhase::Synced => ("synced", None),
                SyncPhase::Unreadable { code, message } => ("unreadable", Some(error(code, message))),
                SyncPhase::Refused { code, message } => ("refused", Some(error(code, message))),
            };
            told["phase"] = phase.into();
            told["pending"] = progress.pending.into();
            told["stored"] = progress.stored.into();
            if let Some(refused) = refused {
                told["error"] = refused;
            }
            told
        }
        Event::Rejected { stream, code, message, payload } => {
            let mut told = of("rejected", stream);
            told["error"] = error(code, message);
            data(&mut told, payload);
            told
        }
        Event::Ask { document, question } => {
            let (what, bytes) = match question {
                Question::StateVector => ("stateVector", Vec::new()),
                Question::Difference { theirs } => ("difference", vec![theirs.clone()]),
                Question::Merge { updates } => ("merge", updates.clone()),
                Question::Awareness => ("awareness", Vec::new()),
            };
            json!({"t": "ask", "key": document, "what": what, "hex": bytes})
        }
        Event::Awareness { document, update } => json!({"t": "awareness", "key": document, "hex": hex(update)}),
        _ => return None,
    })
}

const NAMES: [(&str, Opcode); 14] = [
    ("PING", Opcode::Ping),
    ("ERROR", Opcode::Error),
    ("CRDT_OP", Opcode::CrdtOp),
    ("CRDT_STATE", Opcode::CrdtState),
    ("HELLO", Opcode::Hello),
    ("AUTH", Opcode::Auth),
    ("SUBSCRIBE", Opcode::Subscribe),
    ("SUBSCRIBED", Opcode::Subscribed),
    ("UNSUBSCRIBE", Opcode::Unsubscribe),
    ("ACK", Opcode::Ack),
    ("PRESENCE", Opcode::Presence),
    ("DOC", Opcode::Doc),
    ("CLIENT", Opcode::Client),
    ("BATCH", Opcode::Batch),
];

pub(super) fn opcode(name: &str) -> Opcode {
    NAMES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("unknown: {name}")).1
}

pub(super) fn name(opcode: Opcode) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == opcode).unwrap_or_else(|| panic!("unknown: {opcode:?}")).0
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
