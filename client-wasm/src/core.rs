//! [`Core`]: owns the client, turns calls into inputs and commands, outputs into calls of the host.

use datasole_core::{
    CallError, CallId, Client, CommandError, Event, Hint, Input, Millis, Output, Payload, Position, Request,
    SocketClose, SocketId, Status, StreamId, StreamKind, SubscriptionId,
};
use wasm_bindgen::prelude::*;

use crate::{
    host::{Host, Options, now, seed, warn},
    message::Batch,
};

/// From this many bytes on, a batch travels as a transferred buffer (measured: ARCHITECTURE, "Decisions").
const BUFFER_FROM: usize = 20 * 1024;

/// A batch that has grown to this many bytes is not kept for more: longer texts cost main more per byte.
const FULL_FROM: usize = 64 * 1024;

/// One client, and what it has to say.
///
/// After every method the host is told through `CoreHost.soon` when there is something to [`take`](Self::take).
#[wasm_bindgen]
pub struct Core {
    client: Client,
    host: Host,
    batch: Batch,
    /// The urgency that the host was told.
    announced: u8,
    /// When the host will call `timeout`.
    armed: Option<Millis>,
    /// The ids of the other side's calls.
    calls: Vec<(CallId, u32)>,
    /// The ids of the other side's subscriptions.
    subscriptions: Vec<(SubscriptionId, u32)>,
    /// The console was told that the contracts differ.
    warned: bool,
}

#[wasm_bindgen]
impl Core {
    /// A client that does nothing until `connect`.
    #[wasm_bindgen(constructor)]
    pub fn new(options: &Options, host: Host) -> Core {
        report_panics(&host);
        Self {
            client: Client::new(options.config(), seed()),
            host,
            batch: Batch::default(),
            announced: 0,
            armed: None,
            calls: Vec::new(),
            subscriptions: Vec::new(),
            warned: false,
        }
    }

    // --- commands; a refusal comes back as a message ---

    /// Starts connecting.
    pub fn connect(&mut self) {
        self.client.connect(now());
        self.pump();
    }

    /// Closes for good.
    pub fn close(&mut self) {
        self.client.close(now());
        self.pump();
    }

    /// Makes a call named `id` by the caller; its one `done` follows. Either `json` (a JSON text) or `bytes` or neither.
    pub fn call(
        &mut self,
        id: u32,
        method: String,
        json: Option<String>,
        bytes: Option<Vec<u8>>,
        timeout: Option<f64>,
        queue: bool,
    ) {
        let timeout = timeout.map(|millis| millis as u64);
        let called = self.client.call(now(), Request { method, params: payload(json, bytes), timeout, queue });
        self.called(id, called);
        self.pump();
    }

    /// Gives a call up.
    pub fn cancel(&mut self, id: u32) {
        if let Some(&(call, _)) = self.calls.iter().find(|(_, theirs)| *theirs == id) {
            self.client.cancel(now(), call);
            self.pump();
        }
    }

    /// Sends an event.
    pub fn emit(&mut self, event: &str, json: Option<String>, bytes: Option<Vec<u8>>, queue: bool) {
        if let Err(refused) = self.client.emit(now(), event, payload(json, bytes), queue) {
            self.batch.refused("emit", event, &refused);
        }
        self.pump();
    }

    /// Follows a stream under the caller's `id`. Kinds are named as on the wire. `epoch` and `seq`: the position of the value that the
    /// caller has, if any.
    pub fn follow(&mut self, id: u32, kind: &str, key: String, epoch: Option<f64>, seq: Option<f64>) {
        let stream = stream(kind, key);
        let since = epoch.zip(seq).map(|(epoch, seq)| Position { epoch: epoch as u64, seq: seq as u64 });
        match self.client.subscribe_since(now(), stream.clone(), since) {
            Ok(subscription) => self.subscriptions.push((subscription, id)),
            Err(refused) => self.batch.refused(kind, &stream.key, &refused),
        }
        self.pump();
    }

    /// Stops following what `id` follows, in `linger` milliseconds.
    pub fn unfollow(&mut self, id: u32, linger: u32) {
        if let Some(index) = self.subscriptions.iter().position(|(_, theirs)| *theirs == id) {
            let (subscription, _) = self.subscriptions.swap_remove(index);
            self.client.unsubscribe(now(), subscription, Some(linger.into()));
            self.pump();
        }
    }

    /// Asks for the state `key` anew: the caller's copy has lost step. `applied`: a patch was applied since the last time.
    pub fn resync(&mut self, key: String, applied: bool) {
        self.client.resync(now(), &StreamId::state(key), applied);
        self.pump();
    }

    // --- open streams: CRDTs (`crdt`), rooms (`presence`) and documents (`doc`) ---

    /// A command on an open stream: `open`, `leave`, `edit`, `show`, `aware`, `answer` or `unfit` (`npm/src/protocol.ts` says
    /// what they do). `number`: the throttle of `open`, the id of `edit`, and not zero for the `now` of `show` and the
    /// `applied` of `unfit`. One method for all: each has a price in bytes.
    pub fn stream(
        &mut self,
        command: &str,
        kind: &str,
        key: String,
        number: Option<f64>,
        json: Option<String>,
        bytes: Option<Vec<u8>>,
    ) {
        let (now, stream) = (now(), stream(kind, key));
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
                if let Err(refused) = self.client.edit(now, &stream, id, payload(json, bytes)) {
                    self.batch.edit_refused(&stream, id, &refused);
                }
            }
            "show" => {
                let value = json.as_deref().and_then(Payload::from_json);
                if let Err(refused) = self.client.show(now, &stream.key, value, flag) {
                    self.batch.rejected(&stream, refused.code(), &refused.to_string(), Payload::Empty);
                }
            }
            "aware" => self.client.aware(now, &stream.key, bytes),
            "answer" => self.client.answer(now, &stream.key, bytes.unwrap_or_default()),
            _ => self.client.unfit(now, &stream, flag),
        }
        self.pump();
    }

    // --- the world ---

    /// The socket is open; `protocol` is the subprotocol the server chose, empty for none.
    pub fn opened(&mut self, socket: f64, protocol: &str) {
        let protocol = Some(protocol).filter(|protocol| !protocol.is_empty());
        self.input(Input::SocketOpened { socket: SocketId(socket as u64), protocol });
    }

    /// A binary message came.
    pub fn message(&mut self, socket: f64, bytes: &[u8]) {
        self.input(Input::Message { socket: SocketId(socket as u64), bytes });
    }

    /// The socket is closed or could not be opened. `code`: the close code or, below 1,000, the HTTP status of a refusal;
    /// `ours`: a datasole server's refusal; `retry_after` in milliseconds.
    pub fn closed(&mut self, socket: f64, code: u16, reason: String, ours: bool, retry_after: Option<f64>) {
        let (code, http_status) = if code < 1_000 { (None, Some(code)) } else { (Some(code), None) };
        let retry_after = retry_after.map(|millis| millis as u64);
        let close = SocketClose { code, reason, http_status, by_datasole: ours, retry_after };
        self.input(Input::SocketClosed { socket: SocketId(socket as u64), close });
    }

    /// The time asked for by `CoreHost.arm` has come.
    pub fn timeout(&mut self) {
        self.armed = None;
        self.input(Input::Timeout);
    }

    /// The host noticed something: `online`, `offline`, `visible` or `hidden`.
    pub fn hint(&mut self, kind: &str) {
        self.input(Input::Hint(match kind {
            "online" => Hint::Online,
            "offline" => Hint::Offline,
            "visible" => Hint::Visible,
            _ => Hint::Hidden,
        }));
    }

    /// Answers a `token` message: a token or none, or why there is none.
    pub fn token(&mut self, token: Option<String>, error: Option<String>) {
        self.input(Input::Token(match error {
            Some(error) => Err(error),
            None => Ok(token),
        }));
    }

    // --- what came of it ---

    /// Hands over all messages since the last call: the JSON array of them through `CoreHost.text`, or in UTF-8 through
    /// `CoreHost.bytes` when it is long, then the bytes they refer to. Nothing when there are none.
    pub fn take(&mut self) {
        self.announced = 0;
        if self.batch.is_empty() {
            return;
        }
        let (text, binaries) = self.batch.take();
        if text.len() < BUFFER_FROM {
            self.host.text(&text);
        } else {
            self.host.bytes(text.as_bytes());
        }
        for bytes in &binaries {
            self.host.bytes(bytes);
        }
    }
}

impl Core {
    /// As [`take`](Self::take), but returns the text; `None` when there are no messages.
    #[cfg(feature = "direct")]
    pub(crate) fn take_text(&mut self) -> Option<String> {
        self.announced = 0;
        if self.batch.is_empty() {
            return None;
        }
        let (text, binaries) = self.batch.take();
        for bytes in &binaries {
            self.host.bytes(bytes);
        }
        Some(text)
    }

    fn called(&mut self, id: u32, outcome: Result<CallId, CommandError>) {
        match outcome {
            Ok(call) => self.calls.push((call, id)),
            Err(refused) => self.batch.done(id, Err(CallError::Refused(refused))),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.client.handle_input(now(), input);
        self.pump();
    }

    /// Performs the outputs and arms the timer: the second half of the drive loop.
    fn pump(&mut self) {
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
                    self.host.open(socket.0 as f64, &url, &list);
                }
                Output::Send { socket, message } => self.host.send(socket.0 as f64, &message),
                Output::CloseSocket { socket, code, reason } => self.host.shut(socket.0 as f64, code, reason),
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
            self.host.soon(urgency);
        }
    }

    /// Tells the console once that page and server were not built from one contract.
    fn warn_of_contract(&mut self, status: &Status) {
        let differs = matches!(status, Status::Connected { same_contract: Some(false), .. });
        if differs && !std::mem::replace(&mut self.warned, true) {
            warn(
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
            self.host.arm(deadline.map_or(-1.0, |deadline| (deadline - now()) as f64));
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Status(status) => {
                self.warn_of_contract(&status);
                self.batch.status(&status, now());
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

/// Text that is no JSON is taken for nothing; JavaScript has made it of a value.
fn payload(json: Option<String>, bytes: Option<Vec<u8>>) -> Payload {
    match bytes {
        Some(bytes) => Payload::Binary(bytes),
        None => json.and_then(|json| Payload::from_json(&json)).unwrap_or_default(),
    }
}

/// Tells the host before the trap, which carries no message.
fn report_panics(host: &Host) {
    let host = host.clone();
    std::panic::set_hook(Box::new(move |info| host.panicked(&info.to_string())));
}
