//! Bounds of the server. Everything a peer could make grow is bounded by one of these.

use std::{num::NonZeroU32, time::Duration};

use datasole_core::crdt::CrdtLimits;

/// Bytes that a snapshot's frame needs beside key and content.
pub(crate) const ENVELOPE: usize = 128;

/// The server's bounds, with their defaults.
///
/// ```
/// use datasole_server::Limits;
/// let limits = Limits::default().with(|limits| limits.max_connections = 50_000);
/// assert_eq!(limits.max_payload, 1024 * 1024);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum open connections, unauthenticated ones included. Further connections are closed with 1013. When half of them
    /// have yet to send their AUTH, the one that has waited longest is closed with 1013.
    pub max_connections: usize,
    /// Maximum open connections of one address (of version 6: one /64 network); a quarter of `max_connections` by default.
    /// This machine and trusted proxies are not counted.
    pub max_connections_per_address: Option<usize>,
    /// Maximum sockets that speak HTTP (in [`Server::serve`](crate::Server::serve)). For a further one, the socket that
    /// has made no progress for the longest time is closed. One address may have a quarter of them. A client that asks for a
    /// WebSocket counts until it has its place among `max_connections`, which it takes before it is authenticated; it counts on where
    /// half of the places are of such clients.
    pub max_http_sockets: usize,
    /// Longest payload of a frame, either way; bytes. HELLO announces it: clients of version 2 accept up to 64 MiB, those of version 1
    /// 1 MiB. What they send is bounded by `max_message` and `max_inflated`, too.
    pub max_payload: usize,
    /// Longest WebSocket message accepted; bytes.
    pub max_message: usize,
    /// Longest inflated message accepted; bytes.
    pub max_inflated: usize,
    /// Frames longer than this are compressed; bytes of header and payload. A HELLO, if it is longer than 1,200 bytes, too.
    pub compress_above: usize,
    /// Maximum bytes queued for one connection. Above it, pending entries are conflated; if that does not help, the
    /// connection is closed with 4001. A snapshot that takes the place of entries is not counted, one at a time.
    pub max_queue: usize,
    /// Maximum subscriptions of one connection.
    pub max_subscriptions: usize,
    /// Maximum running handlers of one connection: calls, events and acknowledged frames.
    pub max_pending: usize,
    /// Maximum bytes that running handlers and waiting frames of one connection hold, by estimate; a single frame may exceed
    /// it. Above it the server stops reading for a second, then refuses what comes.
    pub max_under_way: usize,
    /// The same of all connections together. A connection may hold no more than is free, and 64 KiB in any case.
    pub max_under_way_total: usize,
    /// Maximum bytes of payloads, inflated, and of WebSocket pings and pongs, that one connection may send per second, a
    /// second's worth at once; above it the server reads on later. The same holds for the bytes that one address may read by HTTP. `None`: any.
    pub max_rate: Option<NonZeroU32>,
    /// Longest name of an event or a method; bytes.
    pub max_event_name: usize,
    /// Longest key of a stream; bytes.
    pub max_key: usize,
    /// Maximum groups of one connection.
    pub max_groups: usize,
    /// Maximum presence rooms of one connection.
    pub max_rooms: usize,
    /// Longest value that a connection shows in a presence room; bytes of JSON.
    pub max_presence: usize,
    /// Followers of a presence room are told at most so often, each time of all that has changed. The first change after a
    /// pause is told at once.
    pub presence_interval: Duration,
    /// Maximum event topics without history and subscribers whose position is remembered.
    pub max_idle_topics: usize,
    /// Maximum unfollowed states kept in memory; more are evicted (the backend keeps them).
    pub max_idle_states: usize,
    /// Maximum unfollowed CRDTs kept in memory; more are evicted (the backend keeps them).
    pub max_idle_crdts: usize,
    /// Maximum unregistered CRDT keys. Clients may not create keys once this many exist.
    pub max_crdt_keys: usize,
    /// Maximum unregistered CRDT keys that one connection may create.
    pub max_crdt_keys_per_connection: usize,
    /// Maximum unregistered CRDT keys that one user may create in a day on all servers of an engine, or one address without a
    /// user. Not for connections from the machine itself.
    pub max_crdt_keys_per_user: usize,
    /// Maximum new replicas of one user in one CRDT at once, or of one connection without a user; one more is allowed every
    /// two seconds. All connections of one address without a user may make a quarter of
    /// [`CrdtLimits::max_replicas`] in ten minutes, but for those of the machine itself.
    pub max_crdt_replicas_per_user: usize,
    /// Bounds of one CRDT and of each operation on it. The state must also fit in a frame.
    pub crdt: CrdtLimits,
    /// Time for which a CRDT remembers silent replicas and tombstones of map entries. Edits older than that are
    /// refused. A CRDT that is half full, or remembers half of the replicas allowed, keeps less, down to ten minutes.
    pub crdt_retention: Duration,
    /// Maximum unfollowed documents kept in memory; more are evicted (the backend keeps them).
    pub max_idle_docs: usize,
    /// Clients may not create documents once this many exist.
    pub max_docs: usize,
    /// Maximum documents that one connection may create.
    pub max_docs_per_connection: usize,
    /// Maximum documents that one user may create in a day, or one address without a user. Not for connections from the
    /// machine itself.
    pub max_docs_per_user: usize,
    /// Maximum memory of one document, bytes: estimated as its bytes and 600 for each block (a piece of content that was
    /// inserted at once).
    pub max_doc_memory: usize,
    /// Maximum memory of all documents that are loaded, bytes. Those that nobody follows leave memory before; above it,
    /// documents neither grow nor are loaded for a while. They also leave when they take more than a quarter of it, after
    /// [`doc_stay`](Self::doc_stay).
    pub max_docs_memory: usize,
    /// Maximum memory by which one user, or one address without a user, may make loaded documents grow; bytes.
    pub max_docs_memory_per_user: usize,
    /// Maximum memory of the documents that one user, or one address without a user, follows, each as large as it was when
    /// it was subscribed; bytes.
    pub max_docs_memory_followed: usize,
    /// How long a document that nobody follows stays in memory, if there is room.
    pub doc_stay: Duration,
    /// Longest document, encoded as one update; bytes. Deletions may exceed it by an eighth. The whole must fit in a
    /// frame.
    pub max_doc: usize,
    /// Stored updates of a document after which it is compacted into one snapshot; where the last one had more than four times as
    /// many blocks, a quarter of these.
    pub doc_compact_entries: usize,
    /// Bytes of stored updates after which a document is compacted.
    pub doc_compact_bytes: usize,
    /// Maximum time for a client that connects with `auth=frame` to send AUTH.
    pub auth_frame_timeout: Duration,
    /// Longest sum of what a client sends before its AUTH was accepted; bytes.
    pub max_unauthenticated: usize,
    /// Maximum time from the first byte of a message to its last.
    pub message_timeout: Duration,
    /// Maximum time of the authentication hook.
    pub auth_timeout: Duration,
    /// Maximum time for a client to send its HTTP request (in [`Server::serve`](crate::Server::serve)).
    pub handshake_timeout: Duration,
    /// Maximum time for which the reader of an HTTP answer may make no progress (in
    /// [`Server::serve`](crate::Server::serve)).
    pub answer_timeout: Duration,
    /// Interval of the heartbeat: see `docs/protocol.md`.
    pub heartbeat: Duration,
    /// Maximum time of a closing handshake, and of the whole shutdown.
    pub close_timeout: Duration,
    /// The log that each state and CRDT keeps for clients that resume, in memory and in the backend.
    pub replay: Replay,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: None,
            max_http_sockets: 1_024,
            max_payload: 1024 * 1024,
            max_message: 4 * 1024 * 1024,
            max_inflated: 16 * 1024 * 1024,
            compress_above: 256,
            max_queue: 1024 * 1024,
            max_subscriptions: 1_024,
            max_pending: 1_024,
            max_under_way: 4 * 1024 * 1024,
            max_under_way_total: 256 * 1024 * 1024,
            max_rate: None,
            max_event_name: 256,
            max_key: 256,
            max_groups: 256,
            max_rooms: 256,
            max_presence: 4 * 1024,
            presence_interval: Duration::from_millis(50),
            max_idle_topics: 10_000,
            max_idle_states: 10_000,
            max_idle_crdts: 1_000,
            max_crdt_keys: 1_000,
            max_crdt_keys_per_connection: 100,
            max_crdt_keys_per_user: 250,
            max_crdt_replicas_per_user: 16,
            crdt: CrdtLimits::default(),
            crdt_retention: Duration::from_secs(30 * 24 * 3_600),
            max_idle_docs: 100,
            max_docs: 10_000,
            max_docs_per_connection: 100,
            max_docs_per_user: 1_000,
            max_doc_memory: 32 * 1024 * 1024,
            max_docs_memory: 512 * 1024 * 1024,
            max_docs_memory_per_user: 128 * 1024 * 1024,
            max_docs_memory_followed: 128 * 1024 * 1024,
            doc_stay: Duration::from_secs(30),
            max_doc: 896 * 1024,
            doc_compact_entries: 1_000,
            doc_compact_bytes: 256 * 1024,
            auth_frame_timeout: Duration::from_secs(3),
            max_unauthenticated: 16 * 1024,
            message_timeout: Duration::from_secs(60),
            auth_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            close_timeout: Duration::from_secs(5),
            replay: Replay::default(),
        }
    }
}

impl Limits {
    /// The same with some of them changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The bounds of the core's codec.
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

/// Bounds of a stream's log, from which clients resume.
///
/// ```
/// use datasole_server::Replay;
/// let replay = Replay::default().entries(10_000);
/// assert_eq!(replay.bytes, 1024 * 1024);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

    /// At most so many entries.
    #[must_use]
    pub const fn entries(self, entries: usize) -> Self {
        Self { entries, ..self }
    }

    /// At most so many bytes of their frames.
    #[must_use]
    pub const fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// None older than that; `None` keeps them however old.
    #[must_use]
    pub const fn age(self, age: Option<Duration>) -> Self {
        Self { age, ..self }
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self { entries: 500, bytes: 1024 * 1024, age: None }
    }
}
