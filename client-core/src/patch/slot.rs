//! [`Slot`]: the place in a document that a pointer names.

use std::{borrow::Cow, mem};

use serde_json::{Map, Value};

use super::{Pointer, Refusal, pointer::index};

/// A place that may or may not be taken.
pub(super) enum Slot<'d, 'p> {
    Root(&'d mut Value),
    Member(&'d mut Map<String, Value>, Cow<'p, str>),
    /// At most the array's length.
    Element(&'d mut Vec<Value>, usize),
}

impl Slot<'_, '_> {
    /// Inserts an element, or sets a member or the document and returns what was there.
    pub(super) fn put(self, value: Value) -> Option<Value> {
        match self {
            Self::Root(root) => Some(mem::replace(root, value)),
            Self::Member(members, key) => members.insert(key.into_owned(), value),
            Self::Element(elements, at) => {
                elements.insert(at, value);
                None
            }
        }
    }

    pub(super) fn take(self) -> Result<Value, Refusal> {
        match self {
            Self::Root(_) => Err(Refusal::RemoveRoot),
            Self::Member(members, key) => members.remove(&*key).ok_or(Refusal::Missing),
            Self::Element(elements, at) if at < elements.len() => Ok(elements.remove(at)),
            Self::Element(..) => Err(Refusal::Missing),
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
pub(super) fn slot<'d, 'p>(document: &'d mut Value, path: &'p Pointer) -> Result<Slot<'d, 'p>, Refusal> {
    let Some((parents, last)) = path.split_last() else { return Ok(Slot::Root(document)) };
    match descend(document, parents)? {
        Value::Object(members) => Ok(Slot::Member(members, last)),
        Value::Array(elements) => {
            let at = if last == "-" { elements.len() } else { index(&last).ok_or(Refusal::BadIndex)? };
            if at <= elements.len() { Ok(Slot::Element(elements, at)) } else { Err(Refusal::Missing) }
        }
        _ => Err(Refusal::Missing),
    }
}

/// The value at a path.
pub(super) fn target<'d>(document: &'d mut Value, path: &Pointer) -> Result<&'d mut Value, Refusal> {
    descend(document, path.tokens())
}

fn descend<'d, 'p>(
    document: &'d mut Value,
    mut tokens: impl Iterator<Item = Cow<'p, str>>,
) -> Result<&'d mut Value, Refusal> {
    tokens.try_fold(document, |value, token| match value {
        Value::Object(members) => members.get_mut(&*token).ok_or(Refusal::Missing),
        Value::Array(elements) => elements.get_mut(index(&token).ok_or(Refusal::BadIndex)?).ok_or(Refusal::Missing),
        _ => Err(Refusal::Missing),
    })
}
