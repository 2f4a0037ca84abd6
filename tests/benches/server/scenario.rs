//! What is measured, how, and how good it must be.

use serde::Serialize;
use serde_json::Value;

use crate::{
    Result,
    load::{self, Load, Stream},
    payload,
    process::Server,
    serve::{Kind, Order},
    websocket,
};

/// Connections that get every event.
const AUDIENCE: usize = 500;
/// Subscribers of the state.
const SUBSCRIBERS: usize = 50;
/// Connections that do nothing.
const IDLE: usize = 5_000;
/// Rows of a state that others are measured beside.
const FEW_ROWS: usize = 20;
/// Connections opened before memory is read for the first time, so that what a server keeps once is not counted.
const SETTLED: usize = 64;

/// One line of the result.
pub(crate) struct Scenario {
    /// Its name on the command line and in the result.
    pub(crate) name: &'static str,
    work: Work,
    /// How many times `work` is done in one slice: a few tenths of a second.
    turns: usize,
    /// Ours may cost this many times the baseline; for idle connections, this many bytes each.
    bar: f64,
}

enum Work {
    /// Calls; a turn is `in_flight` on every connection. Judged per call.
    Call { connections: usize, in_flight: usize, params: fn() -> Value },
    /// A turn publishes this many events at once to [`AUDIENCE`] connections. Judged per event delivered.
    FanOut { at_once: usize },
    /// A turn changes one cell of a state with [`SUBSCRIBERS`] subscribers. Judged per change.
    Patch,
    /// [`IDLE`] connections that have got HELLO. Judged by resident memory.
    Idle,
    /// A turn changes one cell of a state with so many rows, which nobody follows. Judged per change, beside the same of a
    /// state with few.
    Growth { rows: usize },
}

/// Every scenario.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "rpc-small-16x4",
        work: Work::Call { connections: 16, in_flight: 4, params: payload::small },
        turns: 2_000,
        bar: 1.5,
    },
    Scenario {
        name: "rpc-small-256x1",
        work: Work::Call { connections: 256, in_flight: 1, params: payload::small },
        turns: 200,
        bar: 1.5,
    },
    Scenario {
        name: "rpc-7kb-compressed",
        work: Work::Call { connections: 16, in_flight: 1, params: payload::large },
        turns: 200,
        bar: 1.5,
    },
    Scenario { name: "fan-out-500-1", work: Work::FanOut { at_once: 1 }, turns: 150, bar: 1.5 },
    Scenario { name: "fan-out-500-10", work: Work::FanOut { at_once: 10 }, turns: 50, bar: 1.5 },
    Scenario { name: "fan-out-500-64", work: Work::FanOut { at_once: 64 }, turns: 15, bar: 1.5 },
    Scenario { name: "patch-10000-rows", work: Work::Patch, turns: 1_500, bar: 1.5 },
    Scenario { name: "growth-patch-8mb", work: Work::Growth { rows: 160_000 }, turns: 20_000, bar: 1.5 },
    Scenario { name: "idle-memory-5000", work: Work::Idle, turns: 1, bar: 4_096.0 },
];

/// A scenario's result, one line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    bench: String,
    /// What the two figures are: CPU microseconds of the server per operation, or resident bytes per connection.
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_bytes: Option<f64>,
    /// The median of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// The lowest and the highest of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_range: Option<[f64; 2]>,
    bar: f64,
    /// Absent when nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ok: Option<bool>,
    rounds: usize,
}

impl Scenario {
    /// Drives both servers in turns.
    pub(crate) fn compare(&self, rounds: usize) -> Result<Report> {
        eprintln!("{}: {rounds} rounds", self.name);
        if matches!(self.work, Work::Idle) {
            let (ours, baseline) = (idle_bytes(Kind::Ours)?, idle_bytes(Kind::Bare)?);
            let report = self.report("bytes per connection", 1, Some(ours), Some(baseline));
            return Ok(Report { ok: Some(ours < self.bar), ..report });
        }
        let mut rigs = match self.work {
            Work::Growth { rows } => {
                (Rig::with(&self.work, Kind::Ours, rows)?, Rig::with(&self.work, Kind::Ours, FEW_ROWS)?)
            }
            _ => (Rig::new(&self.work, Kind::Ours)?, Rig::new(&self.work, Kind::Bare)?),
        };
        let (mut ours, mut baseline) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            // Who goes first alternates, so that a machine that gets busier favours nobody.
            let pair = if round % 2 == 0 {
                let first = rigs.0.slice(self.turns)?;
                (first, rigs.1.slice(self.turns)?)
            } else {
                let first = rigs.1.slice(self.turns)?;
                (rigs.0.slice(self.turns)?, first)
            };
            // Round 0 warms up.
            if round > 0 {
                eprintln!("  ours {:.3} µs, baseline {:.3} µs, ratio {:.2}", pair.0, pair.1, pair.0 / pair.1);
                ours.push(pair.0);
                baseline.push(pair.1);
            }
        }
        let mut ratios: Vec<f64> = ours.iter().zip(&baseline).map(|(ours, baseline)| ours / baseline).collect();
        let ratio = median(&mut ratios);
        let report = self.report("CPU us per operation", rounds, Some(median(&mut ours)), Some(median(&mut baseline)));
        Ok(Report {
            ratio: Some(rounded(ratio)),
            ratio_range: Some([rounded(ratios[0]), rounded(ratios[rounds - 1])]),
            ok: Some(ratio <= self.bar),
            ..report
        })
    }

    /// Drives one server.
    pub(crate) fn drive(&self, kind: Kind, rounds: usize) -> Result<Report> {
        let (unit, figure) = if matches!(self.work, Work::Idle) {
            ("bytes per connection", idle_bytes(kind)?)
        } else {
            let mut rig = Rig::new(&self.work, kind)?;
            rig.slice(self.turns)?;
            let mut slices = (0..rounds).map(|_| rig.slice(self.turns)).collect::<Result<Vec<f64>>>()?;
            ("CPU us per operation", median(&mut slices))
        };
        let only = |wanted| (kind == wanted).then_some(figure);
        Ok(self.report(unit, rounds, only(Kind::Ours), only(Kind::Bare)))
    }

    fn report(&self, unit: &'static str, rounds: usize, ours: Option<f64>, baseline: Option<f64>) -> Report {
        let (ours, baseline) = (ours.map(rounded), baseline.map(rounded));
        let (us, bytes) = if matches!(self.work, Work::Idle) {
            ((None, None), (ours, baseline))
        } else {
            ((ours, baseline), (None, None))
        };
        Report {
            bench: self.name.to_owned(),
            unit,
            ours_us: us.0,
            baseline_us: us.1,
            ours_bytes: bytes.0,
            baseline_bytes: bytes.1,
            ratio: None,
            ratio_range: None,
            bar: self.bar,
            ok: None,
            rounds,
        }
    }
}

impl Report {
    /// Of figures that were measured in turns, ours beside the baseline's; `judge` has the medians and their ratio.
    pub(crate) fn of_pairs(
        bench: String,
        unit: &'static str,
        pairs: &[(f64, f64)],
        bar: f64,
        judge: impl Fn(f64, f64, f64) -> f64,
    ) -> Self {
        let (mut ours, mut baseline): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let mut ratios: Vec<f64> = pairs.iter().map(|(ours, baseline)| ours / baseline).collect();
        let (ours, baseline, ratio) = (median(&mut ours), median(&mut baseline), median(&mut ratios));
        Self {
            bench,
            unit,
            ours_us: Some(rounded(ours)),
            baseline_us: Some(rounded(baseline)),
            ours_bytes: None,
            baseline_bytes: None,
            ratio: Some(rounded(ratio)),
            ratio_range: Some([rounded(ratios[0]), rounded(ratios[ratios.len() - 1])]),
            bar,
            ok: Some(judge(ours, baseline, ratio) <= bar),
            rounds: pairs.len(),
        }
    }

    /// Of one figure in bytes, or in microseconds.
    pub(crate) fn of_one(bench: String, unit: &'static str, figure: f64, bar: f64) -> Self {
        let is_bytes = unit.contains("bytes");
        Self {
            bench,
            unit,
            ours_us: (!is_bytes).then_some(rounded(figure)),
            baseline_us: None,
            ours_bytes: is_bytes.then_some(rounded(figure)),
            baseline_bytes: None,
            ratio: None,
            ratio_range: None,
            bar,
            ok: Some(figure <= bar),
            rounds: 1,
        }
    }
}

/// One server with its load, ready to be measured.
struct Rig<'a> {
    work: &'a Work,
    server: Server,
    load: Load,
    /// What a turn sends on every connection.
    frames: Vec<u8>,
    row: u32,
}

impl<'a> Rig<'a> {
    fn new(work: &'a Work, kind: Kind) -> Result<Self> {
        let rows = match work {
            Work::Patch => payload::ROWS,
            Work::Growth { rows } => *rows,
            _ => 0,
        };
        Self::with(work, kind, rows)
    }

    fn with(work: &'a Work, kind: Kind, rows: usize) -> Result<Self> {
        let server = Server::start(kind, rows)?;
        let mut frames = Vec::new();
        let (connections, stream) = match work {
            Work::Call { connections, in_flight, params } => {
                let params = params();
                load::check_echo(server.port, &params)?;
                for correlation in 1..=*in_flight as u32 {
                    frames.extend(websocket::frame(&payload::request(correlation, &params)));
                }
                (*connections, Stream::Nothing)
            }
            Work::FanOut { .. } => (AUDIENCE, Stream::Topic),
            Work::Patch => (SUBSCRIBERS, Stream::State),
            Work::Idle | Work::Growth { .. } => (0, Stream::Nothing),
        };
        let load = Load::open(server.port, connections, stream)?;
        Ok(Self { work, server, load, frames, row: 0 })
    }

    /// The CPU time of one operation, averaged over `turns` turns; microseconds.
    fn slice(&mut self, turns: usize) -> Result<f64> {
        let before = self.server.cpu()?;
        let operations = match *self.work {
            Work::Call { connections, in_flight, .. } => {
                self.load.call(&self.frames, in_flight, turns)?;
                turns * connections * in_flight
            }
            Work::FanOut { at_once } => {
                for _ in 0..turns {
                    self.server.order(Order::Events(at_once as u32))?;
                    self.load.receive(at_once)?;
                }
                turns * AUDIENCE * at_once
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
            Work::Growth { .. } => {
                self.server.order(Order::Changes(u32::try_from(turns)?))?;
                turns
            }
            Work::Idle => turns,
        };
        let used = self.server.cpu()? - before;
        Ok(used as f64 / operations as f64 / 1_000.0)
    }
}

/// Resident bytes that one more idle connection costs.
fn idle_bytes(kind: Kind) -> Result<f64> {
    let server = Server::start(kind, 0)?;
    let mut load = Load::open(server.port, SETTLED, Stream::Nothing)?;
    server.cpu()?;
    let before = server.resident()?;
    load.add(server.port, IDLE, Stream::Nothing)?;
    server.cpu()?;
    let after = server.resident()?;
    Ok(after.saturating_sub(before) as f64 / IDLE as f64)
}

/// The median; sorts the figures.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}
