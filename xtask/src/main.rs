//! The project's commands: `cargo xtask demo|test|build|page|package|sizes|numbers|bench|fixture|cluster|jepsen|fuzz`.
//!
//! On a machine with rustup, Node 20 or newer and a C compiler each command finds or installs whatever else it needs
//! ([`tools`]), or says in one line what is missing and how to get it. Progress goes to stderr; stdout carries only what
//! a command is asked for: the test summary, the paths of what was
//! built, the benchmarks' JSON lines, the addresses of demo, fixture and cluster.

mod assets;
mod budget;
mod cluster;
mod command;
mod fixtures;
mod fuzz;
mod lints;
mod package;
mod page;
mod project;
mod report;
mod rows;
mod server;
mod stamp;
mod tally;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::test::Extent;

/// The project's commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build everything and serve the demo at http://127.0.0.1:4000
    Demo,
    /// Check formatting, lints, documentation and size budgets, and run every test
    ///
    /// Prints each step with its seconds; the last line is the total: N passed, N failed, N skipped (if any). The exit
    /// code is 0 if nothing failed. The output of each step is kept in target/xtask.
    Test {
        /// Also lint every feature alone, build the example app and pages of more frameworks, run behind proxies, on a Redis
        /// Cluster and on a log of one's own, and run many more seeds (20,000 of the simulation)
        #[arg(long)]
        all: bool,
    },
    /// Build the browser files: wasm, JavaScript bundles, and their precompressed copies for the server
    Build,
    /// Build the example page in Rust only; prints its folder, for `datasole serve --demo --static`
    Page,
    /// Pack the npm package and the program `datasole` for this machine; prints the tarballs' paths
    Package,
    /// Write docs/sizes.md: what pages load of this package and of other clients
    Sizes,
    /// Write docs/numbers.md: what people notice of a page
    Numbers,
    /// Measure; prints one JSON object a line
    Bench {
        /// Measure nodes on Redis, PostgreSQL and NATS, each beside the engine alone
        #[arg(long)]
        cluster: bool,
        /// Measure beside socket.io, ws, hocuspocus and y-websocket, which npm installs
        #[arg(long, conflicts_with_all = ["cluster", "args"])]
        peers: bool,
        /// Passed on to the load generator
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build and run the fixture server
    Fixture {
        /// Passed on to the fixture, e.g. --port 4001
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Start an engine and several nodes on it; prints their URLs, and stops all at Ctrl-C
    Cluster {
        /// The engine
        #[arg(long, value_enum)]
        backend: cluster::Engine,
        /// How many nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
        nodes: u16,
        /// Passed on to each node, e.g. --relay chat:message
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run three nodes on one engine under faults, with clients that change node, and judge what they saw
    ///
    /// --backend redis|redis-replica|postgres|nats|sqlite|memory [--seconds 60] [--clients 300] [--seed S] [--history FILE]
    Jepsen {
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Fuzz with cargo-fuzz on nightly
    Fuzz {
        /// One target; without it, all of them in turn
        target: Option<String>,
        /// How long to run each target
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
    },
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Task::Demo => server::demo(),
        Task::Test { all } => return test::run(if all { Extent::All } else { Extent::Usual }),
        Task::Build => assets::build().and_then(|()| budget::check()),
        Task::Page => page::print(),
        Task::Package => package::print(),
        Task::Sizes => package::sizes(),
        Task::Numbers => server::numbers(),
        Task::Bench { cluster: true, args, .. } => server::bench_cluster(&args),
        Task::Bench { peers: true, .. } => server::bench_peers(),
        Task::Bench { args, .. } => server::bench(&args),
        Task::Fixture { args } => server::fixture(&args),
        Task::Cluster { backend, nodes, args } => cluster::serve(backend, nodes, &args),
        Task::Jepsen { args } => server::jepsen(&args),
        Task::Fuzz { target, minutes } => fuzz::run(target.as_deref(), minutes),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
