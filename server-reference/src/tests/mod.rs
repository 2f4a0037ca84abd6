//! Sessions without sockets, over a backend that waits or fails.

mod apart;
mod batches;
mod commits;
mod concurrency;
mod large;
mod owed;
mod short;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use datasole_core::{
    Position, StreamId, StreamKind,
    frame::{Opcode, decode},
    wire::split_varuint,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    AuthRequest, Builder, Identity, Limits, Protocol, Server,
    backend::{
        Backend, BackendError, Log, Memory, async_trait,
        log::{Append, Appended, Loaded, Mark, News, Stored},
    },
    message::Outgoing,
    protocol::Session,
    task::Task,
};

/// Memory that can be shared between servers, and answers loads and appends only while it is open. What is appended is
/// stored before the wait; while it is failing, nothing is, nor loaded.
#[derive(Clone)]
pub(crate) struct Gated {
    memory: Memory,
    pub(crate) open: watch::Sender<bool>,
    pub(crate) failing: Arc<AtomicBool>,
    /// How often a whole stream was asked for.
    pub(crate) loads: Arc<AtomicUsize>,
    /// Snapshots that were stored, and their bytes.
    pub(crate) snapshots: Arc<AtomicUsize>,
    pub(crate) written: Arc<AtomicUsize>,
}

impl Gated {
    pub(crate) fn new(open: bool) -> Self {
        Self {
            memory: Memory::default(),
            open: watch::Sender::new(open),
            failing: Arc::default(),
            loads: Arc::default(),
            snapshots: Arc::default(),
            written: Arc::default(),
        }
    }

    /// What is stored of a stream.
    pub(crate) async fn stored(&self, id: &StreamId) -> Stored {
        match self.memory.node().log.load(id, None).await.unwrap() {
            Loaded::Whole(stored) => stored,
            other => panic!("{id:?}: {other:?}"),
        }
    }
}

impl From<Gated> for Backend {
    fn from(gated: Gated) -> Self {
        let backend = gated.memory.node();
        let Gated { open, failing, loads, snapshots, written, .. } = gated;
        let open = open.subscribe();
        Self { log: Arc::new(GatedLog { inner: backend.log, open, failing, loads, snapshots, written }), ..backend }
    }
}

/// The log of one node.
struct GatedLog {
    inner: Arc<dyn Log>,
    open: watch::Receiver<bool>,
    failing: Arc<AtomicBool>,
    loads: Arc<AtomicUsize>,
    snapshots: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

impl GatedLog {
    async fn pass(&self) {
        // The test is over when the sender is gone.
        let _ = self.open.clone().wait_for(|open| *open).await;
    }
}

#[async_trait]
impl Log for GatedLog {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(BackendError::Full("for a test".into()));
        }
        let appended = self.inner.append(append).await;
        self.pass().await;
        appended
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.loads.fetch_add(usize::from(since.is_none()), Ordering::Relaxed);
        self.pass().await;
        if self.failing.load(Ordering::Relaxed) {
            return Err(BackendError::Unavailable("for a test".into()));
        }
        self.inner.load(stream, since).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.inner.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        self.written.fetch_add(bytes.len(), Ordering::Relaxed);
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

/// A client that is a session without a socket.
pub(crate) struct Peer {
    pub(crate) session: Session,
    out: Outgoing,
    tasks: Vec<Task>,
}

impl Peer {
    pub(crate) fn new(server: &Server) -> Self {
        Self::of(server, Protocol::V2)
    }

    pub(crate) fn of(server: &Server, protocol: Protocol) -> Self {
        let connection = server.node().connection(protocol, None);
        assert!(server.node().welcome(&connection, Identity::user("ann")).is_none());
        let mut peer = Self::with(Session::new(server.node().clone(), connection, None));
        if protocol == Protocol::V2 {
            assert_eq!(peer.received()[0].0, Opcode::Hello);
        }
        peer
    }

    /// One that has still to send AUTH.
    fn stranger(server: &Server) -> Self {
        let connection = server.node().connection(Protocol::V2, None);
        server.node().expect(&connection);
        let upgrade = Some(Box::new(AuthRequest::renewal()));
        Self::with(Session::new(server.node().clone(), connection, upgrade))
    }

    fn with(session: Session) -> Self {
        Self { session, out: Outgoing::new(length), tasks: Vec::new() }
    }

    pub(crate) fn send(&mut self, opcode: Opcode, correlation: u32, payload: &Value) -> Option<Task> {
        self.take(&frame(opcode, correlation, payload.to_string().as_bytes()))
    }

    /// Hands the session a message, and gives what it has to do, if it is one thing.
    pub(crate) fn take(&mut self, message: &[u8]) -> Option<Task> {
        let spawn = &mut |task| self.tasks.push(task);
        self.session.receive(message, &mut self.out, spawn);
        while self.session.is_busy() {
            self.session.go_on(&mut self.out, spawn);
        }
        assert!(self.tasks.len() <= 1, "one message, one task");
        self.tasks.pop()
    }

    pub(crate) fn subscribe(
        &mut self,
        correlation: u32,
        kind: &str,
        key: &str,
        since: Option<Position>,
    ) -> Option<Task> {
        let mut payload = json!({ "kind": kind, "key": key });
        if let Some(since) = since {
            payload["since"] = json!({ "epoch": since.epoch, "seq": since.seq });
        }
        self.send(Opcode::Subscribe, correlation, &payload)
    }

    /// Everything that was sent to it since it last looked.
    pub(crate) fn received(&mut self) -> Vec<(Opcode, u32, Value)> {
        self.messages()
            .into_iter()
            .map(|message| {
                let frame = decode(&message, usize::MAX).unwrap();
                let payload = match frame.opcode {
                    Opcode::Ack => split_varuint(frame.payload).unwrap().0.into(),
                    _ => serde_json::from_slice(frame.payload).unwrap(),
                };
                (frame.opcode, frame.correlation, payload)
            })
            .collect()
    }

    /// Waits until something is there for it.
    pub(crate) async fn filled(&self) {
        let mailbox = self.session.connection().mailbox();
        poll_fn(|cx| {
            mailbox.register(cx.waker());
            if mailbox.is_filled() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What is sent to it next, be that made elsewhere.
    pub(crate) async fn next(&mut self) -> Vec<(Opcode, u32, Value)> {
        loop {
            self.filled().await;
            let received = self.received();
            if !received.is_empty() {
                return received;
            }
        }
    }

    pub(crate) fn opcodes(&mut self) -> Vec<(Opcode, u32)> {
        self.received().into_iter().map(|(opcode, correlation, _)| (opcode, correlation)).collect()
    }

    /// The same as messages.
    pub(crate) fn messages(&mut self) -> Vec<Vec<u8>> {
        self.some(usize::MAX)
    }

    /// The next messages, until they have so many bytes.
    pub(crate) fn some(&mut self, room: usize) -> Vec<Vec<u8>> {
        self.session.connection().mailbox().drain(&mut self.out, room);
        split(&std::mem::take(&mut self.out.bytes))
    }

    pub(crate) async fn end(mut self) {
        if let Some(task) = self.session.end().await {
            task.await;
        }
    }
}

/// Writes the length of a message before it.
pub(crate) fn length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
}

/// Messages that are behind their lengths.
pub(crate) fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (message, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        messages.push(message.to_vec());
        bytes = rest;
    }
    messages
}

/// A frame as it is sent uncompressed.
pub(crate) fn frame(opcode: Opcode, correlation: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode as u8];
    frame.extend_from_slice(&correlation.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

pub(crate) fn spawn(task: Option<Task>) -> JoinHandle<()> {
    tokio::spawn(task.unwrap())
}

/// Nothing is compressed, so that tests can read it.
pub(crate) fn plain() -> Limits {
    Limits { compress_above: usize::MAX, ..Limits::default() }
}

pub(crate) fn builder() -> Builder {
    Server::builder().limits(plain())
}
