//! The committed CRDT cases are what the generator makes of seed 1, so that what changes on the wire shows in a diff.

#![allow(clippy::unwrap_used, reason = "a test; clippy knows only the functions marked so")]

mod crdt_cases;

use crdt_cases::{Rng, case};
use serde_json::Value;

#[test]
fn the_committed_cases_are_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/crdt.json");
    let mut rng = Rng::new(1);
    let cases: Vec<_> = (0..36).map(|number| case(&mut rng, number)).collect();
    let lines: Vec<_> = cases.iter().map(Value::to_string).collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    if std::env::var_os("DATASOLE_WRITE_VECTORS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "run with DATASOLE_WRITE_VECTORS=1, and see the diff");
}

#[test]
fn many_cases_end_well() {
    let mut rng = Rng::new(2);
    for number in 0..6_000 {
        case(&mut rng, number);
    }
}
