//! The log: one script per operation, decided by the engine.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use futures_util::future::try_join_all;
use redis::{Cmd, Value};
use tokio::sync::mpsc;

use super::{
    engine::{Engine, Session},
    link::{Link, Source, read_entry},
    names::{self, PARTITIONS},
};
use crate::backend::{
    error::BackendError,
    judge::Claim,
    log::{Append, Appended, Entry, Loaded, Log, MAX_MISSED, MAX_PUSH, Mark, News, Rule, Stored, Tag, Turn},
    name,
};

/// Streams whose heads are asked for in one round trip.
const HEADS: usize = 512;

/// One node's handle.
pub(super) struct Handle {
    engine: Arc<Engine>,
    link: Arc<Link>,
    /// The link's name, by which turns are held.
    node: String,
}

fn tag_bytes(tag: Tag) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&tag.node.to_be_bytes());
    bytes[8..].copy_from_slice(&tag.count.to_be_bytes());
    bytes
}

fn corrupt(expected: &str) -> BackendError {
    BackendError::Corrupt(format!("the engine answered something other than {expected}"))
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

fn number(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        other => std::str::from_utf8(&bytes(other)?).ok()?.parse().ok(),
    }
}

/// A tag of 16 bytes; the default for nil, which a stream that does not exist has.
fn tag(value: Value) -> Option<Tag> {
    if value == Value::Nil {
        return Some(Tag::default());
    }
    let bytes: [u8; 16] = bytes(value)?.as_ref().try_into().ok()?;
    let (node, count) = bytes.split_at(8);
    let number = |half: &[u8]| half.try_into().map(u64::from_be_bytes).ok();
    Some(Tag { node: number(node)?, count: number(count)? })
}

fn entries(value: Value) -> Option<Vec<Entry>> {
    let Value::Array(values) = value else { return None };
    values.into_iter().map(|value| read_entry(bytes(value)?)).collect()
}

fn mark(epoch: Value, seq: Value, at: Value) -> Option<Mark> {
    Some(Mark { position: Position { epoch: number(epoch)?, seq: number(seq)? }, tag: tag(at)? })
}

fn array<const N: usize>(value: Value) -> Option<[Value; N]> {
    let Value::Array(values) = value else { return None };
    values.try_into().ok()
}

fn read_appended(value: Value) -> Option<Appended> {
    let [outcome, epoch, seq, at, rest] = array(value)?;
    let mark = mark(epoch, seq, at)?;
    match bytes(outcome)?.as_ref() {
        b"at" => Some(Appended::At { between: entries(rest)?, mark }),
        b"conflict" => {
            let missed = if rest == Value::Nil { None } else { Some(entries(rest)?) };
            Some(Appended::Conflict { mark, missed })
        }
        _ => None,
    }
}

fn read_loaded(value: Value) -> Option<Loaded> {
    let Value::Array(mut values) = value else { return (value == Value::Nil).then_some(Loaded::Absent) };
    if values.len() == 2 {
        return Some(Loaded::Since(entries(values.pop()?)?));
    }
    let [_, epoch, seq, at, snapshot_seq, snapshot, kept] = array(Value::Array(values))?;
    let snapshot = match snapshot {
        Value::Nil => None,
        present => Some((number(snapshot_seq)?, bytes(present)?)),
    };
    Some(Loaded::Whole(Stored { mark: mark(epoch, seq, at)?, snapshot, entries: entries(kept)? }))
}

/// A stream's keys, with which every script begins.
fn keys(names: &names::Stream) -> [&str; 4] {
    [&names.meta, &names.log, &names.snapshot, &names.index]
}

fn at(call: &mut Cmd, mark: Mark) {
    call.arg(mark.position.epoch).arg(mark.position.seq).arg(&tag_bytes(mark.tag)[..]);
}

fn hash(call: &mut Cmd, tag: Tag) {
    call.arg(&tag.hash().to_be_bytes()[..]);
}

/// A lifetime in whole milliseconds, at least one.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50)
}

impl Handle {
    pub(super) fn new(engine: &Arc<Engine>, link: &Arc<Link>) -> Self {
        let node = format!("{:016x}", link.origin);
        Self { engine: Arc::clone(engine), link: Arc::clone(link), node }
    }
}

/// The command that reads what is needed of a head.
fn head(meta: &str) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(meta).arg(&["e", "s", "t", "g", "x"]);
    command
}

impl Handle {
    /// Heads that one master has, in one round trip; one by one where some are on their way to another.
    async fn heads_of(
        &self,
        session: &Session,
        master: usize,
        metas: &[&str],
    ) -> Result<Vec<Option<Mark>>, BackendError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        for meta in metas {
            pipeline.add_command(head(meta));
        }
        let mut answers = match self.engine.pipeline(session, master, &pipeline).await? {
            Some(answers) => answers,
            None => {
                let first = metas.first().copied().unwrap_or_default();
                let mut answers = vec![self.engine.command(first, &redis::cmd("TIME")).await?];
                for meta in metas {
                    answers.push(self.engine.command(meta, &head(meta)).await?);
                }
                answers
            }
        };
        let time = answers.drain(..1).next().and_then(array::<2>);
        let [seconds, micros] = time.ok_or_else(|| corrupt("the time"))?.map(number);
        let now = seconds.zip(micros).map(|(seconds, micros)| seconds * 1_000 + micros / 1_000);
        let now = now.ok_or_else(|| corrupt("the time"))?;
        let read = |answer| read_head(answer, now, session.generation).ok_or_else(|| corrupt("a head"));
        answers.into_iter().map(read).collect()
    }
}

#[async_trait]
impl Log for Handle {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        Claim::of(&append)?;
        let Append { stream, after, rule, tag, entries, ttl, turn } = append;
        let names = self.engine.names.stream(stream);
        let [meta, log, snapshot, index] = keys(&names);
        let keys = [meta, log, snapshot, index, &names.turn, &names.queue];
        let answer = self.engine.run(&self.engine.scripts.append, &keys, |call, generation| {
            call.arg(&stream.key).arg(generation);
            at(call, after);
            hash(call, after.tag);
            call.arg(if rule == Rule::Behind { "behind" } else { "exactly" }).arg(&tag_bytes(tag)[..]);
            hash(call, tag);
            call.arg(ttl.map(|ttl| millis(ttl).to_string()).unwrap_or_default());
            call.arg(MAX_MISSED).arg(MAX_PUSH).arg(&names.channel).arg(&self.link.origin.to_be_bytes()[..]);
            call.arg(if turn == Turn::HandOn { self.node.as_str() } else { "" });
            call.arg(self.engine.names.turns()).arg(name::write(stream));
            for entry in entries {
                call.arg(&entry[..]);
            }
        });
        read_appended(answer.await?).ok_or_else(|| corrupt("the outcome of an append"))
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let names = self.engine.names.stream(stream);
        let keys = keys(&names);
        let answer = self.engine.run(&self.engine.scripts.load, &keys, |call, generation| {
            call.arg(&stream.key).arg(generation);
            if let Some(since) = since {
                at(call, since);
                hash(call, since.tag);
            }
        });
        read_loaded(answer.await?).ok_or_else(|| corrupt("a stream"))
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        let mut heads = Vec::with_capacity(streams.len());
        for batch in streams.chunks(HEADS) {
            let session = self.engine.session().await?;
            let metas: Vec<String> = batch.iter().map(|stream| self.engine.names.stream(stream).meta).collect();
            let mut by_master: HashMap<usize, Vec<usize>> = HashMap::new();
            for (place, meta) in metas.iter().enumerate() {
                by_master.entry(session.shards.of(meta)).or_default().push(place);
            }
            let read = by_master.into_iter().map(async |(master, places)| {
                let metas: Vec<&str> = places.iter().map(|place| metas[*place].as_str()).collect();
                Ok::<_, BackendError>((places, self.heads_of(&session, master, &metas).await?))
            });
            let mut found = vec![None; batch.len()];
            for (places, heads) in try_join_all(read).await? {
                for (place, head) in places.into_iter().zip(heads) {
                    found[place] = head;
                }
            }
            heads.append(&mut found);
        }
        Ok(heads)
    }

    async fn snapshot(&self, stream: &StreamId, mark: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        let names = self.engine.names.stream(stream);
        let keys = keys(&names);
        let answer = self.engine.run(&self.engine.scripts.snapshot, &keys, |call, generation| {
            call.arg(&stream.key).arg(generation);
            at(call, mark);
            call.arg(keep).arg(&bytes[..]);
        });
        answer.await.map(|_: Value| ())
    }

    async fn remove(&self, stream: &StreamId, mark: Mark) -> Result<(), BackendError> {
        let names = self.engine.names.stream(stream);
        let keys = keys(&names);
        let answer = self.engine.run(&self.engine.scripts.remove, &keys, |call, generation| {
            call.arg(&stream.key).arg(generation);
            at(call, mark);
        });
        answer.await.map(|_: Value| ())
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        let mut found: Vec<String> = Vec::new();
        let mut after = after.map(str::to_owned);
        // Each partition is asked for its share and some more. Where one has more than it was asked for, only the keys
        // up to its last are known to be complete.
        let share = (limit / usize::from(PARTITIONS) * 2 + 16).min(limit);
        while found.len() < limit {
            let mut calls = Vec::with_capacity(usize::from(PARTITIONS));
            for (index, metas) in self.engine.names.indexes(kind) {
                let after = after.as_deref().unwrap_or_default();
                calls.push(async move {
                    let keys = [&*index];
                    let page = self.engine.run::<Vec<String>>(&self.engine.scripts.keys, &keys, |call, _| {
                        call.arg(&metas).arg(after).arg(share);
                    });
                    page.await
                });
            }
            let pages = try_join_all(calls).await?;
            let complete =
                pages.iter().filter(|page| page.len() >= share).filter_map(|page| page.last()).min().cloned();
            let mut page: Vec<String> = pages.into_iter().flatten().collect();
            if let Some(complete) = &complete {
                page.retain(|key| key <= complete);
            }
            page.sort_unstable();
            page.truncate(limit - found.len());
            found.extend(page);
            match complete {
                Some(complete) => after = Some(complete),
                None => break,
            }
        }
        Ok(found)
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        let channel = |stream: &StreamId| (self.engine.names.stream(stream).channel, Source::Stream(stream.clone()));
        self.link.subscribe(streams.iter().map(channel).collect()).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.link.unsubscribe(streams.iter().map(|stream| self.engine.names.stream(stream).channel).collect());
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.link.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        let names = self.engine.names.stream(stream);
        let keys = [&*names.turn, &*names.queue];
        let answer = self.engine.run(&self.engine.scripts.take_turn, &keys, |call, _| {
            call.arg(&self.node);
        });
        answer.await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        let names = self.engine.names.stream(stream);
        let keys = [&*names.turn, &*names.queue];
        let answer = self.engine.run(&self.engine.scripts.end_turn, &keys, |call, _| {
            call.arg(&self.node);
            call.arg(self.engine.names.turns()).arg(name::write(stream));
        });
        answer.await.map(|_: Value| ())
    }
}

/// A head as the scripts would see it at `now` in this generation.
fn read_head(value: Value, now: u64, generation: u64) -> Option<Option<Mark>> {
    let [epoch, seq, at, born, ends] = array(value)?;
    if seq == Value::Nil || number(seq.clone())? == 0 {
        return Some(None);
    }
    let is_over = ends != Value::Nil && number(ends)? <= now;
    if is_over {
        return Some(None);
    }
    let mut mark = mark(epoch, seq, at)?;
    if number(born).unwrap_or_default() < generation {
        mark.position.epoch = (mark.position.epoch + 1).max(generation);
    }
    Some(Some(mark))
}
