//! The transcripts of open streams (`tests/vectors/sync`), replayed through the handles: what they do and the server
//! sends goes in, what is sent and told comes out as it is written.
//!
//! Values are this crate's own, so a comparison leaves out what a host decides: time stamps, and the content of
//! updates. Commands that no handle has go to the core as they are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use datasole_core::{
    Client as Core, CommandError, Config, Event, Input, Limits, Millis, Output, Payload, Question, Reconnect, Seed,
    SocketClose, SocketId, StreamId, StreamKind,
    crdt::CrdtLimits,
    frame::{Codec, Frame, Opcode},
    wire::split_item,
};
use serde_json::{Value, json};
use yrs::{ReadTxn, Text, Transact, updates::encoder::Encode};

use self::written::{hex, masked, name, opcode, told, unhex};
use crate::{
    crdt::{Counter, CrdtStorage, Crdts, Policy, Replicas, Set},
    doc::{Document, Keeper},
    error::EditError,
    inbox::InboxLimits,
    presence::Presence,
    router::Shared,
};

enum Handle {
    Counter(Counter),
    Tags(Set<Value>),
    Room(Presence<Value>),
    Document(Document),
}

/// Replicas named as the transcript names them, which have done nothing yet.
struct Named(BTreeMap<String, [Value; 3]>);

impl CrdtStorage for Named {
    fn load(&self, key: &str) -> Option<String> {
        let [kind, node, secret] = self.0.get(key)?;
        let saved = json!({"type": kind, "node": node, "secret": secret, "counter": 0, "timestamp": 0, "logical": 0, "pending": []});
        Some(saved.to_string())
    }

    fn save(&self, _: &str, _: Option<&str>) {}
}

struct Player<'a> {
    steps: &'a [Value],
    shared: Arc<Shared>,
    crdts: Crdts,
    codec: Codec,
    socket: SocketId,
    now: u64,
    handles: BTreeMap<(StreamKind, String), Vec<Handle>>,
    keepers: BTreeMap<String, Keeper>,
    /// Keys whose commands no handle has.
    bare: BTreeSet<(StreamKind, String)>,
    /// Questions for awareness that were answered at once, and that the transcript answers later.
    answered: usize,
    found: [Vec<Value>; 2],
    /// Commands that went through a handle.
    handled: usize,
}

fn kind(command: &Value) -> StreamKind {
    let named = command["kind"].as_str().and_then(|name| StreamKind::ALL.into_iter().find(|kind| kind.name() == name));
    named.unwrap_or(if command["t"] == "show" { StreamKind::Presence } else { StreamKind::Doc })
}

fn id(command: &Value) -> (StreamKind, String) {
    (kind(command), command["key"].as_str().unwrap().to_owned())
}

impl<'a> Player<'a> {
    fn new(transcript: &'a Value) -> Self {
        let steps = transcript["steps"].as_array().unwrap();
        let commands: Vec<_> = steps.iter().filter_map(|step| step.get("do")).collect();
        let (mut bare, mut named, mut numbers) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        for command in commands {
            let operation = &command["json"];
            let number = numbers.entry(id(command)).or_insert(0u64);
            let fits = match (command["t"].as_str().unwrap(), kind(command)) {
                ("open", _) => command.get("throttle").is_none(),
                ("edit", StreamKind::Crdt) => {
                    *number += 1;
                    let replica = ["type", "nodeId", "secret"].map(|name| operation[name].clone());
                    let known = named.entry(command["key"].as_str().unwrap().to_owned()).or_insert(replica.clone());
                    *known == replica
                        && ["pn-counter", "or-set"].map(Value::from).contains(&replica[0])
                        && command["id"] == *number
                        && operation["counter"] == *number
                }
                ("edit", _) => {
                    *number += 1;
                    command["id"] == *number
                }
                _ => true,
            };
            if !fits {
                bare.insert(id(command));
            }
        }
        let mut config =
            Config { reconnect: Reconnect { cap: 0, ..Reconnect::default() }, ..Config::new("ws://localhost/__ds") };
        if let Some(millis) = transcript["config"]["callTimeout"].as_u64() {
            config.call_timeout = millis;
        }
        let shared = Arc::new(Shared::new(Core::new(config, Seed([1; 32])), InboxLimits { items: 1, bytes: 1 }));
        *shared.fixed.lock().unwrap() = Some(Millis(0));
        let policy = Policy {
            node: "me".into(),
            secret: None,
            limits: CrdtLimits::default(),
            storage: Some(Arc::new(Named(named))),
        };
        let crdts = Crdts::new(&shared, &Arc::new(Replicas::new(policy)));
        drop(shared.command(|router, now| router.open(now)));
        let mut player = Self {
            steps,
            shared,
            crdts,
            codec: Codec::default(),
            socket: SocketId(0),
            now: 0,
            handles: BTreeMap::new(),
            keepers: BTreeMap::new(),
            bare,
            answered: 0,
            found: Default::default(),
            handled: 0,
        };
        player.drain();
        player
    }

    /// Plays all steps. Where a question for awareness was answered at once, the steps up to the transcript's answer
    /// count as one.
    fn play(&mut self, name: &str) {
        let mut written = [Vec::new(), Vec::new()];
        for (number, step) in self.steps.iter().enumerate() {
            self.step(number, step);
            for (written, member) in written.iter_mut().zip(["out", "events"]) {
                written.extend(step[member].as_array().into_iter().flatten().map(|value| masked(value.clone())));
            }
            if self.answered == 0 {
                let found =
                    std::mem::take(&mut self.found).map(|found| found.into_iter().map(masked).collect::<Vec<_>>());
                assert_eq!(found, std::mem::take(&mut written), "{name:?}, step {number}: {step}");
            }
        }
        assert_eq!(self.answered, 0, "{name:?}");
    }

    /// Time passes to the step's, then the step is taken.
    fn step(&mut self, number: usize, step: &Value) {
        let at = step["at"].as_u64().unwrap();
        loop {
            let due = self.shared.router().poll_timeout().filter(|due| due.0 <= at);
            let Some(Millis(due)) = due else { break };
            self.set_time(self.now.max(due));
            self.input(Input::Timeout);
        }
        self.set_time(at);
        for (name, what) in step.as_object().unwrap() {
            match name.as_str() {
                "do" => self.command(what),
                "open" => self.open(what),
                "in" => self.receive(number, what),
                "close" => {
                    let code = what["code"].as_u64().map(|code| u16::try_from(code).unwrap());
                    let reason = what["reason"].as_str().unwrap_or_default().to_owned();
                    let close = SocketClose { code, reason, ..SocketClose::default() };
                    self.input(Input::SocketClosed { socket: self.socket, close });
                }
                _ => {}
            }
        }
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
        *self.shared.fixed.lock().unwrap() = Some(Millis(now));
    }

    fn input(&mut self, input: Input<'_>) {
        self.shared.command(|router, now| router.core_mut().handle_input(now, input));
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
            self.receive(0, &json!({"op": "HELLO", "payload": hello}));
        }
    }

    /// A frame of the server.
    fn receive(&mut self, number: usize, frame: &Value) {
        let mut payload = match &frame["hex"] {
            Value::String(text) => unhex(text),
            _ => frame["payload"].to_string().into_bytes(),
        };
        if frame["op"] == "DOC" && payload[1..].starts_with(&[0, 0]) && self.answers_nothing(number) {
            // The server has what is here, or the answer would be another than the transcript's.
            if let Some(Handle::Document(document)) = self.handles.values().flatten().next() {
                let state = document.yrs_doc().transact().state_vector().encode_v1();
                payload.truncate(3);
                payload.push(u8::try_from(state.len()).unwrap());
                payload.extend(state);
            }
        }
        let correlation = u32::try_from(frame["id"].as_u64().unwrap_or(0)).unwrap();
        let bytes = self.codec.encode(opcode(frame["op"].as_str().unwrap()), correlation, &payload, 256);
        self.input(Input::Message { socket: self.socket, bytes: &bytes });
    }

    /// True if the transcript's next answer that is no state vector is empty.
    fn answers_nothing(&self, number: usize) -> bool {
        let later = self.steps[number..].iter().map(|step| &step["do"]).filter(|command| command["t"] == "answer");
        later.map(|command| &command["hex"]).find(|hex| **hex != "00").is_some_and(|hex| hex == "0000")
    }

    fn command(&mut self, command: &Value) {
        let id = id(command);
        if command["t"] == "unfit" && kind(command) == StreamKind::Doc && !self.bare.contains(&id) {
            // Where the entry in question cannot be read, the task says so itself.
            self.keepers.get_mut(&id.1).unwrap().answer_next();
            self.drain();
            if self.found.iter().any(|found| !found.is_empty()) {
                return;
            }
        }
        let through = !self.bare.contains(&id) && command["t"] != "unfit";
        let done = match self.handles.get(&id).and_then(|handles| handles.last()) {
            _ if through && command["t"] == "open" => Some(self.open_handle(command)),
            Some(_) if through && command["t"] == "leave" => {
                self.handles.get_mut(&id).unwrap().pop();
                Some(Ok(()))
            }
            Some(handle) if through => Self::handle(handle, command, self.keepers.get_mut(&id.1), &mut self.answered),
            _ => None,
        };
        self.handled += usize::from(done.is_some());
        let done = match done {
            Some(done) => done,
            None => self.bare(command).map_err(EditError::from),
        };
        if let Err(error) = done {
            let refused = json!({"t": "refused", "error": {"code": error.code(), "message": error.to_string()}});
            self.found[1].push(refused);
        }
        self.drain();
    }

    fn open_handle(&mut self, command: &Value) -> Result<(), EditError> {
        let (kind, key) = id(command);
        let edits = |step: &&Value| step["do"]["t"] == "edit" && step["do"]["key"] == key.as_str();
        let handle = match kind {
            StreamKind::Presence => Handle::Room(Presence::open(&self.shared, &key).unwrap()),
            StreamKind::Doc => {
                let document = Document::open(&self.shared, &key, None).unwrap();
                self.keepers.entry(key.clone()).or_insert_with(|| document.keeper(&self.shared));
                Handle::Document(document)
            }
            _ if self.steps.iter().find(edits).is_some_and(|step| step["do"]["json"]["type"] == "or-set") => {
                Handle::Tags(self.crdts.set(&key)?)
            }
            _ => Handle::Counter(self.crdts.counter(&key)?),
        };
        self.handles.entry((kind, key)).or_default().push(handle);
        Ok(())
    }

    /// A command through a handle; `None` when there is none for it.
    fn handle(
        handle: &Handle,
        command: &Value,
        keeper: Option<&mut Keeper>,
        answered: &mut usize,
    ) -> Option<Result<(), EditError>> {
        let (t, value) = (command["t"].as_str().unwrap(), &command["json"]);
        Some(match (handle, t) {
            (Handle::Counter(counter), "edit") => {
                let by = value["value"].as_u64().unwrap_or(1);
                if value["op"] == "increment" { counter.increment(by) } else { counter.decrement(by) }
            }
            (Handle::Tags(set), "edit") => {
                if value["op"] == "add" {
                    set.add(&value["value"])
                } else {
                    set.remove(&value["value"])
                }
            }
            (Handle::Room(room), "show") => {
                match (command.get("json"), command["now"] == true) {
                    (Some(value), true) => room.join(value).unwrap(),
                    (Some(value), false) => room.update(value).unwrap(),
                    (None, true) => room.leave(),
                    (None, false) => return None,
                }
                Ok(())
            }
            (Handle::Document(document), "edit") => {
                let text = document.yrs_doc().get_or_insert_text("text");
                text.push(&mut document.yrs_doc().transact_mut(), "x");
                Ok(())
            }
            (Handle::Document(_), "answer") => {
                keeper?.answer_next();
                Ok(())
            }
            (Handle::Document(document), "aware") => {
                match (command.get("hex"), *answered) {
                    (Some(_), 1..) => *answered -= 1,
                    (Some(value), 0) => document.set_awareness(value).unwrap(),
                    (None, _) => document.clear_awareness(),
                }
                Ok(())
            }
            _ => return None,
        })
    }

    /// A command as it is.
    fn bare(&mut self, command: &Value) -> Result<(), CommandError> {
        let (kind, key) = id(command);
        let stream = StreamId { kind, key: key.clone() };
        let bytes = || command.get("hex").map(|hex| unhex(hex.as_str().unwrap()));
        let payload = || match command.get("json") {
            Some(json) => Payload::from_json(&json.to_string()),
            None => bytes().map(Payload::Binary),
        };
        self.shared.command(|router, now| {
            let core = router.core_mut();
            match command["t"].as_str().unwrap() {
                "open" => core.open(now, stream, command["throttle"].as_u64())?,
                "leave" => core.leave(now, &stream),
                "edit" => core.edit(now, &stream, command["id"].as_u64().unwrap(), payload().unwrap_or_default())?,
                "show" => core.show(now, &key, payload(), command["now"] == true)?,
                "aware" => core.aware(now, &key, bytes()),
                "answer" => core.answer(now, &key, bytes().unwrap()),
                "unfit" => core.unfit(now, &stream, command["applied"] == true),
                other => panic!("unknown: {other}"),
            }
            Ok(())
        })
    }

    /// Performs the outputs as the driver does, and notes them.
    fn drain(&mut self) {
        loop {
            let output = self.shared.router().core_mut().poll_output();
            match output {
                None => return,
                Some(Output::OpenSocket { socket, .. }) => self.socket = socket,
                Some(Output::Send { message, .. }) => {
                    let frame = self.frame(&message);
                    self.found[0].push(frame);
                }
                Some(Output::CloseSocket { code, .. }) => self.found[0].push(json!({"close": code})),
                Some(Output::NeedToken) => {}
                Some(Output::Event(event)) => {
                    if let Event::Ask { document, question: Question::Awareness } = &event
                        && self
                            .handles
                            .get(&(StreamKind::Doc, document.clone()))
                            .is_some_and(|handles| !handles.is_empty())
                    {
                        self.answered += 1;
                    }
                    self.found[1].extend(told(&event));
                    self.shared.command(|router, now| router.route(now, event));
                }
            }
        }
    }

    fn frame(&mut self, message: &[u8]) -> Value {
        let Frame { opcode, correlation, payload } = self.codec.decode(message, &Limits::default()).unwrap();
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

#[test]
fn handles_do_what_the_transcripts_say() {
    // For documents to be opened in; it never runs, so that only the test answers.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/sync");
    let (mut transcripts, mut handled) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        for transcript in serde_json::from_str::<Vec<Value>>(&fs::read_to_string(&path).unwrap()).unwrap() {
            let mut player = Player::new(&transcript);
            player.play(transcript["name"].as_str().unwrap());
            transcripts += 1;
            handled += player.handled;
        }
    }
    assert!(transcripts >= 50 && handled >= 300, "{transcripts} transcripts, {handled} commands through handles");
}
