//! [`BackendError`]: the reason why a backend did not do something.

/// The reason why a backend did not do something.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The engine cannot be reached, or failed. The outcome is open: the caller may retry, an append with the same tag.
    #[error("backend unavailable: {0}")]
    Unavailable(String),
    /// The engine is full, or the entry is larger than it accepts.
    #[error("backend full: {0}")]
    Full(String),
    /// The engine holds something other than what was stored.
    #[error("backend corrupt: {0}")]
    Corrupt(String),
    /// The request breaks the contract, for example an append without entries.
    #[error("not a valid request: {0}")]
    Invalid(String),
    /// The handle serves a node already; a second node opens a handle of its own.
    #[error("backend in use: {0}")]
    Taken(String),
    /// Repeats of an append were not answered either, or too much has come since: it may be stored or not.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}
