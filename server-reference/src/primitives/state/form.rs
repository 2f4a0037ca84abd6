//! The entries of a state's stream: how they are read, and the messages that carry them.

use bytes::Bytes;
use datasole_core::{
    frame::Opcode,
    patch::{Patch, PatchLimits},
    tree::{self, Tree},
    wire::push_varuint,
};
use serde::de::IgnoredAny;

use crate::{
    entry::Entry,
    hub::{At, Form, Read},
    message::{self, NUMBERS, OBJECT, Object, framed},
};

/// The value was changed: a JSON array of RFC 6902 operations.
pub(super) const PATCH: u8 = b'p';
/// The value was replaced: its JSON.
pub(super) const VALUE: u8 = b'v';
/// The state was removed.
pub(super) const REMOVED: u8 = b'r';

/// The change that an entry makes to the value.
#[derive(Debug)]
pub(super) enum Step {
    /// The value is changed in place.
    Patch(Patch),
    /// Another one takes its place, or nothing.
    Replace(Option<Tree>),
}

impl Step {
    /// Reads an entry, which takes as long as it is.
    pub(super) fn read(entry: &Entry) -> Option<Self> {
        match entry.tag() {
            VALUE => tree::parse(entry.text()).ok().map(|value| Self::Replace(Some(value))),
            REMOVED => Some(Self::Replace(None)),
            PATCH => Patch::parse(entry.text(), &PatchLimits::default()).ok().map(Self::Patch),
            _ => None,
        }
    }
}

/// The entries of states.
#[derive(Debug)]
pub(super) struct Changes;

impl Form for Changes {
    fn reads(&self, entry: &Entry) -> bool {
        match entry.tag() {
            PATCH | VALUE => serde_json::from_slice::<IgnoredAny>(entry.content()).is_ok(),
            tag => tag == REMOVED,
        }
    }

    fn read(&self, entry: &Entry) -> Option<Read> {
        Some(Box::new(Step::read(entry)?))
    }

    fn most(&self, entry: &Entry, key: &str) -> Option<usize> {
        Some(match entry.tag() {
            PATCH => message::most_placed(key, "patches", entry.content()),
            _ => message::most(key, entry.content()),
        })
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        match entry.tag() {
            PATCH => {
                let about = OBJECT + at.key.len() + entry.content().len();
                framed(Opcode::StatePatch, 0, about, at.compress_above, |out| {
                    Object::new(out).text("key", at.key).raw("patches", entry.content()).position(at.position).end();
                })
            }
            VALUE => whole(Some(entry.content()), at),
            _ => whole(None, at),
        }
    }

    fn short(&self, entry: &Entry, at: &At<'_>) -> Option<Bytes> {
        let patches = entry.content();
        (entry.tag() == PATCH).then(|| {
            framed(Opcode::Entry, at.channel, NUMBERS + patches.len(), at.compress_above, |out| {
                push_varuint(out, at.position.seq);
                out.extend_from_slice(patches);
            })
        })
    }
}

/// The message of a whole value, `None` when the key does not exist.
pub(super) fn whole(value: Option<&[u8]>, at: &At<'_>) -> Bytes {
    let json = value.unwrap_or(b"null");
    framed(Opcode::StateSnapshot, 0, OBJECT + at.key.len() + json.len(), at.compress_above, |out| {
        let mut object = Object::new(out).text("key", at.key).number("version", at.position.seq).raw("data", json);
        if value.is_none() {
            object = object.raw("removed", b"true");
        }
        object.position(at.position).end();
    })
}
