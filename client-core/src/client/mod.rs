//! [`Client`]: commands and inputs in, outputs out.
//!
//! The parts keep the books ([`session`](crate::session), [`rpc`](crate::rpc),
//! [`subscriptions`](crate::subscriptions), [`queue`](crate::queue)); here they are joined: `lifecycle` moves between
//! idle and open, `frames` reads what the server sends.

mod frames;
mod lifecycle;
mod renewal;
mod syncing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::{
    config::Config,
    error::{CallError, CommandError},
    event::{CallId, DisconnectReason, Event, Input, Output, Payload, Request, Status, SubscriptionId},
    frame::{Codec, Opcode},
    queue::{Item, Queue},
    reconnect::Backoff,
    rng::{Rng, Seed},
    rpc::{self, Calls, Place},
    session::{Cuts, Phase, Version},
    stream::{Position, StreamId, StreamKind},
    subscriptions::Subscriptions,
    sync::Streams,
    time::{Clock, Millis, TimerKind},
    wire::{join_binary, push_varuint},
    write,
};

/// One client. See the [crate documentation](crate) for the drive loop.
#[derive(Debug)]
pub struct Client {
    config: Config,
    rng: Rng,
    clock: Clock,
    status: Status,
    phase: Phase,
    last_socket: u64,
    /// Which of the endpoints is used, counted on without end.
    endpoint: usize,
    backoff: Backoff,
    cuts: Cuts,
    /// A connection was open since `connect`. Until then commands wait for it.
    was_open: bool,
    /// `close` was called, and no `connect` since.
    closed: bool,
    offline: bool,
    token: Option<String>,
    /// `NeedToken` has not been answered.
    token_asked: bool,
    calls: Calls,
    queue: Queue,
    subscriptions: Subscriptions,
    streams: Streams,
    #[cfg(feature = "mirror")]
    mirror: crate::mirror::Mirror,
    /// Several codecs, because a decoded frame borrows from the one that inflated it while answers are encoded.
    decoder: Codec,
    encoder: Codec,
    /// For what is inside a batch, which itself may have been inflated.
    unpacker: Codec,
    outputs: VecDeque<Output>,
}

impl Client {
    /// A client that does nothing until [`connect`](Self::connect).
    pub fn new(config: Config, seed: Seed) -> Self {
        let mut rng = Rng::new(seed);
        let others = config.url.matches(' ').count();
        Self {
            endpoint: if others == 0 { 0 } else { rng.up_to(others as u64) as usize },
            rng,
            clock: Clock::default(),
            status: Status::Disconnected(DisconnectReason::Idle),
            phase: Phase::Idle,
            last_socket: 0,
            backoff: Backoff::default(),
            cuts: Cuts::default(),
            was_open: false,
            closed: false,
            offline: false,
            token: config.token.clone(),
            token_asked: false,
            calls: Calls::default(),
            queue: Queue::default(),
            subscriptions: Subscriptions::default(),
            streams: Streams::default(),
            #[cfg(feature = "mirror")]
            mirror: crate::mirror::Mirror::default(),
            decoder: Codec::default(),
            encoder: Codec::default(),
            unpacker: Codec::default(),
            outputs: VecDeque::new(),
            config,
        }
    }

    // --- commands: `Err` means misuse or a limit, and nothing was queued ---

    /// Starts connecting, and keeps trying as [`Config::reconnect`] says; no effect while connected or connecting. From
    /// `Waiting`, tries at once. Until the first connection is open, calls and events wait for it.
    ///
    /// It tries even when the host has said that there is no network: the user may know better.
    pub fn connect(&mut self, now: Millis) {
        self.clock.advance(now);
        match self.phase {
            Phase::Idle => {
                self.backoff = Backoff::default();
                self.was_open = false;
                self.closed = false;
                self.attempt();
            }
            Phase::Waiting { .. } => self.attempt(),
            Phase::Token { .. } | Phase::Opening { .. } | Phase::Greeting { .. } | Phase::Open(_) => {}
        }
    }

    /// Closes for good (until the next `connect`): every pending call ends with `Closed`, subscriptions stay.
    pub fn close(&mut self, now: Millis) {
        self.clock.advance(now);
        self.closed = true;
        self.hang_up(1000, "closed by the user");
        self.phase = Phase::Idle;
        self.subscriptions.detach();
        self.end_lingering(Millis(u64::MAX));
        self.stop(DisconnectReason::ClosedByUser);
        self.streams.lost(self.clock.now());
        self.drive();
    }

    /// Makes a call; its one `CallDone` follows. Ids of calls are the client's own, not the wire's.
    ///
    /// # Errors
    ///
    /// `Closed`, `NotConnected` (without [`Request::queue`], unless the first connection is being made), `BadName`, `TooLarge`, `Limit`, and `NeedsV2` for raw
    /// bytes.
    pub fn call(&mut self, now: Millis, request: Request) -> Result<CallId, CommandError> {
        self.clock.advance(now);
        let Request { method, params, timeout, queue } = request;
        self.check_name(&method)?;
        self.check_pending()?;
        let timeout = timeout.unwrap_or(self.config.call_timeout);
        if self.phase.open().is_some() {
            let correlation = self.send_call(&method, &params)?;
            let call = self.calls.next_id();
            self.calls.insert(call, method, self.clock.now(), timeout, Place::Sent(correlation));
            Ok(call)
        } else {
            self.check_queue(queue)?;
            // The longest correlation id, so that what is accepted here still fits when it is sent.
            self.check_size(rpc::request(&method, &params, u32::MAX, false).1.len())?;
            let call = self.calls.next_id();
            let number = self.queue.push(Item::Call { call, params }, &self.config.limits)?;
            self.calls.insert(call, method, self.clock.now(), timeout, Place::Queued(number));
            Ok(call)
        }
    }

    /// Gives a call up: `CallDone` with `Cancelled` follows, and on version 2 the server is told. `false` when the
    /// call had already ended.
    pub fn cancel(&mut self, now: Millis, call: CallId) -> bool {
        self.clock.advance(now);
        let Some(pending) = self.calls.take(call) else { return false };
        self.abandon(pending.place);
        self.done(call, Err(CallError::Cancelled));
        true
    }

    /// Sends an event. With `queue`, or while the first connection is being made, waits in the queue when there is no
    /// connection.
    ///
    /// A queued event that the connection cannot carry when it comes (raw bytes on version 1, larger than the server
    /// takes) is dropped.
    ///
    /// # Errors
    ///
    /// As of [`call`](Self::call).
    pub fn emit(&mut self, now: Millis, event: &str, data: Payload, queue: bool) -> Result<(), CommandError> {
        self.clock.advance(now);
        self.check_name(event)?;
        if self.phase.open().is_some() {
            return self.send_event(event, &data);
        }
        self.check_queue(queue)?;
        self.check_size(event_frame(event, &data).1.len())?;
        self.queue.push(Item::Event { event: event.into(), data }, &self.config.limits).map(drop)
    }

    /// Follows a state or a topic; renewed on every connection. Following the same stream twice yields the same id and counts:
    /// as many `unsubscribe`s end it. A subscription that lingers goes on as if it had never been left: no
    /// [`Event::Subscribed`] and no snapshot follow.
    ///
    /// # Errors
    ///
    /// `BadName`, `Limit`, and `Unfit` for kinds to be [opened](Self::open). A connection is not needed.
    pub fn subscribe(&mut self, now: Millis, stream: StreamId) -> Result<SubscriptionId, CommandError> {
        self.subscribe_since(now, stream, None)
    }

    /// As [`subscribe`](Self::subscribe), for a host that has the value of a position already, such as one that a server has
    /// rendered: the entries after `since` follow or, where the server has them no more, a snapshot. A stream that is followed goes
    /// on from where it is.
    ///
    /// # Errors
    ///
    /// As of [`subscribe`](Self::subscribe).
    pub fn subscribe_since(
        &mut self,
        now: Millis,
        stream: StreamId,
        since: Option<Position>,
    ) -> Result<SubscriptionId, CommandError> {
        self.clock.advance(now);
        if !matches!(stream.kind, StreamKind::State | StreamKind::Event) {
            return Err(CommandError::Unfit { what: stream.kind.name() });
        }
        self.check_name(&stream.key)?;
        let (id, new) = self.add(stream)?;
        if new {
            self.subscriptions.place(id, since);
            self.renew(id);
        }
        Ok(id)
    }

    /// Stops following; `false` when nobody followed. After the last follower of a state or topic the subscription lingers
    /// for [`Config::linger`] or `linger` milliseconds, in case somebody follows it again; then [`Event::Left`] tells that
    /// it has ended. It ends earlier when another one needs its place.
    pub fn unsubscribe(&mut self, now: Millis, subscription: SubscriptionId, linger: Option<u64>) -> bool {
        self.clock.advance(now);
        let now = self.clock.now();
        let followed = self.subscriptions.release(subscription, now + linger.unwrap_or(self.config.linger));
        self.end_lingering(now);
        followed
    }

    /// Forgets where a stream is and asks for its snapshot again: for a host whose own mirror has lost step. `applied`: a
    /// patch was applied since the last report. Reports in a row without one are answered at once three times, then after
    /// a growing wait; the seventh ends the connection.
    ///
    /// `false` when nobody follows it, or the server speaks version 1 and cannot be asked.
    pub fn resync(&mut self, now: Millis, stream: &StreamId, applied: bool) -> bool {
        self.clock.advance(now);
        let Some(id) = self.subscriptions.find(stream.kind, &stream.key) else { return false };
        match self.phase.open().map(|link| link.version) {
            Some(Version::V1) => return false,
            Some(Version::V2) => {
                if let Err(why) = self.misfit(id, applied) {
                    self.violation(why);
                    self.drive();
                }
            }
            None => self.subscriptions.place(id, None),
        }
        true
    }

    /// Replaces the token for later attempts; when connected with version 2, also sends it in an AUTH frame.
    pub fn refresh_token(&mut self, now: Millis, token: Option<String>) {
        self.clock.advance(now);
        self.token = token;
        if self.phase.open().is_some_and(|link| link.version == Version::V2) {
            self.send_auth(false);
        }
    }

    // --- the world: never fails ---

    /// Feeds one input. Deadlines are served by [`Input::Timeout`] only.
    pub fn handle_input(&mut self, now: Millis, input: Input<'_>) {
        self.clock.advance(now);
        match input {
            Input::SocketOpened { socket, protocol } => self.on_opened(socket, protocol),
            Input::Message { socket, bytes } => self.on_message(socket, bytes),
            Input::SocketClosed { socket, close } => self.on_closed(socket, close),
            Input::Hint(hint) => self.on_hint(hint),
            Input::Token(answer) => self.on_token(answer),
            Input::Timeout => self.run_timers(),
        }
        self.drive();
    }

    // --- outputs: drain after every call above ---

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to feed [`Input::Timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.next_deadline().map(|(deadline, _)| self.clock.to_host(deadline))
    }

    /// Who armed that deadline.
    pub fn timeout_reason(&self) -> Option<TimerKind> {
        self.next_deadline().map(|(_, kind)| kind)
    }

    // --- views ---

    /// The connection's status.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The mirrored value of a state key: `None` when the mirror is off, nothing came yet, or the key does not exist.
    #[cfg(feature = "mirror")]
    pub fn state(&self, key: &str) -> Option<&crate::tree::Tree> {
        self.mirror.get(key)
    }

    // --- what commands share ---

    fn next_deadline(&self) -> Option<(Millis, TimerKind)> {
        let call = self.calls.deadline().map(|deadline| (deadline, TimerKind::Call));
        // Ties go to the call, which `run_timers` also serves first.
        let own = [self.streams.deadline(), self.subscriptions.rest_ends(), self.subscriptions.deadline()];
        let own = own.into_iter().flatten().min().map(|deadline| (deadline, TimerKind::Stream));
        [call, own, self.phase.deadline()].into_iter().flatten().min_by_key(|&(deadline, _)| deadline)
    }

    fn check_name(&self, name: &str) -> Result<(), CommandError> {
        let limit = self.config.limits.max_name;
        if name.is_empty() || name.len() > limit {
            return Err(CommandError::BadName { bytes: name.len(), limit });
        }
        Ok(())
    }

    fn check_pending(&self) -> Result<(), CommandError> {
        let limit = self.config.limits.max_pending_calls;
        if self.calls.len() >= limit { Err(CommandError::Limit { what: "pending calls", limit }) } else { Ok(()) }
    }

    fn check_queue(&self, queue: bool) -> Result<(), CommandError> {
        let waits = queue || !self.was_open && !matches!(self.phase, Phase::Idle);
        match (self.closed, waits) {
            (true, _) => Err(CommandError::Closed),
            (false, false) => Err(CommandError::NotConnected),
            (false, true) => Ok(()),
        }
    }

    /// Against our limit or, connected, what the server takes if that is less.
    fn check_size(&self, bytes: usize) -> Result<(), CommandError> {
        let limit = self.phase.open().map_or(self.config.limits.max_payload, |link| link.max_payload);
        if bytes > limit { Err(CommandError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    fn check_binary(&self, payload: &Payload, what: &'static str) -> Result<(), CommandError> {
        let v1 = self.phase.open().is_some_and(|link| link.version == Version::V1);
        if v1 && matches!(payload, Payload::Binary(_)) { Err(CommandError::NeedsV2 { what }) } else { Ok(()) }
    }

    /// Sends a request on the open connection and returns its correlation id.
    fn send_call(&mut self, method: &str, params: &Payload) -> Result<u32, CommandError> {
        self.check_binary(params, "a call with raw bytes")?;
        let correlation = self.next_correlation();
        let short = self.phase.open().is_some_and(|link| link.short);
        let (opcode, payload) = rpc::request(method, params, correlation, short);
        self.check_size(payload.len())?;
        self.send(opcode, correlation, &payload);
        Ok(correlation)
    }

    /// Sends `payload` to a stream. The correlation id is 0 when there will be no answer; beside it, the subscription of
    /// the document that the stream is.
    fn transmit(
        &mut self,
        stream: &StreamId,
        payload: &Payload,
        answer: bool,
    ) -> Result<(u32, Option<SubscriptionId>), CommandError> {
        let StreamId { kind, key } = stream;
        self.check_name(key)?;
        let v1 = self.phase.open().ok_or(CommandError::NotConnected)?.version == Version::V1;
        if v1 && *kind != StreamKind::Crdt {
            return Err(CommandError::NeedsV2 { what: kind.name() });
        }
        let mut document = None;
        let (opcode, body) = match (kind, payload) {
            (StreamKind::Crdt, Payload::Json(op)) => (Opcode::CrdtOp, write::keyed(key, "op", Some(op))),
            (StreamKind::Presence, Payload::Json(value)) => (Opcode::Presence, write::keyed(key, "value", Some(value))),
            (StreamKind::Presence, Payload::Empty) => (Opcode::Presence, write::keyed(key, "", None)),
            (StreamKind::Doc, Payload::Binary(message)) => {
                let (id, channel) = self.subscriptions.channel(key).ok_or(CommandError::NotConnected)?;
                document = Some(id);
                let mut body = Vec::new();
                push_varuint(&mut body, channel.into());
                body.extend_from_slice(message);
                (Opcode::Doc, body)
            }
            (StreamKind::State | StreamKind::Event, _)
            | (StreamKind::Crdt, Payload::Empty | Payload::Binary(_))
            | (StreamKind::Presence, Payload::Binary(_))
            | (StreamKind::Doc, Payload::Empty | Payload::Json(_)) => {
                return Err(CommandError::Unfit { what: kind.name() });
            }
        };
        if !answer && document.is_none() {
            return Err(CommandError::Unfit { what: kind.name() });
        }
        self.check_size(body.len())?;
        let correlation = if answer && !v1 { self.next_correlation() } else { 0 };
        self.send(opcode, correlation, &body);
        Ok((correlation, document))
    }

    /// Counts what was sent to a stream as a call, until its answer comes.
    fn await_answer(&mut self, stream: &StreamId, correlation: u32, document: Option<SubscriptionId>) -> CallId {
        let call = self.calls.next_id();
        let name = stream.kind.name().to_owned() + " " + &stream.key;
        let place = Place::Submitted(correlation, document);
        self.calls.insert(call, name, self.clock.now(), self.config.call_timeout, place);
        call
    }

    fn send_event(&mut self, event: &str, data: &Payload) -> Result<(), CommandError> {
        self.check_binary(data, "an event with raw bytes")?;
        let (opcode, payload) = event_frame(event, data);
        self.check_size(payload.len())?;
        self.send(opcode, 0, &payload);
        Ok(())
    }

    /// Sends AUTH: the first one of a connection with the features of this client.
    fn send_auth(&mut self, first: bool) {
        let payload = write::auth(self.token.as_deref(), first);
        let correlation = self.next_correlation();
        if let Some(link) = self.phase.link() {
            link.auth = Some(correlation);
        }
        self.send(Opcode::Auth, correlation, &payload);
    }

    /// Nobody waits for a call any more: takes it out of the queue, or tells a version 2 server.
    fn abandon(&mut self, place: Place) {
        match place {
            Place::Queued(number) => self.queue.remove(number),
            Place::Submitted(..) => {}
            Place::Sent(correlation) => {
                if self.phase.open().is_some_and(|link| link.version == Version::V2) {
                    self.send(Opcode::Cancel, correlation, b"null");
                }
            }
        }
    }

    fn next_correlation(&mut self) -> u32 {
        let Self { phase, calls, subscriptions, .. } = self;
        let Some(link) = phase.link() else { return 0 };
        let auth = link.auth;
        rpc::next_correlation(&mut link.last_correlation, |id| {
            calls.uses(id) || subscriptions.uses(id) || auth == Some(id)
        })
    }

    fn send(&mut self, opcode: Opcode, correlation: u32, payload: &[u8]) {
        let Some(link) = self.phase.link() else { return };
        link.sent(self.clock.now());
        let message = self.encoder.encode(opcode, correlation, payload, link.compress_above);
        self.outputs.push_back(Output::Send { socket: link.socket, message });
    }

    fn done(&mut self, call: CallId, outcome: Result<Payload, CallError>) {
        if let Some(outcome) = self.answer_stream(call, outcome) {
            self.event(Event::CallDone { call, outcome });
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    #[cfg(feature = "mirror")]
    fn forget_value(&mut self, stream: &StreamId) {
        if stream.kind == crate::stream::StreamKind::State {
            self.mirror.remove(&stream.key);
        }
    }

    #[cfg(not(feature = "mirror"))]
    fn forget_value(&mut self, _stream: &StreamId) {}
}

/// The frame of an event.
fn event_frame(event: &str, data: &Payload) -> (Opcode, Vec<u8>) {
    match data {
        Payload::Empty => (Opcode::ClientEvent, write::event(event, None)),
        Payload::Json(raw) => (Opcode::ClientEvent, write::event(event, Some(raw))),
        Payload::Binary(bytes) => (Opcode::ClientEventBinary, join_binary(&write::event(event, None), bytes)),
    }
}
