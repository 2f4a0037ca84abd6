//! Why a patch was refused, and where.

/// Longest piece of a peer's text that an error repeats; bytes.
const EXCERPT: usize = 120;

/// A patch was refused; the document is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// Not a JSON array of objects with the right members.
    #[error("operation {operation}: {message}")]
    Parse {
        /// Index of the operation that could not be read.
        operation: usize,
        /// What the JSON parser says, with line and column.
        message: String,
    },
    /// RFC 6902 has no such operation.
    #[error("operation {operation}: unknown op {name:?}")]
    UnknownOperation {
        /// Its index.
        operation: usize,
        /// The beginning of its name.
        name: String,
    },
    /// A member that this operation needs is absent.
    #[error("operation {operation}: missing member {member:?}")]
    MissingMember {
        /// Its index.
        operation: usize,
        /// Which.
        member: &'static str,
    },
    /// `path` or `from` is not a JSON Pointer.
    #[error("operation {operation}: {pointer:?} is not a JSON pointer")]
    BadPointer {
        /// Its index.
        operation: usize,
        /// The beginning of the text.
        pointer: String,
    },
    /// More than [`PatchLimits::max_operations`](super::PatchLimits::max_operations).
    #[error("more than {limit} operations")]
    TooManyOperations {
        /// The limit.
        limit: usize,
    },
    /// The operation does not fit the document.
    #[error("operation {operation} at {path:?}: {reason}")]
    Refused {
        /// Its index.
        operation: usize,
        /// The beginning of the `path` or `from` in question.
        path: String,
        /// Why.
        reason: Refusal,
    },
}

/// Why an operation does not fit the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is nothing, or nothing that could hold it.
    #[error("does not exist")]
    Missing,
    /// A token that meets an array must be an index (`-` only where something is added).
    #[error("not an array index")]
    BadIndex,
    /// The value is not the expected one.
    #[error("test failed")]
    TestFailed,
    /// A value cannot move into itself.
    #[error("moves into itself")]
    MoveIntoSelf,
    /// The whole document can be replaced, not removed.
    #[error("removes the whole document")]
    RemoveRoot,
    /// The document would become deeper than [`PatchLimits::max_depth`](super::PatchLimits::max_depth).
    #[error("deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// More than [`PatchLimits::max_copied_bytes`](super::PatchLimits::max_copied_bytes).
    #[error("copies more than {limit} bytes")]
    TooMuchCopied {
        /// The limit.
        limit: usize,
    },
    /// More than [`PatchLimits::max_shifted`](super::PatchLimits::max_shifted).
    #[error("moves more than {limit} array elements")]
    TooMuchShifted {
        /// The limit.
        limit: usize,
    },
}

/// The beginning of `text`, cut between characters.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().find(|(at, character)| at + character.len_utf8() > EXCERPT) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{EXCERPT, excerpt};

    #[test]
    fn excerpts_are_bounded_and_cut_between_characters() {
        assert_eq!(excerpt(&"a".repeat(EXCERPT)), "a".repeat(EXCERPT));
        assert_eq!(excerpt(&"a".repeat(EXCERPT + 1)), format!("{}…", "a".repeat(EXCERPT)));
        assert_eq!(excerpt(&format!("a{}", "é".repeat(EXCERPT))), format!("a{}…", "é".repeat(EXCERPT / 2 - 1)));
    }
}
