//! `health`: what a load balancer reads.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use datasole_server::{
    Server,
    backend::{
        Backend, BackendError, Log, Memory, async_trait,
        log::{Append, Appended, Loaded, Mark, News},
    },
};
use datasole_tests::{peer::Peer, running::Running};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{assert_serves, serve};

/// A log whose disk can be full.
struct Disk {
    log: Arc<dyn Log>,
    full: Arc<AtomicBool>,
}

#[async_trait]
impl Log for Disk {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(BackendError::Full("no space left on device".into())),
            false => self.log.append(append).await,
        }
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.log.load(stream, since).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.log.heads(streams).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.log.snapshot(stream, at, bytes, keep).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        self.log.remove(stream, at).await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.log.keys(kind, after, limit).await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.log.follow(streams).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.log.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        self.log.news()
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.log.take_turn(stream).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.log.end_turn(stream).await
    }
}

/// The status, the head and the body.
async fn ask(running: &Running, query: &str) -> (u16, String, Value) {
    let mut peer = Peer::connect(running.address).await;
    let request = format!("GET /__ds/health{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    peer.write(request.as_bytes()).await;
    let head = peer.head().await;
    let body = peer.rest().await;
    (head[9..12].parse().unwrap(), head.to_lowercase(), serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn a_full_disk_makes_it_not_ready_until_there_is_room() {
    let (memory, full) = (Memory::default().node(), Arc::new(AtomicBool::new(false)));
    let disk = Disk { log: memory.log.clone(), full: full.clone() };
    let server = Server::builder().backend(Backend { log: Arc::new(disk), ..memory });
    let running = Running::start(server.build()).await;
    let state = running.server.state();
    state.set("k", &1).await.unwrap();
    assert_eq!(ask(&running, "").await.0, 200);
    full.store(true, Ordering::Relaxed);
    assert_eq!(ask(&running, "").await.0, 200, "nobody has written since");
    state.set("k", &2).await.unwrap_err();
    let (status, _, body) = ask(&running, "").await;
    assert_eq!((status, &body["ready"], &body["live"]), (503, &Value::Bool(false), &Value::Bool(true)));
    assert_eq!(body["parts"]["backend"]["reason"], "the backend does not store; the log says why");
    assert_eq!(body["parts"]["connections"]["ready"], true);
    let (status, _, body) = ask(&running, "?live").await;
    assert_eq!((status, &body["ready"]), (200, &Value::Bool(false)), "it is alive");
    // Health returns without anybody's write.
    full.store(false, Ordering::Relaxed);
    let started = tokio::time::Instant::now();
    while ask(&running, "").await.0 != 200 {
        assert!(started.elapsed() < super::PATIENCE, "a probe is made each second");
        tokio::task::yield_now().await;
    }
    state.set("k", &3).await.unwrap();
    assert_eq!(state.get("k").await.unwrap(), Some(3.into()));
}

#[tokio::test]
async fn a_shutdown_makes_it_not_ready() {
    let running = serve(|builder| builder).await;
    let mut kept = Peer::connect(running.address).await;
    kept.write(b"GET /__ds/health?live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(kept.status().await, 200);
    assert_serves(&running).await;
    running.server.shutdown().await;
    let router = running.server.router();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mounted = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut peer = Peer::connect(address).await;
    peer.write(b"GET /__ds/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(peer.status().await, 503);
    mounted.abort();
}

#[tokio::test]
async fn counters_are_shown_only_where_they_are_public() {
    for public in [false, true] {
        let running = serve(|builder| builder.public_metrics(public)).await;
        assert_serves(&running).await;
        let (status, head, body) = ask(&running, "").await;
        assert_eq!(status, 200);
        assert_eq!(body.get("metrics").is_some(), public, "{body}");
        for header in ["datasole: ", "cache-control: no-store", "access-control-allow-origin: *"] {
            assert!(head.contains(header), "{header}: {head}");
        }
    }
}

#[tokio::test]
async fn messages_are_counted_both_ways() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    for id in 1..=10 {
        peer.call(id, "add", "[1, 2]").await;
    }
    // HELLO and the answers; an answer may be read before it is counted.
    while running.server.metrics_snapshot().messages_out < 11 {
        tokio::task::yield_now().await;
    }
    let counted = running.server.metrics_snapshot();
    assert_eq!((counted.messages_in, counted.messages_out), (10, 11));
    assert!(counted.uptime < 3_600);
}
