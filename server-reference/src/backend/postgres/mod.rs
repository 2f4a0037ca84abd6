//! All three contracts on one PostgreSQL (15 or later), for a handful of nodes on any machines.

mod bus;
mod engine;
mod kv;
mod link;
mod log;
mod message;
mod note;
mod reader;
mod writer;

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio_postgres::{
    Config,
    config::{SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::{
    engine::{Engine, OPEN, Session},
    kv::Values,
    link::Link,
};
use super::{authorities, error::BackendError, memory::Random, node::Backend, url::Url};
use crate::clock::System;

/// Options of the URL that are read here, or passed on to the connection.
const OPTIONS: [&str; 14] = [
    "prefix",
    "durable",
    "ca",
    "sslmode",
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "channel_binding",
    "connect_timeout",
];

/// One PostgreSQL database, which several datasole nodes share.
///
/// **Layout.** A schema of its own, made when it is not there: `head` (where each stream is), `log` (entries),
/// `snapshot`, and unlogged tables for what may be lost: values, leases, quotas, turns. One function appends to many
/// streams at once: whatever a node has queued goes in one statement and one transaction. News travel as notifications
/// of positions, gathered and sent after the commit by a connection of their own, never within an append (a `NOTIFY`
/// there makes all commits of the server wait for each other); nodes read the entries of streams that they follow.
///
/// **Size.** Each node hears every notification: for about ten nodes. A node has five connections.
///
/// **What survives.** Whatever PostgreSQL keeps: with `synchronous_commit=on`, its default, everything that was
/// acknowledged when its process or its machine dies. A failover to an asynchronous standby loses what the standby had
/// not got, and `synchronous_commit=off` the last moments of a crash. So that nobody diverges unnoticed, a node that
/// meets a server after a crash that may have lost something, on another timeline or in another cluster begins a new
/// generation: every stream begins a new life, and clients start from snapshots. With `?durable=yes` the operator
/// declares that nothing acknowledged is ever lost (a synchronous standby), and lives go on.
///
/// **When the server is away** operations fail at once with [`BackendError::Unavailable`] and are tried again after at
/// most two seconds; followers then learn that news were lost. A standby is not used: of several hosts, the one that
/// accepts writes is.
///
/// Connections are used as sessions (`LISTEN`, prepared statements): a PgBouncer between must pool sessions, not
/// transactions.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use datasole_server::{Server, backend::Postgres};
///
/// let postgres = Postgres::connect("postgres://app@127.0.0.1/app?prefix=shop").await?;
/// // Every server that stands on it is a node: what one changes, clients of all see.
/// let server = Server::builder().backend(postgres.node().await?).build();
/// # Ok(()) }
/// ```
///
/// Cloning yields another handle to the same server.
#[derive(Clone)]
pub struct Postgres {
    engine: Arc<Engine>,
    random: Random,
    loss: &'static str,
}

impl Postgres {
    /// Connects to a server. Its URL is `postgres://[user[:password]@]host[:port][,host…]/database`, or
    /// `postgresql://…`. Options follow a `?`, separated by `&`:
    ///
    /// - `prefix=NAME`: the schema, and the channel of notifications (`ds` unless given; 1 to 32 letters, digits, `_` and
    ///   `-`), so that applications can share a database. The user needs the right to create it, or to use it and create
    ///   in it.
    /// - `durable=yes`, see [`Postgres`].
    /// - `sslmode`: `disable` unless given; `require` or `verify-full` for TLS with a certificate that this machine
    ///   trusts and that names the host; with `ca=FILE` (PEM) one that these authorities vouch for.
    /// - those of PostgreSQL's own clients: `host` (a folder with the server's socket, too), `hostaddr`, `port`, `user`,
    ///   `password`, `dbname`, `options`, `application_name`, `channel_binding`, `connect_timeout`.
    ///
    /// # Errors
    ///
    /// [`BackendError::Invalid`] for another URL and when the server refuses user, password or database,
    /// [`BackendError::Unavailable`] when it cannot be reached, [`BackendError::Corrupt`] when the schema has another
    /// layout. No error repeats the URL or the password.
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        let url = Url::parse(url)?;
        url.only("PostgreSQL", &OPTIONS)?;
        let durable = match url.option("durable") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(_) => return Err(BackendError::Invalid("durable is yes or no in the URL of PostgreSQL".into())),
        };
        let config = config(url)?;
        let tls = tls(config.get_ssl_mode(), url.option("ca"))?;
        let schema = url.prefix()?.unwrap_or("ds");
        let engine = Engine::new(config, tls, schema, Arc::new(System), durable);
        let session = engine.first_session().await?;
        let loss = if durable { "nothing, as declared" } else { loss(&session).await? };
        let random: Random = Arc::new(|| getrandom::u64().unwrap_or_default());
        Ok(Self { engine: Arc::new(engine), random, loss })
    }

    /// Handles of a node of its own, with connections for its messages and its appends.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the server cannot be reached.
    pub async fn node(&self) -> Result<Backend, BackendError> {
        let link = Link::open(&self.engine, (self.random)()).await?;
        Ok(Backend {
            log: Arc::new(log::Handle::new(&self.engine, &link)),
            bus: Arc::new(bus::Handle::new(&link)),
            kv: Arc::new(Values::new(&self.engine)),
        })
    }

    /// What may be lost, when.
    pub(super) fn loss(&self) -> &'static str {
        self.loss
    }
}

/// The configuration of connections; the options that are ours are not in it.
fn config(url: Url<'_>) -> Result<Config, BackendError> {
    let invalid = |why: String| BackendError::Invalid(format!("the URL of a PostgreSQL server: {why}"));
    let passed = url.options().filter(|(name, _)| !["prefix", "durable", "ca", "sslmode"].contains(name));
    let passed: Vec<String> = passed.map(|(name, value)| format!("{name}={value}")).collect();
    let mut config: Config =
        format!("{}?{}", url.address, passed.join("&")).parse().map_err(|error| invalid(engine::text(&error)))?;
    config.ssl_mode(match url.option("sslmode") {
        None | Some("disable") => SslMode::Disable,
        Some("require" | "verify-full") => SslMode::Require,
        Some(_) => return Err(invalid("sslmode is disable, require or verify-full".into())),
    });
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(invalid("a host is missing".into()));
    }
    if config.get_application_name().is_none() {
        config.application_name("datasole");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(OPEN);
    }
    config.target_session_attrs(TargetSessionAttrs::ReadWrite).tcp_user_timeout(OPEN * 5);
    Ok(config)
}

fn tls(mode: SslMode, ca: Option<&str>) -> Result<MakeRustlsConnect, BackendError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(_) if mode == SslMode::Disable => {
            return Err(BackendError::Invalid("ca in the URL of PostgreSQL: sslmode is require or verify-full".into()));
        }
        Some(file) => drop(roots.add_parsable_certificates(authorities::certificates(file)?)),
        None if mode == SslMode::Disable => {}
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BackendError::Invalid(error.to_string()))?;
    Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
}

/// What the server's settings let be lost.
async fn loss(session: &Session) -> Result<&'static str, BackendError> {
    let sql = "SELECT current_setting('fsync') = 'off', current_setting('synchronous_commit') = 'off',
        current_setting('synchronous_standby_names') <> ''";
    let rows = session.query(sql, &[]).await?;
    let setting = |column| rows.first().and_then(|row| row.try_get(column).ok()).unwrap_or(false);
    Ok(match (setting(0), setting(1), setting(2)) {
        (true, _, _) => "everything when its machine fails (fsync is off)",
        (_, true, _) => "the last 0.6 seconds when it crashes (synchronous_commit is off), more at a failover",
        (_, _, true) => {
            "nothing when it crashes; at a failover what the standby had not got, which is nothing of a synchronous one"
        }
        _ => "nothing when it crashes; at a failover what the standby had not got",
    })
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, BackendError> {
        let url = Url::parse(text)?;
        url.only("PostgreSQL", &OPTIONS)?;
        config(url)
    }

    #[test]
    fn urls() {
        let parsed = parse("postgres://ann:p%40ss@a,b:5433/app?prefix=x&durable=yes&sslmode=require").unwrap();
        assert_eq!((parsed.get_user(), parsed.get_dbname()), (Some("ann"), Some("app")));
        assert_eq!(parsed.get_password(), Some(&b"p@ss"[..]));
        assert_eq!((parsed.get_hosts().len(), parsed.get_ssl_mode()), (2, SslMode::Require));
        assert_eq!(parsed.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(parse("postgres://h/db").unwrap().get_ssl_mode(), SslMode::Disable);
        assert_eq!(parse("postgresql:///db?host=/run/postgresql&application_name=me").unwrap().get_hosts().len(), 1);
        for (url, why) in [
            ("postgres:///db", "a host is missing"),
            ("postgres://h/db?sslmode=prefer", "sslmode is"),
            ("postgres://h:port/db", "port"),
            ("postgres://ann:secret@h/db?colour=red", "colour in the URL"),
            ("postgres://ann:secret@h/db?prefix=a\"b", "prefix in the URL"),
            ("postgres://ann:secret@h/db?connect_timeout=soon", "connect_timeout"),
        ] {
            let Err(BackendError::Invalid(error)) = parse(url) else { panic!("{url} is refused") };
            assert!(error.contains(why) && !error.contains("secret"), "{url}: {error}");
        }
    }
}
