//! The bytes that both servers speak: requests the load sends, events and states the servers publish.

use std::time::{SystemTime, UNIX_EPOCH};

use datasole_core::{
    frame::{Codec, Opcode},
    wire::push_varuint,
};
use serde_json::{Value, json};

/// Frames longer than this are compressed, by both servers and the load; bytes.
pub(crate) const COMPRESS_ABOVE: usize = 256;
/// The method that answers its parameters.
pub(crate) const METHOD: &str = "echo";
/// The topic of the fan-out.
pub(crate) const TOPIC: &str = "ticks";
/// The key of the state with [`ROWS`] rows.
pub(crate) const STATE: &str = "table";
/// The key of the map whose growth is measured.
pub(crate) const MAP: &str = "votes";
/// The presence room that a crowd joins.
pub(crate) const ROOM: &str = "lobby";
/// The document that is edited.
pub(crate) const DOCUMENT: &str = "paper";
/// The first bytes of a DOC that asks for what the state vector lacks, of one that answers it, and of one with an update.
pub(crate) const QUESTION: [u8; 2] = [0, 0];
pub(crate) const ANSWER: [u8; 2] = [0, 1];
pub(crate) const UPDATE: [u8; 2] = [0, 2];
/// Rows of the state.
pub(crate) const ROWS: usize = 10_000;

/// A state may be as long: more than a server takes that nobody has set up for it; bytes.
pub(crate) const LARGE: usize = 64 * 1024 * 1024;
/// No other message of the benchmark is longer; bytes.
pub(crate) const LARGEST: usize = 16 * 1024;

/// Unix milliseconds, as in an event's `timestamp`.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A request of [`METHOD`] as a message.
pub(crate) fn request(correlation: u32, params: &Value) -> Vec<u8> {
    let payload = json!({"method": METHOD, "params": params, "correlationId": correlation}).to_string();
    Codec::default().encode(Opcode::RpcRequest, correlation, payload.as_bytes(), COMPRESS_ABOVE)
}

/// The same as a CALL of connections with short frames.
pub(crate) fn short_request(correlation: u32, params: &Value) -> Vec<u8> {
    let mut payload = vec![METHOD.len() as u8];
    payload.extend_from_slice(METHOD.as_bytes());
    payload.extend_from_slice(params.to_string().as_bytes());
    Codec::default().encode(Opcode::Call, correlation, &payload, COMPRESS_ABOVE)
}

/// The CLIENT of one that takes short frames as a message.
pub(crate) fn takes_short() -> Vec<u8> {
    Codec::default().encode(Opcode::Client, 0, br#"{"features":["short"]}"#, COMPRESS_ABOVE)
}

/// The same of one that takes batches, too.
pub(crate) fn takes_batches() -> Vec<u8> {
    Codec::default().encode(Opcode::Client, 0, br#"{"features":["batch","short"]}"#, COMPRESS_ABOVE)
}

/// The SUBSCRIBE of a stream as a message.
pub(crate) fn subscribe(correlation: u32, kind: &str, key: &str) -> Vec<u8> {
    let payload = json!({"kind": kind, "key": key}).to_string();
    Codec::default().encode(Opcode::Subscribe, correlation, payload.as_bytes(), COMPRESS_ABOVE)
}

/// The PRESENCE of a member who joins the room, or of one who leaves it, as a message.
pub(crate) fn presence(correlation: u32, member: Option<usize>) -> Vec<u8> {
    let payload = match member {
        Some(member) => json!({"key": ROOM, "value": {"name": format!("member {member}"), "color": member % 16}}),
        None => json!({ "key": ROOM }),
    };
    Codec::default().encode(Opcode::Presence, correlation, payload.to_string().as_bytes(), COMPRESS_ABOVE)
}

/// The DOC with an update of the document of this number as a message.
pub(crate) fn update(correlation: u32, channel: u64, update: &[u8]) -> Vec<u8> {
    Codec::default().encode(Opcode::Doc, correlation, &document(channel, UPDATE, update), COMPRESS_ABOVE)
}

/// The payload of a DOC: its number, and a message of y-protocols with one array of bytes.
pub(crate) fn document(number: u64, kind: [u8; 2], bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(bytes.len() + 8);
    push_varuint(&mut payload, number);
    payload.extend_from_slice(&kind);
    push_varuint(&mut payload, bytes.len() as u64);
    payload.extend_from_slice(bytes);
    payload
}

/// The DOC that asks for the whole document of this number as a message.
pub(crate) fn whole_document(correlation: u32, channel: u64) -> Vec<u8> {
    Codec::default().encode(Opcode::Doc, correlation, &document(channel, QUESTION, &[0]), COMPRESS_ABOVE)
}

/// Parameters of a small call.
pub(crate) fn small() -> Value {
    json!({"id": 4_711, "name": "small"})
}

/// About 7 KB of rows, as an application would send them.
pub(crate) fn large() -> Value {
    let rows: Vec<Value> = (0..62).map(large_row).collect();
    Value::Array(rows)
}

fn large_row(id: u32) -> Value {
    // A fixed scramble: neither constant nor random, so that it compresses like real data.
    let scramble = id.wrapping_mul(2_654_435_761);
    json!({
        "id": id,
        "name": format!("customer {:05}", scramble % 100_000),
        "email": format!("user{:x}@example.org", scramble >> 8),
        "balance": f64::from(scramble % 1_000_000) / 100.0,
        "active": scramble.is_multiple_of(3),
    })
}

/// The data of an event: 56 bytes.
pub(crate) fn tick() -> Value {
    json!({"symbol": "DSOL", "bid": 101.25, "ask": 101.5, "volume": 18_250})
}

/// The data of a small event: 24 bytes.
pub(crate) fn small_tick() -> Value {
    json!({"n": 471, "price": 101.25})
}

/// The operations that change one cell of a [`Table`](datasole_tests::table::Table).
pub(crate) fn one_cell(row: usize, value: u64) -> Value {
    json!([{"op": "replace", "path": format!("/rows/{row}/n"), "value": value}])
}

/// The name of an entry of [`MAP`].
pub(crate) fn entry(index: usize) -> String {
    format!("entry-{index}")
}

/// The key of a small state.
pub(crate) fn key(index: usize) -> String {
    format!("key-{index}")
}
