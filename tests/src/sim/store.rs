//! Where the server keeps things: CRDTs and documents in a memory that may outlive it and fails for a while, the rest in
//! one that goes with it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use datasole_core::{
    StreamId, StreamKind,
    crdt::{CrdtLimits, Op},
};
use datasole_server::backend::{
    BackendError, Log, Memory, async_trait,
    log::{Append, Appended, Loaded, Mark},
};

/// What outlives a server: the memory of CRDTs and documents, and a book of every operation that was stored in it.
#[derive(Default)]
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
            // Not `Unavailable`, which the server repeats in real time.
            true => Err(BackendError::Full("the disk is away".into())),
            false => Ok(()),
        }
    }
}

/// The log of one life of the server.
pub(super) struct Store {
    archive: Arc<Archive>,
    /// CRDTs and documents.
    kept: Arc<dyn Log>,
    /// The rest.
    lost: Arc<dyn Log>,
}

impl Store {
    pub(super) fn new(archive: Arc<Archive>) -> Self {
        Self { kept: archive.memory.node().log, lost: Memory::default().node().log, archive }
    }

    fn of(&self, kind: StreamKind) -> Result<&dyn Log, BackendError> {
        if matches!(kind, StreamKind::Crdt | StreamKind::Doc) {
            self.archive.check()?;
            return Ok(&*self.kept);
        }
        Ok(&*self.lost)
    }
}

#[async_trait]
impl Log for Store {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        let log = self.of(append.stream.kind)?;
        let (stream, entries) = (append.stream, append.entries);
        let appended = log.append(append).await?;
        if stream.kind == StreamKind::Crdt && matches!(appended, Appended::At { .. }) {
            let operation = |entry: &Bytes| {
                let text = std::str::from_utf8(entry.strip_prefix(b"o")?).unwrap();
                // After the owner of a new name.
                let json = text.split_once('\n').map_or(text, |(_, json)| json);
                Some(Op::parse(json, &CrdtLimits::default()).unwrap())
            };
            let operations = entries.iter().filter_map(operation).map(|op| (stream.key.clone(), op));
            self.archive.operations.lock().unwrap().extend(operations);
        }
        Ok(appended)
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.of(stream.kind)?.load(stream, since).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        let mut heads = Vec::new();
        for stream in streams {
            heads.extend(self.of(stream.kind)?.heads(std::slice::from_ref(stream)).await?);
        }
        Ok(heads)
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.of(stream.kind)?.snapshot(stream, at, bytes, keep).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        self.of(stream.kind)?.remove(stream, at).await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.of(kind)?.keys(kind, after, limit).await
    }
}
