//! [`Ready`]: an entry on its way into a stream, and what was made of it before the stream is locked.
//!
//! A long one takes milliseconds to read, and its messages as many to compress.

use bytes::Bytes;

use super::{
    kind::{At, Form, Inapplicable, Read},
    stream::Writer,
};
use crate::{
    backend::log::{self, Tag},
    entry::Entry,
};

/// An entry that can be read.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(super) entry: Entry,
    pub(super) read: Option<Read>,
    pub(super) made: Made,
}

/// Messages that carry an entry at the place for which they were made; the others are made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) long: Option<Bytes>,
    /// `None` inside where there is no such form.
    pub(super) short: Option<Option<Bytes>>,
}

/// The side that takes entries of others.
#[derive(Debug)]
pub(super) enum By {
    /// With the right to append, which the caller holds.
    Writer,
    /// With that right, until they are taken, or without.
    Reader(Option<Writer>),
}

/// Which messages somebody needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed {
    pub(super) long: bool,
    /// The long one is kept for those who come back, unless it can be [made late](Form::most).
    pub(super) kept: bool,
    pub(super) short: bool,
}

/// An entry that others have appended, and the same ready, if it was made so.
#[derive(Debug)]
pub(crate) struct Next {
    pub(super) prev: u64,
    pub(super) tag: Tag,
    bytes: Bytes,
    ready: Option<Ready>,
}

impl Ready {
    /// An entry of which nothing was made.
    pub(super) fn new(entry: Entry) -> Self {
        Self { entry, read: None, made: Made::default() }
    }

    /// Makes of an entry what is needed at its place.
    pub(super) fn make(&mut self, form: &dyn Form, at: &At<'_>, needed: Needed) {
        let is_late = || form.most(&self.entry, at.key).is_some_and(|most| most <= at.compress_above);
        let is_made = needed.long || needed.kept && !is_late();
        self.made.long = is_made.then(|| form.message(&self.entry, at));
        self.made.short = needed.short.then(|| form.short(&self.entry, at));
    }
}

impl From<&log::Entry> for Next {
    fn from(entry: &log::Entry) -> Self {
        Self { prev: entry.prev, tag: entry.tag, bytes: entry.bytes.clone(), ready: None }
    }
}

impl Next {
    /// Reads the entry, and makes of it what is needed at its place.
    pub(super) fn prepare(&mut self, form: &dyn Form, at: &At<'_>, needed: Needed) {
        let entry = Entry::stored(self.bytes.clone()).filter(|entry| form.reads(entry));
        self.ready = entry.map(|entry| {
            let read = form.read(&entry);
            let mut ready = Ready { read, ..Ready::new(entry) };
            ready.make(form, at, needed);
            ready
        });
    }

    /// The entry, which has to be one of the stream's.
    pub(super) fn ready(self, form: &dyn Form) -> Result<Ready, Inapplicable> {
        let unread = || Entry::stored(self.bytes).filter(|entry| form.reads(entry)).map(Ready::new);
        self.ready.or_else(unread).ok_or(Inapplicable)
    }
}

/// The bytes of entries.
pub(super) fn bytes(entries: &[log::Entry]) -> usize {
    entries.iter().map(|entry| entry.bytes.len()).sum()
}
