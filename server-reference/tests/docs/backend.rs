//! A backend that fails on demand.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use bytes::Bytes;
use datasole_server::{
    Position, StreamId, StreamKind,
    backend::{Appended, Backend, BackendError, Memory, Stored, Wake},
};
use futures_util::{FutureExt, future::BoxFuture};

/// Memory that outlives servers, and fails on demand.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    memory: Arc<Memory>,
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
        self.memory.load(&StreamId { kind: StreamKind::Doc, key: key.into() }).await.unwrap().unwrap()
    }
}

impl Backend for Faulty {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        self.memory.load(stream)
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        async move {
            while self.mode.load(Ordering::SeqCst) == WAITING {
                tokio::task::yield_now().await;
            }
            if self.mode.load(Ordering::SeqCst) == REFUSED {
                return Err(BackendError::Unavailable("on purpose".into()));
            }
            let appended = self.memory.append(stream, at, entry).await;
            if self.mode.load(Ordering::SeqCst) == STORED_BUT_FAILED {
                return Err(BackendError::Unavailable("on purpose".into()));
            }
            appended
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>> {
        self.memory.read(stream, since)
    }

    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.snapshot(stream, at, snapshot, keep)
    }

    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.remove(stream, at)
    }

    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>> {
        self.memory.keys(kind)
    }

    fn wakes(&self) -> tokio::sync::broadcast::Receiver<Wake> {
        self.memory.wakes()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>> {
        self.memory.get(key)
    }

    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        ttl: Option<std::time::Duration>,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.put(key, value, ttl)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.delete(key)
    }
}
