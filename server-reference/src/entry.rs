//! An entry of a stream, in the bytes that a backend keeps.

use std::cell::Cell;

use bytes::Bytes;
use serde::Serialize;

/// Bytes from which on a buffer is handed on instead of copied.
const LARGE: usize = 16 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What `write` writes, in as many bytes: what is kept for long has no spare room.
pub(crate) fn exact(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = SCRATCH.take();
    bytes.clear();
    write(&mut bytes);
    if bytes.len() > LARGE {
        return bytes.into_boxed_slice().into();
    }
    let exact = Bytes::copy_from_slice(&bytes);
    SCRATCH.set(bytes);
    exact
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
        let mut bytes = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
        bytes.push(tag);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Self(bytes.into())
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
