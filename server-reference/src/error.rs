//! Errors, one type per operation.

use datasole_core::{codes, crdt::CrdtError, patch::PatchError, wire::RpcErrorBody};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::backend::BackendError;

/// What a handler answers a call with when it has no result. The client sees all of it.
///
/// ```
/// use datasole_server::RpcError;
/// let error = RpcError::new("out of stock").code(409).data(&["red", "blue"]);
/// assert_eq!(error.to_string(), "out of stock");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    code: i32,
    message: String,
    data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error of the application, code -32000.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: codes::HANDLER, message: message.into(), data: None }
    }

    /// The parameters do not fit, code -32602.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::INVALID_PARAMS)
    }

    /// Not allowed, code -32002.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::FORBIDDEN)
    }

    /// The same with another code: one of [`codes`], or the application's own.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// The same with data for programs. Data that cannot be written as JSON is left out.
    #[must_use]
    pub fn data(mut self, data: &impl Serialize) -> Self {
        self.data = to_raw_value(data).ok();
        self
    }

    pub(crate) fn too_large(bytes: usize, limit: usize) -> Self {
        Self::new(format!("result of {bytes} bytes exceeds the frame limit of {limit}")).code(codes::TOO_LARGE)
    }

    pub(crate) fn body(&self) -> RpcErrorBody<'_> {
        RpcErrorBody { code: self.code, message: self.message.as_str().into(), data: self.data.as_deref() }
    }
}

impl From<StateError> for RpcError {
    fn from(error: StateError) -> Self {
        let code = match error {
            StateError::TooLarge { .. } => codes::TOO_LARGE,
            StateError::Patch(_) | StateError::Key { .. } | StateError::Json(_) => codes::INVALID_PARAMS,
            StateError::Rejected(_) => codes::HANDLER,
            StateError::Backend(_) => codes::INTERNAL,
        };
        Self::new(error.to_string()).code(code)
    }
}

impl From<EditError> for RpcError {
    fn from(error: EditError) -> Self {
        Self::new(error.to_string()).code(error.code())
    }
}

impl From<EventError> for RpcError {
    fn from(error: EventError) -> Self {
        let code = match error {
            EventError::TooLarge { .. } => codes::TOO_LARGE,
            EventError::Name { .. } | EventError::Json(_) => codes::INVALID_PARAMS,
            EventError::Backend(_) => codes::INTERNAL,
        };
        Self::new(error.to_string()).code(code)
    }
}

/// Why a state was not changed. It is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The value would no longer fit in a frame.
    #[error("state {key:?} of {bytes} bytes would exceed the frame limit of {limit}")]
    TooLarge {
        /// The state.
        key: String,
        /// The size its snapshot would have.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The patch does not apply to the value.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The closure of an update decided against it.
    #[error("update rejected: {0}")]
    Rejected(String),
    /// The value cannot be written as JSON, or not be read as the type asked for.
    #[error("not the JSON it should be: {0}")]
    Json(#[from] serde_json::Error),
    /// A key must have 1 to [`Limits::max_key`](crate::Limits::max_key) bytes.
    #[error("a key must have 1 to {limit} bytes, this has {bytes}")]
    Key {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The backend failed; whether the change was stored is not known, and it was not sent to anybody.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Why a CRDT was not edited or read. It is as it was before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The CRDT refused: the edit is not for its type, would leave a counter's range, or exceed one of its limits.
    #[error(transparent)]
    Refused(#[from] CrdtError),
    /// Clients may not create keys: see [`Builder::client_crdts`](crate::Builder::client_crdts).
    #[error("no CRDT is registered as {0:?}")]
    Unregistered(String),
    /// There are as many keys as there may be: [`Limits::max_crdt_keys`](crate::Limits::max_crdt_keys) or
    /// [`Limits::max_crdt_keys_per_connection`](crate::Limits::max_crdt_keys_per_connection).
    #[error("more than {limit} CRDT keys")]
    Keys {
        /// The limit.
        limit: usize,
    },
    /// The operation does not fit in a frame.
    #[error("operation of {bytes} bytes exceeds the frame limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The value cannot be written as JSON, or not be read as the type asked for.
    #[error("not the JSON it should be: {0}")]
    Json(#[from] serde_json::Error),
    /// A key must have 1 to [`Limits::max_key`](crate::Limits::max_key) bytes.
    #[error("a key must have 1 to {limit} bytes, this has {bytes}")]
    Key {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The backend failed; whether the edit was stored is not known, and it was not sent to anybody.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl EditError {
    /// What it is on the wire: see [`codes`].
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Refused(CrdtError::Limit { .. }) | Self::Keys { .. } => codes::LIMIT,
            Self::Refused(_) | Self::Json(_) => codes::INVALID_PARAMS,
            Self::Key { .. } => codes::INVALID_REQUEST,
            Self::Unregistered(_) => codes::FORBIDDEN,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::Backend(_) => codes::INTERNAL,
        }
    }
}

/// Why an event was not sent to anybody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The event does not fit in a frame.
    #[error("event of {bytes} bytes exceeds the frame limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A name must have 1 to [`Limits::max_event_name`](crate::Limits::max_event_name) bytes.
    #[error("an event name must have 1 to {limit} bytes, this has {bytes}")]
    Name {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The data cannot be written as JSON.
    #[error("not the JSON it should be: {0}")]
    Json(#[from] serde_json::Error),
    /// The backend of a topic with history failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Why a document was not changed, or not read.
#[cfg(feature = "docs")]
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocError {
    /// The key is empty or too long.
    #[error("a key of {bytes} bytes: it must have 1 to {limit}")]
    Key {
        /// Its length.
        bytes: usize,
        /// [`Limits::max_key`](crate::Limits::max_key).
        limit: usize,
    },
    /// It is not an update that Yjs could have made.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It is an update of a kind that this server does not keep.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// It refers to changes that the server has not got: synchronise first (send what the server's state vector lacks).
    #[error("the update refers to changes that the server has not got")]
    Missing,
    /// The user may only read the document.
    #[error("the document is read-only to this user")]
    Forbidden,
    /// The document would become too large. Deleting makes room.
    #[error("the document would be larger than {limit} bytes")]
    TooLarge {
        /// [`Limits::max_doc`](crate::Limits::max_doc), bytes.
        limit: usize,
    },
    /// Finding the places of what it inserts takes too long: many units are meant for one place.
    #[error("the update takes too long to apply")]
    TooSlow,
    /// There are as many documents as there may be: [`Limits::max_docs`](crate::Limits::max_docs) or
    /// [`Limits::max_docs_per_connection`](crate::Limits::max_docs_per_connection).
    #[error("more than {limit} documents")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// There are too many awareness states, or one is too large.
    #[error("too many awareness states, or too large a one")]
    Crowded,
    /// The function that was to read or edit it panicked; nothing was changed.
    #[error("the function that was to read or edit the document panicked")]
    Panicked,
    /// yrs cannot go on with what is stored.
    #[error("the document is damaged")]
    Damaged,
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
