//! Replicas around one server that orders: it refuses, puts off, forgets and restarts; connections break before and after
//! what was sent has arrived; clients restart from what they saved. Every edit is counted once, or refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use datasole_core::crdt::{Applied, Change, Crdt, CrdtKind, CrdtLimits, Dot, Op, Replica};

use super::{NODES, Stats, edit, excerpt, model};
use crate::random::Random;

/// How far a clock may be ahead without being set back, how much of the past the server remembers, and a day.
const DRIFT: u64 = 20;
const MEMORY: u64 = 60;
const DAY: u64 = 24 * 3_600_000;

struct Client {
    replica: Replica,
    /// What is on its disk.
    saved: String,
    skew: u64,
    /// The number of entries that have come over this connection, or before; `None` after a restart.
    heard: Option<usize>,
    connected: bool,
    /// On its way to the server.
    sent: VecDeque<String>,
    refused: BTreeSet<u64>,
}

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
        Client {
            saved: replica.save().get().to_owned(),
            replica,
            skew: 0,
            heard: Some(0),
            connected: false,
            sent: VecDeque::new(),
            refused: BTreeSet::new(),
        }
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
            6 | 7 => self.send(who, 3),
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
        client.saved = client.replica.save().get().to_owned();
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

    fn send(&mut self, who: usize, window: usize) {
        let client = &mut self.clients[who];
        if client.connected {
            let ops = client.replica.to_send(window);
            client.sent.extend(ops.iter().map(|op| op.to_json().get().to_owned()));
        }
    }

    /// The server takes what came first, or refuses it, or puts it off.
    fn serve(&mut self, who: usize, moody: bool) {
        let Some(text) = self.clients[who].sent.pop_front() else { return };
        let op = Op::parse(&text, &CrdtLimits::default()).unwrap();
        let (counter, is_edit) = (op.counter(), *op.change() != Change::None);
        let replay = self.server.has_seen(op.node(), counter);
        if moody && !replay && self.random.below(8) == 0 {
            self.clients[who].replica.retry(counter);
            self.count("put off");
        } else if moody && !replay && is_edit && self.random.below(10) == 0 {
            self.refuse(who, counter);
        } else if self.publish(op) {
            if self.random.coin() {
                self.listen(who);
            }
            self.clients[who].replica.acked(counter);
        } else {
            self.refuse(who, counter);
            self.count("forgotten");
        }
        let client = &mut self.clients[who];
        client.saved = client.replica.save().get().to_owned();
    }

    fn refuse(&mut self, who: usize, counter: u64) {
        let client = &mut self.clients[who];
        // Unless it has arrived by an earlier connection, and has been forgotten since.
        if client.replica.refused(counter).is_some() {
            client.refused.insert(counter);
            self.count("refused");
        }
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
            client.replica.remote(op).unwrap();
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
        for text in sent.into_iter().take(arrived) {
            if self.publish(Op::parse(&text, &CrdtLimits::default()).unwrap()) {
                self.count("lost answers");
            }
        }
        let client = &mut self.clients[who];
        client.connected = false;
        client.replica.detached();
        self.count("disconnected");
    }

    fn connect(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.connected = true;
        if client.heard.is_none() || self.random.below(3) == 0 {
            client.heard = Some(self.log.len());
            let state = (!self.log.is_empty()).then(|| self.server.to_json());
            let state = state.and_then(|text| Crdt::from_json(text.get(), &CrdtLimits::default()).unwrap());
            client.replica.snapshot(state).unwrap();
            self.count("snapshots");
        }
    }

    fn restart(&mut self, who: usize) {
        if self.clients[who].connected {
            self.disconnect(who);
        }
        let client = &mut self.clients[who];
        client.replica = Replica::restore(&client.saved, CrdtLimits::default()).unwrap();
        client.heard = None;
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
            if !self.clients[who].connected {
                self.connect(who);
            }
            for _ in 0..1_000 {
                self.send(who, 64);
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
