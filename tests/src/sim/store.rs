//! Where the server keeps things: CRDTs and documents in a memory that may outlive it and fails for a while, the rest in
//! one that goes with it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use datasole_core::{
    Position, StreamId, StreamKind,
    crdt::{CrdtLimits, Op},
};
use datasole_server::backend::{Appended, Backend, BackendError, Memory, Stored, Wake};
use futures_util::{FutureExt, future::BoxFuture, future::ready};
use tokio::sync::broadcast;

/// What outlives a server: the memory of CRDTs and documents, and a book of every operation that was stored in it.
#[derive(Debug, Default)]
pub(super) struct Archive {
    memory: Memory,
    failing: AtomicBool,
    operations: Mutex<Vec<(String, Op)>>,
}

impl Archive {
    /// Whether it fails from now on.
    pub(super) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Every operation on a CRDT, in order.
    pub(super) fn operations(&self, key: &str) -> Vec<Op> {
        let operations = self.operations.lock().unwrap();
        operations.iter().filter(|(of, _)| of == key).map(|(_, op)| op.clone()).collect()
    }

    fn check(&self) -> Result<(), BackendError> {
        match self.is_failing() {
            true => Err(BackendError::Unavailable("the disk is away".into())),
            false => Ok(()),
        }
    }
}

/// The backend of one life of the server.
pub(super) struct Store {
    pub(super) archive: Arc<Archive>,
    memory: Memory,
}

impl Store {
    pub(super) fn new(archive: Arc<Archive>) -> Self {
        Self { archive, memory: Memory::default() }
    }

    fn of(&self, kind: StreamKind) -> Result<&Memory, BackendError> {
        if matches!(kind, StreamKind::Crdt | StreamKind::Doc) {
            self.archive.check()?;
            return Ok(&self.archive.memory);
        }
        Ok(&self.memory)
    }
}

impl Backend for Store {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        self.of(stream.kind).map_or_else(|error| ready(Err(error)).boxed(), |memory| memory.load(stream))
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        let memory = match self.of(stream.kind) {
            Ok(memory) => memory,
            Err(error) => return ready(Err(error)).boxed(),
        };
        if stream.kind == StreamKind::Crdt && entry.first() == Some(&b'o') {
            let op = Op::parse(std::str::from_utf8(&entry[1..]).unwrap(), &CrdtLimits::default()).unwrap();
            self.archive.operations.lock().unwrap().push((stream.key.clone(), op));
        }
        memory.append(stream, at, entry)
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>> {
        self.of(stream.kind).map_or_else(|error| ready(Err(error)).boxed(), |memory| memory.read(stream, since))
    }

    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        self.of(stream.kind)
            .map_or_else(|error| ready(Err(error)).boxed(), |memory| memory.snapshot(stream, at, snapshot, keep))
    }

    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>> {
        self.of(stream.kind).map_or_else(|error| ready(Err(error)).boxed(), |memory| memory.remove(stream, at))
    }

    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>> {
        // In an order that is always the same.
        let sorted = |keys: Result<Vec<String>, _>| {
            keys.map(|mut keys| {
                keys.sort();
                keys
            })
        };
        self.of(kind).map_or_else(|error| ready(Err(error)).boxed(), |memory| memory.keys(kind).map(sorted).boxed())
    }

    /// Those of streams that no other server writes to: nobody does.
    fn wakes(&self) -> broadcast::Receiver<Wake> {
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
