//! [`Undo`]: the way back from a patch.

use std::mem;

use super::{
    Pointer,
    slot::{Slot, slot, target},
};
use crate::tree::Tree;

/// The way back from an applied patch. Holds what was removed or replaced, and nothing else of the document.
#[derive(Debug, Default)]
#[must_use = "drop it to keep the change"]
pub struct Undo {
    pub(super) log: Vec<Inverse>,
}

impl Undo {
    /// Makes `document` what it was. It must be as the patch left it; on another document the result is unspecified.
    pub fn revert(self, document: &mut Tree) {
        for inverse in self.log.into_iter().rev() {
            inverse.perform(document);
        }
    }
}

/// The inverse of one operation. Pointers are resolved: no `-` for the end of an array.
#[derive(Debug)]
pub(super) enum Inverse {
    Take { at: Pointer },
    Put { at: Pointer, value: Tree },
    Replace { at: Pointer, value: Tree },
    MoveBack { at: Pointer, displaced: Option<Tree>, to: Pointer },
}

impl Inverse {
    pub(super) fn perform(self, document: &mut Tree) {
        match self {
            Self::Take { at } => {
                if let Ok(slot) = slot(document, &at) {
                    let _ = slot.take();
                }
            }
            Self::Put { at, value } => {
                if let Ok(slot) = slot(document, &at) {
                    slot.put(value);
                }
            }
            Self::Replace { at, value } => {
                if let Ok(target) = target(document, &at) {
                    *target = value;
                }
            }
            Self::MoveBack { at, displaced, to } => {
                let moved = match displaced {
                    Some(value) => target(document, &at).map(|target| mem::replace(target, value)),
                    None => slot(document, &at).and_then(Slot::take),
                };
                if let (Ok(value), Ok(slot)) = (moved, slot(document, &to)) {
                    slot.put(value);
                }
            }
        }
    }
}
