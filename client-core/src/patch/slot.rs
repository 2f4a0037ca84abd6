//! [`Slot`]: the place in a document that a pointer names.

use std::{borrow::Cow, mem};

use super::{Pointer, Refusal};
use crate::tree::{Node, Object, Tree, index};

/// A place that may or may not be taken.
pub(super) enum Slot<'d, 'p> {
    Root(&'d mut Tree),
    Member(&'d mut Object, Cow<'p, str>),
    /// At most the array's length.
    Element(&'d mut Vec<Tree>, usize),
}

impl Slot<'_, '_> {
    /// Inserts an element, or sets a member or the document and returns what was there.
    pub(super) fn put(self, value: Tree) -> Option<Tree> {
        match self {
            Self::Root(root) => Some(mem::replace(root, value)),
            Self::Member(members, name) => members.insert(&name, value),
            Self::Element(elements, at) => {
                elements.insert(at, value);
                None
            }
        }
    }

    pub(super) fn take(self) -> Result<Tree, Refusal> {
        match self {
            Self::Root(_) => Err(Refusal::RemoveRoot),
            Self::Member(members, name) => members.remove(&name).ok_or(Refusal::Missing),
            Self::Element(elements, at) if at < elements.len() => {
                let taken = elements.remove(at);
                // At a cost that those which went have paid: half of them go again before the next time.
                if elements.len() < elements.capacity() / 4 {
                    elements.shrink_to(2 * elements.len());
                }
                Ok(taken)
            }
            Self::Element(..) => Err(Refusal::Missing),
        }
    }

    /// The value there, or the element before: a new value often has the same members.
    pub(super) fn like(&self) -> Option<&Tree> {
        match self {
            Self::Root(root) => Some(root),
            Self::Member(members, name) => members.get(name),
            Self::Element(elements, at) => elements.get(at.saturating_sub(1)),
        }
    }

    /// `path` with an index in the place of `-`.
    pub(super) fn resolved(&self, path: &Pointer) -> Pointer {
        let mut resolved = path.clone();
        if let Self::Element(_, at) = self {
            resolved.pop();
            resolved.push(&at.to_string());
        }
        resolved
    }
}

/// The place that a path names.
pub(super) fn slot<'d, 'p>(document: &'d mut Tree, path: &'p Pointer) -> Result<Slot<'d, 'p>, Refusal> {
    let Some((parents, last)) = path.split_last() else { return Ok(Slot::Root(document)) };
    match &mut descend(document, parents)?.0 {
        Node::Object(members) => Ok(Slot::Member(members.make_mut(), last)),
        Node::Array(elements) => {
            let elements = elements.make_mut();
            let at = if last == "-" { elements.len() } else { index(&last).ok_or(Refusal::BadIndex)? };
            if at <= elements.len() { Ok(Slot::Element(elements, at)) } else { Err(Refusal::Missing) }
        }
        _ => Err(Refusal::Missing),
    }
}

/// The value at a path.
pub(super) fn target<'d>(document: &'d mut Tree, path: &Pointer) -> Result<&'d mut Tree, Refusal> {
    descend(document, path.tokens())
}

fn descend<'d, 'p>(
    document: &'d mut Tree,
    mut tokens: impl Iterator<Item = Cow<'p, str>>,
) -> Result<&'d mut Tree, Refusal> {
    tokens.try_fold(document, |tree, token| match &mut tree.0 {
        Node::Object(members) => members.make_mut().get_mut(&token).ok_or(Refusal::Missing),
        Node::Array(elements) => {
            let at = index(&token).ok_or(Refusal::BadIndex)?;
            elements.make_mut().get_mut(at).ok_or(Refusal::Missing)
        }
        _ => Err(Refusal::Missing),
    })
}
