//! Transcripts of streams (`tests/vectors/sync`; `README.md` there says what they are): what the host does and the server
//! sends goes in, what the core sends and tells comes out.

mod frames;
mod written;

use datasole_core::{Client, Config, Input, Millis, Output, Reconnect, Seed, SocketClose, SocketId};
use serde_json::{Map, Value, json};

use self::{
    frames::{frame, message},
    written::{Numbers, hello, perform, told},
};

/// The client of one transcript, and what is at its other ends.
struct Player {
    client: Client,
    numbers: Numbers,
    now: u64,
    socket: SocketId,
    out: Vec<Value>,
    events: Vec<Value>,
}

/// Plays a transcript: the same, with what came out of each step.
pub(crate) fn play(transcript: &Value) -> Value {
    let mut played = transcript.clone();
    let mut player = Player::new(&transcript["config"]);
    for step in played["steps"].as_array_mut().unwrap() {
        let step = step.as_object_mut().unwrap();
        player.step(step);
        for (name, found) in [("out", &mut player.out), ("events", &mut player.events)] {
            step.remove(name);
            if !found.is_empty() {
                step.insert(name.into(), Value::from(std::mem::take(found)));
            }
        }
    }
    played
}

impl Player {
    fn new(config: &Value) -> Self {
        let reconnect = Reconnect { cap: 0, ..Reconnect::default() };
        let mut config_ = Config { reconnect, ..Config::new("ws://localhost/__ds") };
        if let Some(millis) = config["callTimeout"].as_u64() {
            config_.call_timeout = millis;
        }
        let mut client = Client::new(config_, Seed([1; 32]));
        client.connect(Millis(0));
        let (numbers, socket) = (Numbers::default(), SocketId(0));
        let mut player = Self { client, numbers, now: 0, socket, out: Vec::new(), events: Vec::new() };
        player.drain();
        player
    }

    /// Time passes to the step's, then the step is taken.
    fn step(&mut self, step: &Map<String, Value>) {
        let at = step["at"].as_u64().unwrap();
        assert!(at >= self.now, "time goes on: {step:?}");
        while let Some(Millis(deadline)) = self.client.poll_timeout().filter(|deadline| deadline.0 <= at) {
            self.now = self.now.max(deadline);
            self.input(Input::Timeout);
        }
        self.now = at;
        for (name, what) in step {
            match name.as_str() {
                "do" => self.command(what),
                "open" => self.open(what),
                "in" => self.receive(what),
                "close" => {
                    let close = SocketClose {
                        code: what["code"].as_u64().map(|code| code as u16),
                        reason: what["reason"].as_str().unwrap_or_default().into(),
                        ..SocketClose::default()
                    };
                    self.input(Input::SocketClosed { socket: self.socket, close });
                }
                "at" | "timeout" | "out" | "events" | "doc" => {}
                _ => panic!("unknown: {name}"),
            }
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.client.handle_input(Millis(self.now), input);
        self.drain();
    }

    fn open(&mut self, what: &Value) {
        let protocol = if what["protocol"] == 2 { "datasole.v2" } else { "datasole.v1" };
        self.input(Input::SocketOpened { socket: self.socket, protocol: Some(protocol) });
        if what["protocol"] == 2 {
            self.receive(&json!({"op": "HELLO", "payload": hello(what)}));
        }
    }

    /// A frame of the server.
    fn receive(&mut self, frame: &Value) {
        self.input(Input::Message { socket: self.socket, bytes: &message(frame) });
    }

    fn command(&mut self, command: &Value) {
        if let Err(error) = perform(&mut self.client, Millis(self.now), command, &mut self.numbers) {
            self.events.push(json!({"t": "refused", "error": {"code": error.code(), "message": error.to_string()}}));
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::OpenSocket { socket, .. } => self.socket = socket,
                Output::Send { message, .. } => self.out.push(frame(&message)),
                Output::CloseSocket { code, .. } => self.out.push(json!({"close": code})),
                Output::NeedToken => {}
                Output::Event(event) => self.events.extend(told(&event, &self.numbers)),
            }
        }
    }
}
