//! A terminal dashboard that mirrors the live state `dashboard` of the demo or fixture server.
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

#[derive(Deserialize)]
struct Dashboard {
    visitors: u64,
    active: u64,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: serde_json::Value,
    n: u64,
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
        Ok(Some(Dashboard { visitors, active, rows })) => {
            screen += &format!("  visitors {BOLD}{visitors}{PLAIN}   active {BOLD}{active}{PLAIN}\n\n");
            let most = rows.iter().map(|row| row.n).max().unwrap_or(0).max(1);
            for Row { id, n } in &rows {
                let bar = "█".repeat((n * 40 / most) as usize);
                screen += &format!("  {:>6}  {GREEN}{bar:<40}{PLAIN} {n}\n", id.to_string());
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
