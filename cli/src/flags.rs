//! The flags of `datasole serve`, and the server they describe. Each can be given as an environment variable.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use clap::Args;
use datasole_server::{
    AuthError, AuthRequest, Builder, Context, Identity, Limits, Payload, Replay, Server,
    backend::{BackendError, Sqlite},
};

/// The flags of `datasole serve`; their comments are what `--help` prints.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Listen at this address; port 0 takes a free port
    #[arg(long, env = "DATASOLE_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:4000")]
    pub(crate) listen: String,
    /// Path of the endpoint; browser files and health are below it
    #[arg(long, env = "DATASOLE_PATH", default_value = "/__ds")]
    path: String,
    /// Serve this folder beside the endpoint
    #[arg(long = "static", env = "DATASOLE_STATIC", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Let pages of this origin connect, or of every origin with *; repeatable, or separated by commas
    #[arg(long = "allow-origin", env = "DATASOLE_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    origins: Vec<String>,
    /// Accept at most this many connections at a time
    #[arg(long, env = "DATASOLE_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().max_connections)]
    max_connections: usize,
    /// Admit only clients with one of these tokens, each as its user; repeatable, or separated by commas
    #[arg(
        long = "token",
        env = "DATASOLE_TOKEN",
        value_name = "TOKEN=USER",
        value_delimiter = ',',
        value_parser = token,
        hide_env_values = true
    )]
    tokens: Vec<(String, String)>,
    /// Pass this event from a client on to all clients; repeatable, or separated by commas
    #[arg(long = "relay", env = "DATASOLE_RELAY", value_name = "EVENT", value_delimiter = ',')]
    relays: Vec<String>,
    /// Keep the last COUNT of this event for clients that reconnect; repeatable, or separated by commas
    #[arg(
        long = "history",
        env = "DATASOLE_HISTORY",
        value_name = "EVENT=COUNT",
        value_delimiter = ',',
        value_parser = history
    )]
    histories: Vec<(String, usize)>,
    /// Store everything in this folder, so that restarts lose nothing; without it, in memory
    #[arg(long, env = "DATASOLE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Wait for the disk before acknowledging a change, so that power failures lose nothing either
    #[arg(long, env = "DATASOLE_SYNC", requires = "data")]
    sync: bool,
    /// Log this to stderr: a level, or directives such as datasole_server=debug
    #[arg(long, env = "DATASOLE_LOG", value_name = "LEVEL", default_value = "info")]
    pub(crate) log: String,
    /// Serve the demo at /
    #[arg(long, env = "DATASOLE_DEMO", conflicts_with_all = ["path", "tokens"])]
    pub(crate) demo: bool,
}

impl Flags {
    /// Opens the folder of `--data`; `None` without one.
    pub(crate) fn storage(&self) -> Result<Option<Sqlite>, BackendError> {
        let open = if self.sync { Sqlite::open_synced } else { Sqlite::open };
        self.data.as_ref().map(open).transpose()
    }

    /// A builder with all that the flags describe, but for the storage.
    pub(crate) fn builder(&self) -> Builder {
        let limits = Limits { max_connections: self.max_connections, ..Limits::default() };
        let mut builder = Server::builder().path(&self.path).limits(limits);
        for origin in &self.origins {
            builder = builder.allow_origin(origin);
        }
        if !self.tokens.is_empty() {
            let users: Arc<HashMap<String, String>> = Arc::new(self.tokens.iter().cloned().collect());
            builder = builder.auth(move |request: AuthRequest| {
                let user = request.token.and_then(|token| users.get(&token).cloned());
                async move { user.map(Identity::user).ok_or_else(|| AuthError::refused("no such token")) }
            });
        }
        for event in &self.relays {
            let name = event.clone();
            builder = builder.on_raw(event, move |context: Context, data: Payload| {
                let name = name.clone();
                async move {
                    if let Err(error) = context.server().broadcast_payload(&name, data).await {
                        tracing::warn!(%error, event = name, "an event was not relayed");
                    }
                }
            });
        }
        for (event, entries) in &self.histories {
            builder = builder.topic(event, Replay { entries: *entries, ..Replay::default() });
        }
        builder
    }
}

/// Splits TOKEN=USER at the last `=`: tokens often end in some.
fn token(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((token, user)) if !token.is_empty() && !user.is_empty() => Ok((token.to_owned(), user.to_owned())),
        _ => Err("expected TOKEN=USER".to_owned()),
    }
}

/// Splits EVENT=COUNT at the last `=`.
fn history(text: &str) -> Result<(String, usize), String> {
    let (event, count) = text.rsplit_once('=').ok_or("expected EVENT=COUNT")?;
    let count = count.parse().map_err(|error| format!("{count:?} is no count: {error}"))?;
    Ok((event.to_owned(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.flags)
    }

    fn pair<T>(name: &str, value: T) -> (String, T) {
        (name.to_owned(), value)
    }

    #[test]
    fn repeated_and_listed_values_add_up() {
        let flags = parse(
            "--token a==ann --token b=bob,c=cat --history chat=200 --relay chat,move --allow-origin https://a.example",
        )
        .unwrap();
        let user = |name: &str| name.to_owned();
        assert_eq!(flags.tokens, [pair("a=", user("ann")), pair("b", user("bob")), pair("c", user("cat"))]);
        assert_eq!(flags.histories, [pair("chat", 200)]);
        assert_eq!(flags.relays, ["chat", "move"]);
        assert_eq!(flags.origins, ["https://a.example"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "--token ann",
            "--token =ann",
            "--token a=",
            "--history chat",
            "--history chat=many",
            "--max-connections -1",
            "--demo --token a=ann",
            "--demo --path /other",
            "--data",
            "--sync",
            "extra",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
