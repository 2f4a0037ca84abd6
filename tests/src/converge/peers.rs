//! Peers without a server: operations and states, lost, doubled, in any order, while peers are cut off and restart from
//! what they had written to disk.

use datasole_core::crdt::{Applied, Crdt, CrdtKind, CrdtLimits, Op};

use super::{NODES, Stats, edit, excerpt, model};
use crate::random::Random;

struct Peer {
    states: Vec<Crdt>,
    /// What is on its disk: written after each edit of its own, not when it hears of others.
    disk: Vec<String>,
    /// How far its clock is off.
    skew: u64,
    /// On which side of the partition it is.
    side: bool,
}

#[derive(Clone)]
enum Message {
    Operation(Op),
    State(usize, String),
}

struct World {
    random: Random,
    now: u64,
    peers: Vec<Peer>,
    /// Sender, receiver, message; any of them may be the next to arrive.
    air: Vec<(usize, usize, Message)>,
    /// Every operation, by type, and by whom.
    made: Vec<Vec<(usize, Op)>>,
    stats: Stats,
}

/// One run, to the end at which all peers must have the same states, to the byte.
pub fn peers(seed: u64) -> Stats {
    let mut random = Random::new(seed);
    let peers = (0..3 + random.below(3)).map(|_| Peer {
        states: CrdtKind::ALL.map(Crdt::new).into(),
        disk: CrdtKind::ALL.map(|kind| Crdt::new(kind).to_json().get().to_owned()).into(),
        skew: 0,
        side: false,
    });
    let (peers, made) = (peers.collect(), vec![Vec::new(); CrdtKind::ALL.len()]);
    let mut world = World { peers, random, now: 100_000, air: Vec::new(), made, stats: Stats::new() };
    for peer in 0..world.peers.len() {
        world.peers[peer].skew = if world.random.coin() { world.random.below(50) } else { 0 };
    }
    for _ in 0..40 {
        world.step();
    }
    world.end();
    world.stats
}

impl World {
    fn step(&mut self) {
        self.now += self.random.below(3);
        let who = self.random.below(self.peers.len() as u64) as usize;
        match self.random.below(16) {
            0..=5 => self.edit(who),
            6..=11 => self.deliver(),
            12 | 13 => self.tell_state(who),
            14 => self.peers[who].side = self.random.below(3) == 0,
            _ => self.restart(who),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.stats.entry(what).or_default() += 1;
    }

    fn edit(&mut self, who: usize) {
        let (which, now) = (self.random.below(6) as usize, self.now + self.peers[who].skew);
        let (edit, limits) = (edit(&mut self.random, CrdtKind::ALL[which]), CrdtLimits::default());
        let peer = &mut self.peers[who];
        let state = &mut peer.states[which];
        let Some(op) = state.compose(NODES[who], now, edit, &limits).unwrap() else { return };
        assert_eq!(state.apply(&op, &limits), Ok(Applied::New));
        peer.disk[which] = state.to_json().get().to_owned();
        self.made[which].push((who, op.clone()));
        for to in 0..self.peers.len() {
            self.send(who, to, Message::Operation(op.clone()));
        }
    }

    fn tell_state(&mut self, who: usize) {
        let (which, to) = (self.random.below(6) as usize, self.random.below(self.peers.len() as u64) as usize);
        let text = self.peers[who].states[which].to_json().get().to_owned();
        self.send(who, to, Message::State(which, text));
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        match self.random.below(10) {
            0 | 1 => self.count("lost"),
            2 | 3 => {
                self.air.push((from, to, message.clone()));
                self.air.push((from, to, message));
                self.count("doubled");
            }
            _ => self.air.push((from, to, message)),
        }
    }

    fn deliver(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.air.is_empty() {
                return;
            }
            let next = self.random.below(self.air.len() as u64) as usize;
            let (from, to, message) = self.air.swap_remove(next);
            if self.peers[from].side != self.peers[to].side {
                self.count("cut off");
                continue;
            }
            self.receive(to, &message);
        }
    }

    fn receive(&mut self, to: usize, message: &Message) {
        let limits = CrdtLimits::default();
        match message {
            Message::Operation(op) => {
                // As it is on the wire.
                let op = Op::parse(op.to_json().get(), &limits).unwrap();
                let which = CrdtKind::ALL.iter().position(|&kind| kind == op.kind()).unwrap();
                match self.peers[to].states[which].apply(&op, &limits).unwrap() {
                    Applied::New => self.count("operations"),
                    Applied::Replay => self.count("replays"),
                }
            }
            Message::State(which, text) => {
                let state = Crdt::from_json(text, &limits).unwrap().unwrap();
                self.peers[to].states[*which].merge(&state).unwrap();
                self.count("states");
            }
        }
    }

    fn restart(&mut self, who: usize) {
        let read = |text: &String| Crdt::from_json(text, &CrdtLimits::default()).unwrap().unwrap();
        let peer = &mut self.peers[who];
        let read: Vec<_> = peer.disk.iter().map(read).collect();
        let forgot = read != peer.states;
        peer.states = read;
        self.count(if forgot { "restarts that forgot" } else { "restarts" });
    }

    /// Everyone hears from everyone, by operations or by state.
    fn end(&mut self) {
        for from in 0..self.peers.len() {
            for to in 0..self.peers.len() {
                for which in (0..CrdtKind::ALL.len()).filter(|_| from != to) {
                    if self.random.below(4) == 0 {
                        let text = self.peers[from].states[which].to_json().get().to_owned();
                        self.receive(to, &Message::State(which, text));
                        continue;
                    }
                    let made = self.made[which].iter().filter(|(who, _)| *who == from);
                    let mut ops: Vec<_> = made.map(|(_, op)| Message::Operation(op.clone())).collect();
                    while !ops.is_empty() {
                        let next = self.random.below(ops.len() as u64) as usize;
                        self.receive(to, &ops.swap_remove(next));
                    }
                }
            }
        }
        for (which, kind) in CrdtKind::ALL.into_iter().enumerate() {
            let ops: Vec<Op> = self.made[which].iter().map(|(_, op)| op.clone()).collect();
            let expected = model::value(kind, &ops);
            let first = self.peers[0].states[which].to_json();
            for peer in &self.peers {
                let (text, value) = (peer.states[which].to_json(), peer.states[which].value());
                assert!(text.get() == first.get(), "{}\n{}", excerpt(first.get()), excerpt(text.get()));
                assert!(value == expected, "{kind}: {value}, must be {expected}");
                assert_eq!(peer.states[which].version(), ops.len() as u64, "{kind}: operations seen");
            }
        }
    }
}
