//! Many streams that one node follows and nobody changes.

use std::time::{Duration, Instant};

use datasole_tests::proxy::Proxy;
use tokio::runtime::Runtime;

use super::{
    carry_out,
    engine::{Engine, Kind},
    node,
    node::Order,
    numbers, subscribe,
};
use crate::{Result, scenario::Report};

/// Subscriptions of one connection.
const PER_CONNECTION: u32 = 1_000;
/// Streams that change while the node hears nothing.
const CHANGED: u32 = 1_000;
/// A stream with one subscription may cost a node as many bytes: 3 KiB for the stream with its state of 170 bytes, and 500
/// for the subscription and what was sent.
const NODE_BYTES: f64 = 3_584.0;
/// On NATS: `async-nats` makes a channel for each subscription, whose first block has room for 32 messages of 208 bytes.
const NODE_BYTES_ON_NATS: f64 = NODE_BYTES + 7_168.0;
/// The same of the engine's, for a follower.
const ENGINE_BYTES: f64 = 1_024.0;
/// CPU that a node may take to have everything again once it lost its connection; microseconds for each stream.
const HEAL: f64 = 25.0;
const PATIENCE: Duration = Duration::from_secs(120);

/// Memory per stream of a node and of the engine, and the time to heal per stream.
pub(super) fn run(runtime: &Runtime, engine: &Engine, name: &str, count: u32) -> Result<Vec<Report>> {
    let proxy = runtime.block_on(Proxy::start(([127, 0, 0, 1], engine.port).into()));
    let mut author = node(&engine.url("ours"))?;
    carry_out(&mut author, Order::Make { count })?;
    eprintln!("  {count} states are made");
    let follower = node(&engine.url_at(proxy.address().port(), "ours"))?;
    // What a node keeps once.
    let mut connections = vec![subscribe(follower.port, &numbers(0..PER_CONNECTION.min(count)))?];
    follower.cpu()?;
    let (node_before, engine_before) = (follower.resident()?, engine.resident()?);
    let (began, node_cpu, engine_cpu) = (Instant::now(), follower.cpu()?, engine.cpu()?);
    for from in (PER_CONNECTION..count).step_by(PER_CONNECTION as usize) {
        connections.push(subscribe(follower.port, &numbers(from..(from + PER_CONNECTION).min(count)))?);
    }
    let more = f64::from(count.saturating_sub(PER_CONNECTION).max(1));
    let per_stream = |after: u64, before: u64| after.saturating_sub(before) as f64 / more;
    eprintln!(
        "  followed in {:?}; CPU us per stream: node {:.1}, engine {:.1}",
        began.elapsed(),
        per_stream(follower.cpu()?, node_cpu) / 1_000.0,
        per_stream(engine.cpu()?, engine_cpu) / 1_000.0,
    );
    let node_bytes = per_stream(follower.resident()?, node_before);
    let engine_bytes = per_stream(engine.resident()?, engine_before);
    for connection in &mut connections {
        connection.start()?;
    }
    let (node_cpu, engine_cpu) = (follower.cpu()?, engine.cpu()?);
    let began = Instant::now();
    proxy.end_all();
    let changed = CHANGED.min(count);
    carry_out(&mut author, Order::Change { first: 0, count: changed, stride: count / changed, turns: 1 })?;
    let (mut got, mut buffer) = (0, vec![0; 64 * 1024]);
    while got < changed as usize {
        for connection in &mut connections {
            got += connection.poll(&mut buffer)?;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("after {PATIENCE:?} clients have {got} of {changed} changes").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let healed = began.elapsed();
    let heal = (follower.cpu()? - node_cpu) as f64 / f64::from(count) / 1_000.0;
    eprintln!(
        "  healed in {healed:?}; CPU us per stream: node {heal:.1}, engine {:.1}",
        // What sessions of PostgreSQL had used that ended with their connections is not known any more.
        engine.cpu()?.saturating_sub(engine_cpu) as f64 / f64::from(count) / 1_000.0,
    );
    Ok(vec![
        Report::of_one(format!("{name}-node"), "bytes per followed stream", node_bytes, most_bytes(engine.kind)),
        Report::of_one(format!("{name}-engine"), "bytes per followed stream", engine_bytes, ENGINE_BYTES),
        Report::of_one(format!("{name}-heal"), "CPU us of the node per followed stream", heal, HEAL),
    ])
}

/// Memory that a stream may cost a node.
pub(super) fn most_bytes(kind: Kind) -> f64 {
    if kind == Kind::Nats { NODE_BYTES_ON_NATS } else { NODE_BYTES }
}
