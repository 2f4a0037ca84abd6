//! The masters of a store: one server, or those of a Redis Cluster, each with the slots that are its own.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ProtocolVersion, PushInfo, TlsCertificates,
    aio::MultiplexedConnection,
};
use tokio::sync::mpsc;

use super::{
    engine::{failure, unavailable},
    names::{SLOTS, slot},
};
use crate::backend::error::BackendError;

/// How long an answer may take.
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// How long a connection may take to open.
const OPEN: Duration = Duration::from_secs(2);

/// Where what connections hear is sent, each by the number of its connection.
pub(super) type Pushes = mpsc::UnboundedSender<(u16, PushInfo)>;

/// The way to the store: its server, or some of a cluster's.
pub(super) struct Seeds {
    infos: Vec<ConnectionInfo>,
    /// The authorities that are trusted, if not those of the machine.
    certificates: Option<TlsCertificates>,
}

/// Connections to all masters.
pub(super) struct Shards {
    masters: Vec<Master>,
    /// The master of each slot; none where there is one server.
    slots: Vec<AtomicU16>,
}

struct Master {
    /// The connection's.
    number: u16,
    /// `host:port`, as other masters name it.
    names: Vec<String>,
    connection: MultiplexedConnection,
    /// Names this run of its process.
    run: String,
}

/// A master as the cluster describes it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    /// Whether it is the one that was asked.
    is_self: bool,
    host: String,
    port: u16,
    names: Vec<String>,
    slots: Vec<(u16, u16)>,
}

impl Seeds {
    pub(super) fn new(infos: Vec<ConnectionInfo>, certificates: Option<TlsCertificates>) -> Self {
        Self { infos, certificates }
    }

    /// Connects to one server; what it pushes is sent on.
    async fn connect(
        &self,
        info: &ConnectionInfo,
        number: u16,
        pushes: Option<&Pushes>,
    ) -> Result<MultiplexedConnection, BackendError> {
        let mut info = info.clone();
        let mut config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(OPEN)).set_response_timeout(Some(ANSWER));
        if let Some(pushes) = pushes {
            let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
            info = info.set_redis_settings(settings);
            let pushes = pushes.clone();
            config = config.set_push_sender(move |push| pushes.send((number, push)));
        }
        let client = match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        let client = client.map_err(|error| unavailable(&error))?;
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| unavailable(&error))
    }

    /// Connects to every master.
    pub(super) async fn open(&self, pushes: Option<&Pushes>) -> Result<Shards, BackendError> {
        let mut failed = BackendError::Unavailable("the URL names no server".into());
        for info in &self.infos {
            match self.connect(info, 0, pushes).await {
                Ok(connection) => return self.open_from(info, connection, pushes).await,
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn open_from(
        &self,
        seed: &ConnectionInfo,
        mut connection: MultiplexedConnection,
        pushes: Option<&Pushes>,
    ) -> Result<Shards, BackendError> {
        let asked = about(&mut connection).await?;
        if field(&asked, "redis_mode") != "cluster" {
            if self.infos.len() > 1 {
                let text = format!("several hosts are those of a Redis Cluster, and {} is none", seed.addr());
                return Err(BackendError::Invalid(text));
            }
            let run = field(&asked, "run_id").to_owned();
            return Ok(Shards {
                masters: vec![Master { number: 0, names: Vec::new(), connection, run }],
                slots: Vec::new(),
            });
        }
        let nodes: String = redis::cmd("CLUSTER").arg("NODES").query_async(&mut connection).await.map_err(failure)?;
        let described = describe(&nodes, host(seed.addr()));
        let slots: Vec<AtomicU16> = (0..SLOTS).map(|_| AtomicU16::new(u16::MAX)).collect();
        for (number, master) in (0..).zip(&described) {
            for (first, last) in &master.slots {
                for slot in slots.get(usize::from(*first)..=usize::from(*last)).unwrap_or_default() {
                    slot.store(number, Ordering::Relaxed);
                }
            }
        }
        if slots.iter().any(|slot| slot.load(Ordering::Relaxed) == u16::MAX) {
            return Err(BackendError::Unavailable("the Redis Cluster does not serve all of its slots".into()));
        }
        let first = connection;
        let masters = (1..).zip(described).map(|(number, master)| {
            let own = master.is_self.then(|| first.clone());
            async move {
                let (number, mut connection) = match own {
                    Some(connection) => (0, connection),
                    None => {
                        let addr = at(seed.addr(), &master.host, master.port);
                        (number, self.connect(&seed.clone().set_addr(addr), number, pushes).await?)
                    }
                };
                let run = field(&about(&mut connection).await?, "run_id").to_owned();
                Ok::<_, BackendError>(Master { number, names: master.names, connection, run })
            }
        });
        Ok(Shards { masters: try_join_all(masters).await?, slots })
    }
}

impl Shards {
    /// The master that has a key, or a channel.
    pub(super) fn of(&self, key: &str) -> usize {
        let place = if self.slots.is_empty() { None } else { self.slots.get(usize::from(slot(key.as_bytes()))) };
        place.map_or(0, |master| usize::from(master.load(Ordering::Relaxed)))
    }

    /// The connection to a master, by a number that [`Self::of`] or [`Self::named`] gave.
    pub(super) fn connection(&self, master: usize) -> MultiplexedConnection {
        self.masters[master.min(self.masters.len() - 1)].connection.clone()
    }

    /// The connections to all masters.
    pub(super) fn connections(&self) -> impl Iterator<Item = MultiplexedConnection> + '_ {
        self.masters.iter().map(|master| master.connection.clone())
    }

    /// Whether the connection of this number is that of the master that has a key, or a channel.
    pub(super) fn is_from(&self, number: u16, key: &str) -> bool {
        self.masters.get(self.of(key)).is_some_and(|master| master.number == number)
    }

    /// How many masters there are.
    pub(super) fn count(&self) -> usize {
        self.masters.len()
    }

    /// The master with this name, if it is known.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.masters.iter().position(|master| master.names.iter().any(|known| known == name))
    }

    /// Notes that a slot is another master's now.
    pub(super) fn note_move(&self, slot: u16, master: usize) {
        if let (Some(slot), Ok(master)) = (self.slots.get(usize::from(slot)), u16::try_from(master)) {
            slot.store(master, Ordering::Relaxed);
        }
    }

    /// The runs of all masters, in one text.
    pub(super) fn runs(&self) -> String {
        let mut runs: Vec<&str> = self.masters.iter().map(|master| master.run.as_str()).collect();
        runs.sort_unstable();
        runs.join(" ")
    }
}

async fn about(connection: &mut MultiplexedConnection) -> Result<String, BackendError> {
    redis::cmd("INFO").arg("server").query_async(connection).await.map_err(failure)
}

fn field<'a>(about: &'a str, name: &str) -> &'a str {
    about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim_end()
}

fn host(addr: &ConnectionAddr) -> &str {
    match addr {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    }
}

/// The address of another server that is reached in the same way.
fn at(seed: &ConnectionAddr, host: &str, port: u16) -> ConnectionAddr {
    match seed {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}

/// The masters in the answer to `CLUSTER NODES`, of a server that was reached at `asked`. Each line is
/// `ID IP:PORT@BUS[,HOSTNAME] FLAGS MASTER PING PONG EPOCH LINK SLOTS…`.
fn describe(nodes: &str, asked: &str) -> Vec<Described> {
    let read = |line: &str| {
        let mut fields = line.split(' ');
        let (address, flags) = (fields.nth(1)?, fields.next()?);
        let mut flags = flags.split(',');
        let is = |flag| flags.clone().any(|known| known == flag);
        if !is("master") || ["fail", "noaddr", "handshake"].into_iter().any(is) {
            return None;
        }
        let is_self = flags.any(|flag| flag == "myself");
        let (address, more) = address.split_once(',').unwrap_or((address, ""));
        let (ip, port) = address.split('@').next()?.rsplit_once(':')?;
        let (ip, hostname) = (if ip.is_empty() { asked } else { ip }, more.split(',').next().unwrap_or_default());
        // By its name, if it has one: its certificate has that.
        let host = if hostname.is_empty() { ip } else { hostname };
        let names = [ip, host].map(|host| format!("{host}:{port}")).to_vec();
        let slots = fields.skip(5).filter(|slots| !slots.starts_with('['));
        let slots = slots.filter_map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some((first.parse().ok()?, last.trim_end().parse().ok()?))
        });
        Some(Described { is_self, host: host.to_owned(), port: port.parse().ok()?, names, slots: slots.collect() })
    };
    nodes.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_described() {
        let nodes = "\
a1 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-5460 [93-<-b2] 5462\n\
b2 10.0.0.2:7002@17002,two.example master - 0 1 2 connected 5461\n\
c3 :7003@17003,,shard-id=x master - 0 1 3 connected\n\
d4 10.0.0.4:7004@17004 slave a1 0 1 1 connected\n\
e5 10.0.0.5:7005@17005 master,fail - 0 1 5 disconnected 5463-16383\n\
broken\n";
        let found = describe(nodes, "h");
        let hosts: Vec<_> = found.iter().map(|master| (master.host.as_str(), master.port, master.is_self)).collect();
        assert_eq!(hosts, [("127.0.0.1", 7001, true), ("two.example", 7002, false), ("h", 7003, false)]);
        assert_eq!(found[0].slots, [(0, 5460), (5462, 5462)]);
        assert_eq!(found[1].names, ["10.0.0.2:7002", "two.example:7002"]);
        assert_eq!((&found[1].slots, &found[2].slots), (&vec![(5461, 5461)], &vec![]));
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(field("# Server\r\nredis_mode:cluster\r\nrun_id:ab\r\n", "run_id"), "ab");
        assert_eq!(field("", "run_id"), "");
    }
}
