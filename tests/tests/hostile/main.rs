//! Hostile input over real sockets: whatever a peer does, the same server goes on serving everybody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod calls;
mod crdt;
mod documents;
mod fair;
mod health;
mod http;
mod life;
mod places;
mod probe;
mod read;
mod streams;
mod websocket;

use std::{sync::Arc, time::Duration};

use datasole_server::{Builder, Context, Limits, Payload, RpcError, Server};
use datasole_tests::{peer::Peer, running::Running};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

/// Far above what any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a few methods, and what a test adds.
async fn serve(add: impl FnOnce(Builder) -> Builder) -> Running {
    Running::start(add(methods(Server::builder())).build()).await
}

fn methods(builder: Builder) -> Builder {
    builder
        .rpc_raw("echo", |_: Context, payload: Payload| async move { Ok(payload) })
        .rpc("add", |_: Context, (a, b): (i64, i64)| async move { Ok(a + b) })
        .rpc("fail", |_: Context, _: Value| async move { Err::<(), _>(RpcError::new("boom")) })
}

/// Limits that end quickly what must end.
fn hasty() -> Limits {
    Limits::default().with(|limits| limits.close_timeout = Duration::from_millis(200))
}

/// Everybody else is served as ever, on both versions.
async fn assert_serves(running: &Running) {
    let mut v1 = Peer::v1(running.address).await;
    assert_eq!(v1.call(7, "add", "[1, 2]").await, json!({"correlationId": 7, "result": 3}));
    let mut v2 = Peer::v2(running.address).await;
    assert_eq!(v2.call(8, "add", "[3, 4]").await, json!({"correlationId": 8, "result": 7}));
}

/// Waits until every connection has given back its place.
async fn all_gone(running: &Running) {
    let gone = async {
        while running.server.connection_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("every connection ends");
}

/// Tells when a handler has begun, and when it is no more: finished or dropped.
#[derive(Clone)]
struct Watch(Arc<mpsc::UnboundedSender<&'static str>>);

struct Watched(Watch);

impl Watch {
    fn new() -> (Self, mpsc::UnboundedReceiver<&'static str>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Arc::new(sender)), receiver)
    }

    fn begin(&self) -> Watched {
        let _ = self.0.send("begun");
        Watched(self.clone())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.0.send("gone");
    }
}

async fn next(receiver: &mut mpsc::UnboundedReceiver<&'static str>) -> &'static str {
    timeout(PATIENCE, receiver.recv()).await.expect("in time").unwrap()
}
