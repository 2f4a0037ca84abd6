//! Streams in tables.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        error::BackendError,
        feed::Feed,
        judge::{Claim, Verdict, chain, follows},
        log::{Append, Appended, Entry, Loaded, Log, Mark, News, Stored, Tag, Turn},
    },
    shared::{Base, Shared, blob, integer, meta, number},
    thread::{Job, gone},
};
use crate::clock::millis;

/// The row of `meta` with the epoch above which new lives begin.
const FLOOR: &str = "floor";
/// Expired streams that one creation removes, at most.
const SWEEP: i64 = 16;

/// The epochs that lives of all streams have had.
#[derive(Debug)]
pub(super) struct Lives {
    /// New lives begin above this epoch.
    floor: AtomicU64,
    /// The greatest epoch that anybody has tried to begin a life with.
    proposed: AtomicU64,
}

pub(super) fn lives(connection: &Connection) -> rusqlite::Result<Lives> {
    let floor = meta(connection, FLOOR)?.and_then(|floor| floor.parse().ok()).unwrap_or(0);
    Ok(Lives { floor: AtomicU64::new(floor), proposed: AtomicU64::new(floor) })
}

/// One node's handle.
pub(super) struct Handle {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
}

impl Handle {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), feed: Arc::new(shared.feeds.join()) }
    }

    /// Has `work` done with the connection and the time, and returns when the change is committed.
    async fn call<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Table<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BackendError> {
        let base = Arc::clone(&self.shared.base);
        let work = move |connection: &Connection| work(&Table::new(connection, &base));
        self.shared.thread.call(work).await
    }
}

/// An append on its way through the thread.
struct Appending {
    base: Arc<Base>,
    feed: Arc<Feed>,
    stream: StreamId,
    claim: Claim,
    entries: Vec<Bytes>,
    ttl: Option<Duration>,
    turn: Turn,
    /// The answer, and the tag before the entries.
    result: Option<(Appended, Option<Tag>)>,
    reply: oneshot::Sender<Result<Appended, BackendError>>,
}

impl Job for Appending {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let table = Table::new(connection, &self.base);
        self.result = Some(table.append(&self.stream, self.claim, &self.entries, self.ttl)?);
        Ok(())
    }

    fn finish(self: Box<Self>, outcome: Result<(), BackendError>) {
        let Self { feed, stream, entries, turn, result, reply, .. } = *self;
        let answer = outcome.and_then(|()| result.ok_or_else(gone)).map(|(appended, before)| {
            if let (Appended::At { mark, .. }, Some(before)) = (&appended, before) {
                feed.publish(&stream, before, &entries, *mark, turn);
            }
            appended
        });
        // A caller that no longer waits does not want to know.
        let _ = reply.send(answer);
    }
}

#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let claim = Claim::of(&append)?;
        append.entries.iter().try_for_each(|entry| self.shared.check_size(entry))?;
        let (reply, outcome) = oneshot::channel();
        let job = Appending {
            base: Arc::clone(&self.shared.base),
            feed: Arc::clone(&self.feed),
            stream: append.stream.clone(),
            claim,
            entries: append.entries.to_vec(),
            ttl: append.ttl,
            turn: append.turn,
            result: None,
            reply,
        };
        self.shared.thread.submit(Box::new(job)).await?;
        outcome.await.map_err(|_| gone())?
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let id = stream.clone();
        let loaded = self.call(move |table| table.load(&id, since)).await?;
        if let Loaded::Whole(stored) = &loaded {
            let seq = stored.mark.position.seq;
            let first = seq.checked_sub(stored.entries.len() as u64);
            let snapshot = stored.snapshot.as_ref().map_or(0, |(seq, _)| *seq);
            if first.is_none_or(|first| first > snapshot) || snapshot > seq {
                return Err(BackendError::Corrupt(format!("{:?} {:?} has a gap", stream.kind, stream.key)));
            }
        }
        Ok(loaded)
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        let streams = streams.to_vec();
        self.call(move |table| {
            streams.iter().map(|stream| Ok(table.find(stream)?.map(|row| row.mark))).collect::<rusqlite::Result<_>>()
        })
        .await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.shared.check_size(&bytes)?;
        let id = stream.clone();
        self.call(move |table| table.keep(&id, at, &bytes, keep)).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        let id = stream.clone();
        self.call(move |table| match table.find(&id)? {
            Some(row) if row.mark == at => table.remove(row.id, at.position.epoch),
            _ => Ok(()),
        })
        .await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        let after = after.map(str::to_owned);
        let limit = integer(limit as u64);
        self.call(move |table| {
            let sql = "SELECT key FROM streams
                WHERE kind = ?1 AND (?2 IS NULL OR key > ?2) AND (expires IS NULL OR expires > ?3) ORDER BY key LIMIT ?4";
            let mut query = table.connection.prepare_cached(sql)?;
            query.query_map(params![kind.name(), after, integer(table.now), limit], |row| row.get(0))?.collect()
        })
        .await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.feed.follow(streams);
        Ok(())
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.feed.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.feed.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        Ok(self.feed.take_turn(stream))
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.feed.end_turn(stream);
        Ok(())
    }
}

/// The tables of streams, within a transaction.
struct Table<'a> {
    connection: &'a Connection,
    lives: &'a Lives,
    /// Unix milliseconds.
    now: u64,
}

/// A row of `streams`.
struct Row {
    id: i64,
    mark: Mark,
    expires: Option<i64>,
}

/// Tags and hashes use all 64 bits.
fn bits(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

impl<'a> Table<'a> {
    fn new(connection: &'a Connection, base: &'a Base) -> Self {
        Self { connection, lives: &base.lives, now: base.clock.unix_millis() }
    }

    /// The stream's row, also if its time is over.
    fn row(&self, stream: &StreamId) -> rusqlite::Result<Option<Row>> {
        let sql = "SELECT id, epoch, seq, node, count, expires FROM streams WHERE kind = ?1 AND key = ?2";
        let row = self.connection.prepare_cached(sql)?.query_row(params![stream.kind.name(), stream.key], |row| {
            let position = Position { epoch: number(row, 1)?, seq: number(row, 2)? };
            let tag = Tag { node: bits(row, 3)?, count: bits(row, 4)? };
            Ok(Row { id: row.get(0)?, mark: Mark { position, tag }, expires: row.get(5)? })
        });
        row.optional()
    }

    fn is_alive(&self, row: &Row) -> bool {
        row.expires.is_none_or(|expires| expires > integer(self.now))
    }

    fn find(&self, stream: &StreamId) -> rusqlite::Result<Option<Row>> {
        Ok(self.row(stream)?.filter(|row| self.is_alive(row)))
    }

    /// The kept entries after `seq`.
    fn after(&self, stream: i64, seq: u64) -> rusqlite::Result<Vec<Entry>> {
        let sql = "SELECT node, count, prev, entry FROM entries WHERE stream = ?1 AND seq > ?2 ORDER BY seq";
        let entry = |row: &rusqlite::Row<'_>| {
            let tag = Tag { node: bits(row, 0)?, count: bits(row, 1)? };
            Ok(Entry { tag, prev: bits(row, 2)?, bytes: blob(row, 3)? })
        };
        self.connection.prepare_cached(sql)?.query_map(params![stream, integer(seq)], entry)?.collect()
    }

    fn load(&self, stream: &StreamId, since: Option<Mark>) -> rusqlite::Result<Loaded> {
        let Some(row) = self.find(stream)? else { return Ok(Loaded::Absent) };
        if let Some(since) = since.filter(|since| since.position.epoch == row.mark.position.epoch) {
            let entries = self.after(row.id, since.position.seq)?;
            if follows(row.mark, since, &entries) {
                return Ok(Loaded::Since(entries));
            }
        }
        let mut snapshot = self.connection.prepare_cached("SELECT seq, snapshot FROM snapshots WHERE stream = ?1")?;
        let snapshot = snapshot.query_row([row.id], |row| Ok((number(row, 0)?, blob(row, 1)?))).optional()?;
        Ok(Loaded::Whole(Stored { mark: row.mark, snapshot, entries: self.after(row.id, 0)? }))
    }

    /// Appends, and answers also the tag before the entries if they are new.
    fn append(
        &self,
        stream: &StreamId,
        claim: Claim,
        entries: &[Bytes],
        ttl: Option<Duration>,
    ) -> rusqlite::Result<(Appended, Option<Tag>)> {
        if claim.after.position.seq == 0 {
            self.lives.proposed.fetch_max(claim.after.position.epoch, Ordering::Relaxed);
        }
        let mut row = self.row(stream)?;
        if let Some(expired) = row.take_if(|row| !self.is_alive(row)) {
            self.remove(expired.id, expired.mark.position.epoch)?;
        }
        let head = row.as_ref().map(|row| row.mark);
        let read = |seq| row.as_ref().map_or(Ok(Vec::new()), |row| self.after(row.id, seq));
        let between = match claim.judge(head, self.lives.floor.load(Ordering::Relaxed), read)? {
            Verdict::Create => Vec::new(),
            Verdict::Append(between) => between,
            Verdict::Answer(answer) => return Ok((answer, None)),
        };
        let before = head.unwrap_or(Mark::birth(claim.after.position.epoch));
        let mut mark = Mark { tag: claim.tag, ..before };
        mark.position.seq += entries.len() as u64;
        let expires = ttl.map(|ttl| integer(self.now.saturating_add(millis(ttl))));
        let (node, count) = (claim.tag.node.cast_signed(), claim.tag.count.cast_signed());
        let id = match &row {
            Some(row) => {
                let sql = "UPDATE streams SET seq = ?2, node = ?3, count = ?4, expires = ?5 WHERE id = ?1";
                let seq = integer(mark.position.seq);
                self.connection.prepare_cached(sql)?.execute(params![row.id, seq, node, count, expires])?;
                row.id
            }
            None => {
                if ttl.is_some() {
                    self.sweep()?;
                }
                let sql = "INSERT INTO streams (kind, key, epoch, seq, node, count, expires)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
                let (epoch, seq) = (integer(mark.position.epoch), integer(mark.position.seq));
                let row = params![stream.kind.name(), stream.key, epoch, seq, node, count, expires];
                self.connection.prepare_cached(sql)?.insert(row)?
            }
        };
        let sql = "INSERT INTO entries (stream, seq, entry, node, count, prev) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let mut insert = self.connection.prepare_cached(sql)?;
        for (entry, seq) in chain(before.tag, claim.tag, entries).zip(before.position.seq + 1..) {
            insert.execute(params![id, integer(seq), &entry.bytes[..], node, count, entry.prev.cast_signed()])?;
        }
        Ok((Appended::At { between, mark }, Some(before.tag)))
    }

    fn keep(&self, stream: &StreamId, at: Mark, snapshot: &[u8], keep: u64) -> rusqlite::Result<()> {
        let Some(row) = self.find(stream)? else { return Ok(()) };
        let seq = at.position.seq;
        let tag = if seq == row.mark.position.seq {
            Some(row.mark.tag)
        } else {
            let sql = "SELECT node, count FROM entries WHERE stream = ?1 AND seq = ?2";
            let tag = |row: &rusqlite::Row<'_>| Ok(Tag { node: bits(row, 0)?, count: bits(row, 1)? });
            self.connection.prepare_cached(sql)?.query_row(params![row.id, integer(seq)], tag).optional()?
        };
        if row.mark.position.epoch != at.position.epoch || tag != Some(at.tag) {
            return Ok(());
        }
        let sql = "INSERT INTO snapshots VALUES (?1, ?2, ?3)
            ON CONFLICT (stream) DO UPDATE SET seq = excluded.seq, snapshot = excluded.snapshot WHERE excluded.seq > seq";
        let kept = self.connection.prepare_cached(sql)?.execute(params![row.id, integer(seq), snapshot])?;
        if kept > 0 {
            let mut forget = self.connection.prepare_cached("DELETE FROM entries WHERE stream = ?1 AND seq <= ?2")?;
            forget.execute([row.id, integer(seq.saturating_sub(keep))])?;
        }
        Ok(())
    }

    fn remove(&self, id: i64, epoch: u64) -> rusqlite::Result<()> {
        for sql in [
            "DELETE FROM streams WHERE id = ?1",
            "DELETE FROM snapshots WHERE stream = ?1",
            "DELETE FROM entries WHERE stream = ?1",
        ] {
            self.connection.prepare_cached(sql)?.execute([id])?;
        }
        // A transaction that fails leaves the floor higher than it need be, which costs a creator one more try.
        let highest = self.lives.proposed.load(Ordering::Relaxed).max(epoch);
        let floor = self.lives.floor.fetch_max(highest, Ordering::Relaxed).max(highest);
        self.connection
            .prepare_cached("REPLACE INTO meta VALUES (?1, ?2)")?
            .execute(params![FLOOR, floor.to_string()])?;
        Ok(())
    }

    /// Removes some of the streams whose time is over.
    fn sweep(&self) -> rusqlite::Result<()> {
        let sql = "SELECT id, epoch FROM streams WHERE expires <= ?1 LIMIT ?2";
        let mut query = self.connection.prepare_cached(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, number(row, 1)?));
        let over: Vec<(i64, u64)> =
            query.query_map(params![integer(self.now), SWEEP], row)?.collect::<rusqlite::Result<_>>()?;
        over.into_iter().try_for_each(|(id, epoch)| self.remove(id, epoch))
    }
}
