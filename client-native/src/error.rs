//! One error enum per operation, each with `code()` (the numbers of [`codes`]) and `retryable()`.
//!
//! No error holds the URL or a token, so that they can be logged.

use datasole_core::{CallError as CallFailure, CommandError, DisconnectReason, codes, crdt::CrdtError};

use crate::status;

/// Why [`Builder::connect`](crate::Builder::connect) gave no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL has no host, or another scheme than `http`, `https`, `ws` and `wss`.
    #[error("the URL must be http, https, ws or wss, with a host")]
    Url,
    /// Not a header's name and value, or one that belongs to the WebSocket handshake.
    #[error("the header `{0}` cannot be sent")]
    Header(String),
    /// TLS could not be set up, or is not compiled in.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system has no random numbers to give.
    #[error("no random numbers: {0}")]
    Entropy(getrandom::Error),
    /// Not called inside a tokio runtime.
    #[error("not inside a tokio runtime")]
    NoRuntime,
    /// The attempt failed, or the last one that [`Reconnect`](crate::Reconnect) allows.
    #[error("{}", status::describe(.0))]
    Failed(DisconnectReason),
}

impl ConnectError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Url | Self::Header(_) | Self::Tls(_) | Self::Entropy(_) | Self::NoRuntime => codes::HOST,
            Self::Failed(DisconnectReason::Unauthorized(_)) => codes::UNAUTHORIZED,
            Self::Failed(DisconnectReason::ConnectTimeout) => codes::TIMEOUT,
            Self::Failed(DisconnectReason::ClosedByUser) => codes::CLOSED,
            Self::Failed(DisconnectReason::Protocol(_)) => codes::INVALID_REQUEST,
            Self::Failed(DisconnectReason::Offline | DisconnectReason::Idle) => codes::NOT_CONNECTED,
            Self::Failed(_) => codes::CONNECTION_LOST,
        }
    }

    /// Whether the same attempt may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Failed(reason) => status::is_passing(reason),
            Self::Url | Self::Header(_) | Self::Tls(_) | Self::Entropy(_) | Self::NoRuntime => false,
        }
    }
}

/// Why a payload is not the type it was asked for as.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// JSON of another shape.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Raw bytes where JSON was expected.
    #[error("expected JSON, got {bytes} raw bytes")]
    Binary {
        /// How many.
        bytes: usize,
    },
    /// JSON where raw bytes were expected.
    #[error("expected raw bytes, got JSON")]
    NotBinary,
}

/// How a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The parameters cannot be written as JSON. Nothing was sent.
    #[error("parameters: {0}")]
    Params(#[source] serde_json::Error),
    /// The call was carried out, but its result is not of the expected type.
    #[error("result: {0}")]
    Result(#[source] DecodeError),
    /// The server refused or failed, or no answer came.
    #[error(transparent)]
    Failed(#[from] CallFailure),
}

impl CallError {
    /// One of [`codes`], or the application's own.
    pub fn code(&self) -> i32 {
        match self {
            Self::Params(_) => codes::INVALID_PARAMS,
            Self::Result(_) => codes::PARSE,
            Self::Failed(failure) => failure.code(),
        }
    }

    /// Whether the same call may succeed later. A lost or late answer says nothing about whether it was carried out:
    /// try again only what may happen twice.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.retryable())
    }
}

impl From<CommandError> for CallError {
    fn from(refused: CommandError) -> Self {
        Self::Failed(CallFailure::Refused(refused))
    }
}

/// Why an event was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The data cannot be written as JSON.
    #[error("data: {0}")]
    Data(#[source] serde_json::Error),
    /// Not connected, closed, or over a limit.
    #[error(transparent)]
    Refused(#[from] CommandError),
}

impl EmitError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Data(_) => codes::INVALID_PARAMS,
            Self::Refused(refused) => refused.code(),
        }
    }

    /// Whether the same event may be sent later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Refused(CommandError::NotConnected | CommandError::Limit { .. }))
    }
}

/// What an [`Events`](crate::Events) stream yields where an event was, or may have been, lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The connection was lost and the server no longer has, or never kept, what was published meanwhile.
    #[error("events may have been missed while disconnected")]
    Missed,
    /// This subscriber read too slowly: its oldest `n` items were discarded.
    #[error("too slow: the oldest {0} items were discarded")]
    Lagged(u64),
    /// An event came whose data is not of the expected type.
    #[error("data: {0}")]
    Data(#[source] DecodeError),
    /// The client has given up reconnecting. The stream goes on after [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the subscription; the stream ends after this.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
}

impl EventError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Missed => codes::CONNECTION_LOST,
            Self::Lagged(_) => codes::LOCAL_LIMIT,
            Self::Data(_) => codes::PARSE,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
        }
    }

    /// Whether the stream goes on after it.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// Why there is no news of a stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The client has given up reconnecting. News comes again after [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the subscription; nothing will come.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
    /// The client was closed; nothing will come.
    #[error("the client is closed")]
    Closed,
}

impl FollowError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// Whether news may come later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Disconnected(_))
    }
}

impl From<FollowError> for StateError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Disconnected(reason) => Self::Disconnected(reason),
            FollowError::Refused { code, message } => Self::Refused { code, message },
            FollowError::Closed => Self::Closed,
        }
    }
}

/// Why a [`State`](crate::State) has no value to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The value is not of the expected type.
    #[error("value: {0}")]
    Value(#[source] serde_json::Error),
    /// The client has given up reconnecting. Changes come again after
    /// [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the subscription; no value will come.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
    /// The client was closed; no change will come.
    #[error("the client is closed")]
    Closed,
}

impl StateError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Value(_) => codes::PARSE,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// Whether a value may come on this handle later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Value(_) | Self::Disconnected(_))
    }
}

/// Why a CRDT could not be opened, read or edited through its handle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The edit cannot be made, or the key is of another type. Nothing has changed.
    #[error(transparent)]
    Crdt(#[from] CrdtError),
    /// Closed, over a limit, or a bad key.
    #[error(transparent)]
    Command(CommandError),
    /// The value cannot be written as JSON, or is not of the expected type.
    #[error("value: {0}")]
    Value(#[source] serde_json::Error),
    /// The client has given up reconnecting. What is pending is sent after
    /// [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the key, for reading or altogether. Asked again with the next connection, and when the key is
    /// opened again.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl EditError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Crdt(CrdtError::Limit { .. }) => codes::LOCAL_LIMIT,
            Self::Crdt(_) => codes::INVALID_PARAMS,
            Self::Command(refused) => refused.code(),
            Self::Value(_) => codes::PARSE,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// Whether the same may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Disconnected(_) | Self::Crdt(CrdtError::Limit { .. }))
    }
}

impl From<FollowError> for EditError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Disconnected(reason) => Self::Disconnected(reason),
            FollowError::Refused { code, message } => Self::Refused { code, message },
            FollowError::Closed => Self::Closed,
        }
    }
}

impl From<CommandError> for EditError {
    fn from(refused: CommandError) -> Self {
        match refused {
            CommandError::Refused { code, message } => Self::Refused { code, message },
            refused => Self::Command(refused),
        }
    }
}

/// Why a presence room could not be followed or entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The value cannot be written as JSON.
    #[error("value: {0}")]
    Value(#[source] serde_json::Error),
    /// Closed, over a limit, a bad key, or a server of version 1.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl PresenceError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Value(_) => codes::INVALID_PARAMS,
            Self::Command(refused) => refused.code(),
        }
    }

    /// Whether the same may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Command(CommandError::Limit { .. }))
    }
}

/// Why a document could not be opened or is not kept.
#[cfg(feature = "docs")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocError {
    /// Closed, over a limit, or a bad key.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Not called inside a tokio runtime.
    #[error("not inside a tokio runtime")]
    NoRuntime,
    /// The key is open with another `yrs::Doc`.
    #[error("the key is open with another document")]
    Open,
    /// A transaction of the document is under way; try again when it has ended.
    #[error("a transaction of the document is under way")]
    Busy,
    /// The awareness cannot be written as JSON.
    #[error("value: {0}")]
    Value(#[source] serde_json::Error),
    /// The client has given up reconnecting. The document is compared after
    /// [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server does not show the document, or does not take what was made here, as of one that is read-only.
    #[error("{message}")]
    Refused {
        /// One of [`codes`].
        code: i32,
        /// For people.
        message: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

#[cfg(feature = "docs")]
impl DocError {
    /// One of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Command(refused) => refused.code(),
            Self::NoRuntime => codes::HOST,
            Self::Open | Self::Busy => codes::INVALID_REQUEST,
            Self::Value(_) => codes::INVALID_PARAMS,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// Whether the same may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Busy | Self::Disconnected(_) | Self::Command(CommandError::Limit { .. }))
    }
}

#[cfg(feature = "docs")]
impl From<FollowError> for DocError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Disconnected(reason) => Self::Disconnected(reason),
            FollowError::Refused { code, message } => Self::Refused { code, message },
            FollowError::Closed => Self::Closed,
        }
    }
}
