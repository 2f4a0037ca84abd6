//! The server's half of the protocol: one [`Session`] per connection, fed with messages, without a socket.
//!
//! Ready answers go to `out`; later messages go through the connection's mailbox. Handlers that do not finish at once
//! come back as [`Task`]s for the host to run. A session never waits, and no message can make it fail.

mod followed;
mod node;
mod requests;

use std::{borrow::Cow, cell::OnceCell, sync::Arc};

use datasole_core::{
    StreamId, codes,
    frame::{self, Frame, FrameError, Opcode},
    wire,
};
use futures_util::FutureExt;
use serde_json::value::RawValue;

use self::followed::{Followed, Wanted};
pub(crate) use self::node::{Caller, Census, Data, Hook, Node};
use crate::{
    answer::{Refusal, Request},
    auth::AuthRequest,
    budget::weight,
    connection::{Connection, Protocol},
    message::{self, Outgoing},
    primitives::{presence::Joined, rpc::Incoming},
    task::{Task, at_once},
};

/// Opcodes from here up that are unknown are ignored: they belong to later versions, and to plugins.
const LATER: u8 = 0x30;

/// Bytes of answers to one BATCH after which they are written out.
const ROOM: usize = 64 * 1024;

/// Bytes of payloads, inflated, after which others have their turn.
pub(crate) const TURN: usize = 64 * 1024;

/// Bytes that a SUBSCRIBE counts for, beside its payload.
const SUBSCRIBE: usize = 2 * 1024;

pub(crate) struct Session {
    node: Arc<Node>,
    connection: Arc<Connection>,
    /// Shared with what waits for the backend; none before it is first needed.
    held: OnceCell<Arc<Held>>,
    /// The request whose token is to come in an AUTH frame.
    upgrade: Option<Box<AuthRequest>>,
    /// The number of AUTH frames so far.
    auths: u64,
    /// Bytes of payloads served since the last look.
    served: usize,
    /// The rest of a BATCH that is being served.
    batch: Option<Box<Batch>>,
}

/// Subscriptions and rooms of a connection.
#[derive(Default)]
struct Held {
    followed: Followed,
    joined: Joined,
}

impl Held {
    /// Asks the policies again, for an identity that has been renewed: ends subscriptions and leaves rooms that are not
    /// allowed any more, and lets the application know.
    async fn review(&self, node: &Arc<Node>, connection: &Arc<Connection>) {
        let Some(identity) = connection.identity() else { return };
        let mut streams = self.followed.review(&node.hub, connection, |id| node.gate.may_read(&identity, id));
        streams.extend(self.joined.review(&node.hub, connection, |id| node.gate.may_change(&identity, id)));
        for stream in streams {
            node.hub.release(stream).await;
        }
        if let Some(hook) = node.renewed(connection, &identity) {
            hook.await;
        }
    }
}

/// The messages of a BATCH that are not served yet.
struct Batch {
    payload: Vec<u8>,
    at: usize,
}

impl Session {
    /// With `upgrade`, the client is unauthenticated until its first AUTH frame has been accepted.
    pub(crate) fn new(node: Arc<Node>, connection: Arc<Connection>, upgrade: Option<Box<AuthRequest>>) -> Self {
        Self { node, connection, held: OnceCell::new(), upgrade, auths: 0, served: 0, batch: None }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    fn held(&self) -> &Arc<Held> {
        self.held.get_or_init(Arc::default)
    }

    /// True until the client has sent a token, or needs none.
    pub(crate) fn awaits_token(&self) -> bool {
        self.upgrade.is_some() && self.auths == 0
    }

    /// Takes one binary message.
    pub(crate) fn receive(&mut self, bytes: &[u8], out: &mut Outgoing, spawn: &mut dyn FnMut(Task)) {
        self.node.gate.message(bytes.len());
        let mut arrival = Arrival::default();
        self.message(bytes, out, spawn, &mut arrival);
        self.subscribe(arrival.wanted, spawn);
        self.go_on(out, spawn);
    }

    /// Bytes of payloads, inflated, served since this was last asked.
    pub(crate) fn take_served(&mut self) -> usize {
        std::mem::take(&mut self.served)
    }

    /// True while a BATCH has unserved messages: the session takes no other message before.
    pub(crate) fn is_busy(&self) -> bool {
        self.batch.is_some()
    }

    /// Serves more messages of a BATCH, until enough answers wait to be written.
    pub(crate) fn go_on(&mut self, out: &mut Outgoing, spawn: &mut dyn FnMut(Task)) {
        let Some(mut batch) = self.batch.take() else { return };
        let mut arrival = Arrival { batched: true, wanted: Vec::new() };
        let before = self.served;
        loop {
            let rest = batch.payload.get(batch.at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let item = wire::split_varuint(rest)
                .and_then(|(length, rest)| Some((rest.len(), rest.get(..usize::try_from(length).ok()?)?)));
            let Some((left, item)) = item else {
                self.invalid(0, codes::INVALID_REQUEST, "a message of a batch is cut off");
                break;
            };
            batch.at = batch.payload.len() - left + item.len();
            self.message(item, out, spawn, &mut arrival);
            if self.connection.mailbox().is_filled() {
                self.connection.mailbox().drain_queued(out);
            }
            if self.connection.mailbox().closing().is_some() {
                break;
            }
            if out.len() >= ROOM || self.served - before >= TURN {
                self.batch = Some(batch);
                break;
            }
        }
        self.subscribe(arrival.wanted, spawn);
    }

    /// Ends everything the session holds: the connection leaves every stream, room and group. The task lets the
    /// application know.
    pub(crate) async fn end(&mut self) -> Option<Task> {
        self.connection.end();
        let hub = &self.node.hub;
        let mut streams = Vec::new();
        if let Some(held) = self.held.get() {
            streams.extend(held.joined.end(hub, &self.connection));
            streams.extend(held.followed.end(hub, &self.connection));
        }
        hub.leave(&self.connection);
        for stream in streams {
            hub.release(stream).await;
        }
        self.node.parted(&self.connection)
    }

    fn is_v2(&self) -> bool {
        self.connection.protocol() == Protocol::V2
    }

    fn message(&mut self, bytes: &[u8], out: &mut Outgoing, spawn: &mut dyn FnMut(Task), arrival: &mut Arrival) {
        if bytes.first() == Some(&frame::ZLIB_MARK) {
            // The codec is this thread's: it is given back before a handler runs.
            let inflated = message::with_codec(|codec| {
                let frame = codec.decode(bytes, &self.node.codec_limits)?;
                Ok((frame.opcode, frame.correlation, frame.payload.to_vec()))
            });
            return match inflated {
                Ok((opcode, correlation, payload)) => {
                    self.frame(Frame { opcode, correlation, payload: &payload }, out, spawn, arrival);
                }
                Err(error) => self.malformed(bytes, error),
            };
        }
        match frame::decode(bytes, self.node.codec_limits.max_payload) {
            Ok(frame) => self.frame(frame, out, spawn, arrival),
            Err(error) => self.malformed(bytes, error),
        }
    }

    fn malformed(&mut self, bytes: &[u8], error: FrameError) {
        if self.connection.identity().is_none() {
            self.node.gate.malformed();
            return self.close_unauthenticated();
        }
        // A message that is compressed twice is malformed.
        let is_later = |opcode| opcode >= LATER && opcode != frame::ZLIB_MARK;
        if self.is_v2() && matches!(error, FrameError::UnknownOpcode { opcode } if is_later(opcode)) {
            return;
        }
        let correlation = match (bytes.first(), bytes.get(1..5).and_then(|bytes| bytes.first_chunk::<4>())) {
            (Some(&first), Some(id)) if first != frame::ZLIB_MARK => u32::from_be_bytes(*id),
            _ => 0,
        };
        self.invalid(correlation, codes::INVALID_REQUEST, error.to_string());
    }

    /// Closes an unauthenticated connection without a reply.
    fn close_unauthenticated(&self) {
        self.connection.mailbox().close(wire::CLOSE_UNAUTHORIZED, "AUTH must come first");
    }

    /// Counts a frame that is malformed or has no meaning here, and refuses it.
    fn invalid(&self, correlation: u32, code: i32, why: impl Into<Cow<'static, str>>) {
        self.node.gate.malformed();
        self.connection.refuse(correlation, &Refusal::new(code, why));
    }

    fn frame(&mut self, frame: Frame<'_>, out: &mut Outgoing, spawn: &mut dyn FnMut(Task), arrival: &mut Arrival) {
        let Frame { opcode, correlation, payload } = frame;
        // The messages of a batch count, each by itself.
        if opcode != Opcode::Batch {
            self.served += payload.len();
        }
        // A snapshot may have to be written out; those of a batch are, together.
        if opcode == Opcode::Subscribe && !arrival.batched {
            self.served += SUBSCRIBE;
        }
        if self.connection.identity().is_none() && opcode != Opcode::Auth {
            return self.close_unauthenticated();
        }
        let task = match opcode {
            Opcode::Ping => {
                self.connection.write(out, Opcode::Pong, correlation, b"null");
                None
            }
            Opcode::RpcRequest => match serde_json::from_slice::<wire::RpcRequest<'_>>(payload) {
                Ok(call) => {
                    let params = Incoming::Json(call.params.unwrap_or(RawValue::NULL));
                    self.call(correlation, &call.method, params, out)
                }
                Err(_) => self.invalid_call(correlation, out),
            },
            Opcode::Call if self.is_v2() => match short_call(payload) {
                Some((method, params)) => self.call(correlation, method, Incoming::Json(params), out),
                None => self.invalid_call(correlation, out),
            },
            Opcode::RpcRequestBinary if self.is_v2() => match split::<wire::RpcRequest<'_>>(payload) {
                Some((call, bytes)) => self.call(correlation, &call.method, Incoming::Binary(bytes), out),
                None => self.invalid_call(correlation, out),
            },
            Opcode::ClientEvent => match serde_json::from_slice::<wire::ClientEvent<'_>>(payload) {
                Ok(event) => {
                    let data = Incoming::Json(event.data.unwrap_or(RawValue::NULL));
                    self.event(correlation, event.event, data)
                }
                Err(_) => self.unreadable(correlation, "the payload is not an event"),
            },
            Opcode::ClientEventBinary if self.is_v2() => match split::<wire::ClientEvent<'_>>(payload) {
                Some((event, bytes)) => self.event(correlation, event.event, Incoming::Binary(bytes)),
                None => self.unreadable(correlation, "the payload is not an event"),
            },
            Opcode::Subscribe if self.is_v2() => match serde_json::from_slice::<wire::Subscribe<'_>>(payload) {
                Ok(request) => {
                    let stream = StreamId { kind: request.kind, key: request.key.into_owned() };
                    self.want(Wanted { correlation, stream, since: request.since }, arrival);
                    None
                }
                Err(_) => self.unreadable(correlation, "the payload is not a subscription"),
            },
            Opcode::CrdtOp | Opcode::Presence if correlation == 0 && self.is_v2() => {
                self.invalid(0, codes::INVALID_REQUEST, "this frame needs a correlation id");
                None
            }
            Opcode::CrdtOp => {
                self.serve(correlation, weight(payload), |session, request| session.crdt(request, payload))
            }
            Opcode::Presence if self.is_v2() => {
                self.serve(correlation, weight(payload), |session, request| session.presence(request, payload))
            }
            #[cfg(feature = "docs")]
            Opcode::Doc if self.is_v2() => self.doc(correlation, payload),
            Opcode::Unsubscribe if self.is_v2() => self.unsubscribe(correlation),
            Opcode::Cancel if self.is_v2() => {
                self.connection.cancel_call(correlation);
                None
            }
            Opcode::Auth if self.is_v2() => match serde_json::from_slice::<wire::Auth<'_>>(payload) {
                Ok(auth) => {
                    self.features(&auth.features);
                    self.authenticate(correlation, auth.token.map(Cow::into_owned), payload.len())
                }
                Err(_) if self.connection.identity().is_none() => return self.close_unauthenticated(),
                Err(_) => self.unreadable(correlation, "the payload is not a token"),
            },
            Opcode::Client if self.is_v2() => match serde_json::from_slice::<wire::ClientHello<'_>>(payload) {
                Ok(client) => {
                    self.features(&client.features);
                    None
                }
                Err(_) => self.unreadable(correlation, "the payload is not a list of features"),
            },
            Opcode::Batch if self.is_v2() && !arrival.batched => {
                self.batch = Some(Box::new(Batch { payload: payload.to_vec(), at: 0 }));
                None
            }
            _ => {
                self.invalid(correlation, codes::INVALID_REQUEST, "this frame is not for servers");
                None
            }
        };
        if let Some(task) = task {
            spawn(task);
        }
    }

    fn unreadable(&self, correlation: u32, why: &'static str) -> Option<Task> {
        self.invalid(correlation, codes::PARSE, why);
        None
    }

    /// Takes note of the client's features.
    fn features(&self, features: &[Cow<'_, str>]) {
        let has = |name| features.iter().any(|feature| feature == name);
        if has(wire::BATCH) {
            self.connection.mailbox().pack();
        }
        // Who subscribed before was not told the numbers of streams.
        if has(wire::SHORT) && self.held.get().is_none_or(|held| held.followed.is_empty()) {
            self.connection.mailbox().shorten();
        }
    }

    /// Serves a frame that is answered by ACK or ERROR.
    fn serve(
        &self,
        correlation: u32,
        bytes: usize,
        serve: impl FnOnce(&Self, Request) -> Result<Option<Task>, (Request, Refusal)>,
    ) -> Option<Task> {
        let request = match self.admit(correlation, bytes) {
            Ok(request) => request,
            Err(refusal) => {
                self.connection.refuse(correlation, &refusal);
                return None;
            }
        };
        serve(self, request).unwrap_or_else(|(request, refusal)| {
            if refusal.code == codes::PARSE {
                self.node.gate.malformed();
            }
            request.refuse(&refusal);
            None
        })
    }

    fn admit(&self, correlation: u32, bytes: usize) -> Result<Request, Refusal> {
        let identity = self.connection.identity();
        let identity = identity.ok_or_else(|| Refusal::new(codes::FORBIDDEN, "not authenticated"))?;
        self.node.gate.request(&self.connection, identity, correlation, bytes)
    }

    /// Admits a subscription, or refuses it.
    fn want(&self, subscription: Wanted, arrival: &mut Arrival) {
        let outcome = self.held().followed.want(&subscription, |open| {
            if self.connection.has_call(subscription.correlation) {
                return Err(Refusal::new(codes::INVALID_REQUEST, "a call has this id"));
            }
            if !self.node.hub.serves(subscription.stream.kind) {
                return Err(Refusal::new(codes::NOT_FOUND, "this server has no such kind of stream"));
            }
            let identity = self.connection.identity();
            let forbidden = || Refusal::new(codes::FORBIDDEN, "not allowed to read this stream");
            self.node.gate.subscription(&*identity.ok_or_else(forbidden)?, &subscription.stream, open)
        });
        match outcome {
            Ok(()) => arrival.wanted.push(subscription),
            Err(refusal) => self.connection.refuse(subscription.correlation, &refusal),
        }
    }

    /// Opens the streams that have been admitted.
    fn subscribe(&self, wanted: Vec<Wanted>, spawn: &mut dyn FnMut(Task)) {
        if !wanted.is_empty() {
            let (node, connection, held) = (self.node.clone(), self.connection.clone(), self.held().clone());
            let opening = async move { held.followed.open(&node.hub, &connection, &wanted).await };
            at_once(opening.boxed()).into_iter().for_each(spawn);
        }
    }

    fn unsubscribe(&mut self, correlation: u32) -> Option<Task> {
        let stream = self.held().followed.leave(&self.node.hub, &self.connection, correlation)?;
        let node = self.node.clone();
        at_once(async move { node.hub.release(stream).await }.boxed())
    }

    fn authenticate(&mut self, correlation: u32, token: Option<String>, bytes: usize) -> Option<Task> {
        let is_known = self.connection.identity().is_some();
        if correlation == 0 {
            if is_known {
                self.invalid(0, codes::INVALID_REQUEST, "AUTH needs a correlation id");
            } else {
                self.close_unauthenticated();
            }
            return None;
        }
        if is_known {
            self.upgrade = None;
        }
        let mut request = self.upgrade.as_deref().cloned().unwrap_or_else(AuthRequest::renewal);
        let busy = match self.node.gate.handler(&self.connection, bytes) {
            Ok(busy) => busy,
            Err(refusal) => {
                self.connection.refuse(correlation, &refusal);
                return None;
            }
        };
        request.token = token;
        self.auths += 1;
        if !is_known {
            self.node.hub.heed(&self.connection);
        }
        let (node, connection, held, order) =
            (self.node.clone(), self.connection.clone(), self.held().clone(), self.auths);
        let authentication = async move {
            if node.clone().authenticate(connection.clone(), (order, correlation), request).await {
                held.review(&node, &connection).await;
            }
            drop(busy);
        };
        at_once(authentication.boxed())
    }
}

/// State of serving one message, or one portion of a BATCH.
#[derive(Default)]
struct Arrival {
    /// True for a message of a BATCH.
    batched: bool,
    /// The subscriptions of all messages of a BATCH, to be opened and answered together.
    wanted: Vec<Wanted>,
}

/// The method and the parameters of a CALL.
fn short_call(payload: &[u8]) -> Option<(&str, &RawValue)> {
    let (method, params) = wire::split_item(payload)?;
    Some((std::str::from_utf8(method).ok()?, serde_json::from_slice(params).ok()?))
}

/// The two parts of a payload with bytes.
fn split<'a, T: serde::Deserialize<'a>>(payload: &'a [u8]) -> Option<(T, &'a [u8])> {
    let (head, bytes) = wire::split_binary(payload)?;
    Some((serde_json::from_slice(head).ok()?, bytes))
}
