//! The transcripts of open streams (`tests/vectors/sync`), replayed through the handles: what they do and the server
//! sends goes in, what is sent and told comes out as it is written.
//!
//! Values are this crate's own, so a comparison leaves out what a host decides: time stamps, and the content of
//! updates. Commands that no handle has go to the core as they are.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

#[path = "../../../client-core/tests/sync_cases/frames.rs"]
mod frames;
#[path = "../../../client-core/tests/sync_cases/written.rs"]
mod written;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
};

use datasole_core::{
    Client as Core, CommandError, Config, Event, Input, Millis, Output, Question, Reconnect, Seed, SocketClose,
    SocketId, StreamKind, SubscriptionId, crdt::CrdtLimits,
};
use serde_json::{Value, json};
use yrs::{ReadTxn, Text, Transact, updates::encoder::Encode};

use self::{
    frames::{frame, hex, message, unhex},
    written::{Numbers, hello, perform, request, stream, told},
};
use crate::{
    crdt::{Counter, CrdtStorage, Crdts, Policy, Replicas, Set},
    doc::{Document, Keeper},
    error::EditError,
    inbox::{Inbox, InboxLimits},
    presence::Presence,
    router::Shared,
    signal::Signal,
};

enum Handle {
    Counter(Counter),
    Tags(Set<Value>),
    Room(Presence<Value>),
    Document(Document),
}

/// The state or the topic that a handle follows.
enum Joined {
    State(Arc<Signal>),
    Topic(Arc<Inbox>),
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
    numbers: Numbers,
    joined: BTreeMap<u64, (SubscriptionId, String, Joined)>,
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
    stream(command).kind
}

fn id(command: &Value) -> (StreamKind, String) {
    let stream = stream(command);
    (stream.kind, stream.key)
}

/// A command to a call, an event, a state or a topic.
fn is_plain(command: &Value) -> bool {
    ["call", "cancel", "emit", "subscribe", "unsubscribe"].map(Value::from).contains(&command["t"])
}

impl<'a> Player<'a> {
    fn new(transcript: &'a Value) -> Self {
        let steps = transcript["steps"].as_array().unwrap();
        let commands = steps.iter().filter_map(|step| step.get("do")).filter(|command| !is_plain(command));
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
        let reconnect = Reconnect { cap: 0, ..Reconnect::default() };
        let mut config = Config { reconnect, mirror: true, ..Config::new("ws://localhost/__ds") };
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
            numbers: Numbers::default(),
            joined: BTreeMap::new(),
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
            self.receive(0, &json!({"op": "HELLO", "payload": hello(what)}));
        }
    }

    /// A frame of the server.
    fn receive(&mut self, number: usize, frame: &Value) {
        let mut frame = frame.clone();
        if frame["op"] == "DOC" && self.answers_nothing(number) {
            let mut payload = unhex(frame["hex"].as_str().unwrap());
            if payload[1..].starts_with(&[0, 0])
                && let Some(Handle::Document(document)) = self.handles.values().flatten().next()
            {
                // The server has what is here, or the answer would be another than the transcript's.
                let state = document.yrs_doc().transact().state_vector().encode_v1();
                payload.truncate(3);
                payload.push(u8::try_from(state.len()).unwrap());
                payload.extend(state);
                frame["hex"] = hex(&payload).into();
            }
        }
        self.input(Input::Message { socket: self.socket, bytes: &message(&frame) });
    }

    /// True if the transcript's next answer that is no state vector is empty.
    fn answers_nothing(&self, number: usize) -> bool {
        let later = self.steps[number..].iter().map(|step| &step["do"]).filter(|command| command["t"] == "answer");
        later.map(|command| &command["hex"]).find(|hex| **hex != "00").is_some_and(|hex| hex == "0000")
    }

    fn command(&mut self, command: &Value) {
        if is_plain(command) {
            self.plain(command).unwrap();
            self.handled += 1;
            return self.drain();
        }
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
                match command.get("json") {
                    Some(value) => room.update(value).unwrap(),
                    None => room.leave(),
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
        let numbers = &mut self.numbers;
        self.shared.command(|router, now| perform(router.core_mut(), now, command, numbers))
    }

    /// Calls, events, states and topics, as their handles have them from the router.
    fn plain(&mut self, command: &Value) -> Result<(), CommandError> {
        let number = command["id"].as_u64().unwrap_or_default();
        let (numbers, joined) = (&mut self.numbers, &mut self.joined);
        self.shared.command(|router, now| {
            match command["t"].as_str().unwrap() {
                "call" => {
                    let (call, _) = router.call(now, request(command))?;
                    numbers.calls.insert(number, call);
                }
                "subscribe" => {
                    let (kind, key) = id(command);
                    let (subscription, handle) = match kind {
                        StreamKind::State => {
                            let (subscription, signal) = router.join_state(now, &key)?;
                            (subscription, Joined::State(signal))
                        }
                        _ => {
                            let (subscription, inbox) = router.join_topic(now, &key)?;
                            (subscription, Joined::Topic(inbox))
                        }
                    };
                    joined.insert(number, (subscription, key, handle));
                }
                "unsubscribe" => match joined.remove(&number).unwrap() {
                    (subscription, key, Joined::State(signal)) => {
                        router.leave_state(now, &key, subscription, &signal);
                    }
                    (subscription, key, Joined::Topic(inbox)) => {
                        router.leave_topic(now, &key, subscription, &inbox);
                    }
                },
                _ => perform(router.core_mut(), now, command, numbers)?,
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
                Some(Output::Send { message, .. }) => self.found[0].push(frame(&message)),
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
                    self.found[1].extend(told(&event, &self.numbers));
                    self.shared.command(|router, now| {
                        router.route(now, event);
                        router.deliver();
                    });
                }
            }
        }
    }
}

/// The message without members that a host decides.
fn masked(mut value: Value) -> Value {
    if value["op"] == "DOC" {
        // The channel, the kind of the message, and of a sync message which step.
        let bytes = unhex(value["hex"].as_str().unwrap());
        value["hex"] = bytes[..if bytes[1] == 0 { 3 } else { 2 }].into();
    }
    if value["t"] == "ask" {
        value["hex"] = value["hex"].as_array().map_or(0, Vec::len).into();
    }
    if let Some(operation) = value.get_mut("data").and_then(Value::as_object_mut) {
        // The core writes it when it sends.
        operation.remove("done");
    }
    unstamp(&mut value);
    value
}

fn unstamp(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !["timestamp", "logical"].contains(&name.as_str()));
            members.values_mut().for_each(unstamp);
        }
        Value::Array(elements) => elements.iter_mut().for_each(unstamp),
        _ => {}
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

#[test]
fn frames_are_met_as_the_vectors_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/v2-frames.json");
    let file: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let frames = file["frames"].as_array().unwrap().iter().filter(|record| record["from"] == "server");
    let good = frames.filter(|record| record["op"] != "HELLO").map(|record| (record, &Value::Null));
    let wrong = file["malformed"].as_array().unwrap().iter().filter_map(|record| Some((record, record.get("client")?)));
    let nothing = json!({"steps": []});
    for (record, code) in good.chain(wrong) {
        let mut player = Player::new(&nothing);
        player.open(&json!({"protocol": 2}));
        player.input(Input::Message { socket: player.socket, bytes: &unhex(record["wire"].as_str().unwrap()) });
        let closed = player.found[0].iter().find_map(|sent| sent.get("close")).unwrap_or(&Value::Null);
        assert_eq!(closed, code, "{}", record["name"]);
    }
}
