//! [`Tree`]: a JSON value as hosts keep it, small in memory and quick to change.
//!
//! A value takes 16 bytes, short strings included; objects with the same members share the list of their names; what has
//! many members is a map. A copy costs a count: both share what they have in common, and the one that changes first copies
//! the arrays and objects around the change, but not what is in them. Members are in the order of their names, numbers as `serde_json` has them. Patches, differences
//! and the comparison with a text work on trees; serde stands at the border.
//!
//! ```
//! use datasole_core::tree::{Tree, parse};
//! let tree = parse(r#"{"rows":[{"n":1},{"n":2}]}"#)?;
//! assert_eq!(tree["rows"][1]["n"].as_i64(), Some(2));
//! assert_eq!(tree.pointer("/rows/0").map(Tree::to_string).as_deref(), Some(r#"{"n":1}"#));
//! #[derive(serde::Deserialize)]
//! struct Row { n: u8 }
//! assert_eq!(tree["rows"].read::<Vec<Row>>()?.len(), 2);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod compare;
mod convert;
mod object;
mod parse;
mod read;
mod shared;
mod text;
mod write;

use std::{borrow::Cow, ops::Index};

pub use self::parse::parse;
use self::shared::Shared;
pub(crate) use self::{compare::Comparison, object::Object, text::Text};

/// A JSON value: null, a boolean, a number, a string, an array or an object.
#[derive(Clone, Default)]
pub struct Tree(pub(crate) Node);

/// The kinds of values. 16 bytes: the tag of a text has room for all others.
#[derive(Clone, Default, PartialEq)]
pub(crate) enum Node {
    #[default]
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Negative(i64),
    /// Finite.
    Float(f64),
    Text(Text),
    Array(Shared<Vec<Tree>>),
    Object(Shared<Object>),
}

const _: () = assert!(size_of::<Tree>() == 16, "every value takes as much as the largest");

/// Bytes of a text that are dropped in the time of a value.
const LINE: usize = 64;

pub(crate) static NULL: Tree = Tree(Node::Null);

impl Tree {
    /// The value at a JSON Pointer (RFC 6901); the empty one is the whole.
    pub fn pointer(&self, pointer: &str) -> Option<&Self> {
        if pointer.is_empty() {
            return Some(self);
        }
        let tokens = pointer.strip_prefix('/')?.split('/');
        tokens.map(unescape).try_fold(self, |tree, token| match &tree.0 {
            Node::Array(elements) => elements.get(index(&token)?),
            _ => tree.get(&token),
        })
    }

    /// The member of this name, where this is an object that has one.
    pub fn get(&self, name: &str) -> Option<&Self> {
        if let Node::Object(object) = &self.0 { object.get(name) } else { None }
    }

    /// The members in the order of their names; none where this is no object.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        let members = if let Node::Object(object) = &self.0 { Some(object.iter()) } else { None };
        members.into_iter().flatten().map(|(name, member)| (name.as_str(), member))
    }

    /// The elements, where this is an array.
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Node::Array(elements) = &self.0 { Some(elements) } else { None }
    }

    /// The text, where this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Node::Text(text) = &self.0 { Some(text.as_str()) } else { None }
    }

    /// The boolean, where this is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Node::Bool(bool) = self.0 { Some(bool) } else { None }
    }

    /// The integer, where this is one from −2⁶³ to 2⁶³ − 1. A float is none, whatever its value.
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Node::Unsigned(integer) => integer.try_into().ok(),
            Node::Negative(integer) => Some(integer),
            _ => None,
        }
    }

    /// The integer, where this is one from 0 to 2⁶⁴ − 1. A float is none, whatever its value.
    pub fn as_u64(&self) -> Option<u64> {
        if let Node::Unsigned(integer) = self.0 { Some(integer) } else { None }
    }

    /// The number, where this is one, as the nearest double.
    pub fn as_f64(&self) -> Option<f64> {
        match self.0 {
            Node::Unsigned(integer) => Some(integer as f64),
            Node::Negative(integer) => Some(integer as f64),
            Node::Float(float) => Some(float),
            _ => None,
        }
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(self.0, Node::Null)
    }

    /// Whether this is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.0, Node::Object(_))
    }

    /// Whether dropping it takes longer than dropping so many values. Looks no further than that.
    pub fn outweighs(&self, mut values: usize) -> bool {
        self.fills(&mut values)
    }

    /// The same of room for values, which it takes.
    pub(crate) fn fills(&self, room: &mut usize) -> bool {
        let own = 1 + if let Node::Text(text) = &self.0 { text.len() / LINE } else { 0 };
        let Some(left) = room.checked_sub(own) else { return true };
        *room = left;
        match &self.0 {
            Node::Array(elements) => elements.iter().any(|element| element.fills(room)),
            Node::Object(members) => members.iter().any(|(_, member)| member.fills(room)),
            _ => false,
        }
    }

    /// Shares the names of `like` where both have the same.
    pub(crate) fn adopt(&mut self, like: &Self) {
        match (&mut self.0, &like.0) {
            (Node::Object(own), Node::Object(like)) if own.len() > 0 => own.make_mut().adopt(like),
            (Node::Array(own), Node::Array(like)) if !own.is_empty() => {
                if let Some(like) = like.first() {
                    own.make_mut().iter_mut().for_each(|own| own.adopt(like));
                }
            }
            _ => {}
        }
    }
}

/// The member of this name; null where there is none.
impl Index<&str> for Tree {
    type Output = Self;

    fn index(&self, name: &str) -> &Self {
        self.get(name).unwrap_or(&NULL)
    }
}

/// The element there; null where there is none.
impl Index<usize> for Tree {
    type Output = Self;

    fn index(&self, at: usize) -> &Self {
        self.as_array().and_then(|elements| elements.get(at)).unwrap_or(&NULL)
    }
}

/// An array index: digits without leading zeros. `-` is not one.
pub(crate) fn index(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (token == "0" || !token.starts_with('0'))).then(|| token.parse().ok()).flatten()
}

/// A token of a JSON Pointer without its escapes.
pub(crate) fn unescape(token: &str) -> Cow<'_, str> {
    if token.contains('~') { Cow::Owned(token.replace("~1", "/").replace("~0", "~")) } else { Cow::Borrowed(token) }
}

#[cfg(test)]
mod tests;
