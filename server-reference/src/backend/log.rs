//! The log: ordered streams that several nodes append to.
//!
//! A stream has a position `(epoch, seq)`, entries, and a snapshot that lets old entries be forgotten. Every append
//! carries a [`Tag`] and the [`Mark`] where its author was, so that a repeat appends nothing and the answer brings what
//! came in between. News of appends are hints: lost and doubled ones do no harm, because the log can be read.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use tokio::sync::mpsc;

use super::error::BackendError;

/// The most that a conflict brings along; bytes of entries.
pub const MAX_MISSED: usize = 64 * 1024;
/// The largest append that travels as [`News::Entries`]; bytes. Larger ones are announced by [`News::Advanced`].
pub const MAX_PUSH: usize = 8 * 1024;
/// How long a node may keep a turn.
pub const TURN: Duration = Duration::from_secs(1);

/// The name of an append, unique for ever: a repeat of it appends nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// The node, random per process. 0 in entries stored before there were tags.
    pub node: u64,
    /// The node's count of appends.
    pub count: u64,
}

impl Tag {
    /// A hash of the tag, the same on every node and in every version: what [`Entry::prev`] holds.
    pub fn hash(self) -> u64 {
        mix(self.node ^ mix(self.count))
    }
}

/// The finalizer of SplitMix64; 0 stays 0.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A position and the tag of the entry there: two histories that differ do not share a mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The position.
    pub position: Position,
    /// The tag of the entry at the position; the default at `seq` 0.
    pub tag: Tag,
}

impl Mark {
    /// The mark at which a life begins that is to have this epoch.
    pub fn birth(epoch: u64) -> Self {
        Self { position: Position { epoch, seq: 0 }, tag: Tag::default() }
    }
}

/// An entry as the log holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The append that brought the entry.
    pub tag: Tag,
    /// The [hash](Tag::hash) of the tag of the entry before; 0 at the beginning of a life.
    pub prev: u64,
    /// The content, opaque to the log.
    pub bytes: Bytes,
}

/// The entries that may have come between [`Append::after`] and the new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: compare and set.
    Exactly,
    /// Any entries of the same life that are still kept.
    Behind,
}

/// The fate of the author's turn (see [`Log::take_turn`]) after the append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    #[default]
    None,
    /// The turn passes to the next node that waits, after the news of the entries.
    HandOn,
}

/// Entries to append, all or none, consecutive.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Append<'a> {
    /// The stream.
    pub stream: &'a StreamId,
    /// Where the author is. At `seq` 0 the append creates the stream, with this epoch.
    pub after: Mark,
    /// The entries that may have come since.
    pub rule: Rule,
    /// The name of the append. Never the default, which stands for entries without a tag.
    pub tag: Tag,
    /// The entries, at least one.
    pub entries: &'a [Bytes],
    /// How long the whole stream lives after this append; `None` for ever.
    pub ttl: Option<Duration>,
    /// The fate of the author's turn.
    pub turn: Turn,
}

impl<'a> Append<'a> {
    /// An append without a lifetime that keeps the turn.
    pub fn new(stream: &'a StreamId, after: Mark, rule: Rule, tag: Tag, entries: &'a [Bytes]) -> Self {
        Self { stream, after, rule, tag, entries, ttl: None, turn: Turn::None }
    }

    /// The same with this lifetime of the stream.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The same, handing on the turn.
    #[must_use]
    pub fn hand_on(self) -> Self {
        Self { turn: Turn::HandOn, ..self }
    }
}

/// The answer to an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entries are stored and end at `mark`. A repeat is answered like the first copy.
    At {
        /// The entries after [`Append::after`] and before the new ones; empty under [`Rule::Exactly`].
        between: Vec<Entry>,
        /// Where the entries end.
        mark: Mark,
    },
    /// Nothing was appended.
    Conflict {
        /// Where the stream is. At `seq` 0 there is none, and a new life must have an epoch above this one.
        mark: Mark,
        /// Everything since [`Append::after`], if `after` is of this history, all is kept and at most [`MAX_MISSED`].
        missed: Option<Vec<Entry>>,
    },
}

/// A stream as the log holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Where the stream is.
    pub mark: Mark,
    /// The newest snapshot, and the `seq` at which it was taken.
    pub snapshot: Option<(u64, Bytes)>,
    /// The entries that are kept, ending at `mark` without a gap. They begin at the snapshot, at the beginning of the
    /// life, or earlier than the snapshot: those are for clients that come back.
    pub entries: Vec<Entry>,
}

impl Stored {
    /// The bytes that make the value: the snapshot's, then those of the entries after it.
    pub fn bytes(&self) -> impl Iterator<Item = &Bytes> {
        let entries = self.since_snapshot().iter().map(|entry| &entry.bytes);
        self.snapshot.iter().map(|(_, bytes)| bytes).chain(entries)
    }

    /// The entries after the snapshot: with it they make the value.
    pub fn since_snapshot(&self) -> &[Entry] {
        let first = self.mark.position.seq.saturating_sub(self.entries.len() as u64);
        let covered = self.snapshot.as_ref().map_or(0, |(seq, _)| seq.saturating_sub(first));
        usize::try_from(covered).ok().and_then(|covered| self.entries.get(covered..)).unwrap_or_default()
    }
}

/// The answer to a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There is no such stream.
    Absent,
    /// The entries after the given mark; none if that is where the stream is.
    Since(Vec<Entry>),
    /// The whole stream: no mark was given, some entries after it are forgotten, or it is of another history.
    Whole(Stored),
}

/// Something that happened to the streams a node follows. A hint, but for [`Lost`](Self::Lost) and
/// [`Generation`](Self::Generation): a node reads the log unless `first` is the position after its own and `prev` fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Another node appended `entries`, of which the first is at `first`.
    Entries {
        /// The stream.
        stream: StreamId,
        /// The position of the first entry.
        first: Position,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The stream has advanced, at least to `position`.
    Advanced {
        /// The stream.
        stream: StreamId,
        /// The position.
        position: Position,
    },
    /// The stream's turn is this node's.
    Turn(StreamId),
    /// News were lost, of any stream: the node looks at the heads of all that it follows.
    Lost,
    /// Acknowledged entries may have been lost: every stream has begun a new life. The generation's number.
    Generation(u64),
}

/// Ordered streams, by the handle of one node.
///
/// Cancel safety: an operation whose future is dropped may or may not have happened.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Appends entries. A repeat (same tag and `after`) appends nothing and answers as the first copy did, as long as
    /// the entries after `after` are kept; then it is a conflict, and the author looks for its tag in the log.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] leaves the outcome open; after any other error nothing was appended.
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError>;

    /// The entries after `since` when all are kept and `since` is of this history, else the whole stream.
    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError>;

    /// Where these streams are, in their order; `None` for one that does not exist.
    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError>;

    /// Keeps a snapshot taken at `at` in place of the one before. Of the entries up to it, all but the newest `keep`
    /// may be forgotten. A snapshot that is not newer than the kept one, or of another history, is ignored.
    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError>;

    /// Removes the stream if it is at `at`.
    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError>;

    /// The first `limit` keys of a kind after `after`, in the order of their bytes.
    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError>;

    /// Follows streams, existing or not: what other nodes append after the answer is news. Idempotent.
    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        let _ = streams;
        Ok(())
    }

    /// Follows these streams no longer. News that are on their way may still come.
    fn unfollow(&self, streams: &[StreamId]) {
        let _ = streams;
    }

    /// The news of followed streams, in order per stream and bounded: what does not fit becomes [`News::Lost`]. A
    /// receiver that has ended says that there never are any, as on an engine with one node.
    ///
    /// # Errors
    ///
    /// [`BackendError::Taken`] at the second call.
    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        Ok(mpsc::channel(1).1)
    }

    /// Asks for the stream's turn, with which nodes that conflict too often append one after another. `true`: the turn
    /// is this node's, for at most [`TURN`]. `false`: another node has it, and [`News::Turn`] will tell; a node that
    /// hears nothing for [`TURN`] asks again. Turns only save work: the log decides.
    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        let _ = stream;
        Ok(true)
    }

    /// Hands on the stream's turn without an append, or leaves the queue for it.
    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        let _ = stream;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_tag_is_part_of_the_format() {
        assert_eq!(Tag::default().hash(), 0);
        assert_eq!(Tag { node: 1, count: 0 }.hash(), 0x5692_161d_100b_05e5);
        assert_ne!(Tag { node: 1, count: 2 }.hash(), Tag { node: 2, count: 1 }.hash());
    }

    #[test]
    fn the_entries_after_the_snapshot() {
        let entry = |count| Entry { tag: Tag { node: 1, count }, ..Entry::default() };
        let mut stored = Stored { entries: vec![entry(4), entry(5)], ..Stored::default() };
        stored.mark.position.seq = 5;
        for (snapshot, expected) in [(3, 2), (4, 1), (5, 0)] {
            stored.snapshot = Some((snapshot, Bytes::new()));
            assert_eq!(stored.since_snapshot().len(), expected, "{snapshot}");
        }
    }
}
