//! What a stream is made of: one entry, its bytes in the backend, and its frame on the wire.

use bytes::Bytes;
use datasole_core::{
    Payload, Position, StreamId, StreamKind,
    frame::Opcode,
    wire::{CrdtOp, CrdtState, ServerEvent, ServerPresence, StatePatch, StateSnapshot, join_binary, push_varuint},
};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::message;

/// One step of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A state changed: a JSON array of RFC 6902 operations.
    Patch(Box<RawValue>),
    /// A state was replaced.
    Value(Box<RawValue>),
    /// A state or CRDT was removed.
    Removed,
    /// An event.
    Event { data: Payload, timestamp: u64 },
    /// An operation of a CRDT.
    Operation(Box<RawValue>),
    /// A CRDT has forgotten what is old: its whole state.
    State(Box<RawValue>),
    /// A change of a document: a Yjs update.
    Update(Bytes),
    /// Those of a presence room who changed: a JSON array. It is never stored.
    Members(Box<RawValue>),
}

impl Entry {
    /// The bytes a backend keeps: a tag, then the content.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Patch(ops) => {
                out.push(b'p');
                out.extend_from_slice(ops.get().as_bytes());
            }
            Self::Value(value) => {
                out.push(b'v');
                out.extend_from_slice(value.get().as_bytes());
            }
            Self::Operation(op) => {
                out.push(b'o');
                out.extend_from_slice(op.get().as_bytes());
            }
            Self::State(state) => {
                out.push(b's');
                out.extend_from_slice(state.get().as_bytes());
            }
            Self::Update(update) => {
                out.push(b'u');
                out.extend_from_slice(update);
            }
            Self::Members(members) => {
                out.push(b'm');
                out.extend_from_slice(members.get().as_bytes());
            }
            Self::Removed => out.push(b'r'),
            Self::Event { data, timestamp } => {
                let (tag, bytes) = match data {
                    Payload::Empty => (b'e', &[][..]),
                    Payload::Json(text) => (b'e', text.get().as_bytes()),
                    Payload::Binary(bytes) => (b'b', &bytes[..]),
                };
                out.push(tag);
                out.extend_from_slice(&timestamp.to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
        Bytes::from(out)
    }

    /// Whether its message is one that version 1 does not have.
    pub(crate) fn is_binary(&self) -> bool {
        matches!(self, Self::Event { data: Payload::Binary(_), .. })
    }

    /// The inverse of [`encode`](Self::encode); `None` for bytes that are not ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, content) = bytes.split_first()?;
        let json = |bytes: &[u8]| RawValue::from_string(String::from_utf8(bytes.to_vec()).ok()?).ok();
        Some(match tag {
            b'p' => Self::Patch(json(content)?),
            b'v' => Self::Value(json(content)?),
            b'o' => Self::Operation(json(content)?),
            b's' => Self::State(json(content)?),
            b'u' => Self::Update(Bytes::copy_from_slice(content)),
            b'm' => Self::Members(json(content)?),
            b'r' => Self::Removed,
            b'e' | b'b' => {
                let (timestamp, content) = content.split_first_chunk::<8>()?;
                let data = match (tag, content) {
                    (b'b', _) => Payload::Binary(content.to_vec()),
                    (_, []) => Payload::Empty,
                    _ => Payload::Json(json(content)?),
                };
                Self::Event { data, timestamp: u64::from_be_bytes(*timestamp) }
            }
            _ => return None,
        })
    }

    /// The whole message that carries it, for clients of both versions. `channel` is a document's.
    pub(crate) fn message(&self, id: &StreamId, channel: u32, position: Position, compress_above: usize) -> Bytes {
        let key = id.key.as_str();
        let (epoch, seq) = (Some(position.epoch), Some(position.seq));
        let (opcode, payload) = match self {
            Self::Patch(patches) => (Opcode::StatePatch, json(&StatePatch { key: key.into(), patches, epoch, seq })),
            Self::Value(value) => return snapshot(key, Some(value), position, compress_above),
            Self::Removed if id.kind == StreamKind::Crdt => {
                return crdt_state(key, RawValue::NULL, position, compress_above);
            }
            Self::Removed => return snapshot(key, None, position, compress_above),
            Self::Event { data, timestamp } => return event(key, data, *timestamp, Some(position), compress_above),
            Self::Operation(op) => (Opcode::CrdtOp, json(&CrdtOp { key: key.into(), op, epoch, seq })),
            Self::State(state) => return crdt_state(key, state, position, compress_above),
            Self::Update(update) => {
                let mut message = vec![0, 2];
                push_varuint(&mut message, update.len() as u64);
                message.extend_from_slice(update);
                return doc(channel, position.seq, &message, compress_above);
            }
            Self::Members(members) => return presence(key, members, false, position, compress_above),
        };
        message::shared(opcode, 0, &payload, compress_above)
    }
}

/// The message of a state's whole value; `None` when the key does not exist.
pub(crate) fn snapshot(key: &str, value: Option<&RawValue>, position: Position, compress_above: usize) -> Bytes {
    let payload = json(&StateSnapshot {
        key: key.into(),
        version: position.seq,
        data: Some(value.unwrap_or(RawValue::NULL)),
        removed: value.is_none(),
        epoch: Some(position.epoch),
        seq: Some(position.seq),
    });
    message::shared(Opcode::StateSnapshot, 0, &payload, compress_above)
}

/// The message of a CRDT's whole state; `null` when the key does not exist.
pub(crate) fn crdt_state(key: &str, state: &RawValue, position: Position, compress_above: usize) -> Bytes {
    let (epoch, seq) = (Some(position.epoch), Some(position.seq));
    let payload = json(&CrdtState { key: key.into(), state, epoch, seq });
    message::shared(Opcode::CrdtState, 0, &payload, compress_above)
}

/// The message of those in a presence room who changed, or of everybody.
pub(crate) fn presence(key: &str, members: &RawValue, whole: bool, position: Position, compress_above: usize) -> Bytes {
    let Position { epoch, seq } = position;
    let payload = json(&ServerPresence { key: key.into(), members, whole, epoch, seq });
    message::shared(Opcode::Presence, 0, &payload, compress_above)
}

/// The message that carries a message of y-protocols; `seq` is 0 for what is no entry.
pub(crate) fn doc(channel: u32, seq: u64, message: &[u8], compress_above: usize) -> Bytes {
    let mut payload = Vec::with_capacity(10 + message.len());
    push_varuint(&mut payload, seq);
    payload.extend_from_slice(message);
    message::shared(Opcode::Doc, channel, &payload, compress_above)
}

/// The message of an event; without a position it belongs to no stream.
pub(crate) fn event(
    name: &str,
    data: &Payload,
    timestamp: u64,
    position: Option<Position>,
    compress_above: usize,
) -> Bytes {
    let head = ServerEvent {
        event: name.into(),
        data: match data {
            Payload::Json(text) => Some(text),
            Payload::Empty | Payload::Binary(_) => None,
        },
        timestamp,
        epoch: position.map(|position| position.epoch),
        seq: position.map(|position| position.seq),
    };
    match data {
        Payload::Binary(bytes) => {
            message::shared(Opcode::ServerEventBinary, 0, &join_binary(&json(&head), bytes), compress_above)
        }
        Payload::Json(_) | Payload::Empty => message::shared(Opcode::ServerEvent, 0, &json(&head), compress_above),
    }
}

/// Writes a wire struct. Those hold strings, numbers and checked JSON text: writing them to memory cannot fail.
pub(crate) fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_the_backend() {
        let text = |text: &str| RawValue::from_string(text.into()).unwrap();
        for entry in [
            Entry::Patch(text(r#"[{"op":"remove","path":"/a"}]"#)),
            Entry::Value(text("null")),
            Entry::Removed,
            Entry::Event { data: Payload::Empty, timestamp: 1 },
            Entry::Event { data: Payload::Json(text("[1]")), timestamp: u64::MAX },
            Entry::Event { data: Payload::Binary(vec![0, 255]), timestamp: 0 },
            Entry::Operation(text(r#"{"op":"none"}"#)),
            Entry::State(text(r#"{"type":"g-set"}"#)),
            Entry::Update(Bytes::from_static(&[0, 0])),
        ] {
            let decoded = Entry::decode(&entry.encode()).unwrap();
            assert_eq!(format!("{entry:?}"), format!("{decoded:?}"));
        }
        for garbage in [&b""[..], b"x", b"p{", b"e1234567", b"v\xff", b"o"] {
            assert!(Entry::decode(garbage).is_none());
        }
    }
}
