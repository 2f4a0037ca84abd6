//! Behaviour of the whole client against a scripted peer: what goes in is said in the test, what comes out is compared
//! as lines of text.

mod calls;
mod connecting;
mod entries;
mod features;
mod heartbeat;
mod hostile;
mod losing;
#[cfg(feature = "mirror")]
mod mirror;
mod open;
mod settling;
mod streams;
mod submitting;
mod tokens;
mod version1;

use serde_json::value::RawValue;

use super::Client;
use crate::{
    config::{Config, Limits, Reconnect},
    event::{
        CallId, EditOutcome, Event, Hint, Input, Output, Payload, Progress, Request, SocketClose, SocketId, Status,
        SubscriptionId, SyncPhase,
    },
    frame::{Codec, Opcode},
    rng::Seed,
    stream::{Position, StreamId},
    time::Millis,
};

/// The other end and the host of one client.
struct Peer {
    client: Client,
    now: Millis,
    /// The latest socket that was asked for.
    socket: SocketId,
    codec: Codec,
}

const URL: &str = "ws://h/__ds";

fn config() -> Config {
    Config::new(URL)
}

/// Delays of exactly 0, so that a test needs not guess.
fn hasty() -> Config {
    Config { reconnect: Reconnect { cap: 0, ..Reconnect::default() }, ..config() }
}

impl Peer {
    fn new(config: Config) -> Self {
        let client = Client::new(config, Seed([1; 32]));
        Self { client, now: Millis(1_000_000), socket: SocketId(0), codec: Codec::default() }
    }

    /// Open on version 2, with nothing left to drain.
    fn v2(config: Config) -> Self {
        let mut peer = Self::new(config);
        peer.client.connect(peer.now);
        peer.drain();
        peer.open_v2();
        peer.drain();
        peer
    }

    /// Open on version 1, with nothing left to drain.
    fn v1(config: Config) -> Self {
        let mut peer = Self::new(config);
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v1"));
        peer.drain();
        peer
    }

    fn input(&mut self, input: Input<'_>) {
        self.client.handle_input(self.now, input);
    }

    fn opened(&mut self, protocol: Option<&str>) {
        self.input(Input::SocketOpened { socket: self.socket, protocol });
    }

    fn open_v2(&mut self) {
        self.opened(Some("datasole.v2"));
        self.send(Opcode::Hello, 0, HELLO);
    }

    /// A frame from the server.
    fn send(&mut self, opcode: Opcode, correlation: u32, payload: impl AsRef<[u8]>) {
        let bytes = self.codec.encode(opcode, correlation, payload.as_ref(), 256);
        self.bytes(&bytes);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.input(Input::Message { socket: self.socket, bytes });
    }

    fn close(&mut self, code: u16) {
        let close = SocketClose { code: Some(code), reason: "gone".into(), ..SocketClose::default() };
        self.input(Input::SocketClosed { socket: self.socket, close });
    }

    fn hint(&mut self, hint: Hint) {
        self.input(Input::Hint(hint));
    }

    /// Time passes as on a host that keeps its timer: every deadline is met. More deadlines than any test needs are a
    /// hot loop.
    fn wait(&mut self, millis: u64) {
        let end = self.now + millis;
        for _ in 0..1_000 {
            match self.client.poll_timeout() {
                Some(deadline) if deadline <= end => {
                    self.now = self.now.max(deadline);
                    self.input(Input::Timeout);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("hot loop: {:?} in {:?}", self.client.timeout_reason(), self.client.status());
    }

    /// The host's clock jumps to `now`, and its timer fires once.
    fn jump(&mut self, now: u64) {
        self.now = Millis(now);
        self.input(Input::Timeout);
    }

    fn call(&mut self, method: &str) -> CallId {
        self.client.call(self.now, request(method)).unwrap()
    }

    fn emit(&mut self, event: &str, queue: bool) {
        self.client.emit(self.now, event, Payload::Empty, queue).unwrap();
    }

    fn subscribe(&mut self, stream: StreamId) -> SubscriptionId {
        self.client.subscribe(self.now, stream).unwrap()
    }

    fn open(&mut self, stream: StreamId) {
        self.client.open(self.now, stream, None).unwrap();
    }

    /// What came out, one line each.
    fn drain(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(output) = self.client.poll_output() {
            lines.push(match output {
                Output::OpenSocket { socket, url, .. } => {
                    assert!(socket > self.socket, "socket ids increase");
                    self.socket = socket;
                    format!("open {url}")
                }
                Output::Send { socket, message } => {
                    assert_eq!(socket, self.socket);
                    self.frame(&message)
                }
                Output::CloseSocket { socket, code, .. } => {
                    assert_eq!(socket, self.socket);
                    format!("close {code}")
                }
                Output::NeedToken => "need token".into(),
                Output::Event(event) => line(&event),
            });
        }
        lines
    }

    fn frame(&mut self, message: &[u8]) -> String {
        let frame = self.codec.decode(message, &Limits::default()).unwrap();
        let payload = String::from_utf8_lossy(frame.payload);
        format!("> {:?} {} {payload}", frame.opcode, frame.correlation)
    }

    #[track_caller]
    fn check(&mut self, expected: &[&str]) {
        assert_eq!(self.drain(), expected);
    }
}

const HELLO: &str = r#"{"protocol":2,"connectionId":"c1","userId":"ann","epoch":5,"heartbeat":15000,"limits":{
    "maxPayload":1048576,"compressAbove":256,"maxSubscriptions":100,"maxPendingCalls":100,"maxEventName":256}}"#;

/// HELLO with a further member, or one changed.
fn hello(from: &str, to: &str) -> String {
    assert!(HELLO.contains(from));
    HELLO.replacen(from, to, 1)
}

fn line(event: &Event) -> String {
    match event {
        Event::Status(Status::Disconnected(reason)) => format!("disconnected: {reason:?}"),
        Event::Status(Status::Connecting) => "connecting".into(),
        Event::Status(Status::Connected { protocol, connection_id, user_id, .. }) => {
            format!("connected v{protocol} {connection_id:?} {user_id:?}")
        }
        Event::Status(Status::Reconnecting { attempt }) => format!("reconnecting {attempt}"),
        Event::Status(Status::Waiting { attempt, reason, .. }) => {
            let reason = format!("{reason:?}");
            format!("waiting {attempt}: {}", reason.split(['(', ' ']).next().unwrap())
        }
        Event::CallDone { call, outcome: Ok(payload) } => format!("done {} {}", call.0, text(payload)),
        Event::CallDone { call, outcome: Err(error) } => format!("done {} {} {error}", call.0, error.code()),
        Event::Message { event, payload, timestamp } => format!("event {event} {} {timestamp}", text(payload)),
        Event::Subscribed { subscription, stream, recovered } => {
            format!("subscribed {} {} {}", subscription.0, stream.key, if *recovered { "recovered" } else { "anew" })
        }
        Event::Refused { subscription, stream, code, message } => {
            format!("refused {} {} {code} {message}", subscription.0, stream.key)
        }
        Event::Snapshot { key, value, position: Position { epoch, seq } } => {
            format!("snapshot {key} {epoch}:{seq} {}", value.as_deref().map_or("none", RawValue::get))
        }
        Event::Patch { key, ops, position: Position { epoch, seq } } => format!("patch {key} {epoch}:{seq} {ops}"),
        Event::Entry { stream, payload, position: Position { epoch, seq }, whole } => {
            let (kind, whole) = (stream.kind.name(), if *whole { " whole" } else { "" });
            format!("entry {kind} {} {epoch}:{seq}{whole} {}", stream.key, text(payload))
        }
        Event::Settled { stream, edit, outcome: EditOutcome::Stored { returns } } => {
            format!("settled {} {edit} {}", stream.key, if *returns { "returns" } else { "stored" })
        }
        Event::Settled { stream, edit, outcome: EditOutcome::Refused { code, message } } => {
            format!("settled {} {edit} {code} {message}", stream.key)
        }
        Event::Progress { stream, progress: Progress { phase, pending, stored } } => {
            let phase = match phase {
                SyncPhase::Loading => "loading".into(),
                SyncPhase::Synced => "synced".into(),
                SyncPhase::Unreadable { code, message } => format!("unreadable ({code} {message})"),
                SyncPhase::Refused { code, message } => format!("refused ({code} {message})"),
            };
            format!("progress {} {phase} {pending} {stored}", stream.key)
        }
        Event::Rejected { stream, code, message, payload } => {
            format!("rejected {} {code} {message} {}", stream.key, text(payload))
        }
        Event::Ask { document, question } => format!("ask {document} {question:?}"),
        Event::Awareness { document, update } => format!("awareness {document} {update:?}"),
    }
}

fn text(payload: &Payload) -> String {
    match payload {
        Payload::Empty => "empty".into(),
        Payload::Json(raw) => raw.get().into(),
        Payload::Binary(bytes) => format!("{bytes:?}"),
    }
}

fn json(text: &str) -> Payload {
    Payload::Json(RawValue::from_string(text.into()).unwrap())
}

fn request(method: &str) -> Request {
    Request { method: method.into(), params: Payload::Empty, timeout: None, queue: false }
}

fn queued(method: &str) -> Request {
    Request { queue: true, ..request(method) }
}
