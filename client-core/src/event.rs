//! What goes in and what comes out: closed enums of plain data, so that a session can be recorded and replayed.

use serde_json::value::RawValue;

use crate::{
    error::CallError,
    stream::{Position, StreamId},
    time::Millis,
};

/// One attempt at a connection; increases, so that late callbacks of a dead socket are recognised and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// A call, from [`Client::call`](crate::Client::call) to its one [`Event::CallDone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// A subscription; belongs to the client, not to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u32);

/// What the world tells the core.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The socket is open; `protocol` is the subprotocol the server chose.
    SocketOpened {
        /// Which attempt.
        socket: SocketId,
        /// `Sec-WebSocket-Protocol` of the answer.
        protocol: Option<&'a str>,
    },
    /// A binary message.
    Message {
        /// Which attempt.
        socket: SocketId,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The socket is closed, or could not be opened.
    SocketClosed {
        /// Which attempt.
        socket: SocketId,
        /// What is known of why.
        close: SocketClose,
    },
    /// The host noticed something.
    Hint(Hint),
    /// The answer to [`Output::NeedToken`]; `Err` when the host could not get one.
    Token(Result<Option<String>, String>),
    /// The deadline of [`Client::poll_timeout`](crate::Client::poll_timeout) has come.
    Timeout,
}

/// What is known of a socket's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketClose {
    /// The close code; 1006 or `None` where there was none.
    pub code: Option<u16>,
    /// The close reason, or the host's description of the failure.
    pub reason: String,
    /// The HTTP status that refused the upgrade, where the host can see it (browsers cannot).
    pub http_status: Option<u16>,
    /// The refusal is a datasole server's, by its header `Datasole-Refused`, and not one of something in between.
    pub by_datasole: bool,
    /// The refusal's `Retry-After`; milliseconds.
    pub retry_after: Option<u64>,
}

/// What the host noticed about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The network came back: try or probe at once.
    Online,
    /// The network is gone: do not try until [`Hint::Online`].
    Offline,
    /// The page or program is in front again: try or probe at once.
    Visible,
    /// The page or program went to the background.
    Hidden,
}

/// What the host must do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a WebSocket.
    OpenSocket {
        /// The attempt's id, to be given back with its inputs.
        socket: SocketId,
        /// Where to.
        url: String,
        /// The subprotocols to offer, in this order.
        protocols: &'static [&'static str],
    },
    /// Send one binary message.
    Send {
        /// On which socket.
        socket: SocketId,
        /// The message.
        message: Vec<u8>,
    },
    /// Close the socket; nothing of it is wanted any more.
    CloseSocket {
        /// Which socket.
        socket: SocketId,
        /// The close code: 1000, or 3000–4999.
        code: u16,
        /// The close reason.
        reason: &'static str,
    },
    /// Answer with [`Input::Token`]. One request is in flight at a time.
    NeedToken,
    /// Tell the user.
    Event(Event),
}

/// What the user is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// The connection's status changed.
    Status(Status),
    /// A call ended.
    CallDone {
        /// Which.
        call: CallId,
        /// How.
        outcome: Result<Payload, CallError>,
    },
    /// An event came.
    Message {
        /// Its name.
        event: String,
        /// Its data.
        payload: Payload,
        /// The server's clock; Unix milliseconds.
        timestamp: u64,
    },
    /// A subscription (first or renewed) to a state or a topic was answered. Open streams tell their
    /// [`Progress`](Event::Progress) instead.
    ///
    /// `recovered` is `false` when entries were or may have been missed. For a state the next event is then a
    /// [`Event::Snapshot`]; for an event topic the missed events are lost, and this is how the user learns of it.
    Subscribed {
        /// Which.
        subscription: SubscriptionId,
        /// Its stream.
        stream: StreamId,
        /// Whether the stream goes on exactly where this client had left it.
        recovered: bool,
    },
    /// The server refused a subscription to a state or a topic; the subscription is gone.
    Refused {
        /// Which.
        subscription: SubscriptionId,
        /// Its stream.
        stream: StreamId,
        /// One of [`codes`](crate::codes).
        code: i32,
        /// For people.
        message: String,
    },
    /// A subscription to a state or a topic without followers has ended; nothing of the stream follows.
    Left {
        /// Which.
        subscription: SubscriptionId,
        /// Its stream.
        stream: StreamId,
    },
    /// A state's whole value; `None` when the key does not exist.
    Snapshot {
        /// The key.
        key: String,
        /// The value as JSON text.
        value: Option<Box<RawValue>>,
        /// Where the stream is now.
        position: Position,
    },
    /// A change of a state: RFC 6902 operations as JSON text, to be applied to the value before.
    ///
    /// Consecutive by construction: the core hides duplicates and repairs gaps by subscribing again.
    Patch {
        /// The key.
        key: String,
        /// A JSON array of operations.
        ops: Box<RawValue>,
        /// Where the stream is after it.
        position: Position,
    },
    /// An entry of an open CRDT, presence room or document.
    ///
    /// A CRDT's payload is an operation or, `whole`, its state (JSON; `null`: there is none). A room's is a JSON array of
    /// members `{id, userId, value}`, one without `value` is gone; at most 10,000 members of a room are ever told. A
    /// document's is one Yjs update (bytes), `whole` never. Entries of CRDTs and rooms are consecutive, as patches are.
    Entry {
        /// The stream.
        stream: StreamId,
        /// The entry's content.
        payload: Payload,
        /// Where the stream is after the entry.
        position: Position,
        /// The entry replaces everything before it.
        whole: bool,
    },
    /// An edit of a CRDT has its outcome; comes exactly once for each edit that was queued. Where an edit is stored and was
    /// to return, another may follow: the edit will not return after all (reading is refused now, or the server speaks
    /// version 1), or the server has lost the edit and refused it when it was sent again.
    Settled {
        /// The CRDT.
        stream: StreamId,
        /// The number that the host gave the edit.
        edit: u64,
        /// How the edit fared.
        outcome: EditOutcome,
    },
    /// An open stream's progress has changed. Changes that one command or input causes come as one.
    Progress {
        /// The stream.
        stream: StreamId,
        /// The progress.
        progress: Progress,
    },
    /// The server refused something of ours for good, and it took no effect: told once each. Of a state, on version 1 with
    /// [`Config::mirror`](crate::Config::mirror): a change did not fit and was left out, so that the value may be wrong.
    Rejected {
        /// Where it was sent.
        stream: StreamId,
        /// One of [`codes`](crate::codes).
        code: i32,
        /// For people.
        message: String,
        /// The operation or the presence value as JSON; empty for a document's update.
        payload: Payload,
    },
    /// The core asks the host about an open document. Questions of a document are answered in their order, by
    /// [`Client::answer`](crate::Client::answer); [`Question::Awareness`] by [`Client::aware`](crate::Client::aware).
    Ask {
        /// The document's key.
        document: String,
        /// The question.
        question: Question,
    },
    /// The awareness of another client in an open document.
    Awareness {
        /// The document's key.
        document: String,
        /// An awareness update, as y-protocols encodes it.
        update: Vec<u8>,
    },
}

/// How an edit of a CRDT fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditOutcome {
    /// The server has stored the edit.
    Stored {
        /// `true`: the edit has come back as an entry, or will; the host keeps it on top until the confirmed value
        /// contains it. `false`: the edit will not come back, and the host counts it as confirmed.
        returns: bool,
    },
    /// The server refused the edit for good: the host undoes it. An [`Event::Rejected`] tells the operation.
    Refused {
        /// One of [`codes`](crate::codes).
        code: i32,
        /// For people.
        message: String,
    },
}

/// How far an open CRDT, presence room or document is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How much of the server's value is known.
    pub phase: SyncPhase,
    /// Edits (of a CRDT or document) that have not been settled.
    pub pending: usize,
    /// Documents: every edit up to this number is stored.
    pub stored: u64,
}

/// How much is known of the server's value of an open stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SyncPhase {
    /// On this connection, nothing yet; or there is no connection.
    #[default]
    Loading,
    /// The server's value is here and, of a document, both sides have compared what they have.
    Synced,
    /// The server refused to tell the stream: nothing of it is heard, on this connection. Edits are sent and values
    /// announced all the same.
    Unreadable {
        /// One of [`codes`](crate::codes).
        code: i32,
        /// For people.
        message: String,
    },
    /// The server refused the stream, reading and writing; or the stream does not fit what the host has. A CRDT's edits
    /// have been settled as refused. Tried again with the next connection.
    Refused {
        /// One of [`codes`](crate::codes).
        code: i32,
        /// For people.
        message: String,
    },
}

/// A question of the core about a document; Yjs encodings of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The document's state vector.
    StateVector,
    /// One update of all that a peer with this state vector lacks. Every edit that was handed to
    /// [`Client::edit`](crate::Client::edit) before the answer is contained in the answer.
    Difference {
        /// The peer's state vector.
        theirs: Vec<u8>,
        /// Something was refused since the server has last taken everything: without the deleted content that an undo
        /// manager keeps.
        small: bool,
    },
    /// These updates merged into one.
    Merge {
        /// At most 64 updates, of 128 KiB together unless there is only one.
        updates: Vec<Vec<u8>>,
    },
    /// The client's own awareness, through [`Client::aware`](crate::Client::aware), with a clock at least 2 later than the
    /// last one announced: after a reconnect, and when 20 s have passed without an announcement.
    Awareness,
}

/// The connection, as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not connected, and nothing is under way.
    Disconnected(DisconnectReason),
    /// The first attempt is under way.
    Connecting,
    /// Open.
    Connected {
        /// 1 or 2.
        protocol: u8,
        /// This connection's id on the server; empty on version 1.
        connection_id: String,
        /// The user as the server knows it; `None` on version 1.
        user_id: Option<String>,
        /// The server's clock when it greeted; Unix milliseconds. `None` on version 1.
        server_time: Option<u64>,
        /// Whether the server's contract is [`Config::contract`](crate::Config::contract); `None` where one of both is
        /// not known.
        same_contract: Option<bool>,
    },
    /// The connection was lost and another attempt is under way.
    Reconnecting {
        /// Counted from 1.
        attempt: u32,
    },
    /// The connection was lost; the next attempt begins at `until`.
    Waiting {
        /// When; `Millis(u64::MAX)` while the host says that there is no network, until [`Hint::Online`].
        until: Millis,
        /// The number the attempt will have.
        attempt: u32,
        /// Why the last one ended.
        reason: DisconnectReason,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// Never connected.
    Idle,
    /// [`Client::close`](crate::Client::close) was called.
    ClosedByUser,
    /// The server or the network closed the socket.
    Closed(SocketClose),
    /// The attempt took longer than [`Config::connect_timeout`](crate::Config::connect_timeout).
    ConnectTimeout,
    /// Nothing came for two heartbeat intervals.
    HalfOpen,
    /// The peer broke the protocol; the text says how.
    Protocol(&'static str),
    /// The token was refused (HTTP 401, close code 4002), or the host could not get one.
    Unauthorized(String),
    /// The host says there is no network.
    Offline,
}

/// What a close means for the next attempt. See the table in `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseVerdict {
    /// Try again after the usual delay.
    Retry,
    /// Try again after a long delay: something in between asks for credentials.
    RetrySlowly,
    /// Try again after the usual delay, but stop when that happens several times in a row: the client may be at fault,
    /// or something in between.
    RetryAFewTimes,
    /// Try again with a new token; stop where none can be asked for.
    RetryWithNewToken,
    /// Try again at once (with jitter): the server dropped us for falling behind, the streams will catch up.
    Resync,
    /// Do not try again.
    Stop,
}

/// An RPC to be made.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method's name.
    pub method: String,
    /// Its parameters.
    pub params: Payload,
    /// Its deadline in milliseconds; `None` takes [`Config::call_timeout`](crate::Config::call_timeout).
    pub timeout: Option<u64>,
    /// Wait in the queue when there is no connection, instead of being refused. The deadline runs meanwhile. While the
    /// first connection is being made, every call waits.
    pub queue: bool,
}

/// Data the core carries without looking inside.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// Nothing: a void result, absent parameters.
    #[default]
    Empty,
    /// JSON text, checked to be one JSON value.
    Json(Box<RawValue>),
    /// Raw bytes; version 2 only.
    Binary(Vec<u8>),
}

impl Payload {
    /// The payload whose text is `json`, or `None` when that is not one JSON value. Cheaper in code than
    /// [`RawValue::from_string`]: it does not say why not.
    ///
    /// ```
    /// use datasole_core::Payload;
    /// assert_eq!(Payload::from_json(" [1] ").and_then(|payload| payload.as_json().map(str::to_owned)), Some("[1]".into()));
    /// assert!(Payload::from_json("[1] 2").is_none());
    /// ```
    pub fn from_json(json: &str) -> Option<Self> {
        crate::json::whole(json).map(|raw| Self::Json(raw.to_owned()))
    }

    /// The JSON text, `null` for an empty payload, nothing for bytes.
    pub fn as_json(&self) -> Option<&str> {
        self.as_raw().map(RawValue::get)
    }

    /// The same as a value that was checked.
    pub fn as_raw(&self) -> Option<&RawValue> {
        match self {
            Self::Empty => Some(RawValue::NULL),
            Self::Json(raw) => Some(raw),
            Self::Binary(_) => None,
        }
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Json(raw) => raw.get().len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
