//! A state of 8 MB from end to end: a server that has raised its limit, and a client that accepts what it announces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use datasole_client::{Client, Reconnect, State};
use datasole_server::{Limits, Server, StateError};
use datasole_tests::{
    proxy::{Proxy, Weather},
    running::Running,
};
use serde_json::{Value, json};
use tokio::time::timeout;

const MIB: usize = 1024 * 1024;
/// Far above what it takes.
const PATIENCE: Duration = Duration::from_secs(120);
const ROWS: usize = 120_000;
/// Changes that nobody reads, each of 150 KB.
const ROUNDS: i64 = 20;
const AT_ONCE: Reconnect = Reconnect { enabled: true, base: 0, cap: 0, max_attempts: None };

/// A value of more than 8 MB.
fn table() -> Value {
    (0..ROWS)
        .map(|id| json!({"id": id, "name": format!("row {id} of a table that is large"), "n": 0, "tag": id % 7}))
        .collect()
}

/// Waits until this cell has this value.
async fn reaches(state: &mut State<Value>, row: usize, n: i64) {
    while state.with_value(|value| value.is_none_or(|value| value[row]["n"].as_i64() != Some(n))) {
        state.changed().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_eight_megabytes_is_followed_resumed_and_conflated() {
    timeout(PATIENCE, follow()).await.expect("in time");
}

async fn follow() {
    let limits = Limits::default().with(|limits| limits.max_payload = 64 * MIB);
    let running = Running::start(Server::builder().limits(limits).build()).await;
    let mut value = table();
    assert!(value.to_string().len() > 8_000_000);
    let server = running.server.state();
    server.set("table", &value).await.unwrap();

    let proxy = Proxy::start(running.address).await;
    let client = Client::builder(proxy.url().as_str()).reconnect(AT_ONCE).connect().await.unwrap();
    let mut state = client.state::<Value>("table").unwrap();
    state.changed().await.unwrap();
    assert!(state.with_value(|shown| shown.is_some_and(|shown| *shown == value)), "the whole has come");

    // A change is a few bytes, and so is what a client misses that comes back.
    let before = running.server.metrics_snapshot().bytes_out;
    server.update("table", |draft| draft.set("/50000/n", 1)).await.unwrap();
    reaches(&mut state, 50_000, 1).await;
    proxy.end_all();
    server.update("table", |draft| draft.set("/60000/n", 2)).await.unwrap();
    reaches(&mut state, 60_000, 2).await;
    let sent = running.server.metrics_snapshot().bytes_out - before;
    assert!(sent < 10_000, "{sent} bytes for two changes and a connection");

    // To one who does not read, changes are not sent one by one: the whole takes their place.
    proxy.set_weather(Weather { down_is_closed: true, ..Weather::default() });
    let before = running.server.metrics_snapshot().bytes_out;
    for round in 1..=ROUNDS {
        for row in value.as_array_mut().unwrap().iter_mut().step_by(200) {
            row["n"] = json!(round);
            row["name"] = json!(format!("{round}, {}", "changed ".repeat(30)));
        }
        server.set("table", &value).await.unwrap();
    }
    proxy.set_weather(Weather::default());
    reaches(&mut state, 0, ROUNDS).await;
    assert!(state.with_value(|shown| shown.is_some_and(|shown| *shown == value)), "nothing is missing");
    let metrics = running.server.metrics_snapshot();
    println!("{} bytes for {ROUNDS} changes of {} rows", metrics.bytes_out - before, ROWS / 200);
    assert_eq!(metrics.fell_behind, 0);
    // One who comes then is shown a whole likewise, and what has changed since that was written.
    let late = Client::builder(running.url().as_str()).connect().await.unwrap();
    let mut shown = late.state::<Value>("table").unwrap();
    reaches(&mut shown, 0, ROUNDS).await;
    assert!(shown.with_value(|shown| shown.is_some_and(|shown| *shown == value)));
}

/// What the server does not announce is refused on either side, as it was.
#[tokio::test]
async fn without_a_raised_limit_the_value_is_refused() {
    let running = Running::start(Server::builder().build()).await;
    let error = running.server.state().set("table", &table()).await.unwrap_err();
    assert!(matches!(error, StateError::TooLarge { .. }), "{error}");
}
