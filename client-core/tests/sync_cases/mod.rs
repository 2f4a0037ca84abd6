//! Transcripts of open streams (`tests/vectors/sync`; `README.md` there says what they are): what the host does and the
//! server sends goes in, what the core sends and tells comes out.

use datasole_core::{
    Client, Config, EditOutcome, Event, Input, Limits, Millis, Output, Payload, Progress, Question, Reconnect, Seed,
    SocketClose, SocketId, StreamId, StreamKind, SyncPhase,
    frame::{Codec, Frame, Opcode},
    wire::split_item,
};
use serde_json::{Map, Value, json};

/// The client of one transcript, and what is at its other ends.
struct Player {
    client: Client,
    codec: Codec,
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
        let (codec, socket) = (Codec::default(), SocketId(0));
        let mut player = Self { client, codec, now: 0, socket, out: Vec::new(), events: Vec::new() };
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
            let mut hello = json!({
                "protocol": 2, "connectionId": "c", "userId": "ann", "epoch": 1, "heartbeat": 86_400_000,
                "limits": {"maxPayload": 1_048_576, "compressAbove": 256, "maxSubscriptions": 100,
                    "maxPendingCalls": 100, "maxEventName": 256},
            });
            if let Some(features) = what.get("features") {
                hello["features"] = features.clone();
            }
            self.receive(&json!({"op": "HELLO", "payload": hello}));
        }
    }

    /// A frame of the server.
    fn receive(&mut self, frame: &Value) {
        let opcode = opcode(frame["op"].as_str().unwrap());
        let id = frame["id"].as_u64().unwrap_or(0) as u32;
        let payload = match &frame["hex"] {
            Value::String(text) => unhex(text),
            _ => frame["payload"].to_string().into_bytes(),
        };
        let bytes = self.codec.encode(opcode, id, &payload, 256);
        self.input(Input::Message { socket: self.socket, bytes: &bytes });
    }

    fn command(&mut self, command: &Value) {
        let now = Millis(self.now);
        let text = |name: &str| command[name].as_str().unwrap_or_default();
        let stream = || {
            let kind = StreamKind::ALL.into_iter().find(|kind| kind.name() == text("kind")).unwrap();
            StreamId { kind, key: text("key").into() }
        };
        let payload = || match (command.get("json"), command.get("hex")) {
            (Some(json), _) => Payload::from_json(&json.to_string()),
            (None, Some(hex)) => Some(Payload::Binary(unhex(hex.as_str().unwrap()))),
            _ => None,
        };
        let bytes = || command.get("hex").map(|hex| unhex(hex.as_str().unwrap()));
        let client = &mut self.client;
        let done = match text("t") {
            "open" => client.open(now, stream(), command["throttle"].as_u64()),
            "leave" => {
                client.leave(now, &stream());
                Ok(())
            }
            "edit" => client.edit(now, &stream(), command["id"].as_u64().unwrap(), payload().unwrap_or_default()),
            "show" => client.show(now, text("key"), payload(), command["now"] == true),
            "aware" => {
                client.aware(now, text("key"), bytes());
                Ok(())
            }
            "answer" => {
                client.answer(now, text("key"), bytes().unwrap());
                Ok(())
            }
            "unfit" => {
                client.unfit(now, &stream(), command["applied"] == true);
                Ok(())
            }
            other => panic!("unknown: {other}"),
        };
        if let Err(error) = done {
            self.events.push(json!({"t": "refused", "error": {"code": error.code(), "message": error.to_string()}}));
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::OpenSocket { socket, .. } => self.socket = socket,
                Output::Send { message, .. } => {
                    let frame = self.frame(&message);
                    self.out.push(frame);
                }
                Output::CloseSocket { code, .. } => self.out.push(json!({"close": code})),
                Output::NeedToken => {}
                Output::Event(event) => self.events.extend(told(event)),
            }
        }
    }

    fn frame(&mut self, message: &[u8]) -> Value {
        let limits = Limits::default();
        let Frame { opcode, correlation, payload } = self.codec.decode(message, &limits).unwrap();
        let (op, id, payload) = (name(opcode), correlation, payload.to_vec());
        if opcode == Opcode::Batch {
            let (mut rest, mut items) = (&payload[..], Vec::new());
            while let Some((item, after)) = split_item(rest) {
                items.push(self.frame(item));
                rest = after;
            }
            return json!({"op": op, "id": id, "items": items});
        }
        match serde_json::from_slice::<Value>(&payload) {
            Ok(payload) if opcode != Opcode::Doc => json!({"op": op, "id": id, "payload": payload}),
            _ => json!({"op": op, "id": id, "hex": hex(&payload)}),
        }
    }
}

/// An event as the worker protocol writes it, without `rev`; bytes as hexadecimal digits. Nothing for what is no stream's.
fn told(event: Event) -> Option<Value> {
    let of = |t: &str, stream: &StreamId| json!({"t": t, "kind": stream.kind.name(), "key": stream.key});
    let error = |code: i32, message: String| json!({"code": code, "message": message});
    Some(match event {
        Event::Entry { stream, payload, whole, .. } => {
            let mut told = of("entry", &stream);
            match payload {
                Payload::Json(raw) => told["data"] = serde_json::from_str(raw.get()).unwrap(),
                Payload::Binary(bytes) => told["hex"] = hex(&bytes).into(),
                Payload::Empty => {}
            }
            if whole {
                told["whole"] = true.into();
            }
            told
        }
        Event::Settled { stream, edit, outcome } => {
            let mut told = of("settled", &stream);
            told["id"] = edit.into();
            match outcome {
                EditOutcome::Stored { returns } => told["returns"] = returns.into(),
                EditOutcome::Refused { code, message } => told["error"] = error(code, message),
            }
            told
        }
        Event::Progress { stream, progress: Progress { phase, pending, stored, .. } } => {
            let mut told = of("progress", &stream);
            let (phase, refused) = match phase {
                SyncPhase::Loading => ("loading", None),
                SyncPhase::Synced => ("synced", None),
                SyncPhase::Unreadable { code, message } => ("unreadable", Some(error(code, message))),
                SyncPhase::Refused { code, message } => ("refused", Some(error(code, message))),
            };
            told["phase"] = phase.into();
            told["pending"] = pending.into();
            told["stored"] = stored.into();
            if let Some(refused) = refused {
                told["error"] = refused;
            }
            told
        }
        Event::Rejected { stream, code, message, payload } => {
            let mut told = of("rejected", &stream);
            told["error"] = error(code, message);
            if let Payload::Json(raw) = payload {
                told["data"] = serde_json::from_str(raw.get()).unwrap();
            }
            told
        }
        Event::Ask { document, question } => {
            let (what, bytes) = match question {
                Question::StateVector => ("stateVector", Vec::new()),
                Question::Difference { theirs } => ("difference", vec![theirs]),
                Question::Merge { updates } => ("merge", updates),
                Question::Awareness => ("awareness", Vec::new()),
            };
            let mut told = json!({"t": "ask", "key": document, "what": what});
            if !bytes.is_empty() {
                told["hex"] = bytes.iter().map(|bytes| hex(bytes)).collect();
            }
            told
        }
        Event::Awareness { document, update } => json!({"t": "awareness", "key": document, "hex": hex(&update)}),
        _ => return None,
    })
}

const NAMES: [(&str, Opcode); 14] = [
    ("PING", Opcode::Ping),
    ("ERROR", Opcode::Error),
    ("CRDT_OP", Opcode::CrdtOp),
    ("CRDT_STATE", Opcode::CrdtState),
    ("HELLO", Opcode::Hello),
    ("AUTH", Opcode::Auth),
    ("SUBSCRIBE", Opcode::Subscribe),
    ("SUBSCRIBED", Opcode::Subscribed),
    ("UNSUBSCRIBE", Opcode::Unsubscribe),
    ("ACK", Opcode::Ack),
    ("PRESENCE", Opcode::Presence),
    ("DOC", Opcode::Doc),
    ("CLIENT", Opcode::Client),
    ("BATCH", Opcode::Batch),
];

fn opcode(name: &str) -> Opcode {
    NAMES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("unknown: {name}")).1
}

fn name(opcode: Opcode) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == opcode).unwrap_or_else(|| panic!("unknown: {opcode:?}")).0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
