//! Bytes of heap, counted by the allocator: of an idle connection, an idle native client, a small key. The test is alone in
//! its process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpStream;

use datasole_server::{Context, CrdtKind, Limits, Server};
use datasole_tests::{
    heap::{CROWD, Heap, alone, greeted, pass, send},
    running::Running,
};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const HEAP: Heap = Heap(&ALLOCATOR);

/// Sends a small call and reads its answer.
fn call(socket: &mut TcpStream) {
    let payload = br#"{"method":"echo","params":[1,2]}"#;
    send(socket, &[&[1, 0, 0, 0, 1, 0, 0, 0, u8::try_from(payload.len()).unwrap()], &payload[..]].concat());
    assert_eq!(pass(socket), 2);
}

/// Bytes that an operation on a map of so many entries takes meanwhile, at the median.
async fn operation(entries: usize) -> usize {
    let limits = Limits::default().with(|limits| {
        limits.max_payload = 64 * 1024 * 1024;
        (limits.crdt.max_bytes, limits.crdt.max_entries) = (limits.max_payload, 2 * entries);
    });
    let server = Server::builder().limits(limits).crdt("map", CrdtKind::LwwMap).build();
    let map = server.crdt().map("map");
    for n in 0..entries {
        map.set(&format!("entry {n}"), &n).await.unwrap();
    }
    // Nothing is released meanwhile.
    HEAP.settled().await;
    let mut peaks = Vec::new();
    for n in 0..201 {
        let before = ALLOCATOR.current_usage();
        ALLOCATOR.reset_peak_usage();
        map.set("entry 5", &n).await.unwrap();
        peaks.push(ALLOCATOR.peak_usage() - before);
    }
    peaks.sort_unstable();
    peaks[100]
}

/// What a large state takes for each byte of its JSON: on the server, with the backend's copy, and in a client that follows
/// it; and what changing and showing it takes meanwhile. `most` is for each byte that is held, of both.
async fn large_state(name: &str, mut value: Value, most: f64) {
    let limits = Limits::default().with(|limits| limits.max_payload = 16 * 1024 * 1024);
    let running = Running::start(Server::builder().limits(limits).build()).await;
    let state = running.server.state();
    let length = value.to_string().len();
    let per_byte = |bytes: isize| bytes as f64 / length as f64;
    let check = |what: &str, bytes: isize, most: f64| {
        println!("{name} of {length} bytes, {what}: {:.2} for each", per_byte(bytes));
        assert!(per_byte(bytes) <= most, "{name}, {what}: {bytes} bytes for {length} of JSON");
    };
    let (held, peak) = HEAP.during(async { state.set("large", &value).await.map(drop).unwrap() }).await;
    check("held", held, most);
    check("held while it is set", peak, 2.0 * most);
    let bound = 2.0 * most - per_byte(held);

    let (more, peak) = HEAP.during(async { state.update("large", change).await.map(drop).unwrap() }).await;
    check("more after a patch", more, 0.01);
    check("more during a patch", peak, 0.01);
    let some = if let Some(rows) = value.as_array_mut() { &mut rows[10_000] } else { &mut value["user 10000"] };
    *some = json!("changed");
    let (_, peak) = HEAP.during(async { state.set("large", &value).await.map(drop).unwrap() }).await;
    // The new text, to compare with, and the entry; of short elements where each is in the text is more than that.
    check("more while another value is set", peak, 3.0_f64.max(most - 8.0).min(bound));
    let value = Value::Array(vec![value]);
    let (_, peak) = HEAP.during(async { state.set("large", &value).await.map(drop).unwrap() }).await;
    check("more while all is replaced", peak, bound);

    // The server makes the snapshot and keeps it; the client reads it and has a tree of its own.
    let before = HEAP.settled().await as isize;
    let client = datasole_client::Client::builder(running.url().as_str()).connect().await.unwrap();
    let mut follows = client.state::<Value>("large").unwrap();
    let (_, peak) = HEAP.during(async { follows.changed().await.unwrap() }).await;
    check("more while it is shown to a client", peak, 2.0 * most);
    check("more, with a client that follows", HEAP.settled().await as isize - before, most);
    drop((follows, client));

    let draft = |draft: &mut datasole_server::Draft<'_>| draft.set("", &value);
    let (_, peak) = HEAP.during(async { state.update("another", draft).await.map(drop).unwrap() }).await;
    check("held while a draft sets it", peak, 2.5 * most);
    alone(&running).await;
}

/// Changes one cell.
fn change(draft: &mut datasole_server::Draft<'_>) -> Result<(), datasole_server::StateError> {
    let places = ["/10000/done", "/user 10000/done", "/10000/0", "/10000"];
    let place = places.into_iter().find(|place| draft.get(place).is_some());
    draft.set(place.unwrap(), true)
}

/// One test after the other, in one: the allocator counts what all of them do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_heap() {
    let echo = |_: Context, value: Value| async move { Ok(value) };
    let limits = Limits::default().with(|limits| limits.max_connections = 10 * CROWD);
    let running = Running::start(Server::builder().limits(limits).rpc("echo", echo).build()).await;

    let state = running.server.state();
    let set = async |n: usize| {
        state.set(&format!("key {n}"), &json!({ "n": n })).await.unwrap();
    };
    let (key, _) = HEAP.each(set).await;
    println!("a small key: {key} bytes");
    assert!(key <= 660, "{key} bytes");

    // Those that nobody follows leave memory, and the backend keeps them.
    let limits = Limits::default().with(|limits| limits.max_idle_states = CROWD / 2);
    let few = Server::builder().limits(limits).build();
    let state = few.state();
    let set = async |n: usize| {
        state.set(&format!("key {n}"), &json!({ "n": n })).await.unwrap();
    };
    let (key, _) = HEAP.each(set).await;
    println!("a small key out of memory: {key} bytes");
    assert!(key <= 360, "{key} bytes");
    drop(few);

    // Large states: what each takes, and what it takes meanwhile.
    let row = |id: usize| json!({ "id": id, "name": format!("row {id}"), "done": false, "price": id * 7 });
    large_state("a table", (0..20_000).map(row).collect(), 8.0).await;
    large_state("a map", Value::Object((0..20_000).map(|id| (format!("user {id}"), row(id))).collect()), 8.0).await;
    let element = |n: usize| json!([n * 7, format!("text {n}, which is longer")]);
    large_state("a list", (0..100_000).map(element).collect(), 8.0).await;
    // Short values are the dearest: each takes 16 bytes.
    large_state("numbers", vec![json!(0); 500_000].into(), 16.0).await;
    large_state("pairs", (0..200_000).map(|n| json!([n % 100, 34])).collect(), 16.0).await;
    large_state("empty arrays", vec![json!([]); 300_000].into(), 16.0).await;
    large_state("empty objects", vec![json!({}); 300_000].into(), 16.0).await;

    let (few, many) = (operation(10).await, operation(100_000).await);
    println!("an operation on a CRDT of 10 entries: {few} bytes meanwhile, of 100,000: {many}");
    assert!(many <= few * 3 / 2, "{few} and {many} bytes");

    let address = running.address;
    let greet = move |_| async move { tokio::task::spawn_blocking(move || greeted(address)).await.unwrap() };
    let (connection, mut sockets) = HEAP.each(greet).await;
    println!("an idle connection: {connection} bytes");
    assert!(connection <= 1_500, "{connection} bytes");
    // What a call needs is given back.
    let before = HEAP.settled().await;
    let sockets = tokio::task::spawn_blocking(move || {
        sockets.iter_mut().for_each(call);
        sockets
    })
    .await
    .unwrap();
    let called = HEAP.settled().await.saturating_sub(before) / sockets.len();
    println!("after a call: {called} bytes more");
    assert!(called <= 32, "{called} bytes");
    drop(sockets);
    alone(&running).await;

    let url = running.url();
    let connect = async |_| datasole_client::Client::builder(url.as_str()).connect().await.unwrap();
    let (client, clients) = HEAP.each(connect).await;
    println!("an idle native client: {} bytes", client - connection);
    assert!(client - connection <= 12 * 1024, "{} bytes", client - connection);
    drop(clients);
}
