//! The error of a change of a state.

use datasole_core::{codes, patch::PatchError};

use crate::{backend::BackendError, error::RpcError};

/// The reason why a state was not changed. The state is unchanged.
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
    /// The closure of an update rejected the change.
    #[error("update rejected: {0}")]
    Rejected(String),
    /// The value cannot be written as JSON, or not be read as the type asked for.
    #[error("value: {0}")]
    Json(#[from] serde_json::Error),
    /// A key must have 1 to [`Limits::max_key`](crate::Limits::max_key) bytes.
    #[error("a key must have 1 to {limit} bytes, this has {bytes}")]
    Key {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The backend failed. The outcome is unknown: the change may be stored, but was not published.
    #[error(transparent)]
    Backend(#[from] BackendError),
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
