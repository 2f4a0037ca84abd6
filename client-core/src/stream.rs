//! Names and positions of ordered streams.

use serde::{Deserialize, Serialize};

/// What the entries of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// A live state: entries are patches (RFC 6902) and whole values.
    State,
    /// An event topic.
    Event,
    /// A CRDT: entries are operations.
    Crdt,
    /// A shared document: entries are updates.
    Doc,
    /// A presence room.
    Presence,
}

impl StreamKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::State, Self::Event, Self::Crdt, Self::Doc, Self::Presence];

    /// Its name on the wire.
    ///
    /// ```
    /// use datasole_core::StreamKind;
    /// assert_eq!(StreamKind::ALL.map(StreamKind::name), ["state", "event", "crdt", "doc", "presence"]);
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Event => "event",
            Self::Crdt => "crdt",
            Self::Doc => "doc",
            Self::Presence => "presence",
        }
    }

    /// Whether a subscription that cannot be resumed begins with a snapshot, which may also stand for any number of
    /// entries later on.
    pub fn has_snapshots(self) -> bool {
        matches!(self, Self::State | Self::Crdt | Self::Presence)
    }
}

/// A stream's name: its kind and its key.
///
/// ```
/// use datasole_core::{StreamId, StreamKind};
/// let stream = StreamId::state("dashboard");
/// assert_eq!((stream.kind, stream.key.as_str()), (StreamKind::State, "dashboard"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// What its entries are.
    pub kind: StreamKind,
    /// Its name among the streams of that kind.
    pub key: String,
}

impl StreamId {
    /// The live state `key`.
    pub fn state(key: impl Into<String>) -> Self {
        Self { kind: StreamKind::State, key: key.into() }
    }

    /// The event topic `name`.
    pub fn event(name: impl Into<String>) -> Self {
        Self { kind: StreamKind::Event, key: name.into() }
    }

    /// The CRDT `key`.
    pub fn crdt(key: impl Into<String>) -> Self {
        Self { kind: StreamKind::Crdt, key: key.into() }
    }

    /// The document `key`.
    pub fn doc(key: impl Into<String>) -> Self {
        Self { kind: StreamKind::Doc, key: key.into() }
    }

    /// The presence room `key`.
    pub fn presence(key: impl Into<String>) -> Self {
        Self { kind: StreamKind::Presence, key: key.into() }
    }
}

/// A place in a stream: after its first `seq` entries, in the life `epoch` of the stream.
///
/// Sequence numbers of different epochs cannot be compared: a stream that lost its history (a server restarted without
/// durable storage, a key removed and created again) begins a new epoch. Both are below 2^53, so that JavaScript
/// numbers hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The stream's life.
    pub epoch: u64,
    /// How many entries the stream had then; 0 before the first.
    pub seq: u64,
}
