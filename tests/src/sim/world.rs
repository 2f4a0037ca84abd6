//! The world's clock and everything that happens on it.

mod deeds;
mod links;
mod streams;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datasole_core::{Input, SocketClose, SocketId, Status, StreamKind, frame::Codec, tree::Tree};
use datasole_server::{Limits, Protocol, Replay};

use super::{
    Outcome, Stats,
    actor::{Actor, Order},
    link::Link,
    site::{COUNTER, KEYS, Site, TOPICS, Terms},
    trace::Trace,
    values,
};
use crate::random::Random;

/// No value of a state is longer as a frame; bytes.
const LONGEST: usize = 32 * 1024;
/// Long enough for every timeout, heartbeat and delay there is; milliseconds.
const HEALING: u64 = 90_000;
/// Long enough for what all clients do at once, where a server takes three at a time and a round trip is two seconds.
const QUIET: u64 = 30_000;

/// What is yet to happen.
enum What {
    /// Somebody does something, or something breaks.
    Act,
    /// The request to connect reaches the server.
    Reach(usize),
    /// The answer reaches the client.
    Opened(usize),
    Up(usize, Vec<u8>),
    Down(usize, Vec<u8>),
    /// The client's host learns that the socket is closed.
    Lost(usize, SocketClose),
    /// The server learns that the connection has ended.
    Gone(usize),
    /// The client reads again.
    Resume(usize),
    Token(usize, Result<Option<String>, String>),
    /// The host answers a question about its document.
    Answer(usize),
    /// The server's process is there again.
    Start,
    Heal,
}

struct World {
    random: Random,
    now: u64,
    order: u64,
    agenda: BTreeMap<(u64, u64), What>,
    site: Site,
    links: Vec<Link>,
    actors: Vec<Actor>,
    stats: Stats,
    trace: Trace,
    codec: Codec,
    nonce: u64,
    max_queue: usize,
    /// Things break.
    faulty: bool,
    /// Entries of streams are lost and doubled on open connections.
    leaky: bool,
    /// Some connections are made in version 1, whatever is offered.
    mixed: bool,
    clocks_jump: bool,
    /// Something between client and server puts off and refuses what is sent to open streams.
    moody: bool,
    /// Operations that have reached the server: CRDT, replica and number.
    arrived: BTreeSet<(String, String, u64)>,
}

/// One whole run.
///
/// # Panics
///
/// When a client or the server does what must not happen.
pub fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed);
    let end = 10_000 + world.random.below(50_000);
    world.run_until(end);
    world.heal();
    world.run_until(end + HEALING);
    world.check_calls();
    if world.leaky {
        // What leaked last shows when something follows it, and is repaired or reported.
        world.touch();
        world.run_until(end + HEALING + QUIET);
    }
    world.check_states();
    world.touch();
    world.run_until(end + HEALING + 2 * QUIET);
    world.check_states();
    world.check_streams();
    world.check_topics();
    world.site.check();

    let before = world.stats.get("inputs");
    world.run_until(end + HEALING + 3 * QUIET);
    let idle = world.stats.get("inputs") - before;
    world.stats.highest("highest idle inputs", idle);
    // A PING, its PONG and the timer, each second and client at most; the healing hand every five.
    assert!(idle <= world.actors.len() as u64 * QUIET / 1_000 * 4, "{idle} inputs while nothing happens");
    world.end()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let max_queue = [2_000, 8_000, 1 << 20][random.below(3) as usize];
        let terms = Terms {
            clock: Arc::default(),
            limits: Limits::default().with(|limits| {
                limits.max_queue = max_queue;
                limits.max_pending = [3, 1_024][random.below(2) as usize];
                limits.heartbeat = std::time::Duration::from_millis(1_000 + random.below(10_000));
                limits.replay = Replay::default().entries(random.magnitude(6) as usize).bytes(20_000).age(None); // Stamps are from long ago.
                limits.crdt_retention = std::time::Duration::from_secs(100 * 365 * 24 * 3_600);
            }),
            history: Replay::default().entries(random.below(20) as usize).bytes(20_000).age(None),
            window: random.coin().then(|| random.below(3_000)),
        };
        let actors = (0..2 + random.below(3) as usize).map(|index| Actor::new(index, &mut random)).collect();
        let mut world = Self {
            now: 0,
            order: 0,
            agenda: BTreeMap::new(),
            site: Site::new(terms),
            links: Vec::new(),
            actors,
            stats: Stats::default(),
            trace: Trace::default(),
            codec: Codec::default(),
            nonce: 0,
            max_queue,
            faulty: true,
            leaky: random.below(4) == 0,
            mixed: random.below(4) == 0,
            clocks_jump: random.below(3) == 0,
            moody: random.below(3) == 0,
            arrived: BTreeSet::new(),
            random,
        };
        world.plan(0, What::Act);
        for index in 0..world.actors.len() {
            world.actors[index].heal(0);
            world.settle(index);
        }
        world
    }

    fn plan(&mut self, at: u64, what: What) {
        self.order += 1;
        self.agenda.insert((at.max(self.now), self.order), what);
    }

    fn run_until(&mut self, end: u64) {
        loop {
            let alarm = self.actors.iter().enumerate().filter_map(|(index, actor)| Some((actor.alarm?, index))).min();
            let next = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            match (alarm, next) {
                (Some((at, index)), next) if at <= end && next.is_none_or(|next| at <= next) => {
                    self.now = self.now.max(at);
                    self.site.pass(self.now);
                    self.input(index, Input::Timeout);
                }
                (_, Some(at)) if at <= end => {
                    self.now = at;
                    self.site.pass(at);
                    let (_, what) = self.agenda.pop_first().unwrap();
                    self.happen(what);
                }
                _ => break,
            }
            let steps = self.stats.get("inputs");
            assert!(steps < 20_000 + self.now, "{steps} inputs within {} ms", self.now);
        }
        self.now = end;
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Act => {
                if self.faulty {
                    self.act();
                    let pause = self.random.magnitude(9);
                    self.plan(self.now + pause, What::Act);
                }
            }
            What::Reach(link) => self.reach(link),
            What::Opened(id) => {
                let Link { client, socket, protocol, deaf_down, .. } = self.links[id];
                if !deaf_down {
                    let protocol = Some(if protocol == Protocol::V2 { "datasole.v2" } else { "datasole.v1" });
                    self.input(client, Input::SocketOpened { socket, protocol });
                }
            }
            What::Up(id, message) => {
                let link = &mut self.links[id];
                match &mut link.peer {
                    _ if link.deaf_up => {}
                    Some(_) if link.stalled => link.held.push(message),
                    Some(_) => self.deliver(id, &message),
                    None => {}
                }
                self.flush();
            }
            What::Down(id, message) => self.arrive(id, &message),
            What::Lost(id, close) => {
                let Link { client, socket, .. } = self.links[id];
                self.input(client, Input::SocketClosed { socket, close });
            }
            What::Gone(id) => {
                self.links[id].peer = None;
                self.flush();
            }
            What::Resume(id) => self.resume(id),
            What::Answer(index) => {
                let host = self.actors[index].host(self.now);
                let Actor { open, client, .. } = &mut self.actors[index];
                open.doc.answer(client, host);
                self.settle(index);
            }
            What::Token(index, answer) => self.input(index, Input::Token(answer)),
            What::Start => self.site.up = true,
            What::Heal => {
                for index in 0..self.actors.len() {
                    self.actors[index].heal(self.now);
                    self.settle(index);
                }
                self.plan(self.now + 5_000, What::Heal);
            }
        }
    }

    // --- clients ---

    fn input(&mut self, index: usize, input: Input<'_>) {
        self.stats.count("inputs");
        if let Input::Message { socket, .. } | Input::SocketOpened { socket, .. } | Input::SocketClosed { socket, .. } =
            input
            && !self.actors[index].has(socket)
        {
            self.stats.count("late");
        }
        self.actors[index].input(self.now, input);
        self.settle(index);
    }

    fn settle(&mut self, index: usize) {
        let memory = self.actors[index].link.map_or(0, |link| self.links[link].memory);
        let orders = self.actors[index].pump(self.now, memory, &mut self.stats, &mut self.trace);
        self.check_stored(index);
        if let Some(link) = self.actors[index].link {
            for stream in std::mem::take(&mut self.actors[index].open.left) {
                self.links[link].tap.forget(&stream);
            }
        }
        if std::mem::take(&mut self.actors[index].open.quiet) {
            assert!(!orders.iter().any(|order| matches!(order, Order::Send(..))), "a further handle is no news");
        }
        for order in orders {
            match order {
                Order::Answer => {
                    let pause = if self.random.coin() { 0 } else { self.random.below(300) };
                    self.plan(self.now + pause, What::Answer(index));
                }
                Order::Open(socket, v2) => {
                    let v1 = !v2 || (self.mixed && !self.actors[index].keeper && self.random.coin());
                    let protocol = if v1 { Protocol::V1 } else { Protocol::V2 };
                    let mut link = Link::new(index, socket, protocol, &mut self.random, self.faulty);
                    let at = link.up(self.now, &mut self.random);
                    self.links.push(link);
                    self.actors[index].link = Some(self.links.len() - 1);
                    self.plan(at, What::Reach(self.links.len() - 1));
                }
                Order::Send(socket, message) => {
                    let id = self.find(index, socket);
                    self.check_sent(index, id, &message);
                    let at = self.links[id].up(self.now, &mut self.random);
                    self.plan(at, What::Up(id, message));
                }
                Order::Close(socket) => {
                    let id = self.find(index, socket);
                    let mut at = self.links[id].up(self.now, &mut self.random);
                    if self.faulty && self.random.below(3) == 0 {
                        // The server learns it late: the old connection lives on beside the new one.
                        at += self.random.below(10_000);
                    }
                    self.plan(at, What::Gone(id));
                    if self.random.coin() {
                        let late = self.now + self.random.below(2_000);
                        self.plan(late, What::Lost(id, close(1006)));
                    }
                }
                Order::Token => {
                    let at = self.now + self.random.below(500);
                    let answer = match self.random.below(10) {
                        0 if self.faulty => Err("the shop is closed".into()),
                        1 if self.faulty => continue,
                        token => Ok(Some(format!("token {token}"))),
                    };
                    self.plan(at, What::Token(index, answer));
                }
            }
        }
    }

    fn find(&self, client: usize, socket: SocketId) -> usize {
        self.links.iter().rposition(|link| link.client == client && link.socket == socket).unwrap()
    }

    // --- the end ---

    fn heal(&mut self) {
        self.faulty = false;
        self.settle_rules();
        self.plan(self.now, What::Heal);
    }

    /// Changes everything once more, so that whatever was lost shows.
    fn touch(&mut self) {
        for (at, key) in KEYS.into_iter().enumerate() {
            self.site.set(key, &serde_json::json!({ "last": [at, values::value(&mut self.random, 1)] }));
            if self.random.below(4) == 0 {
                self.site.remove(key);
            }
        }
        self.site.bump();
        for topic in TOPICS {
            self.site.publish(topic, 0);
        }
        self.touch_streams();
        self.flush();
    }

    fn check_calls(&self) {
        for actor in &self.actors {
            assert!(matches!(actor.client.status(), Status::Connected { .. }), "{:?}", actor.client.status());
            assert!(actor.watch.calls.is_empty(), "{} waits for {:?}", actor.name, actor.watch.calls);
        }
    }

    fn check_states(&self) {
        for key in KEYS.into_iter().chain([COUNTER]) {
            let value = self.site.get(key).map(Tree::from);
            for actor in self.actors.iter().filter(|actor| actor.follows(StreamKind::State, key)) {
                // Version 1 has no word for what was removed while a client was away.
                if value.is_some() || actor.watch.protocol == 2 {
                    assert_eq!(actor.client.state(key), value.as_ref(), "{key} of {}", actor.name);
                    assert!(!actor.watch.states.get(key).is_none_or(|state| state.awaited), "{key} of {}", actor.name);
                }
            }
        }
    }

    fn check_topics(&self) {
        for topic in TOPICS {
            let last = self.site.last(topic);
            for actor in self.actors.iter().filter(|actor| actor.follows(StreamKind::Event, topic)) {
                assert_eq!(actor.watch.last(topic), last, "the last {topic} of {}", actor.name);
            }
        }
    }

    fn end(mut self) -> Outcome {
        for _ in 0..self.site.ledger().executed.len() {
            self.stats.count("executed");
        }
        self.links.clear();
        assert_eq!(self.site.server.connection_count(), 0);
        assert_eq!(self.site.server.metrics_snapshot().connections, 0);
        Outcome { stats: self.stats, digest: self.trace.digest() }
    }
}

fn close(code: u16) -> SocketClose {
    SocketClose { code: Some(code), ..SocketClose::default() }
}
