//! [`Engines`]: what the servers of a process stand on, chosen by URL.

use std::{env, fmt};

#[cfg(feature = "nats")]
use super::nats::Nats;
#[cfg(feature = "postgres")]
use super::postgres::Postgres;
#[cfg(feature = "redis")]
use super::redis::Redis;
#[cfg(feature = "sqlite")]
use super::sqlite::Sqlite;
use super::{
    error::BackendError,
    memory::Memory,
    node::Backend,
    url::{self, Url},
};

/// The schemes of URLs that name an engine, and the features that they need.
const SCHEMES: [(&str, &str); 9] = [
    ("memory", ""),
    ("sqlite", "sqlite"),
    ("redis", "redis"),
    ("rediss", "redis"),
    ("unix", "redis"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("nats", "nats"),
    ("tls", "nats"),
];

/// The URLs of the engines for the three contracts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Urls {
    /// The engine for all that the others do not name; memory if this is `None`.
    pub backend: Option<String>,
    /// The engine of streams.
    pub log: Option<String>,
    /// The engine of messages between servers.
    pub bus: Option<String>,
    /// The engine of values that expire, quotas and leases.
    pub kv: Option<String>,
}

impl Urls {
    /// `DATASOLE_BACKEND`, `DATASOLE_LOG`, `DATASOLE_BUS` and `DATASOLE_KV`. Empty ones count as not set, and so does a
    /// `DATASOLE_LOG` that [names no engine](Self::is_engine): earlier programs read a level of logging there.
    pub fn from_env() -> Self {
        let read = |name| env::var(name).ok().filter(|url| !url.is_empty());
        Self {
            backend: read("DATASOLE_BACKEND"),
            log: read("DATASOLE_LOG").filter(|url| Self::is_engine(url)),
            bus: read("DATASOLE_BUS"),
            kv: read("DATASOLE_KV"),
        }
    }

    /// True if a text is meant as the URL of an engine: a word and one colon, which directives of logging do not have.
    pub fn is_engine(text: &str) -> bool {
        let is_word = |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
        text.split_once(':').is_some_and(|(scheme, rest)| is_word(scheme) && !rest.starts_with(':'))
    }

    /// The URLs of log, bus and values.
    fn each(&self) -> [&str; 3] {
        let backend = self.backend.as_deref().unwrap_or("memory:");
        [&self.log, &self.bus, &self.kv].map(|url| url.as_deref().unwrap_or(backend))
    }
}

impl From<&str> for Urls {
    fn from(url: &str) -> Self {
        Self { backend: Some(url.to_owned()), ..Self::default() }
    }
}

impl fmt::Debug for Urls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [log, bus, kv] = self.each().map(url::redacted);
        f.debug_struct("Urls").field("log", &log).field("bus", &bus).field("kv", &kv).finish()
    }
}

/// The engines that the servers of a process stand on: one for everything, or others for some of the three contracts.
///
/// | URL | engine | feature |
/// |---|---|---|
/// | `memory:` | this process's memory, for its servers alone | |
/// | `sqlite:DIR` | one file in this folder, for the servers of this process: `Sqlite`; `?sync=yes` waits for the disk | `sqlite` |
/// | `redis://…`, `rediss://…`, `unix://…` | a Redis or Valkey, or a cluster of them: `Redis` | `redis` |
/// | `postgres://…`, `postgresql://…` | a PostgreSQL database: `Postgres` | `postgres` |
/// | `nats://…`, `tls://…` | a NATS server or cluster: `Nats` | `nats` |
///
/// With `?prefix=NAME` applications share an engine without seeing each other: 1 to 32 letters, digits, `_` and `-`. (In
/// memory nothing is shared, and the prefix has no effect; below a folder it is a folder of its own.)
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use datasole_server::{Server, backend::Engines};
///
/// let engines = Engines::open("memory:").await?;
/// let server = Server::builder().backend(engines.node().await?).build();
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Engines {
    /// Each engine once.
    engines: Vec<Opened>,
    /// The places of the engines of log, bus and values.
    parts: [usize; 3],
}

#[derive(Clone, Debug)]
struct Opened {
    /// As it may be shown.
    url: String,
    engine: Engine,
    /// The loss that is possible, and when.
    loss: &'static str,
    /// Whether servers of other processes can stand on it.
    is_shared: bool,
}

#[derive(Clone, Debug)]
enum Engine {
    Memory(Memory),
    #[cfg(feature = "sqlite")]
    Sqlite(Sqlite),
    #[cfg(feature = "redis")]
    Redis(Redis),
    #[cfg(feature = "postgres")]
    Postgres(Postgres),
    #[cfg(feature = "nats")]
    Nats(Nats),
}

impl Engines {
    /// Opens each engine that is named, once.
    ///
    /// # Errors
    ///
    /// [`BackendError::Invalid`] for a URL that names no engine, has an unknown option, or needs a feature that this
    /// program was built without; else as the engine's own way to open it. No error repeats a password.
    pub async fn open(urls: impl Into<Urls>) -> Result<Self, BackendError> {
        let urls = urls.into();
        let (mut engines, mut known) = (Vec::new(), Vec::new());
        let mut parts = [0; 3];
        for (part, url) in parts.iter_mut().zip(urls.each()) {
            *part = match known.iter().position(|other| *other == url) {
                Some(number) => number,
                None => {
                    engines.push(Opened::open(url).await?);
                    known.push(url);
                    engines.len() - 1
                }
            };
        }
        Ok(Self { engines, parts })
    }

    /// Handles of a node of its own: what one server stands on.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when an engine cannot be reached.
    pub async fn node(&self) -> Result<Backend, BackendError> {
        let mut nodes = Vec::with_capacity(self.engines.len());
        for opened in &self.engines {
            nodes.push(opened.engine.node().await?);
        }
        match self.parts.map(|part| nodes.get(part).cloned()) {
            [Some(log), Some(bus), Some(kv)] => Ok(Backend { log: log.log, bus: bus.bus, kv: kv.kv }),
            _ => Err(BackendError::Invalid("no engine".into())),
        }
    }

    /// One line for each engine: which contracts it has, and what may be lost. A last line warns where servers would
    /// share streams and not hear of each other.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (n, Opened { url, loss, .. }) in self.engines.iter().enumerate() {
            let names = ["log", "bus", "kv"].into_iter().zip(self.parts);
            let names: Vec<&str> = names.filter(|(_, part)| *part == n).map(|(name, _)| name).collect();
            lines.push(format!("{} in {url}; may be lost: {loss}", names.join(", ")));
        }
        let [log, bus, kv] = self.parts.map(|part| self.engines.get(part).is_some_and(|opened| opened.is_shared));
        if log && !(bus && kv) {
            lines.push("servers share the log, but not bus and kv: their rooms, events and users are apart".to_owned());
        }
        if (bus || kv) && !log {
            lines.push(
                "servers share bus or kv, but not the log: their states, CRDTs and documents are apart".to_owned(),
            );
        }
        lines
    }
}

/// The feature that a scheme needs, if it names an engine.
fn feature(scheme: &str) -> Option<&'static str> {
    SCHEMES.iter().find(|(known, _)| *known == scheme).map(|(_, feature)| *feature)
}

impl Opened {
    async fn open(text: &str) -> Result<Self, BackendError> {
        let url = Url::parse(text)?;
        let (engine, loss) = match url.scheme {
            "memory" => {
                url.only("memory:", &["prefix"])?;
                (Engine::Memory(Memory::default()), "everything, when the process ends")
            }
            #[cfg(feature = "sqlite")]
            "sqlite" => sqlite(url)?,
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "unix" => {
                url.only("a Redis server", &["prefix", "durable", "ca", "db", "user", "pass"])?;
                let redis = Redis::connect(text).await?;
                let loss = redis.loss();
                (Engine::Redis(redis), loss)
            }
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                let postgres = Postgres::connect(text).await?;
                let loss = postgres.loss();
                (Engine::Postgres(postgres), loss)
            }
            #[cfg(feature = "nats")]
            "nats" | "tls" => {
                let nats = Nats::connect(text).await?;
                let loss = nats.loss();
                (Engine::Nats(nats), loss)
            }
            scheme => return Err(BackendError::Invalid(refusal(scheme))),
        };
        let is_shared = !matches!(url.scheme, "memory" | "sqlite");
        Ok(Self { url: url::redacted(text), engine, loss, is_shared })
    }
}

/// The reason why a scheme opens nothing.
fn refusal(scheme: &str) -> String {
    match feature(scheme) {
        Some(feature) => {
            format!("{scheme}: needs the feature `{feature}` of datasole-server, which this program was built without")
        }
        None => format!(
            "{scheme}: is no engine; engines are memory:, sqlite:DIR, redis://, rediss://, unix://, postgres://, nats:// and tls://"
        ),
    }
}

/// The folder's file; with a prefix that of a folder below it.
#[cfg(feature = "sqlite")]
fn sqlite(url: Url<'_>) -> Result<(Engine, &'static str), BackendError> {
    url.only("sqlite:", &["prefix", "sync"])?;
    let mut dir = std::path::PathBuf::from(url.path());
    if dir.as_os_str().is_empty() {
        return Err(BackendError::Invalid("sqlite: needs a folder, such as sqlite:./data".into()));
    }
    dir.extend(url.prefix()?);
    let (open, loss): (fn(_) -> _, _) = match url.option("sync") {
        None | Some("no") => {
            (Sqlite::open, "nothing when the process is killed, the last moments when the power fails")
        }
        Some("yes") => (Sqlite::open_synced, "nothing"),
        Some(_) => return Err(BackendError::Invalid("sync is yes or no in the URL of SQLite".into())),
    };
    open(dir).map(|sqlite| (Engine::Sqlite(sqlite), loss))
}

impl Engine {
    async fn node(&self) -> Result<Backend, BackendError> {
        match self {
            Self::Memory(memory) => Ok(memory.node()),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(sqlite) => Ok(sqlite.node()),
            #[cfg(feature = "redis")]
            Self::Redis(redis) => redis.node().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(postgres) => postgres.node().await,
            #[cfg(feature = "nats")]
            Self::Nats(nats) => nats.node().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::log::{Append, Loaded, Mark, Rule, Tag};

    async fn refused(urls: impl Into<Urls>) -> String {
        match Engines::open(urls).await {
            Err(BackendError::Invalid(why)) => why,
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_contract_has_its_engine_and_each_engine_is_opened_once() {
        let urls = Urls { bus: Some("memory:?prefix=bus".into()), ..Urls::from("memory:") };
        let engines = Engines::open(urls).await.unwrap();
        assert_eq!((engines.engines.len(), engines.parts), (2, [0, 1, 0]));
        let lost = "may be lost: everything, when the process ends";
        assert_eq!(
            engines.describe(),
            [format!("log, kv in memory:; {lost}"), format!("bus in memory:?prefix=bus; {lost}")]
        );
        let (a, b) = (engines.node().await.unwrap(), engines.node().await.unwrap());
        let (stream, entries) = (datasole_core::StreamId::state("s"), [bytes::Bytes::from_static(b"1")]);
        let append = Append::new(&stream, Mark::birth(7), Rule::Exactly, Tag { node: 1, count: 1 }, &entries);
        a.log.append(append).await.unwrap();
        assert!(matches!(b.log.load(&stream, None).await, Ok(Loaded::Whole(_))), "nodes of the same engine");
        assert_eq!(Engines::open(Urls::default()).await.unwrap().parts, [0; 3], "memory unless named");
    }

    #[tokio::test]
    async fn what_names_no_engine_is_refused() {
        assert!(refused("mysql://ann:secret@h").await.starts_with("mysql: is no engine; "));
        assert!(refused("").await.contains("begins with its scheme"));
        assert!(refused("redis").await.contains("begins with its scheme"));
        assert_eq!(refused("memory:?colour=red").await, "colour in the URL of memory:");
        for url in ["memory:?prefix=", "memory:?prefix=a/b", "memory:?prefix=x&prefix=y"] {
            assert!(refused(url).await.starts_with("prefix "), "{url}");
        }
        #[cfg(feature = "redis")]
        for url in
            ["redis://:pa?prefix=a&secret@h", "redis://h?prefix=a:b", "redis://h?prefix=a&prefix=b", "unix:/s?x=1"]
        {
            let refused = refused(url).await;
            assert!(refused.contains("a Redis server") || refused.starts_with("prefix "), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
        let urls = Urls { kv: Some("mysql:".into()), ..Urls::default() };
        assert!(refused(urls).await.starts_with("mysql: is no engine"));
        for (scheme, feature) in SCHEMES {
            assert!(!feature.is_empty() || scheme == "memory");
        }
        assert_eq!(
            refusal("nats"),
            "nats: needs the feature `nats` of datasole-server, which this program was built without"
        );
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn folders() {
        let dir = std::env::temp_dir().join(format!("datasole-engines-{}", std::process::id()));
        let text = dir.to_str().unwrap();
        for (url, lost) in [
            (format!("sqlite:{text}"), "the last moments when the power fails"),
            (format!("sqlite://{text}?sync=no"), "the last moments when the power fails"),
            (format!("sqlite:{text}?sync=yes"), "may be lost: nothing"),
        ] {
            let engines = Engines::open(url.as_str()).await.unwrap();
            assert!(engines.describe()[0].ends_with(lost), "{url}: {:?}", engines.describe());
            assert!(dir.join("datasole.sqlite").is_file());
        }
        let (first, second) = (format!("sqlite:{text}?prefix=a"), format!("sqlite:{text}?prefix=b"));
        let both = (Engines::open(first.as_str()).await.unwrap(), Engines::open(second.as_str()).await.unwrap());
        assert!(dir.join("a/datasole.sqlite").is_file() && dir.join("b/datasole.sqlite").is_file());
        let again = Engines::open(first.as_str()).await;
        assert!(matches!(&again, Err(BackendError::Unavailable(why)) if why.contains("in use")), "{again:?}");
        drop(both);
        assert!(refused("sqlite:").await.contains("needs a folder"));
        assert!(refused("sqlite:x?sync=maybe").await.contains("yes or no"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn urls_are_told_from_levels_of_logging() {
        for url in ["memory:", "sqlite:x", "redis://h", "mysql://h", "nats://h", "postgresql:///db", "sqlte:./data"] {
            assert!(Urls::is_engine(url), "{url}");
        }
        for level in [
            "info",
            "datasole_server=debug,warn",
            "hyper::client=trace",
            "info,hyper::client=trace",
            "[span{at=a:b}]=info",
            "",
        ] {
            assert!(!Urls::is_engine(level), "{level}");
        }
        let urls = Urls { log: Some("redis://u:secret@h".into()), ..Urls::from("postgres://u:secret@h/db") };
        assert_eq!(
            format!("{urls:?}"),
            r#"Urls { log: "redis://…@h", bus: "postgres://…@h/db", kv: "postgres://…@h/db" }"#
        );
    }
}
