//! `datasole`: the datasole server as a program.
//!
//! `flags` are the command line, `serve` is the life of a server, `storage` where it keeps things, `files` are those of `--static`, `demo` is the application behind `--demo`. Stdout
//! carries one line, `listening HOST:PORT`; the log and errors go to stderr. The glossary is in ARCHITECTURE.md.

mod demo;
mod files;
mod flags;
mod serve;
mod storage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::flags::Flags;

const EXAMPLES: &str = "\
Examples:
  datasole serve --demo
  datasole serve --static ./public --relay chat:message
  datasole serve --data ./data --token SECRET=ann
  datasole serve --redis redis://127.0.0.1

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
    /// Serve the endpoint, the browser files below it and, if asked, a folder
    Serve(Flags),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Command::Serve(flags) = Program::parse().command;
    match serve::run(&flags).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datasole: {error}");
            ExitCode::FAILURE
        }
    }
}
