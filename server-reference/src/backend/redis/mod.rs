//! All three contracts on one Redis or Valkey (7 or later), for nodes on any number of machines.

mod bus;
mod engine;
mod kv;
mod link;
mod log;
mod names;
mod scripts;
mod shards;

use std::{fmt, sync::Arc};

use redis::{IntoConnectionInfo, RedisResult, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use self::{engine::Engine, kv::Values, link::Link, names::Names, shards::Seeds};
use super::{authorities, error::BackendError, memory::Random, node::Backend};
use crate::clock::System;

/// One Redis server or Redis Cluster, which several datasole nodes share.
///
/// **Layout.** A stream is a hash (position, tag, lifetime), a list of entries and a snapshot, in one of 1,024
/// partitions by hash tag. One script appends: it compares, reads what came in between, stores and publishes. Entries
/// longer than 8 KiB are announced and read, not pushed.
///
/// **What survives.** Whatever the server keeps: nothing without persistence; with `appendonly yes` and
/// `appendfsync everysec` everything that was acknowledged when its process is killed, unless its disk is busy, for up to
/// two seconds of which it answers before it writes, and all but those seconds when its machine fails. A failover loses what the replica had not got. So that nobody diverges unnoticed,
/// a node that meets another run of the server begins a new generation: every stream begins a new life, and clients
/// start from snapshots. With `?durable=yes` the operator declares that nothing acknowledged is ever lost
/// (`appendfsync always` on one machine), and lives go on.
///
/// **When the server is away** operations fail at once with [`BackendError::Unavailable`] and are tried again after at
/// most two seconds; followers then learn that news were lost.
///
/// **Redis Cluster.** Every master has its share of the 1,024 partitions; news travel by the channels of their slot
/// (`SPUBLISH`). While a slot moves, operations on its streams wait for up to two seconds; then followers learn that news
/// were lost. A master that nobody has met before (a promoted replica, one that was added) begins a new generation. All
/// masters must be there: without one, operations fail until its replica has taken over.
///
/// A replica may also take over the address of a single server. Sentinel is not spoken.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use datasole_server::{Server, backend::Redis};
///
/// let redis = Redis::connect("redis://127.0.0.1:6379/?prefix=shop").await?;
/// // Every server that stands on it is a node: what one changes, clients of all see.
/// let server = Server::builder().backend(redis.node().await?).build();
/// # Ok(()) }
/// ```
///
/// Cloning yields another handle to the same server.
#[derive(Clone)]
pub struct Redis {
    engine: Arc<Engine>,
    random: Random,
    durable: bool,
}

impl Redis {
    /// Connects to a server. Its URL is one of
    ///
    /// - `redis://[[user]:password@]host[:port][/database]`, port 6379 and database 0 unless given;
    /// - `redis://[[user]:password@]host[:port],host[:port]…`, some servers of a Redis Cluster, of which the first that
    ///   answers tells the others (one is enough where it is always there);
    /// - `rediss://…`, the same over TLS, with certificates that this machine trusts, or those of `ca=FILE` (PEM);
    /// - `unix:///path/of/socket[?db=database][&user=…][&pass=…]`.
    ///
    /// Options follow a `?`, separated by `&`: `prefix=NAME`, with which all keys and channels begin (`ds` unless given),
    /// so that applications can share a server; `durable=yes`, see [`Redis`].
    ///
    /// # Errors
    ///
    /// [`BackendError::Invalid`] for another URL and when the server refuses user or password,
    /// [`BackendError::Unavailable`] when it cannot be reached, [`BackendError::Corrupt`] when its keys below the prefix
    /// are of another layout. No error repeats the URL or the password.
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        if query.contains('@') {
            // Part of a password, which no error repeats.
            return Err(invalid("a ? in a password is written %3F"));
        }
        let (mut prefix, mut durable, mut ca, mut rest) = ("ds", false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("prefix", value)) if !value.is_empty() && !value.contains(['{', '}']) => prefix = value,
                Some(("durable", "yes")) => durable = true,
                Some(("durable", "no")) => {}
                Some(("ca", file)) if address.starts_with("rediss:") => ca = Some(file),
                Some(("db" | "user" | "pass", _)) if address.starts_with("unix:") => rest.push(pair),
                _ => {
                    let name = pair.split('=').next().unwrap_or_default();
                    return Err(BackendError::Invalid(format!("{name} in the URL of a Redis server")));
                }
            }
        }
        if address.starts_with("rediss:") && CryptoProvider::get_default().is_none() {
            // Fails where another thread was first, which is as good.
            let _ = ring::default_provider().install_default();
        }
        let address = if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        let infos = hosts(&address).into_iter().map(IntoConnectionInfo::into_connection_info);
        let infos = infos.collect::<RedisResult<Vec<_>>>().map_err(|error| invalid(&error.to_string()))?;
        let certificates = ca.map(authorities::pem).transpose()?;
        let certificates = certificates.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        let seeds = Seeds::new(infos, certificates);
        let engine = Engine::new(seeds, Names::new(prefix), Arc::new(System), durable);
        engine.first_session().await?;
        let random: Random = Arc::new(|| getrandom::u64().unwrap_or_default());
        Ok(Self { engine: Arc::new(engine), random, durable })
    }

    /// The loss that is possible, and when.
    pub(super) fn loss(&self) -> &'static str {
        if self.durable {
            "nothing, as declared"
        } else {
            "what that server does not keep: everything without appendonly; the last 2 seconds with appendfsync everysec \
             when its machine fails, or its process while the disk is busy; at a failover what the replica had not got"
        }
    }

    /// Handles of a node of its own, with a connection for its messages.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the server cannot be reached.
    pub async fn node(&self) -> Result<Backend, BackendError> {
        let link = Link::open(&self.engine, (self.random)()).await?;
        Ok(Backend {
            log: Arc::new(log::Handle::new(&self.engine, &link)),
            bus: Arc::new(bus::Handle::new(&self.engine, &link)),
            kv: Arc::new(Values::new(&self.engine)),
        })
    }
}

fn invalid(why: &str) -> BackendError {
    BackendError::Invalid(format!("the URL of a Redis server: {why}"))
}

/// A URL for each host of a URL, whose hosts are separated by commas.
fn hosts(address: &str) -> Vec<String> {
    let Some((scheme, rest)) = address.split_once("://").filter(|(scheme, _)| *scheme != "unix") else {
        return vec![address.to_owned()];
    };
    let (user, rest) = rest.rsplit_once('@').map_or(("", rest), |(user, rest)| (user, rest));
    let (hosts, database) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let at = if user.is_empty() { "" } else { "@" };
    hosts.split(',').map(|host| format!("{scheme}://{user}{at}{host}{database}")).collect()
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}
