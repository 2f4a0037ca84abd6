//! The commands that run a server: the demo, the fixture, the benchmarks. All of them have the browser files inside; the
//! demo, which is to be seen soon, is built in the dev profile, the others are optimised.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};

use crate::{
    assets,
    command::{cargo, program, run, run_as_is},
    project,
    rows::Rows,
    tools,
};

/// The demo's address.
const DEMO: &str = "127.0.0.1:4000";

/// Serves the demo until it is interrupted; prints its URL once the server accepts connections.
pub(crate) fn demo() -> Result<()> {
    eprintln!("xtask: building the browser files, then the server; the first time takes some minutes");
    assets::build()?;
    eprintln!("xtask: building the server");
    run(&mut cargo(["build", "--package", "datasole-cli", "--bin", "datasole"]))?;
    let mut command = program(project::binary("debug", "datasole"));
    let mut demo =
        command.args(["serve", "--demo", "--listen", DEMO, "--log", "warn"]).stdout(Stdio::piped()).spawn()?;
    let mut stdout = BufReader::new(demo.stdout.take().context("the demo has no output")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    if line.starts_with("listening ") {
        eprintln!("xtask: the demo runs until Ctrl-C");
        println!("http://{DEMO}");
    }
    ensure!(demo.wait()?.success(), "the demo did not end in order");
    Ok(())
}

/// Runs the fixture server until it is interrupted.
pub(crate) fn fixture(args: &[String]) -> Result<()> {
    assets::build()?;
    let fixture = build_example("datasole-server", "fixture")?;
    run_as_is(program(fixture).args(args))
}

/// Runs the benchmarks, the server's, the heap's and then the browser's; their JSON lines are all there is on stdout, and a table of
/// them ends the run on stderr. `args` are for the server's.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    let chromium = tools::chromium()?;
    assets::build()?;
    let fixture = build_example("datasole-server", "fixture")?;
    let trace = build_example("datasole-tests", "trace")?;
    let mut rows = Rows::default();
    let server = rows.run(cargo(["bench", "--package", "datasole-tests", "--bench", "server", "--"]).args(args));
    let heap = rows.run(&mut cargo(["bench", "--package", "datasole-tests", "--bench", "heap"]));
    let mut browser = |script: &str| {
        let mut node = program("node");
        node.arg(project::root().join("tests/browser").join(script));
        rows.run(node.env("CHROMIUM", &chromium).env("FIXTURE", &fixture).env("TRACE", &trace))
    };
    let outcome = server.and(heap).and(browser("bench.mjs")).and(browser("trace.mjs"));
    eprintln!("{rows}");
    outcome
}

/// Runs the benchmark beside other packages of npm, which it installs in the target folder.
pub(crate) fn bench_peers() -> Result<()> {
    assets::build()?;
    let fixture = build_example("datasole-server", "fixture")?;
    let (source, folder) = (project::root().join("tests/peers"), project::target().join("peers"));
    fs::create_dir_all(&folder)?;
    for name in ["package.json", "servers.mjs", "bench.mjs"] {
        fs::copy(source.join(name), folder.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    run(&mut tools::npm_in(&folder, &["install", "--no-audit", "--no-fund", "--loglevel=error"]))?;
    let mut bench = program("node");
    bench.arg(folder.join("bench.mjs")).env("FIXTURE", fixture).env("NPM", project::npm());
    run_as_is(bench.env("TRACE_DATA", project::root().join("tests/data/automerge-paper.json.gz")))
}

/// Measures what people notice of a page, with a server as the tests have it.
pub(crate) fn numbers() -> Result<()> {
    let chromium = tools::chromium()?;
    assets::build()?;
    run(&mut cargo(["build", "--workspace", "--example", "fixture"]))?;
    let fixture = project::built(project::example("debug", "fixture"))?;
    let script = project::root().join("tests/browser/numbers.mjs");
    run_as_is(program("node").arg(script).env("CHROMIUM", chromium).env("FIXTURE", fixture))
}

/// Runs the benchmarks of nodes on engines, which it starts and stops.
pub(crate) fn bench_cluster(args: &[String]) -> Result<()> {
    tools::redis()?;
    tools::postgres()?;
    let nats = tools::nats()?;
    let mut bench = cargo(["bench", "--package", "datasole-tests", "--bench", "server", "--", "--cluster"]);
    run_as_is(bench.args(args).env("NATS_SERVER", nats))
}

fn build_example(package: &str, name: &str) -> Result<PathBuf> {
    run(&mut cargo(["build", "--release", "--package", package, "--example", name]))?;
    Ok(project::example("release", name))
}

/// Three nodes under faults, on an engine of their own.
pub(crate) fn jepsen(args: &[String]) -> Result<()> {
    let asks = |engine: &str| args.iter().any(|argument| argument.split('=').next_back() == Some(engine));
    if asks("redis") || asks("redis-replica") {
        tools::redis()?;
    }
    if asks("postgres") {
        tools::postgres()?;
    }
    let nats = if asks("nats") { Some(tools::nats()?) } else { None };
    // With all of the workspace, so that what its tests have built is used.
    run(&mut cargo(["build", "--workspace", "--bins"]))?;
    let mut jepsen = program(project::binary("debug", "jepsen"));
    if let Some(nats) = nats {
        jepsen.env("NATS_SERVER", nats);
    }
    run_as_is(jepsen.args(args))
}
