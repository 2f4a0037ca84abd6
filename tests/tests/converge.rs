//! CRDTs converge, over many seeds: `CONVERGE_SEEDS` says how many, `DATASOLE_SEED` replays one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::panic::catch_unwind;

use datasole_tests::converge::{Stats, hub, peers};

const SEEDS: u64 = 10_000;

/// Runs every seed; each of `at_stake` must have happened somewhere, or the simulation has lost its teeth.
fn check(run: fn(u64) -> Stats, at_stake: &[&str]) {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("DATASOLE_SEED") {
        println!("{:#?}", run(seed));
        return;
    }
    let (seeds, mut stats, mut failed) = (number("CONVERGE_SEEDS").unwrap_or(SEEDS), Stats::new(), Vec::new());
    for seed in 0..seeds {
        match catch_unwind(|| run(seed)) {
            Ok(run) => run.into_iter().for_each(|(what, count)| *stats.entry(what).or_default() += count),
            Err(_) => {
                println!("replay with DATASOLE_SEED={seed} cargo test -p datasole-tests --test converge");
                failed.push(seed);
                if failed.len() >= 5 {
                    break;
                }
            }
        }
    }
    println!("{seeds} seeds: {stats:?}");
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
    for what in at_stake {
        assert!(seeds < SEEDS || stats.contains_key(what), "in no run was there one of {what:?}");
    }
}

#[test]
fn peers_converge() {
    let at_stake =
        ["lost", "doubled", "cut off", "operations", "replays", "states", "restarts", "restarts that forgot"];
    check(peers, &at_stake);
}

#[test]
fn replicas_of_a_server_converge() {
    let at_stake = [
        "put off",
        "refused",
        "forgotten",
        "replays",
        "set back",
        "lost answers",
        "disconnected",
        "snapshots",
        "restarts",
        "forgot replicas",
        "version 1",
    ];
    check(hub, &at_stake);
}
