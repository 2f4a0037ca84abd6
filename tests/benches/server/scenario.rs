//! What is measured, how, and how good it must be.

use serde_json::Value;

use crate::{
    Result,
    content::Content,
    load::{self, Load, Stream},
    payload,
    process::{self, Server},
    report::{Target, in_turns},
    serve::{Kind, Order},
    websocket,
};

pub(crate) use crate::report::{Report, median};

/// Subscribers of the state.
const SUBSCRIBERS: usize = 50;
/// Connections opened before memory is read for the first time, so that what a server keeps once is not counted.
const SETTLED: usize = 64;
/// Edits of a document under way.
const WINDOW: usize = 32;
/// The unit of what is compared.
const CPU: &str = "CPU us per operation";
/// Rounds of a fan-out to thousands, each of which takes seconds.
const FEW_ROUNDS: usize = 5;

/// One line of the result.
pub(crate) struct Scenario {
    /// Its name on the command line and in the result.
    pub(crate) name: &'static str,
    work: Work,
    /// How many times `work` is done in one slice: a few tenths of a second.
    turns: usize,
    /// Of what is judged, as [`Work`] says.
    target: Target,
    /// What an operation wants to cost, and can, where a ratio is judged; microseconds.
    aim: Option<(f64, f64)>,
}

enum Work {
    /// Calls; a turn is `in_flight` on every connection. Judged per call, by the ratio to the bare server.
    Call { connections: usize, in_flight: usize, params: fn() -> Value },
    /// A turn publishes so many events at once to so many connections. Judged per event delivered, likewise.
    FanOut { audience: usize, at_once: usize },
    /// A turn changes one cell of a state with [`SUBSCRIBERS`] subscribers. Judged per change, likewise.
    Patch,
    /// A turn changes something of `content`, which nobody follows. Judged by the ratio to the same of `beside`, which is small.
    Growth { content: Content, beside: Content },
    /// A turn publishes one event. Judged is how much more a delivery to `many` costs than one to `few`, by the ratio to how much more
    /// it costs the bare server.
    Slope { many: usize, few: usize },
    /// So many connections come and follow a small state. Judged per connection.
    Herd { connections: usize },
    /// A turn has all of so many followers of a presence room join it, one right after the other. Judged per member.
    Room { members: usize },
    /// So many edits of a document, of which one other connection is told. Judged is the ratio of the last ones to the first.
    Document { edits: usize },
    /// So many connections that have got HELLO, or as many as descriptors permit. Judged by the resident memory of each.
    Idle { connections: usize },
    /// Judged by the resident memory of each part of it, or of each byte of the state's JSON.
    Memory(Content),
    /// Judged by the bytes of an operation on the wire, of clients that take short frames.
    Wire(Box<Work>),
}

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    let call = |connections, in_flight, params| Work::Call { connections, in_flight, params };
    let fan_out = |audience, at_once| Work::FanOut { audience, at_once };
    let growth = |content, beside| Work::Growth { content, beside };
    let rows = |rows| growth(Content::Rows(rows), Content::Rows(20));
    let entries = |entries| growth(Content::Entries(entries), Content::Entries(10));
    let keys = |keys| growth(Content::Keys(keys), Content::Keys(1));
    let flat = Target::new(1.5, 1.5, 1.0);
    let as_bare = Target::new(1.5, 1.05, 1.0);
    vec![
        Scenario::new("rpc-small-16x4", call(16, 4, payload::small), 2_000, as_bare),
        Scenario::new("rpc-small-256x1", call(256, 1, payload::small), 200, as_bare),
        Scenario::new("rpc-7kb-compressed", call(16, 1, payload::large), 200, as_bare),
        Scenario::new("fan-out-10-1", fan_out(10, 1), 3_000, as_bare),
        Scenario::new("fan-out-100-1", fan_out(100, 1), 600, as_bare),
        Scenario::new("fan-out-500-1", fan_out(500, 1), 150, as_bare),
        Scenario::new("fan-out-500-10", fan_out(500, 10), 50, as_bare),
        Scenario::new("fan-out-500-64", fan_out(500, 64), 15, as_bare),
        Scenario::new("fan-out-1000-1", fan_out(1_000, 1), 80, as_bare),
        Scenario::new("patch-10000-rows", Work::Patch, 1_500, as_bare),
        Scenario::new("growth-patch-10kb", rows(200), 20_000, flat).aiming(3.0, 2.5),
        Scenario::new("growth-patch-100kb", rows(2_000), 20_000, flat).aiming(3.0, 2.5),
        // In a slice as much is stored as one snapshot has, which is made then: half a microsecond of a change.
        Scenario::new("growth-patch-1mb", rows(20_000), 20_000, Target::new(2.0, 1.5, 1.0)).aiming(3.0, 2.5),
        Scenario::new("growth-patch-10mb", rows(200_000), 20_000, flat).aiming(3.0, 2.5),
        // Of ten entries everything stays in the processor's caches, here and with one key.
        Scenario::new("growth-map-1000", entries(1_000), 20_000, flat).aiming(4.0, 2.7),
        Scenario::new("growth-map-10000", entries(10_000), 20_000, Target::new(3.0, 1.5, 1.0)).aiming(4.0, 2.7),
        Scenario::new("growth-map-100000", entries(100_000), 20_000, Target::new(3.0, 1.5, 1.0)).aiming(4.0, 2.7),
        Scenario::new("growth-keys-1000", keys(1_000), 20_000, Target::new(2.5, 1.5, 1.0)),
        Scenario::new("growth-keys-100000", keys(100_000), 20_000, Target::new(4.0, 1.5, 1.0)),
        Scenario::new("growth-fan-out-10000", Work::Slope { many: 10_000, few: 100 }, 4, Target::new(1.4, 1.1, 1.0)),
        Scenario::new("herd-10000", Work::Herd { connections: 10_000 }, 1, Target::new(120.0, 60.0, 40.0)),
        Scenario::new("room-1000", Work::Room { members: 1_000 }, 1, Target::new(80.0, 40.0, 15.0)),
        Scenario::new("document-260000", Work::Document { edits: 260_000 }, 20_000, flat).aiming(8.0, 5.0),
        Scenario::new("idle-memory-1000", Work::Idle { connections: 1_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("idle-memory-5000", Work::Idle { connections: 5_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("idle-memory-19000", Work::Idle { connections: 19_000 }, 1, Target::new(4_096.0, 2_000.0, 955.0)),
        Scenario::new("key-memory-100000", Work::Memory(Content::Keys(100_000)), 1, Target::new(950.0, 700.0, 400.0)),
        Scenario::new("state-memory-10mb", Work::Memory(Content::Rows(200_000)), 1, Target::new(45.0, 8.0, 3.0)),
        Scenario::new(
            "wire-call-small",
            Work::Wire(Box::new(call(1, 1, payload::small))),
            100,
            Target::new(90.0, 90.0, 50.0),
        ),
        // An event of 56 bytes; of 24, the goal is 60 and the floor 33.
        Scenario::new("wire-event-small", Work::Wire(Box::new(fan_out(1, 1))), 100, Target::new(92.0, 92.0, 65.0)),
    ]
}

impl Scenario {
    fn new(name: &'static str, work: Work, turns: usize, target: Target) -> Self {
        Self { name, work, turns, target, aim: None }
    }

    fn aiming(self, goal: f64, floor: f64) -> Self {
        Self { aim: Some((goal, floor)), ..self }
    }

    /// Drives both servers, or both sizes, in turns.
    pub(crate) fn compare(&self, rounds: usize) -> Result<Report> {
        eprintln!("{}: {rounds} rounds", self.name);
        match &self.work {
            Work::Idle { connections } => {
                let (ours, baseline) = (idle_bytes(Kind::Ours, *connections)?, idle_bytes(Kind::Bare, *connections)?);
                Ok(Report::of_bytes(self.name, "bytes per connection", ours, Some(baseline), None, self.target))
            }
            Work::Memory(content) => {
                let (unit, held, peak) = memory(*content)?;
                Ok(Report::of_bytes(self.name, unit, held, None, Some(peak), self.target))
            }
            Work::Herd { connections } => {
                let (each, peak) = herd(*connections)?;
                Ok(Report::of_bytes(self.name, "CPU us per connection", each, None, Some(peak), self.target))
            }
            Work::Room { members } => {
                let (each, wire) = room(*members, rounds.min(FEW_ROUNDS))?;
                Ok(Report::of_bytes(self.name, "CPU us per member", each, None, None, self.target).wired(wire, 0.0))
            }
            Work::Document { edits } => {
                let pair = document(*edits, self.turns)?;
                let report = Report::of_ratio(self.name, CPU, &[pair], self.target);
                Ok(match self.aim {
                    Some((goal, floor)) => report.aimed_us(goal, floor),
                    None => report,
                })
            }
            Work::Wire(work) => {
                let wire = |kind, short| -> Result<f64> {
                    let mut rig = Rig::new(work, kind, Content::Nothing, short)?;
                    rig.slice(self.turns)?;
                    Ok(rig.wire)
                };
                let (ours, baseline) = (wire(Kind::Ours, true)?, wire(Kind::Bare, false)?);
                Ok(Report::of_bytes(self.name, "bytes per operation", ours, Some(baseline), None, self.target))
            }
            Work::Slope { many, few } => {
                let rounds = rounds.min(FEW_ROUNDS);
                let slopes = |kind| {
                    let (many, few) = (fan_out_of_one(*many), fan_out_of_one(*few));
                    let (mut many, mut few) = (Rig::of(&many, kind)?, Rig::of(&few, kind)?);
                    // As many deliveries of both.
                    let turns = self.turns * many.connections / few.connections;
                    in_turns(rounds, || many.slice(self.turns), || few.slice(turns))
                };
                let (ours, baseline) = (slopes(Kind::Ours)?, slopes(Kind::Bare)?);
                Ok(Report::of_slopes(self.name, CPU, &ours, &baseline, self.target))
            }
            work => {
                let (mut ours, mut baseline) = match work {
                    Work::Growth { content, beside } => {
                        (Rig::new(work, Kind::Ours, *content, false)?, Rig::new(work, Kind::Ours, *beside, false)?)
                    }
                    _ => (Rig::of(work, Kind::Ours)?, Rig::of(work, Kind::Bare)?),
                };
                let pairs = in_turns(rounds, || ours.slice(self.turns), || baseline.slice(self.turns))?;
                let report = Report::of_ratio(self.name, CPU, &pairs, self.target).wired(ours.wire, baseline.wire);
                Ok(match self.aim {
                    Some((goal, floor)) => report.aimed_us(goal, floor),
                    None => report,
                })
            }
        }
    }

    /// Drives one server, for profilers.
    pub(crate) fn drive(&self, kind: Kind, rounds: usize) -> Result<Report> {
        let (unit, figure) = match &self.work {
            Work::Idle { connections } => ("bytes per connection", idle_bytes(kind, *connections)?),
            Work::Memory(content) => {
                let (unit, held, _) = memory(*content)?;
                (unit, held)
            }
            Work::Herd { connections } => ("CPU us per connection", herd(*connections)?.0),
            Work::Room { members } => ("CPU us per member", room(*members, rounds)?.0),
            Work::Document { edits } => (CPU, document(*edits, self.turns)?.0),
            work => {
                let many;
                let (work, content) = match work {
                    Work::Growth { content, .. } => (work, *content),
                    Work::Slope { many: audience, .. } => {
                        many = fan_out_of_one(*audience);
                        (&many, Content::Nothing)
                    }
                    Work::Wire(work) => (&**work, Content::Nothing),
                    Work::Patch => (work, Content::Rows(payload::ROWS)),
                    _ => (work, Content::Nothing),
                };
                let mut rig = Rig::new(work, kind, content, false)?;
                rig.slice(self.turns)?;
                let mut slices = (0..rounds).map(|_| rig.slice(self.turns)).collect::<Result<Vec<f64>>>()?;
                (CPU, median(&mut slices))
            }
        };
        Ok(Report::of_profile(self.name, unit, figure, kind == Kind::Ours, rounds))
    }
}

fn fan_out_of_one(audience: usize) -> Work {
    Work::FanOut { audience, at_once: 1 }
}

/// One server with its load, ready to be measured.
struct Rig<'a> {
    work: &'a Work,
    server: Server,
    load: Load,
    /// How many connections the load has.
    connections: usize,
    /// What a turn sends on every connection.
    frames: Vec<u8>,
    row: u32,
    /// Bytes of an operation on a connection in the last slice.
    wire: f64,
}

impl<'a> Rig<'a> {
    /// With what the work needs.
    fn of(work: &'a Work, kind: Kind) -> Result<Self> {
        let content = if matches!(work, Work::Patch) { Content::Rows(payload::ROWS) } else { Content::Nothing };
        Self::new(work, kind, content, false)
    }

    fn new(work: &'a Work, kind: Kind, content: Content, short: bool) -> Result<Self> {
        let server = Server::start(kind, content)?;
        let mut frames = Vec::new();
        let request = if short { payload::short_request } else { payload::request };
        let (connections, stream) = match work {
            Work::Call { connections, in_flight, params } => {
                let params = params();
                load::check_echo(server.port, &params)?;
                for correlation in 1..=*in_flight as u32 {
                    frames.extend(websocket::frame(&request(correlation, &params)));
                }
                (*connections, if short { Stream::Short } else { Stream::Nothing })
            }
            Work::FanOut { audience, .. } => (*audience, if short { Stream::ShortTopic } else { Stream::Topic }),
            Work::Patch => (SUBSCRIBERS, Stream::State),
            _ => (0, Stream::Nothing),
        };
        let load = Load::open(server.port, connections, stream)?;
        Ok(Self { work, server, load, connections, frames, row: 0, wire: 0.0 })
    }

    /// The CPU time of one operation, averaged over `turns` turns; microseconds.
    fn slice(&mut self, turns: usize) -> Result<f64> {
        let (before, moved) = (self.server.cpu()?, self.load.moved());
        let operations = match *self.work {
            Work::Call { in_flight, .. } => {
                self.load.call(&self.frames, in_flight, turns)?;
                turns * self.connections * in_flight
            }
            Work::FanOut { at_once, .. } => {
                for _ in 0..turns {
                    self.server.order(Order::Events(at_once as u32))?;
                    self.load.receive(at_once)?;
                }
                turns * self.connections * at_once
            }
            Work::Patch => {
                for _ in 0..turns {
                    // Far from the last one, as a prime distance is from nearly everything.
                    self.row = (self.row + 7_919) % payload::ROWS as u32;
                    self.server.order(Order::Patch(self.row))?;
                    self.load.receive(1)?;
                }
                turns
            }
            _ => {
                self.server.order(Order::Changes(u32::try_from(turns)?))?;
                turns
            }
        };
        let used = self.server.cpu()? - before;
        let receivers = if matches!(self.work, Work::Patch) { self.connections } else { 1 };
        self.wire = (self.load.moved() - moved) as f64 / (operations * receivers) as f64;
        Ok(used as f64 / operations as f64 / 1_000.0)
    }
}

/// CPU time for each of so many connections that come and follow a small state, and the most memory that was resident meanwhile.
fn herd(connections: usize) -> Result<(f64, f64)> {
    let connections = connections.min(process::descriptors());
    let server = Server::start(Kind::Ours, Content::Rows(20))?;
    let before = server.cpu()?;
    let _load = Load::open(server.port, connections, Stream::State)?;
    let used = server.cpu()? - before;
    Ok((used as f64 / connections as f64 / 1_000.0, server.peak()? as f64))
}

/// CPU time for each of so many members of a room who join it together, and the bytes that each of them sends and gets.
fn room(members: usize, rounds: usize) -> Result<(f64, f64)> {
    let members = members.min(process::descriptors());
    let server = Server::start(Kind::Ours, Content::Nothing)?;
    let mut load = Load::open(server.port, members, Stream::Room)?;
    let mut figures = Vec::new();
    let mut wire = 0;
    for round in 0..=rounds {
        let (before, moved) = (server.cpu()?, load.moved());
        load.tell(|member| websocket::frame(&payload::presence(2, Some(member))))?;
        let used = server.cpu()? - before;
        wire = load.moved() - moved;
        if round > 0 {
            figures.push(used as f64 / members as f64 / 1_000.0);
            eprintln!("  {:.1} µs and {} bytes a member", figures[figures.len() - 1], wire / members as u64);
        }
        load.tell(|_| websocket::frame(&payload::presence(3, None)))?;
    }
    Ok((median(&mut figures), wire as f64 / members as f64))
}

/// CPU time of one of the last `slice` of so many edits of a document, and of one of the first.
fn document(edits: usize, slice: usize) -> Result<(f64, f64)> {
    let updates = payload::typing(edits);
    let server = Server::start(Kind::Ours, Content::Nothing)?;
    let mut load = Load::open(server.port, 2, Stream::Document)?;
    // What a document greets with.
    load.tell(|_| Vec::new())?;
    let channel = load.channel();
    let mut figures = Vec::new();
    for slice in updates.chunks(slice) {
        let before = server.cpu()?;
        for window in slice.chunks(WINDOW) {
            let frames = (2..).zip(window).map(|(id, update)| websocket::frame(&payload::update(id, channel, update)));
            load.exchange(&frames.collect::<Vec<_>>())?;
        }
        load.tell(|_| Vec::new())?;
        figures.push((server.cpu()? - before) as f64 / slice.len() as f64 / 1_000.0);
        eprintln!("  {:.2} µs an edit", figures[figures.len() - 1]);
    }
    match figures[..] {
        [first, .., last] => Ok((last, first)),
        _ => Err("too few edits".into()),
    }
}

/// Resident bytes that one more idle connection costs.
fn idle_bytes(kind: Kind, connections: usize) -> Result<f64> {
    let possible = process::descriptors().saturating_sub(SETTLED);
    if possible < connections {
        eprintln!("  descriptors for {possible} of {connections} connections: `ulimit -n` permits more");
    }
    let connections = connections.min(possible);
    if connections == 0 {
        return Err("too few descriptors to measure connections: raise `ulimit -n`".into());
    }
    let server = Server::start(kind, Content::Nothing)?;
    let mut load = Load::open(server.port, SETTLED, Stream::Nothing)?;
    server.cpu()?;
    let before = server.resident()?;
    load.add(server.port, connections, Stream::Nothing)?;
    server.cpu()?;
    let after = server.resident()?;
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

/// Resident bytes that a server's content costs, and the most that it cost meanwhile: of each part, or of each byte of the state's
/// JSON. A server without content is the comparison.
fn memory(content: Content) -> Result<(&'static str, f64, f64)> {
    let (mut server, empty) = (Server::start(Kind::Ours, content)?, Server::start(Kind::Ours, Content::Nothing)?);
    // One change is made once the content is there.
    server.order(Order::Changes(1))?;
    server.cpu()?;
    empty.cpu()?;
    let (unit, parts) = match content {
        Content::Rows(rows) => ("bytes per byte of JSON", payload::table(rows).to_string().len()),
        _ => ("bytes per key", content.count()),
    };
    let before = empty.resident()?;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / parts as f64;
    Ok((unit, each(server.resident()?), each(server.peak()?)))
}
