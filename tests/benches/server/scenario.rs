//! What is measured, how, and how good it must be.

use std::ops::Range;

use serde_json::Value;

use crate::{
    Result,
    content::Content,
    follower::{self, Follower},
    herd,
    load::{self, Load, Stream},
    payload,
    process::Server,
    report::{Target, in_turns},
    serve::{Kind, Order},
    single, websocket,
};

pub(crate) use crate::report::{Report, median};

/// Subscribers of the state.
const SUBSCRIBERS: usize = 50;
/// The unit of what is compared.
const CPU: &str = "CPU us per operation";
/// Rounds of what takes seconds.
const FEW_ROUNDS: usize = 5;
/// Processes of each server where the figures of one differ from another's by more than those of its rounds do: where the allocator has
/// put what is measured is decided once for all of them.
const PROCESSES: usize = 5;
/// The same of those that take long to set up.
const FEW_PROCESSES: usize = 3;

/// One line of the result.
pub(crate) struct Scenario {
    /// Its name on the command line and in the result.
    pub(crate) name: &'static str,
    work: Work,
    /// How many times `work` is done in one slice: a few tenths of a second.
    turns: usize,
    /// Of what is judged, as [`Work`] says.
    target: Target,
    /// The cost that an operation wants to have, where a ratio is judged; microseconds.
    aim: Option<f64>,
    /// Of what is judged beside, in a row of its own: the name of that row ends so.
    beside: Option<(&'static str, Target)>,
}

pub(crate) enum Work {
    /// Calls; a turn is `in_flight` on every connection. Judged per call, by the ratio to the bare server.
    Call { connections: usize, in_flight: usize, params: fn() -> Value },
    /// A turn publishes so many events at once to so many connections. Judged per event delivered, likewise.
    FanOut { audience: usize, at_once: usize, events: fn(u32) -> Order },
    /// A turn changes one cell of a state with [`SUBSCRIBERS`] subscribers. Judged per change, likewise.
    Patch,
    /// A turn changes something of `content`, which nobody follows. Judged by the ratio to the same of `beside`, which is small; the
    /// container alone is measured, too: caches hold a small one, and look-ups in a large one miss them.
    Growth { content: Content, beside: Content },
    /// A turn publishes one event. Judged is how much more a delivery to `many` costs than one to `few`, by the ratio to how much more
    /// it costs the bare server.
    Slope { many: usize, few: usize },
    /// So many connections come and follow a small state. Judged per connection, by the ratio to the bare server, and beside
    /// it by the peak of resident memory.
    Herd { connections: usize },
    /// So many native clients come back to a server that was killed and is started again. Judged by how long that takes, by the ratio
    /// to the window that the server had announced or to the CPU time that it needs, if that is more.
    Return { clients: usize },
    /// A turn has all of so many followers of a presence room join it, one right after the other. Judged per member, and beside
    /// it by the bytes on the wire.
    Room { members: usize },
    /// A turn sets a state of so many rows, of which one cell is another. Judged per MB of JSON; the floor is what writing and reading its
    /// text takes.
    Set { rows: usize },
    /// A state of so many rows is set, patched, replaced and shown. Judged by the longest time that keeps the runtime's thread.
    Stall { rows: usize },
    /// A turn publishes a burst of events, which the native client receives. Judged per event, by the ratio to a bare client; one
    /// that hands events over is measured, too.
    Receive,
    /// The keystrokes of a paper, of which one other connection is told. A round is a paper. Judged is what the last ones cost, by the ratio
    /// to what they cost the bare server, which has the document by the same library and keeps no log; and beside it how much more than the
    /// first, likewise.
    Document,
    /// So many connections that have got HELLO, or as many as descriptors permit. Judged by the resident memory of each.
    Idle { connections: usize },
    /// Judged by the resident memory of each part of it, or of each byte of the state's JSON, and beside it by the peak.
    Memory(Content),
    /// Judged by the bytes of an operation on the wire, of clients that take short frames.
    Wire(Box<Work>),
}

impl Scenario {
    pub(crate) fn new(name: &'static str, work: Work, turns: usize, target: Target) -> Self {
        Self { name, work, turns, target, aim: None, beside: None }
    }

    /// With what an operation wants to cost, where a ratio is judged; microseconds.
    pub(crate) fn aiming(self, goal: f64) -> Self {
        Self { aim: Some(goal), ..self }
    }

    /// With what is judged beside.
    pub(crate) fn beside(self, name: &'static str, target: Target) -> Self {
        Self { beside: Some((name, target)), ..self }
    }

    /// Drives both servers, or both sizes, in turns.
    pub(crate) fn compare(&self, rounds: usize) -> Result<Vec<Report>> {
        eprintln!("{}: {rounds} rounds", self.name);
        match &self.work {
            Work::Idle { connections } => {
                let ours = single::idle_bytes(Kind::Ours, *connections, FEW_PROCESSES)?;
                let baseline = single::idle_bytes(Kind::Bare, *connections, 1)?;
                Ok(self.one("bytes per connection", ours, Some(baseline)))
            }
            Work::Memory(content) => {
                let (unit, held, peak) = single::memory(*content)?;
                Ok(self.two(unit, held, unit, peak))
            }
            Work::Herd { connections } => {
                let (pairs, peak) = herd::come(*connections)?;
                Ok([self.of_pairs(&pairs)].into_iter().chain(self.beside_row("bytes", peak)).collect())
            }
            Work::Return { clients } => Ok(vec![self.of_pairs(&herd::come_back(*clients, rounds.min(FEW_ROUNDS))?)]),
            Work::Room { members } => {
                let (each, wire) = single::room(*members, rounds.min(FEW_ROUNDS))?;
                Ok(self.two("CPU us per member", each, "bytes per member", wire))
            }
            Work::Set { rows } => {
                let (each, least) = single::set(*rows, self.turns, rounds)?;
                let reports = self.one("CPU us per MB", each, None).into_iter();
                Ok(reports.map(|report| report.beside_bare(least)).collect())
            }
            Work::Stall { rows } => Ok(self.one("CPU us", single::stall(*rows, rounds)?, None)),
            Work::Document => {
                let papers =
                    (0..rounds.min(FEW_ROUNDS)).map(|_| single::document(&[Kind::Ours, Kind::Bare], self.turns));
                let papers = papers.collect::<Result<Vec<_>>>()?;
                let of = |kind: usize| papers.iter().map(|paper| paper[kind]).collect::<Vec<_>>();
                let (ours, baseline) = (of(0), of(1));
                let last = ours.iter().zip(&baseline).map(|((ours, _), (bare, _))| (*ours, *bare)).collect::<Vec<_>>();
                let growth = self.beside.map(|(name, target)| {
                    Report::of_slopes(format!("{}-{name}", self.name), CPU, &ours, &baseline, target)
                });
                Ok([self.of_pairs(&last)].into_iter().chain(growth).collect())
            }
            Work::Wire(work) => {
                let wire = |kind, short| -> Result<f64> {
                    let mut rig = Rig::new(work, kind, Content::Nothing, short)?;
                    rig.slice(self.turns)?;
                    Ok(rig.wire)
                };
                Ok(self.one("bytes per operation", wire(Kind::Ours, true)?, Some(wire(Kind::Bare, false)?)))
            }
            Work::Receive => {
                let (mut pairs, mut all_least) = (Vec::new(), Vec::new());
                for process in 0..FEW_PROCESSES {
                    let [ours, bare, handing] =
                        [Follower::Ours, Follower::Bare, Follower::Handing].map(follower::Rig::start);
                    let (mut ours, mut bare, mut handing, mut least) = (ours?, bare?, handing?, Vec::new());
                    let baseline = || {
                        let bare = bare.slice(self.turns)?;
                        least.push((handing.slice(self.turns)?, bare));
                        Ok(bare)
                    };
                    let rounds = part(rounds, FEW_PROCESSES, process);
                    pairs.append(&mut in_turns(rounds, || ours.slice(self.turns), baseline)?);
                    // The first round warms up.
                    all_least.extend(least.drain(1..));
                }
                Ok(vec![self.of_pairs(&pairs).beside_least(&all_least)])
            }
            Work::Slope { many, few } => {
                let slopes = |kind, process| {
                    let (many, few) = (fan_out_of_one(*many), fan_out_of_one(*few));
                    let (mut many, mut few) = (Rig::of(&many, kind)?, Rig::of(&few, kind)?);
                    // As many deliveries of both.
                    let turns = self.turns * many.connections / few.connections;
                    in_turns(part(rounds, FEW_PROCESSES, process), || many.slice(self.turns), || few.slice(turns))
                };
                let (mut ours, mut baseline) = (Vec::new(), Vec::new());
                for process in 0..FEW_PROCESSES {
                    ours.append(&mut slopes(Kind::Ours, process)?);
                    baseline.append(&mut slopes(Kind::Bare, process)?);
                }
                Ok(vec![Report::of_slopes(self.name.to_owned(), CPU, &ours, &baseline, self.target)])
            }
            work @ Work::Growth { content, beside } => {
                let (mut pairs, mut alone) = (Vec::new(), Vec::new());
                for process in 0..PROCESSES {
                    let rig = |kind, content| Rig::new(work, kind, content, false);
                    let (mut ours, mut baseline) = (rig(Kind::Ours, *content)?, rig(Kind::Ours, *beside)?);
                    let (mut large, mut small) = (rig(Kind::Bare, *content)?, rig(Kind::Bare, *beside)?);
                    let mut own = Vec::new();
                    let beside = || {
                        own.push((large.slice(self.turns)?, small.slice(self.turns)?));
                        baseline.slice(self.turns)
                    };
                    let rounds = part(rounds, PROCESSES, process);
                    pairs.append(&mut in_turns(rounds, || ours.slice(self.turns), beside)?);
                    // The first round warms up.
                    alone.extend(own.drain(1..));
                }
                let report = Report::of_ratio(self.name, CPU, &pairs, self.target).beside_alone(&alone);
                Ok(vec![self.aimed(report)])
            }
            work => {
                let (mut ours, mut baseline) = (Rig::of(work, Kind::Ours)?, Rig::of(work, Kind::Bare)?);
                let pairs = in_turns(0..rounds, || ours.slice(self.turns), || baseline.slice(self.turns))?;
                Ok(vec![self.of_pairs(&pairs).wired(ours.wire, baseline.wire)])
            }
        }
    }

    fn of_pairs(&self, pairs: &[(f64, f64)]) -> Report {
        self.aimed(Report::of_ratio(self.name, CPU, pairs, self.target))
    }

    fn aimed(&self, report: Report) -> Report {
        match self.aim {
            Some(goal) => report.aimed_us(goal),
            None => report,
        }
    }

    fn one(&self, unit: &'static str, ours: f64, baseline: Option<f64>) -> Vec<Report> {
        vec![Report::of_figure(self.name.to_owned(), unit, ours, baseline, self.target)]
    }

    /// Of what is judged, and of what is judged beside, if anything is.
    fn two(&self, unit: &'static str, figure: f64, unit_beside: &'static str, beside: f64) -> Vec<Report> {
        self.one(unit, figure, None).into_iter().chain(self.beside_row(unit_beside, beside)).collect()
    }

    /// Of what is judged beside, if anything is.
    fn beside_row(&self, unit: &'static str, figure: f64) -> Option<Report> {
        let (name, target) = self.beside?;
        Some(Report::of_figure(format!("{}-{name}", self.name), unit, figure, None, target))
    }

    /// Drives one server, for profilers.
    pub(crate) fn drive(&self, kind: Kind, rounds: usize) -> Result<Report> {
        let (unit, figure) = match &self.work {
            Work::Idle { connections } => ("bytes per connection", single::idle_bytes(kind, *connections, 1)?),
            Work::Memory(content) => {
                let (unit, held, _) = single::memory(*content)?;
                (unit, held)
            }
            Work::Herd { connections } => {
                let pairs = herd::come(*connections)?.0.into_iter();
                let of_kind = pairs.map(|(ours, bare)| if kind == Kind::Ours { ours } else { bare });
                (CPU, median(&mut of_kind.collect::<Vec<_>>()))
            }
            Work::Return { clients } => ("us", herd::come_back(*clients, 1)?[0].0),
            Work::Room { members } => ("CPU us per member", single::room(*members, rounds)?.0),
            Work::Set { rows } => ("CPU us per MB", single::set(*rows, self.turns, rounds)?.0),
            Work::Stall { rows } => ("CPU us", single::stall(*rows, rounds)?),
            Work::Document => (CPU, single::document(&[kind], self.turns)?[0].0),
            Work::Receive => {
                let follower = if kind == Kind::Ours { Follower::Ours } else { Follower::Bare };
                let mut rig = follower::Rig::start(follower)?;
                let mut slices = (0..=rounds).map(|_| rig.slice(self.turns)).collect::<Result<Vec<f64>>>()?;
                (CPU, median(&mut slices))
            }
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

/// The rounds of one of so many processes.
fn part(rounds: usize, processes: usize, process: usize) -> Range<usize> {
    let each = rounds.div_ceil(processes);
    process * each..(process + 1) * each
}

fn fan_out_of_one(audience: usize) -> Work {
    Work::FanOut { audience, at_once: 1, events: Order::Events }
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
            Work::FanOut { at_once, events, .. } => {
                for _ in 0..turns {
                    self.server.order(events(at_once as u32))?;
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
