//! The server's half of the protocol: one [`Session`] per connection, fed with messages, without a socket.
//!
//! Answers that are ready go to `out`; what reaches the client later goes through its mailbox. Handlers that do not
//! finish at once come back as [`Task`]s for the host to run. Nothing here waits, and no message can make it fail.

use std::{
    borrow::Cow,
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context as Poll, Poll as Polled, Waker},
};

use datasole_core::{
    StreamId, StreamKind, codes,
    frame::{Frame, FrameError, Opcode},
    wire,
};
use futures_util::{
    FutureExt,
    future::{AbortHandle, Abortable, BoxFuture},
};
use serde_json::value::RawValue;
use tokio::task::unconstrained;

#[cfg(feature = "docs")]
use crate::primitives::docs;
use crate::{
    auth::{AuthRequest, Identity},
    backend::BackendError,
    connection::{Busy, Connection, Protocol},
    hub::{Author, Stream, entry, unix_millis},
    mailbox::lock,
    message,
    metrics::Metrics,
    primitives::{
        crdt, presence,
        rpc::{Context, Incoming, panicked},
    },
    server::Server,
};

/// Work that outlives the message that began it; the host runs it to its end.
pub(crate) type Task = BoxFuture<'static, ()>;

pub(crate) struct Session {
    server: Server,
    connection: Arc<Connection>,
    /// By the SUBSCRIBE's correlation id. Shared with subscriptions that wait for the backend.
    subscriptions: Arc<std::sync::Mutex<HashMap<u32, Subscription>>>,
    /// The request whose token is to come in an AUTH frame.
    upgrade: Option<Box<AuthRequest>>,
}

/// A frame that is answered by ACK or ERROR, and what serving it takes. It counts as under way until it is dropped.
pub(crate) struct Request {
    pub(crate) server: Server,
    pub(crate) connection: Arc<Connection>,
    pub(crate) identity: Arc<Identity>,
    /// 0 where no answer is wanted.
    pub(crate) correlation: u32,
    _busy: Busy,
}

impl Request {
    /// It took effect as the stream's entry `seq`, or changed nothing (0). What becomes an entry is acknowledged as it is
    /// published: see [`author`](Self::author).
    pub(crate) fn acknowledge(&self, seq: u64) {
        self.connection.acknowledge(self.correlation, seq);
    }

    /// It changed nothing. `retry_after`, in milliseconds, where it may be sent again.
    pub(crate) fn refuse(&self, code: i32, message: &str, retry_after: Option<u64>) {
        self.connection.refuse(self.correlation, code, message, retry_after);
    }

    /// It changed nothing because the backend failed.
    pub(crate) fn fail(&self, error: &BackendError) {
        tracing::error!(%error, "a request could not be served");
        self.refuse(codes::INTERNAL, "the backend failed", Some(RETRY_AFTER));
    }

    pub(crate) fn author(&self) -> Option<Author> {
        let (connection, correlation) = (self.connection.clone(), self.correlation);
        (correlation != 0).then_some(Author { connection, correlation })
    }
}

/// When what failed for a lack of room or of a backend may be tried again; milliseconds.
pub(crate) const RETRY_AFTER: u64 = 1_000;

enum Subscription {
    /// The backend is asked.
    Opening(StreamId),
    /// The backend is asked, but the client no longer wants it. It counts until the answer comes: what a peer can make
    /// the backend do is bounded.
    Abandoned,
    Open(Arc<Stream>),
}

impl Session {
    /// With `upgrade`, the client is nobody until its first AUTH frame has been accepted.
    pub(crate) fn new(server: Server, connection: Arc<Connection>, upgrade: Option<Box<AuthRequest>>) -> Self {
        Self { server, connection, subscriptions: Arc::default(), upgrade }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Takes one binary message.
    pub(crate) fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Option<Task> {
        let server = self.server.clone();
        Metrics::add(&server.metrics().messages_in, 1);
        Metrics::add(&server.metrics().bytes_in, bytes.len() as u64);
        if bytes.first() == Some(&datasole_core::frame::ZLIB_MARK) {
            // The codec is this thread's: it is given back before a handler runs.
            let inflated = message::with_codec(|codec| {
                let frame = codec.decode(bytes, server.codec_limits())?;
                Ok((frame.opcode, frame.correlation, frame.payload.to_vec()))
            });
            return match inflated {
                Ok((opcode, correlation, payload)) => self.frame(Frame { opcode, correlation, payload: &payload }, out),
                Err(error) => self.malformed(bytes, error, out),
            };
        }
        match datasole_core::frame::decode(bytes, server.codec_limits().max_payload) {
            Ok(frame) => self.frame(frame, out),
            Err(error) => self.malformed(bytes, error, out),
        }
    }

    /// Ends everything the session holds; the streams it followed are for the host to release.
    pub(crate) fn end(&mut self) -> Vec<Arc<Stream>> {
        self.connection.end();
        let mut streams = presence::leave(&self.connection);
        for (_, subscription) in lock(&self.subscriptions).drain() {
            if let Subscription::Open(stream) = subscription {
                stream.unsubscribe(&self.connection);
                streams.push(stream);
            }
        }
        streams
    }

    fn is_v2(&self) -> bool {
        self.connection.protocol() == Protocol::V2
    }

    fn malformed(&mut self, bytes: &[u8], error: FrameError, out: &mut Vec<u8>) -> Option<Task> {
        Metrics::add(&self.server.metrics().malformed, 1);
        if self.connection.identity().is_none() {
            return self.stranger();
        }
        let correlation = match (bytes.first(), bytes.get(1..5).and_then(|bytes| bytes.first_chunk::<4>())) {
            (Some(&first), Some(id)) if first != datasole_core::frame::ZLIB_MARK => u32::from_be_bytes(*id),
            _ => 0,
        };
        self.refuse(out, correlation, codes::INVALID_REQUEST, &error.to_string());
        None
    }

    /// Nothing is said to a client that is nobody yet.
    fn stranger(&self) -> Option<Task> {
        self.connection.mailbox().close(wire::CLOSE_UNAUTHORIZED, "AUTH must come first");
        None
    }

    /// Version 1 clients ignore ERROR, but their calls' authors read it in a trace.
    fn refuse(&self, out: &mut Vec<u8>, correlation: u32, code: i32, message: &str) {
        if !self.is_v2() {
            return;
        }
        let body = wire::ErrorBody { message: message.into(), code: Some(code), retry_after: None };
        self.write(out, Opcode::Error, correlation, &entry::json(&body));
    }

    /// Writes an answer after everything that is queued, so that what was published before it arrives before it. Only
    /// snapshots owed to a client that fell behind come later.
    fn write(&self, out: &mut Vec<u8>, opcode: Opcode, correlation: u32, payload: &[u8]) {
        self.catch_up(out);
        message::write(out, opcode, correlation, payload, self.server.limits().compress_above);
    }

    fn catch_up(&self, out: &mut Vec<u8>) {
        if self.connection.mailbox().is_filled() {
            self.connection.mailbox().drain_queued(out);
        }
    }

    fn frame(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Option<Task> {
        let Frame { opcode, correlation, payload } = frame;
        if self.connection.identity().is_none() && opcode != Opcode::Auth {
            return self.stranger();
        }
        match opcode {
            Opcode::Ping => {
                self.write(out, Opcode::Pong, correlation, b"null");
                None
            }
            Opcode::RpcRequest => {
                let Ok(request) = serde_json::from_slice::<wire::RpcRequest<'_>>(payload) else {
                    return self.invalid_call(correlation, out);
                };
                let params = Incoming::Json(request.params.unwrap_or(RawValue::NULL));
                self.call(correlation, &request.method, params, out)
            }
            Opcode::RpcRequestBinary if self.is_v2() => {
                let Some((head, bytes)) = wire::split_binary(payload) else {
                    return self.invalid_call(correlation, out);
                };
                let Ok(request) = serde_json::from_slice::<wire::RpcRequest<'_>>(head) else {
                    return self.invalid_call(correlation, out);
                };
                self.call(correlation, &request.method, Incoming::Binary(bytes), out)
            }
            Opcode::ClientEvent => {
                let Ok(event) = serde_json::from_slice::<wire::ClientEvent<'_>>(payload) else {
                    return self.invalid(correlation, codes::PARSE, "the payload is not an event", out);
                };
                self.event(correlation, event.event, Incoming::Json(event.data.unwrap_or(RawValue::NULL)), out)
            }
            Opcode::ClientEventBinary if self.is_v2() => {
                let event = wire::split_binary(payload).and_then(|(head, bytes)| {
                    Some((serde_json::from_slice::<wire::ClientEvent<'_>>(head).ok()?, bytes))
                });
                let Some((event, bytes)) = event else {
                    return self.invalid(correlation, codes::PARSE, "the payload is not an event", out);
                };
                self.event(correlation, event.event, Incoming::Binary(bytes), out)
            }
            Opcode::Subscribe if self.is_v2() => match serde_json::from_slice::<wire::Subscribe<'_>>(payload) {
                Ok(request) => self.subscribe(correlation, request, out),
                Err(_) => self.invalid(correlation, codes::PARSE, "the payload is not a subscription", out),
            },
            Opcode::CrdtOp => at_once(crdt::receive(self.request(correlation)?, payload)?),
            Opcode::Presence if self.is_v2() => at_once(presence::receive(self.request(correlation)?, payload)?),
            #[cfg(feature = "docs")]
            Opcode::Doc if self.is_v2() => self.doc(correlation, payload, out),
            Opcode::Unsubscribe if self.is_v2() => self.unsubscribe(correlation),
            Opcode::Cancel if self.is_v2() => {
                self.connection.cancel_call(correlation);
                None
            }
            Opcode::Auth if self.is_v2() => match serde_json::from_slice::<wire::Auth<'_>>(payload) {
                Ok(auth) => self.authenticate(correlation, auth.token.map(Cow::into_owned), out),
                Err(_) => self.invalid(correlation, codes::PARSE, "the payload is not a token", out),
            },
            _ => self.invalid(correlation, codes::INVALID_REQUEST, "this frame is not for servers", out),
        }
    }

    /// A place for a frame that is answered by ACK or ERROR, if there is one.
    fn request(&self, correlation: u32) -> Option<Request> {
        let (server, connection) = (self.server.clone(), self.connection.clone());
        let identity = connection.identity()?;
        let Some(busy) = connection.begin(server.limits().max_pending) else {
            connection.refuse(correlation, codes::LIMIT, "too many requests under way", Some(RETRY_AFTER));
            return None;
        };
        Some(Request { server, connection, identity, correlation, _busy: busy })
    }

    #[cfg(feature = "docs")]
    fn doc(&mut self, correlation: u32, payload: &[u8], out: &mut Vec<u8>) -> Option<Task> {
        let followed = wire::split_varuint(payload).and_then(|(channel, message)| {
            let subscriptions = lock(&self.subscriptions);
            let stream = subscriptions.values().find_map(|subscription| match subscription {
                Subscription::Open(stream) if channel != 0 && u64::from(stream.channel()) == channel => Some(stream),
                _ => None,
            });
            Some((stream?.clone(), message))
        });
        let Some((stream, message)) = followed else {
            return self.invalid(correlation, codes::INVALID_REQUEST, "no document is followed on this channel", out);
        };
        at_once(docs::receive(self.request(correlation)?, stream, message)?)
    }

    fn invalid(&self, correlation: u32, code: i32, message: &str, out: &mut Vec<u8>) -> Option<Task> {
        Metrics::add(&self.server.metrics().malformed, 1);
        self.refuse(out, correlation, code, message);
        None
    }

    /// A call that cannot be read is answered on both versions: nobody shall wait for it.
    fn invalid_call(&self, correlation: u32, out: &mut Vec<u8>) -> Option<Task> {
        Metrics::add(&self.server.metrics().malformed, 1);
        let error = crate::RpcError::new("the payload is not a call").code(codes::PARSE);
        self.catch_up(out);
        self.connection.answer(out, correlation, &Err(error), self.server.limits().max_payload);
        None
    }

    fn context(&self) -> Option<Context> {
        let identity = self.connection.identity()?;
        Some(Context::new(self.server.clone(), self.connection.clone(), identity))
    }

    fn call(&mut self, correlation: u32, method: &str, params: Incoming<'_>, out: &mut Vec<u8>) -> Option<Task> {
        let metrics = self.server.metrics();
        Metrics::add(&metrics.calls, 1);
        let max_payload = self.server.limits().max_payload;
        if !self.connection.takes_call(correlation, self.server.limits().max_pending) {
            Metrics::add(&metrics.call_errors, 1);
            let error = crate::RpcError::new("too many calls under way, or the id is in use").code(codes::LIMIT);
            self.catch_up(out);
            self.connection.answer(out, correlation, &Err(error), max_payload);
            return None;
        }
        let mut handler = AssertUnwindSafe(self.server.methods().call(method, self.context()?, params)).catch_unwind();
        // Most handlers are done at once: their answer joins this batch and costs no task.
        if let Polled::Ready(outcome) = handler.poll_unpin(&mut Poll::from_waker(Waker::noop())) {
            let outcome = outcome.unwrap_or_else(|_| Err(panicked()));
            if outcome.is_err() {
                Metrics::add(&metrics.call_errors, 1);
            }
            self.catch_up(out);
            self.connection.answer(out, correlation, &outcome, max_payload);
            return None;
        }
        let (abort, registration) = AbortHandle::new_pair();
        self.connection.begin_call(correlation, abort);
        let (server, connection) = (self.server.clone(), self.connection.clone());
        let task = async move {
            let outcome = handler.await.unwrap_or_else(|_| Err(panicked()));
            if outcome.is_err() {
                Metrics::add(&server.metrics().call_errors, 1);
            }
            connection.end_call(correlation, &outcome, max_payload);
        };
        Some(Abortable::new(task, registration).map(drop).boxed())
    }

    fn event(&mut self, correlation: u32, name: Cow<'_, str>, data: Incoming<'_>, out: &mut Vec<u8>) -> Option<Task> {
        let limits = self.server.limits();
        if name.is_empty() || name.len() > limits.max_event_name {
            return self.invalid(correlation, codes::INVALID_REQUEST, "an event's name is too long or empty", out);
        }
        let Some(busy) = self.connection.begin(limits.max_pending) else {
            self.refuse(out, correlation, codes::LIMIT, "too many handlers under way");
            return None;
        };
        match self.server.handlers().start(&name, self.context()?, data) {
            // Nobody listens: as with any event.
            None => None,
            Some(Err(error)) => {
                let body = error.body();
                self.refuse(out, correlation, body.code, &body.message);
                None
            }
            Some(Ok(handler)) => {
                let mut handler = AssertUnwindSafe(handler).catch_unwind().map(|outcome| {
                    if outcome.is_err() {
                        tracing::error!("an event handler panicked");
                    }
                });
                if handler.poll_unpin(&mut Poll::from_waker(Waker::noop())).is_ready() {
                    return None;
                }
                Some(handler.map(|()| drop(busy)).boxed())
            }
        }
    }

    fn subscribe(&mut self, correlation: u32, request: wire::Subscribe<'_>, out: &mut Vec<u8>) -> Option<Task> {
        let limits = self.server.limits();
        let id = StreamId { kind: request.kind, key: request.key.into_owned() };
        let refused = {
            let subscriptions = lock(&self.subscriptions);
            let taken = |subscription: &Subscription| match subscription {
                Subscription::Opening(open) => *open == id,
                Subscription::Abandoned => false,
                Subscription::Open(stream) => *stream.id() == id,
            };
            if correlation == 0 || subscriptions.contains_key(&correlation) || subscriptions.values().any(taken) {
                Some((codes::INVALID_REQUEST, "the id or the stream is subscribed already"))
            } else if subscriptions.len() >= limits.max_subscriptions {
                Some((codes::LIMIT, "too many subscriptions"))
            } else if id.key.is_empty() || id.key.len() > limits.max_key {
                Some((codes::INVALID_REQUEST, "the key is too long or empty"))
            } else if !is_served(id.kind) {
                Some((codes::NOT_FOUND, "this server has no such kind of stream"))
            } else if self.connection.identity().is_none_or(|identity| !self.server.hub().may_read(&identity, &id)) {
                Some((codes::FORBIDDEN, "not allowed to read this stream"))
            } else {
                None
            }
        };
        if let Some((code, message)) = refused {
            self.refuse(out, correlation, code, message);
            return None;
        }
        lock(&self.subscriptions).insert(correlation, Subscription::Opening(id.clone()));
        let (server, connection) = (self.server.clone(), self.connection.clone());
        let (subscriptions, since) = (self.subscriptions.clone(), request.since);
        let task = async move {
            let hub = server.hub();
            let opened = hub.open(id.kind, &id.key).await;
            {
                // Under the lock: an UNSUBSCRIBE or the end of the session comes before or after, never between.
                let mut subscriptions = lock(&subscriptions);
                match (subscriptions.remove(&correlation), &opened) {
                    (Some(Subscription::Opening(_)), Ok(stream)) => {
                        stream.subscribe(&connection, correlation, since, unix_millis());
                        subscriptions.insert(correlation, Subscription::Open(stream.clone()));
                    }
                    (Some(Subscription::Opening(_)), Err(error)) => {
                        tracing::error!(%error, key = id.key, "a stream could not be opened");
                        let why = "the stream could not be opened";
                        connection.refuse(correlation, codes::INTERNAL, why, Some(RETRY_AFTER));
                    }
                    _ => {}
                }
            }
            if let Ok(stream) = opened {
                hub.release(stream).await;
            }
        };
        at_once(task.boxed())
    }

    fn unsubscribe(&mut self, correlation: u32) -> Option<Task> {
        let mut subscriptions = lock(&self.subscriptions);
        let Subscription::Open(stream) = subscriptions.remove(&correlation)? else {
            subscriptions.insert(correlation, Subscription::Abandoned);
            return None;
        };
        drop(subscriptions);
        stream.unsubscribe(&self.connection);
        let server = self.server.clone();
        at_once(async move { server.hub().release(stream).await }.boxed())
    }

    fn authenticate(&mut self, correlation: u32, token: Option<String>, out: &mut Vec<u8>) -> Option<Task> {
        let mut request = match self.upgrade.take() {
            Some(upgrade) => *upgrade,
            None if self.connection.identity().is_some() => AuthRequest::renewal(),
            // One is being decided already.
            None => return None,
        };
        let Some(busy) = self.connection.begin(self.server.limits().max_pending) else {
            self.refuse(out, correlation, codes::LIMIT, "too many handlers under way");
            return None;
        };
        request.token = token;
        let authentication = self.server.clone().authenticate(self.connection.clone(), correlation, request);
        at_once(authentication.map(|()| drop(busy)).boxed())
    }
}

/// Whether this server has streams of a kind.
fn is_served(kind: StreamKind) -> bool {
    match kind {
        StreamKind::State | StreamKind::Event | StreamKind::Crdt | StreamKind::Presence => true,
        StreamKind::Doc => cfg!(feature = "docs"),
    }
}

/// Runs a task as far as it comes by itself; what is left is the host's. Tokio's budget, which would put off a lock that
/// is free, does not count here: tasks queue for their locks in the order of the messages that began them.
pub(crate) fn at_once(mut task: Task) -> Option<Task> {
    let mut poll = Poll::from_waker(Waker::noop());
    unconstrained(&mut task).poll_unpin(&mut poll).is_pending().then_some(task)
}
