//! `datasole`: the datasole server as a program.
//!
//! `flags` are the command line, `serve` is the life of a server, `dev` is one with a command beside it, `doctor` asks a server
//! from outside, `types` writes its contract, both over `http`, `replay` does recorded sessions again, `descriptors` are what the system lets it have, `files` are
//! those of `--static`, `demo` is the application behind `--demo`. Stdout carries one line, `listening HOST:PORT`, or with
//! `dev` the URL; the log and errors go to stderr. The glossary is in ARCHITECTURE.md.

mod demo;
#[cfg(unix)]
mod descriptors;
mod dev;
mod doctor;
mod files;
mod flags;
mod http;
mod replay;
mod serve;
mod types;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{
    dev::Dev,
    doctor::Visit,
    flags::Flags,
    replay::Session,
    types::{Asked, Compared},
};

/// Gives memory back to the system once a crowd has left.
#[cfg(all(feature = "jemalloc", not(target_env = "msvc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EXAMPLES: &str = "\
Examples:
  datasole dev -- vite
  datasole serve --demo
  datasole serve --static ./public --relay chat:message
  datasole serve --data ./data --token SECRET=ann
  datasole serve --backend redis://127.0.0.1
  datasole serve --backend postgres://127.0.0.1/app --bus redis://127.0.0.1
  datasole doctor https://app.example
  datasole types http://localhost:4000 --out web/src/contract.ts --watch
  datasole contract-check contract.json http://localhost:4000
  datasole replay session.jsonl --step

`datasole serve --help` lists the flags; each can be given as an environment variable, too.";

/// Realtime RPC, events, live state and shared documents over one WebSocket
#[derive(Debug, Parser)]
#[command(name = "datasole", version, after_help = EXAMPLES)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve pages under development, from every port of this machine, and run a command beside it
    Dev(Box<Dev>),
    /// Serve the endpoint, the browser files below it and, if asked, a folder
    Serve(Box<Flags>),
    /// Say from outside whether pages can connect, and what to do where they cannot
    Doctor(Visit),
    /// Write the TypeScript of a server's contract, now or whenever it changes
    Types(Asked),
    /// Compare two versions of a contract: which changes break running apps?
    ContractCheck(Compared),
    /// Do again what a page's client did, from the file of a session, and compare
    Replay(Session),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Program::parse().command {
        Command::Dev(dev) => match dev::run(*dev).await {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Serve(flags) => serve::run(&flags).await,
        Command::Doctor(visit) => return doctor::run(&visit).await,
        Command::Types(asked) => types::write(&asked).await,
        Command::Replay(session) => return replay::run(&session),
        Command::ContractCheck(compared) => return types::compare(&compared).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datasole: {error}");
            ExitCode::FAILURE
        }
    }
}
