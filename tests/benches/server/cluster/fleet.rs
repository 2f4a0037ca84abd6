//! Twenty nodes of 5,000 clients each: what docs/scaling.md has on paper, measured.
//!
//! The clients are simulated: one connection carries the subscriptions of 200 of them, because a machine has not the
//! descriptors for 100,000 connections. Changes are spread over nodes, streams and time as 100,000 clients would make them.

use std::{
    thread,
    time::{Duration, Instant},
};

use datasole_tests::random::Random;

use super::{
    carry_out,
    engine::{Engine, Kind},
    node,
    node::Order,
    streams::most_bytes,
    subscribe,
};
use crate::{Result, process::Server, scenario::Report, websocket::Connection};

const NODES: usize = 20;
/// Clients of a node.
const CLIENTS: u32 = 5_000;
/// Streams that a client follows.
const FOLLOWED: u32 = 5;
/// Clients that follow a stream.
const FOLLOWERS: u32 = 10;
/// Connections of a node's clients.
const CONNECTIONS: u32 = 25;
/// All streams.
const STREAMS: u32 = NODES as u32 * CLIENTS * FOLLOWED / FOLLOWERS;
/// Streams between two that are changed at once.
const STRIDE: u32 = STREAMS / AT_ONCE;
/// Changes that a node makes at once.
const AT_ONCE: u32 = 10;
/// One node after another makes its changes: 2,000 a second, 0.02 of each client.
const TICK: Duration = Duration::from_millis(5);
const TICKS: u32 = 2_000;
/// Ticks until every connection has been read.
const ROUND: usize = 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// The figures on paper are of nodes at work. In this load every push wakes a process and is a write of its own: several
/// times as much, and more on a machine that does other things.
const BAR: f64 = 6.0;

/// Microseconds on paper, from docs/scaling.md: the engine's for a change that `nodes` follow, and those of all nodes.
fn paper(kind: Kind, nodes: f64) -> (f64, f64) {
    let (append, push, own, arrival) = match kind {
        Kind::Redis => (14.4, 4.6, 23.0, 10.8),
        // Each node hears of each change, in gathered notifications.
        Kind::Postgres => (90.0, 0.7 * NODES as f64 / nodes, 18.7, 14.5),
        Kind::Nats => (13.1, 4.6, 20.0, 15.7),
    };
    (append + nodes * push, own + (nodes - 1.0) * arrival + f64::from(FOLLOWERS) * 2.5)
}

/// A node and what its clients follow.
struct Member {
    server: Server,
    connections: Vec<Connection>,
    /// It is carrying out an order.
    busy: bool,
}

/// Memory of a node, and CPU of the engine and of all nodes for a change.
pub(super) fn run(engine: &Engine, name: &str) -> Result<Vec<Report>> {
    let mut random = Random::new(7);
    let mut author = node(&engine.url("ours"))?;
    carry_out(&mut author, Order::Make { count: STREAMS })?;
    let (mut fleet, mut followers, mut follows) = (Vec::new(), vec![0_u32; STREAMS as usize], 0_u64);
    let (mut bytes, began) = (0.0, Instant::now());
    for _ in 0..NODES {
        let server = node(&engine.url("ours"))?;
        let mut is_followed = vec![false; STREAMS as usize];
        let before = server.resident()?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let keys = sample(&mut random, CLIENTS * FOLLOWED / CONNECTIONS);
            for key in &keys {
                followers[*key as usize] += 1;
                is_followed[*key as usize] = true;
            }
            let mut connection = subscribe(server.port, &keys)?;
            connection.start()?;
            connections.push(connection);
        }
        let streams = is_followed.iter().filter(|is_followed| **is_followed).count() as u64;
        follows += streams;
        bytes += (server.resident()?.saturating_sub(before)) as f64 / streams as f64 / NODES as f64;
        fleet.push(Member { server, connections, busy: false });
    }
    let nodes = follows as f64 / f64::from(STREAMS);
    eprintln!("  {STREAMS} streams, each on {nodes:.1} of {NODES} nodes; followed in {:?}", began.elapsed());
    let cpu = |fleet: &[Member]| -> Result<(u64, u64)> {
        let nodes = fleet.iter().map(|member| member.server.cpu()).sum::<Result<u64>>()?;
        Ok((engine.cpu()?, nodes))
    };
    let before = cpu(&fleet)?;
    let pushed = change(&mut fleet, &mut random, &followers)?;
    let after = cpu(&fleet)?;
    let changes = f64::from(TICKS * AT_ONCE);
    let per_change = |after: u64, before: u64| (after - before) as f64 / 1_000.0 / changes;
    let (engine_us, nodes_us) = (per_change(after.0, before.0), per_change(after.1, before.1));
    let (engine_paper, nodes_paper) = paper(engine.kind, nodes);
    eprintln!(
        "  {changes} changes, {pushed} pushes to clients, all there; on paper {engine_paper:.0} and {nodes_paper:.0} us"
    );
    let beside = |what: &str, unit, ours, paper| {
        Report::of_pairs(format!("{name}-{what}"), unit, &[(ours, paper)], BAR, |_, _, ratio| ratio)
    };
    Ok(vec![
        Report::of_one(format!("{name}-memory"), "bytes of a node per followed stream", bytes, most_bytes(engine.kind)),
        beside("engine", "CPU us of the engine per change; the baseline is on paper", engine_us, engine_paper),
        beside("nodes", "CPU us of all nodes per change; the baseline is on paper", nodes_us, nodes_paper),
    ])
}

/// So many different streams.
fn sample(random: &mut Random, count: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..STREAMS).collect();
    for at in 0..count as usize {
        let other = at + random.below(all.len() as u64 - at as u64) as usize;
        all.swap(at, other);
    }
    all.truncate(count as usize);
    all
}

/// Has one node after another change states, and waits until all clients have all; how many frames that were.
fn change(fleet: &mut [Member], random: &mut Random, followers: &[u32]) -> Result<u64> {
    let (mut expected, mut got, mut buffer) = (0, 0, vec![0; 64 * 1024]);
    let began = Instant::now();
    for tick in 0..TICKS {
        let at = tick as usize % NODES;
        let first = random.below(u64::from(STRIDE)) as u32;
        let member = &mut fleet[at];
        if member.busy {
            member.server.answer()?;
        }
        member.server.tell(&Order::Change { first, count: AT_ONCE, stride: STRIDE, turns: 1 }.encode())?;
        member.busy = true;
        expected += (0..AT_ONCE).map(|number| u64::from(followers[(first + number * STRIDE) as usize])).sum::<u64>();
        let connections = fleet.iter_mut().flat_map(|member| &mut member.connections);
        for connection in connections.skip(tick as usize % ROUND).step_by(ROUND) {
            got += connection.poll(&mut buffer)? as u64;
        }
        thread::sleep((TICK * (tick + 1)).saturating_sub(began.elapsed()));
    }
    for member in fleet.iter_mut().filter(|member| member.busy) {
        member.server.answer()?;
    }
    let asked = began.elapsed();
    while got < expected {
        for connection in fleet.iter_mut().flat_map(|member| &mut member.connections) {
            got += connection.poll(&mut buffer)? as u64;
        }
        if began.elapsed() > asked + PATIENCE {
            return Err(format!("after {PATIENCE:?} clients have {got} of {expected} changes").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    eprintln!("  changed in {asked:?}, the last frame after {:?}", began.elapsed());
    Ok(got)
}
