//! [`Kind`]: what the entries of a stream come to, and the rules by which the stream goes.

use std::{any::Any, fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;
use datasole_core::{Position, StreamKind};

use super::seat::Seat;
use crate::{
    backend::{
        BackendError,
        log::{Rule, Stored},
    },
    connection::Protocol,
    entry::Entry,
    limits::Replay,
};

/// The content of one stream: all that its entries come to. A kind of streams is one implementation, and a [`Spec`] in the
/// table of kinds; the hub knows no other.
///
/// An entry is *planned* on the content, stored, and then applied. A plan may leave in the content what applying the
/// entry will take, or has taken already: it is *pending* until the entry is applied, or the plan retracted. Nothing that is
/// pending is shown, nor part of a snapshot.
pub(crate) trait Kind: Any + Debug + Send {
    /// The rules by which the stream goes; asked once, when it is empty.
    fn rules(&self) -> Rules;

    /// The form of the stream's entries.
    fn form(&self) -> &'static dyn Form;

    /// Becomes what a backend holds.
    fn restore(&mut self, stored: &Stored) -> Result<(), BackendError>;

    /// Takes the stream's next entry, whoever has made it, and what was [read](Form::read) of it before, if it was. Another
    /// plan that is pending is retracted before. What the entry displaces is returned where dropping it may take long.
    fn apply(&mut self, entry: &Entry, read: Option<Read>) -> Result<Option<Displaced>, Inapplicable>;

    /// Whether an entry that is planned here may follow others that its author has not seen; they are applied before it.
    fn rule(&self, _entry: &Entry) -> Rule {
        Rule::Exactly
    }

    /// Whether taking entries of so many bytes takes milliseconds, or making a content of them.
    fn is_long(&self, bytes: usize) -> bool {
        bytes > LONG
    }

    /// Parts with what entries change, where applying them takes long though they were read: what comes meanwhile waits for
    /// that. Only for who has the right to append.
    fn part_with(&mut self) -> Option<Lent> {
        None
    }

    /// Takes that back; or tells what has to be done before, without the lock, and whose outcome is to be given back.
    fn take_back(&mut self, _lent: Lent) -> Option<Job<Option<Lent>>> {
        None
    }

    /// Gives up what is pending, which is returned where dropping it may take long.
    fn retract(&mut self) -> Option<Displaced> {
        None
    }

    /// Makes the snapshot that a backend may keep in place of the entries so far; `None` when it should keep those, or the
    /// kind sees to it itself.
    fn snapshot(&mut self) -> Option<Job<Bytes>>;

    /// Makes an entry that leaves out what is so old that it may be forgotten, if there is anything, and what applying it takes.
    fn compact(&self, _now: u64) -> Option<Compaction> {
        None
    }

    /// True if the content equals that of a stream that never existed.
    fn is_gone(&self) -> bool;

    /// Makes the message that shows the whole to a follower; `None` for what is not followed in this way.
    fn show(&mut self, _protocol: Protocol) -> Option<Showing> {
        None
    }

    /// About how many bytes that message has before compression; what is large is not made for each follower.
    fn weight(&self) -> usize {
        0
    }

    /// Finds that out, where it is only known to be no more.
    fn measure(&mut self) -> Option<Job<usize>> {
        None
    }

    /// Takes note of what was found out, or met as the whole was written.
    fn weighs(&mut self, _bytes: usize) {}

    /// Bytes of memory that are counted for each who follows.
    fn memory(&self) -> usize {
        0
    }

    /// Messages, no entries, that a new follower gets first.
    fn greeting(&self, _at: &At<'_>) -> Vec<Bytes> {
        Vec::new()
    }

    /// Messages, no entries, that followers get as the stream starts over, behind the whole where that is shown, and before the
    /// greeting.
    fn restart(&mut self, _at: &At<'_>) -> Vec<Bytes> {
        Vec::new()
    }

    /// A follower, the connection of this serial number, has gone: the message that the others get.
    fn leave(&mut self, _serial: u64, _at: &At<'_>) -> Option<Bytes> {
        None
    }

    /// The value that a connection of this node shares with those of others: one that no backend keeps, and ends with the connection.
    fn share(&self, _serial: u64) -> Option<Bytes> {
        None
    }

    /// The connections of this node that share something.
    fn sharers(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Takes what a connection of another node shares, in place of what it has shared; `None`: nothing any more.
    fn take_share(&mut self, _of: Seat, _share: Option<&[u8]>, _at: &At<'_>) -> Taken {
        Taken::Nothing
    }

    /// For how long changes that were made of the content are gathered yet, before followers are told of them; `None`
    /// without any.
    fn rest(&self) -> Option<Duration> {
        None
    }

    /// The next entry of the changes that are gathered, which the content has taken. What it shows is as of before them.
    fn news(&mut self) -> Option<Entry> {
        None
    }

    /// Takes over from the content before what is shared, as the stream starts over.
    fn inherit(&mut self, _before: &mut dyn Kind) {}
}

/// The form of a kind's entries: known without a content, and so without its stream's lock.
pub(crate) trait Form: Debug + Sync {
    /// Whether an entry that a backend has returned is one of this kind.
    fn reads(&self, entry: &Entry) -> bool;

    /// Reads what a content [takes](Kind::apply) of an entry, where that takes as long as the entry is.
    fn read(&self, _entry: &Entry) -> Option<Read> {
        None
    }

    /// The message that carries an entry, which can be read.
    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes;

    /// The most bytes that message has before compression, where it is made of the entry, the key and the position alone: then it
    /// can be made later.
    fn most(&self, _entry: &Entry, _key: &str) -> Option<usize> {
        None
    }

    /// The message in fewer bytes, the stream named by its number, for clients that read that; `None` for what has no such form.
    fn short(&self, _entry: &Entry, _at: &At<'_>) -> Option<Bytes> {
        None
    }

    /// Whether clients of version 1 understand that message.
    fn is_v1(&self, _entry: &Entry) -> bool {
        true
    }

    /// When an entry came into being, if it tells; Unix milliseconds.
    fn time(&self, _entry: &Entry) -> Option<u64> {
        None
    }
}

/// Work on a copy of the content, which needs no lock, and may take long. Making the copy costs little; the first change beside it costs
/// the copy of what is changed: of a state the path to it, of a CRDT the whole.
pub(crate) type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// The same that finds an entry, if there is one, and what applying it takes.
pub(crate) type Compaction = Job<Option<(Entry, Read)>>;

/// The same that makes a message that belongs there, and tells the bytes of the content in it.
pub(crate) type Showing = Box<dyn FnOnce(&At<'_>) -> (Bytes, usize) + Send>;

/// Bytes of entries that are read, and whose messages are made, at once.
pub(super) const LONG: usize = 64 * 1024;

/// The part that a content has lent for a while; known to its kind.
pub(crate) type Lent = Box<dyn Any + Send>;

/// An entry's content, read; known to its kind.
pub(crate) type Read = Box<dyn Any + Send>;

/// The value that an entry has displaced.
pub(crate) type Displaced = Arc<dyn Any + Send + Sync>;

/// The news of a share, for followers.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Nothing but what the content gathers.
    Nothing,
    /// A message, no entry; and the connections of this node whose own shares are others thereby.
    #[cfg(feature = "docs")]
    Message { message: Bytes, robbed: Vec<u64> },
}

/// An entry that is not one of the stream, or does not fit its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inapplicable;

/// Where a message belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) key: &'a str,
    /// The number that names the stream in frames, where it has one.
    pub(crate) channel: u32,
    pub(crate) position: Position,
    /// Longer frames are compressed; bytes.
    pub(crate) compress_above: usize,
}

impl At<'_> {
    /// The place of the message so many entries before.
    pub(super) fn before(&self, entries: u64) -> Self {
        Self { position: Position { seq: self.position.seq - entries, ..self.position }, ..*self }
    }
}

/// The rules by which a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Whether the backend keeps it.
    pub(crate) stored: bool,
    /// Whether its entries, which no backend keeps, cross nodes over the bus; at most once each.
    pub(crate) relayed: bool,
    /// Entries that are kept for clients that resume.
    pub(crate) replay: Replay,
    /// Entries that may follow the backend's newest snapshot before it gets another.
    pub(crate) compaction: Replay,
    pub(crate) delivery: Delivery,
    pub(crate) v1: V1,
    /// Whether it may leave memory when nobody follows it, although it comes to something.
    pub(crate) evictable: bool,
    /// Whether a number names it in frames.
    pub(crate) numbered: bool,
}

/// How entries reach those who follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Each is delivered.
    Each,
    /// A snapshot may take the place of those that wait.
    Conflated,
    /// Each is delivered, but to its author, who gets the acknowledgement in its place. Followers learn what they have
    /// missed from the greeting, not by their position.
    Others,
}

/// The share of a stream that clients of version 1 get, who do not subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum V1 {
    /// Nothing.
    Nothing,
    /// Every entry whose message they understand.
    Entries,
    /// The whole when they connect, then every entry.
    Followed,
    /// The whole when they connect, and after each change.
    Whole,
}

/// Makes the empty content of the stream of a key.
pub(crate) type Make = Box<dyn Fn(&str) -> Box<dyn Kind> + Send + Sync>;

/// A line in the table of kinds.
pub(crate) struct Spec {
    pub(crate) kind: StreamKind,
    /// How many streams that nobody follows, of those that may leave memory, stay there.
    pub(crate) spare: usize,
    /// The other bounds of those in memory.
    pub(crate) bounds: Bounds,
    /// Whether clients of version 1 follow every stream of the kind.
    pub(crate) v1_follows: bool,
    pub(crate) make: Make,
}

/// The room that there is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Room {
    /// None: nothing more is loaded.
    None,
    /// Enough for what is followed.
    #[cfg(feature = "docs")]
    Short,
    /// Enough for what was followed a moment ago, too.
    Tight,
    /// Enough.
    Ample,
}

/// How long streams that nobody follows stay in memory.
#[derive(Default)]
pub(crate) struct Bounds {
    /// The least time, if the room is not short.
    pub(crate) stay: Duration,
    /// Tells the room, where it is not the number alone that counts.
    pub(crate) room: Option<Box<dyn Fn() -> Room + Send + Sync>>,
}

impl Bounds {
    pub(super) fn room(&self) -> Room {
        self.room.as_ref().map_or(Room::Ample, |room| room())
    }
}

/// The content as that of a certain kind, which its stream tells.
pub(crate) fn of<K: Kind>(content: &mut dyn Kind) -> Option<&mut K> {
    (content as &mut dyn Any).downcast_mut()
}
