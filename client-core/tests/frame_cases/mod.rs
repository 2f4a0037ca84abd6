//! Frames of version 2, of each opcode and both directions, and their malformed neighbours.

use datasole_core::{
    Limits,
    frame::{Codec, Opcode},
    wire,
};
use serde_json::{Value, json};

use super::frames::{hex, message, unhex};

/// A frame of `from`, as transcripts have it.
fn record(name: &str, from: &str, mut form: Value) -> Value {
    let wire = message(&form);
    let mut plain = Codec::default();
    let opcode = plain.decode(&wire, &Limits::default()).unwrap().opcode as u8;
    let payload = form.get("hex").and_then(Value::as_str).map(unhex).unwrap_or_default();
    let number = |bytes: &[u8]| wire::split_varuint(bytes).map(|(number, rest)| (number, hex(rest))).unwrap();
    match (form["op"].as_str().unwrap(), from) {
        ("ACK", _) => form["seq"] = number(&payload).0.into(),
        ("ENTRY", _) => {
            (form["seq"], form["message"]) = pair(number(&payload));
            form["channel"] = form["id"].clone();
        }
        ("DOC", "client") => (form["channel"], form["message"]) = pair(number(&payload)),
        ("DOC", _) => {
            (form["seq"], form["message"]) = pair(number(&payload));
            form["channel"] = form["id"].clone();
        }
        _ => {}
    }
    form["name"] = name.into();
    form["from"] = from.into();
    form["opcode"] = opcode.into();
    form["wire"] = hex(&wire).into();
    form
}

fn pair((number, rest): (u64, String)) -> (Value, Value) {
    (number.into(), rest.into())
}

pub(crate) fn of_client() -> Vec<Value> {
    let json = |name, op: &str, id: u32, payload: Value| {
        record(name, "client", json!({"op": op, "id": id, "payload": payload}))
    };
    let both = |name, op: &str, id: u32, payload: Value, bytes: &str| {
        record(name, "client", json!({"op": op, "id": id, "payload": payload, "hex": bytes}))
    };
    let doc = |name, id: u32, bytes: &str| record(name, "client", json!({"op": "DOC", "id": id, "hex": bytes}));
    let short = |name, op: &str, id: u32, payload: &[u8]| {
        record(name, "client", json!({"op": op, "id": id, "hex": hex(payload)}))
    };
    let votes = json!({"type": "pn-counter", "nodeId": "ann-3f9a", "counter": 1, "timestamp": 1_700_000_000_000_u64,
        "op": "increment", "value": 2, "secret": "c2VjcmV0IG9mIGFubg"});
    let tag = json!({"type": "or-set", "nodeId": "ann-3f9a", "counter": 3, "timestamp": 1_700_000_000_001_u64, "logical": 1,
        "done": 2, "op": "add", "value": "red", "dots": [["ann-3f9a", 1]], "secret": "c2VjcmV0IG9mIGFubg"});
    let none = json!({"type": "lww-map", "nodeId": "ann-3f9a", "counter": 4, "timestamp": 1_700_000_000_002_u64, "op": "none",
        "secret": "c2VjcmV0IG9mIGFubg"});
    let long = "x".repeat(300);
    vec![
        json("call", "RPC_REQ", 1, json!({"method": "add", "params": [2, 40], "correlationId": 1})),
        json(
            "call without parameters",
            "RPC_REQ",
            u32::MAX,
            json!({"method": "ping", "params": null, "correlationId": u32::MAX}),
        ),
        json("long call, compressed", "RPC_REQ", 2, json!({"method": "store", "params": long, "correlationId": 2})),
        both("call with bytes", "RPC_REQ_BIN", 3, json!({"method": "thumbnail", "correlationId": 3}), "ffd8ff00"),
        both("call with no bytes", "RPC_REQ_BIN", 4, json!({"method": "thumbnail", "correlationId": 4}), ""),
        json("event", "EVENT_C2S", 0, json!({"event": "typing", "data": {"on": true, "who": "Ännchen 🎈"}})),
        json("event without data", "EVENT_C2S", 0, json!({"event": "bye"})),
        both("event with bytes", "EVENT_C2S_BIN", 0, json!({"event": "blob"}), "00ff"),
        json("ping", "PING", 0, Value::Null),
        json("counter's operation", "CRDT_OP", 5, json!({"key": "votes", "op": votes})),
        json("set's operation, in place of an addition", "CRDT_OP", 6, json!({"key": "tags", "op": tag})),
        json("operation in place of a refused one", "CRDT_OP", 7, json!({"key": "board", "op": none})),
        json("token, as the first frame", "AUTH", 8, json!({"token": "secret", "features": ["batch"]})),
        json("no token", "AUTH", 9, json!({"token": null})),
        json("subscription to a state", "SUBSCRIBE", 10, json!({"kind": "state", "key": "dashboard"})),
        json(
            "subscription from a position",
            "SUBSCRIBE",
            11,
            json!({"kind": "event", "key": "chat", "since": {"epoch": 82, "seq": 9_007_199_254_740_991_u64}}),
        ),
        json("subscription to a CRDT", "SUBSCRIBE", 12, json!({"kind": "crdt", "key": "votes"})),
        json("subscription to a room", "SUBSCRIBE", 13, json!({"kind": "presence", "key": "lobby"})),
        json("subscription to a document", "SUBSCRIBE", 14, json!({"kind": "doc", "key": "notes"})),
        json("end of a subscription", "UNSUBSCRIBE", 10, Value::Null),
        json("end of a call", "CANCEL", 1, Value::Null),
        json("value in a room", "PRESENCE", 15, json!({"key": "lobby", "value": {"x": 3}})),
        json("leaving a room", "PRESENCE", 16, json!({"key": "lobby"})),
        doc("state vector", 0, "0500000100"),
        doc("all that the server lacks", 17, "050001020000"),
        doc("change", 18, "0500020a01010101840100016200"),
        doc("awareness", 0, "050109010105057b2261227d"),
        doc("change on a channel of two bytes", 19, "ac020002020000"),
        json("features", "CLIENT", 0, json!({"features": ["batch", "short", "of-a-later-version"]})),
        short("short call", "CALL", 22, b"\x03add[2,40]"),
        short("short call without parameters", "CALL", 23, b"\x04pingnull"),
        record(
            "batch of two pings",
            "client",
            json!({"op": "BATCH", "id": 0, "items": [
            {"op": "PING", "id": 0, "payload": null}, {"op": "PING", "id": 0, "payload": null}]}),
        ),
        record(
            "batch with a compressed item",
            "client",
            json!({"op": "BATCH", "id": 0, "items": [
            {"op": "RPC_REQ", "id": 20, "payload": {"method": "store", "params": long, "correlationId": 20}},
            {"op": "SUBSCRIBE", "id": 21, "payload": {"kind": "state", "key": "a"}}]}),
        ),
    ]
}

pub(crate) fn of_server() -> Vec<Value> {
    let json = |name, op: &str, id: u32, payload: Value| {
        record(name, "server", json!({"op": op, "id": id, "payload": payload}))
    };
    let both = |name, op: &str, id: u32, payload: Value, bytes: &str| {
        record(name, "server", json!({"op": op, "id": id, "payload": payload, "hex": bytes}))
    };
    let bytes =
        |name, op: &str, id: u32, bytes: &str| record(name, "server", json!({"op": op, "id": id, "hex": bytes}));
    let short = |numbers: &[u64], rest: &[u8]| {
        let mut payload = Vec::new();
        numbers.iter().for_each(|number| wire::push_varuint(&mut payload, *number));
        payload.extend_from_slice(rest);
        hex(&payload)
    };
    let operation = json!({"type": "pn-counter", "nodeId": "ann-3f9a", "counter": 1, "timestamp": 1_700_000_000_000_u64,
        "op": "increment", "value": 2});
    let state = json!({"type": "pn-counter", "value": 2, "metadata": {"type": "pn-counter", "nodeId": "ann-3f9a",
        "timestamp": 1_700_000_000_000_u64, "version": 1, "vector": {"increments": {"ann-3f9a": 2}, "decrements": {}},
        "seen": {"ann-3f9a": [1, 1_700_000_000_000_u64]}}});
    let limits = json!({"maxPayload": 1_048_576, "compressAbove": 256, "maxSubscriptions": 1024, "maxPendingCalls": 1024,
        "maxEventName": 256, "maxRooms": 256, "ofALaterVersion": 1});
    let patches =
        json!([{"op": "replace", "path": "/n", "value": 4}, {"op": "add", "path": "/rows/-", "value": {"a/b": null}}]);
    vec![
        json(
            "hello",
            "HELLO",
            0,
            json!({"protocol": 2, "connectionId": "c1", "userId": "ann", "epoch": 5,
            "time": 1_700_000_000_123_u64, "heartbeat": 15_000, "limits": limits, "reconnectWindow": 5_000, "features": ["batch"]}),
        ),
        json("accepted token", "AUTHED", 8, json!({"userId": "ann"})),
        json("result", "RPC_RES", 1, json!({"correlationId": 1, "result": 42})),
        json("result that is null", "RPC_RES", 2, json!({"correlationId": 2, "result": null})),
        json("no result", "RPC_RES", 3, json!({"correlationId": 3})),
        json(
            "error of a call",
            "RPC_RES",
            4,
            json!({"correlationId": 4, "error": {"code": -32000, "message": "boom", "data": {"why": 1}}}),
        ),
        both("result with bytes", "RPC_RES_BIN", 5, json!({"correlationId": 5}), "0102"),
        json(
            "event of a topic",
            "EVENT_S2C",
            0,
            json!({"event": "chat", "data": "hi", "timestamp": 1_700_000_000_000_u64, "epoch": 82, "seq": 4}),
        ),
        json("event to this connection", "EVENT_S2C", 0, json!({"event": "note", "timestamp": 1_700_000_000_000_u64})),
        both(
            "event with bytes",
            "EVENT_S2C_BIN",
            0,
            json!({"event": "chat", "timestamp": 1_700_000_000_000_u64, "epoch": 82, "seq": 5}),
            "cafe",
        ),
        json("patch", "STATE_PATCH", 0, json!({"key": "dashboard", "patches": patches, "epoch": 81, "seq": 8})),
        json(
            "snapshot",
            "STATE_SNAPSHOT",
            0,
            json!({"key": "dashboard", "version": 7, "data": {"n": 3, "rows": []}, "epoch": 81, "seq": 7}),
        ),
        json(
            "snapshot of null",
            "STATE_SNAPSHOT",
            0,
            json!({"key": "dashboard", "version": 9, "data": null, "epoch": 81, "seq": 9}),
        ),
        json(
            "removed state",
            "STATE_SNAPSHOT",
            0,
            json!({"key": "dashboard", "version": 10, "data": null, "removed": true, "epoch": 81, "seq": 10}),
        ),
        json(
            "long snapshot, compressed",
            "STATE_SNAPSHOT",
            0,
            json!({"key": "dashboard", "version": 11, "data": "x".repeat(300), "epoch": 81, "seq": 11}),
        ),
        json("pong", "PONG", 0, Value::Null),
        json("error that may go away", "ERROR", 6, json!({"message": "later", "code": -32004, "retryAfter": 500})),
        json("error of no frame in particular", "ERROR", 0, json!({"message": "malformed", "code": -32600})),
        json("entry of a CRDT", "CRDT_OP", 0, json!({"key": "votes", "op": operation, "epoch": 83, "seq": 1})),
        json("state of a CRDT", "CRDT_STATE", 0, json!({"key": "votes", "state": state, "epoch": 83, "seq": 1})),
        json("CRDT that does not exist", "CRDT_STATE", 0, json!({"key": "tags", "state": null, "epoch": 84, "seq": 0})),
        json("subscribed, resumed", "SUBSCRIBED", 11, json!({"epoch": 82, "seq": 9, "recovered": true})),
        json(
            "subscribed to a document",
            "SUBSCRIBED",
            14,
            json!({"epoch": 85, "seq": 3, "recovered": false, "channel": 300}),
        ),
        bytes("stored as nothing new", "ACK", 5, "00"),
        bytes("stored at 300", "ACK", 6, "ac02"),
        bytes("stored at 2^53-1", "ACK", 7, "ffffffffffffff0f"),
        json(
            "all in a room",
            "PRESENCE",
            0,
            json!({"key": "lobby", "members": [{"id": "c1", "userId": "ann", "value": {"x": 3}}],
            "whole": true, "epoch": 86, "seq": 1}),
        ),
        json(
            "changes in a room",
            "PRESENCE",
            0,
            json!({"key": "lobby", "members": [{"id": "c2", "userId": "bob", "value": null},
            {"id": "c1", "userId": "ann"}], "epoch": 86, "seq": 2}),
        ),
        bytes("state vector", "DOC", 300, "0000000100"),
        bytes("all that the client lacks", "DOC", 300, "0000010b0101010004010174016100"),
        bytes("change", "DOC", 300, "0400020b0101010004010174016100"),
        bytes("awareness", "DOC", 300, "000109010105057b2261227d"),
        bytes("short entry of a topic", "ENTRY", 7, &short(&[300, 1_764_432_000_000], br#"{"n":1}"#)),
        bytes("short entry without data", "ENTRY", 7, &short(&[301, 1_764_432_000_001], b"")),
        bytes("short entry of a state", "ENTRY", 8, &short(&[9], br#"[{"op":"remove","path":"/n"}]"#)),
        bytes("short result", "RESULT", 1, &short(&[], b"42")),
        bytes("short result of nothing", "RESULT", 3, ""),
        record(
            "batch",
            "server",
            json!({"op": "BATCH", "id": 0, "items": [
            {"op": "SUBSCRIBED", "id": 10, "payload": {"epoch": 81, "seq": 7, "recovered": false}},
            {"op": "STATE_SNAPSHOT", "id": 0, "payload": {"key": "dashboard", "version": 7, "data": "x".repeat(300), "epoch": 81, "seq": 7}}]}),
        ),
    ]
}

// --- malformed neighbours ---

/// A frame that declares `length` bytes of payload.
fn raw(opcode: u8, id: u32, length: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[opcode][..], &id.to_be_bytes(), &length, payload].concat()
}

fn whole(opcode: u8, id: u32, payload: &str) -> Vec<u8> {
    raw(opcode, id, payload.len(), payload.as_bytes())
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    Codec::default().compress(plain.to_vec(), 0)
}

fn batch(items: &[&[u8]], rest: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    items.iter().for_each(|item| wire::push_item(&mut payload, item));
    payload.extend_from_slice(rest);
    raw(Opcode::Batch as u8, 0, payload.len(), &payload)
}

/// A frame that is wrong: what a server answers, and the close code of a client; `None` where the frame is not for it.
fn wrong(name: &str, wire: &[u8], server: Option<Value>, client: Option<Value>) -> Value {
    let mut record = json!({"name": name, "wire": hex(wire)});
    if let Some(answers) = server {
        record["server"] = answers;
    }
    if let Some(code) = client {
        record["client"] = code;
    }
    record
}

pub(crate) fn malformed() -> Vec<Value> {
    let error = |id: u32, code: i32| json!([{"op": "ERROR", "id": id, "code": code}]);
    let call = |id: u32| Some(json!([{"op": "RPC_RES", "id": id, "code": -32700}]));
    let invalid = |id| Some(error(id, -32600));
    let unreadable = |id| Some(error(id, -32700));
    let closes = || Some(json!(4004));
    let (ping, nothing) = (whole(0x07, 0, "null"), || Some(Value::Null));
    let op = |op: &str| format!(r#"{{"key":"votes","op":{op}}}"#);
    vec![
        // Of any direction.
        wrong("nothing", &[], invalid(0), closes()),
        wrong("header of 8 bytes", &raw(0x07, 0, 0, &[])[..8], invalid(0), closes()),
        wrong("unknown opcode 0c", &whole(0x0c, 7, "null"), invalid(7), closes()),
        wrong("unknown opcode 2f", &whole(0x2f, 7, "null"), invalid(7), closes()),
        wrong("opcode of a later version", &whole(0x33, 7, "null"), Some(json!([])), nothing()),
        wrong("opcode of a plugin, compressed", &zlib(&whole(0x6f, 7, &"x".repeat(300))), Some(json!([])), nothing()),
        wrong(
            "opcode of a later version, without the payload that it declares",
            &raw(0x33, 7, 9, b"null"),
            Some(json!([])),
            nothing(),
        ),
        wrong("payload over the limit", &raw(0x07, 7, 1_048_577, b"null"), invalid(7), closes()),
        wrong("payload cut off", &raw(0x07, 7, 5, b"null"), invalid(7), closes()),
        wrong(
            "bytes behind the payload",
            &[&ping[..], b"null"].concat(),
            Some(json!([{"op": "PONG", "id": 0}])),
            nothing(),
        ),
        wrong("broken zlib stream", &[0x78, 0x9c, 0xff, 0xff, 0xff], invalid(0), closes()),
        wrong("zlib stream cut off", &zlib(&whole(0x07, 7, "null"))[..12], invalid(0), closes()),
        wrong("zlib stream in a zlib stream", &zlib(&zlib(&ping)), invalid(0), closes()),
        wrong("payload over the limit, compressed", &zlib(&raw(0x07, 7, 1_048_577, &[0; 1_000])), invalid(0), closes()),
        wrong(
            "batch, its last item cut off",
            &batch(&[&ping], &[14, 7, 0]),
            Some(json!([{"op": "PONG", "id": 0}, {"op": "ERROR", "id": 0, "code": -32600}])),
            closes(),
        ),
        wrong(
            "batch in a batch",
            &batch(&[&batch(&[&ping], &[]), &ping], &[]),
            Some(json!([{"op": "ERROR", "id": 0, "code": -32600}, {"op": "PONG", "id": 0}])),
            closes(),
        ),
        wrong(
            "batch with a malformed item",
            &batch(&[&whole(0x0c, 7, "null"), &ping], &[]),
            Some(json!([{"op": "ERROR", "id": 7, "code": -32600}, {"op": "PONG", "id": 0}])),
            closes(),
        ),
        wrong(
            "batch with an item of a later version",
            &batch(&[&whole(0x3f, 7, "null"), &ping], &[]),
            Some(json!([{"op": "PONG", "id": 0}])),
            nothing(),
        ),
        wrong("empty batch", &batch(&[], &[]), Some(json!([])), nothing()),
        // To a server.
        wrong("reserved opcode", &whole(0x18, 7, "{}"), invalid(7), None),
        wrong("frame of servers", &whole(0x14, 7, r#"{"epoch":1,"seq":1,"recovered":true}"#), invalid(7), None),
        wrong("call that is no JSON", &whole(0x01, 7, "{"), call(7), None),
        wrong("short call whose name is longer than its payload", &raw(0x31, 7, 4, b"\x05add"), call(7), None),
        wrong("short call whose parameters are no JSON", &raw(0x31, 7, 5, b"\x03add{"), call(7), None),
        wrong("call without a method", &whole(0x01, 7, r#"{"params":1}"#), call(7), None),
        wrong("call whose JSON part is longer than its payload", &raw(0x20, 7, 5, &[0, 0, 0, 2, b'{']), call(7), None),
        wrong("event without a name", &whole(0x03, 0, r#"{"data":1}"#), unreadable(0), None),
        wrong("event with an empty name", &whole(0x03, 0, r#"{"event":""}"#), invalid(0), None),
        wrong(
            "event with a name of 257 bytes",
            &whole(0x03, 0, &format!(r#"{{"event":"{}"}}"#, "e".repeat(257))),
            invalid(0),
            None,
        ),
        wrong("subscription that is no object", &whole(0x13, 7, "[]"), unreadable(7), None),
        wrong("subscription to no such kind", &whole(0x13, 7, r#"{"kind":"table","key":"a"}"#), unreadable(7), None),
        wrong("subscription with the id 0", &whole(0x13, 0, r#"{"kind":"state","key":"a"}"#), invalid(0), None),
        wrong("subscription to an empty key", &whole(0x13, 7, r#"{"kind":"state","key":""}"#), invalid(7), None),
        wrong(
            "subscription to a key of 257 bytes",
            &whole(0x13, 7, &format!(r#"{{"kind":"state","key":"{}"}}"#, "k".repeat(257))),
            invalid(7),
            None,
        ),
        wrong("token with the id 0", &whole(0x11, 0, r#"{"token":"t"}"#), invalid(0), None),
        wrong("operation with the id 0", &whole(0x0a, 0, &op("{}")), invalid(0), None),
        wrong("operation without a key", &whole(0x0a, 7, r#"{"op":{}}"#), unreadable(7), None),
        wrong("operation that is none", &whole(0x0a, 7, &op(r#"{"type":"pn-counter"}"#)), Some(error(7, -32602)), None),
        wrong("value in a room with the id 0", &whole(0x1a, 0, r#"{"key":"lobby","value":1}"#), invalid(0), None),
        wrong("value in no room", &whole(0x1a, 7, r#"{"value":1}"#), unreadable(7), None),
        wrong("document's message without a channel", &raw(0x1b, 7, 0, &[]), invalid(7), None),
        wrong("document's message on an unknown channel", &raw(0x1b, 7, 6, &unhex("630001020000")), invalid(7), None),
        // To a client.
        wrong("frame of clients", &whole(0x13, 7, r#"{"kind":"state","key":"a"}"#), None, nothing()),
        wrong("answer of a reserved opcode", &whole(0x19, 7, "{}"), None, nothing()),
        wrong("answer to nobody", &whole(0x02, 7, "{"), None, nothing()),
        wrong(
            "patch of a state that is not followed",
            &whole(0x05, 0, r#"{"key":"a","patches":[],"epoch":1,"seq":1}"#),
            None,
            nothing(),
        ),
        wrong("patch without a position", &whole(0x05, 0, r#"{"key":"a","patches":[]}"#), None, closes()),
        wrong(
            "patch that is no array",
            &whole(0x05, 0, r#"{"key":"a","patches":{},"epoch":1,"seq":1}"#),
            None,
            closes(),
        ),
        wrong("snapshot that is no JSON", &whole(0x06, 0, "{"), None, closes()),
        wrong(
            "snapshot at 2^53",
            &whole(0x06, 0, r#"{"key":"a","data":1,"epoch":1,"seq":9007199254740992}"#),
            None,
            closes(),
        ),
        wrong("event whose name is a number", &whole(0x04, 0, r#"{"event":1,"timestamp":1}"#), None, closes()),
        wrong(
            "event whose JSON part is longer than its payload",
            &raw(0x23, 0, 5, &[0, 0, 0, 2, b'{']),
            None,
            closes(),
        ),
        wrong("subscribed without a position", &whole(0x14, 7, r#"{"recovered":true}"#), None, closes()),
        wrong(
            "entry of a CRDT without an operation",
            &whole(0x0a, 0, r#"{"key":"a","epoch":1,"seq":1}"#),
            None,
            closes(),
        ),
        wrong("members that are missing", &whole(0x1a, 0, r#"{"key":"a","epoch":1,"seq":1}"#), None, closes()),
        wrong("document's message that is empty", &raw(0x1b, 5, 0, &[]), None, closes()),
        wrong("short entry without a number", &raw(0x30, 5, 0, &[]), None, closes()),
        wrong("second hello", &whole(0x10, 0, "{}"), None, closes()),
    ]
}
