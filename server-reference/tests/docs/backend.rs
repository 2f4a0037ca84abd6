//! A backend that fails on demand.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use bytes::Bytes;
use datasole_server::{
    StreamId, StreamKind,
    backend::{
        Backend, BackendError, Log, Memory, async_trait,
        log::{Append, Appended, Loaded, Mark, News, Stored},
    },
};
use tokio::sync::mpsc;

/// Memory that outlives servers, and fails on demand.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    memory: Memory,
    mode: Arc<AtomicU8>,
}

/// How appends go.
pub(crate) const WELL: u8 = 0;
pub(crate) const REFUSED: u8 = 1;
pub(crate) const STORED_BUT_FAILED: u8 = 2;
pub(crate) const WAITING: u8 = 3;

impl Faulty {
    pub(crate) fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    pub(crate) async fn stored(&self, key: &str) -> Stored {
        let id = StreamId { kind: StreamKind::Doc, key: key.into() };
        match self.memory.node().log.load(&id, None).await.unwrap() {
            Loaded::Whole(stored) => stored,
            other => panic!("{other:?}"),
        }
    }
}

impl From<Faulty> for Backend {
    fn from(faulty: Faulty) -> Self {
        let backend = faulty.memory.node();
        Self { log: Arc::new(FaultyLog { inner: backend.log, mode: faulty.mode }), ..backend }
    }
}

/// The log of one node.
struct FaultyLog {
    inner: Arc<dyn Log>,
    mode: Arc<AtomicU8>,
}

#[async_trait]
impl Log for FaultyLog {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        while self.mode.load(Ordering::SeqCst) == WAITING {
            tokio::task::yield_now().await;
        }
        if self.mode.load(Ordering::SeqCst) == REFUSED {
            return Err(BackendError::Full("on purpose".into()));
        }
        let appended = self.inner.append(append).await;
        if self.mode.load(Ordering::SeqCst) == STORED_BUT_FAILED {
            return Err(BackendError::Unknown("on purpose".into()));
        }
        appended
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.inner.load(stream, since).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.inner.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.inner.snapshot(stream, at, bytes, keep).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        self.inner.remove(stream, at).await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.inner.keys(kind, after, limit).await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.inner.follow(streams).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.inner.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.inner.news()
    }
}
