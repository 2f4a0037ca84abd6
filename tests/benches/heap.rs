//! Bytes of heap that the server and the native client hold, and hold at most meanwhile, counted by the allocator.
//!
//! Run by `cargo xtask bench` (`cargo bench -p datasole-tests --bench heap`). `tests/heap.rs` holds more of them, of more
//! kinds of values, to bounds; here each is beside its goal. Standard output has one JSON line for each row; the exit status is 1
//! when a bar is missed.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::{net::TcpStream, process::ExitCode};

use datasole_client::Client;
use datasole_server::{Limits, Server};
use datasole_tests::{
    heap::{Heap, alone, greeted, pass, send},
    running::Running,
    table::Table,
};
use peak_alloc::PeakAlloc;
use serde_json::json;
use tokio::task::spawn_blocking;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;
const HEAP: Heap = Heap(&ALLOCATOR);

/// About 10 MB of JSON.
const ROWS: usize = 200_000;
const STATE: &str = "table";

/// Whether every row so far has held.
#[derive(Default)]
struct Rows {
    missed: bool,
}

impl Rows {
    fn report(&mut self, bench: &str, unit: &str, figure: f64, [bar, goal, floor]: [f64; 3]) {
        let figure = (figure * 1_000.0).round() / 1_000.0;
        self.missed |= figure > bar;
        let line = json!({
            "bench": bench, "unit": unit, "ours_bytes": figure, "bar": bar, "goal": goal, "floor": floor,
            "ok": figure <= bar, "rounds": 1,
        });
        println!("{line}");
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    // `cargo test --all-targets` starts benches too.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut rows = Rows::default();
    state(&mut rows).await;
    crowds(&mut rows).await;
    if rows.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A large state: what it takes when it is set, and at most while it is changed and shown.
async fn state(rows: &mut Rows) {
    let unit = "bytes per byte of JSON";
    let limits = Limits::default().with(|limits| limits.max_payload = 64 * 1024 * 1024);
    let running = Running::start(Server::builder().limits(limits).build()).await;
    let state = running.server.state();
    let table = Table::new(ROWS);
    let length = serde_json::to_string(&table).unwrap().len() as f64;

    let (held, peak) = HEAP.during(async { state.set(STATE, &table).await.map(drop).unwrap() }).await;
    rows.report("state-heap-10mb", unit, held as f64 / length, [6.0, 8.0, 3.0]);
    let mut most = |what: &str, peak: isize| {
        rows.report(&format!("state-heap-10mb-{what}"), unit, peak as f64 / length, [16.0, 16.0, 6.0]);
    };
    most("peak", peak);
    let change = |draft: &mut datasole_server::Draft<'_>| draft.set("/rows/10000/n", 1);
    let (more, peak) = HEAP.during(async { state.update(STATE, change).await.map(drop).unwrap() }).await;
    most("patch", held + peak);
    let held = held + more;
    let cell = Table { changed: Some((20_000, 2)), ..table };
    let (more, peak) = HEAP.during(async { state.set(STATE, &cell).await.map(drop).unwrap() }).await;
    most("set-cell", held + peak);
    let held = held + more;
    let others = Table { n: 3, ..table };
    let (more, peak) = HEAP.during(async { state.set(STATE, &others).await.map(drop).unwrap() }).await;
    most("replace", held + peak);
    let held = held + more;
    let mut socket = greeted(running.address);
    let (_, peak) = HEAP.during(async { spawn_blocking(move || follow(&mut socket)).await.unwrap() }).await;
    most("show", held + peak);
    alone(&running).await;
}

/// Follows the state until it is shown.
fn follow(socket: &mut TcpStream) {
    let payload = json!({ "kind": "state", "key": STATE }).to_string();
    let header = [0x13, 0, 0, 0, 1, 0, 0, 0, u8::try_from(payload.len()).unwrap()];
    send(socket, &[&header, payload.as_bytes()].concat());
    for _ in 0..2 {
        pass(socket);
    }
}

/// A small key, an idle connection, an idle native client.
async fn crowds(rows: &mut Rows) {
    let limits = Limits::default().with(|limits| limits.max_connections = 2_000);
    let running = Running::start(Server::builder().limits(limits).build()).await;
    let state = running.server.state();
    let set = async |n: usize| {
        state.set(&format!("key {n}"), &json!({ "n": n })).await.unwrap();
    };
    let (key, _) = HEAP.each(set).await;
    rows.report("key-heap", "bytes per key", key as f64, [660.0, 700.0, 400.0]);

    let address = running.address;
    let greet = async |_| spawn_blocking(move || greeted(address)).await.unwrap();
    let (connection, sockets) = HEAP.each(greet).await;
    rows.report("idle-heap", "bytes per connection", connection as f64, [1_500.0, 1_500.0, 955.0]);
    drop(sockets);
    alone(&running).await;

    let url = running.url();
    let connect = async |_| Client::builder(url.as_str()).connect().await.unwrap();
    let (client, clients) = HEAP.each(connect).await;
    let client = client.saturating_sub(connection) as f64;
    rows.report("native-idle-heap", "bytes per client", client, [12_288.0, 12_288.0, 8_192.0]);
    drop(clients);
}
