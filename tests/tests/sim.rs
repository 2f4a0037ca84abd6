//! The simulation, over many seeds: `SIM_SEEDS` says how many, `SIM_FROM` the first of them, `SIM_SEED` replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, panic::catch_unwind};

use datasole_tests::sim::{Stats, run};

const SEEDS: u64 = 1_000;

/// What must have happened somewhere, or the simulation has lost its teeth.
const AT_STAKE: [&str; 34] = [
    "recovered",
    "not recovered",
    "conflated",
    "fell behind",
    "restarts",
    "leaked",
    "late",
    "executed",
    "answered",
    "failed",
    "timed out",
    "lost",
    "cancelled",
    "closed",
    "half open",
    "cut",
    "jumps",
    "snapshots",
    "messages",
    // Open streams.
    "restarts that kept",
    "stored",
    "stored out of sight",
    "edits refused",
    "refused",
    "put off",
    "told to wait",
    "sent again",
    "followed again",
    "full windows",
    "documents compared",
    "updates merged",
    "announced again",
    "batches of clients",
    "batches of the server",
];

#[test]
fn clients_and_server_agree_whatever_the_network_does() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SIM_SEED") {
        println!("{:#?}", run(seed));
        return;
    }
    let (first, seeds) = (number("SIM_FROM").unwrap_or(0), number("SIM_SEEDS").unwrap_or(SEEDS));
    let (mut stats, mut failed) = (Stats::default(), Vec::new());
    for seed in first..first + seeds {
        match catch_unwind(|| run(seed)) {
            Ok(outcome) => stats.add(&outcome.stats),
            Err(_) => {
                println!("replay with SIM_SEED={seed} cargo test -p datasole-tests --test sim");
                failed.push(seed);
            }
        }
    }
    println!("{seeds} seeds from {first}: {:#?}", stats.0);
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    for what in AT_STAKE {
        assert!(seeds < SEEDS || stats.get(what) > 0, "in no run was there one of {what:?}");
    }
}

/// Every output of the clients and every message of the server is the same again, or replaying a seed would show
/// something else.
#[test]
fn a_seed_repeats_exactly() {
    let mut digests = BTreeSet::new();
    for seed in 0..40 {
        let outcome = run(seed);
        assert_eq!(run(seed), outcome, "seed {seed}");
        assert!(digests.insert(outcome.digest), "seed {seed} put out what another did");
    }
}
