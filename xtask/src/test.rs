//! `cargo xtask test`: everything that has to hold before a change goes in.
//!
//! Rust is checked and tested in the dev profile only, and the browser tests use the programs of that build; the one
//! optimised build is the wasm.

use std::{
    fs::File,
    process::{Command, ExitCode},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::{
    assets, budget,
    command::{cargo, program, run_as_is},
    fixtures::Installed,
    lints, page, project,
    report::Report,
    tally::Tally,
    tools,
};

/// The cases that hold our two implementations, of patches and of CRDTs, equal: the example that prints them, how many,
/// and the variable that names the file to the npm tests.
const CASES: [(&str, u32, &str); 2] = [("patch_cases", 10_000, "PATCH_CASES"), ("crdt_cases", 10_000, "CRDT_CASES")];

/// The tests over random seeds, the variable that says how many, and how many the long run takes.
const SEEDS: [(&str, &str, u32); 2] = [("sim", "SIM_SEEDS", 20_000), ("converge", "CONVERGE_SEEDS", 100_000)];

/// The app outside of the workspace.
const EXAMPLE: &str = "examples/axum-app";

/// The log outside of the workspace.
const JOURNAL: &str = "examples/journal";

/// How much is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Before each change goes in: minutes.
    Usual,
    /// The usual, and what takes long: every feature alone, the example app, pages of more frameworks, proxies, a log of
    /// one's own, a Redis Cluster, Autobahn's cases, many seeds.
    All,
}

/// Runs the checks and prints the total.
pub(crate) fn run(extent: Extent) -> ExitCode {
    let mut report = Report::new();
    report.task("tools", tools::rust_components);
    report.check("format", cargo(["fmt", "--all", "--check"]));
    report.check("format fuzz", elsewhere("fuzz", &["fmt", "--check"]));
    for example in [EXAMPLE, page::FOLDER] {
        report.check("format example", elsewhere(example, &["fmt", "--check"]));
    }
    report.task("browser files", assets::build);
    report.task("size budgets", budget::check);
    lints::run(&mut report, extent);
    report.task("redis", tools::redis);
    report.task("postgres", || tools::postgres().map(drop));
    report.task("nats", || tools::nats().map(drop));
    report.tests("rust tests", cargo(["test", "--workspace", "--no-fail-fast"]), Tally::of_cargo);
    npm_tests(&mut report);
    browser_tests(&mut report);
    package_tests(&mut report, extent);
    if extent == Extent::All {
        example(&mut report);
        journal(&mut report);
        proxies(&mut report);
        clusters(&mut report);
        autobahn(&mut report);
        long_seeds(&mut report);
    }
    report.finish()
}

/// Cargo in the folder of a package outside of the workspace.
fn elsewhere(folder: &str, args: &[&str]) -> Command {
    let mut cargo = cargo(args);
    cargo.current_dir(project::root().join(folder));
    cargo
}

fn npm_tests(report: &mut Report) {
    report.check("typescript", tools::npm(&["run", "--silent", "typecheck"]));
    let mut test = tools::npm(&["test", "--silent"]);
    let seed = seed();
    println!("   cases from seed {seed}; DATASOLE_SEED={seed} repeats them");
    for (name, count, variable) in CASES {
        let cases = project::scratch().join(name).with_extension("ndjson");
        report.task(name, || {
            let file = File::create(&cases).with_context(|| format!("cannot write {}", cases.display()))?;
            let mut program = program(project::built(project::example("debug", name))?);
            run_as_is(program.args(["--seed", &seed.to_string(), "--count", &count.to_string()]).stdout(file))
        });
        test.env(variable, &cases);
    }
    report.tests("npm tests", test, Tally::of_node);
}

/// `$DATASOLE_SEED`, else one from the clock.
fn seed() -> u64 {
    let given = std::env::var("DATASOLE_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs());
    given.unwrap_or_else(clock)
}

fn browser_tests(report: &mut Report) {
    match browser_command() {
        Ok(command) => report.tests("browser tests", command, Tally::of_node),
        Err(error) => report.task("browser tests", || Err(error)),
    }
}

fn browser_command() -> Result<Command> {
    let mut node = program("node");
    node.args(["--test", "--test-concurrency=1", "--test-reporter=tap"])
        .args(tools::specs(&project::root().join("tests/browser"))?);
    node.env("CHROMIUM", tools::chromium()?);
    node.env("FIXTURE", project::built(project::example("debug", "fixture"))?);
    node.env("TERMINAL", project::built(project::example("debug", "board"))?);
    node.env("DATASOLE_SERVER", project::built(project::binary("debug", "datasole"))?);
    node.env("ARTIFACTS", project::target().join("screenshots"));
    node.env("RUST_PAGE", page::build()?);
    Ok(node)
}

/// The packages, as those meet them who install them.
fn package_tests(report: &mut Report, extent: Extent) {
    let mut command = None;
    report.task("packages", || {
        command = Some(Installed::new(extent)?.command(extent)?);
        Ok(())
    });
    if let Some(command) = command {
        report.tests("fixtures", command, Tally::of_node);
    }
}

/// The example app, as an application of its own would be built.
fn example(report: &mut Report) {
    let mut clippy = elsewhere(EXAMPLE, &["clippy"]);
    clippy.arg("--target-dir").arg(project::target()).args(["--", "-D", "warnings"]);
    report.check("example", clippy);
}

/// A log of one's own, which passes the conformance suite, as an application of its own would be built.
fn journal(report: &mut Report) {
    let mut tests = elsewhere(JOURNAL, &["test"]);
    tests.arg("--target-dir").arg(project::target());
    report.tests("journal", tests, Tally::of_cargo);
}

/// The conformance suite on a Redis Cluster of three masters.
fn clusters(report: &mut Report) {
    let tests = cargo(["test", "--workspace", "--test", "backends", "--", "--ignored"]);
    report.tests("cluster tests", tests, Tally::of_cargo);
}

/// Behind nginx, HAProxy, Apache and Caddy.
fn proxies(report: &mut Report) {
    report.task("proxies", tools::proxies);
    let tests = cargo(["test", "--workspace", "--test", "proxies", "--", "--ignored"]);
    report.tests("proxy tests", tests, Tally::of_cargo);
}

/// Autobahn's cases of RFC 6455, if `DATASOLE_WSTEST` names its program `wstest`, which needs Python 2.
fn autobahn(report: &mut Report) {
    if std::env::var_os("DATASOLE_WSTEST").is_none() {
        return println!("   Autobahn's cases are left out: DATASOLE_WSTEST names no `wstest`");
    }
    let tests = cargo(["test", "--workspace", "--lib", "--", "--ignored", "autobahn"]);
    report.tests("Autobahn's cases", tests, Tally::of_cargo);
}

fn long_seeds(report: &mut Report) {
    for (test, variable, seeds) in SEEDS {
        // The whole workspace with one of its tests: of the package alone, other features would be built anew.
        let mut command = cargo(["test", "--workspace", "--test", test]);
        command.env(variable, seeds.to_string());
        report.tests(&format!("{test} with {seeds} seeds"), command, Tally::of_cargo);
    }
}
