//! Streams in one SQLite file: state, positions and history survive the server.

mod file;
mod thread;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use futures_util::{FutureExt, future::BoxFuture};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::broadcast;

use self::thread::Thread;
use super::{Appended, Backend, BackendError, Stored, Wake};
use crate::clock::unix_millis;

/// The longest entry, snapshot or value; bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A durable backend: one file in a folder of its own, `datasole.sqlite`, of which one server at a time has the use.
///
/// **What survives.** Whatever was acknowledged survives the end of the process, however it ends: it is in the operating
/// system's hands by then. Epochs and sequences survive too, so that clients resume across a restart. A power failure
/// may take the last moments along ([`open`](Self::open)), in which case all streams begin new lives when the file is
/// next opened, and clients start from snapshots; or nothing ([`open_synced`](Self::open_synced)). The file is never
/// torn. Whoever puts an older copy of it in place loses what came later, unnoticed by clients that saw it.
///
/// **How.** SQLite with a write-ahead log, and one thread that carries out whatever has queued up in one transaction and
/// answers after its commit (group commit), so that a commit's cost is shared by those who come at the same time.
///
/// Cloning yields another handle to the same file. Dropping the last one waits until what is queued is stored.
///
/// ```
/// use datasole_server::{Server, backend::Sqlite};
/// # async fn example(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder().backend(Sqlite::open(dir)?).build();
/// server.state().set("visits", &1).await?;
/// drop(server);
///
/// let server = Server::builder().backend(Sqlite::open(dir)?).build();
/// assert_eq!(server.state().get_as("visits").await?, Some(1));
/// # Ok(())
/// # }
/// # let dir = std::env::temp_dir().join(format!("datasole-doc-{}", std::process::id()));
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(example(&dir)).unwrap();
/// # std::fs::remove_dir_all(dir).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Sqlite {
    thread: Arc<Thread>,
    wakes: broadcast::Sender<Wake>,
    max_bytes: usize,
}

impl Sqlite {
    /// Opens the folder's database, and makes both where there are none. Waits for the disk.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the folder cannot be used or another server has it open,
    /// [`BackendError::Corrupt`] when the file is damaged, another program's, or of a schema that this version does not
    /// know. It is left as it is.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, BackendError> {
        Self::open_with(dir.as_ref(), false, MAX_BYTES)
    }

    /// The same, but a change is acknowledged only when the disk has it: a power failure takes nothing along either. Each
    /// commit then costs as long as the disk takes to write, often milliseconds.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_synced(dir: impl AsRef<Path>) -> Result<Self, BackendError> {
        Self::open_with(dir.as_ref(), true, MAX_BYTES)
    }

    fn open_with(dir: &Path, synced: bool, max_bytes: usize) -> Result<Self, BackendError> {
        let connection = file::open(dir, synced)?;
        connection.set_prepared_statement_cache_capacity(32);
        let thread = Thread::start(connection).map_err(|error| BackendError::Unavailable(error.to_string()))?;
        Ok(Self { thread: Arc::new(thread), wakes: broadcast::Sender::new(256), max_bytes })
    }

    fn check_size(&self, bytes: &Bytes) -> Result<(), BackendError> {
        if bytes.len() > self.max_bytes {
            let (size, limit) = (bytes.len(), self.max_bytes);
            return Err(BackendError::Full(format!("{size} bytes exceed the limit of {limit} for one entry")));
        }
        Ok(())
    }
}

impl Backend for Sqlite {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        let id = stream.clone();
        async move {
            let Some(stored) = self.thread.call(move |connection| load(connection, &id)).await? else {
                return Ok(None);
            };
            let first = stored.position.seq.checked_sub(stored.entries.len() as u64);
            let snapshot = stored.snapshot.as_ref().map_or(0, |(seq, _)| *seq);
            if first.is_none_or(|first| first > snapshot) || snapshot > stored.position.seq {
                return Err(BackendError::Corrupt(format!("{:?} {:?} has a gap", stream.kind, stream.key)));
            }
            Ok(Some(stored))
        }
        .boxed()
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        let id = stream.clone();
        async move {
            self.check_size(&entry)?;
            let appended = self.thread.call(move |connection| append(connection, &id, at, &entry)).await?;
            if let Appended::At(position) = appended
                && self.wakes.receiver_count() > 0
            {
                // No receiver is no error: wake-ups are hints.
                let _ = self.wakes.send(Wake { stream: stream.clone(), position });
            }
            Ok(appended)
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>> {
        let id = stream.clone();
        let read = move |connection: &Connection| {
            let Some(row) = find(connection, &id)? else { return Ok(None) };
            let Some(missed) = row.position.seq.checked_sub(since.seq) else { return Ok(None) };
            if row.position.epoch != since.epoch {
                return Ok(None);
            }
            let entries = entries_after(connection, row.id, since.seq)?;
            Ok((entries.len() as u64 == missed).then_some(entries))
        };
        self.thread.call(read).boxed()
    }

    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let id = stream.clone();
        async move {
            self.check_size(&snapshot)?;
            self.thread.call(move |connection| keep_snapshot(connection, &id, at, &snapshot, keep)).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>> {
        let id = stream.clone();
        let remove = move |connection: &Connection| {
            if let Some(row) = find(connection, &id)?.filter(|row| row.position == at) {
                for sql in [
                    "DELETE FROM streams WHERE id = ?1",
                    "DELETE FROM snapshots WHERE stream = ?1",
                    "DELETE FROM entries WHERE stream = ?1",
                ] {
                    connection.prepare_cached(sql)?.execute([row.id])?;
                }
            }
            Ok(())
        };
        self.thread.call(remove).boxed()
    }

    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>> {
        let keys = move |connection: &Connection| {
            let mut query = connection.prepare_cached("SELECT key FROM streams WHERE kind = ?1")?;
            query.query_map([name(kind)], |row| row.get(0))?.collect()
        };
        self.thread.call(keys).boxed()
    }

    fn wakes(&self) -> broadcast::Receiver<Wake> {
        self.wakes.subscribe()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>> {
        let key = key.to_owned();
        let get = move |connection: &Connection| {
            let sql = "SELECT value FROM pairs WHERE key = ?1 AND (expires IS NULL OR expires > ?2)";
            connection
                .prepare_cached(sql)?
                .query_row(params![key, integer(unix_millis())], |row| blob(row, 0))
                .optional()
        };
        self.thread.call(get).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), BackendError>> {
        let key = key.to_owned();
        async move {
            self.check_size(&value)?;
            let put = move |connection: &Connection| {
                let now = unix_millis();
                let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                let expires = ttl.map(|ttl| integer(now.saturating_add(millis(ttl))));
                connection.prepare_cached("DELETE FROM pairs WHERE expires <= ?1")?.execute([integer(now)])?;
                let mut put = connection.prepare_cached("REPLACE INTO pairs VALUES (?1, ?2, ?3)")?;
                put.execute(params![key, &value[..], expires]).map(drop)
            };
            self.thread.call(put).await
        }
        .boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        let key = key.to_owned();
        let delete = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM pairs WHERE key = ?1")?.execute([&key]).map(drop)
        };
        self.thread.call(delete).boxed()
    }
}

/// A row of `streams`.
struct Row {
    id: i64,
    position: Position,
}

fn find(connection: &Connection, stream: &StreamId) -> rusqlite::Result<Option<Row>> {
    let mut query = connection.prepare_cached("SELECT id, epoch, seq FROM streams WHERE kind = ?1 AND key = ?2")?;
    let row = query.query_row(params![name(stream.kind), stream.key], |row| {
        Ok(Row { id: row.get(0)?, position: Position { epoch: number(row, 1)?, seq: number(row, 2)? } })
    });
    row.optional()
}

fn load(connection: &Connection, stream: &StreamId) -> rusqlite::Result<Option<Stored>> {
    let Some(row) = find(connection, stream)? else { return Ok(None) };
    let mut snapshot = connection.prepare_cached("SELECT seq, snapshot FROM snapshots WHERE stream = ?1")?;
    let snapshot = snapshot.query_row([row.id], |row| Ok((number(row, 0)?, blob(row, 1)?))).optional()?;
    Ok(Some(Stored { position: row.position, snapshot, entries: entries_after(connection, row.id, 0)? }))
}

fn entries_after(connection: &Connection, stream: i64, seq: u64) -> rusqlite::Result<Vec<Bytes>> {
    let sql = "SELECT entry FROM entries WHERE stream = ?1 AND seq > ?2 ORDER BY seq";
    connection.prepare_cached(sql)?.query_map([stream, integer(seq)], |row| blob(row, 0))?.collect()
}

fn append(connection: &Connection, stream: &StreamId, at: Position, entry: &[u8]) -> rusqlite::Result<Appended> {
    let next = Position { seq: at.seq + 1, ..at };
    let id = match find(connection, stream)? {
        Some(row) if row.position == at => {
            let mut advance = connection.prepare_cached("UPDATE streams SET seq = ?2 WHERE id = ?1")?;
            advance.execute([row.id, integer(next.seq)])?;
            row.id
        }
        Some(row) => return Ok(Appended::Conflict(row.position)),
        None if at.seq > 0 => return Ok(Appended::Conflict(Position::default())),
        None => {
            let mut create =
                connection.prepare_cached("INSERT INTO streams (kind, key, epoch, seq) VALUES (?1, ?2, ?3, 1)")?;
            create.insert(params![name(stream.kind), stream.key, integer(at.epoch)])?
        }
    };
    let mut insert = connection.prepare_cached("INSERT INTO entries VALUES (?1, ?2, ?3)")?;
    insert.execute(params![id, integer(next.seq), entry])?;
    Ok(Appended::At(next))
}

fn keep_snapshot(
    connection: &Connection,
    stream: &StreamId,
    at: Position,
    snapshot: &[u8],
    keep: u64,
) -> rusqlite::Result<()> {
    let is_past = |row: &Row| row.position.epoch == at.epoch && row.position.seq >= at.seq;
    let Some(row) = find(connection, stream)?.filter(is_past) else { return Ok(()) };
    let sql = "INSERT INTO snapshots VALUES (?1, ?2, ?3)
        ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq, snapshot = excluded.snapshot WHERE excluded.seq > seq";
    let kept = connection.prepare_cached(sql)?.execute(params![row.id, integer(at.seq), snapshot])?;
    if kept > 0 {
        let mut forget = connection.prepare_cached("DELETE FROM entries WHERE stream = ?1 AND seq <= ?2")?;
        forget.execute([row.id, integer(at.seq.saturating_sub(keep))])?;
    }
    Ok(())
}

/// The names of the wire.
fn name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::State => "state",
        StreamKind::Event => "event",
        StreamKind::Crdt => "crdt",
        StreamKind::Doc => "doc",
        StreamKind::Presence => "presence",
    }
}

fn blob(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

/// Positions and times are below 2^53.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

#[cfg(test)]
mod tests;
