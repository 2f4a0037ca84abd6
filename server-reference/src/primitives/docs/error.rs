//! The error of a change of a document.

use datasole_core::codes;

use crate::{answer::Refusal, backend::BackendError};

/// The reason why a document was not changed, or not read.
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
    /// The update is malformed: Yjs could not have made it.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// The update has content of a kind that this server does not keep.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// The update refers to changes that the server does not have: synchronise first (send the changes that the
    /// server's state vector lacks).
    #[error("the update refers to changes that the server does not have")]
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
    /// The document would consist of too many blocks: pieces of content that were inserted each by itself.
    #[error("the document would take more than {limit} bytes of memory: it has too many pieces")]
    TooManyBlocks {
        /// [`Limits::max_doc_memory`](crate::Limits::max_doc_memory), bytes.
        limit: usize,
    },
    /// The documents in memory may not grow for now: see
    /// [`Limits::max_docs_memory`](crate::Limits::max_docs_memory) and
    /// [`Limits::max_docs_memory_per_user`](crate::Limits::max_docs_memory_per_user).
    #[error("there is no memory for larger documents at the moment")]
    Full,
    /// The update takes too long to apply: it inserts many units at one place.
    #[error("the update takes too long to apply")]
    TooSlow,
    /// A limit of documents was reached: [`Limits::max_docs`](crate::Limits::max_docs),
    /// [`Limits::max_docs_per_connection`](crate::Limits::max_docs_per_connection) or
    /// [`Limits::max_docs_per_user`](crate::Limits::max_docs_per_user).
    #[error("more than {limit} documents")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// There are too many awareness states, or one is too large.
    #[error("too many awareness states, or too large a one")]
    Crowded,
    /// The awareness client id is somebody else's: of another connection, or of a user who used it in the last minute.
    #[error("the awareness client id {client} is somebody else's")]
    Taken {
        /// The client id.
        client: u64,
    },
    /// The function that was to read or edit it panicked; nothing was changed.
    #[error("the function that was to read or edit the document panicked")]
    Panicked,
    /// The stored document is damaged: yrs cannot read it.
    #[error("the document is damaged")]
    Damaged,
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl From<DocError> for Refusal {
    fn from(error: DocError) -> Self {
        let code = match &error {
            DocError::Malformed(_) | DocError::Unsupported(_) | DocError::Missing => codes::INVALID_PARAMS,
            DocError::TooLarge { .. }
            | DocError::TooManyBlocks { .. }
            | DocError::TooSlow
            | DocError::TooMany { .. }
            | DocError::Crowded => codes::LIMIT,
            DocError::Full => return Self::busy(error.to_string()),
            DocError::Forbidden | DocError::Taken { .. } => codes::FORBIDDEN,
            DocError::Backend(error) => return Self::failed(error),
            DocError::Key { .. } | DocError::Panicked | DocError::Damaged => codes::INTERNAL,
        };
        Self::new(code, error.to_string())
    }
}
