//! Replicas around one server that orders: it refuses, puts off, forgets and restarts; connections break before and after
//! what was sent has arrived; clients restart from what they saved. Every edit is counted once, or refused. The clients are
//! the core's, over frames; what they show is a [`Replica`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use datasole_core::{
    Client as Core, Config, EditOutcome, Event, Input, Limits, Millis, Output, Payload, Reconnect, Seed, SocketClose,
    SocketId, StreamId,
    crdt::{Applied, Change, Crdt, CrdtKind, CrdtLimits, Dot, Op, Replica},
    frame::{Codec, Opcode},
    wire,
};
use serde_json::json;

use super::{NODES, Stats, edit, excerpt, model};
use crate::random::Random;

/// How far a clock may be ahead without being set back, how much of the past the server remembers, and a day.
const DRIFT: u64 = 20;
const MEMORY: u64 = 60;
const DAY: u64 = 24 * 3_600_000;

struct Client {
    core: Core,
    codec: Codec,
    socket: SocketId,
    /// SUBSCRIBE's correlation id on this connection.
    subscription: u32,
    replica: Replica,
    /// What is on its disk.
    saved: String,
    skew: u64,
    /// The number of entries that have come over this connection, or before; `None` after a restart.
    heard: Option<usize>,
    connected: bool,
    /// On its way to the server: operations with their correlation ids.
    sent: VecDeque<(u32, String)>,
    refused: BTreeSet<u64>,
}

/// The CRDT's key.
const KEY: &str = "c";

impl Client {
    fn new(replica: Replica, now: u64) -> Self {
        let reconnect = Reconnect { cap: 0, ..Reconnect::default() };
        // Days pass here.
        let config = Config {
            reconnect,
            call_timeout: 1_000 * DAY,
            connect_timeout: 1_000 * DAY,
            ..Config::new("ws://localhost/__ds")
        };
        let mut core = Core::new(config, Seed([1; 32]));
        core.connect(Millis(now));
        core.open(Millis(now), StreamId::crdt(KEY), None).unwrap();
        let mut client = Self {
            core,
            codec: Codec::default(),
            socket: SocketId(0),
            subscription: 0,
            saved: replica.save().get().to_owned(),
            replica,
            skew: 0,
            heard: Some(0),
            connected: false,
            sent: VecDeque::new(),
            refused: BTreeSet::new(),
        };
        client.queue_own(now);
        client.pump();
        client
    }

    /// Hands what was restored to the core, which sends it.
    fn queue_own(&mut self, now: u64) {
        for op in self.replica.own().cloned().collect::<Vec<_>>() {
            let payload = Payload::Json(op.to_json());
            self.core.edit(Millis(now), &StreamId::crdt(KEY), op.counter(), payload).unwrap();
        }
    }

    /// A frame of the server.
    fn receive(&mut self, now: u64, opcode: Opcode, id: u32, payload: &[u8]) {
        let bytes = self.codec.encode(opcode, id, payload, 256);
        self.core.handle_input(Millis(now), Input::Message { socket: self.socket, bytes: &bytes });
        self.pump();
    }

    /// Does what the core says; what it tells changes the replica.
    fn pump(&mut self) {
        let limits = CrdtLimits::default();
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::OpenSocket { socket, .. } => self.socket = socket,
                Output::Send { message, .. } => {
                    let frame = self.codec.decode(&message, &Limits::default()).unwrap();
                    match frame.opcode {
                        Opcode::Subscribe => self.subscription = frame.correlation,
                        Opcode::CrdtOp => {
                            let wire::CrdtOp { op, .. } = serde_json::from_slice(frame.payload).unwrap();
                            self.sent.push_back((frame.correlation, op.get().to_owned()));
                        }
                        other => assert_eq!(other, Opcode::Ping, "not to be sent here"),
                    }
                }
                Output::Event(Event::Entry { payload, whole, .. }) => {
                    let text = payload.as_json().unwrap();
                    if whole {
                        self.replica.snapshot(Crdt::from_json(text, &limits).unwrap()).unwrap();
                    } else {
                        self.replica.remote(&Op::parse(text, &limits).unwrap()).unwrap();
                    }
                }
                Output::Event(Event::Settled { edit, outcome, .. }) => {
                    self.replica.settled(edit, &outcome);
                    if matches!(outcome, EditOutcome::Refused { .. }) {
                        self.refused.insert(edit);
                    }
                }
                // Two days without a word: what was on its way is lost.
                Output::CloseSocket { .. } => {
                    self.connected = false;
                    self.sent.clear();
                }
                Output::NeedToken | Output::Event(_) => {}
            }
        }
        self.saved = self.replica.save().get().to_owned();
    }
}

const HELLO: &[u8] =
    br#"{"protocol":2,"connectionId":"c","epoch":1,"heartbeat":86400000,"limits":{"maxPayload":1048576,
    "compressAbove":256,"maxSubscriptions":100,"maxPendingCalls":100,"maxEventName":256}}"#;

struct World {
    random: Random,
    kind: CrdtKind,
    now: u64,
    clients: Vec<Client>,
    server: Crdt,
    log: Vec<Op>,
    /// By client, the numbers of all edits.
    edits: BTreeMap<usize, BTreeSet<u64>>,
    /// Where snapshots begin to differ from the sum of the entries: the server has forgotten something.
    collected: bool,
    stats: Stats,
}

/// One run, to the end at which server and clients must have the same state, to the byte.
pub fn hub(seed: u64) -> Stats {
    let mut random = Random::new(seed);
    let kind = CrdtKind::ALL[(seed % 6) as usize];
    let clients = (0..3 + random.below(3) as usize).map(|who| {
        let replica = Replica::new(kind, NODES[who], CrdtLimits::default()).unwrap();
        Client::new(replica, 100 * DAY)
    });
    let mut world = World {
        clients: clients.collect(),
        random,
        kind,
        now: 100 * DAY,
        server: Crdt::new(kind),
        log: Vec::new(),
        edits: BTreeMap::new(),
        collected: false,
        stats: Stats::new(),
    };
    for client in 0..world.clients.len() {
        // Tolerated, or set back.
        world.clients[client].skew = [0, DRIFT, 2 * DRIFT, DAY / 24][world.random.below(4) as usize];
    }
    for _ in 0..80 {
        world.step();
    }
    world.end();
    world.stats
}

impl World {
    fn step(&mut self) {
        self.now += self.random.below(4);
        let who = self.random.below(self.clients.len() as u64) as usize;
        let connected = self.clients[who].connected;
        match self.random.below(20) {
            0..=5 => self.edit(who),
            6 | 7 => self.wake(who),
            8..=11 => self.serve(who, true),
            12..=14 => self.hear(who),
            15 if connected && self.random.coin() => self.disconnect(who),
            15 | 16 if !connected => self.connect(who),
            17 if self.random.coin() => self.restart(who),
            18 if self.random.below(4) == 0 => self.forget(),
            19 if self.random.coin() => self.edit_v1(),
            _ => {}
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    fn edit(&mut self, who: usize) {
        let edit = edit(&mut self.random, self.kind);
        let client = &mut self.clients[who];
        let Some(op) = client.replica.edit(self.now + client.skew, edit).unwrap() else { return };
        // Before it is sent, as hosts do.
        client.saved = client.replica.save().get().to_owned();
        let payload = Payload::Json(op.to_json());
        client.core.edit(Millis(self.now), &StreamId::crdt(KEY), op.counter(), payload).unwrap();
        client.pump();
        let new = self.edits.entry(who).or_default().insert(op.counter());
        assert!(new, "a number was given twice");
    }

    /// An edit by a client of version 1.
    fn edit_v1(&mut self) {
        let limits = CrdtLimits::default();
        let edit = edit(&mut self.random, self.kind);
        let Some(op) = self.server.compose("old", self.now, edit, &limits).unwrap() else { return };
        let op = self.server.from_v1(op.to_json_v1().get(), self.now, &limits).unwrap();
        assert_eq!(self.server.apply(&op, &limits), Ok(Applied::New));
        self.log.push(op);
        self.count("version 1");
    }

    /// Time passes for a client: what was put off is sent.
    fn wake(&mut self, who: usize) {
        let client = &mut self.clients[who];
        if client.connected {
            client.core.handle_input(Millis(self.now), Input::Timeout);
            client.pump();
        }
    }

    /// The server takes what came first, or refuses it, or puts it off.
    fn serve(&mut self, who: usize, moody: bool) {
        let Some((id, text)) = self.clients[who].sent.pop_front() else { return };
        let op = Op::parse(&text, &CrdtLimits::default()).unwrap();
        let is_edit = *op.change() != Change::None;
        let replay = self.server.has_seen(op.node(), op.counter());
        if moody && !replay && self.random.below(8) == 0 {
            self.count("put off");
            let error = json!({"message": "later", "code": -32004, "retryAfter": self.random.below(3)});
            self.answer(who, Opcode::Error, id, error.to_string().as_bytes());
        } else if moody && !replay && is_edit && self.random.below(10) == 0 {
            self.refuse(who, id);
        } else if self.publish(op) {
            if self.random.coin() {
                self.listen(who);
            }
            self.answer(who, Opcode::Ack, id, &[0]);
        } else {
            self.refuse(who, id);
            self.count("forgotten");
        }
    }

    fn refuse(&mut self, who: usize, id: u32) {
        let before = self.clients[who].refused.len();
        self.answer(who, Opcode::Error, id, br#"{"message":"no","code":-32602}"#);
        if self.clients[who].refused.len() > before {
            self.count("refused");
        }
    }

    fn answer(&mut self, who: usize, opcode: Opcode, id: u32, payload: &[u8]) {
        self.clients[who].receive(self.now, opcode, id, payload);
    }

    fn publish(&mut self, op: Op) -> bool {
        let limits = CrdtLimits { max_drift: DRIFT, ..CrdtLimits::default() };
        let stamp = op.stamp();
        let Ok((op, applied)) = self.server.admit(op, self.now, &limits) else { return false };
        if applied == Applied::Replay {
            self.count("replays");
            return true;
        }
        if op.stamp() != stamp {
            self.count("set back");
        }
        self.server.apply(&op, &limits).unwrap();
        self.log.push(op);
        true
    }

    fn hear(&mut self, who: usize) {
        let client = &mut self.clients[who];
        let Some(heard) = client.heard.filter(|_| client.connected) else { return };
        if let Some(op) = self.log.get(heard) {
            client.heard = Some(heard + 1);
            let entry = json!({"key": KEY, "op": op.to_json(), "epoch": 1, "seq": heard + 1});
            client.receive(self.now, Opcode::CrdtOp, 0, entry.to_string().as_bytes());
        }
    }

    fn listen(&mut self, who: usize) {
        while self.clients[who].heard.is_some_and(|heard| heard < self.log.len()) {
            self.hear(who);
        }
    }

    /// Some of what was sent has arrived; nobody says which.
    fn disconnect(&mut self, who: usize) {
        let sent = std::mem::take(&mut self.clients[who].sent);
        let arrived = self.random.below(sent.len() as u64 + 1) as usize;
        for (_, text) in sent.into_iter().take(arrived) {
            if self.publish(Op::parse(&text, &CrdtLimits::default()).unwrap()) {
                self.count("lost answers");
            }
        }
        let client = &mut self.clients[who];
        client.connected = false;
        let socket = client.socket;
        client.core.handle_input(Millis(self.now), Input::SocketClosed { socket, close: SocketClose::default() });
        client.pump();
        self.count("disconnected");
    }

    fn connect(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.connected = true;
        // Asks for another socket after a loss.
        client.core.handle_input(Millis(self.now), Input::Timeout);
        client.pump();
        let (socket, protocol) = (client.socket, Some("datasole.v2"));
        client.core.handle_input(Millis(self.now), Input::SocketOpened { socket, protocol });
        client.receive(self.now, Opcode::Hello, 0, HELLO);
        let recovered = client.heard.filter(|heard| *heard > 0);
        let subscription = client.subscription;
        let recovered = recovered.filter(|_| self.random.below(3) > 0);
        let seq = recovered.unwrap_or(self.log.len());
        let answer = json!({"epoch": 1, "seq": seq, "recovered": recovered.is_some()});
        self.answer(who, Opcode::Subscribed, subscription, answer.to_string().as_bytes());
        if recovered.is_none() {
            self.clients[who].heard = Some(seq);
            let state = (!self.log.is_empty()).then(|| self.server.to_json());
            let state = json!({"key": KEY, "state": state, "epoch": 1, "seq": seq});
            self.answer(who, Opcode::CrdtState, 0, state.to_string().as_bytes());
            self.count("snapshots");
        }
    }

    fn restart(&mut self, who: usize) {
        if self.clients[who].connected {
            self.disconnect(who);
        }
        let client = &mut self.clients[who];
        let replica = Replica::restore(&client.saved, CrdtLimits::default()).unwrap();
        let before = std::mem::replace(client, Client::new(replica, self.now));
        (client.skew, client.refused, client.heard) = (before.skew, before.refused, None);
        self.count("restarts");
    }

    /// The server restarts from its own text, and forgets what is old.
    fn forget(&mut self) {
        let text = self.server.to_json();
        self.server = Crdt::from_json(text.get(), &CrdtLimits::default()).unwrap().unwrap();
        let before = self.server.clone();
        self.now += if self.random.coin() { DAY } else { 0 };
        self.server.collect(self.now - MEMORY);
        self.collected |= self.server != before;
        if self.server.replicas() < before.replicas() {
            self.count("forgot replicas");
        }
        assert!(self.server.value() == before.value(), "forgetting shows");
    }

    fn end(&mut self) {
        for who in 0..self.clients.len() {
            for _ in 0..1_000 {
                self.now += 3;
                self.wake(who);
                if !self.clients[who].connected {
                    self.connect(who);
                }
                while !self.clients[who].sent.is_empty() {
                    self.serve(who, false);
                }
                if self.clients[who].replica.pending() == 0 {
                    break;
                }
            }
            assert_eq!(self.clients[who].replica.pending(), 0, "never settles");
        }
        self.check_edits();
        let expected = self.server.to_json();
        for who in 0..self.clients.len() {
            self.listen(who);
            let replica = &mut self.clients[who].replica;
            assert!(replica.current() == replica.confirmed(), "the overlay is left over");
            assert!(replica.value() == self.server.value(), "{} {}", replica.value(), self.server.value());
            if self.collected {
                replica.snapshot(Some(self.server.clone())).unwrap();
            }
            let text = replica.current().to_json();
            assert!(text.get() == expected.get(), "{}\n{}", excerpt(expected.get()), excerpt(text.get()));
        }
    }

    /// Every edit was published once, or refused, and the value is what was published.
    fn check_edits(&self) {
        let mut published = BTreeSet::new();
        // What takes the place of a refused operation is taken again from a replica that has been forgotten.
        for op in self.log.iter().filter(|op| *op.change() != Change::None) {
            let id = (op.node().to_owned(), op.counter());
            assert!(published.insert(id), "published twice: {}", op.to_json());
        }
        for (who, edits) in &self.edits {
            for counter in edits.difference(&self.clients[*who].refused) {
                let own = |(node, number): &Dot| node.as_ref() == NODES[*who] && number == counter;
                let done = self.log.iter().any(|op| match op.change() {
                    Change::None => false,
                    // An addition that was put off until the same replica had removed it: there is nothing left to do.
                    Change::Add(_, dots) | Change::Remove(_, dots) if dots.iter().any(own) => true,
                    _ => op.node() == NODES[*who] && op.counter() == *counter,
                });
                assert!(done, "an edit is missing: {counter} of {}", NODES[*who]);
            }
        }
        let (value, expected) = (self.server.value(), model::value(self.kind, &self.log));
        assert!(value == expected, "{}: {value}, must be {expected}", self.kind);
    }
}
