//! JSON Pointers (RFC 6901). Kept as text: a token is unescaped only when it is looked up.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::tree::unescape;

/// A place in a document, checked to be well formed.
///
/// ```
/// use datasole_core::patch::Pointer;
/// let pointer = Pointer::parse("/rows/0/a~1b").unwrap();
/// assert_eq!(pointer.tokens().collect::<Vec<_>>(), ["rows", "0", "a/b"]);
/// assert_eq!(pointer.depth(), 3);
/// assert!(Pointer::parse("rows").is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pointer {
    text: String,
}

/// Not empty and not beginning with `/`, or with a `~` that is followed by neither `0` nor `1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON pointer")]
pub struct PointerError;

impl Pointer {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks and keeps `text`.
    ///
    /// # Errors
    ///
    /// [`PointerError`] when it is not a pointer.
    pub fn parse(text: impl Into<String>) -> Result<Self, PointerError> {
        Self::of(text.into()).map_err(|_| PointerError)
    }

    /// The same; what is not a pointer is given back.
    pub(super) fn of(text: String) -> Result<Self, String> {
        let is_rooted = text.is_empty() || text.starts_with('/');
        let is_escaped = || text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if is_rooted && is_escaped() { Ok(Self { text }) } else { Err(text) }
    }

    /// The pointer as text, escapes included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it names the whole document.
    pub fn is_root(&self) -> bool {
        self.text.is_empty()
    }

    /// How many tokens it has: how many containers surround what it names.
    pub fn depth(&self) -> usize {
        self.text.bytes().filter(|&byte| byte == b'/').count()
    }

    /// Its tokens, unescaped.
    pub fn tokens(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.text.split('/').skip(1).map(unescape)
    }

    /// Goes one level down, to a member or an element.
    pub fn push(&mut self, token: &str) {
        self.text.push('/');
        for character in token.chars() {
            match character {
                '~' => self.text.push_str("~0"),
                '/' => self.text.push_str("~1"),
                other => self.text.push(other),
            }
        }
    }

    /// Goes one level up; no effect at the root.
    pub fn pop(&mut self) {
        self.text.truncate(self.text.rfind('/').unwrap_or(0));
    }

    /// Where its last token is to be looked up, and that token; nothing for the root.
    pub(super) fn split_last(&self) -> Option<(impl Iterator<Item = Cow<'_, str>>, Cow<'_, str>)> {
        let (parent, last) = self.text.rsplit_once('/')?;
        Some((parent.split('/').skip(1).map(unescape), unescape(last)))
    }

    /// Whether `other` is something inside what this names. Escaping is unambiguous, so the texts decide.
    pub(super) fn is_ancestor_of(&self, other: &Self) -> bool {
        other.text.strip_prefix(self.text.as_str()).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Pointer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Pointer;

    #[test]
    fn the_examples_of_the_rfc() {
        for (text, tokens) in [
            ("", &[][..]),
            ("/foo", &["foo"]),
            ("/foo/0", &["foo", "0"]),
            ("/", &[""]),
            ("/a~1b", &["a/b"]),
            ("/c%d", &["c%d"]),
            ("/i\\j", &["i\\j"]),
            ("/ ", &[" "]),
            ("/m~0n", &["m~n"]),
            ("/~01", &["~1"]),
            ("//", &["", ""]),
        ] {
            let pointer = Pointer::parse(text).unwrap();
            assert_eq!(pointer.tokens().collect::<Vec<_>>(), tokens, "{text}");
            assert_eq!((pointer.depth(), pointer.is_root()), (tokens.len(), tokens.is_empty()), "{text}");
            let mut built = Pointer::root();
            for token in tokens {
                built.push(token);
            }
            assert_eq!(built.as_str(), text, "escaping is unambiguous");
        }
    }

    #[test]
    fn malformed_pointers_are_refused() {
        for text in ["a", "a/b", "~", "/~", "/a~", "/~2", "/~~0", " /a"] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ancestors_end_at_a_token() {
        let pointer = |text| Pointer::parse(text).unwrap();
        for (ancestor, other, expected) in
            [("", "/a", true), ("", "", false), ("/a", "/a", false), ("/a", "/a/b", true), ("/a", "/ab", false)]
        {
            assert_eq!(pointer(ancestor).is_ancestor_of(&pointer(other)), expected, "{ancestor} {other}");
        }
    }

    #[test]
    fn pop_undoes_push() {
        let mut pointer = Pointer::parse("/a").unwrap();
        pointer.push("x/y");
        pointer.pop();
        assert_eq!(pointer.as_str(), "/a");
        pointer.pop();
        pointer.pop();
        assert!(pointer.is_root());
    }
}
