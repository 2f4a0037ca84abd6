//! What a stream amounts to, by its kind: how it is restored from the backend, kept there, and shown to a follower.

use std::time::Duration;

use bytes::Bytes;
use datasole_core::{
    Position, StreamId, StreamKind,
    crdt::{Crdt, CrdtLimits, Op},
    patch,
};
use serde_json::{Value, value::to_raw_value};

use super::entry::{self, Entry};
#[cfg(feature = "docs")]
use crate::primitives::docs::Shared;
use crate::{
    backend::{BackendError, Stored},
    connection::Protocol,
    limits::Limits,
    primitives::{crdt, presence::Room},
};

/// What a stream has come to by its entries.
#[derive(Debug)]
pub(crate) enum Content {
    /// Events come to nothing.
    Topic,
    State(StateValue),
    /// Nothing until its first operation.
    Crdt(Option<Box<Crdt>>),
    Room(Room),
    #[cfg(feature = "docs")]
    Doc(Box<Shared>),
}

/// A state's value, and an upper bound of its length as JSON text.
#[derive(Debug, Default)]
pub(crate) struct StateValue {
    pub(crate) value: Option<Value>,
    pub(crate) bound: usize,
}

impl Content {
    /// That of a stream which the backend holds like this, or not at all.
    #[cfg_attr(not(feature = "docs"), expect(unused_variables, reason = "only documents have such limits"))]
    pub(crate) fn restore(id: &StreamId, stored: Option<&Stored>, limits: &Limits) -> Result<Self, BackendError> {
        Ok(match id.kind {
            StreamKind::State => Self::State(match stored {
                Some(stored) => restore_state(id, stored)?,
                None => StateValue::default(),
            }),
            StreamKind::Crdt => Self::Crdt(match stored {
                Some(stored) => restore_crdt(id, stored)?.map(Box::new),
                None => None,
            }),
            #[cfg(feature = "docs")]
            StreamKind::Doc => Self::Doc(Box::new(Shared::restore(&id.key, stored, limits)?)),
            StreamKind::Presence => Self::Room(Room::default()),
            StreamKind::Event => Self::Topic,
            // Nobody can open one.
            #[cfg(not(feature = "docs"))]
            StreamKind::Doc => Self::Topic,
        })
    }

    /// What the backend is to keep in place of the entries; `None` when it should keep them.
    pub(crate) fn stored(&mut self) -> Option<Bytes> {
        Some(match self {
            Self::Topic | Self::Room(_) => Bytes::new(),
            Self::State(StateValue { value, .. }) => {
                let text = value.as_ref().and_then(|value| to_raw_value(value).ok());
                text.map_or(Entry::Removed, Entry::Value).encode()
            }
            Self::Crdt(crdt) => crdt.as_ref().map_or(Entry::Removed, |crdt| Entry::State(crdt.to_json())).encode(),
            #[cfg(feature = "docs")]
            Self::Doc(shared) => return shared.stored(),
        })
    }

    /// What was about to be stored could not be.
    pub(crate) fn retract(&mut self) {
        #[cfg(feature = "docs")]
        if let Self::Doc(shared) = self {
            shared.retract();
        }
    }

    /// The message that shows it to a follower; `None` for what is not followed in this way.
    pub(crate) fn snapshot(
        &mut self,
        id: &StreamId,
        position: Position,
        protocol: Protocol,
        compress_above: usize,
    ) -> Option<Bytes> {
        match self {
            Self::State(state) => {
                // A Value has string keys and finite numbers: it can always be written.
                let text = state.value.as_ref().and_then(|value| to_raw_value(value).ok());
                if let Some(text) = &text {
                    state.bound = text.get().len();
                }
                Some(entry::snapshot(&id.key, text.as_deref(), position, compress_above))
            }
            Self::Crdt(crdt) => crdt::snapshot(id, crdt.as_deref(), position, protocol, compress_above),
            Self::Room(room) => Some(entry::presence(&id.key, &room.whole()?, true, position, compress_above)),
            Self::Topic => None,
            #[cfg(feature = "docs")]
            Self::Doc(_) => None,
        }
    }

    /// A CRDT that has forgotten what is old, if there is anything to be forgotten.
    pub(crate) fn collected(&self, now: u64, retention: Duration, limits: &CrdtLimits) -> Option<Box<Crdt>> {
        match self {
            Self::Crdt(Some(crdt)) => crdt::collected(crdt, now, retention, limits),
            _ => None,
        }
    }

    /// Whether there is nothing: whoever comes back learns no more from it than from a stream that never was.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::State(state) => state.value.is_none(),
            Self::Crdt(crdt) => crdt.is_none(),
            Self::Room(room) => room.is_empty(),
            Self::Topic => false,
            #[cfg(feature = "docs")]
            Self::Doc(_) => false,
        }
    }
}

/// The value that a stored state's snapshot and entries amount to.
fn restore_state(id: &StreamId, stored: &Stored) -> Result<StateValue, BackendError> {
    let corrupt = || BackendError::Corrupt(format!("state {:?}", id.key));
    let mut value = None;
    for bytes in stored.snapshot.iter().map(|(_, bytes)| bytes).chain(stored.since_snapshot()) {
        match Entry::decode(bytes).ok_or_else(corrupt)? {
            Entry::Value(text) => value = Some(serde_json::from_str(text.get()).map_err(|_| corrupt())?),
            Entry::Removed => value = None,
            Entry::Patch(ops) => {
                let limits = patch::PatchLimits::default();
                let ops = patch::Patch::parse(ops.get(), &limits).map_err(|_| corrupt())?;
                patch::apply(value.get_or_insert(Value::Null), &ops, &limits).map_err(|_| corrupt())?;
            }
            _ => return Err(corrupt()),
        }
    }
    Ok(StateValue { value, bound: usize::MAX })
}

/// The CRDT that a stored snapshot and entries amount to; it was within its limits once, which may have changed.
fn restore_crdt(id: &StreamId, stored: &Stored) -> Result<Option<Crdt>, BackendError> {
    // Nothing is longer; and what is added to it does not overflow.
    const NONE: usize = usize::MAX / 2;
    let limits = CrdtLimits {
        max_bytes: NONE,
        max_value: NONE,
        max_depth: NONE,
        max_entries: NONE,
        max_key: NONE,
        max_replicas: NONE,
        max_ahead: NONE,
        max_dots: NONE,
        max_node: NONE,
        ..CrdtLimits::default()
    };
    let corrupt = || BackendError::Corrupt(format!("CRDT {:?}", id.key));
    let mut crdt = None;
    for bytes in stored.snapshot.iter().map(|(_, bytes)| bytes).chain(stored.since_snapshot()) {
        match Entry::decode(bytes).ok_or_else(corrupt)? {
            Entry::State(text) => crdt = Crdt::from_json(text.get(), &limits).map_err(|_| corrupt())?,
            Entry::Removed => crdt = None,
            Entry::Operation(op) => {
                let op = Op::parse(op.get(), &limits).map_err(|_| corrupt())?;
                crdt.get_or_insert_with(|| Crdt::new(op.kind())).apply(&op, &limits).map_err(|_| corrupt())?;
            }
            _ => return Err(corrupt()),
        }
    }
    Ok(crdt)
}
