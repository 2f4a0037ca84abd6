//! Commands and events as the transcripts write them (`tests/vectors/sync/README.md`). The native client's player reads
//! this file, too.

use std::collections::BTreeMap;

use datasole_core::{
    CallError, CallId, Client, CommandError, EditOutcome, Event, Millis, Payload, Progress, Question, Request,
    StreamId, StreamKind, SubscriptionId, SyncPhase,
};
use serde_json::{Value, json};

use super::frames::{hex, unhex};

/// The calls and subscriptions of a transcript, by the numbers that its host gives them.
#[derive(Default)]
pub(super) struct Numbers {
    pub(super) calls: BTreeMap<u64, CallId>,
    pub(super) subscriptions: BTreeMap<u64, SubscriptionId>,
}

impl Numbers {
    /// The call that a command names.
    pub(super) fn call(&self, command: &Value) -> CallId {
        self.calls[&command["id"].as_u64().unwrap()]
    }

    /// The subscription that a command names.
    pub(super) fn subscription(&self, command: &Value) -> SubscriptionId {
        self.subscriptions[&command["id"].as_u64().unwrap()]
    }
}

// --- commands ---

/// Performs a command as it is.
pub(super) fn perform(
    client: &mut Client,
    now: Millis,
    command: &Value,
    numbers: &mut Numbers,
) -> Result<(), CommandError> {
    let text = |name: &str| command[name].as_str().unwrap_or_default();
    let number = || command["id"].as_u64().unwrap();
    match text("t") {
        "call" => {
            let call = client.call(now, request(command))?;
            numbers.calls.insert(number(), call);
        }
        "cancel" => assert!(client.cancel(now, numbers.call(command)), "no such call: {command}"),
        "emit" => client.emit(now, text("event"), payload(command), command["queue"] == true)?,
        "subscribe" => {
            let subscription = client.subscribe(now, stream(command))?;
            numbers.subscriptions.insert(number(), subscription);
        }
        "unsubscribe" => {
            let linger = command["linger"].as_u64();
            assert!(client.unsubscribe(now, numbers.subscription(command), linger), "nobody follows: {command}");
        }
        "open" => client.open(now, stream(command), command["throttle"].as_u64())?,
        "leave" => client.leave(now, &stream(command)),
        "edit" => client.edit(now, &stream(command), number(), payload(command))?,
        "show" => {
            let value = command.get("json").map(|_| payload(command));
            client.show(now, text("key"), value)?;
        }
        "aware" => client.aware(now, text("key"), command.get("hex").map(|_| bytes(command))),
        "answer" => client.answer(now, text("key"), bytes(command)),
        "unfit" => client.unfit(now, &stream(command), command["applied"] == true),
        other => panic!("unknown: {other}"),
    }
    Ok(())
}

/// The call that a command makes.
pub(super) fn request(command: &Value) -> Request {
    Request {
        method: command["method"].as_str().unwrap().into(),
        params: payload(command),
        timeout: command["timeout"].as_u64(),
        queue: command["queue"] == true,
    }
}

/// The stream that a command names.
pub(super) fn stream(command: &Value) -> StreamId {
    let named = command["kind"].as_str().and_then(|name| StreamKind::ALL.into_iter().find(|kind| kind.name() == name));
    let kind = named.unwrap_or(if command["t"] == "show" { StreamKind::Presence } else { StreamKind::Doc });
    StreamId { kind, key: command["key"].as_str().unwrap().into() }
}

fn payload(command: &Value) -> Payload {
    match command.get("json") {
        Some(json) => Payload::from_json(&json.to_string()).unwrap(),
        None if command.get("hex").is_some() => Payload::Binary(bytes(command)),
        None => Payload::Empty,
    }
}

fn bytes(command: &Value) -> Vec<u8> {
    unhex(command["hex"].as_str().unwrap())
}

/// The payload of the HELLO that opens a connection of version 2.
pub(super) fn hello(open: &Value) -> Value {
    let mut hello = json!({
        "protocol": 2, "connectionId": "c", "userId": "ann", "epoch": 1, "heartbeat": 86_400_000,
        "limits": {"maxPayload": 1_048_576, "compressAbove": 256, "maxSubscriptions": 100,
            "maxPendingCalls": 100, "maxEventName": 256},
    });
    for member in ["connectionId", "features"].iter().filter(|member| open.get(member).is_some()) {
        hello[member] = open[member].clone();
    }
    hello
}

// --- events ---

/// An event as the worker protocol writes it, without `rev`; bytes as hexadecimal digits. Nothing for a status.
pub(super) fn told(event: &Event, numbers: &Numbers) -> Option<Value> {
    let of = |t: &str, stream: &StreamId| json!({"t": t, "kind": stream.kind.name(), "key": stream.key});
    let error = |code: &i32, message: &String| json!({"code": code, "message": message});
    Some(match event {
        Event::Status(_) => return None,
        Event::CallDone { call, outcome } => {
            let number = numbers.calls.iter().find(|(_, known)| *known == call).map(|(number, _)| number);
            let mut told = json!({"t": "done", "id": number});
            match outcome {
                Ok(value) => put(&mut told, "value", value),
                Err(failure) => told["error"] = failed(failure),
            }
            told
        }
        Event::Message { event, payload, timestamp } => {
            let mut told = json!({"t": "event", "event": event, "timestamp": timestamp});
            put(&mut told, "data", payload);
            told
        }
        Event::Subscribed { stream, recovered, .. } => {
            let mut told = of("subscribed", stream);
            told["recovered"] = (*recovered).into();
            told
        }
        Event::Refused { stream, code, message, .. } => {
            json!({"t": "refused", "what": stream.kind.name(), "name": stream.key, "error": error(code, message)})
        }
        Event::Left { stream, .. } => of("left", stream),
        Event::Snapshot { key, value, .. } => {
            let mut told = json!({"t": "snapshot", "key": key});
            if let Some(value) = value {
                told["value"] = serde_json::from_str(value.get()).unwrap();
            }
            told
        }
        Event::Patch { key, ops, .. } => {
            json!({"t": "patch", "key": key, "ops": serde_json::from_str::<Value>(ops.get()).unwrap()})
        }
        Event::Entry { stream, payload, whole, .. } => {
            let mut told = of("entry", stream);
            put(&mut told, "data", payload);
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
        Event::Progress { stream, progress: Progress { phase, pending, stored, .. } } => {
            let mut told = of("progress", stream);
            let (phase, refused) = match phase {
                SyncPhase::Loading => ("loading", None),
                SyncPhase::Synced => ("synced", None),
                SyncPhase::Unreadable { code, message } => ("unreadable", Some(error(code, message))),
                SyncPhase::Refused { code, message } => ("refused", Some(error(code, message))),
            };
            told["phase"] = phase.into();
            told["pending"] = (*pending).into();
            told["stored"] = (*stored).into();
            if let Some(refused) = refused {
                told["error"] = refused;
            }
            told
        }
        Event::Rejected { stream, code, message, payload } => {
            let mut told = of("rejected", stream);
            told["error"] = error(code, message);
            put(&mut told, "data", payload);
            told
        }
        Event::Ask { document, question } => {
            let (what, bytes) = match question {
                Question::StateVector => ("stateVector", Vec::new()),
                Question::Difference { theirs, small } => {
                    (if *small { "smallest" } else { "difference" }, vec![theirs])
                }
                Question::Merge { updates } => ("merge", updates.iter().collect()),
                Question::Awareness => ("awareness", Vec::new()),
            };
            let mut told = json!({"t": "ask", "key": document, "what": what});
            if !bytes.is_empty() {
                told["hex"] = bytes.iter().map(|bytes| hex(bytes)).collect();
            }
            told
        }
        Event::Awareness { document, update } => json!({"t": "awareness", "key": document, "hex": hex(update)}),
    })
}

/// JSON goes under a name of its own, bytes under `hex`.
fn put(told: &mut Value, name: &str, payload: &Payload) {
    match payload {
        Payload::Json(raw) => told[name] = serde_json::from_str(raw.get()).unwrap(),
        Payload::Binary(bytes) => told["hex"] = hex(bytes).into(),
        Payload::Empty => {}
    }
}

fn failed(error: &CallError) -> Value {
    let mut told = json!({"code": error.code(), "message": error.to_string()});
    if let CallError::Server { data, retry_after, .. } = error {
        if let Some(data) = data {
            told["data"] = serde_json::from_str(data.get()).unwrap();
        }
        if let Some(millis) = retry_after {
            told["retryAfter"] = (*millis).into();
        }
    }
    told
}
