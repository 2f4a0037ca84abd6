//! One error enum per operation, each with `code()` (the numbers of [`codes`]) and `retryable()`.
//!
//! No error holds the URL or a token, so that they can be logged.

use std::fmt;

use datasole_core::{CallError as CallFailure, CommandError, DisconnectReason, codes, crdt::CrdtError};
use serde::de::DeserializeOwned;

use crate::status;

/// The reason why [`Builder::connect`](crate::Builder::connect) failed. `Debug` shows the text for people, because that is
/// how an error leaves `main`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL has no host, or another scheme than `http`, `https`, `ws` and `wss`.
    #[error("the URL must be http, https, ws or wss, with a host")]
    Url,
    /// The header is invalid, or belongs to the WebSocket handshake.
    #[error("the header `{0}` cannot be sent")]
    Header(String),
    /// The types given to [`Builder::contract`](crate::Builder::contract) are no contract.
    #[cfg(feature = "contract")]
    #[error(transparent)]
    Contract(#[from] datasole_contract::ContractError),
    /// TLS could not be set up, or is not compiled in.
    #[error("TLS: {0}")]
    Tls(String),
    /// The system has no random numbers to give.
    #[error("no random numbers: {0}")]
    Entropy(getrandom::Error),
    /// The proxy of the options or of the environment cannot be used.
    #[error("{0}; `Builder::no_proxy` connects without")]
    Proxy(String),
    /// The call was not made inside a tokio runtime.
    #[error("not inside a tokio runtime")]
    NoRuntime,
    /// The server refused this client for good, the last attempt that [`Reconnect`](crate::Reconnect) allows failed, or
    /// there was no connection in time.
    #[error("{}", status::describe(.0))]
    Failed(DisconnectReason),
}

impl ConnectError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Url | Self::Header(_) | Self::Tls(_) | Self::Proxy(_) | Self::Entropy(_) | Self::NoRuntime => {
                codes::HOST
            }
            #[cfg(feature = "contract")]
            Self::Contract(_) => codes::HOST,
            Self::Failed(DisconnectReason::Unauthorized(_)) => codes::UNAUTHORIZED,
            Self::Failed(DisconnectReason::ConnectTimeout) => codes::TIMEOUT,
            Self::Failed(DisconnectReason::ClosedByUser) => codes::CLOSED,
            Self::Failed(DisconnectReason::Protocol(_)) => codes::INVALID_REQUEST,
            Self::Failed(DisconnectReason::Offline | DisconnectReason::Idle) => codes::NOT_CONNECTED,
            Self::Failed(_) => codes::CONNECTION_LOST,
        }
    }

    /// True if a retry may succeed.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Failed(reason) => status::is_passing(reason),
            Self::Url | Self::Header(_) | Self::Tls(_) | Self::Proxy(_) | Self::Entropy(_) | Self::NoRuntime => false,
            #[cfg(feature = "contract")]
            Self::Contract(_) => false,
        }
    }
}

impl fmt::Debug for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The reason why a payload could not be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// JSON of another shape.
    #[error("no {wanted}: {source}")]
    Json {
        /// The expected type.
        wanted: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// Raw bytes where JSON was expected.
    #[error("expected JSON, got {bytes} raw bytes")]
    Binary {
        /// The number of bytes.
        bytes: usize,
    },
    /// JSON where raw bytes were expected.
    #[error("expected raw bytes, got JSON")]
    NotBinary,
}

/// The failure of a call.
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
    #[error("{}", status::plain(&.0.to_string()))]
    Failed(#[from] CallFailure),
}

impl CallError {
    /// The error code, one of [`codes`] or the application's own.
    pub fn code(&self) -> i32 {
        match self {
            Self::Params(_) => codes::INVALID_PARAMS,
            Self::Result(_) => codes::PARSE,
            Self::Failed(failure) => failure.code(),
        }
    }

    /// The data of the server's error, if there is any of that type.
    pub fn data<T: DeserializeOwned + 'static>(&self) -> Option<T> {
        match self {
            Self::Failed(CallFailure::Server { data: Some(data), .. }) => datasole_core::value::from_raw(data).ok(),
            _ => None,
        }
    }

    /// True if a retry may succeed. A lost or late answer does not say whether the call was carried out: retry
    /// idempotent calls only.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.retryable())
    }
}

impl From<CommandError> for CallError {
    fn from(refused: CommandError) -> Self {
        Self::Failed(CallFailure::Refused(refused))
    }
}

/// The reason why an event was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The data cannot be written as JSON.
    #[error("data: {0}")]
    Data(#[source] serde_json::Error),
    /// The command was refused: not connected, closed, or over a limit.
    #[error("{}", status::plain(&.0.to_string()))]
    Refused(#[from] CommandError),
}

impl EmitError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Data(_) => codes::INVALID_PARAMS,
            Self::Refused(refused) => refused.code(),
        }
    }

    /// True if a retry may succeed.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Refused(CommandError::NotConnected | CommandError::Limit { .. }))
    }
}

/// An item of an [`Events`](crate::Events) stream in the place of events that were, or may have been, lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The connection was lost, and the server no longer has, or never kept, the events published meanwhile.
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
    #[error("{}", status::plain(.message))]
    Refused {
        /// The error code, one of [`codes`].
        code: i32,
        /// The message, for people.
        message: String,
    },
}

impl EventError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Missed => codes::CONNECTION_LOST,
            Self::Lagged(_) => codes::LOCAL_LIMIT,
            Self::Data(_) => codes::PARSE,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
        }
    }

    /// True if the stream goes on after this item.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

/// The reason why a [`Changes`](crate::Changes) stream is interrupted or ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// The client has given up reconnecting. News comes again after [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the subscription; nothing will come.
    #[error("{}", status::plain(.message))]
    Refused {
        /// The error code, one of [`codes`].
        code: i32,
        /// The message, for people.
        message: String,
    },
    /// The client was closed; nothing will come.
    #[error("the client is closed")]
    Closed,
}

impl FollowError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// True if news may come later.
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

/// The reason why a [`State`](crate::State) has no value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The value is not of the expected type.
    #[error("the state {key:?} is no {wanted}: {source}")]
    Value {
        /// The state's key.
        key: String,
        /// The expected type.
        wanted: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// The client has given up reconnecting. Changes come again after
    /// [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the subscription; no value will come.
    #[error("{}", status::plain(.message))]
    Refused {
        /// The error code, one of [`codes`].
        code: i32,
        /// The message, for people.
        message: String,
    },
    /// The client was closed; no change will come.
    #[error("the client is closed")]
    Closed,
}

impl StateError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Value { .. } => codes::PARSE,
            Self::Disconnected(_) => codes::NOT_CONNECTED,
            Self::Refused { code, .. } => *code,
            Self::Closed => codes::CLOSED,
        }
    }

    /// True if a value may come on this handle later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Value { .. } | Self::Disconnected(_))
    }
}

/// The failure to open, read or edit a CRDT.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The edit cannot be made, or the key is of another type. Nothing has changed.
    #[error(transparent)]
    Crdt(#[from] CrdtError),
    /// The command was refused: closed, over a limit, or an invalid key.
    #[error("{}", status::plain(&.0.to_string()))]
    Command(CommandError),
    /// The value cannot be written as JSON, or is not of the expected type.
    #[error("value: {0}")]
    Value(#[from] serde_json::Error),
    /// The client has given up reconnecting. Pending edits are sent after
    /// [`Client::reconnect`](crate::Client::reconnect).
    #[error("{}", status::describe(.0))]
    Disconnected(DisconnectReason),
    /// The server refused the key, for reading or altogether. Asked again with the next connection, and when the key is
    /// opened again.
    #[error("{}", status::plain(.message))]
    Refused {
        /// The error code, one of [`codes`].
        code: i32,
        /// The message, for people.
        message: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl EditError {
    /// The error code, one of [`codes`].
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

    /// True if a retry may succeed.
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

/// The failure to follow or enter a presence room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The value cannot be written as JSON.
    #[error("value: {0}")]
    Value(#[source] serde_json::Error),
    /// The command was refused: closed, over a limit, an invalid key, or a server of version 1.
    #[error("{}", status::plain(&.0.to_string()))]
    Command(#[from] CommandError),
}

impl PresenceError {
    /// The error code, one of [`codes`].
    pub fn code(&self) -> i32 {
        match self {
            Self::Value(_) => codes::INVALID_PARAMS,
            Self::Command(refused) => refused.code(),
        }
    }

    /// True if a retry may succeed.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Command(CommandError::Limit { .. }))
    }
}

/// The failure to open or synchronise a document.
#[cfg(feature = "docs")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocError {
    /// The command was refused: closed, over a limit, or an invalid key.
    #[error("{}", status::plain(&.0.to_string()))]
    Command(#[from] CommandError),
    /// The call was not made inside a tokio runtime.
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
    /// The server refuses the document, or local edits of it (for example of a read-only document).
    #[error("{}", status::plain(.message))]
    Refused {
        /// The error code, one of [`codes`].
        code: i32,
        /// The message, for people.
        message: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

#[cfg(feature = "docs")]
impl DocError {
    /// The error code, one of [`codes`].
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

    /// True if a retry may succeed.
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
