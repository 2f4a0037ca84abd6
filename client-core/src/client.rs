//! [`Client`]: routes inputs, orders outputs. No protocol detail lives here.

use crate::{
    config::Config,
    error::CommandError,
    event::{CallId, Input, Output, Payload, Request, Status, SubscriptionId},
    rng::Seed,
    stream::StreamId,
    time::{Millis, TimerKind},
};

/// One client. See the [crate documentation](crate) for the drive loop.
#[derive(Debug)]
pub struct Client {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "skeleton: the public signatures, to be filled in")]
impl Client {
    /// A client that does nothing until [`connect`](Self::connect).
    pub fn new(config: Config, seed: Seed) -> Self {
        todo!()
    }

    // --- commands: `Err` means misuse or a limit, and nothing was queued ---

    /// Starts connecting; no effect while connected or connecting. From `Waiting`, tries at once.
    pub fn connect(&mut self, now: Millis) {
        todo!()
    }

    /// Closes for good (until the next `connect`): every pending call ends with `Closed`, subscriptions stay.
    pub fn close(&mut self, now: Millis) {
        todo!()
    }

    /// Makes a call; its one `CallDone` follows. Ids of calls are the client's own, not the wire's.
    pub fn call(&mut self, now: Millis, request: Request) -> Result<CallId, CommandError> {
        todo!()
    }

    /// Gives a call up: `CallDone` with `Cancelled` follows, and on version 2 the server is told. `false` when the
    /// call had already ended.
    pub fn cancel(&mut self, now: Millis, call: CallId) -> bool {
        todo!()
    }

    /// Sends an event. With `queue`, waits in the outbox when there is no connection.
    pub fn emit(&mut self, now: Millis, event: &str, data: Payload, queue: bool) -> Result<(), CommandError> {
        todo!()
    }

    /// Follows a stream; renewed on every connection. Following the same stream twice yields the same id and counts:
    /// as many `unsubscribe`s end it.
    pub fn subscribe(&mut self, now: Millis, stream: StreamId) -> Result<SubscriptionId, CommandError> {
        todo!()
    }

    /// Stops following. `false` when there was no such subscription.
    pub fn unsubscribe(&mut self, now: Millis, subscription: SubscriptionId) -> bool {
        todo!()
    }

    /// Forgets where a stream is and asks for its snapshot again: for a host whose own mirror has lost step.
    pub fn resync(&mut self, now: Millis, stream: &StreamId) -> bool {
        todo!()
    }

    /// Replaces the token for later attempts; when connected with version 2, also sends it in an AUTH frame.
    pub fn refresh_token(&mut self, now: Millis, token: Option<String>) {
        todo!()
    }

    // --- the world: never fails ---

    /// Feeds one input.
    pub fn handle_input(&mut self, now: Millis, input: Input<'_>) {
        todo!()
    }

    // --- outputs: drain after every call above ---

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// When to feed [`Input::Timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        todo!()
    }

    /// Who armed that deadline.
    pub fn timeout_reason(&self) -> Option<TimerKind> {
        todo!()
    }

    // --- views ---

    /// The connection's status.
    pub fn status(&self) -> &Status {
        todo!()
    }

    /// The mirrored value of a state key: `None` when the mirror is off, nothing came yet, or the key does not exist.
    #[cfg(feature = "mirror")]
    pub fn state(&self, key: &str) -> Option<&serde_json::Value> {
        todo!()
    }
}
