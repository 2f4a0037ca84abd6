//! RFC 6902 patches on JSON documents: parsed and checked first, applied all or nothing.
//!
//! Atomic without a copy of the document: every operation leaves its inverse in an undo log, which is played back when
//! a later one fails. Knows nothing of streams, keys or connections.
//!
//! ```
//! use datasole_core::patch::{Patch, PatchLimits, apply};
//! use serde_json::json;
//! let mut document = json!({"rows": [{"n": 0}]});
//! let patch = Patch::parse(r#"[{"op": "replace", "path": "/rows/0/n", "value": 1}]"#, &PatchLimits::default()).unwrap();
//! apply(&mut document, &patch, &PatchLimits::default()).unwrap();
//! assert_eq!(document, json!({"rows": [{"n": 1}]}));
//! ```

use serde_json::Value;

/// Bounds on what a patch may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchLimits {
    /// Operations in one patch.
    pub max_operations: usize,
    /// Depth of the document, before and after; serde_json itself reads no deeper than 128.
    pub max_depth: usize,
}

impl Default for PatchLimits {
    fn default() -> Self {
        Self { max_operations: 100_000, max_depth: 120 }
    }
}
