//! PostgreSQL, as Debian has it.

mod faults;
mod promotion;
pub(crate) mod server;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError, Engines, Postgres, async_trait,
    conformance::{Subject, verify},
    kv::Expected,
    log::{Append, Mark, Rule, Tag},
};
use tokio::time::{Instant, sleep};

use self::server::Server;
use crate::{
    clients,
    writers::{PATIENCE, until_it_answers},
};

const PAUSE: Duration = Duration::from_millis(20);

/// Tries until the server answers: it has just been started.
async fn connect(url: &str) -> Postgres {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Postgres::connect(url).await {
            Ok(postgres) => return postgres,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(PAUSE).await;
    }
}

struct Store {
    server: Arc<Mutex<Server>>,
    postgres: Postgres,
    nodes: Mutex<Vec<Backend>>,
}

#[async_trait]
impl Subject for Store {
    async fn node(&self) -> Result<Backend, BackendError> {
        let node = self.postgres.node().await?;
        self.nodes.lock().unwrap().push(node.clone());
        Ok(node)
    }

    async fn pass(&self, time: Duration) {
        sleep(time + Duration::from_millis(2)).await;
    }

    async fn fail_over(&self, _nodes: usize) -> Result<bool, BackendError> {
        // The entries are in the files of a machine that does not fail, but the server does not promise it.
        self.server.lock().unwrap().kill_and_start();
        let nodes = self.nodes.lock().unwrap().clone();
        for node in nodes {
            until_it_answers(&node).await;
        }
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Arc::new(Mutex::new(Server::start()));
    let url = |number| server.lock().unwrap().url(&format!("prefix=t{number}"));
    let stores = AtomicU64::new(0);
    verify(async || {
        let postgres = connect(&url(stores.fetch_add(1, Ordering::Relaxed))).await;
        Store { server: Arc::clone(&server), postgres, nodes: Mutex::default() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_one() {
    let server = Server::start();
    let postgres = connect(&server.url("prefix=app")).await;
    clients::two_servers_are_one(async || postgres.node().await.unwrap()).await;
    let postgres = connect(&server.url("prefix=other")).await;
    clients::members_and_cursors_are_shown_on_the_other_server(async || postgres.node().await.unwrap()).await;
}

/// By TCP and by socket, with the right password, a wrong one and none; TLS to a server without it; applications apart.
#[tokio::test]
async fn passwords_sockets_and_prefixes() {
    let server = Server::start();
    connect(&server.url("")).await;
    server.sql("CREATE ROLE ann LOGIN PASSWORD 'secret'");
    server.sql("CREATE DATABASE app OWNER ann");
    let ann = |password: &str, database: &str| {
        format!("postgres://ann{password}@127.0.0.1:{}/{database}?prefix=shop", server.port)
    };
    let (first, second) = (connect(&ann(":secret", "app")).await, connect(&server.socket_url("prefix=a-B_1")).await);
    for (postgres, key) in [(&first, "1"), (&second, "2")] {
        let kv = postgres.node().await.unwrap().kv;
        kv.put("k", Bytes::from_static(key.as_bytes()), Expected::Absent, None).await.unwrap();
    }
    for url in [ann(":wrong", "app"), ann("", "app"), ann(":secret", "none"), ann(":secret", "postgres")] {
        let Err(error) = Postgres::connect(&url).await else { panic!("{url} is refused") };
        assert!(matches!(error, BackendError::Invalid(_)), "{url}: {error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let Err(error) = Postgres::connect(&format!("{}&sslmode=require", ann(":secret", "app"))).await else {
        panic!("no TLS there")
    };
    assert!(matches!(error, BackendError::Unavailable(_)), "{error}");
    let Err(error) = Engines::open("postgres://ann:secret@127.0.0.1:1/app").await else { panic!("nobody listens") };
    assert!(matches!(error, BackendError::Unavailable(_)) && !error.to_string().contains("secret"), "{error}");
    // Another layout, and one that is not whole.
    server.sql("UPDATE \"a-B_1\".meta SET version = 9");
    let later = Postgres::connect(&server.socket_url("prefix=a-B_1")).await;
    assert!(matches!(later, Err(BackendError::Corrupt(_))), "{later:?}");
    server.sql("UPDATE \"a-B_1\".meta SET version = 1; DROP TABLE \"a-B_1\".log CASCADE");
    let damaged = connect(&server.socket_url("prefix=a-B_1")).await.node().await.unwrap();
    let (stream, entries) = (StreamId::state("s"), [Bytes::from_static(b"1")]);
    let append = Append::new(&stream, Mark::birth(7), Rule::Exactly, Tag { node: 1, count: 1 }, &entries);
    let refused = damaged.log.append(append).await;
    assert!(matches!(refused, Err(BackendError::Corrupt(_))), "{refused:?}");
}

/// What may be lost is told by the server's settings.
#[tokio::test]
async fn the_loss_is_described() {
    let server = Server::with(&["synchronous_commit=on", "fsync=on"]);
    connect(&server.url("")).await;
    for (options, expected) in [
        ("", "nothing when it crashes; at a failover"),
        ("options=-csynchronous_commit%3Doff", "the last 0.6 seconds when it crashes"),
        ("durable=yes", "nothing, as declared"),
    ] {
        let engines = Engines::open(server.url(options).as_str()).await.unwrap();
        let line = engines.describe().remove(0);
        assert!(line.contains(expected) && line.starts_with("log, bus, kv in postgres://…@127.0.0.1"), "{line}");
    }
}

#[tokio::test]
async fn an_engine_that_is_away_fails_at_once_and_heals() {
    let mut server = Server::start();
    let node = connect(&server.url("")).await.node().await.unwrap();
    let read = || node.log.keys(StreamKind::State, None, 1);
    assert_eq!(read().await.unwrap(), Vec::<String>::new());
    server.kill();
    let began = Instant::now();
    for _ in 0..20 {
        let refused = read().await;
        assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for an engine that is away");
    server.start_again();
    until_it_answers(&node).await;
    let deadline = Instant::now() + PATIENCE;
    while read().await.is_err() {
        assert!(Instant::now() < deadline, "the node finds its engine again");
        sleep(PAUSE).await;
    }
}
