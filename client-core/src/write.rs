//! How a client writes the payloads of [`wire`](crate::wire): what clients send, and only that.

use serde_json::value::RawValue;

use crate::{
    json::{Object, push_json_string},
    stream::{Position, StreamId},
    wire::{BATCH, SHORT, push_item},
};

/// The payload of an [`Opcode::Call`](crate::frame::Opcode::Call).
pub(crate) fn call(method: &str, params: &RawValue) -> Vec<u8> {
    let mut payload = Vec::new();
    push_item(&mut payload, method.as_bytes());
    payload.extend_from_slice(params.get().as_bytes());
    payload
}

/// An [`RpcRequest`](crate::wire::RpcRequest).
pub(crate) fn request(method: &str, params: Option<&RawValue>, correlation: u32) -> Vec<u8> {
    let mut object = Object::new();
    object.string("method", method);
    if let Some(params) = params {
        object.raw("params", params.get());
    }
    object.number("correlationId", correlation.into());
    object.finish().into()
}

/// A [`ClientEvent`](crate::wire::ClientEvent).
pub(crate) fn event(name: &str, data: Option<&RawValue>) -> Vec<u8> {
    let mut object = Object::new();
    object.string("event", name);
    if let Some(data) = data {
        object.raw("data", data.get());
    }
    object.finish().into()
}

/// A [`Subscribe`](crate::wire::Subscribe).
pub(crate) fn subscribe(stream: &StreamId, since: Option<Position>) -> Vec<u8> {
    let mut object = Object::new();
    object.raw("kind", &quoted(stream.kind.name()));
    object.string("key", &stream.key);
    if let Some(Position { epoch, seq }) = since {
        let mut position = Object::new();
        position.number("epoch", epoch);
        position.number("seq", seq);
        object.raw("since", &position.finish());
    }
    object.finish().into()
}

/// An [`Auth`](crate::wire::Auth), with the features of this client or without.
pub(crate) fn auth(token: Option<&str>, features: bool) -> Vec<u8> {
    let mut object = Object::new();
    object.raw("token", &token.map_or_else(|| "null".into(), quoted));
    if features {
        object.raw("features", &self::features());
    }
    object.finish().into()
}

/// A [`ClientHello`](crate::wire::ClientHello).
pub(crate) fn hello() -> Vec<u8> {
    let mut object = Object::new();
    object.raw("features", &features());
    object.finish().into()
}

/// A [`CrdtOp`](crate::wire::CrdtOp) or a [`ClientPresence`](crate::wire::ClientPresence): `{key}` and one more member, or
/// none.
pub(crate) fn keyed(key: &str, member: &str, value: Option<&RawValue>) -> Vec<u8> {
    let mut object = Object::new();
    object.string("key", key);
    if let Some(value) = value {
        object.raw(member, value.get());
    }
    object.finish().into()
}

/// The features of this client beyond version 2.
fn features() -> String {
    format!("[{},{}]", quoted(BATCH), quoted(SHORT))
}

fn quoted(content: &str) -> String {
    let mut text = String::new();
    push_json_string(&mut text, content);
    text
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::{stream::StreamKind, wire};

    /// The payload must be the text of its structure.
    fn check(payload: &[u8], structure: impl Serialize) {
        assert_eq!(std::str::from_utf8(payload).unwrap(), serde_json::to_string(&structure).unwrap());
    }

    #[test]
    fn payloads_are_written_as_their_structures_are() {
        let raw = RawValue::from_string("[1, null]".into()).unwrap();
        for (name, value) in [("m", None), ("a\"\n", Some(&*raw))] {
            let params = value;
            check(&request(name, params, 7), wire::RpcRequest { method: name.into(), params, correlation_id: 7 });
            check(&event(name, value), wire::ClientEvent { event: name.into(), data: value });
            check(&keyed(name, "value", value), wire::ClientPresence { key: name.into(), value });
            check(&keyed(name, "op", Some(&raw)), wire::CrdtOp { key: name.into(), op: &raw, epoch: None, seq: None });
        }
        for kind in StreamKind::ALL {
            for since in [None, Some(Position { epoch: 3, seq: u64::MAX })] {
                let stream = StreamId { kind, key: "k\"".into() };
                check(&subscribe(&stream, since), wire::Subscribe { kind, key: "k\"".into(), since });
            }
        }
        let features = vec![BATCH.into(), SHORT.into()];
        check(&hello(), wire::ClientHello { features: features.clone() });
        for token in [None, Some("t\"")] {
            check(&auth(token, true), wire::Auth { token: token.map(Into::into), features: features.clone() });
            check(&auth(token, false), wire::Auth { token: token.map(Into::into), features: Vec::new() });
        }
    }
}
