//! A few seconds under faults on each engine; `cargo xtask jepsen` runs longer ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use datasole_tests::{
    history::check,
    jepsen::{Engine, Options, run},
    random::Random,
};

/// Runs briefly, and judges.
async fn holds(engine: Engine) {
    let installed = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("tools/nats/bin/nats-server");
    let nats = std::env::var_os("NATS_SERVER").map(PathBuf::from).or(installed.is_file().then_some(installed));
    let options = Options {
        engine,
        time: Duration::from_secs(6),
        clients: 30,
        seed: Random::announced().u64(),
        node: env!("CARGO_BIN_EXE_node").into(),
        nats,
    };
    let outcome = run(&options).await;
    let verdict = check(&outcome.history, &engine.promises());
    println!("{engine:?}: {:?}, {:?}", outcome.counts, verdict.counts);
    assert!(verdict.holds(), "seed {}\n{}", options.seed, verdict.story(&outcome.history));
    assert!(verdict.counts.acknowledged > 10 && verdict.counts.observed > 10, "too little at stake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    holds(Engine::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    holds(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    holds(Engine::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats() {
    holds(Engine::Nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_with_a_replica() {
    holds(Engine::RedisReplica).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres() {
    holds(Engine::Postgres).await;
}
