//! Correct histories: a small model of a service that keeps every promise, driven by a seed.
//!
//! Streams of every kind, clients that change node and come back, generations that take what they may, nodes that are
//! killed and frozen, rooms, quotas and messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::event::{Event, Function, History, How, Id, Key, Kind, Mark, Micros, Placed};
use super::{Digest, Loss, Promises};
use crate::random::Random;

const NODES: u32 = 3;
const CLIENTS: u32 = 6;
const LIMIT: u64 = 6;
const WINDOW: Micros = 400_000;

/// The history of this seed after so many steps, and what its service promises. A step is none to three events.
pub fn history(seed: u64, steps: usize) -> (History, Promises) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.finish();
    (world.history, world.promises)
}

/// A stream in its present life.
struct Stream {
    key: Key,
    how: How,
    /// What is left of former lives.
    past: Vec<Placed>,
    epoch: u64,
    /// Value before the first entry of this life.
    base: Digest,
    life: Vec<Entry>,
}

struct Entry {
    id: Id,
    /// Behind this entry.
    value: Digest,
    time: Micros,
}

impl Stream {
    fn head(&self) -> Mark {
        Mark { epoch: self.epoch, seq: self.life.len() as u64 }
    }

    fn value(&self, seq: u64) -> Digest {
        self.life[..seq as usize].last().map_or(self.base, |entry| entry.value)
    }

    fn append(&mut self, id: Id, time: Micros) -> Mark {
        let value = self.value(self.head().seq).after(self.how, id);
        self.life.push(Entry { id, value, time });
        self.head()
    }

    fn entries(&self) -> Vec<Placed> {
        let life = self.life.iter().zip(1..);
        let life = life.map(|(entry, seq)| Placed { id: entry.id, mark: Some(Mark { epoch: self.epoch, seq }) });
        self.past.iter().copied().chain(life).collect()
    }
}

struct Client {
    node: u32,
    writing: Option<Writing>,
    /// By stream; what a client of no node has, it comes back with.
    marks: Vec<Option<Mark>>,
    away: Vec<bool>,
    /// The room it is in.
    member: Option<(usize, Id)>,
}

struct Writing {
    stream: usize,
    id: Id,
    mark: Option<Mark>,
}

struct World {
    history: History,
    promises: Promises,
    random: Random,
    time: Micros,
    ids: u64,
    /// Final reads know positions.
    placed: bool,
    streams: Vec<Stream>,
    clients: Vec<Client>,
    /// Writes whose outcome no one knows, on their way.
    late: Vec<(usize, Id)>,
    rooms: Vec<Key>,
    /// Who is in each room from a time on.
    truth: Vec<(Micros, Vec<BTreeSet<Id>>)>,
    /// The frozen node, or the last one and when it was thawed.
    frozen: Option<(u32, Option<Micros>)>,
    quota: Key,
    granted: VecDeque<(Micros, u64)>,
    address: Key,
    messages: BTreeMap<u32, VecDeque<Id>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut history = History::default();
        let hows = [("list", How::Append), ("set", How::Edit), ("register", How::Set), ("document", How::Merge)];
        let streams: Vec<_> = hows
            .into_iter()
            .map(|(name, how)| Stream {
                key: history.key(name),
                how,
                past: Vec::new(),
                epoch: 1 + random.below(1000),
                base: Digest::default(),
                life: Vec::new(),
            })
            .collect();
        let clients = (0..CLIENTS).map(|client| Client {
            node: client % NODES,
            writing: None,
            marks: vec![None; streams.len()],
            away: vec![true; streams.len()],
            member: None,
        });
        let rooms = vec![history.key("room a"), history.key("room b")];
        let loss = if random.coin() { Loss::Within(200_000) } else { Loss::Never };
        Self {
            promises: Promises { loss, presence: 300_000, slack: 0 },
            time: 0,
            ids: 0,
            placed: random.coin(),
            clients: clients.collect(),
            late: Vec::new(),
            truth: vec![(0, vec![BTreeSet::new(); rooms.len()])],
            rooms,
            frozen: None,
            quota: history.key("quota"),
            granted: VecDeque::new(),
            address: history.key("user"),
            messages: BTreeMap::new(),
            streams,
            history,
            random,
        }
    }

    fn pick(&mut self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.random.below(bound) == 0
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        Id(self.ids)
    }

    fn tell(&mut self, client: usize, kind: Kind, key: Key, function: Function) {
        let node = self.clients[client].node;
        self.time += self.random.below(8_000);
        self.history.events.push(Event { time: self.time, process: client as u32, node, kind, key, function });
    }

    fn step(&mut self) {
        let client = self.pick(CLIENTS as usize);
        if self.frozen.is_some_and(|(node, until)| until.is_none() && node == self.clients[client].node) {
            return self.thaw();
        }
        match self.random.below(40) {
            0..13 => self.write(client),
            13..29 => self.follow(client),
            29..32 => self.room(client),
            32..34 => self.look(client),
            34..36 => self.ask(client),
            36..39 => self.message(client),
            _ => self.fault(),
        }
    }

    fn write(&mut self, client: usize) {
        if self.one_in(4) && !self.late.is_empty() {
            let late = self.pick(self.late.len());
            let (stream, id) = self.late.swap_remove(late);
            self.streams[stream].append(id, self.time);
        }
        let Some(Writing { stream, id, mark }) = self.clients[client].writing.take() else {
            let (stream, id) = (self.pick(self.streams.len()), self.id());
            let Stream { key, how, .. } = self.streams[stream];
            self.tell(client, Kind::Invoke, key, Function::Write { how, id, mark: None });
            self.clients[client].writing = Some(Writing { stream, id, mark: None });
            return;
        };
        let Stream { key, how, .. } = self.streams[stream];
        match (mark, self.random.below(10)) {
            (None, 0) => self.tell(client, Kind::Fail, key, Function::Write { how, id, mark }),
            (None, 1) => {
                self.late.push((stream, id));
                self.tell(client, Kind::Info, key, Function::Write { how, id, mark });
            }
            (None, _) => {
                let mark = Some(self.streams[stream].append(id, self.time));
                self.clients[client].writing = Some(Writing { stream, id, mark });
            }
            (Some(_), 0) => self.tell(client, Kind::Info, key, Function::Write { how, id, mark: None }),
            (Some(_), _) => {
                let mark = mark.filter(|_| self.placed || self.random.coin());
                self.tell(client, Kind::Ok, key, Function::Write { how, id, mark });
            }
        }
    }

    fn follow(&mut self, client: usize) {
        let index = self.pick(self.streams.len());
        let Stream { key, .. } = self.streams[index];
        let head = self.streams[index].head();
        let hash = self.streams[index].value(head.seq).hash();
        let had = self.clients[client].marks[index];
        let current = had.filter(|mark| mark.epoch == head.epoch);
        if self.clients[client].away[index] || self.one_in(12) {
            if self.clients[client].member.is_none() {
                self.clients[client].node = self.pick(NODES as usize) as u32;
            }
            let recovered = current.is_some() && !self.one_in(3);
            let given = (!recovered).then_some(hash);
            let function = Function::Subscribe { since: had, recovered, mark: head, hash: given };
            self.tell(client, Kind::Ok, key, function);
            self.clients[client].marks[index] = if recovered { current } else { Some(head) };
            self.clients[client].away[index] = false;
            return;
        }
        let Some(mark) = current.filter(|_| !self.one_in(30)) else {
            self.tell(client, Kind::Ok, key, Function::Snapshot { mark: head, hash });
            self.clients[client].marks[index] = Some(head);
            return;
        };
        for mark in (mark.seq + 1..=head.seq).map(|seq| Mark { epoch: head.epoch, seq }) {
            let Entry { id, value, .. } = self.streams[index].life[mark.seq as usize - 1];
            let hash = (!self.one_in(4)).then_some(value.hash());
            self.tell(client, Kind::Ok, key, Function::Observe { id, mark, hash });
            self.clients[client].marks[index] = Some(mark);
            if self.one_in(4) {
                break;
            }
        }
    }

    /// Changes who is in a room.
    fn enter(&mut self, room: usize, change: impl FnOnce(&mut BTreeSet<Id>)) {
        let mut rooms = self.truth.last().map(|(_, rooms)| rooms.clone()).unwrap_or_default();
        change(&mut rooms[room]);
        self.truth.push((self.time, rooms));
    }

    fn room(&mut self, client: usize) {
        if let Some((room, id)) = self.clients[client].member.take() {
            self.tell(client, Kind::Invoke, self.rooms[room], Function::Leave { id });
            self.enter(room, |room| _ = room.remove(&id));
            self.tell(client, Kind::Ok, self.rooms[room], Function::Leave { id });
        } else {
            let (room, id) = (self.pick(self.rooms.len()), self.id());
            self.tell(client, Kind::Invoke, self.rooms[room], Function::Join { id });
            self.enter(room, |room| _ = room.insert(id));
            self.tell(client, Kind::Ok, self.rooms[room], Function::Join { id });
            self.clients[client].member = Some((room, id));
        }
    }

    /// Shows a room as it was lately.
    fn look(&mut self, client: usize) {
        let room = self.pick(self.rooms.len());
        // The view is told up to 8 ms later.
        let ago = self.random.below(self.promises.presence - 8_000);
        let then = self.time.saturating_sub(ago);
        let mut ids: Vec<Id> = self.at(then)[room].iter().copied().collect();
        if let Some((node, None)) = self.frozen {
            // Its lease is out: others drop its members.
            ids.retain(|id| {
                !self.clients.iter().any(|client| client.node == node && client.member == Some((room, *id)))
            });
        }
        self.tell(client, Kind::Ok, self.rooms[room], Function::Members { ids });
    }

    fn at(&self, time: Micros) -> &[BTreeSet<Id>] {
        let next = self.truth.partition_point(|(since, _)| *since <= time);
        &self.truth[next.saturating_sub(1)].1
    }

    fn ask(&mut self, client: usize) {
        let (id, cost) = (self.id(), 1 + self.random.below(3));
        let question = Function::Grant { id, cost, limit: LIMIT, window: WINDOW };
        self.tell(client, Kind::Invoke, self.quota, question.clone());
        while self.granted.front().is_some_and(|(time, _)| time + WINDOW <= self.time) {
            self.granted.pop_front();
        }
        let left = LIMIT - self.granted.iter().map(|(_, cost)| cost).sum::<u64>();
        if cost <= left {
            self.granted.push_back((self.time, cost));
        }
        self.tell(client, if cost <= left { Kind::Ok } else { Kind::Fail }, self.quota, question);
    }

    fn message(&mut self, client: usize) {
        if self.random.coin() {
            let id = self.id();
            self.tell(client, Kind::Invoke, self.address, Function::Send { id });
            self.messages.entry(client as u32).or_default().push_back(id);
            self.tell(client, Kind::Ok, self.address, Function::Send { id });
            return;
        }
        let sender = self.random.below(u64::from(CLIENTS)) as u32;
        let waiting = self.messages.get_mut(&sender);
        let Some(id) = waiting.and_then(VecDeque::pop_front) else { return };
        if !self.one_in(6) {
            self.tell(0, Kind::Ok, self.address, Function::Receive { id });
        }
    }

    fn fault(&mut self) {
        let node = self.pick(NODES as usize) as u32;
        let fault = match self.random.below(4) {
            0 => {
                self.generation();
                Function::Generation
            }
            1 => {
                self.kill(node);
                Function::Killed
            }
            2 if self.frozen.is_none_or(|(_, until)| until.is_some()) => {
                self.frozen = Some((node, None));
                Function::Frozen
            }
            _ => return,
        };
        self.strike(node, fault);
    }

    fn strike(&mut self, node: u32, function: Function) {
        let event = Event { time: self.time, process: u32::MAX, node, kind: Kind::Info, key: Key::default(), function };
        self.history.events.push(event);
    }

    fn generation(&mut self) {
        for stream in &mut self.streams {
            if let Loss::Within(window) = self.promises.loss {
                let lost = stream.life.iter().rev().take_while(|entry| entry.time + window >= self.time).count();
                let lost = self.random.below(lost as u64 + 1) as usize;
                stream.life.truncate(stream.life.len() - lost);
            }
            stream.base = stream.value(stream.head().seq);
            stream.past = stream.entries();
            stream.life.clear();
            stream.epoch += 1 + self.random.below(9);
        }
    }

    fn kill(&mut self, node: u32) {
        for index in 0..self.clients.len() {
            if self.clients[index].node != node {
                continue;
            }
            self.clients[index].away.fill(true);
            if let Some((room, id)) = self.clients[index].member.take() {
                self.enter(room, |room| _ = room.remove(&id));
            }
        }
    }

    /// The frozen node goes on, and first shows a room as it was before.
    fn thaw(&mut self) {
        let Some((node, None)) = self.frozen else { return };
        self.frozen = Some((node, Some(self.time)));
        self.strike(node, Function::Thawed);
        let Some(client) = self.clients.iter().position(|client| client.node == node) else { return };
        let then = self.time.saturating_sub(3 * self.promises.presence);
        let ids = self.at(then)[0].iter().copied().collect();
        self.tell(client, Kind::Ok, self.rooms[0], Function::Members { ids });
    }

    fn finish(&mut self) {
        self.time += 1;
        for node in 0..NODES {
            for index in 0..self.streams.len() {
                let mut entries = self.streams[index].entries();
                if !self.placed {
                    entries.iter_mut().for_each(|entry| entry.mark = None);
                }
                let (key, function) = (self.streams[index].key, Function::ReadFinal { entries });
                let event = Event { time: self.time, process: CLIENTS + node, node, kind: Kind::Ok, key, function };
                self.history.events.push(event);
            }
        }
    }
}
