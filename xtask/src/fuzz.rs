//! `cargo xtask fuzz`: the targets' bodies live in the crates; this only runs them under libFuzzer.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, program},
    project, tools,
};

const TARGETS: [&str; 9] =
    ["frame", "inflate", "payload", "patch", "crdt_operation", "crdt_state", "document", "header", "websocket"];

/// Runs one target, or all of them in turn, each for `minutes`. Inputs found on the way go to `fuzz/target`, so that the
/// committed corpus changes only by intent.
pub(crate) fn run(target: Option<&str>, minutes: u32) -> Result<()> {
    let targets = match target {
        None => TARGETS.to_vec(),
        Some(name) if TARGETS.contains(&name) => vec![name],
        Some(name) => bail!("no fuzz target `{name}`: there are {}", TARGETS.join(", ")),
    };
    tools::cargo_fuzz()?;
    let fuzz = project::root().join("fuzz");
    for target in targets {
        let found = fuzz.join("target/corpus").join(target);
        let committed = fuzz.join("corpus").join(target);
        for folder in [&found, &committed] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        eprintln!("xtask: fuzzing {target} for {minutes} minutes");
        let mut cargo_fuzz = program("rustup");
        cargo_fuzz.args(["run", "nightly", "cargo", "fuzz", "run", target]).args([found, committed]);
        cargo_fuzz.arg("--").arg(format!("-max_total_time={}", u64::from(minutes) * 60));
        command::run(&mut cargo_fuzz).with_context(|| format!("{target}: see fuzz/artifacts/{target}"))?;
    }
    Ok(())
}
