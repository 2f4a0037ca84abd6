//! The error of an edit of a CRDT.

use std::time::Duration;

use datasole_core::{codes, crdt::CrdtError};

use crate::{answer::Refusal, backend::BackendError, clock::millis, error::RpcError};

/// The reason why a CRDT was not edited or read. The CRDT is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The CRDT refused: the edit is not for its type, would leave a counter's range, or exceed one of its limits.
    #[error(transparent)]
    Refused(#[from] CrdtError),
    /// Clients may not create keys: see [`Builder::client_crdts`](crate::Builder::client_crdts).
    #[error("no CRDT is registered as {0:?}")]
    Unregistered(String),
    /// A limit of keys was reached: [`Limits::max_crdt_keys`](crate::Limits::max_crdt_keys),
    /// [`Limits::max_crdt_keys_per_connection`](crate::Limits::max_crdt_keys_per_connection) or
    /// [`Limits::max_crdt_keys_per_user`](crate::Limits::max_crdt_keys_per_user).
    #[error("more than {limit} CRDT keys")]
    Keys {
        /// The limit.
        limit: usize,
    },
    /// The operation's replica is another client's: see *CRDTs* in `docs/protocol.md`.
    #[error("the replica belongs to another client")]
    Foreign,
    /// Too many new replicas of one user or address: see
    /// [`Limits::max_crdt_replicas_per_user`](crate::Limits::max_crdt_replicas_per_user).
    #[error("too many new replicas")]
    Replicas {
        /// The time after which one more is allowed.
        wait: Duration,
    },
    /// The operation does not fit in a frame.
    #[error("operation of {bytes} bytes exceeds the frame limit of {limit}")]
    TooLarge {
        /// Bytes of the operation or the key.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The value cannot be written as JSON, or not be read as the type asked for.
    #[error("value: {0}")]
    Json(#[from] serde_json::Error),
    /// A key must have 1 to [`Limits::max_key`](crate::Limits::max_key) bytes.
    #[error("a key must have 1 to {limit} bytes, this has {bytes}")]
    Key {
        /// Bytes of the operation or the key.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The backend failed. The outcome is unknown: the edit may be stored, but was not published.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl EditError {
    /// The code of the error on the wire: see [`codes`].
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Refused(CrdtError::Limit { .. }) | Self::Keys { .. } | Self::Replicas { .. } => codes::LIMIT,
            Self::Refused(_) | Self::Json(_) => codes::INVALID_PARAMS,
            Self::Key { .. } => codes::INVALID_REQUEST,
            Self::Unregistered(_) | Self::Foreign => codes::FORBIDDEN,
            Self::TooLarge { .. } => codes::TOO_LARGE,
            Self::Backend(_) => codes::INTERNAL,
        }
    }
}

impl From<EditError> for Refusal {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Backend(error) => Self::failed(&error),
            EditError::Replicas { wait } => {
                Self { retry_after: Some(millis(wait) + 1), ..Self::new(error.code(), error.to_string()) }
            }
            error => Self::new(error.code(), error.to_string()),
        }
    }
}

impl From<EditError> for RpcError {
    fn from(error: EditError) -> Self {
        Self::new(error.to_string()).code(error.code())
    }
}
