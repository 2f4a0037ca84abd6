//! RFC 6902 patches on JSON documents: parsed and checked first, applied all or nothing, and made from two documents.
//!
//! Atomic without a copy of the document: every operation leaves its inverse in an undo log, which is played back when
//! a later one fails. Knows nothing of streams, keys or connections.
//!
//! ```
//! use datasole_core::{patch::{Patch, PatchLimits, apply, diff}, tree::Tree};
//! use serde_json::json;
//! let limits = PatchLimits::default();
//! let before = Tree::from(json!({"rows": [{"n": 0}]}));
//! let mut document = before.clone();
//! let patch = Patch::parse(r#"[{"op": "replace", "path": "/rows/0/n", "value": 1}]"#, &limits).unwrap();
//! apply(&mut document, &patch, &limits).unwrap();
//! assert_eq!(document, json!({"rows": [{"n": 1}]}));
//! assert_eq!(diff(&before, &document), patch);
//! ```

mod apply;
mod diff;
mod error;
mod operation;
mod pointer;
mod slot;
mod text;
mod undo;

pub use apply::{Transaction, apply, apply_undoable};
pub use diff::diff;
#[cfg(feature = "mirror")]
pub(crate) use diff::text_length;
pub use error::{PatchError, Refusal};
pub use operation::Operation;
pub use pointer::{Pointer, PointerError};
pub use text::diff_text;
pub use undo::Undo;

use serde::Serialize;

use crate::tree::{NULL, Tree};

/// Operations to be applied in order. Every operation is well formed; whether it fits a document shows when applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Patch {
    operations: Vec<Operation>,
}

impl Patch {
    /// Reads a JSON array of operations. Unknown members are ignored, repeated ones refused.
    ///
    /// # Errors
    ///
    /// [`PatchError`] for anything else, and for more operations than allowed.
    pub fn parse(text: &str, limits: &PatchLimits) -> Result<Self, PatchError> {
        operation::parse(text, limits).map(Self::from_operations)
    }

    /// A patch of these operations. Limits are checked when it is applied.
    pub fn from_operations(operations: Vec<Operation>) -> Self {
        Self { operations }
    }

    /// The operations, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether it changes and tests nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Whether dropping it takes longer than dropping so many values.
    pub fn outweighs(&self, mut values: usize) -> bool {
        self.operations.iter().any(|operation| operation.value().unwrap_or(&NULL).fills(&mut values))
    }

    /// The new document, when all the patch does is to replace the whole: a snapshot then says the same.
    pub fn whole(&self) -> Option<&Tree> {
        match self.operations.as_slice() {
            [Operation::Replace { path, value } | Operation::Add { path, value }] if path.is_root() => Some(value),
            _ => None,
        }
    }

    /// The patch as JSON text.
    pub fn to_json(&self) -> String {
        // Writing values and pointers to memory cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Bounds on what a patch may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchLimits {
    /// Operations in one patch.
    pub max_operations: usize,
    /// Containers nested in each other, in the document as any operation would leave it; serde_json reads fewer than
    /// 128. A document that is deeper already can be read and made shallower.
    pub max_depth: usize,
    /// What the `copy` operations of one patch may copy together: bytes of text, and 32 for every value.
    pub max_copied_bytes: usize,
    /// The most elements that the operations of one patch may shift together: those behind elements that come and go in
    /// arrays, and 8 for every value in one that moves to a longer path, which is searched for its depth. A few thousand operations at
    /// the front of a huge array, or moves of it, would otherwise keep a processor busy for minutes.
    pub max_shifted: usize,
}

impl PatchLimits {
    /// Whether a document with this value at `path` is not too deep there.
    fn permit(&self, path: &Pointer, value: &Tree) -> bool {
        // Every value is looked at.
        let (levels, mut looks) = (self.max_depth.checked_sub(path.depth()), usize::MAX);
        levels.is_some_and(|levels| apply::is_within(value, levels, &mut looks) == Some(true))
    }
}

impl Default for PatchLimits {
    fn default() -> Self {
        Self { max_operations: 100_000, max_depth: 120, max_copied_bytes: 64 * 1024 * 1024, max_shifted: 100_000_000 }
    }
}
