//! What the server knows of one client: identity, mailbox, rooms, pending handlers, the application's own data.
//!
//! No socket and no protocol state: those belong to the transport and the session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
};

use datasole_core::{
    Payload, codes,
    frame::Opcode,
    wire::{ErrorBody, RpcResponse, push_varuint},
};
use futures_util::future::AbortHandle;
use http::Extensions;
use tokio::time::Instant;

use crate::{
    auth::Identity,
    error::RpcError,
    hub::{Stream, entry},
    mailbox::{Mailbox, lock},
    message,
};

/// Which version a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The existing wire.
    V1,
    /// With subscriptions, positions and resume.
    V2,
}

#[derive(Debug)]
pub(crate) struct Connection {
    serial: u64,
    epoch: u64,
    protocol: Protocol,
    mailbox: Mailbox,
    compress_above: usize,
    identity: Mutex<Option<Admitted>>,
    /// The application's own data; made when first used.
    store: OnceLock<Mutex<Extensions>>,
    pub(crate) rooms: Mutex<Vec<Arc<str>>>,
    /// The presence rooms it is in.
    pub(crate) presence: Mutex<Vec<Arc<Stream>>>,
    calls: Mutex<Calls>,
    /// CRDT keys that its operations have brought into being.
    pub(crate) crdt_keys: Arc<AtomicUsize>,
    /// Documents that its updates have brought into being.
    #[cfg(feature = "docs")]
    pub(crate) docs: Arc<AtomicUsize>,
    /// Held while a stream is opened and its writer waited for, so that what the client sends stays in order.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Admitted {
    identity: Arc<Identity>,
    expires: Option<Instant>,
}

/// Handlers under way: calls by their correlation id, others by count.
#[derive(Debug, Default)]
struct Calls {
    running: HashMap<u32, AbortHandle>,
    others: usize,
    ended: bool,
}

impl Calls {
    fn have_room(&self, limit: usize) -> bool {
        !self.ended && self.running.len() + self.others < limit
    }
}

/// A handler under way that is no call; over when dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.0.calls).others -= 1;
    }
}

impl Connection {
    pub(crate) fn new(serial: u64, epoch: u64, protocol: Protocol, max_queue: usize, compress_above: usize) -> Self {
        Self {
            serial,
            epoch,
            protocol,
            mailbox: Mailbox::new(max_queue, protocol),
            compress_above,
            identity: Mutex::default(),
            store: OnceLock::new(),
            rooms: Mutex::default(),
            presence: Mutex::default(),
            calls: Mutex::default(),
            crdt_keys: Arc::default(),
            #[cfg(feature = "docs")]
            docs: Arc::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Unique across restarts of the server.
    pub(crate) fn id(&self) -> String {
        format!("{:x}-{:x}", self.epoch, self.serial)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// `None` until authenticated.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).as_ref().map(|admitted| admitted.identity.clone())
    }

    pub(crate) fn admit(&self, mut identity: Identity) -> Arc<Identity> {
        if identity.user_id.is_empty() {
            identity.user_id = format!("anonymous-{}", self.id());
        }
        let expires = identity.expires_in.and_then(|time| Instant::now().checked_add(time));
        let identity = Arc::new(identity);
        *lock(&self.identity) = Some(Admitted { identity: identity.clone(), expires });
        identity
    }

    /// Until when the identity holds; `None` for ever.
    pub(crate) fn expires(&self) -> Option<Instant> {
        lock(&self.identity).as_ref()?.expires
    }

    pub(crate) fn store(&self) -> &Mutex<Extensions> {
        self.store.get_or_init(Mutex::default)
    }

    /// Whether a call may begin: `false` when its id is in use, or too many handlers are under way.
    pub(crate) fn takes_call(&self, correlation: u32, limit: usize) -> bool {
        let calls = lock(&self.calls);
        calls.have_room(limit) && !calls.running.contains_key(&correlation)
    }

    /// Takes note of a call whose handler goes on.
    pub(crate) fn begin_call(&self, correlation: u32, abort: AbortHandle) {
        lock(&self.calls).running.insert(correlation, abort);
    }

    /// Queues a call's answer, unless it was cancelled meanwhile.
    pub(crate) fn end_call(&self, correlation: u32, outcome: &Result<Payload, RpcError>, max_payload: usize) {
        if lock(&self.calls).running.remove(&correlation).is_some() {
            let mut out = Vec::new();
            self.answer(&mut out, correlation, outcome, max_payload);
            self.mailbox.push(out.into());
        }
    }

    pub(crate) fn cancel_call(&self, correlation: u32) {
        if let Some(abort) = lock(&self.calls).running.remove(&correlation) {
            abort.abort();
        }
    }

    /// Takes note of another handler, if there is room.
    pub(crate) fn begin(self: &Arc<Self>, limit: usize) -> Option<Busy> {
        let mut calls = lock(&self.calls);
        calls.have_room(limit).then(|| {
            calls.others += 1;
            Busy(self.clone())
        })
    }

    /// Drops the handlers of calls, for whose answers nobody waits any more, and what is queued. Those of events go on.
    pub(crate) fn end(&self) {
        self.mailbox.end();
        let mut calls = lock(&self.calls);
        calls.ended = true;
        for (_, abort) in calls.running.drain() {
            abort.abort();
        }
    }

    /// Queues an ACK, if the frame asked for an answer: what it wanted is the stream's entry `seq`, or changed nothing
    /// (0). Version 1 has none.
    pub(crate) fn acknowledge(&self, correlation: u32, seq: u64) {
        if self.protocol == Protocol::V2 && correlation != 0 {
            let mut payload = Vec::with_capacity(10);
            push_varuint(&mut payload, seq);
            self.mailbox.push(message::shared(Opcode::Ack, correlation, &payload, self.compress_above));
        }
    }

    /// Queues an ERROR, which version 1 has not. `retry_after` is in milliseconds.
    pub(crate) fn refuse(&self, correlation: u32, code: i32, message: &str, retry_after: Option<u64>) {
        if self.protocol == Protocol::V2 {
            let body = ErrorBody { message: message.into(), code: Some(code), retry_after };
            self.mailbox.push(message::shared(Opcode::Error, correlation, &entry::json(&body), self.compress_above));
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.calls).ended
    }

    /// Writes a call's answer. One that is over the frame limit becomes an error, so that the caller never hangs.
    pub(crate) fn answer(
        &self,
        out: &mut Vec<u8>,
        correlation: u32,
        outcome: &Result<Payload, RpcError>,
        max_payload: usize,
    ) {
        if let (Ok(Payload::Binary(_)), Protocol::V1) = (outcome, self.protocol) {
            let error = RpcError::new("the result is bytes, which protocol version 1 has not").code(codes::INTERNAL);
            return self.answer(out, correlation, &Err(error), max_payload);
        }
        let body = |result, error| RpcResponse { correlation_id: correlation, result, error };
        let (opcode, payload) = match outcome {
            Ok(Payload::Empty) => (Opcode::RpcResponse, entry::json(&body(None, None))),
            Ok(Payload::Json(result)) => (Opcode::RpcResponse, entry::json(&body(Some(result), None))),
            Ok(Payload::Binary(bytes)) => {
                let head = entry::json(&body(None, None));
                (Opcode::RpcResponseBinary, datasole_core::wire::join_binary(&head, bytes))
            }
            Err(error) => (Opcode::RpcResponse, entry::json(&body(None, Some(error.body())))),
        };
        if payload.len() > max_payload {
            let error = RpcError::too_large(payload.len(), max_payload);
            let payload = entry::json(&body(None, Some(error.body())));
            return message::write(out, Opcode::RpcResponse, correlation, &payload, self.compress_above);
        }
        message::write(out, opcode, correlation, &payload, self.compress_above);
    }
}
