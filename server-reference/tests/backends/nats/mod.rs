//! NATS: `$NATS_SERVER`, one on the path, or the one that `cargo xtask test` has put into the target folder.

mod faults;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError, Nats, async_trait,
    conformance::{Subject, verify},
};
use tokio::time::{Instant, sleep};

use crate::{running::Running, writers::PATIENCE};

static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    let installed = || {
        let own = std::env::current_exe().ok()?;
        Some(own.ancestors().nth(3)?.join("tools/nats/bin/nats-server")).filter(|path| path.is_file())
    };
    let given = std::env::var_os("NATS_SERVER").map(PathBuf::from).or_else(installed);
    given.map_or_else(|| "nats-server".to_owned(), |path| path.to_str().unwrap().to_owned())
});

/// Starts a server with this added to its configuration.
pub(crate) fn start(more: &str) -> Running {
    Running::start(&PROGRAM, |port, dir| configured(port, dir, more))
}

fn restart(server: &mut Running) {
    server.kill_and_start(&PROGRAM, |port, dir| configured(port, dir, ""));
}

fn configured(port: u16, dir: &Path, more: &str) -> Vec<String> {
    let file = dir.join("nats.conf");
    let store = dir.join("store");
    let text = format!(
        "listen: \"127.0.0.1:{port}\"\nmax_payload: 8MB\njetstream {{ store_dir: \"{}\" }}\n{more}\n",
        store.display()
    );
    std::fs::write(&file, text).unwrap();
    ["-c", file.to_str().unwrap()].map(str::to_owned).to_vec()
}

/// Tries until the server answers: it has just been started.
async fn connect(url: &str) -> Nats {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Nats::connect(url).await {
            Ok(nats) => return nats,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

struct Store {
    server: Arc<Mutex<Running>>,
    nats: Nats,
    nodes: Mutex<Vec<Backend>>,
}

#[async_trait]
impl Subject for Store {
    async fn node(&self) -> Result<Backend, BackendError> {
        let node = self.nats.node().await?;
        self.nodes.lock().unwrap().push(node.clone());
        Ok(node)
    }

    async fn pass(&self, time: Duration) {
        // The engine's time is the machine's, and known to a few milliseconds.
        sleep(time + Duration::from_millis(10)).await;
    }

    async fn fail_over(&self, _nodes: usize) -> Result<bool, BackendError> {
        // What was answered is on its way to the file, and the machine does not fail.
        restart(&mut self.server.lock().unwrap());
        let nodes = self.nodes.lock().unwrap().clone();
        let probe = [StreamId::event("probe")];
        for node in nodes {
            until_it_answers(&node, &probe).await;
            node.log.unfollow(&probe);
        }
        Ok(true)
    }
}

async fn until_it_answers(node: &Backend, probe: &[StreamId]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut outcome = node.log.follow(probe).await;
        if outcome.is_ok() {
            outcome = node.log.heads(probe).await.map(drop);
        }
        match outcome {
            Ok(()) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let server = Arc::new(Mutex::new(start("")));
    let port = server.lock().unwrap().port;
    let stores = AtomicU64::new(0);
    verify(async || {
        let number = stores.fetch_add(1, Ordering::Relaxed);
        let nats = connect(&format!("nats://127.0.0.1:{port}?prefix=t{number}")).await;
        Store { server: Arc::clone(&server), nats, nodes: Mutex::default() }
    })
    .await;
}

#[tokio::test]
async fn urls_are_checked_and_passwords_kept() {
    for url in [
        "http://127.0.0.1",
        "127.0.0.1",
        "nats:127.0.0.1",
        "nats://",
        "nats://127.0.0.1?prefix=",
        "nats://127.0.0.1?prefix=a.b",
        "nats://127.0.0.1?prefix=abcdefghijabcdefghijabcdefghijabc",
        "nats://127.0.0.1?colour=secret",
        "nats://127.0.0.1?replicas=2",
        "nats://127.0.0.1:port",
        "nats://us%er:secret@127.0.0.1",
        "nats://user:secret@127.0.0.1,,127.0.0.1",
        "nats://127.0.0.1/path",
    ] {
        let Err(error) = Nats::connect(url).await else { panic!("{url} is refused") };
        assert!(matches!(error, BackendError::Invalid(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    for url in [
        "nats://user:secret@127.0.0.1:1",
        "nats://secret@127.0.0.1:1,127.0.0.1:2?replicas=3&durable=yes",
        "nats://127.0.0.1:1?prefix=abcdefghijabcdefghijabcdefghijab",
        "tls://user:secret@127.0.0.1:1/",
    ] {
        let Err(error) = Nats::connect(url).await else { panic!("nobody listens there") };
        assert!(matches!(error, BackendError::Unavailable(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn users_and_tokens() {
    for (more, right, wrong) in [
        (
            "authorization { user: ann, password: \"se:c@ret\" }",
            "ann:se%3Ac%40ret@",
            ["ann:wrong@", "bob:se%3Ac%40ret@", "", "token@"],
        ),
        ("authorization { token: \"se@cret\" }", "se%40cret@", ["wrong@", "ann:se%40cret@", "", "se@"]),
    ] {
        let server = start(more);
        let url = |user: &str| format!("nats://{user}127.0.0.1:{}", server.port);
        connect(&url(right)).await.node().await.unwrap();
        for user in wrong {
            let Err(error) = Nats::connect(&url(user)).await else { panic!("{user} is refused") };
            assert!(matches!(error, BackendError::Invalid(_)), "{user}: {error}");
            assert!(error.to_string().contains("refuses the user"), "{error}");
        }
    }
}

/// The first that answers is taken.
#[tokio::test]
async fn several_addresses() {
    let server = start("");
    let nats = connect(&format!("nats://127.0.0.1:1,127.0.0.1:{}", server.port)).await;
    assert!(nats.node().await.unwrap().log.keys(StreamKind::State, None, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_server_without_streams_is_told() {
    let server =
        Running::start(&PROGRAM, |port, _| vec!["-a".into(), "127.0.0.1".into(), "-p".into(), port.to_string()]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Err(error) = Nats::connect(&format!("nats://127.0.0.1:{}", server.port)).await else {
            panic!("none there")
        };
        if error.to_string().contains("streams are not there") {
            return;
        }
        assert!(Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
}
