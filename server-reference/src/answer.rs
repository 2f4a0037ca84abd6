//! Answers to the frames of a client, in one order with everything else that is sent to it.
//!
//! An answer is queued behind everything published before it. A refusal has `retryAfter` if a retry may succeed: after
//! a temporary limit, or a failure of the backend.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use datasole_core::{
    Payload, codes,
    frame::Opcode,
    wire::{ErrorBody, RpcResponse, join_binary, push_varuint},
};

use crate::{
    auth::Identity,
    connection::{Busy, Connection, Protocol},
    error::RpcError,
    message::{self, Outgoing, json},
};

/// `retryAfter` of temporary limits and backend failures; milliseconds.
pub(crate) const RETRY_AFTER: u64 = 1_000;

/// The reason why a frame had no effect, as sent to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) message: Cow<'static, str>,
    /// Milliseconds after which the client may retry, if a retry may succeed.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// A refusal for a temporary limit.
    pub(crate) fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(codes::LIMIT, message) }
    }

    /// The backend failed.
    pub(crate) fn failed(error: &impl Display) -> Self {
        tracing::error!(%error, "a request could not be served");
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(codes::INTERNAL, "the backend failed") }
    }
}

/// A frame that is answered by ACK or ERROR, while it is being served. The frame counts as under way until this is
/// dropped.
pub(crate) struct Request {
    pub(crate) connection: Arc<Connection>,
    pub(crate) identity: Arc<Identity>,
    /// 0 where no answer is wanted.
    pub(crate) correlation: u32,
    _busy: Busy,
}

impl Request {
    pub(crate) fn new(connection: Arc<Connection>, identity: Arc<Identity>, correlation: u32, busy: Busy) -> Self {
        Self { connection, identity, correlation, _busy: busy }
    }

    /// Acknowledges the frame: it became the stream's entry `seq`, or changed nothing (0). A frame that becomes an
    /// entry is acknowledged when the entry is published: see [`author`](Self::author).
    pub(crate) fn acknowledge(&self, seq: u64) {
        self.connection.acknowledge(self.correlation, seq);
    }

    /// Refuses the frame, which changed nothing.
    pub(crate) fn refuse(&self, refusal: &Refusal) {
        self.connection.refuse(self.correlation, refusal);
    }

    /// The author, who gets the acknowledgement as the entry is published; `None` where no answer is wanted.
    pub(crate) fn author(&self) -> Option<Author> {
        let (connection, correlation) = (self.connection.clone(), self.correlation);
        (correlation != 0).then_some(Author { connection, correlation })
    }
}

/// The client whose frame becomes an entry; the frame is acknowledged in the step that publishes the entry.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) connection: Arc<Connection>,
    pub(crate) correlation: u32,
}

/// Longest payload that clients of version 1 take; bytes. They drop what is longer, without a word.
pub(crate) const V1_PAYLOAD: usize = 1024 * 1024;

impl Connection {
    /// Queues an ACK, if the frame asked for an answer: it became the stream's entry `seq`, or changed nothing (0).
    /// Version 1 has none.
    pub(crate) fn acknowledge(&self, correlation: u32, seq: u64) {
        if self.protocol() == Protocol::V2 && correlation != 0 {
            let mut payload = Vec::with_capacity(10);
            push_varuint(&mut payload, seq);
            self.mailbox().push(message::shared(Opcode::Ack, correlation, &payload, self.compress_above()));
        }
    }

    /// Queues an ERROR, on version 2 only.
    pub(crate) fn refuse(&self, correlation: u32, refusal: &Refusal) {
        if self.protocol() == Protocol::V2 {
            let Refusal { code, message, retry_after } = refusal;
            let body = ErrorBody { message: (&**message).into(), code: Some(*code), retry_after: *retry_after };
            self.mailbox().push(message::shared(Opcode::Error, correlation, &json(&body), self.compress_above()));
        }
    }

    /// Queues a call's answer, unless it was cancelled meanwhile.
    pub(crate) fn end_call(&self, correlation: u32, outcome: &Result<Payload, RpcError>, max_payload: usize) {
        if self.ends_call(correlation) {
            let (opcode, payload) = self.response(correlation, outcome, max_payload);
            self.mailbox().push(message::shared(opcode, correlation, &payload, self.compress_above()));
        }
    }

    /// Writes a call's answer behind everything that is queued, so that everything published before it arrives before
    /// it. Only snapshots owed to a client that fell behind come later.
    pub(crate) fn answer(
        &self,
        out: &mut Outgoing,
        correlation: u32,
        outcome: &Result<Payload, RpcError>,
        max_payload: usize,
    ) {
        let (opcode, payload) = self.response(correlation, outcome, max_payload);
        self.write(out, opcode, correlation, &payload);
    }

    /// Writes a frame behind everything that is queued.
    pub(crate) fn write(&self, out: &mut Outgoing, opcode: Opcode, correlation: u32, payload: &[u8]) {
        if self.mailbox().is_filled() {
            self.mailbox().drain_queued(out);
        }
        out.write(opcode, correlation, payload, self.compress_above());
    }

    /// The frame of a call's answer. An answer over the frame limit becomes an error, so that the caller never hangs.
    fn response(&self, correlation: u32, outcome: &Result<Payload, RpcError>, max_payload: usize) -> (Opcode, Vec<u8>) {
        let max_payload = if self.protocol() == Protocol::V1 { max_payload.min(V1_PAYLOAD) } else { max_payload };
        let body = |result| RpcResponse { correlation_id: correlation, result, error: None };
        fn failed(correlation_id: u32, error: &RpcError) -> (Opcode, Vec<u8>) {
            let body = RpcResponse { correlation_id, result: None, error: Some(error.body()) };
            (Opcode::RpcResponse, json(&body))
        }
        let is_short = self.mailbox().is_short();
        let (opcode, payload) = match outcome {
            Ok(Payload::Empty) if is_short => (Opcode::Result, Vec::new()),
            Ok(Payload::Json(result)) if is_short => (Opcode::Result, result.get().into()),
            Ok(Payload::Empty) => (Opcode::RpcResponse, json(&body(None))),
            Ok(Payload::Json(result)) => (Opcode::RpcResponse, json(&body(Some(result)))),
            Ok(Payload::Binary(_)) if self.protocol() == Protocol::V1 => {
                let error = RpcError::new("the result is raw bytes, which protocol version 1 does not have");
                return failed(correlation, &error.code(codes::INTERNAL));
            }
            Ok(Payload::Binary(bytes)) => (Opcode::RpcResponseBinary, join_binary(&json(&body(None)), bytes)),
            Err(error) => failed(correlation, error),
        };
        if payload.len() > max_payload {
            return failed(correlation, &RpcError::too_large(payload.len(), max_payload));
        }
        (opcode, payload)
    }
}
