//! The register whose last writer wins (Johnson and Thomas, RFC 677, 1975; Shapiro et al. 2011, specification 8), "last"
//! by stamp. Equal stamps, which only version 1 makes, are decided by the value's text.

use super::{Json, Stamp, value::quoted_len};

/// A value and when it was written; without one, only a stamp (a tombstone, or nothing ever).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LwwRegister {
    pub(super) stamp: Stamp,
    pub(super) value: Option<Json>,
}

impl LwwRegister {
    pub(super) fn new() -> Self {
        Self { stamp: Stamp::zero(), value: None }
    }

    /// Takes what is later.
    pub(super) fn merge(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }

    /// Upper bound of the JSON's bytes.
    pub(super) fn size(&self) -> usize {
        ENTRY + quoted_len(&self.stamp.node) + self.value.as_ref().map_or(4, |value| value.get().len())
    }
}

/// Bytes of a map's entry beside its key (twice), its value and the name of its writer.
const ENTRY: usize = 84;
