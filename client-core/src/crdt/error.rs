//! Why an operation or a state was refused.

use super::CrdtKind;

/// An operation or a state was refused; what it was meant for is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrdtError {
    /// Not what `docs/protocol.md` says. Sending it again does not help.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Not JSON, or a member of another type.
    #[error("malformed: {0}")]
    Json(String),
    /// Meant for a CRDT of another type.
    #[error("this is a {expected}, not a {found}")]
    WrongKind {
        /// What it was applied to.
        expected: CrdtKind,
        /// What it is.
        found: CrdtKind,
    },
    /// A counter, or what one replica contributed to it, would leave ±(2^53 − 1).
    #[error("the counter would leave ±(2^53-1)")]
    Range,
    /// One change of a counter is over [`CrdtLimits::max_amount`](super::CrdtLimits::max_amount).
    #[error("a counter changes by at most {limit} at once")]
    Amount {
        /// The limit.
        limit: u64,
    },
    /// Older than what is still remembered: it may contradict something that has been forgotten.
    #[error("older than {floor}, and what came before that has been forgotten")]
    Forgotten {
        /// Unix milliseconds.
        floor: u64,
    },
    /// One of [`CrdtLimits`](super::CrdtLimits), or the number of pending operations.
    #[error("more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The clock has been led to the end of time by a stamp of 2^53 − 1.
    #[error("the clock is at its end")]
    Clock,
}

impl From<serde_json::Error> for CrdtError {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error.to_string().chars().take(200).collect())
    }
}
