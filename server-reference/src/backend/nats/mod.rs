//! All three contracts on one NATS server or cluster (2.11 or later, with JetStream), for nodes on any number of
//! machines.

mod api;
mod bus;
mod keep;
mod kv;
mod link;
mod log;
mod names;
mod reader;
mod record;
mod session;
mod turn;

use std::{fmt, sync::Arc};

use async_nats::{
    ServerAddr,
    rustls::crypto::{CryptoProvider, ring},
};
use tokio::sync::mpsc;

use self::{
    link::Link,
    names::Names,
    session::{Known, Options, REFUSED},
};
use super::{authorities, error::BackendError, memory::Random, node::Backend, url::Url};
use crate::clock::System;

/// One NATS server or cluster, which several datasole nodes share.
///
/// **Layout.** Three streams of JetStream. `ds_log` has a subject per stream of ours, `ds.l.<kind>.<key>`, and a message
/// per append, which is stored if its author knows the subject's last message; once it is stored, the server publishes
/// it to those who follow. `ds_values` holds everything of which only the newest counts: snapshots, values, leases.
/// `ds_boot`, in memory, shows that the server was started again.
///
/// **Sizes.** An append is one message: the server's `max_payload` (1 MiB unless set; 8 MiB is advised) bounds it.
/// Larger ones are refused with [`BackendError::Full`]. Snapshots are split. A node holds about 7 KiB for each stream
/// that it follows and each topic that it hears, and the server about 3 KiB for each stream.
///
/// **What survives.** JetStream writes to its file at once and to the disk every two minutes (`sync_interval`): what
/// was acknowledged survives when the server's process is killed, and on one server all but the last two minutes when
/// its machine is. With `?replicas=3` a majority has it. So that nobody diverges unnoticed, a new generation begins when
/// the server was started again, or all of a cluster at once, and when the log is shorter than a node knows: every
/// stream begins a new life, and clients start from snapshots. With `?durable=yes` the operator declares that nothing
/// acknowledged is ever lost (`sync_interval: always`), and lives go on.
///
/// **When the server is away** operations fail at once with [`BackendError::Unavailable`], and the connection is opened
/// again after at most two seconds; followers then learn that news were lost.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use datasole_server::{Server, backend::Nats};
///
/// let nats = Nats::connect("nats://127.0.0.1:4222?prefix=shop").await?;
/// // Every server that stands on it is a node: what one changes, clients of all see.
/// let server = Server::builder().backend(nats.node().await?).build();
/// # Ok(()) }
/// ```
///
/// Cloning yields another handle to the same server.
#[derive(Clone)]
pub struct Nats {
    options: Arc<Options>,
    random: Random,
}

fn invalid(what: &str) -> BackendError {
    BackendError::Invalid(format!("{what} in the URL of a NATS server"))
}

/// A part of a URL with `%` and two digits for other bytes.
fn decoded(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            u8::try_from(digit()? * 16 + digit()?).ok()?
        } else {
            byte
        });
    }
    String::from_utf8(bytes).ok()
}

fn read(text: &str) -> Result<Options, BackendError> {
    let url = Url::parse(text)?;
    url.only("a NATS server", &["prefix", "replicas", "durable", "ca"])?;
    let rest = url.address.strip_prefix(url.scheme).and_then(|rest| rest.strip_prefix("://"));
    let Some(rest) = rest.filter(|_| matches!(url.scheme, "nats" | "tls")) else {
        return Err(invalid("another scheme"));
    };
    let (user, hosts) = rest.rsplit_once('@').map_or((None, rest), |(user, hosts)| (Some(user), hosts));
    let mut options = Options {
        servers: Vec::new(),
        user: None,
        password: None,
        token: None,
        names: Names::new(url.prefix()?.unwrap_or("ds")),
        replicas: match url.option("replicas") {
            None | Some("1") => 1,
            Some("3") => 3,
            Some("5") => 5,
            Some(_) => return Err(invalid("replicas other than 1, 3 or 5")),
        },
        durable: match url.option("durable") {
            None | Some("no") => false,
            Some("yes") => true,
            Some(_) => return Err(invalid("durable other than yes or no")),
        },
        authorities: match url.option("ca") {
            None => None,
            Some(_) if url.scheme != "tls" => return Err(invalid("ca, but not tls://,")),
            // Read again with each connection; what is wrong with it is told now.
            Some(file) => Some(authorities::pem(file).map(|_| file.into())?),
        },
        clock: Arc::new(System),
    };
    if let Some(user) = user {
        let part = |text: &str| decoded(text).map(Some).ok_or_else(|| invalid("a damaged user or password"));
        match user.split_once(':') {
            Some((user, password)) => (options.user, options.password) = (part(user)?, part(password)?),
            None => options.token = part(user)?,
        }
    }
    for host in hosts.trim_end_matches('/').split(',') {
        let server: Result<ServerAddr, _> = format!("{}://{host}", url.scheme).parse();
        let is_plain = !host.is_empty() && !host.contains('/');
        options.servers.push(server.ok().filter(|_| is_plain).ok_or_else(|| invalid("a damaged address"))?);
    }
    Ok(options)
}

impl Nats {
    /// Connects to a server and makes the streams that are not there. Its URL is
    /// `nats://[user:password@|token@]host[:port][,host[:port]…]`, port 4222 unless given; with `tls://` the connection
    /// is encrypted, with certificates that this machine trusts, or those of `ca=FILE` (PEM).
    ///
    /// Options follow a `?`, separated by `&`: `prefix=NAME` (letters, digits, `-`, `_`), with which all streams and
    /// subjects begin (`ds` unless given), so that applications can share a server; `replicas=1`, `3` or `5`, how many
    /// servers of a cluster keep a copy, when the streams are made; `durable=yes`, see [`Nats`].
    ///
    /// # Errors
    ///
    /// [`BackendError::Invalid`] for another URL, an older server, and when the server refuses user, password or token;
    /// [`BackendError::Unavailable`] when it cannot be reached or has no JetStream. No error repeats the URL or the
    /// password.
    pub async fn connect(url: &str) -> Result<Self, BackendError> {
        let options = read(url)?;
        if url.starts_with("tls:") && CryptoProvider::get_default().is_none() {
            // Fails where another thread was first, which is as good.
            let _ = ring::default_provider().install_default();
        }
        let (events, _) = mpsc::unbounded_channel();
        session::open(&options, &Known::default(), &events).await.map_err(|error| match error {
            BackendError::Unavailable(text) if text == REFUSED => BackendError::Invalid(text),
            other => other,
        })?;
        let random: Random = Arc::new(|| getrandom::u64().unwrap_or_default());
        Ok(Self { options: Arc::new(options), random })
    }

    /// What may be lost, when.
    pub(super) fn loss(&self) -> &'static str {
        if self.options.durable {
            return "nothing, as was declared";
        }
        if self.options.replicas > 1 {
            return "nothing while a majority of the servers runs on";
        }
        "nothing when NATS is killed, the last two minutes when its machine fails; then all lives begin anew"
    }

    /// Handles of a node of its own, with a connection of its own.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the server cannot be reached.
    pub async fn node(&self) -> Result<Backend, BackendError> {
        let link = Link::open(&self.options, (self.random)()).await?;
        Ok(Backend {
            log: Arc::new(log::Handle { link: Arc::clone(&link) }),
            bus: Arc::new(bus::Handle { link: Arc::clone(&link) }),
            kv: Arc::new(kv::Handle { link }),
        })
    }
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").finish_non_exhaustive()
    }
}
