//! `datasole dev`: a server for one machine and an hour, and the command that makes its pages.
//!
//! Pages of every port of this machine connect. Everything is in memory, unless the flags name a place for it.

use std::{
    ffi::OsString,
    future::pending,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use ::http::Uri;
use clap::Args;
#[cfg(unix)]
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use crate::{
    flags::Flags,
    serve::{Opened, interrupted},
    types::{self, Asked},
};

/// The variable that tells the command beside the server where that is.
const URL: &str = "DATASOLE_URL";
/// For the command to end after Ctrl-C, before it is killed.
const GOODBYE: Duration = Duration::from_secs(5);

/// The flags of `datasole dev`: those of `datasole serve`, and a command.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    #[command(flatten)]
    flags: Flags,
    /// Keep this file the TypeScript of the contract that the server at --types-from shows, as `datasole types --watch` does
    #[arg(long, value_name = "FILE", requires = "types_from")]
    types: Option<PathBuf>,
    /// The server that has the contract: the application's own, which COMMAND may start
    #[arg(long, value_name = "URL", requires = "types")]
    types_from: Option<Uri>,
    /// Run this beside the server, with its URL in DATASOLE_URL; when one of the two ends, so does the other
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Serves until Ctrl-C, SIGTERM or the end of the command; the outcome is the command's.
pub(crate) async fn run(mut dev: Dev) -> io::Result<ExitCode> {
    dev.flags.dev = true;
    let opened = Opened::new(&dev.flags).await?;
    let interrupted = interrupted()?;
    let url = url(opened.address()?);
    let mut child = start(&dev.command, &url)?;
    eprintln!("datasole: pages of this machine may connect, whatever their port; Ctrl-C ends it");
    writeln!(io::stdout(), "{url}")?;
    let contract = dev.types_from.zip(dev.types).map(|(url, file)| Asked::watched(url, file));
    let mut status = None;
    let end = async {
        tokio::select! {
            () = interrupted => ask_to_end(child.as_ref()),
            ended = ended(child.as_mut()) => status = Some(ended),
            () = keep(contract.as_ref()) => {}
        }
    };
    opened.serve(end).await?;
    if let (Some(child), None) = (&mut child, &status)
        && timeout(GOODBYE, child.wait()).await.is_err()
    {
        child.kill().await?;
    }
    status.transpose().map(|status| status.map_or(ExitCode::SUCCESS, code))
}

/// As the pages write it: a server that listens everywhere is here, too.
fn url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("http://localhost:{}", address.port())
    } else {
        format!("http://{address}")
    }
}

fn start(command: &[OsString], url: &str) -> io::Result<Option<Child>> {
    let Some((name, args)) = command.split_first() else { return Ok(None) };
    // npm's programs are scripts there, which only the shell starts.
    let mut program = if cfg!(windows) { Command::new("cmd") } else { Command::new(name) };
    if cfg!(windows) {
        program.arg("/C").arg(name);
    }
    let child = program.args(args).env(URL, url).kill_on_drop(true).spawn();
    child.map(Some).map_err(|error| io::Error::new(error.kind(), format!("cannot start {}: {error}", name.display())))
}

/// A terminal has told the command already that this is the end; who sends signals has not.
#[cfg(unix)]
fn ask_to_end(child: Option<&Child>) {
    let id = child.and_then(Child::id).and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id.and_then(Pid::from_raw) {
        // The command may have ended this moment.
        let _ = kill_process(id, Signal::TERM);
    }
}

#[cfg(not(unix))]
fn ask_to_end(_: Option<&Child>) {}

async fn ended(child: Option<&mut Child>) -> io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

/// Writes a contract whenever it changes; does not end. Without it the pages go on: they were built with the one before.
async fn keep(contract: Option<&Asked>) {
    if let Some(asked) = contract
        && let Err(error) = types::write(asked).await
    {
        eprintln!("datasole: {error}");
    }
    pending().await
}

fn code(status: ExitStatus) -> ExitCode {
    // None where a signal ended it.
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
