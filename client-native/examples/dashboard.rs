//! A terminal dashboard that mirrors the live state `dashboard` of the demo (`datasole serve --demo`): the server's
//! numbers, and each service's requests per second over all regions.
//!
//! ```text
//! cargo run -p datasole-client --example dashboard -- --url http://127.0.0.1:4000
//! ```

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use datasole_client::{Client, State, Status};
use futures_util::StreamExt;
use serde::Deserialize;

#[derive(Parser)]
struct Options {
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:4000")]
    url: String,
    /// Who you are.
    #[arg(long)]
    token: Option<String>,
}

/// The part of the state that is shown; `cli/src/demo.rs` has all of it.
#[derive(Deserialize)]
struct Dashboard {
    server: Numbers,
    /// Those of one name stand together, one in each region.
    rows: Vec<Service>,
}

#[derive(Deserialize)]
struct Numbers {
    connections: u64,
    /// Seconds.
    uptime: u64,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    on: bool,
    /// Requests per second.
    rps: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let mut builder = Client::builder(&options.url);
    if let Some(token) = options.token {
        builder = builder.token(token);
    }
    println!("connecting to {}", options.url);
    let client = builder.connect().await?;
    let mut dashboard = client.state::<Dashboard>("dashboard")?;
    let mut statuses = client.statuses();
    loop {
        tokio::select! {
            Some(_) = statuses.next() => {}
            changed = dashboard.changed() => changed?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                client.close().await;
                return Ok(());
            }
        }
        draw(&dashboard, &client.status())?;
    }
}

/// Clears the screen and writes everything again, in one write so that nothing flickers.
fn draw(dashboard: &State<Dashboard>, status: &Status) -> io::Result<()> {
    const BOLD: &str = "\x1b[1m";
    const DIM: &str = "\x1b[2m";
    const GREEN: &str = "\x1b[32m";
    const YELLOW: &str = "\x1b[33m";
    const PLAIN: &str = "\x1b[0m";
    let colour = if status.is_connected() { GREEN } else { YELLOW };
    let mut screen = format!("\x1b[H\x1b[2J{BOLD}datasole dashboard{PLAIN}   {colour}● {status}{PLAIN}\n\n");
    match dashboard.get() {
        Ok(Some(Dashboard { server: Numbers { connections, uptime }, rows })) => {
            screen += &format!("  connections {BOLD}{connections}{PLAIN}   up for {BOLD}{uptime} s{PLAIN}\n\n");
            let services: Vec<_> = rows.chunk_by(|one, next| one.name == next.name).collect();
            let total = |service: &[Service]| service.iter().map(|row| row.rps).sum::<u64>();
            let most = services.iter().map(|service| total(service)).max().unwrap_or(0).max(1);
            for service in services {
                let (total, on) = (total(service), service.iter().filter(|row| row.on).count());
                let bar = "█".repeat((total * 40 / most) as usize);
                let name = &service[0].name;
                screen +=
                    &format!("  {name:>10}  {GREEN}{bar:<40}{PLAIN} {total}/s in {on} of {} regions\n", service.len());
            }
        }
        Ok(None) if dashboard.is_loaded() => screen += "  the server has no such state\n",
        Ok(None) => screen += "  loading\n",
        Err(error) => screen += &format!("  {error}\n"),
    }
    screen += &format!("\n{DIM}Ctrl-C ends{PLAIN}\n");
    let mut stdout = io::stdout().lock();
    stdout.write_all(screen.as_bytes())?;
    stdout.flush()
}
