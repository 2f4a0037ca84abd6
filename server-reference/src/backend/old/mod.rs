//! The one-trait contract that the hub calls until it moves to `Log`, `Bus` and `Kv`.
//!
//! A stream is a log with compare-and-set append, a snapshot that lets its beginning be forgotten, and a wake-up when
//! it advances. **Wake-ups may be lost or doubled; the log may not.** Entries and snapshots are opaque bytes here.
//! [`conformance`] is the suite each backend passes.

pub(super) mod conformance;
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use futures_util::future::BoxFuture;
pub use memory::Memory;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;
use tokio::sync::broadcast;

use super::BackendError;

/// A stream as a backend holds it: what its value is made from, and what those who come back may have missed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Where the stream is.
    pub position: Position,
    /// The newest snapshot, and the `seq` it was taken at.
    pub snapshot: Option<(u64, Bytes)>,
    /// Every entry that is still there, ending at `position` without a gap. They begin at the snapshot's `seq`, at the
    /// stream's beginning, or earlier than the snapshot: those are for clients that come back.
    pub entries: Vec<Bytes>,
}

impl Stored {
    /// The entries that the snapshot has not got: with it they make the value.
    pub fn since_snapshot(&self) -> &[Bytes] {
        let first = self.position.seq.saturating_sub(self.entries.len() as u64);
        let covered = self.snapshot.as_ref().map_or(0, |(seq, _)| seq.saturating_sub(first));
        usize::try_from(covered).ok().and_then(|covered| self.entries.get(covered..)).unwrap_or_default()
    }
}

/// What [`Backend::append`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The entry is the stream's newest, at this position.
    At(Position),
    /// Somebody else appended first, or the stream began a new life; it is here.
    Conflict(Position),
}

/// A hint that a stream has advanced, at least to here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wake {
    /// Which.
    pub stream: StreamId,
    /// Where it is.
    pub position: Position,
}

/// A place where streams live. Cancel safety: an operation whose future is dropped may or may not have happened.
pub trait Backend: Send + Sync + 'static {
    /// The stream as it is, or `None` when there is none.
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>>;

    /// Appends `entry` if the stream is at `at`. A stream that does not exist is at `seq` 0 of every epoch: the first
    /// append creates it.
    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>>;

    /// Every entry after `since`, or `None` when some are gone or the epoch is another.
    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>>;

    /// Keeps a snapshot taken at `at`, in place of the one before. Of the entries up to it, all but the newest `keep` may
    /// be forgotten. One that is not newer than the newest is ignored.
    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Forgets the stream if it is at `at`.
    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>>;

    /// The keys of all streams of a kind.
    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>>;

    /// Wake-ups of every stream, also of those advanced through this backend by others. May lag and lose.
    fn wakes(&self) -> broadcast::Receiver<Wake>;

    /// The value of `key`, if it has not expired.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>>;

    /// Stores a value; with `ttl` it expires.
    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), BackendError>>;

    /// Deletes a value; one that does not exist is no error.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>>;
}

/// A backend that several servers of one process share.
impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        (**self).load(stream)
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        (**self).append(stream, at, entry)
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>> {
        (**self).read(stream, since)
    }

    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).snapshot(stream, at, snapshot, keep)
    }

    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).remove(stream, at)
    }

    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>> {
        (**self).keys(kind)
    }

    fn wakes(&self) -> broadcast::Receiver<Wake> {
        (**self).wakes()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>> {
        (**self).get(key)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).put(key, value, ttl)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        (**self).delete(key)
    }
}
