//! `cargo xtask test`: everything that has to hold before a change goes in.
//!
//! Rust is checked and tested in the dev profile only, and the browser tests use the programs of that build; the one
//! optimised build is the wasm.

use std::{
    fs::{self, File},
    process::{Command, ExitCode},
    time::SystemTime,
};

use anyhow::{Context, Result, bail};

use crate::{
    assets, budget,
    command::{cargo, program, read, run_as_is},
    project,
    report::Report,
    tally::Tally,
    tools,
};

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// What the sans-IO core must never come to depend on: randomness, the browser, a runtime.
const FORBIDDEN_IN_CORE: [&str; 6] = ["getrandom", "js-sys", "web-sys", "wasm-bindgen", "tokio", "rand"];

/// What our two implementations, of patches and of CRDTs, are held equal by: the example that prints cases, how many, and
/// where the npm tests find the file.
const CASES: [(&str, u32, &str); 2] = [("patch_cases", 10_000, "PATCH_CASES"), ("crdt_cases", 3_000, "CRDT_CASES")];

/// Runs all checks and prints the total.
pub(crate) fn run() -> ExitCode {
    let mut report = Report::default();
    report.task("tools", tools::rust_components);
    report.check("format", cargo(["fmt", "--all", "--check"]));
    let fuzz = project::root().join("fuzz/Cargo.toml");
    report.check(
        "format fuzz",
        cargo(["fmt".as_ref(), "--check".as_ref(), "--manifest-path".as_ref(), fuzz.as_os_str()]),
    );
    report.task("browser files", assets::build);
    report.task("size budgets", budget::check);
    lints(&mut report);
    report.task("dependencies of the core", core_is_pure);
    let mut doc = cargo(["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    report.check("documentation", doc);
    report.tests("rust tests", cargo(["test", "--workspace", "--no-fail-fast"]), Tally::of_cargo);
    npm_tests(&mut report);
    browser_tests(&mut report);
    report.finish()
}

/// Clippy over the workspace, over each library with none, each and all of its features, and over the wasm.
fn lints(report: &mut Report) {
    report.check("clippy", clippy(&["--workspace", "--all-targets"]));
    report.check("clippy wasm", clippy(&["--package", "datasole-wasm", "--target", WASM_TARGET]));
    match feature_sets() {
        Err(error) => report.task("clippy features", || Err(error)),
        Ok(sets) => {
            for (package, features) in sets {
                let mut args = vec!["--package", &package, "--lib", "--no-default-features", "--features", &features];
                if package == "datasole-wasm" {
                    args.extend(["--target", WASM_TARGET]);
                }
                report.check(&format!("clippy {package} [{features}]"), clippy(&args));
            }
        }
    }
}

fn clippy(args: &[&str]) -> Command {
    cargo(["clippy"].iter().chain(args).chain(&["--", "-D", "warnings"]))
}

/// For each package with features: none of them, each alone, and all (unless that is the one). Private ones, which start
/// with `__`, are not for use alone.
fn feature_sets() -> Result<Vec<(String, String)>> {
    let metadata = read(&mut cargo(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let mut sets = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let (Some(name), Some(features)) = (package["name"].as_str(), package["features"].as_object()) else {
            continue;
        };
        let features: Vec<&str> =
            features.keys().map(String::as_str).filter(|name| *name != "default" && !name.starts_with("__")).collect();
        if features.is_empty() {
            continue;
        }
        sets.push((name.to_owned(), String::new()));
        sets.extend(features.iter().map(|feature| (name.to_owned(), (*feature).to_owned())));
        if features.len() > 1 {
            sets.push((name.to_owned(), features.join(",")));
        }
    }
    Ok(sets)
}

fn core_is_pure() -> Result<()> {
    let args = ["tree", "--package", "datasole-core", "--all-features", "--edges", "normal", "--prefix", "none"];
    let tree = read(cargo(args).args(["--target", WASM_TARGET]))?;
    let found = tree.lines().filter_map(|line| line.split(' ').next()).find(|name| FORBIDDEN_IN_CORE.contains(name));
    if let Some(name) = found {
        bail!("datasole-core depends on {name}, and must not");
    }
    Ok(())
}

fn npm_tests(report: &mut Report) {
    report.check("typescript", tools::npm(&["run", "--silent", "typecheck"]));
    let mut test = tools::npm(&["test", "--silent"]);
    let seed = seed();
    println!("   cases from seed {seed}; DATASOLE_SEED={seed} repeats them");
    for (example, count, variable) in CASES {
        let cases = project::scratch().join(example).with_extension("ndjson");
        report.task(example, || {
            let file = File::create(&cases).with_context(|| format!("cannot write {}", cases.display()))?;
            let program = &mut program(project::example("debug", example));
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
    let folder = project::root().join("tests/browser");
    let mut specs = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".test.mjs") {
            specs.push(path);
        }
    }
    specs.sort();
    let mut node = program("node");
    node.args(["--test", "--test-concurrency=1", "--test-reporter=tap"]).args(specs);
    node.env("CHROMIUM", tools::chromium()?);
    node.env("FIXTURE", project::example("debug", "fixture"));
    node.env("TERMINAL", project::example("debug", "board"));
    node.env("DATASOLE_SERVER", project::binary("debug", "datasole"));
    node.env("ARTIFACTS", project::target().join("screenshots"));
    Ok(node)
}
