//! What a datasole server costs beside a bare WebSocket server: CPU and bytes per operation, and memory per idle connection; and
//! how that grows with the size of states and CRDTs, and with the number of keys, subscribers and connections.
//!
//! Run by `cargo xtask bench` (`cargo bench -p datasole-tests --bench server -- [OPTIONS]`). The program starts itself
//! as children, as the bare server ([`bare`]) and as ours ([`ours`]), each on one thread, and drives them
//! in turns with the same bytes ([`load`]). **CPU time of the server process is the judge** ([`process`]), never wall time,
//! so that a busy machine blurs the result instead of deciding it; each scenario's ratio is the median over its rounds.
//!
//! Standard output has one JSON line per scenario, standard error the rest. The exit status is 1 when a bar is missed.
//!
//! With `--cluster` it measures what nodes on an engine cost beside the engine alone ([`cluster`]).
//!
//! It lacks warm-up heuristics, outlier rejection and saved runs: the baseline of the same run is the comparison.

mod alone;
mod bare;
mod cluster;
mod content;
mod follower;
mod herd;
mod load;
mod ours;
mod paper;
mod payload;
mod process;
mod report;
mod rows;
mod scenario;
mod serve;
mod single;
mod watch;
mod websocket;

use std::{error::Error, process::ExitCode};

use serve::Kind;

/// Anything that ends the run.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo bench -p datasole-tests --bench server -- [NAME…] [--rounds N] [--server bare|ours] [--list]
       cargo bench -p datasole-tests --bench server -- --cluster [NAME…] [--rounds N] [--streams N] [--list]
  NAME      run the scenarios whose name contains it
  --cluster nodes on Redis, PostgreSQL and NATS, each beside the engine alone
  --streams followed streams of one node, 100000 unless given
  --rounds  slices per server and scenario, 9 unless given; at least one in each process where there are several
  --server  drive one server only and judge nothing (for profilers)
  --list    print the scenarios' names";

struct Options {
    names: Vec<String>,
    rounds: usize,
    only: Option<Kind>,
    list: bool,
    cluster: bool,
    streams: u32,
    /// Cargo says that this is a bench run; `cargo test --all-targets` starts benches too.
    bench: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            names: Vec::new(),
            rounds: 9,
            only: None,
            list: false,
            cluster: false,
            streams: 100_000,
            bench: false,
        };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(USAGE);
            match arg.as_str() {
                "--bench" => options.bench = true,
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                "--server" => options.only = Some(value()?.parse()?),
                "--list" => options.list = true,
                "--cluster" => options.cluster = true,
                "--streams" => options.streams = value()?.parse::<u32>()?.max(1),
                name if !name.starts_with('-') => options.names.push(arg),
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }

    fn selects(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part))
    }
}

fn main() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == serve::SUBCOMMAND).is_some() {
        let mut next = || args.next().ok_or(USAGE);
        match next()?.as_str() {
            cluster::node::SUBCOMMAND => cluster::node::run(&next()?)?,
            follower::SUBCOMMAND => follower::run(next()?.parse()?, next()?.parse()?)?,
            herd::SUBCOMMAND => herd::run(next()?.parse()?, next()?.parse()?)?,
            kind => serve::run(kind.parse()?, next()?.parse()?, next()?.parse()?)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    if !options.bench {
        return Ok(ExitCode::SUCCESS);
    }
    process::raise_open_files()?;
    if options.cluster {
        let held = cluster::run(|name| options.selects(name), options.rounds, options.list, options.streams)?;
        return Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let mut held = true;
    for scenario in rows::all().iter().filter(|scenario| options.selects(scenario.name)) {
        if options.list {
            println!("{}", scenario.name);
            continue;
        }
        let reports = match options.only {
            Some(kind) => vec![scenario.drive(kind, options.rounds)?],
            None => scenario.compare(options.rounds)?,
        };
        for report in reports {
            println!("{}", serde_json::to_string(&report)?);
            held &= report.ok != Some(false);
        }
    }
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
