//! Prints generated patch cases as JSON lines, for appliers in other languages: `{doc, patch, expected}`, or
//! `{doc, patch, error: true}`. The `json-patch` crate decides, and our applier must agree.
//!
//! `cargo run -p datasole-core --example patch_cases -- --seed 1 --count 10000`; the same seed prints the same lines.

#[path = "../tests/cases/mod.rs"]
mod cases;

use std::{
    env,
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use cases::{Case, Rng, case};
use datasole_core::{
    patch::{Patch, PatchLimits, apply},
    tree::Tree,
};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let Some((seed, count)) = arguments(env::args().skip(1)) else {
        eprintln!("usage: patch_cases [--seed N] [--count N]");
        return ExitCode::from(2);
    };
    match print(seed, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seed {seed}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut arguments: impl Iterator<Item = String>) -> Option<(u64, u64)> {
    let (mut seed, mut count) = (1, 10_000);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?.parse().ok()?;
        match name.as_str() {
            "--seed" => seed = value,
            "--count" => count = value,
            _ => return None,
        }
    }
    Some((seed, count))
}

fn print(seed: u64, count: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut out = BufWriter::new(io::stdout().lock());
    for number in 0..count {
        let Case { document, patch, expected } = case(&mut rng);
        if ours(&document, &patch) != expected {
            return Err(io::Error::other(format!("case {number}: our applier disagrees on {document} and {patch}")));
        }
        let line = match expected {
            Some(expected) => json!({"doc": document, "patch": patch, "expected": expected}),
            None => json!({"doc": document, "patch": patch, "error": true}),
        };
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn ours(document: &Value, patch: &Value) -> Option<Value> {
    let limits = PatchLimits::default();
    let patch = Patch::parse(&patch.to_string(), &limits).ok()?;
    let mut document = Tree::from(document);
    apply(&mut document, &patch, &limits).ok()?;
    Some(Value::from(&document))
}
