//! How a client reads the payloads of [`wire`](crate::wire): what servers send, and only that.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{
    json::{boolean, elements, integer, members, optional, string, unsigned},
    wire::{
        ErrorBody, Hello, HelloLimits, RpcErrorBody, RpcResponse, ServerEvent, StatePatch, StateSnapshot, Subscribed,
    },
};

/// A payload, or `None` when it is not what it should be. Agrees with the structure's own `Deserialize`.
pub(crate) trait Read<'a>: Sized {
    fn read(json: &'a [u8]) -> Option<Self>;
}

impl<'a> Read<'a> for RpcResponse<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut result, mut error) = (None, None);
        members(json, &mut |name, value| {
            match name {
                "result" => result = Some(value),
                "error" => error = optional(value, |value| RpcErrorBody::read(value.get().as_bytes()))?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { correlation_id: 0, result, error })
    }
}

impl<'a> Read<'a> for RpcErrorBody<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut code, mut message, mut data) = (None, None, None);
        members(json, &mut |name, value| {
            match name {
                "code" => code = Some(integer(value)?),
                "message" => message = Some(string(value)?),
                "data" => data = Some(value),
                _ => {}
            }
            Some(())
        })?;
        Some(Self { code: code?, message: message?, data })
    }
}

impl<'a> Read<'a> for ErrorBody<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut message, mut code, mut retry_after) = (None, None, None);
        members(json, &mut |name, value| {
            match name {
                "message" => message = Some(string(value)?),
                "code" => code = optional(value, integer)?,
                "retryAfter" => retry_after = optional(value, unsigned)?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { message: message?, code, retry_after })
    }
}

impl<'a> Read<'a> for ServerEvent<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut event, mut data, mut timestamp, mut epoch, mut seq) = (None, None, 0, None, None);
        members(json, &mut |name, value| {
            match name {
                "event" => event = Some(string(value)?),
                "data" => data = Some(value),
                "timestamp" => timestamp = unsigned(value)?,
                "epoch" => epoch = optional(value, unsigned)?,
                "seq" => seq = optional(value, unsigned)?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { event: event?, data, timestamp, epoch, seq })
    }
}

impl<'a> Read<'a> for StatePatch<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut key, mut patches, mut epoch, mut seq) = (None, None, None, None);
        members(json, &mut |name, value| {
            match name {
                "key" => key = Some(string(value)?),
                "patches" => patches = Some(value),
                "epoch" => epoch = optional(value, unsigned)?,
                "seq" => seq = optional(value, unsigned)?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { key: key?, patches: patches?, epoch, seq })
    }
}

impl<'a> Read<'a> for StateSnapshot<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut key, mut version, mut data, mut removed) = (None, 0, None, false);
        let (mut epoch, mut seq) = (None, None);
        members(json, &mut |name, value| {
            match name {
                "key" => key = Some(string(value)?),
                "version" => version = unsigned(value)?,
                "data" => data = Some(value),
                "removed" => removed = boolean(value)?,
                "epoch" => epoch = optional(value, unsigned)?,
                "seq" => seq = optional(value, unsigned)?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { key: key?, version, data, removed, epoch, seq })
    }
}

impl<'a> Read<'a> for Subscribed {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut epoch, mut seq, mut recovered, mut channel) = (None, None, None, None);
        members(json, &mut |name, value| {
            match name {
                "epoch" => epoch = Some(unsigned(value)?),
                "seq" => seq = Some(unsigned(value)?),
                "recovered" => recovered = Some(boolean(value)?),
                "channel" => channel = optional(value, |value| unsigned(value)?.try_into().ok())?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self { epoch: epoch?, seq: seq?, recovered: recovered?, channel })
    }
}

impl<'a> Read<'a> for Hello<'a> {
    fn read(json: &'a [u8]) -> Option<Self> {
        let (mut protocol, mut connection_id, mut user_id, mut contract, mut epoch) = (None, None, None, None, 0);
        let (mut time, mut heartbeat, mut limits, mut reconnect_window) = (None, None, None, None);
        let mut features = Vec::new();
        members(json, &mut |name, value| {
            match name {
                "protocol" => protocol = Some(unsigned(value)?.try_into().ok()?),
                "connectionId" => connection_id = Some(string(value)?),
                "userId" => user_id = optional(value, string)?,
                "contract" => contract = optional(value, string)?,
                "epoch" => epoch = unsigned(value)?,
                "time" => time = optional(value, unsigned)?,
                "heartbeat" => heartbeat = Some(unsigned(value)?),
                "limits" => limits = Some(HelloLimits::read(value.get().as_bytes())?),
                "reconnectWindow" => reconnect_window = optional(value, unsigned)?,
                "features" => elements(value, &mut |feature| {
                    features.push(string(feature)?);
                    Some(())
                })?,
                _ => {}
            }
            Some(())
        })?;
        Some(Self {
            protocol: protocol?,
            connection_id: connection_id?,
            user_id,
            epoch,
            time,
            heartbeat: heartbeat?,
            limits: limits?,
            reconnect_window,
            features,
            contract,
        })
    }
}

impl<'a> Read<'a> for HelloLimits {
    fn read(json: &'a [u8]) -> Option<Self> {
        let [mut payload, mut compress, mut subscriptions, mut calls, mut event] = [None; 5];
        members(json, &mut |name, value| {
            let limit = match name {
                "maxPayload" => &mut payload,
                "compressAbove" => &mut compress,
                "maxSubscriptions" => &mut subscriptions,
                "maxPendingCalls" => &mut calls,
                "maxEventName" => &mut event,
                _ => return Some(()),
            };
            *limit = Some(usize::try_from(unsigned(value)?).ok()?);
            Some(())
        })?;
        Some(Self {
            max_payload: payload?,
            compress_above: compress?,
            max_subscriptions: subscriptions?,
            max_pending_calls: calls?,
            max_event_name: event?,
        })
    }
}

/// [`CrdtOp`](crate::wire::CrdtOp), [`CrdtState`](crate::wire::CrdtState) and
/// [`ServerPresence`](crate::wire::ServerPresence): they differ in the name of what they carry.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, str>,
    /// The member `op`, `state` or `members`, as text.
    pub(crate) body: &'a RawValue,
    pub(crate) whole: bool,
    pub(crate) epoch: Option<u64>,
    pub(crate) seq: Option<u64>,
}

impl<'a> Entry<'a> {
    /// Reads the one whose member `body` is.
    pub(crate) fn read(json: &'a [u8], body: &str) -> Option<Self> {
        let (mut key, mut content, mut whole, mut epoch, mut seq) = (None, None, body == "state", None, None);
        members(json, &mut |name, value| {
            match name {
                "key" => key = Some(string(value)?),
                // Of a state it says nothing new.
                "whole" if body == "members" => whole = boolean(value)?,
                "epoch" => epoch = optional(value, unsigned)?,
                "seq" => seq = optional(value, unsigned)?,
                name if name == body => content = Some(value),
                _ => {}
            }
            Some(())
        })?;
        Some(Self { key: key?, body: content?, whole, epoch, seq })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::Deserialize;

    use super::*;
    use crate::wire;

    /// A payload, whole and with every member left out or replaced.
    fn variations(payload: &str) -> Vec<&'static str> {
        let members: Vec<(String, serde_json::Value)> =
            serde_json::from_str::<serde_json::Map<_, _>>(payload).unwrap().into_iter().collect();
        let mut texts = vec![payload.to_owned(), "[]".into(), "{".into()];
        for at in 0..members.len() {
            let without =
                members.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, member)| member.clone());
            texts.push(serde_json::Value::from_iter(without).to_string());
            for other in ["null", "7", "-7", "0.5", "true", r#""text""#, "{}", "[]"] {
                let mut changed = members.clone();
                changed[at].1 = serde_json::from_str(other).unwrap();
                texts.push(serde_json::Value::from_iter(changed).to_string());
            }
        }
        texts.into_iter().map(|text| &*text.leak()).collect()
    }

    /// Reads variations of a payload here and by `Deserialize`.
    fn check<'a, T: Read<'a> + Deserialize<'a> + Debug>(payload: &str) {
        for text in variations(payload) {
            let ours = T::read(text.as_bytes());
            // A structure is an object here; serde would also take an array.
            let theirs = serde_json::from_str::<T>(text).ok().filter(|_| text.starts_with('{'));
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
        }
    }

    /// The same for an [`Entry`] in three guises.
    fn check_entry(payload: &str, body: &str, theirs: fn(&'static str) -> serde_json::Result<Entry<'static>>) {
        for text in variations(payload) {
            let ours = Entry::read(text.as_bytes(), body);
            let theirs = theirs(text).ok().filter(|_| text.starts_with('{'));
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
        }
    }

    #[test]
    fn entries_are_read_as_deserialize_reads_them() {
        check_entry(r#"{"key":"k","op":{"a":1},"epoch":2,"seq":3,"whole":7}"#, "op", |text| {
            let wire::CrdtOp { key, op, epoch, seq } = serde_json::from_str(text)?;
            Ok(Entry { key, body: op, whole: false, epoch, seq })
        });
        check_entry(r#"{"key":"k","state":{"a":1},"epoch":2,"seq":3,"op":4}"#, "state", |text| {
            let wire::CrdtState { key, state, epoch, seq } = serde_json::from_str(text)?;
            Ok(Entry { key, body: state, whole: true, epoch, seq })
        });
    }

    #[test]
    fn members_of_a_room_are_read_as_deserialize_reads_them() {
        let payload = r#"{"key":"k","members":[],"whole":true,"epoch":2,"seq":3}"#;
        for text in variations(payload) {
            // Without a position it is refused later on.
            let ours = Entry::read(text.as_bytes(), "members").filter(|entry| entry.epoch.and(entry.seq).is_some());
            let theirs = serde_json::from_str::<wire::ServerPresence<'_>>(text).ok().filter(|_| text.starts_with('{'));
            let theirs = theirs.map(|wire::ServerPresence { key, members, whole, epoch, seq }| Entry {
                key,
                body: members,
                whole,
                epoch: Some(epoch),
                seq: Some(seq),
            });
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
        }
    }

    #[test]
    fn payloads_are_read_as_deserialize_reads_them() {
        check::<RpcResponse<'_>>(r#"{"result":{"a":[1]},"other":1}"#);
        check::<RpcResponse<'_>>(r#"{"error":{"code":-32000,"message":"b\u006fom","data":null}}"#);
        check::<RpcErrorBody<'_>>(r#"{"code":1,"message":"m","data":[1]}"#);
        check::<ErrorBody<'_>>(r#"{"message":"m","code":-1,"retryAfter":5}"#);
        check::<ServerEvent<'_>>(r#"{"event":"e","data":{},"timestamp":1,"epoch":2,"seq":3}"#);
        check::<StatePatch<'_>>(r#"{"key":"k","patches":[{"op":"remove","path":"/a"}],"epoch":2,"seq":3}"#);
        check::<StateSnapshot<'_>>(r#"{"key":"k","version":1,"data":null,"removed":true,"epoch":2,"seq":3}"#);
        check::<Subscribed>(r#"{"epoch":1,"seq":2,"recovered":true,"channel":4}"#);
        check::<HelloLimits>(
            r#"{"maxPayload":1,"compressAbove":2,"maxSubscriptions":3,"maxPendingCalls":4,"maxEventName":5}"#,
        );
        check::<Hello<'_>>(
            r#"{"protocol":2,"connectionId":"c","userId":"u","epoch":1,"time":8,"heartbeat":9,"reconnectWindow":3,
                "features":["batch","later"],"contract":"a1","limits":
                {"maxPayload":1,"compressAbove":2,"maxSubscriptions":3,"maxPendingCalls":4,"maxEventName":5}}"#,
        );
    }
}
