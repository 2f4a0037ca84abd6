//! One run: servers, clients and faults, all drawn from the seed.

mod comparison;

use std::{sync::Arc, time::Duration};

use datasole_core::patch::{Operation, Patch};
use datasole_server::{
    Limits, Replay, Server, StateError,
    backend::{
        BackendError, Kv, Memory,
        chaos::{Chaos, Faults},
        kv::Quota,
    },
    clock::Manual,
};
use serde_json::json;
use tokio::{
    runtime::Builder,
    task::yield_now,
    time::{advance, pause},
};

use super::{
    client::{Client, STREAMS},
    counted::counted,
    flawed::{Flaw, flawed},
    mail::{Outbox, sender},
    notes,
    record::{Outcome, Record},
    rooms::ROOMS,
    spy::Spy,
};
use crate::{
    history::{Function, Id, Kind},
    random::Random,
};

/// Steps of one run.
const STEPS: u64 = 400;
/// The process that tells of faults and of what the servers do themselves.
const WORLD: u32 = 0;
/// The quota of a run.
const LIMIT: u64 = 5;
const WINDOW: Duration = Duration::from_secs(1);

struct Node {
    server: Server,
    kv: Arc<dyn Kv>,
    outbox: Outbox,
    /// Its number in the chaos.
    number: usize,
    frozen: bool,
}

struct World {
    random: Random,
    clock: Arc<Manual>,
    memory: Memory,
    chaos: Chaos,
    record: Record,
    /// Those that run.
    nodes: Vec<Node>,
    clients: Vec<Client>,
    spy: Spy,
    generation: u64,
    /// Nothing that was sent is lost without a notice, and time hardly passes: streams are up to date without checks.
    calm: bool,
    replay: usize,
    epoch: u64,
    flaw: Option<Flaw>,
}

/// Runs a seed to its end.
///
/// # Panics
///
/// When a client does not come to where the log is once the faults are over.
pub fn run(seed: u64) -> Outcome {
    run_with(seed, None)
}

/// Runs a seed on a backend with a flaw.
///
/// # Panics
///
/// As [`run`], which here means that the flaw was found.
pub fn run_with(seed: u64, flaw: Option<Flaw>) -> Outcome {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        pause();
        let mut world = World::new(seed, flaw).await;
        for _ in 0..STEPS {
            world.step().await;
        }
        world.rest().await;
        let presence = world.presence().as_micros() as u64;
        world.record.end(presence)
    })
}

impl World {
    async fn new(seed: u64, flaw: Option<Flaw>) -> Self {
        let mut random = Random::new(seed);
        let clock = Arc::new(Manual::default());
        let names = std::sync::Mutex::new(Random::new(random.u64()));
        let memory = Memory::new(clock.clone(), Arc::new(move || names.lock().unwrap().u64()));
        let calm = random.below(3) == 0;
        let record = Record::new(clock.clone());
        let spy = Spy::new(&memory);
        let chaos = Chaos::new(random.u64(), Faults::default());
        let replay = if random.coin() { 4 } else { 1_000 };
        let (nodes, clients) = (2 + random.below(3), 1 + random.below(5) as u32);
        let mut world = Self {
            random,
            clock,
            memory,
            chaos,
            record,
            nodes: Vec::new(),
            clients: (1..=clients).map(Client::new).collect(),
            spy,
            generation: 0,
            calm,
            replay,
            epoch: 0,
            flaw,
        };
        for _ in 0..nodes {
            world.start();
        }
        for stream in 0..STREAMS.len() {
            world.write(0, stream, true);
            world.settle().await;
        }
        let faults = world.faults();
        world.chaos.set_faults(faults);
        world
    }

    /// Faults of this run: some of each, or none.
    fn faults(&mut self) -> Faults {
        let mut rate = |most: u64| if self.random.coin() { self.random.below(most) as u16 } else { 0 };
        let (refuse, lose_answer, drop, double, reorder) = (rate(60), rate(120), rate(300), rate(300), rate(400));
        Faults { refuse, lose_answer, drop: if self.calm { 0 } else { drop }, double, reorder }
    }

    fn start(&mut self) {
        let node = self.memory.node();
        let node = self.flaw.map_or_else(|| node.clone(), |flaw| flawed(node.clone(), flaw));
        let (number, backend) = self.chaos.wrap(node);
        // Far from each other, and below those of the memory's generations.
        self.epoch += 1_000_000;
        let replay = Replay::default().entries(self.replay);
        let history = Replay::default().entries(100_000).bytes(usize::MAX).age(None);
        let kv = backend.kv.clone();
        let server = Server::builder()
            .limits(Limits::default().with(|limits| {
                limits.replay = replay;
                limits.doc_compact_entries = 8;
            }))
            .topic("talk", history)
            .topic("news", history)
            .epoch(self.epoch)
            .clock(self.clock.clone())
            .backend(counted(backend, self.record.clone()))
            .build();
        let outbox = sender(number, server.clone(), self.record.clone());
        self.nodes.push(Node { server, kv, outbox, number, frozen: false });
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..53 => {
                self.chaos.step();
            }
            53 => self.ask_quota(),
            54..66 => self.write_somewhere(),
            66..68 => self.mingle(),
            68..72 => self.send_message(),
            72..84 => {
                let client = self.random.below(self.clients.len() as u64) as usize;
                if self.clients[client].is_connected() && self.random.below(12) > 0 {
                    self.clients[client].poll(&self.record);
                } else {
                    self.connect(client);
                }
            }
            84..94 => {
                let most = if self.calm { 40 } else { 400 };
                let time = 1 + self.random.below(most);
                self.pass(Duration::from_millis(time)).await;
            }
            94 if !self.calm => {
                let time = self.random.below(8_000);
                self.pass(Duration::from_millis(time)).await;
            }
            95 if self.random.below(4) == 0 => self.kill(),
            96 => {
                let node = self.some_node();
                let frozen = !self.nodes[node].frozen;
                self.set_frozen(node, frozen);
            }
            97 => {
                let node = self.some_node();
                self.record.count("cut");
                self.chaos.cut(self.nodes[node].number);
            }
            98 if self.random.below(8) == 0 => {
                self.record.count("generations");
                self.spy.look();
                self.generation = self.memory.begin_generation(self.generation);
                self.record.tell(WORLD, 0, Kind::Ok, "", Function::Generation);
            }
            _ => {
                // A burst: several writers at the same time.
                for _ in 0..2 + self.random.below(6) {
                    self.write_somewhere();
                }
            }
        }
        self.breathe().await;
    }

    /// Lets every task come as far as it can.
    async fn breathe(&mut self) {
        for _ in 0..4 {
            yield_now().await;
        }
        self.spy.look();
    }

    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        advance(time).await;
    }

    fn some_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    fn connect(&mut self, client: usize) {
        let node = self.some_node();
        self.clients[client].disconnect(&self.record);
        self.record.count("connects");
        let Node { server, number, .. } = &self.nodes[node];
        self.clients[client].connect(*number, server);
    }

    fn set_frozen(&mut self, node: usize, frozen: bool) {
        let node = &mut self.nodes[node];
        if node.frozen == frozen {
            return;
        }
        node.frozen = frozen;
        if frozen {
            self.record.count("frozen");
            self.chaos.freeze(node.number);
        } else {
            self.chaos.thaw(node.number);
        }
        let what = if frozen { Function::Frozen } else { Function::Thawed };
        self.record.tell(WORLD, node.number, Kind::Ok, "", what);
    }

    /// Ends a server as a crash does, and starts another in its place.
    fn kill(&mut self) {
        let node = self.some_node();
        let Node { server, number, outbox, .. } = self.nodes.swap_remove(node);
        drop(outbox);
        self.record.count("killed");
        self.chaos.stop(number);
        for client in self.clients.iter_mut().filter(|client| client.node == number) {
            client.disconnect(&self.record);
        }
        drop(server);
        self.record.tell(WORLD, number, Kind::Ok, "", Function::Killed);
        self.start();
    }

    /// Lets a server send a message to a client of any.
    fn send_message(&mut self) {
        let (node, client) = (self.some_node(), self.random.below(self.clients.len() as u64) as usize);
        let of_user = self.random.coin();
        let _ = self.nodes[node].outbox.send(self.clients[client].address(of_user));
    }

    /// Lets a client come to a room or leave it.
    fn mingle(&mut self) {
        let client = self.random.below(self.clients.len() as u64) as usize;
        let (room, leaves) = (self.random.below(ROOMS.len() as u64) as usize, self.random.below(4) == 0);
        self.clients[client].mingle(room, leaves, &self.record);
    }

    /// Asks the quota that all servers share.
    fn ask_quota(&mut self) {
        let (node, cost) = (self.some_node(), 1 + self.random.below(2));
        let Node { kv, number, .. } = &self.nodes[node];
        let (kv, number, record) = (kv.clone(), *number, self.record.clone());
        let process = 3_000 + u32::try_from(number).unwrap();
        let id = Id(record.next());
        let window = WINDOW.as_micros() as u64;
        let asked =
            move |kind| record.tell(process, number, kind, "quota", Function::Grant { id, cost, limit: LIMIT, window });
        asked(Kind::Invoke);
        tokio::spawn(async move {
            asked(match kv.take("quota", Quota { limit: LIMIT, window: WINDOW, cost }).await {
                Ok(taken) if taken.granted => Kind::Ok,
                Ok(_) => Kind::Fail,
                Err(_) => Kind::Info,
            });
        });
    }

    /// How long rooms may show what was, when a run has come to rest: the lease of a server and the time to notice; where
    /// letters were lost without a notice, also until the members are read again.
    fn presence(&self) -> Duration {
        Duration::from_secs(if self.calm { 20 } else { 50 })
    }

    fn write_somewhere(&mut self) {
        let node = self.some_node();
        let stream = self.random.below(STREAMS.len() as u64) as usize;
        self.write(node, stream, false);
    }

    /// Begins a write through a server.
    fn write(&mut self, node: usize, stream: usize, first: bool) {
        let (kind, key, how) = STREAMS[stream];
        let Node { server, number, .. } = &self.nodes[node];
        let (server, number, record) = (server.clone(), *number, self.record.clone());
        if matches!(kind, "crdt" | "doc") && !first && self.random.coin() {
            let client = self.random.below(self.clients.len() as u64) as usize;
            return self.clients[client].add(stream, &self.record);
        }
        let process = 1_000 + u32::try_from(number).unwrap();
        let id = record.begin(process, number, key, how);
        let life = self.record.life();
        // Some are too long to be pushed to other nodes.
        let is_long = kind != "crdt" && self.random.below(12) == 0;
        let value = if is_long { json!([id, "x".repeat(9_000)]) } else { json!(id) };
        tokio::spawn(async move {
            let (outcome, position) = match kind {
                "state" if first => told(server.state().set(key, &[value]).await),
                "state" => {
                    let operation = json!([{ "op": "add", "path": "/-", "value": value }]);
                    let operations: Vec<Operation> = serde_json::from_value(operation).unwrap();
                    told(server.state().patch(key, &Patch::from_operations(operations)).await)
                }
                "event" => match server.broadcast(key, &value).await {
                    Ok(()) => (Kind::Ok, None),
                    Err(datasole_server::EventError::Backend(error)) => (kind_of(&error), None),
                    Err(error) => panic!("{error}"),
                },
                "doc" => match server.docs().edit(key, |edit| notes::write(edit, id)).await {
                    Ok(()) => (Kind::Ok, None),
                    Err(datasole_server::DocError::Backend(error)) => (kind_of(&error), None),
                    Err(error) => panic!("{error}"),
                },
                _ => match server.crdt().set(key).add(&value).await {
                    Ok(()) => (Kind::Ok, None),
                    Err(datasole_server::EditError::Backend(error)) => (kind_of(&error), None),
                    Err(error) => panic!("{error}"),
                },
            };
            record.count(match outcome {
                Kind::Ok => "written",
                Kind::Fail => "not written",
                _ => "in doubt",
            });
            // Where an entry was appended is not known once it has moved to another life.
            let mark = position.filter(|_| record.life() == life);
            record.tell(process, number, outcome, key, Function::Write { how, id: Id(id), mark });
        });
    }

    /// Lets everything that waits go on until nothing does.
    async fn settle(&mut self) {
        let mut idle = 0;
        while idle < 6 {
            idle = if self.chaos.step() { 0 } else { idle + 1 };
            self.breathe().await;
            // What clients have asked for goes on when they are looked at.
            self.clients.iter_mut().for_each(|client| client.poll(&self.record));
        }
    }

    /// Ends the faults, and looks at everything.
    async fn rest(&mut self) {
        self.chaos.set_faults(Faults::default());
        for node in 0..self.nodes.len() {
            self.set_frozen(node, false);
        }
        for client in 0..self.clients.len() {
            if !self.clients[client].is_connected() {
                self.connect(client);
            }
        }
        // Another server opens every stream while the last writes are made.
        self.start();
        self.clients.push(Client::new(u32::try_from(self.clients.len() + 1).unwrap()));
        let (client, node) = (self.clients.len() - 1, self.nodes.len() - 1);
        self.clients[client].connect(self.nodes[node].number, &self.nodes[node].server);
        for stream in 0..STREAMS.len() {
            self.write(0, stream, false);
        }
        self.settle().await;
        for client in &mut self.clients {
            (0..ROOMS.len()).for_each(|room| client.mingle(room, false, &self.record));
        }
        // Pauses before repeats, turns; without calm also the check of streams that had no news.
        let (rounds, time) = if self.calm { (12, 2_000) } else { (24, 2_500) };
        for _ in 0..rounds {
            self.settle().await;
            self.pass(Duration::from_millis(time)).await;
            for client in 0..self.clients.len() {
                if !self.clients[client].is_connected() {
                    self.connect(client);
                }
            }
        }
        self.settle().await;
        self.compare().await;
    }
}

fn told(outcome: Result<datasole_server::Position, StateError>) -> (Kind, Option<crate::history::Mark>) {
    match outcome {
        Ok(position) => (Kind::Ok, Some(super::record::mark(position))),
        Err(StateError::Backend(error)) => (kind_of(&error), None),
        Err(error) => panic!("{error}"),
    }
}

/// What a writer knows after this error: nothing, or that nothing was stored.
fn kind_of(error: &BackendError) -> Kind {
    match error {
        BackendError::Unknown(_) => Kind::Info,
        BackendError::Unavailable(_) => Kind::Fail,
        other => panic!("{other}"),
    }
}
