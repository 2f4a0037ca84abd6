//! An entry of a stream, in the bytes that a backend keeps.

use std::cell::Cell;

use bytes::Bytes;
use serde::Serialize;

/// Bytes from which on a buffer is handed on instead of copied.
const LARGE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes that `write` writes, in about as much memory: those that are kept for long have no spare room.
pub(crate) fn exact(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = SCRATCH.take();
    bytes.clear();
    write(&mut bytes);
    if bytes.len() > LARGE {
        return bytes.into_boxed_slice().into();
    }
    let exact = copied(&bytes);
    SCRATCH.set(bytes);
    exact
}

/// A copy of bytes that is to be shared. Short ones are in one allocation with their count of references.
fn copied(bytes: &[u8]) -> Bytes {
    match bytes.len() {
        0..=31 => Inline::<31>::of(bytes),
        32..=47 => Inline::<47>::of(bytes),
        48..=63 => Inline::<63>::of(bytes),
        64..=79 => Inline::<79>::of(bytes),
        80..=95 => Inline::<95>::of(bytes),
        96..=127 => Inline::<127>::of(bytes),
        128..=159 => Inline::<159>::of(bytes),
        160..=191 => Inline::<191>::of(bytes),
        _ => None,
    }
    .unwrap_or_else(|| Bytes::copy_from_slice(bytes))
}

/// Bytes in place, `ROOM` at most: with their count as many as an allocation of glibc has room for.
struct Inline<const ROOM: usize> {
    length: u8,
    bytes: [u8; ROOM],
}

impl<const ROOM: usize> Inline<ROOM> {
    fn of(text: &[u8]) -> Option<Bytes> {
        let mut bytes = [0; ROOM];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        Some(Bytes::from_owner(Self { length: u8::try_from(text.len()).ok()?, bytes }))
    }
}

impl<const ROOM: usize> AsRef<[u8]> for Inline<ROOM> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length.into()).unwrap_or_default()
    }
}

/// An entry of a stream: a tag that only the stream's kind understands, then the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry(Bytes);

impl Entry {
    /// An entry of this content.
    pub(crate) fn new(tag: u8, content: &[u8]) -> Self {
        Self::of(tag, &[content])
    }

    /// An entry whose content is these parts, one after the other.
    pub(crate) fn of(tag: u8, parts: &[&[u8]]) -> Self {
        Self(exact(|bytes| {
            bytes.reserve_exact(1 + parts.iter().map(|part| part.len()).sum::<usize>());
            bytes.push(tag);
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
        }))
    }

    /// An entry whose content is the JSON of a value.
    pub(crate) fn json(tag: u8, value: &impl Serialize) -> serde_json::Result<Self> {
        let mut written = Ok(());
        let bytes = exact(|bytes| {
            bytes.push(tag);
            written = serde_json::to_writer(bytes, value);
        });
        written.map(|()| Self(bytes))
    }

    /// An entry as a backend has it; `None` for one without a tag.
    pub(crate) fn stored(bytes: Bytes) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    /// The tag, which tells the kind of step.
    pub(crate) fn tag(&self) -> u8 {
        self.0.first().copied().unwrap_or_default()
    }

    /// The bytes behind the tag.
    pub(crate) fn content(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }

    /// The same as text; empty, which is no JSON, if it is none.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.content()).unwrap_or_default()
    }

    /// The bytes that a backend keeps.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_any_length_is_the_same() {
        for length in (0..300).chain([LARGE - 1, LARGE, LARGE + 1, 3 * LARGE]) {
            let text: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let entry = Entry::new(b'n', &text);
            assert_eq!((entry.tag(), entry.content()), (b'n', &text[..]));
            assert_eq!(entry.clone().bytes().slice(1..), text);
        }
    }
}
