//! Bounds of the server. Everything a peer could make grow is bounded by one of these.

use std::time::Duration;

use datasole_core::crdt::CrdtLimits;

/// What a snapshot's frame needs beside key and content; bytes.
pub(crate) const ENVELOPE: usize = 128;

/// The server's bounds, with their defaults.
///
/// ```
/// use datasole_server::Limits;
/// let limits = Limits { max_connections: 50_000, ..Limits::default() };
/// assert_eq!(limits.max_payload, 1024 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, those not yet authenticated included. One more is closed with 1013.
    pub max_connections: usize,
    /// Longest payload of a frame, either way; bytes.
    pub max_payload: usize,
    /// Longest WebSocket message accepted; bytes.
    pub max_message: usize,
    /// Longest inflated message accepted; bytes.
    pub max_inflated: usize,
    /// Frames longer than this are compressed; bytes of header and payload.
    pub compress_above: usize,
    /// What may wait for one connection before its states are conflated, and then it is closed with 4001; bytes.
    pub max_queue: usize,
    /// Subscriptions of one connection.
    pub max_subscriptions: usize,
    /// Calls and events of one connection whose handlers have not finished.
    pub max_pending: usize,
    /// Longest event name; bytes.
    pub max_event_name: usize,
    /// Longest key of a stream; bytes.
    pub max_key: usize,
    /// Groups one connection may be in.
    pub max_groups: usize,
    /// Presence rooms one connection may be in.
    pub max_rooms: usize,
    /// Longest value that a connection shows in a presence room; bytes of JSON.
    pub max_presence: usize,
    /// Event topics without history and subscribers whose position is remembered.
    pub max_idle_topics: usize,
    /// CRDTs in memory beyond which those that nobody follows leave it. The backend keeps them.
    pub max_idle_crdts: usize,
    /// CRDT keys that are not registered, which clients may create.
    pub max_crdt_keys: usize,
    /// Of those, what one connection may create.
    pub max_crdt_keys_per_connection: usize,
    /// Of one CRDT and of what is done to it. Its state must also fit in a frame.
    pub crdt: CrdtLimits,
    /// How long a CRDT remembers replicas that are silent, and removed entries of maps. Edits that a client made earlier,
    /// and sends later, are refused. When a CRDT is half full, or half as many replicas are remembered as may be, it is
    /// less, down to ten minutes.
    pub crdt_retention: Duration,
    /// Documents in memory beyond which those that nobody follows leave it. The backend keeps them.
    pub max_idle_docs: usize,
    /// Documents that there may be for clients to create another.
    pub max_docs: usize,
    /// Documents that one connection may create.
    pub max_docs_per_connection: usize,
    /// Longest document, encoded as one update; bytes. Deleting may take it beyond by an eighth, and all of it must fit in
    /// a frame.
    pub max_doc: usize,
    /// Updates of a document that are stored before they become one snapshot.
    pub doc_compact_entries: usize,
    /// The same in bytes.
    pub doc_compact_bytes: usize,
    /// How long the authentication hook may take.
    pub auth_timeout: Duration,
    /// How long a client may take to send its HTTP request (in [`Server::serve`](crate::Server::serve)).
    pub handshake_timeout: Duration,
    /// Signs of life: see the heartbeat in `docs/protocol.md`.
    pub heartbeat: Duration,
    /// How long a closing handshake, and the whole shutdown, may take.
    pub close_timeout: Duration,
    /// What each state and CRDT keeps for clients that come back, in memory and at the backend.
    pub replay: Replay,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_payload: 1024 * 1024,
            max_message: 4 * 1024 * 1024,
            max_inflated: 16 * 1024 * 1024,
            compress_above: 256,
            max_queue: 1024 * 1024,
            max_subscriptions: 1_024,
            max_pending: 1_024,
            max_event_name: 256,
            max_key: 256,
            max_groups: 256,
            max_rooms: 256,
            max_presence: 4 * 1024,
            max_idle_topics: 10_000,
            max_idle_crdts: 1_000,
            max_crdt_keys: 1_000,
            max_crdt_keys_per_connection: 100,
            crdt: CrdtLimits::default(),
            crdt_retention: Duration::from_secs(30 * 24 * 3_600),
            max_idle_docs: 100,
            max_docs: 10_000,
            max_docs_per_connection: 100,
            max_doc: 896 * 1024,
            doc_compact_entries: 1_000,
            doc_compact_bytes: 256 * 1024,
            auth_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            replay: Replay::default(),
        }
    }
}

impl Limits {
    /// The same bounds as the core's codec takes them.
    pub(crate) fn codec(&self) -> datasole_core::Limits {
        datasole_core::Limits {
            max_payload: self.max_payload,
            max_compressed: self.max_message,
            max_inflated: self.max_inflated,
            compress_above: self.compress_above,
            ..datasole_core::Limits::default()
        }
    }

    /// The bounds of a CRDT, whose state must fit in a frame with the longest key.
    pub(crate) fn crdt(&self) -> CrdtLimits {
        // Every byte may be escaped. The latest stamp's name is not counted when an operation is admitted.
        let names = self.max_key.saturating_add(self.crdt.max_node).saturating_mul(6);
        let room = self.max_payload.saturating_sub(names.saturating_add(ENVELOPE));
        CrdtLimits { max_bytes: self.crdt.max_bytes.min(room), ..self.crdt }
    }
}

/// How much of a stream's past is kept for clients that resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Entries.
    pub entries: usize,
    /// Bytes of their frames.
    pub bytes: usize,
    /// Age; `None` keeps them however old.
    pub age: Option<Duration>,
}

impl Replay {
    /// Nothing: the stream is live only.
    pub const NONE: Self = Self { entries: 0, bytes: 0, age: None };
}

impl Default for Replay {
    fn default() -> Self {
        Self { entries: 500, bytes: 1024 * 1024, age: None }
    }
}
