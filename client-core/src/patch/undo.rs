//! [`Undo`]: the way back from a patch.

use std::mem;

use super::{
    Pointer,
    slot::{Slot, slot, target},
};
use crate::tree::{NULL, Tree};

/// The way back from an applied patch. Holds what was removed or replaced, and nothing else of the document.
#[derive(Debug, Default)]
#[must_use = "drop it to keep the change"]
pub struct Undo {
    pub(super) log: Vec<Inverse>,
}

impl Undo {
    /// Makes `document` what it was, and returns what the patch had put there. It must be as the patch left it; on another
    /// document the result is unspecified.
    pub fn revert(self, document: &mut Tree) -> Vec<Tree> {
        self.log.into_iter().rev().filter_map(|inverse| inverse.perform(document)).collect()
    }

    /// Whether dropping it takes longer than dropping so many values.
    pub fn outweighs(&self, mut values: usize) -> bool {
        self.log.iter().any(|inverse| match inverse {
            Inverse::Put { value, .. } | Inverse::Replace { value, .. } => value.fills(&mut values),
            Inverse::MoveBack { displaced, .. } => displaced.as_ref().unwrap_or(&NULL).fills(&mut values),
            Inverse::Take { .. } => NULL.fills(&mut values),
        })
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
    /// Goes one step back, and returns the value that the patch had put there.
    pub(super) fn perform(self, document: &mut Tree) -> Option<Tree> {
        match self {
            Self::Take { at } => slot(document, &at).and_then(Slot::take).ok(),
            Self::Put { at, value } => slot(document, &at).ok().and_then(|slot| slot.put(value)),
            Self::Replace { at, value } => target(document, &at).ok().map(|target| mem::replace(target, value)),
            Self::MoveBack { at, displaced, to } => {
                let moved = match displaced {
                    Some(value) => target(document, &at).map(|target| mem::replace(target, value)),
                    None => slot(document, &at).and_then(Slot::take),
                };
                if let (Ok(value), Ok(slot)) = (moved, slot(document, &to)) {
                    slot.put(value);
                }
                None
            }
        }
    }
}
