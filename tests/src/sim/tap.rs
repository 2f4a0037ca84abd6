//! [`Tap`]: what a client sends to open streams over one connection, and whether it may: no more than the window without
//! an answer, and nothing while the server has asked to wait.

use std::collections::{BTreeMap, BTreeSet};

use datasole_core::{
    Limits, StreamId, StreamKind,
    crdt::{Change, Crdt, CrdtLimits, Op},
    frame::{Codec, Opcode},
    wire::split_varuint,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Stats, site::DOC};

/// Submissions without an answer (`docs/protocol.md`, and the core's for rooms and documents).
fn window(kind: StreamKind) -> usize {
    match kind {
        StreamKind::Crdt => 64,
        StreamKind::Doc => 32,
        _ => 16,
    }
}

/// Something that a client sent to an open stream, or a subscription to one.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) stream: StreamId,
    pub(super) correlation: u32,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Subscribe,
    /// An operation; `None` on version 1, where it has no id.
    Operation(Option<Id>),
    Enter,
    Leave,
    /// What a document lacks: the answer to a comparison.
    Whole,
    Update,
    /// What needs no answer.
    Note,
}

/// An operation's id.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Id {
    #[serde(rename = "nodeId")]
    pub(super) node: String,
    pub(super) counter: u64,
    #[serde(default)]
    pub(super) done: u64,
    pub(super) op: String,
}

#[derive(Deserialize)]
struct Keyed {
    key: String,
    kind: Option<StreamKind>,
    op: Option<Value>,
    value: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Shown {
    key: String,
    op: Option<Box<RawValue>>,
    state: Option<Box<RawValue>>,
}

impl Sent {
    /// What a message of a client is; `None` for what does not concern open streams.
    pub(super) fn read(codec: &mut Codec, message: &[u8]) -> Option<Self> {
        let frame = codec.decode(message, &Limits::default()).unwrap();
        let correlation = frame.correlation;
        let keyed = || serde_json::from_slice::<Keyed>(frame.payload).unwrap();
        let (stream, what) = match frame.opcode {
            Opcode::Subscribe => {
                let Keyed { key, kind, .. } = keyed();
                (StreamId { kind: kind.unwrap(), key }, What::Subscribe)
            }
            Opcode::CrdtOp => {
                let Keyed { key, op, .. } = keyed();
                (StreamId::crdt(key), What::Operation(serde_json::from_value(op.unwrap()).ok()))
            }
            Opcode::Presence => {
                let Keyed { key, value, .. } = keyed();
                (StreamId::presence(key), if value.is_some() { What::Enter } else { What::Leave })
            }
            Opcode::Doc => {
                let (_, message) = split_varuint(frame.payload).unwrap();
                let what = match message {
                    _ if correlation == 0 => What::Note,
                    [0, 1, ..] => What::Whole,
                    _ => What::Update,
                };
                (StreamId::doc(DOC), what)
            }
            _ => return None,
        };
        let open = !matches!(stream.kind, StreamKind::State | StreamKind::Event);
        open.then_some(Self { stream, correlation, what })
    }
}

#[derive(Debug, Default)]
pub(super) struct Tap {
    /// By correlation id: where it went, which operation it was, and when.
    unanswered: BTreeMap<u32, (StreamId, Option<Id>, u64)>,
    /// Nothing is to be sent before.
    waits: BTreeMap<StreamId, u64>,
    followed: BTreeSet<StreamId>,
    /// By stream and replica: the operations that have reached the server.
    arrived: BTreeMap<(StreamId, String), BTreeSet<u64>>,
}

impl Tap {
    /// A client sends this. After `patience` milliseconds it takes what it sent before for lost.
    pub(super) fn sent(&mut self, now: u64, sent: &Sent, patience: u64, stats: &mut Stats) {
        let Sent { stream, correlation, what } = sent;
        match what {
            What::Subscribe => {
                if !self.followed.insert(stream.clone()) {
                    stats.count("followed again");
                }
                return;
            }
            What::Note | What::Leave | What::Operation(None) => return,
            // A comparison stands for all that was sent before.
            What::Whole => self.forget(stream),
            What::Operation(Some(_)) | What::Enter | What::Update => {}
        }
        let id = if let What::Operation(id) = what { id.clone() } else { None };
        if let Some(&until) = self.waits.get(stream) {
            assert!(now >= until, "{what:?} was sent to {stream:?} at {now}, not after {until}");
        }
        self.unanswered.insert(*correlation, (stream.clone(), id, now));
        let open = self.unanswered.values().filter(|(to, _, at)| to == stream && now < at + patience).count();
        assert!(open <= window(stream.kind), "{open} without an answer from {stream:?}");
        if open == window(stream.kind) {
            stats.count("full windows");
        }
    }

    /// An operation reaches the server: after all that were made before, unless it comes again.
    pub(super) fn arrived(&mut self, stream: &StreamId, id: &Id) {
        let arrived = self.arrived.entry((stream.clone(), id.node.clone())).or_default();
        let last = arrived.last().copied().unwrap_or_default();
        assert!(!arrived.insert(id.counter) || id.counter > last, "{id:?} came after {last}");
    }

    /// The client has left a stream: it looks at no answer any more.
    pub(super) fn forget(&mut self, stream: &StreamId) {
        self.unanswered.retain(|_, (to, ..)| to != stream);
        self.waits.remove(stream);
    }

    /// A message comes to the client.
    pub(super) fn received(&mut self, now: u64, codec: &mut Codec, message: &[u8], patience: u64, stats: &mut Stats) {
        let Ok(frame) = codec.decode(message, &Limits::default()) else { return };
        match frame.opcode {
            Opcode::Ack | Opcode::Error => {}
            Opcode::CrdtOp | Opcode::CrdtState => return self.shown(frame.payload),
            _ => return,
        }
        let Some((stream, _, at)) = self.unanswered.remove(&frame.correlation) else { return };
        if frame.opcode == Opcode::Ack || now >= at + patience {
            return;
        }
        let error: Value = serde_json::from_slice(frame.payload).unwrap();
        if let Some(wait) = error["retryAfter"].as_u64() {
            stats.count("told to wait");
            if stream.kind == StreamKind::Doc {
                // What else was sent is compared anew.
                self.forget(&stream);
            }
            let until = self.waits.entry(stream).or_default();
            *until = (now + wait).max(*until);
        }
    }
    /// An entry or a state of a CRDT comes: what it shows to be stored has its answer.
    fn shown(&mut self, payload: &[u8]) {
        if self.unanswered.is_empty() {
            return;
        }
        let Shown { key, op, state } = serde_json::from_slice(payload).unwrap();
        let limits = CrdtLimits::default();
        let op = op.map(|op| Op::parse(op.get(), &limits).unwrap());
        let state = state.and_then(|state| Crdt::from_json(state.get(), &limits).unwrap());
        self.unanswered.retain(|_, (stream, id, _)| {
            let Some(id) = id.as_ref().filter(|_| stream.kind == StreamKind::Crdt && stream.key == key) else {
                return true;
            };
            let is_entry = op.as_ref().is_some_and(|op| shown(op).contains(&(id.node.as_str(), id.counter)));
            !is_entry && !state.as_ref().is_some_and(|state| state.has_seen(&id.node, id.counter))
        });
    }
}

/// The ids that an operation shows to be stored: its own and, of additions that it replaces before they have come, theirs.
pub(super) fn shown(op: &Op) -> Vec<(&str, u64)> {
    let mut ids = vec![(op.node(), op.counter())];
    if let Change::Add(_, dots) | Change::Remove(_, dots) = op.change() {
        ids.extend(dots.iter().map(|(node, counter)| (node.as_ref(), *counter)));
    }
    ids
}
