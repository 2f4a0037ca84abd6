//! The log: heads and entries in tables, decided by the engine.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use tokio::sync::mpsc;
use tokio_postgres::Row;

use super::{
    engine::{Engine, Param, corrupt},
    link::Link,
    note::Note,
    reader::bits,
    writer::{Writer, read_entries},
};
use crate::backend::{
    error::BackendError,
    judge::Claim,
    log::{Append, Appended, Loaded, Log, Mark, News, Stored, TURN, Tag},
    name,
};

/// The longest entry or snapshot; bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Streams whose heads are asked for in one statement.
const HEADS: usize = 512;

/// One node's handle.
pub(super) struct Handle {
    engine: Arc<Engine>,
    link: Arc<Link>,
    writer: Writer,
}

impl Handle {
    pub(super) fn new(engine: &Arc<Engine>, link: &Arc<Link>) -> Self {
        let writer = Writer::start(engine, link);
        Self { engine: Arc::clone(engine), link: Arc::clone(link), writer }
    }

    fn author(&self) -> i64 {
        self.link.origin.cast_signed()
    }
}

fn check_size(bytes: &Bytes) -> Result<(), BackendError> {
    if bytes.len() > MAX_BYTES {
        let size = bytes.len();
        return Err(BackendError::Full(format!("{size} bytes exceed the limit of {MAX_BYTES} for one entry")));
    }
    Ok(())
}

/// A stream's name, and a mark: what statements about a stream begin with.
struct Place {
    name: Vec<u8>,
    epoch: i64,
    seq: i64,
    node: i64,
    count: i64,
}

impl Place {
    fn new(stream: &StreamId, at: Mark) -> Self {
        let Mark { position: Position { epoch, seq }, tag: Tag { node, count } } = at;
        let [epoch, seq, node, count] = [epoch, seq, node, count].map(u64::cast_signed);
        Self { name: name::write(stream).into_bytes(), epoch, seq, node, count }
    }

    fn params(&self) -> [Param<'_>; 5] {
        [&self.name, &self.epoch, &self.seq, &self.node, &self.count]
    }
}

fn read_loaded(row: &Row) -> Result<Loaded, tokio_postgres::Error> {
    let entries = read_entries(row, 7)?.unwrap_or_default();
    if !row.try_get::<_, bool>(0)? {
        return Ok(Loaded::Since(entries));
    }
    let position = Position { epoch: bits(row, 1)?, seq: bits(row, 2)? };
    let mark = Mark { position, tag: Tag { node: bits(row, 3)?, count: bits(row, 4)? } };
    let snapshot = match row.try_get::<_, Option<i64>>(5)? {
        Some(seq) => Some((seq.cast_unsigned(), Bytes::from(row.try_get::<_, Vec<u8>>(6)?))),
        None => None,
    };
    Ok(Loaded::Whole(Stored { mark, snapshot, entries }))
}

fn read_head(row: &Row) -> Result<Option<Mark>, tokio_postgres::Error> {
    let Some(epoch) = row.try_get::<_, Option<i64>>(0)? else { return Ok(None) };
    let position = Position { epoch: epoch.cast_unsigned(), seq: bits(row, 1)? };
    Ok(Some(Mark { position, tag: Tag { node: bits(row, 2)?, count: bits(row, 3)? } }))
}

#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let claim = Claim::of(&append)?;
        append.entries.iter().try_for_each(check_size)?;
        self.writer.append(append, claim).await
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let sql = "SELECT * FROM load($1, $2, $3, $4, $5, $6)";
        let rows = match since {
            Some(since) => {
                let (place, hash) = (Place::new(stream, since), since.tag.hash().cast_signed());
                let [name, epoch, seq, node, count] = place.params();
                self.engine.query(sql, &[name, epoch, seq, node, count, &hash]).await?
            }
            None => {
                let (name, none) = (name::write(stream).into_bytes(), None::<i64>);
                self.engine.query(sql, &[&name, &none, &none, &none, &none, &none]).await?
            }
        };
        let loaded = rows.first().map_or(Ok(Loaded::Absent), read_loaded).map_err(|_| corrupt("a stream"))?;
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
        let sql = "SELECT lived(h.epoch, h.life, m.life), h.seq, h.node, h.count
            FROM meta m CROSS JOIN unnest($1::bytea[]) WITH ORDINALITY AS u (name, item) LEFT JOIN head h
            ON h.name = u.name AND h.seq > 0 AND (h.expires IS NULL OR h.expires > clock_timestamp()) ORDER BY u.item";
        let mut heads = Vec::with_capacity(streams.len());
        for batch in streams.chunks(HEADS) {
            let names: Vec<Vec<u8>> = batch.iter().map(|stream| name::write(stream).into_bytes()).collect();
            for row in self.engine.query(sql, &[&names]).await? {
                heads.push(read_head(&row).map_err(|_| corrupt("a head"))?);
            }
        }
        Ok(heads)
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        check_size(&bytes)?;
        let (place, keep) = (Place::new(stream, at), i64::try_from(keep).unwrap_or(i64::MAX));
        let [name, epoch, seq, node, count] = place.params();
        let sql = "SELECT keep($1, $2, $3, $4, $5, $6, $7)";
        self.engine.query(sql, &[name, epoch, seq, node, count, &&bytes[..], &keep]).await.map(drop)
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        let sql = "SELECT remove($1, $2, $3, $4, $5)";
        self.engine.query(sql, &Place::new(stream, at).params()).await.map(drop)
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        let sql = "SELECT name FROM head WHERE name >= $1 AND name > $2 AND name < $3 AND seq > 0
            AND (expires IS NULL OR expires > clock_timestamp()) ORDER BY name LIMIT $4";
        let letter = name::letter(kind);
        let (first, after) = (vec![letter as u8], after.map(|after| format!("{letter}{after}").into_bytes()));
        let (after, end) = (after.unwrap_or_default(), vec![letter as u8 + 1]);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.engine.query(sql, &[&first, &after, &end, &limit]).await?;
        let key = |row: &Row| name::read(row.try_get::<_, Vec<u8>>(0).ok()?.as_slice()).map(|stream| stream.key);
        rows.iter().map(|row| key(row).ok_or_else(|| corrupt("a key"))).collect()
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.link.check()?;
        self.link.sources(|sources| sources.follow(streams));
        Ok(())
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.link.sources(|sources| sources.unfollow(streams));
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.link.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        let (name, held) = (name::write(stream).into_bytes(), TURN.as_secs_f64());
        let sql = "SELECT take_turn($1, $2, make_interval(secs => $3))";
        let rows = self.engine.query(sql, &[&name, &self.author(), &held]).await?;
        rows.first().and_then(|row| row.try_get(0).ok()).ok_or_else(|| corrupt("a turn"))
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        let (name, held) = (name::write(stream).into_bytes(), TURN.as_secs_f64());
        let sql = "SELECT hand_on($1, $2, make_interval(secs => $3))";
        let rows = self.engine.query(sql, &[&name, &self.author(), &held]).await?;
        let heir: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok()).ok_or_else(|| corrupt("a turn"))?;
        if let Some(heir) = heir {
            self.link.tell(Note::Turn { node: heir.cast_unsigned(), stream: stream.clone() });
        }
        Ok(())
    }
}
