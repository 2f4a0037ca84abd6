//! The gate that every frame and subscription of a client passes: policies, limits, counters.

use std::sync::Arc;

use datasole_core::{StreamId, codes};

use crate::{
    access::Access,
    answer::{Refusal, Request},
    auth::Identity,
    connection::{Busy, Connection},
    error::RpcError,
    limits::Limits,
    message::OBJECT,
    metrics::Metrics,
};

pub(crate) struct Gate {
    access: Arc<Access>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub(crate) fn new(access: Arc<Access>, limits: Arc<Limits>, metrics: Arc<Metrics>) -> Self {
        Self { access, limits, metrics }
    }

    /// Counts a message of so many bytes.
    pub(crate) fn message(&self, bytes: usize) {
        Metrics::add(&self.metrics.messages_in, 1);
        Metrics::add(&self.metrics.bytes_in, bytes as u64);
    }

    /// Counts a malformed or meaningless frame.
    pub(crate) fn malformed(&self) {
        Metrics::add(&self.metrics.malformed, 1);
    }

    /// Counts a call that holds so many bytes, and admits it where there is room.
    pub(crate) fn call(
        &self,
        connection: &Connection,
        correlation: u32,
        method: &str,
        bytes: usize,
    ) -> Result<(), RpcError> {
        Metrics::add(&self.metrics.calls, 1);
        // Neither looked for nor repeated.
        let (length, limit) = (method.len(), self.limits.max_event_name);
        if length > limit {
            let error = RpcError::new(format!("Method not found: the name has {length} bytes, the limit is {limit}"));
            return Err(error.code(codes::METHOD_NOT_FOUND));
        }
        if connection.takes_call(correlation, self.limits.max_pending, bytes) {
            return Ok(());
        }
        Err(RpcError::new("too many calls or bytes under way, or the id is in use").code(codes::LIMIT))
    }

    /// Counts a call that ends in an error.
    pub(crate) fn call_failed(&self) {
        Metrics::add(&self.metrics.call_errors, 1);
    }

    /// Admits a frame that holds so many bytes and whose handler may take a while.
    pub(crate) fn handler(&self, connection: &Arc<Connection>, bytes: usize) -> Result<Busy, Refusal> {
        let busy = connection.begin(self.limits.max_pending, bytes);
        busy.ok_or_else(|| Refusal::busy("too many requests or bytes under way"))
    }

    /// Admits an event with so many bytes of data, which hold `bytes`. What is admitted can be sent on under its name.
    pub(crate) fn event(
        &self,
        connection: &Arc<Connection>,
        name: &str,
        data: usize,
        bytes: usize,
    ) -> Result<Busy, Refusal> {
        if name.is_empty() || name.len() > self.limits.max_event_name {
            self.malformed();
            return Err(Refusal::new(codes::INVALID_REQUEST, "an event's name is too long or empty"));
        }
        if data.saturating_add(OBJECT + 6 * name.len()) > self.limits.max_payload {
            return Err(Refusal::new(codes::TOO_LARGE, "an event must fit in a frame with its time and position"));
        }
        self.handler(connection, bytes)
    }

    /// Admits a frame that is answered by ACK or ERROR.
    pub(crate) fn request(
        &self,
        connection: &Arc<Connection>,
        identity: Arc<Identity>,
        correlation: u32,
        bytes: usize,
    ) -> Result<Request, Refusal> {
        let busy = self.handler(connection, bytes)?;
        Ok(Request::new(connection.clone(), identity, correlation, busy))
    }

    /// Admits a subscription to a stream, beside `open` others.
    pub(crate) fn subscription(&self, identity: &Identity, stream: &StreamId, open: usize) -> Result<(), Refusal> {
        if open >= self.limits.max_subscriptions {
            return Err(Refusal::new(codes::LIMIT, "too many subscriptions"));
        }
        if stream.key.is_empty() || stream.key.len() > self.limits.max_key {
            return Err(Refusal::new(codes::INVALID_REQUEST, "the key is too long or empty"));
        }
        if !self.may_read(identity, stream) {
            return Err(Refusal::new(codes::FORBIDDEN, "not allowed to read this stream"));
        }
        Ok(())
    }

    /// Admits a change of a stream.
    pub(crate) fn change(&self, identity: &Identity, stream: &StreamId) -> Result<(), Refusal> {
        if self.may_change(identity, stream) {
            return Ok(());
        }
        Err(Refusal::new(codes::FORBIDDEN, format!("not allowed to change this {}", stream.kind.name())))
    }

    /// True if a user may follow a stream.
    pub(crate) fn may_read(&self, identity: &Identity, stream: &StreamId) -> bool {
        self.access.may_read(identity, stream)
    }

    /// True if a user may change a stream.
    pub(crate) fn may_change(&self, identity: &Identity, stream: &StreamId) -> bool {
        self.access.may_write(identity, stream)
    }
}
