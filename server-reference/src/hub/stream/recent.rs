//! The newest entries of a stream, for clients that come back.

use bytes::Bytes;
use datasole_core::Position;

use super::{
    super::{held::Held, window::Logged},
    Inner, Stream,
};
use crate::{
    backend::log::{self, Stored},
    entry::Entry,
};

impl Stream {
    /// Keeps the message of an entry for clients that come back, or the entry where nobody has needed its message and that can be
    /// made quickly.
    pub(super) fn keep(&self, inner: &mut Inner, entry: &Entry, (seq, message): (u64, Option<Bytes>), time: u64) {
        let replay = &self.common.rules.replay;
        if replay.entries == 0 {
            return;
        }
        let Inner { window, content, mark, .. } = inner;
        let make =
            |entry: &Entry, behind| content.message(entry, &self.at(Position { seq: seq - behind, ..mark.position }));
        let most = content.most(entry, &self.id.key).filter(|most| *most <= self.common.compress_above);
        let logged = match (message, most) {
            (Some(message), _) => Logged::message(message, time),
            (None, Some(most)) => Logged::entry(entry, most, time),
            (None, None) => Logged::message(make(entry, 0), time),
        };
        window.push(logged, replay, make);
    }

    /// The messages of the newest entries, so many.
    pub(super) fn newest<'a>(&self, inner: &'a mut Inner, count: usize) -> impl Iterator<Item = &'a Bytes> {
        let Inner { window, content, mark, .. } = inner;
        let at = |behind| self.at(Position { seq: mark.position.seq - behind, ..mark.position });
        window.make(count, |entry, behind| content.message(entry, &at(behind)));
        window.newest(count)
    }

    /// Fills the log with what the backend has kept.
    pub(super) fn remember(&self, inner: &mut Inner, stored: &Stored, now: u64) {
        inner.window.clear();
        inner.held = Held::of(stored);
        // The rest would only be made to be dropped.
        let skip = stored.entries.len().saturating_sub(self.common.rules.replay.entries);
        let kept = &stored.entries[skip..];
        let first = inner.mark.position.seq.saturating_sub(kept.len() as u64);
        for (seq, log::Entry { bytes, .. }) in (first + 1..).zip(kept) {
            // Behind an entry that cannot be read the log begins anew: it has no gaps.
            let Some(entry) = Entry::stored(bytes.clone()).filter(|entry| inner.content.reads(entry)) else {
                inner.window.clear();
                continue;
            };
            let time = inner.content.time(&entry).unwrap_or(now);
            self.keep(inner, &entry, (seq, None), time);
        }
    }
}
