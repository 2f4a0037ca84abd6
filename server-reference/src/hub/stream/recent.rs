//! The newest entries of a stream, for clients that come back.

use bytes::Bytes;
use datasole_core::Position;

use super::{
    super::{
        kind::At,
        window::{Logged, Window},
    },
    Common, Inner, Stream,
};
use crate::{
    backend::log::{self, Stored},
    entry::Entry,
};

impl Common {
    /// The log of what a backend has kept of a stream whose newest message belongs there.
    pub(in crate::hub) fn remembered(&self, stored: &Stored, at: &At<'_>, now: u64) -> Window {
        let mut window = Window::default();
        // The rest would only be made to be dropped.
        let skip = stored.entries.len().saturating_sub(self.rules.replay.entries);
        let kept = &stored.entries[skip..];
        let first = at.position.seq.saturating_sub(kept.len() as u64);
        for (seq, log::Entry { bytes, .. }) in (first + 1..).zip(kept) {
            // Behind an entry that cannot be read the log begins anew: it has no gaps.
            let Some(entry) = Entry::stored(bytes.clone()).filter(|entry| self.form.reads(entry)) else {
                window.clear();
                continue;
            };
            let time = self.form.time(&entry).unwrap_or(now);
            let at = At { position: Position { seq, ..at.position }, ..*at };
            self.keep(&mut window, &entry, (&at, None), time);
        }
        window
    }

    /// Keeps the message of the next entry for clients that come back, or the entry where nobody has needed its message and that
    /// can be made quickly.
    pub(super) fn keep(&self, window: &mut Window, entry: &Entry, (at, message): (&At<'_>, Option<Bytes>), time: u64) {
        let replay = &self.rules.replay;
        if replay.entries == 0 {
            return;
        }
        let make = |entry: &Entry, behind| self.form.message(entry, &at.before(behind));
        let most = || self.form.most(entry, at.key).filter(|most| *most <= at.compress_above);
        let logged = match message {
            Some(message) => Logged::message(message, time),
            None => match most() {
                Some(most) => Logged::entry(entry, most, time),
                None => Logged::message(make(entry, 0), time),
            },
        };
        window.push(logged, replay, make);
    }
}

impl Stream {
    /// The messages of the newest entries, so many.
    pub(super) fn newest<'a>(&self, inner: &'a mut Inner, count: usize) -> impl Iterator<Item = &'a Bytes> {
        let at = self.at(inner.mark.position);
        inner.window.make(count, |entry, behind| self.common.form.message(entry, &at.before(behind)));
        inner.window.newest(count)
    }
}
