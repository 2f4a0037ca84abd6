//! Errors, one enum per operation, and the numbers they have on the wire and in TypeScript.

use serde_json::value::RawValue;

/// Error numbers, in JSON-RPC 2.0's ranges. The same table stands in `docs/protocol.md`.
pub mod codes {
    /// The payload is not the JSON it should be.
    pub const PARSE: i32 = -32700;
    /// The frame is well formed but makes no sense here.
    pub const INVALID_REQUEST: i32 = -32600;
    /// No such RPC method.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// The parameters do not fit the method.
    pub const INVALID_PARAMS: i32 = -32602;
    /// The handler panicked or its result cannot be written.
    pub const INTERNAL: i32 = -32603;
    /// The handler returned an error.
    pub const HANDLER: i32 = -32000;
    /// No valid credentials.
    pub const UNAUTHORIZED: i32 = -32001;
    /// Valid credentials, but not for this.
    pub const FORBIDDEN: i32 = -32002;
    /// No such stream, and none can be made by subscribing.
    pub const NOT_FOUND: i32 = -32003;
    /// A limit of the server was reached; `retryAfter` says when to try again, where that helps.
    pub const LIMIT: i32 = -32004;
    /// Larger than the frame limit.
    pub const TOO_LARGE: i32 = -32005;
    /// The server is going away.
    pub const SHUTTING_DOWN: i32 = -32006;

    /// No answer within the call's deadline. Local.
    pub const TIMEOUT: i32 = -32100;
    /// The connection was lost before the answer; the call may have been carried out. Local.
    pub const CONNECTION_LOST: i32 = -32101;
    /// The caller cancelled. Local.
    pub const CANCELLED: i32 = -32102;
    /// Not connected, and the call may not be queued. Local.
    pub const NOT_CONNECTED: i32 = -32103;
    /// The client was closed. Local.
    pub const CLOSED: i32 = -32104;
    /// A limit of this client was reached. Local.
    pub const LOCAL_LIMIT: i32 = -32105;
    /// The host (worker, wasm) failed. Local; used by the browser facade.
    pub const HOST: i32 = -32106;
}

/// Why a command was refused. Nothing was queued or sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No connection, and the command may not be queued.
    #[error("not connected")]
    NotConnected,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// The payload exceeds the frame limit.
    #[error("payload of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A count or byte limit was reached.
    #[error("limit reached: at most {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Empty, or longer than [`Limits::max_name`](crate::Limits::max_name).
    #[error("a name must have 1 to {limit} bytes, this has {bytes}")]
    BadName {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The stream takes nothing of that form: operations and presence values are JSON, a document's messages bytes.
    #[error("{what} takes other data")]
    Unfit {
        /// The stream's kind.
        what: &'static str,
    },
    /// The stream is not open.
    #[error("the {what} stream is not open")]
    NotOpen {
        /// The stream's kind.
        what: &'static str,
    },
    /// The server refused the stream.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// The server's words.
        message: String,
    },
    /// The peer speaks version 1, which has no frame for this.
    #[error("{what} needs protocol version 2, the server speaks version 1")]
    NeedsV2 {
        /// What was asked for.
        what: &'static str,
    },
}

impl CommandError {
    /// The number the browser facade shows.
    pub fn code(&self) -> i32 {
        match self {
            Self::NotConnected => codes::NOT_CONNECTED,
            Self::Closed => codes::CLOSED,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::Limit { .. } | Self::BadName { .. } => codes::LOCAL_LIMIT,
            Self::NeedsV2 { .. } | Self::Unfit { .. } | Self::NotOpen { .. } => codes::INVALID_REQUEST,
            Self::Refused { code, .. } => *code,
        }
    }
}

/// How a call failed. Every accepted call ends exactly once: with a payload or with one of these.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server answered with an error.
    #[error("{message}")]
    Server {
        /// One of [`codes`], or the application's own.
        code: i32,
        /// For people.
        message: String,
        /// For programs, as the server wrote it.
        data: Option<Box<RawValue>>,
        /// Try again after this many milliseconds.
        retry_after: Option<u64>,
    },
    /// No answer within the deadline.
    #[error("RPC timeout: {method} ({millis}ms)")]
    Timeout {
        /// The method called.
        method: String,
        /// The deadline it had.
        millis: u64,
    },
    /// The connection was lost before the answer: the call may or may not have been carried out.
    #[error("connection lost before the answer to {method}")]
    ConnectionLost {
        /// The method called.
        method: String,
    },
    /// [`Client::cancel`](crate::Client::cancel) was called.
    #[error("cancelled")]
    Cancelled,
    /// [`Client::close`](crate::Client::close) was called, or the client gave up reconnecting.
    #[error("the client is closed")]
    Closed,
    /// The call waited and the connection that came could not carry it.
    #[error(transparent)]
    Refused(#[from] CommandError),
}

impl CallError {
    /// One of [`codes`], or the application's own.
    pub fn code(&self) -> i32 {
        match self {
            Self::Server { code, .. } => *code,
            Self::Timeout { .. } => codes::TIMEOUT,
            Self::ConnectionLost { .. } => codes::CONNECTION_LOST,
            Self::Cancelled => codes::CANCELLED,
            Self::Closed => codes::CLOSED,
            Self::Refused(refused) => refused.code(),
        }
    }

    /// Whether the same call may succeed later. A lost or late answer says nothing about whether it was carried out:
    /// try again only what may happen twice.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Server { code, .. } => matches!(*code, codes::LIMIT | codes::SHUTTING_DOWN),
            Self::Timeout { .. } | Self::ConnectionLost { .. } => true,
            Self::Refused(refused) => matches!(refused, CommandError::NotConnected | CommandError::Limit { .. }),
            Self::Cancelled | Self::Closed => false,
        }
    }
}
