//! Redis, as Debian has it.

mod cluster;
mod faults;
mod nodes;
mod promotion;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError, Redis, async_trait,
    conformance::{Subject, verify},
};
use tokio::time::{Instant, sleep};

use crate::running::Running;

pub(crate) const PROGRAM: &str = "redis-server";
const PATIENCE: Duration = Duration::from_secs(30);

/// With `appendfsync everysec` a server whose disk is busy answers up to two seconds before it writes. Here every answer
/// follows its write, and what a killed process wrote is in its file.
fn arguments(port: u16, dir: &Path) -> Vec<String> {
    let (port, dir) = (port.to_string(), dir.to_str().unwrap());
    ["--port", &port, "--dir", dir, "--appendonly", "yes", "--save", "", "--appendfsync", "no"]
        .map(str::to_owned)
        .to_vec()
}

/// Tries until the server answers: it has just been started.
async fn connect(url: &str) -> Redis {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Redis::connect(url).await {
            Ok(redis) => return redis,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Until a node's connections all work: to each master, where there are several.
async fn heard(node: &Backend) {
    let probe: Vec<_> = (0..16).map(|number| StreamId::event(format!("probe{number}"))).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut outcome = node.log.follow(&probe).await;
        if outcome.is_ok() {
            outcome = node.log.heads(&probe).await.map(drop);
        }
        match outcome {
            Ok(()) => break,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    node.log.unfollow(&probe);
}

/// One store under the suite, which fails over by `restart`.
struct Store<F> {
    redis: Redis,
    restart: F,
    nodes: Mutex<Vec<Backend>>,
}

impl<F: Fn()> Store<F> {
    async fn new(url: &str, restart: F) -> Self {
        Self { redis: connect(url).await, restart, nodes: Mutex::default() }
    }
}

#[async_trait]
impl<F: Fn() + Send + Sync + 'static> Subject for Store<F> {
    async fn node(&self) -> Result<Backend, BackendError> {
        let node = self.redis.node().await?;
        self.nodes.lock().unwrap().push(node.clone());
        Ok(node)
    }

    async fn pass(&self, time: Duration) {
        // The engine's time is the machine's, in whole milliseconds.
        sleep(time + Duration::from_millis(2)).await;
    }

    async fn fail_over(&self, _nodes: usize) -> Result<bool, BackendError> {
        // An entry that was appended is on its way to the file when it is answered, and the machine does not fail.
        (self.restart)();
        let nodes = self.nodes.lock().unwrap().clone();
        for node in nodes {
            heard(&node).await;
        }
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Arc::new(Mutex::new(Running::start(PROGRAM, arguments)));
    let port = server.lock().unwrap().port;
    let stores = AtomicU64::new(0);
    verify(async || {
        let (number, server) = (stores.fetch_add(1, Ordering::Relaxed), Arc::clone(&server));
        let restart = move || server.lock().unwrap().kill_and_start(PROGRAM, arguments);
        Store::new(&format!("redis://127.0.0.1:{port}/?prefix=t{number}"), restart).await
    })
    .await;
}

#[tokio::test]
async fn urls_are_checked_and_passwords_kept() {
    for url in [
        "http://127.0.0.1",
        "redis://127.0.0.1?prefix=",
        "redis://127.0.0.1?prefix=a{b}",
        "redis://h?colour=red",
        "redis://127.0.0.1?pass=secret",
        "redis://127.0.0.1/nine",
        "redis://:pa?secret@127.0.0.1",
        "redis://:pa?prefix=a&secret=word@127.0.0.1",
    ] {
        let Err(error) = Redis::connect(url).await else { panic!("{url} is refused") };
        assert!(matches!(error, BackendError::Invalid(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for url in ["redis://user:secret@127.0.0.1:1", "rediss://:secret@127.0.0.1:1", "unix:///no/socket?pass=secret"] {
        let Err(error) = Redis::connect(url).await else { panic!("nobody listens there") };
        assert!(matches!(error, BackendError::Unavailable(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

/// By TCP and by socket, with the right password, a wrong one and none; and TLS to a server without it.
#[tokio::test]
async fn passwords_and_sockets() {
    let server = Running::start(PROGRAM, |port, dir| {
        let socket = dir.join("s").to_str().unwrap().to_owned();
        [arguments(port, dir), ["--requirepass", "secret", "--unixsocket", &socket].map(str::to_owned).to_vec()]
            .concat()
    });
    let (port, socket) = (server.port, server.dir.join("s"));
    connect(&format!("redis://:secret@127.0.0.1:{port}/1?prefix=p")).await.node().await.unwrap();
    connect(&format!("unix://{}?db=1&pass=secret", socket.display())).await.node().await.unwrap();
    for url in [
        format!("redis://:wrong@127.0.0.1:{port}"),
        format!("redis://nobody:secret@127.0.0.1:{port}"),
        format!("redis://127.0.0.1:{port}"),
        format!("unix://{}?pass=wrong", socket.display()),
    ] {
        let Err(error) = Redis::connect(&url).await else { panic!("{url} is refused") };
        assert!(matches!(error, BackendError::Invalid(_)), "{url}: {error}");
        assert!(error.to_string().contains("refuses the user or the password"), "{error}");
    }
    let Err(error) = Redis::connect(&format!("rediss://:secret@127.0.0.1:{port}")).await else {
        panic!("no TLS there")
    };
    assert!(matches!(error, BackendError::Unavailable(_)), "{error}");
}

/// Stops a process where it is; it goes on when this is dropped.
struct Stopped(u32);

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "-CONT");
    }
}

fn signal(process: u32, signal: &str) {
    let sent = std::process::Command::new("kill").args([signal, &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "{signal} is sent");
}

fn pause(server: &Running) -> Stopped {
    signal(server.process(), "-STOP");
    Stopped(server.process())
}

#[tokio::test]
async fn an_engine_that_is_away_fails_at_once_and_heals() {
    let mut server = Running::start(PROGRAM, arguments);
    let redis = connect(&format!("redis://127.0.0.1:{}", server.port)).await;
    let node = redis.node().await.unwrap();
    let port = server.port;
    assert_eq!(node.log.keys(StreamKind::State, None, 1).await.unwrap(), Vec::<String>::new());
    drop(server);
    let began = Instant::now();
    for _ in 0..20 {
        let refused = node.log.keys(StreamKind::State, None, 1).await;
        assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(2), "nobody waits for an engine that is away");
    server = Running::start(PROGRAM, |_, dir| arguments(port, dir));
    let deadline = Instant::now() + PATIENCE;
    while node.log.keys(StreamKind::State, None, 1).await.is_err() {
        assert!(Instant::now() < deadline, "the node finds its engine again");
        sleep(Duration::from_millis(20)).await;
    }
    drop(server);
}
