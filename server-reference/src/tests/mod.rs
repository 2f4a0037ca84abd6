//! Sessions without sockets, over a backend that waits or fails.

mod batches;
mod commits;
mod concurrency;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{
    Position, StreamId, StreamKind,
    frame::{Opcode, decode},
    wire::split_varuint,
};
use futures_util::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

use crate::{
    AuthRequest, Builder, Identity, Limits, Protocol, Server,
    backend::{Appended, Backend, BackendError, Memory, Stored, Wake},
    message::Outgoing,
    protocol::Session,
    task::Task,
};

/// Memory that can be shared between servers, and answers loads and appends only while it is open. What is appended is
/// stored before the wait.
#[derive(Clone)]
pub(crate) struct Gated {
    memory: Arc<Memory>,
    pub(crate) open: watch::Sender<bool>,
    /// Whether appends fail; nothing is stored then.
    pub(crate) failing: Arc<AtomicBool>,
}

impl Gated {
    pub(crate) fn new(open: bool) -> Self {
        Self { memory: Arc::default(), open: watch::Sender::new(open), failing: Arc::default() }
    }

    async fn pass(&self) {
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

impl Backend for Gated {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        self.pass().then(|()| self.memory.load(stream)).boxed()
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        async move {
            if self.failing.load(Ordering::Relaxed) {
                return Err(BackendError::Unavailable("on purpose".into()));
            }
            let appended = self.memory.append(stream, at, entry).await;
            self.pass().await;
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

    fn wakes(&self) -> broadcast::Receiver<Wake> {
        self.memory.wakes()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>> {
        self.memory.get(key)
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.put(key, value, ttl)
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        self.memory.delete(key)
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

    pub(crate) fn opcodes(&mut self) -> Vec<(Opcode, u32)> {
        self.received().into_iter().map(|(opcode, correlation, _)| (opcode, correlation)).collect()
    }

    /// The same as messages.
    pub(crate) fn messages(&mut self) -> Vec<Vec<u8>> {
        self.session.connection().mailbox().drain(&mut self.out, usize::MAX);
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
