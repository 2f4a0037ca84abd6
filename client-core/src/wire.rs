//! Payloads of frames: what each opcode carries, for both halves. `docs/protocol.md` is the same in words.
//!
//! Borrowing structs read a payload without copying what is only forwarded: application data stays raw JSON text.
//! Unknown members are ignored, on both versions.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::stream::{Position, StreamKind};

/// The subprotocols a client offers, in this order: a server on `ws` echoes the first, ours picks the second.
pub const SUBPROTOCOLS: &[&str; 2] = &["datasole.v1", "datasole.v2"];

/// A feature of HELLO, CLIENT and AUTH: the peer reads [`Opcode::Batch`](crate::frame::Opcode::Batch).
pub const BATCH: &str = "batch";

/// A feature likewise: the peer reads [`Opcode::Entry`](crate::frame::Opcode::Entry) and
/// [`Opcode::Result`](crate::frame::Opcode::Result), or as a server [`Opcode::Call`](crate::frame::Opcode::Call).
pub const SHORT: &str = "short";

/// Close code: fell behind.
pub const CLOSE_FELL_BEHIND: u16 = 4001;
/// Close code: unauthorized or expired.
pub const CLOSE_UNAUTHORIZED: u16 = 4002;
/// Close code: unknown key.
pub const CLOSE_UNKNOWN_KEY: u16 = 4003;
/// Close code: invalid message.
pub const CLOSE_INVALID: u16 = 4004;

/// [`Opcode::RpcRequest`](crate::frame::Opcode::RpcRequest).
#[derive(Debug, Serialize, Deserialize)]
pub struct RpcRequest<'a> {
    /// The method's name.
    #[serde(borrow)]
    pub method: Cow<'a, str>,
    /// Absent counts as `null`.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub params: Option<&'a RawValue>,
    /// Equal to the header's; kept for version 1.
    #[serde(rename = "correlationId", default)]
    pub correlation_id: u32,
}

/// [`Opcode::RpcResponse`](crate::frame::Opcode::RpcResponse).
#[derive(Debug, Serialize, Deserialize)]
pub struct RpcResponse<'a> {
    /// Equal to the header's; kept for version 1.
    #[serde(rename = "correlationId", default)]
    pub correlation_id: u32,
    /// Absent for a void result.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub result: Option<&'a RawValue>,
    /// Instead of a result.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcErrorBody<'a>>,
}

/// The error of an [`RpcResponse`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RpcErrorBody<'a> {
    /// See [`codes`](crate::codes).
    pub code: i32,
    /// For people.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// For programs.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
}

/// [`Opcode::ClientEvent`](crate::frame::Opcode::ClientEvent).
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientEvent<'a> {
    /// Its name.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// Its data.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
}

/// [`Opcode::ServerEvent`](crate::frame::Opcode::ServerEvent). With `epoch` and `seq` it is an entry of the topic's
/// stream, without them it was sent to this connection, user or room and belongs to no stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerEvent<'a> {
    /// Its name.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// Its data.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// Unix milliseconds.
    #[serde(default)]
    pub timestamp: u64,
    /// The stream's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stream's sequence number after this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// [`Opcode::StatePatch`](crate::frame::Opcode::StatePatch). `epoch` and `seq` are absent from version 1 servers.
#[derive(Debug, Serialize, Deserialize)]
pub struct StatePatch<'a> {
    /// The state's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// A JSON array of RFC 6902 operations.
    #[serde(borrow)]
    pub patches: &'a RawValue,
    /// The stream's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stream's sequence number after this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// [`Opcode::StateSnapshot`](crate::frame::Opcode::StateSnapshot): an entry that replaces the value, or the start of a
/// subscription that could not be resumed. `epoch` and `seq` are absent from version 1 servers.
#[derive(Debug, Serialize, Deserialize)]
pub struct StateSnapshot<'a> {
    /// The state's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// Version 1's name for `seq`.
    #[serde(default)]
    pub version: u64,
    /// The whole value.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a RawValue>,
    /// The key does not exist; `data` is then `null` for version 1's sake.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The stream's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stream's sequence number after this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// [`Opcode::CrdtOp`](crate::frame::Opcode::CrdtOp). `epoch` and `seq` make it an entry of the key's stream; a client
/// sends neither.
#[derive(Debug, Serialize, Deserialize)]
pub struct CrdtOp<'a> {
    /// The CRDT's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The operation, a JSON object.
    #[serde(borrow)]
    pub op: &'a RawValue,
    /// The stream's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stream's sequence number after this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// [`Opcode::CrdtState`](crate::frame::Opcode::CrdtState). `epoch` and `seq` are absent from version 1 servers.
#[derive(Debug, Serialize, Deserialize)]
pub struct CrdtState<'a> {
    /// The CRDT's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The whole state; `null` when the key does not exist.
    #[serde(borrow)]
    pub state: &'a RawValue,
    /// The stream's epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The stream's sequence number after this entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

/// [`Opcode::Presence`](crate::frame::Opcode::Presence) from a client.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientPresence<'a> {
    /// The room's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// What to be seen with; absent to leave.
    #[serde(borrow, default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub value: Option<&'a RawValue>,
}

/// [`Opcode::Presence`](crate::frame::Opcode::Presence) from a server: who changed, or everybody.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerPresence<'a> {
    /// The room's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// A JSON array of `{id, userId, value}`; one without `value` is gone.
    #[serde(borrow)]
    pub members: &'a RawValue,
    /// Whether these are all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
    /// The stream's epoch.
    pub epoch: u64,
    /// The stream's sequence number after this entry.
    pub seq: u64,
}

/// [`Opcode::Error`](crate::frame::Opcode::Error). Its correlation id is the refused frame's.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody<'a> {
    /// For people.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// See [`codes`](crate::codes); absent from version 1 servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Try again after this many milliseconds.
    #[serde(rename = "retryAfter", default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// [`Opcode::Hello`](crate::frame::Opcode::Hello).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello<'a, L = HelloLimits> {
    /// 2.
    pub protocol: u8,
    /// This connection's id.
    #[serde(borrow)]
    pub connection_id: Cow<'a, str>,
    /// The user, as authenticated.
    #[serde(borrow, default)]
    pub user_id: Option<Cow<'a, str>>,
    /// Changes when the server starts; streams have epochs of their own.
    #[serde(default)]
    pub epoch: u64,
    /// The server's clock; Unix milliseconds. It corrects the clock of CRDTs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
    /// The heartbeat interval; milliseconds.
    pub heartbeat: u64,
    /// What the server accepts.
    pub limits: L,
    /// The window in which clients spread their attempts when this server goes away; milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_window: Option<u64>,
    /// The server's features beyond version 2; absent where there are none.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Cow<'a, str>>,
    /// The hash of the server's contract; absent where there is none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<Cow<'a, str>>,
}

impl Hello<'_> {
    /// Whether the server has a feature.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|own| own == feature)
    }
}

/// [`Opcode::Client`](crate::frame::Opcode::Client).
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientHello<'a> {
    /// The client's features beyond version 2.
    #[serde(borrow, default)]
    pub features: Vec<Cow<'a, str>>,
}

/// The limits of a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloLimits {
    /// Longest payload; bytes.
    pub max_payload: usize,
    /// Longer frames should be compressed; bytes of header and payload.
    pub compress_above: usize,
    /// Subscriptions per connection.
    pub max_subscriptions: usize,
    /// Calls without an answer per connection.
    pub max_pending_calls: usize,
    /// Longest event name; bytes.
    pub max_event_name: usize,
}

/// All limits that our server announces: those of [`HelloLimits`], and more that our clients do not need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerLimits {
    /// The answer that a client goes by.
    #[serde(flatten)]
    pub common: HelloLimits,
    /// Longest key of a stream; bytes.
    pub max_key: usize,
    /// Presence rooms per connection.
    pub max_rooms: usize,
    /// Longest value in a presence room; bytes.
    pub max_presence: usize,
    /// Longest document, as one update; bytes.
    pub max_doc: usize,
    /// Longest value of a CRDT; bytes.
    pub max_crdt_value: usize,
    /// Containers nested in each other within one value of a CRDT.
    pub max_crdt_depth: usize,
    /// Longest state of a CRDT; bytes.
    pub max_crdt: usize,
    /// Entries of a CRDT.
    pub max_crdt_entries: usize,
    /// Longest key of an entry of a map; bytes.
    pub max_crdt_key: usize,
    /// Longest name of a replica; bytes.
    pub max_crdt_node: usize,
    /// Additions that one operation may name.
    pub max_crdt_dots: usize,
    /// Operations of a replica beyond the first that is missing.
    pub max_crdt_ahead: usize,
    /// The most by which one operation changes a counter.
    pub max_crdt_amount: u64,
    /// Keys of CRDTs that one connection may create.
    pub max_crdt_keys: usize,
}

/// [`Opcode::Auth`](crate::frame::Opcode::Auth).
#[derive(Debug, Serialize, Deserialize)]
pub struct Auth<'a> {
    /// The token; `null` for none.
    #[serde(borrow, default)]
    pub token: Option<Cow<'a, str>>,
    /// As of [`ClientHello`], where AUTH comes first and CLIENT is left out.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Cow<'a, str>>,
}

/// [`Opcode::Authed`](crate::frame::Opcode::Authed).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authed<'a> {
    /// The user, as authenticated.
    #[serde(borrow, default)]
    pub user_id: Option<Cow<'a, str>>,
}

/// [`Opcode::Subscribe`](crate::frame::Opcode::Subscribe). The header's correlation id names the subscription until it
/// is unsubscribed or refused; it is never 0.
#[derive(Debug, Serialize, Deserialize)]
pub struct Subscribe<'a> {
    /// The stream's kind.
    pub kind: StreamKind,
    /// The stream's key.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// What the client has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Position>,
}

/// [`Opcode::Subscribed`](crate::frame::Opcode::Subscribed). With `recovered`, every entry after `since` follows;
/// without, a state's snapshot does, and an event topic goes on from here.
#[derive(Debug, Serialize, Deserialize)]
pub struct Subscribed {
    /// The stream's epoch.
    pub epoch: u64,
    /// The stream's position before the first frame that follows.
    pub seq: u64,
    /// Whether nothing was missed.
    pub recovered: bool,
    /// The name of a document in [`Opcode::Doc`](crate::frame::Opcode::Doc) frames of this connection, and of a state or topic in
    /// [`Opcode::Entry`](crate::frame::Opcode::Entry) frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<u32>,
}

/// The JSON part of a frame with raw bytes: its length as u32 big-endian, the JSON, then the bytes to the end.
///
/// ```
/// use datasole_core::wire::{join_binary, split_binary};
/// let payload = join_binary(br#"{"event":"blob"}"#, &[1, 2, 3]);
/// assert_eq!(split_binary(&payload), Some((&br#"{"event":"blob"}"#[..], &[1u8, 2, 3][..])));
/// assert_eq!(split_binary(&[0, 0, 0, 9, b'{']), None);
/// ```
pub fn split_binary(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The inverse of [`split_binary`].
pub fn join_binary(json: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(4 + json.len() + bytes.len());
    payload.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_be_bytes());
    payload.extend_from_slice(json);
    payload.extend_from_slice(bytes);
    payload
}

/// Appends a number as lib0 writes it: seven bits a byte, the lowest first, all but the last with the high bit set.
///
/// ```
/// use datasole_core::wire::{push_varuint, split_varuint};
/// let mut bytes = Vec::new();
/// push_varuint(&mut bytes, 300);
/// assert_eq!(bytes, [0xac, 0x02]);
/// assert_eq!(split_varuint(&[0xac, 0x02, 7]), Some((300, &[7u8][..])));
/// assert_eq!(split_varuint(&[0xac]), None);
/// ```
pub fn push_varuint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number at the beginning, and what follows it; `None` when it is cut off or over 64 bits.
pub fn split_varuint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * at);
        if byte < 0x80 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

/// Appends one message to the payload of a [`Opcode::Batch`](crate::frame::Opcode::Batch): its length as a varuint, and the
/// message as it would be sent alone.
pub fn push_item(payload: &mut Vec<u8>, message: &[u8]) {
    push_varuint(payload, message.len() as u64);
    payload.extend_from_slice(message);
}

/// The first message in the payload of a [`Opcode::Batch`](crate::frame::Opcode::Batch), and what follows; `None` when it is
/// cut off, or there is none.
///
/// ```
/// use datasole_core::wire::{push_item, split_item};
/// let mut payload = Vec::new();
/// push_item(&mut payload, b"one");
/// push_item(&mut payload, b"");
/// assert_eq!(split_item(&payload), Some((&b"one"[..], &[0][..])));
/// assert_eq!(split_item(&payload[..3]), None);
/// ```
pub fn split_item(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_varuint(payload)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// `null` is a value, not an absence: serde's `Option` would lose the difference.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_not_absence() {
        let null: RpcResponse<'_> = serde_json::from_str(r#"{"correlationId":1,"result":null}"#).unwrap();
        assert_eq!(null.result.map(RawValue::get), Some("null"));
        let void: RpcResponse<'_> = serde_json::from_str(r#"{"correlationId":1}"#).unwrap();
        assert!(void.result.is_none());
        let state: StateSnapshot<'_> = serde_json::from_str(r#"{"key":"k","version":1,"data":null}"#).unwrap();
        assert_eq!(state.data.map(RawValue::get), Some("null"));
    }

    #[test]
    fn varuints_are_read_as_they_are_written() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), (1 << 53) - 1, u64::MAX] {
            let mut bytes = Vec::new();
            push_varuint(&mut bytes, number);
            assert_eq!(split_varuint(&bytes), Some((number, &[][..])));
            assert_eq!(split_varuint(&bytes[..bytes.len() - 1]), None, "{number}, cut off");
        }
        for overlong in [&[0xff; 10][..], &[0x80; 20], &[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]] {
            assert_eq!(split_varuint(overlong), None);
        }
    }

    #[test]
    fn binary_parts_are_bounded_by_the_payload() {
        for (payload, parts) in [
            (&[][..], None),
            (&[0, 0, 0][..], None),
            (&[0, 0, 0, 0][..], Some((&[][..], &[][..]))),
            (&[0, 0, 0, 1][..], None),
            (&[255, 255, 255, 255, 1][..], None),
        ] {
            assert_eq!(split_binary(payload), parts);
        }
    }
}
