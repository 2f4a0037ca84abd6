//! What nodes on an engine cost beside the engine alone: `cargo xtask bench --cluster`.
//!
//! For each engine, in turns within one run: the engine's CPU per append of a node beside that of a raw client with the
//! same script and one listener ([`floor`]); a node's CPU per entry that another node appended beside that of one of its own; the time
//! from a change on one node until a client of another has it, beside the engine's own push. Then many streams that
//! nobody changes: what one costs a node and the engine, and how soon a node that lost its connection has everything. At last
//! twenty nodes at work ([`fleet`]).

mod engine;
mod fleet;
mod floor;
pub(crate) mod node;
mod streams;

use std::{cell::RefCell, ops::Range, thread, time::Instant};

use self::{
    engine::{Engine, Kind},
    floor::Floor,
    node::{Order, key},
};
use crate::{
    Result, payload,
    process::Server,
    report::{Report, in_turns, median},
    websocket::{self, Connection},
};

/// Streams that are changed at once.
const STREAMS: u32 = 64;
/// Turns in a slice.
const TURNS: u32 = 40;
/// Changes, one after another, in a slice that is timed.
const PUSHES: usize = 60;

/// Subscriptions that are asked for at once.
const AT_ONCE: usize = 250;

/// A scenario, of each engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The engine's CPU per append of a node that follows what it appends: at most 1.3 times that of the script alone,
    /// with one that listens.
    Append,
    /// A node's CPU per entry of another node: at most 1.5 times that of an own one.
    Arrival,
    /// From a change on a node until a client of another has it: at most 1 ms more than the engine's own push.
    Push,
    /// Many streams that are followed: memory, and the time to heal.
    Streams,
    /// Twenty nodes of 5,000 simulated clients, beside the same on paper.
    Fleet,
}

const ALL: [Work; 5] = [Work::Append, Work::Arrival, Work::Push, Work::Streams, Work::Fleet];

impl Work {
    fn name(self, kind: Kind) -> String {
        let work = match self {
            Self::Append => "append",
            Self::Arrival => "arrival",
            Self::Push => "push",
            Self::Streams => "streams",
            Self::Fleet => "fleet",
        };
        format!("cluster-{}-{work}", kind.name())
    }
}

/// Runs the scenarios whose names are selected; true if each held its bar.
pub(crate) fn run(selects: impl Fn(&str) -> bool, rounds: usize, list: bool, streams: u32) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut held = true;
    for kind in engine::ALL {
        for work in ALL {
            let name = work.name(kind);
            if !selects(&name) {
                continue;
            }
            if list {
                println!("{name}");
                continue;
            }
            eprintln!("{name}: {rounds} rounds");
            let engine = Engine::start(kind)?;
            let reports = match work {
                Work::Append => vec![append(&runtime, &engine, name, rounds)?],
                Work::Arrival => vec![arrival(&engine, name, rounds)?],
                Work::Push => vec![push(&runtime, &engine, name, rounds)?],
                Work::Streams => streams::run(&runtime, &engine, &name, streams)?,
                Work::Fleet => fleet::run(&engine, &name)?,
            };
            for report in reports {
                println!("{}", serde_json::to_string(&report)?);
                held &= report.ok != Some(false);
            }
        }
    }
    Ok(held)
}

/// A node of the application.
fn node(url: &str) -> Result<Server> {
    Server::spawn(&[node::SUBCOMMAND, url])
}

fn carry_out(node: &mut Server, order: Order) -> Result<()> {
    node.tell(&order.encode())?;
    node.answer()
}

fn micros(nanoseconds: u64, operations: u32) -> f64 {
    nanoseconds as f64 / f64::from(operations) / 1_000.0
}

fn append(runtime: &tokio::runtime::Runtime, engine: &Engine, name: String, rounds: usize) -> Result<Report> {
    let mut node = node(&engine.url("ours"))?;
    carry_out(&mut node, Order::Make { count: STREAMS })?;
    let entry = runtime.block_on(node::entry())?;
    let mut floor = runtime.block_on(Floor::open(engine, STREAMS, entry))?;
    let slice = |work: &mut dyn FnMut() -> Result<()>| {
        let before = engine.cpu()?;
        work()?;
        Ok(micros(engine.cpu()? - before, STREAMS * TURNS))
    };
    let pairs = in_turns(
        0..rounds,
        || slice(&mut || carry_out(&mut node, Order::Change { first: 0, count: STREAMS, stride: 1, turns: TURNS })),
        || slice(&mut || runtime.block_on(floor.append(TURNS))),
    )?;
    Ok(Report::of_pairs(name, "CPU us of the engine per append", &pairs, 1.3, |_, _, ratio| ratio))
}

fn arrival(engine: &Engine, name: String, rounds: usize) -> Result<Report> {
    let (mut a, mut b) = (node(&engine.url("ours"))?, node(&engine.url("ours"))?);
    carry_out(&mut a, Order::Make { count: STREAMS })?;
    let mut client = subscribe(b.port, &numbers(0..STREAMS))?;
    client.start()?;
    let mut buffer = vec![0; 64 * 1024];
    let order = Order::Change { first: 0, count: STREAMS, stride: 1, turns: 1 };
    let mut slice = |author: Option<&mut Server>| {
        let before = b.cpu()?;
        let mut author = author;
        for _ in 0..TURNS {
            carry_out(author.as_deref_mut().unwrap_or(&mut b), order)?;
            let mut missing = STREAMS as usize;
            while missing > 0 {
                let got = client.poll(&mut buffer)?;
                missing = missing.checked_sub(got).ok_or("more frames than there were changes")?;
                if got == 0 {
                    thread::yield_now();
                }
            }
        }
        Ok(micros(b.cpu()? - before, STREAMS * TURNS))
    };
    let slice = RefCell::new(&mut slice);
    let pairs = in_turns(0..rounds, || (slice.borrow_mut())(Some(&mut a)), || (slice.borrow_mut())(None))?;
    Ok(Report::of_pairs(name, "CPU us of a node per entry", &pairs, 1.5, |_, _, ratio| ratio))
}

fn push(runtime: &tokio::runtime::Runtime, engine: &Engine, name: String, rounds: usize) -> Result<Report> {
    let (mut a, b) = (node(&engine.url("ours"))?, node(&engine.url("ours"))?);
    carry_out(&mut a, Order::Make { count: 1 })?;
    let mut client = subscribe(b.port, &[0])?;
    let entry = runtime.block_on(node::entry())?;
    let mut floor = runtime.block_on(Floor::open(engine, 1, entry))?;
    let p50 = |push: &mut dyn FnMut() -> Result<f64>| {
        let mut times = (0..PUSHES).map(|_| push()).collect::<Result<Vec<f64>>>()?;
        Ok(median(&mut times))
    };
    let pairs = in_turns(
        0..rounds,
        || {
            p50(&mut || {
                let began = Instant::now();
                a.tell(&Order::Change { first: 0, count: 1, stride: 1, turns: 1 }.encode())?;
                client.read_message()?;
                let took = began.elapsed();
                a.answer()?;
                Ok(took.as_secs_f64() * 1e6)
            })
        },
        || p50(&mut || Ok(runtime.block_on(floor.push())?.as_secs_f64() * 1e6)),
    )?;
    Ok(Report::of_pairs(name, "p50 us; the bar is of the difference", &pairs, 1_000.0, |ours, floor, _| ours - floor))
}

fn numbers(range: Range<u32>) -> Vec<u32> {
    range.collect()
}

/// A connection that follows states of these numbers, each of which it has got.
fn subscribe(port: u16, numbers: &[u32]) -> Result<Connection> {
    let mut connection = Connection::begin(port)?;
    connection.finish()?;
    for batch in numbers.chunks(AT_ONCE) {
        let frames =
            batch.iter().flat_map(|number| websocket::frame(&payload::subscribe(number + 1, "state", &key(*number))));
        connection.send(&frames.collect::<Vec<u8>>())?;
        // The answers, and the snapshots.
        for _ in 0..2 * batch.len() {
            connection.read_message()?;
        }
    }
    Ok(connection)
}
