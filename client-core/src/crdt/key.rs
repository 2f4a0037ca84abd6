//! [`Key`]: the name of a map's entry, in place where it is short, so that looking for one reads no memory but the map's.

use std::{borrow::Borrow, cmp::Ordering, fmt, sync::Arc};

/// The longest name that is kept in place; bytes.
const SHORT: usize = 22;

/// A name. Compared and ordered as its bytes are, which is the order of characters too.
#[derive(Clone)]
pub(super) enum Key {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

const _: () = assert!(size_of::<Key>() == 24, "a short one has the room of a long one");

impl Key {
    fn short(name: &str) -> Option<Self> {
        let (length, mut bytes) = (u8::try_from(name.len()).ok()?, [0; SHORT]);
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self::Short { length, bytes })
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or(bytes),
            Self::Long(name) => name.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            // The bytes are a text's.
            Self::Short { .. } => str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Self::Long(name) => name,
        }
    }
}

impl From<&Arc<str>> for Key {
    fn from(name: &Arc<str>) -> Self {
        Self::short(name).unwrap_or_else(|| Self::Long(name.clone()))
    }
}

impl From<&str> for Key {
    fn from(name: &str) -> Self {
        Self::short(name).unwrap_or_else(|| Self::Long(name.into()))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_alike_in_place_and_elsewhere() {
        let long = |last: &str| "x".repeat(SHORT - 1) + last;
        let mut names = ["", "a", "é", "\u{fb33}", "😀", "x"].map(String::from).to_vec();
        names.extend(["", "a", "b", "é", "aa", "ab"].map(long));
        names.sort();
        let keys: Vec<Key> = names.iter().map(|name| Key::from(name.as_str())).collect();
        assert!(keys.is_sorted());
        for (key, name) in keys.iter().zip(&names) {
            assert_eq!((key.as_str(), matches!(key, Key::Short { .. })), (name.as_str(), name.len() <= SHORT));
            assert_eq!(*key, Key::from(&Arc::from(name.as_str())));
        }
    }
}
