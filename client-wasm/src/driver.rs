//! [`Driver`]: owns the client, turns calls into inputs and commands, outputs into calls of a [`World`].
//!
//! Knows neither JavaScript nor a clock, so that a session which a browser has recorded is done again on any machine.

use datasole_core::{
    CallError, CallId, Client, Config, Event, Hint, Input, Millis, Output, Payload, Position, Request, Seed,
    SocketClose, SocketId, Status, StreamId, StreamKind, SubscriptionId,
};

use crate::message::Batch;

/// A batch that has grown to this many bytes is not kept for more: longer texts cost main more per byte.
const FULL_FROM: usize = 64 * 1024;

/// What a driver does to the world: `CoreHost` in `host.rs` says what each means.
pub trait World {
    /// Open a WebSocket.
    fn open(&mut self, socket: f64, url: &str, protocols: &str);
    /// Send a binary message.
    fn send(&mut self, socket: f64, message: &[u8]);
    /// Close a socket.
    fn shut(&mut self, socket: f64, code: u16, reason: &str);
    /// Call [`Driver::timeout`] after so many milliseconds; negative: never.
    fn arm(&mut self, delay: f64);
    /// The text of a batch being taken: a JSON array. Text, however long: a transferred buffer costs the page more to read.
    fn text(&mut self, text: &str);
    /// Bytes that messages of a batch being taken refer to.
    fn bytes(&mut self, bytes: &[u8]);
    /// There is something to [`take`](Driver::take).
    fn soon(&mut self, urgency: u8);
    /// Something to tell the developer.
    fn warn(&mut self, message: &str);
}

/// One client, and what it has to say. Every method but [`take`](Self::take) is told the time.
///
/// After every method the world is told through [`World::soon`] when there is something to [`take`](Self::take).
#[derive(Debug)]
pub struct Driver<W> {
    client: Client,
    world: W,
    batch: Batch,
    /// The time of the call that is being made.
    now: Millis,
    /// The urgency that the world was told.
    announced: u8,
    /// When the world will call `timeout`.
    armed: Option<Millis>,
    /// The ids of the other side's calls.
    calls: Vec<(CallId, u32)>,
    /// The ids of the other side's subscriptions.
    subscriptions: Vec<(SubscriptionId, u32)>,
    /// The console was told that the contracts differ.
    warned: bool,
}

impl<W: World> Driver<W> {
    /// A client that does nothing until `connect`.
    pub fn new(config: Config, seed: Seed, world: W) -> Self {
        Self {
            client: Client::new(config, seed),
            world,
            batch: Batch::default(),
            now: Millis(0),
            announced: 0,
            armed: None,
            calls: Vec::new(),
            subscriptions: Vec::new(),
            warned: false,
        }
    }

    /// What the driver acts on.
    pub fn world(&mut self) -> &mut W {
        &mut self.world
    }

    // --- commands; a refusal comes back as a message ---

    /// Starts connecting.
    pub fn connect(&mut self, now: Millis) {
        self.client.connect(now);
        self.pump(now);
    }

    /// Closes for good.
    pub fn close(&mut self, now: Millis) {
        self.client.close(now);
        self.pump(now);
    }

    /// Makes a call named `id` by the caller; its one `done` follows. `timeout` in milliseconds.
    pub fn call(&mut self, now: Millis, id: u32, method: String, params: Payload, timeout: Option<f64>, queue: bool) {
        let timeout = timeout.map(|millis| millis as u64);
        match self.client.call(now, Request { method, params, timeout, queue }) {
            Ok(call) => self.calls.push((call, id)),
            Err(refused) => self.batch.done(id, Err(CallError::Refused(refused))),
        }
        self.pump(now);
    }

    /// Gives a call up.
    pub fn cancel(&mut self, now: Millis, id: u32) {
        if let Some(&(call, _)) = self.calls.iter().find(|(_, theirs)| *theirs == id) {
            self.client.cancel(now, call);
            self.pump(now);
        }
    }

    /// Sends an event.
    pub fn emit(&mut self, now: Millis, event: &str, data: Payload, queue: bool) {
        if let Err(refused) = self.client.emit(now, event, data, queue) {
            self.batch.refused("emit", event, &refused);
        }
        self.pump(now);
    }

    /// Follows a stream under the caller's `id`. `since`: the position of the value that the caller has, if any.
    pub fn follow(&mut self, now: Millis, id: u32, kind: &str, key: String, since: Option<Position>) {
        let stream = stream(kind, key);
        match self.client.subscribe_since(now, stream.clone(), since) {
            Ok(subscription) => self.subscriptions.push((subscription, id)),
            Err(refused) => self.batch.refused(kind, &stream.key, &refused),
        }
        self.pump(now);
    }

    /// Stops following what `id` follows, in `linger` milliseconds.
    pub fn unfollow(&mut self, now: Millis, id: u32, linger: u32) {
        if let Some(index) = self.subscriptions.iter().position(|(_, theirs)| *theirs == id) {
            let (subscription, _) = self.subscriptions.swap_remove(index);
            self.client.unsubscribe(now, subscription, Some(linger.into()));
            self.pump(now);
        }
    }

    /// Asks for the state `key` anew: the caller's copy has lost step. `applied`: a patch was applied since the last time.
    pub fn resync(&mut self, now: Millis, key: String, applied: bool) {
        self.client.resync(now, &StreamId::state(key), applied);
        self.pump(now);
    }

    /// A command on an open stream, see `Core.stream`.
    pub fn stream(
        &mut self,
        now: Millis,
        command: &str,
        kind: &str,
        key: String,
        number: Option<f64>,
        payload: Payload,
    ) {
        let stream = stream(kind, key);
        let number = number.map(|number| number as u64);
        let flag = number.is_some_and(|number| number > 0);
        match command {
            "open" => {
                if let Err(refused) = self.client.open(now, stream.clone(), number) {
                    self.batch.open_refused(&stream, &refused);
                }
            }
            "leave" => self.client.leave(now, &stream),
            "edit" => {
                let id = number.unwrap_or_default();
                if let Err(refused) = self.client.edit(now, &stream, id, payload) {
                    self.batch.edit_refused(&stream, id, &refused);
                }
            }
            "show" => {
                let value = Some(payload).filter(|payload| !matches!(payload, Payload::Empty));
                if let Err(refused) = self.client.show(now, &stream.key, value) {
                    self.batch.rejected(&stream, refused.code(), &refused.to_string(), Payload::Empty);
                }
            }
            "aware" => self.client.aware(now, &stream.key, bytes(payload)),
            "answer" => self.client.answer(now, &stream.key, bytes(payload).unwrap_or_default()),
            _ => self.client.unfit(now, &stream, flag),
        }
        self.pump(now);
    }

    // --- the world ---

    /// The socket is open; `protocol` is the subprotocol the server chose, empty for none.
    pub fn opened(&mut self, now: Millis, socket: f64, protocol: &str) {
        let protocol = Some(protocol).filter(|protocol| !protocol.is_empty());
        self.input(now, Input::SocketOpened { socket: SocketId(socket as u64), protocol });
    }

    /// A binary message came.
    pub fn message(&mut self, now: Millis, socket: f64, bytes: &[u8]) {
        self.input(now, Input::Message { socket: SocketId(socket as u64), bytes });
    }

    /// The socket is closed or could not be opened. `code`: the close code or, below 1,000, the HTTP status of a refusal;
    /// `ours`: a datasole server's refusal; `retry_after` in milliseconds.
    pub fn closed(
        &mut self,
        now: Millis,
        socket: f64,
        code: u16,
        reason: String,
        ours: bool,
        retry_after: Option<f64>,
    ) {
        let (code, http_status) = if code < 1_000 { (None, Some(code)) } else { (Some(code), None) };
        let retry_after = retry_after.map(|millis| millis as u64);
        let close = SocketClose { code, reason, http_status, by_datasole: ours, retry_after };
        self.input(now, Input::SocketClosed { socket: SocketId(socket as u64), close });
    }

    /// The time asked for by [`World::arm`] has come.
    pub fn timeout(&mut self, now: Millis) {
        self.armed = None;
        self.input(now, Input::Timeout);
    }

    /// The world noticed something: `online`, `offline`, `visible` or `hidden`.
    pub fn hint(&mut self, now: Millis, kind: &str) {
        let hint = match kind {
            "online" => Hint::Online,
            "offline" => Hint::Offline,
            "visible" => Hint::Visible,
            _ => Hint::Hidden,
        };
        self.input(now, Input::Hint(hint));
    }

    /// Answers a `token` message: a token or none, or why there is none.
    pub fn token(&mut self, now: Millis, token: Option<String>, error: Option<String>) {
        let answer = match error {
            Some(error) => Err(error),
            None => Ok(token),
        };
        self.input(now, Input::Token(answer));
    }

    // --- what came of it ---

    /// Hands over all messages since the last call: the JSON array of them through [`World::text`], then the bytes they
    /// refer to through [`World::bytes`]. Nothing when there are none.
    pub fn take(&mut self) {
        self.announced = 0;
        if self.batch.is_empty() {
            return;
        }
        let (text, binaries) = self.batch.take();
        self.world.text(&text);
        for bytes in &binaries {
            self.world.bytes(bytes);
        }
    }

    /// As [`take`](Self::take), but returns the text; `None` when there are no messages.
    #[cfg(feature = "direct")]
    pub(crate) fn take_text(&mut self) -> Option<String> {
        self.announced = 0;
        if self.batch.is_empty() {
            return None;
        }
        let (text, binaries) = self.batch.take();
        for bytes in &binaries {
            self.world.bytes(bytes);
        }
        Some(text)
    }

    fn input(&mut self, now: Millis, input: Input<'_>) {
        self.client.handle_input(now, input);
        self.pump(now);
    }

    /// Performs the outputs and arms the timer: the second half of the drive loop.
    fn pump(&mut self, now: Millis) {
        self.now = now;
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::OpenSocket { socket, url, protocols } => {
                    // Of `join` this would be the only use.
                    let mut list = String::new();
                    for one in protocols {
                        if !list.is_empty() {
                            list.push(',');
                        }
                        list.push_str(one);
                    }
                    self.world.open(socket.0 as f64, &url, &list);
                }
                Output::Send { socket, message } => self.world.send(socket.0 as f64, &message),
                Output::CloseSocket { socket, code, reason } => self.world.shut(socket.0 as f64, code, reason),
                Output::NeedToken => self.batch.ask_token(),
                Output::Event(event) => self.tell(event),
            }
        }
        self.arm();
        let urgency = match self.batch.len() {
            0 => 0,
            FULL_FROM.. => 3,
            _ if self.batch.is_urgent() => 2,
            _ => 1,
        };
        if urgency > self.announced {
            self.announced = urgency;
            self.world.soon(urgency);
        }
    }

    /// Tells the console once that page and server were not built from one contract.
    fn warn_of_contract(&mut self, status: &Status) {
        let differs = matches!(status, Status::Connected { same_contract: Some(false), .. });
        if differs && !std::mem::replace(&mut self.warned, true) {
            self.world.warn(
                "datasole: the server has another contract than this page: reload the page, or run `datasole types` and build it anew",
            );
        }
    }

    /// A deadline that moves away (every message moves the heartbeat's) leaves the timer alone: it fires early, finds
    /// nothing to do and is armed again.
    fn arm(&mut self) {
        let deadline = self.client.poll_timeout();
        let in_time = matches!((self.armed, deadline), (Some(armed), Some(deadline)) if armed <= deadline);
        if !in_time && self.armed != deadline {
            self.armed = deadline;
            self.world.arm(deadline.map_or(-1.0, |deadline| (deadline - self.now) as f64));
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Status(status) => {
                self.warn_of_contract(&status);
                self.batch.status(&status, self.now);
            }
            Event::CallDone { call, outcome } => {
                if let Some(index) = self.calls.iter().position(|(ours, _)| *ours == call) {
                    let (_, id) = self.calls.swap_remove(index);
                    self.batch.done(id, outcome);
                }
            }
            other => {
                if let Event::Refused { subscription, .. } = &other {
                    self.subscriptions.retain(|(ours, _)| ours != subscription);
                }
                self.batch.event(other);
            }
        }
    }
}

/// JavaScript names no kind but those there are.
fn stream(kind: &str, key: String) -> StreamId {
    let kind = StreamKind::ALL.into_iter().find(|one| one.name() == kind).unwrap_or(StreamKind::State);
    StreamId { kind, key }
}

/// Bytes, else JSON. Text that is no JSON is taken for nothing; JavaScript has made it of a value.
pub fn payload(json: Option<String>, bytes: Option<Vec<u8>>) -> Payload {
    match bytes {
        Some(bytes) => Payload::Binary(bytes),
        None => json.and_then(|json| Payload::from_json(&json)).unwrap_or_default(),
    }
}

fn bytes(payload: Payload) -> Option<Vec<u8>> {
    match payload {
        Payload::Binary(bytes) => Some(bytes),
        Payload::Empty | Payload::Json(_) => None,
    }
}
