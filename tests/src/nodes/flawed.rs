//! Backends with one flaw each: what the checker, or a run's own assertions, must find.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use datasole_server::{
    StreamId, StreamKind,
    backend::{
        Backend, BackendError, Log, async_trait,
        log::{Append, Appended, Loaded, Mark, News, Rule, Tag},
    },
};
use tokio::sync::mpsc;

/// What is wrong with a backend, now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// An append is acknowledged and not stored.
    Drops,
    /// An append is stored twice.
    Doubles,
    /// Two entries are read in each other's place.
    Swaps,
    /// An append is stored whatever came before it.
    IgnoresAfter,
    /// A node is told that it has missed nothing, and goes on with a history of its own.
    Forks,
    /// Entries are lost, and lives go on: the new entries take the positions of the lost ones.
    KeepsLives,
}

impl Flaw {
    /// Every flaw.
    pub const ALL: [Self; 6] =
        [Self::Drops, Self::Doubles, Self::Swaps, Self::IgnoresAfter, Self::Forks, Self::KeepsLives];
}

/// The same backend, with a flaw.
pub(super) fn flawed(backend: Backend, flaw: Flaw) -> Backend {
    let log = Arc::new(Flawed { log: backend.log, flaw, calls: AtomicU64::new(0) });
    Backend { log, ..backend }
}

struct Flawed {
    log: Arc<dyn Log>,
    flaw: Flaw,
    calls: AtomicU64,
}

impl Flawed {
    /// Every seventh time; a loss takes several in a row.
    fn strikes(&self, flaw: Flaw) -> bool {
        let from = if flaw == Flaw::KeepsLives { 4 } else { 6 };
        self.flaw == flaw && self.calls.fetch_add(1, Ordering::Relaxed) % 7 >= from
    }

    fn behind(append: &Append<'_>) -> Mark {
        let mut mark = Mark { tag: append.tag, ..append.after };
        mark.position.seq += append.entries.len() as u64;
        mark
    }
}

#[async_trait]
impl Log for Flawed {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        if self.strikes(Flaw::Drops) || self.strikes(Flaw::KeepsLives) {
            return Ok(Appended::At { between: Vec::new(), mark: Self::behind(&append) });
        }
        let answer = self.log.append(append).await?;
        match &answer {
            Appended::At { mark, .. } if self.strikes(Flaw::Doubles) => {
                let tag = Tag { node: append.tag.node ^ 1, ..append.tag };
                self.log.append(Append::new(append.stream, *mark, Rule::Behind, tag, append.entries)).await?;
            }
            Appended::Conflict { mark, .. } if self.flaw == Flaw::IgnoresAfter && mark.position.seq > 0 => {
                let anywhere = Append::new(append.stream, *mark, Rule::Behind, append.tag, append.entries);
                return self.log.append(anywhere).await;
            }
            _ => {}
        }
        Ok(answer)
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let mut loaded = self.log.load(stream, since).await?;
        match &mut loaded {
            Loaded::Since(entries) if self.strikes(Flaw::Forks) => entries.clear(),
            Loaded::Since(entries) if entries.len() > 1 && self.flaw == Flaw::Swaps => {
                let bytes = entries[0].bytes.clone();
                entries[0].bytes = std::mem::replace(&mut entries[1].bytes, bytes);
            }
            Loaded::Whole(stored) if stored.since_snapshot().len() > 2 && self.flaw == Flaw::Swaps => {
                let last = stored.entries.len() - 1;
                let bytes = stored.entries[last].bytes.clone();
                stored.entries[last].bytes = std::mem::replace(&mut stored.entries[last - 1].bytes, bytes);
            }
            _ => {}
        }
        Ok(loaded)
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.log.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.log.snapshot(stream, at, bytes, keep).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        self.log.remove(stream, at).await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.log.keys(kind, after, limit).await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.log.follow(streams).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.log.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.log.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.log.take_turn(stream).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.log.end_turn(stream).await
    }
}
