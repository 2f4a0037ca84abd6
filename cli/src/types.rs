//! `datasole types` and `datasole contract-check`: the contract that a server under development shows.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ::http::{StatusCode, Uri, header};
use clap::Args;
use datasole_contract::{Description, changes};
use tokio::time::{sleep, timeout};

use crate::http::{Complaint, Endpoint, Place, complain};

/// Above what an honest answer takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a server.
const EVERY: Duration = Duration::from_secs(1);
/// The longest contract that is read; bytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// The flags of `datasole types`.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    place: Place,
    /// Write to this file, if it is not the same already; otherwise to stdout
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Look every second, also while the server is restarted
    #[arg(long, requires = "out")]
    watch: bool,
    /// Write the JSON by which versions are compared
    #[arg(long)]
    json: bool,
}

impl Asked {
    /// Those that keep `file` the same as the contract of the server at `url`, whose endpoint is at the usual path.
    pub(crate) fn watched(url: Uri, file: PathBuf) -> Self {
        Self { place: Place::of(url, "/__ds"), out: Some(file), watch: true, json: false }
    }
}

/// The flags of `datasole contract-check`.
#[derive(Debug, Args)]
pub(crate) struct Compared {
    /// The older contract: a file that `datasole types --json` wrote, or the URL of a server
    old: String,
    /// The newer one, likewise
    new: String,
    /// Path of the endpoint
    #[arg(long, default_value = "/__ds")]
    path: String,
}

/// Writes the contract once, or until it is interrupted.
pub(crate) async fn write(asked: &Asked) -> io::Result<()> {
    let name = if asked.json { "contract.json" } else { "contract.ts" };
    let endpoint = Endpoint::new(&asked.place).map_err(failed)?;
    let Some(out) = &asked.out else {
        print!("{}", fetch(&endpoint, name).await.map_err(failed)?);
        return Ok(());
    };
    let mut last = None;
    loop {
        let stored = fetch(&endpoint, name).await.and_then(|text| store(out, &text));
        let told = match stored {
            Ok(true) => format!("{} written", out.display()),
            Ok(false) => format!("{} is up to date", out.display()),
            Err(Complaint(why)) if asked.watch => why,
            Err(why) => return Err(failed(why)),
        };
        // Each once, but what is written: a server that restarts, or a file that cannot be written, is so for some looks.
        let again = last.as_ref() == Some(&told) || (last.is_some() && told.ends_with("up to date"));
        if !again || told.ends_with("written") {
            eprintln!("datasole: {told}");
        }
        last = Some(told);
        if !asked.watch {
            return Ok(());
        }
        sleep(EVERY).await;
    }
}

/// Prints every change; a failure if one breaks running apps.
pub(crate) async fn compare(compared: &Compared) -> ExitCode {
    let both = async { Ok((read(&compared.old, &compared.path).await?, read(&compared.new, &compared.path).await?)) };
    let (old, new) = match both.await {
        Ok(both) => both,
        Err(Complaint(why)) => {
            eprintln!("datasole: {why}");
            return ExitCode::from(2);
        }
    };
    let found = changes(&old, &new);
    for change in &found {
        println!("{change}");
    }
    if found.is_empty() {
        println!("no changes");
    }
    if found.iter().any(|change| change.breaking) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn failed(Complaint(why): Complaint) -> io::Error {
    io::Error::other(why)
}

async fn read(from: &str, path: &str) -> Result<Description, Complaint> {
    let text = match from.parse::<Uri>() {
        Ok(url) if url.scheme().is_some() => fetch(&Endpoint::new(&Place::of(url, path))?, "contract.json").await?,
        _ => fs::read_to_string(from).map_err(|error| Complaint(format!("{from}: {error}")))?,
    };
    serde_json::from_str(&text).map_err(|error| Complaint(format!("{from} is no contract: {error}")))
}

async fn fetch(endpoint: &Endpoint, name: &str) -> Result<String, Complaint> {
    let asking = timeout(PATIENCE, endpoint.get(name, None, LONGEST));
    let (head, body) = asking.await.unwrap_or_else(|_| complain("no answer in 10 s"))?;
    let html = head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    match head.status {
        StatusCode::OK if !html => Ok(body),
        StatusCode::NOT_FOUND => complain(format!(
            "{}{}/{name} is not there: servers that are built with debug assertions serve the contract that \
             `Builder::contract` names",
            endpoint.authority, endpoint.base
        )),
        StatusCode::OK => complain("an HTML page, not a contract: is this the server's own address?"),
        status => complain(format!("the server answers {status}")),
    }
}

/// Writes a file that is not the same already; true if it was.
fn store(path: &Path, text: &str) -> Result<bool, Complaint> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = made.and_then(|()| fs::write(path, text));
    written.map(|()| true).map_err(|error| Complaint(format!("{}: {error}", path.display())))
}
