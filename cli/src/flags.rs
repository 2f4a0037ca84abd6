//! The flags of `datasole serve` and `dev`, and the server they describe. Each can be given as an environment variable.

use std::{collections::HashMap, fs, io, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use datasole_server::{
    AuthError, AuthRequest, Builder, Context, Identity, Limits, Network, Origin, Payload, Replay, Server, backend::Urls,
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
    /// Prefix of everything that is served, for proxies that pass it on: /app serves /app/__ds, and the folder at /app/
    #[arg(long, env = "DATASOLE_BASE_PATH", value_name = "PATH", value_parser = base_path, conflicts_with = "demo")]
    pub(crate) base_path: Option<String>,
    /// Serve this folder beside the endpoint, without hidden files; symbolic links are followed
    #[arg(long = "static", env = "DATASOLE_STATIC", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// Let pages of this origin connect, or of every origin with *; repeatable, or separated by commas
    #[arg(
        long = "allow-origin",
        env = "DATASOLE_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    origins: Vec<String>,
    /// Answer to this host name, or to every one with *; on a loopback address without it only to this machine's names;
    /// repeatable, or separated by commas
    #[arg(long = "allow-host", env = "DATASOLE_ALLOW_HOST", value_name = "HOST", value_delimiter = ',', value_parser = host)]
    hosts: Vec<String>,
    /// Believe proxies of this network who asks (X-Forwarded-For, -Proto, -Host); repeatable, or separated by commas
    #[arg(long = "trust-proxy", env = "DATASOLE_TRUST_PROXY", value_name = "CIDR", value_delimiter = ',')]
    proxies: Vec<Network>,
    /// Ping quiet connections this often: 1s to 5m, below the idle limit of every proxy
    #[arg(long, env = "DATASOLE_HEARTBEAT", value_name = "TIME", default_value = "15s", value_parser = heartbeat)]
    heartbeat: Duration,
    /// Have clients come back within this time when the server goes away: 0s to 60m, at least a second for each 5,000 of them
    #[arg(long, env = "DATASOLE_RECONNECT_WINDOW", value_name = "TIME", value_parser = window)]
    reconnect_window: Option<Duration>,
    /// Let every page of this machine connect, whatever its port
    #[arg(long, env = "DATASOLE_DEV")]
    pub(crate) dev: bool,
    /// Show the counters in health to everybody
    #[arg(long, env = "DATASOLE_METRICS")]
    metrics: bool,
    /// Accept at most this many connections at a time
    #[arg(long, env = "DATASOLE_MAX_CONNECTIONS", value_name = "N", default_value_t = Limits::default().max_connections)]
    pub(crate) max_connections: usize,
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
    /// Read more tokens from this file, one TOKEN=USER a line; empty lines and those that begin with # are skipped
    #[arg(long = "token-file", env = "DATASOLE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
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
    /// Share everything with the other servers on this Redis: the same as --backend
    #[arg(long, env = "DATASOLE_REDIS", value_name = "URL", hide_env_values = true, conflicts_with = "data")]
    redis: Option<String>,
    /// Keep streams, messages between servers and short-lived values in this engine, unless --log, --bus or --kv name
    /// another: memory:, sqlite:DIR, redis://, rediss://, unix:// or postgres://, with ?prefix=NAME if applications share it
    #[arg(
        long,
        env = "DATASOLE_BACKEND",
        value_name = "URL",
        hide_env_values = true,
        conflicts_with_all = ["data", "redis"]
    )]
    backend: Option<String>,
    /// Keep streams in this engine
    ///
    /// A value that is no URL is a level of logging, as in earlier versions: see --log-level.
    #[arg(long, env = "DATASOLE_LOG", value_name = "URL", hide_env_values = true)]
    log: Vec<String>,
    /// Send messages between servers over this engine
    #[arg(long, env = "DATASOLE_BUS", value_name = "URL", hide_env_values = true)]
    bus: Option<String>,
    /// Keep short-lived values in this engine: members of rooms, quotas, leases
    #[arg(long, env = "DATASOLE_KV", value_name = "URL", hide_env_values = true)]
    kv: Option<String>,
    /// Log this to stderr: a level, or directives such as datasole_server=debug
    #[arg(long, env = "DATASOLE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Serve the demo at /
    #[arg(long, env = "DATASOLE_DEMO", conflicts_with_all = ["path", "tokens", "token_file"])]
    pub(crate) demo: bool,
}

impl Flags {
    /// The engines that the flags name; `None` leaves each server its own memory.
    pub(crate) fn engines(&self) -> io::Result<Option<Urls>> {
        let data = self.data.as_ref().map(|dir| {
            let dir =
                dir.to_str().ok_or_else(|| io::Error::other(format!("--data {}: is not UTF-8", dir.display())))?;
            Ok::<_, io::Error>(format!("sqlite://{dir}?{}", if self.sync { "sync=yes" } else { "" }))
        });
        let urls = Urls {
            backend: data.transpose()?.or_else(|| self.redis.clone()).or_else(|| self.backend.clone()),
            // A level on the command line takes the place of the variable, whose engine stays.
            log: self.log.iter().rfind(|value| Urls::is_engine(value)).cloned().or_else(|| Urls::from_env().log),
            bus: self.bus.clone(),
            kv: self.kv.clone(),
        };
        Ok(Some(urls).filter(|urls| *urls != Urls::default()))
    }

    /// The directives of the log on stderr.
    pub(crate) fn level(&self) -> &str {
        self.log.iter().rfind(|value| !Urls::is_engine(value)).unwrap_or(&self.log_level)
    }

    /// The tokens of the flags and of the file, with their users.
    pub(crate) fn tokens(&self) -> io::Result<Arc<HashMap<String, String>>> {
        let mut tokens: HashMap<String, String> = self.tokens.iter().cloned().collect();
        if let Some(path) = &self.token_file {
            let wrong = |why: String| io::Error::other(format!("--token-file {}: {why}", path.display()));
            let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
            for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
                tokens.extend([token(line).map_err(|why| wrong(format!("line {number}: {why}")))?]);
            }
            if tokens.is_empty() {
                return Err(wrong("no token in it: nobody could connect".to_owned()));
            }
        }
        Ok(Arc::new(tokens))
    }

    /// A builder with all that the flags describe, but for the storage.
    pub(crate) fn builder(&self, users: &Arc<HashMap<String, String>>) -> Builder {
        let limits = Limits::default().with(|limits| {
            limits.max_connections = self.max_connections;
            limits.heartbeat = self.heartbeat;
        });
        let path = format!("{}/{}", self.base_path.as_deref().unwrap_or_default(), self.path.trim_matches('/'));
        let mut builder = Server::builder().path(&path).limits(limits).public_metrics(self.metrics);
        if let Some(window) = self.reconnect_window {
            builder = builder.reconnect_window(window);
        }
        for origin in &self.origins {
            builder = builder.allow_origin(origin);
        }
        for host in &self.hosts {
            builder = builder.allow_host(host);
        }
        for network in &self.proxies {
            builder = builder.trust_proxy(*network);
        }
        if self.dev || self.demo {
            builder = builder.allow_loopback_origins();
        }
        if !users.is_empty() {
            let users = users.clone();
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
            builder = builder.topic(event, Replay::default().entries(*entries));
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

/// An origin that some page can have, or `*`.
fn origin(text: &str) -> Result<String, String> {
    if text != "*" {
        text.parse::<Origin>().map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

/// A host name without a port, or `*`.
fn host(text: &str) -> Result<String, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let fits = text == "*"
        || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok())
        || (!text.is_empty() && text.bytes().all(is_name));
    if fits { Ok(text.to_owned()) } else { Err("expected a host name without scheme and port".to_owned()) }
}

/// A path with one slash in front and none behind.
fn base_path(text: &str) -> Result<String, String> {
    let path = text.trim_matches('/');
    let fits = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && !part.contains(['{', '}', '?', '#']));
    if fits { Ok(format!("/{path}")) } else { Err("expected a path such as /app".to_owned()) }
}

/// A time of 1 second to 5 minutes.
fn heartbeat(text: &str) -> Result<Duration, String> {
    time(text).filter(|time| (1..=300).contains(&time.as_secs())).ok_or_else(|| "expected 1s to 5m".to_owned())
}

/// A time of up to an hour.
fn window(text: &str) -> Result<Duration, String> {
    time(text).filter(|time| time.as_secs() <= 3_600).ok_or_else(|| "expected 0s to 60m".to_owned())
}

/// A time: `15s`, `2m`, or a number of seconds.
fn time(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
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
    fn heartbeats_are_of_1_second_to_5_minutes() {
        for (text, seconds) in [("1s", 1), ("15s", 15), ("20", 20), ("2m", 120), ("300s", 300), ("5m", 300)] {
            assert_eq!(
                parse(&format!("--heartbeat {text}")).unwrap().heartbeat,
                Duration::from_secs(seconds),
                "{text}"
            );
        }
    }

    #[test]
    fn windows_are_of_up_to_an_hour() {
        assert_eq!(parse("").unwrap().reconnect_window, None);
        for (text, seconds) in [("0s", 0), ("10", 10), ("60m", 3_600), ("3600s", 3_600)] {
            let window = parse(&format!("--reconnect-window {text}")).unwrap().reconnect_window;
            assert_eq!(window, Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn engines_are_named_in_many_ways() {
        let named = |line: &str| parse(line).unwrap().engines().unwrap();
        let all = |url: &str| Some(Urls::from(url));
        assert_eq!(named(""), None);
        assert_eq!(named("--log warn"), None);
        assert_eq!(named("--backend redis://h"), all("redis://h"));
        assert_eq!(named("--redis redis://h"), all("redis://h"));
        assert_eq!(named("--data a?b"), all("sqlite://a?b?"));
        assert_eq!(named("--data //srv/x"), all("sqlite:////srv/x?"));
        assert_eq!(named("--data x --sync"), all("sqlite://x?sync=yes"));
        let some = |url: &str| Some(url.to_owned());
        let mixed = "--backend memory: --log debug --log sqlite:x --bus redis://b --kv redis://k";
        let urls =
            Urls { log: some("sqlite:x"), bus: some("redis://b"), kv: some("redis://k"), ..Urls::from("memory:") };
        assert_eq!(named(mixed), Some(urls));
        let urls = Urls { bus: some("redis://b"), ..Urls::from("sqlite://x?") };
        assert_eq!(named("--data x --bus redis://b"), Some(urls));
    }

    #[test]
    fn levels_of_logging_have_two_flags() {
        for (line, level) in [
            ("", "info"),
            ("--log warn", "warn"),
            ("--log-level debug", "debug"),
            ("--log redis://h", "info"),
            ("--log redis://h --log-level error", "error"),
            ("--log datasole_server=debug,warn --log redis://h", "datasole_server=debug,warn"),
        ] {
            assert_eq!(parse(line).unwrap().level(), level, "{line}");
        }
    }

    #[test]
    fn a_base_path_has_one_slash_in_front() {
        for text in ["/app", "app", "/app/"] {
            assert_eq!(parse(&format!("--base-path {text}")).unwrap().base_path.as_deref(), Some("/app"));
        }
    }

    #[test]
    fn files_of_tokens_say_which_line_is_wrong() {
        let path = std::env::temp_dir().join(format!("datasole-tokens-{}", std::process::id()));
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            parse(&format!("--token x=xi --token-file {}", path.display())).unwrap().tokens()
        };
        let tokens = read("# ours\n\n  a==ann  \r\nb=bob\n").unwrap();
        let user = |token: &str| tokens.get(token).map(String::as_str);
        assert_eq!((user("a="), user("b"), user("x"), user("# ours")), (Some("ann"), Some("bob"), Some("xi"), None));
        let error = read("a=ann\n\nbob\n").unwrap_err().to_string();
        assert!(error.ends_with("line 3: expected TOKEN=USER"), "{error}");
        fs::remove_file(&path).unwrap();
        let missing = parse(&format!("--token-file {}", path.display())).unwrap().tokens().unwrap_err().to_string();
        assert!(missing.starts_with("--token-file ") && missing.contains("No such file"), "{missing}");
        fs::write(&path, "# none\n").unwrap();
        let empty = parse(&format!("--token-file {}", path.display())).unwrap().tokens().unwrap_err().to_string();
        assert!(empty.contains("nobody could connect"), "{empty}");
        fs::remove_file(&path).unwrap();
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
            "--demo --token-file x",
            "--demo --base-path /app",
            "--allow-origin a.example",
            "--allow-origin https://*.app.example",
            "--allow-origin null",
            "--allow-host https://a.example",
            "--allow-host a.example:80",
            "--trust-proxy a.example",
            "--trust-proxy 10.0.0.0/33",
            "--heartbeat 0s",
            "--reconnect-window 3601s",
            "--reconnect-window -1",
            "--heartbeat 301s",
            "--heartbeat 6m",
            "--heartbeat soon",
            "--base-path /",
            "--base-path /a//b",
            "--sync",
            "--redis",
            "--redis redis://a.example --data x",
            "--backend",
            "--backend memory: --data x",
            "--backend memory: --redis redis://a.example",
            "--log",
            "--bus",
            "--kv",
            "extra",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
