//! A log that counts what a server asks of it and what comes of that.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
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

use super::record::Record;

/// The same backend, whose log is counted.
pub(super) fn counted(backend: Backend, record: Record) -> Backend {
    let log = Arc::new(Counted { log: backend.log, record, tags: Mutex::default() });
    Backend { log, ..backend }
}

struct Counted {
    log: Arc<dyn Log>,
    record: Record,
    /// Appends that were asked for.
    tags: Mutex<HashSet<Tag>>,
}

#[async_trait]
impl Log for Counted {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        if !self.tags.lock().unwrap().insert(append.tag) {
            self.record.count("repeats");
        }
        let answer = self.log.append(append).await;
        match &answer {
            Ok(Appended::Conflict { missed: Some(_), .. }) => self.record.count("conflicts with what was missed"),
            Ok(Appended::Conflict { missed: None, .. }) => self.record.count("conflicts"),
            Ok(Appended::At { between, .. }) if between.is_empty() => self.record.count("appends"),
            Ok(Appended::At { between, mark }) => {
                self.record.count("appends behind others");
                let expected = append.after.position.seq + between.len() as u64 + append.entries.len() as u64;
                assert!(append.rule == Rule::Behind || mark.position.seq == expected, "{append:?}: {mark:?}");
            }
            Err(_) => self.record.count("appends without an answer"),
        }
        answer
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        let answer = self.log.load(stream, since).await;
        match (&answer, since) {
            (Ok(Loaded::Since(entries)), _) if entries.is_empty() => self.record.count("catch-ups in vain"),
            (Ok(Loaded::Since(_)), _) => self.record.count("catch-ups"),
            (Ok(Loaded::Whole(_)), Some(_)) => self.record.count("resets"),
            _ => {}
        }
        answer
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.record.count("looks at heads");
        self.log.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.record.count("snapshots");
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
        self.record.count("unfollowed");
        self.log.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.log.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.record.count("turns asked for");
        self.log.take_turn(stream).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.log.end_turn(stream).await
    }
}
