//! Prints generated CRDT cases as JSON lines, for implementations in other languages; `tests/crdt_cases` says what they
//! are. `cargo run -p datasole-core --example crdt_cases -- --seed 1 --count 1000`; the same seed prints the same lines.

#![allow(clippy::unwrap_used, reason = "generates tests; clippy knows only the functions marked so")]

#[path = "../tests/crdt_cases/mod.rs"]
mod crdt_cases;

use std::{
    env,
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use crdt_cases::{Rng, case};

fn main() -> ExitCode {
    let Some((seed, count)) = arguments(env::args().skip(1)) else {
        eprintln!("usage: crdt_cases [--seed N] [--count N]");
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
    let (mut seed, mut count) = (1, 1_000);
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
        writeln!(out, "{}", case(&mut rng, number))?;
    }
    out.flush()
}
