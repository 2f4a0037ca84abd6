//! What a client may be told, and in which order: every event of the core is checked as it comes.

use std::collections::{BTreeMap, BTreeSet};

use datasole_core::{
    CallError, CallId, Event, Payload, Position, Status, StreamKind, codes,
    patch::{Patch, PatchLimits, apply},
    tree::{Tree, parse},
};
use serde_json::{Value, value::RawValue};

use super::Stats;

/// What the host of a client knows by the events alone.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The version of the last connection.
    pub(super) protocol: u8,
    pub(super) connected: bool,
    pub(super) states: BTreeMap<String, State>,
    topics: BTreeMap<String, Topic>,
    pub(super) calls: BTreeMap<CallId, Call>,
    notes: BTreeSet<u64>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) value: Option<Tree>,
    position: Option<Position>,
    /// `Subscribed { recovered: false }` came, and the snapshot has not.
    pub(super) awaited: bool,
    /// `Subscribed { recovered: true }` came before there was an entry: it may be the first of another life.
    unborn: bool,
}

#[derive(Debug, Default)]
struct Topic {
    /// The server's life and the event's number in it.
    last: Option<(u64, u64)>,
    /// The host has asked for it. Version 1 clients get other topics, too, and nobody tells them of what they missed.
    followed: bool,
    /// The client has been told that events may be missing.
    told: bool,
}

/// A call that was accepted.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) nonce: u64,
    pub(super) params: Payload,
    /// The latest end on the world's clock; `None` when the client's own has been tampered with.
    pub(super) until: Option<u64>,
}

impl Watch {
    pub(super) fn event(&mut self, now: u64, event: Event, stats: &mut Stats) {
        match event {
            Event::Status(status) => self.status(&status),
            Event::CallDone { call, outcome } => self.done(now, call, outcome, stats),
            Event::Message { event, payload, .. } => self.message(&event, &payload, stats),
            Event::Subscribed { stream, recovered, .. } => {
                assert!(self.connected, "subscribed without a connection");
                stats.count(if recovered { "recovered" } else { "not recovered" });
                match stream.kind {
                    StreamKind::State => {
                        let state = self.states.entry(stream.key).or_default();
                        assert!(!recovered || state.position.is_some(), "recovered what was never there");
                        state.awaited = !recovered && self.protocol == 2;
                        state.unborn = recovered && state.position.is_some_and(|last| last.seq == 0);
                    }
                    _ => {
                        let topic = self.topics.entry(stream.key).or_default();
                        topic.followed = true;
                        topic.told |= !recovered;
                    }
                }
            }
            Event::Refused { stream, code, message, .. } => panic!("{stream:?} was refused: {code} {message}"),
            Event::Snapshot { key, value, position } => {
                stats.count("snapshots");
                let state = self.states.entry(key).or_default();
                if let Some(last) = state.position
                    && !state.awaited
                {
                    let is_another = position.epoch != last.epoch;
                    assert!(!is_another || state.unborn, "another life without having subscribed");
                    assert!(position.seq > last.seq, "a snapshot of the past: {position:?} after {last:?}");
                    if position.seq > last.seq + 1 {
                        assert_eq!(self.protocol, 2, "{position:?} after {last:?}");
                        stats.count("conflated");
                    }
                } else {
                    assert!(state.awaited || self.protocol == 1, "a snapshot nobody has asked for");
                }
                let value = value.map(|raw| parse(raw.get()).unwrap());
                *state = State { value, position: Some(position), ..State::default() };
            }
            Event::Patch { key, ops, position } => {
                stats.count("patches");
                self.patch(&key, &ops, position);
            }
            other => panic!("nobody has opened that: {other:?}"),
        }
    }

    fn status(&mut self, status: &Status) {
        let Status::Connected { protocol, .. } = *status else {
            self.connected = false;
            return;
        };
        self.connected = true;
        if self.protocol != protocol {
            self.protocol = protocol;
            self.states.values_mut().for_each(|state| state.position = None);
        }
    }

    fn patch(&mut self, key: &str, ops: &RawValue, position: Position) {
        let state = self.states.get_mut(key).expect("a patch of what is not there");
        assert!(!state.awaited, "a patch before the snapshot");
        let last = state.position.expect("a patch of what has no position");
        let epoch = if std::mem::take(&mut state.unborn) { position.epoch } else { last.epoch };
        assert_eq!(position, Position { epoch, seq: last.seq + 1 }, "not the next of {key}");
        state.position = Some(position);
        let limits = PatchLimits::default();
        let patch = Patch::parse(ops.get(), &limits).unwrap();
        apply(state.value.as_mut().expect("a patch of a state that was removed"), &patch, &limits).unwrap();
    }

    fn message(&mut self, event: &str, payload: &Payload, stats: &mut Stats) {
        stats.count("messages");
        let data: Value = serde_json::from_str(payload.as_json().unwrap()).unwrap();
        if event == "note" {
            assert!(self.notes.insert(data.as_u64().unwrap()), "a note came twice");
            return;
        }
        assert!(self.protocol == 1 || self.topics.contains_key(event), "an event of {event}, which nobody follows");
        let topic = self.topics.entry(event.into()).or_default();
        let at = (data["life"].as_u64().unwrap(), data["n"].as_u64().unwrap());
        if let Some((life, n)) = topic.last {
            assert!(at > (life, n), "{event} {at:?} after {:?}", topic.last);
            assert!(
                !topic.followed || topic.told || at == (life, n + 1),
                "{event} {at:?} after {:?}: some were lost",
                topic.last
            );
        }
        topic.last = Some(at);
        topic.told = false;
    }

    fn done(&mut self, now: u64, id: CallId, outcome: Result<Payload, CallError>, stats: &mut Stats) {
        let Call { method, nonce, params, until } = self.calls.remove(&id).expect("a call ended twice");
        assert!(until.is_none_or(|until| now <= until), "{method} ended at {now}, not until {until:?}");
        match outcome {
            Ok(result) => {
                stats.count("answered");
                match (method, &params, &result) {
                    ("bytes", Payload::Binary(sent), Payload::Binary(got)) => assert_eq!(got, sent),
                    ("later", ..) => assert_eq!(result.as_json(), Some(nonce.to_string().as_str())),
                    ("bump", ..) => assert!(result.as_json().unwrap().parse::<u64>().is_ok()),
                    ("echo", Payload::Json(sent), Payload::Json(got)) => assert_eq!(got.get(), sent.get()),
                    _ => panic!("{method} answered {result:?}"),
                }
            }
            Err(CallError::Server { code, data, .. }) => {
                stats.count("failed");
                match (method, code) {
                    ("fail", codes::HANDLER) => assert_eq!(data.unwrap().get(), nonce.to_string()),
                    ("missing", codes::METHOD_NOT_FOUND) => {}
                    ("later", codes::HANDLER) => {}
                    (_, codes::LIMIT) => stats.count("limited"),
                    _ => panic!("{method} failed with {code}"),
                }
            }
            Err(CallError::Timeout { .. }) => stats.count("timed out"),
            Err(CallError::ConnectionLost { .. }) => stats.count("lost"),
            Err(CallError::Cancelled) => stats.count("cancelled"),
            Err(CallError::Closed) => stats.count("closed"),
            Err(CallError::Refused(_)) if method == "bytes" => stats.count("refused"),
            Err(error) => panic!("{method}: {error}"),
        }
    }

    /// The host follows a stream no more.
    pub(super) fn forget(&mut self, kind: StreamKind, key: &str) {
        if kind == StreamKind::Event {
            self.topics.remove(key);
        } else if self.protocol != 1 || self.states.get(key).is_none_or(|state| state.position.is_none()) {
            // What a version 1 server has sent it will go on sending.
            self.states.remove(key);
        }
    }

    /// The host has asked for everything again.
    pub(super) fn resynced(&mut self, kind: StreamKind, key: &str) {
        if kind == StreamKind::Event
            && let Some(topic) = self.topics.get_mut(key)
        {
            topic.told = true;
        }
    }

    /// The last event of a topic.
    pub(super) fn last(&self, topic: &str) -> Option<(u64, u64)> {
        self.topics.get(topic)?.last
    }
}
