//! Appends, gathered: one statement for all that is queued, one transaction, one wait for the disk.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{Position, StreamId};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;

use super::{
    engine::{Engine, Line, Param, Session, corrupt},
    kv::millis,
    link::Link,
    note::{Note, stream_hash},
    reader::bits,
};
use crate::backend::{
    error::BackendError,
    judge::Claim,
    log::{Append, Appended, Entry, MAX_MISSED, MAX_PUSH, Mark, Rule, TURN, Tag, Turn},
    name,
};

/// Appends that wait, at most; then callers wait.
const QUEUE: usize = 4_096;
/// Appends in one statement, at most.
const BATCH: usize = 256;
/// Bytes of entries in one statement, unless one append has more.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// An append on its way.
struct Job {
    stream: StreamId,
    name: Vec<u8>,
    claim: Claim,
    entries: Vec<Bytes>,
    ttl: Option<Duration>,
    turn: Turn,
    reply: oneshot::Sender<Result<Appended, BackendError>>,
}

impl Job {
    fn size(&self) -> usize {
        self.entries.iter().map(Bytes::len).sum()
    }
}

/// One node's way to append.
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the task that appends. It ends with the writer, after what is queued.
    pub(super) fn start(engine: &Arc<Engine>, link: &Arc<Link>) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let task = Task { engine: Arc::clone(engine), link: Arc::clone(link), line: Line::default() };
        drop(tokio::spawn(task.run(queue)));
        Self { jobs }
    }

    pub(super) async fn append(&self, append: Append<'_>, claim: Claim) -> Result<Appended, BackendError> {
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            stream: append.stream.clone(),
            name: name::write(append.stream).into_bytes(),
            claim,
            entries: append.entries.to_vec(),
            ttl: append.ttl,
            turn: append.turn,
            reply,
        };
        self.jobs.send(job).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

fn ended() -> BackendError {
    BackendError::Unavailable("the task that appends has ended".into())
}

struct Task {
    engine: Arc<Engine>,
    link: Arc<Link>,
    line: Line,
}

impl Task {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match queue.recv().await {
                    Some(job) => waiting.push_back(job),
                    None => return,
                }
            }
            while waiting.len() < QUEUE {
                match queue.try_recv() {
                    Ok(job) => waiting.push_back(job),
                    Err(_) => break,
                }
            }
            let batch = take_batch(&mut waiting);
            self.write(batch).await;
        }
    }

    async fn write(&self, batch: Vec<Job>) {
        let session = match self.line.session(&self.engine).await {
            Ok(session) => session,
            Err(error) => return refuse(batch, &error),
        };
        let error = match store(&session, self.link.origin, &batch).await {
            Ok(outcomes) => return self.answer(batch, outcomes, session.generation),
            Err(error) => error,
        };
        if session.is_broken() || batch.len() == 1 {
            return refuse(batch, &error);
        }
        // One of them is the cause: each by itself, so that it fails only those that it must.
        for job in batch {
            let job = vec![job];
            match store(&session, self.link.origin, &job).await {
                Ok(outcomes) => self.answer(job, outcomes, session.generation),
                Err(error) => refuse(job, &error),
            }
        }
    }

    fn answer(&self, batch: Vec<Job>, outcomes: Vec<Option<Outcome>>, generation: u64) {
        for (job, outcome) in batch.into_iter().zip(outcomes) {
            let answer = match outcome {
                Some(outcome) => {
                    self.tell(&job, &outcome);
                    Ok(outcome.appended)
                }
                None if job.claim.after.position.seq == 0 => {
                    Err(BackendError::Unavailable("the stream was removed meanwhile".into()))
                }
                // There is no such stream.
                None => Ok(Appended::Conflict { mark: Mark::birth(generation), missed: None }),
            };
            // A caller that no longer waits does not want to know.
            let _ = job.reply.send(answer);
        }
    }

    /// Tells other nodes what is stored, and then whose turn it is.
    fn tell(&self, job: &Job, outcome: &Outcome) {
        if let (true, Appended::At { mark: Mark { position, .. }, .. }) = (outcome.is_new, &outcome.appended) {
            let (stream, epoch, count) = (stream_hash(&job.stream), position.epoch, job.entries.len() as u64);
            self.link.tell(if job.size() > MAX_PUSH {
                Note::Advanced { stream, epoch, last: position.seq }
            } else {
                Note::Entries { stream, epoch, first: position.seq + 1 - count, count }
            });
        }
        if let Some(node) = outcome.heir {
            self.link.tell(Note::Turn { node, stream: job.stream.clone() });
        }
    }
}

/// The next jobs that one statement can have: a stream at most once, the others in their order.
fn take_batch(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let (mut batch, mut rest, mut bytes) = (Vec::new(), VecDeque::new(), 0);
    let mut streams = HashSet::new();
    while let Some(job) = waiting.pop_front() {
        let is_full = batch.len() == BATCH || (bytes > 0 && bytes + job.size() > BATCH_BYTES);
        if is_full {
            rest.push_back(job);
            break;
        }
        if streams.insert(job.name.clone()) {
            bytes += job.size();
            batch.push(job);
        } else {
            rest.push_back(job);
        }
    }
    rest.append(waiting);
    *waiting = rest;
    batch
}

fn refuse(batch: Vec<Job>, error: &BackendError) {
    for job in batch {
        let _ = job.reply.send(Err(error.clone()));
    }
}

struct Outcome {
    appended: Appended,
    /// Entries were appended, not found.
    is_new: bool,
    /// The node whose turn it is now.
    heir: Option<u64>,
}

/// A column of the statement: one value per job.
fn column<'a, T>(batch: &'a [Job], value: impl Fn(&'a Job) -> T) -> Vec<T> {
    batch.iter().map(value).collect()
}

/// Appends, and answers an outcome for each job; none where there is no such stream.
async fn store(session: &Session, author: u64, batch: &[Job]) -> Result<Vec<Option<Outcome>>, BackendError> {
    let names = column(batch, |job| &job.name[..]);
    let epochs = column(batch, |job| job.claim.after.position.epoch.cast_signed());
    let seqs = column(batch, |job| job.claim.after.position.seq.cast_signed());
    let nodes = column(batch, |job| job.claim.after.tag.node.cast_signed());
    let counts = column(batch, |job| job.claim.after.tag.count.cast_signed());
    let hashes = column(batch, |job| job.claim.after.tag.hash().cast_signed());
    let behinds = column(batch, |job| job.claim.rule == Rule::Behind);
    let tag_nodes = column(batch, |job| job.claim.tag.node.cast_signed());
    let tag_counts = column(batch, |job| job.claim.tag.count.cast_signed());
    let tag_hashes = column(batch, |job| job.claim.tag.hash().cast_signed());
    let ttls = column(batch, |job| millis(job.ttl).map_or(-1, |ttl| ttl.max(1)));
    let turns = column(batch, |job| job.turn == Turn::HandOn);
    let sizes = column(batch, |job| job.entries.len() as i64);
    let (mut owners, mut numbers, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (owner, job) in (1_i32..).zip(batch) {
        for (number, entry) in (1_i32..).zip(&job.entries) {
            owners.push(owner);
            numbers.push(number);
            entries.push(&entry[..]);
        }
    }
    let (most, author, held) = (MAX_MISSED as i64, author.cast_signed(), TURN.as_secs_f64());
    let sql = "SELECT * FROM append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
        make_interval(secs => $19))";
    let params: [Param<'_>; 19] = [
        &names,
        &epochs,
        &seqs,
        &nodes,
        &counts,
        &hashes,
        &behinds,
        &tag_nodes,
        &tag_counts,
        &tag_hashes,
        &ttls,
        &turns,
        &sizes,
        &owners,
        &numbers,
        &entries,
        &most,
        &author,
        &held,
    ];
    let rows = session.query(sql, &params).await?;
    let mut outcomes: Vec<Option<Outcome>> = batch.iter().map(|_| None).collect();
    for row in &rows {
        let (item, outcome) = read_outcome(row).map_err(|_| corrupt("the outcome of an append"))?;
        if let Some(place) = usize::try_from(item - 1).ok().and_then(|item| outcomes.get_mut(item)) {
            *place = Some(outcome);
        }
    }
    Ok(outcomes)
}

fn read_outcome(row: &Row) -> Result<(i32, Outcome), tokio_postgres::Error> {
    let position = Position { epoch: bits(row, 2)?, seq: bits(row, 3)? };
    let mark = Mark { position, tag: Tag { node: bits(row, 4)?, count: bits(row, 5)? } };
    let is_new = row.try_get::<_, Option<i64>>(6)?.is_some();
    let heir: Option<i64> = row.try_get(7)?;
    let entries = read_entries(row, 8)?;
    let stored: bool = row.try_get(1)?;
    let appended = match (stored, entries) {
        (true, entries) => Appended::At { between: entries.unwrap_or_default(), mark },
        (false, missed) => Appended::Conflict { mark, missed },
    };
    let outcome = Outcome { appended, is_new: is_new && stored, heir: heir.map(i64::cast_unsigned) };
    Ok((row.try_get(0)?, outcome))
}

/// Entries from four columns of arrays; `None` where those are null.
pub(super) fn read_entries(row: &Row, column: usize) -> Result<Option<Vec<Entry>>, tokio_postgres::Error> {
    let Some(nodes) = row.try_get::<_, Option<Vec<i64>>>(column)? else { return Ok(None) };
    let counts: Vec<i64> = row.try_get(column + 1)?;
    let prevs: Vec<i64> = row.try_get(column + 2)?;
    let contents: Vec<Vec<u8>> = row.try_get(column + 3)?;
    let tags = nodes
        .into_iter()
        .zip(counts)
        .map(|(node, count)| Tag { node: node.cast_unsigned(), count: count.cast_unsigned() });
    let entries = tags.zip(prevs).zip(contents);
    let entries = entries.map(|((tag, prev), bytes)| Entry { tag, prev: prev.cast_unsigned(), bytes: bytes.into() });
    Ok(Some(entries.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(key: &str, count: u64, size: usize) -> Job {
        let stream = StreamId::state(key);
        let entries = vec![Bytes::from(vec![0; size])];
        let claim = Claim { after: Mark::birth(1), rule: Rule::Exactly, tag: Tag { node: 1, count } };
        let name = name::write(&stream).into_bytes();
        Job { stream, name, claim, entries, ttl: None, turn: Turn::None, reply: oneshot::channel().0 }
    }

    fn batches(jobs: Vec<Job>) -> Vec<Vec<u64>> {
        let mut waiting = VecDeque::from(jobs);
        let mut batches = Vec::new();
        while !waiting.is_empty() {
            batches.push(take_batch(&mut waiting).iter().map(|job| job.claim.tag.count).collect());
        }
        batches
    }

    #[test]
    fn a_stream_is_once_in_a_batch_and_keeps_its_order() {
        let jobs = vec![job("a", 1, 1), job("b", 2, 1), job("a", 3, 1), job("c", 4, 1), job("a", 5, 1), job("b", 6, 1)];
        assert_eq!(batches(jobs), [vec![1, 2, 4], vec![3, 6], vec![5]]);
    }

    #[test]
    fn batches_are_bounded() {
        let many = |count: usize| (0..count).map(|n| job(&n.to_string(), n as u64, 1)).collect();
        for (count, sizes) in [(BATCH, vec![BATCH]), (BATCH + 1, vec![BATCH, 1])] {
            assert_eq!(batches(many(count)).iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        }
        let half = BATCH_BYTES / 2;
        assert_eq!(batches(vec![job("a", 1, half), job("b", 2, half), job("c", 3, 1)]), [vec![1, 2], vec![3]]);
        assert_eq!(batches(vec![job("a", 1, BATCH_BYTES + 1), job("b", 2, 1)]), [vec![1], vec![2]]);
    }
}
