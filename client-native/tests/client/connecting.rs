//! The way to the first connection: starting without one, trying again, what refusals say, proxies, and what a program is
//! told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasole_client::{CallOptions, Client, ConnectError, Reconnect, Status, codes};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::fake::*;

/// One attempt, and no other.
const ONCE: Reconnect = Reconnect { enabled: false, base: 0, cap: 0, max_attempts: None };

#[tokio::test]
async fn a_started_client_is_of_use_before_there_is_a_server() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let soon = Reconnect { base: 5, cap: 20, ..Reconnect::default() };
    let client = Client::builder(format!("http://{address}")).reconnect(soon).start().unwrap();
    assert!(!client.status().is_connected());
    let mut state = client.state::<i64>("k").unwrap();
    let likes = client.crdt().counter("likes").unwrap();
    likes.increment(2).unwrap();
    assert_eq!(likes.value(), 2);
    client.emit("early", &1).await.unwrap();
    let impatient =
        client.call_with::<_, Value>("slow", &(), CallOptions::new().timeout(Duration::from_millis(20))).await;
    assert_eq!(impatient.unwrap_err().code(), codes::TIMEOUT);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<_, i64>("add", &[1, 2]).await }
    });

    let server = Fake { listener: TcpListener::bind(address).await.unwrap() };
    let mut peer = server.accept_v2().await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let (opcode, correlation, payload) = peer.expect_any().await;
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        match opcode {
            SUBSCRIBE if payload["kind"] == "state" => {
                peer.send(SUBSCRIBED, correlation, &json!({"epoch": 1, "seq": 1, "recovered": false})).await;
                let value = json!({"key": "k", "version": 1, "data": 7, "epoch": 1, "seq": 1});
                peer.send(STATE_SNAPSHOT, 0, &value).await;
            }
            RPC_REQ => {
                assert_eq!(payload["method"], "add");
                peer.send(RPC_RES, correlation, &json!({"correlationId": correlation, "result": 3})).await;
            }
            EVENT_C2S => assert_eq!(payload["event"], "early"),
            _ => assert_eq!((opcode, &payload["kind"]), (SUBSCRIBE, &json!("crdt"))),
        }
        seen.push(opcode);
    }
    state.changed().await.unwrap();
    assert_eq!((state.get().unwrap(), call.await.unwrap().unwrap()), (Some(7), 3));
}

#[tokio::test]
async fn connect_tries_again_until_a_server_answers() {
    let server = Fake::listen().await;
    let (client, mut peer) = tokio::join!(server.client().connect(), async {
        for response in ["", "HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP/1.1 403 Forbidden\r\n\r\n"] {
            server.answer(response).await;
        }
        server.accept_v2().await
    });
    client.unwrap().emit("hi", &()).await.unwrap();
    assert_eq!(peer.expect(EVENT_C2S).await.1["event"], "hi");
}

#[tokio::test]
async fn refusals_are_told_in_words() {
    for (response, words) in [
        (
            "HTTP/1.1 301 Moved\r\nlocation: https://a.example/__ds/?token=x\r\n\r\n",
            "301 Moved Permanently to https://a.example/__ds/ instead of upgrading",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n",
            "200 OK with text/html instead of upgrading: is the path passed on to the datasole server?",
        ),
        ("HTTP/1.1 426 Upgrade Required\r\n\r\n", "426 Upgrade Required: a proxy in front may not pass the upgrade on"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden, and is no datasole server: something in between refuses"),
        ("HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\n\r\n", "429 Too Many Requests"),
        (
            "HTTP/1.1 503 Service Unavailable\r\ndatasole-refused: closing\r\ncontent-length: 4\r\n\r\nsoon",
            "503 Service Unavailable: soon",
        ),
    ] {
        let server = Fake::listen().await;
        let (outcome, ()) = tokio::join!(server.client().reconnect(ONCE).connect(), server.answer(response));
        let error = outcome.unwrap_err();
        assert_eq!(error.to_string(), format!("the server answered {words}"));
        assert_eq!(format!("{error:?}"), error.to_string(), "as `main` shows it");
    }
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Client::builder(format!("http://{nobody}")).reconnect(ONCE).connect().await.unwrap_err();
    assert!(error.to_string().starts_with("cannot reach the server: "), "{error}");
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let server = Fake::listen().await;
    let client = server.client().start().unwrap();
    server.answer("HTTP/1.1 429 Too Many Requests\r\nretry-after: 60\r\n\r\n").await;
    let mut statuses = client.statuses();
    while let Some(status) = statuses.next().await {
        if let Status::Waiting { until, .. } = status {
            let wait = until.unwrap() - tokio::time::Instant::now();
            assert!(wait > Duration::from_secs(50), "{wait:?}");
            return;
        }
    }
    panic!("the stream of statuses ended");
}

#[tokio::test]
async fn connect_timeout_bounds_all_attempts_and_tells_the_last_reason() {
    let server = Fake::listen().await;
    let connecting = server.client().connect_timeout(Duration::from_millis(100)).connect();
    let refusing = async {
        loop {
            server.answer("HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        }
    };
    let error = tokio::select! {
        outcome = connecting => outcome.unwrap_err(),
        () = refusing => unreachable!(),
    };
    assert!(matches!(&error, ConnectError::Failed(_)), "{error}");
    assert!(error.retryable(), "{error}");
}

#[tokio::test]
async fn a_proxy_tunnels_and_its_refusals_are_told() {
    let server = Fake::listen().await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = format!("http://ann:secret@{}", proxy.local_addr().unwrap());
    let target = server.listener.local_addr().unwrap().to_string();
    let builder = server.client().proxy(&through);
    assert!(!format!("{builder:?}").contains("secret"));
    let proxying = async {
        let mut refused = false;
        loop {
            let (mut inner, _) = proxy.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(inner.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
            assert!(head.contains("Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n"), "{head}");
            if !std::mem::replace(&mut refused, true) {
                inner.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
                continue;
            }
            inner.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut outer = TcpStream::connect(&target).await.unwrap();
            // Ends when either side does.
            let _ = copy_bidirectional(&mut inner, &mut outer).await;
        }
    };
    let connected = async {
        let refused = builder.clone().reconnect(ONCE).connect().await.unwrap_err();
        assert_eq!(refused.to_string(), "the proxy wants a user and a password");
        let (client, mut peer) = server.pair_with(builder).await;
        client.emit("hi", &()).await.unwrap();
        assert_eq!(peer.expect(EVENT_C2S).await.1["event"], "hi");
    };
    tokio::select! {
        () = connected => {}
        () = proxying => {}
    }
    for wrong in ["socks5://127.0.0.1:1", "http://"] {
        let error = server.client().proxy(wrong).start().unwrap_err();
        assert!(matches!(error, ConnectError::Proxy(_)), "{error}");
    }
}

#[tokio::test]
async fn on_change_is_called_for_what_comes_and_survives_a_panic() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let state = client.state::<i64>("k").unwrap();
    let (called, changed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    client.on_change(|| panic!("as this test wants it"));
    client.on_change({
        let (called, changed) = (called.clone(), changed.clone());
        move || {
            called.fetch_add(1, Ordering::Relaxed);
            changed.notify_one();
        }
    });
    peer.accept_subscription("state", "k", json!({"epoch": 1, "seq": 1, "recovered": false})).await;
    changed.notified().await;
    peer.send(STATE_SNAPSHOT, 0, &json!({"key": "k", "version": 1, "data": 7, "epoch": 1, "seq": 1})).await;
    while state.get().unwrap() != Some(7) {
        changed.notified().await;
    }
    let before = called.load(Ordering::Relaxed);
    drop(peer);
    while client.status().is_connected() {
        changed.notified().await;
    }
    assert!(called.load(Ordering::Relaxed) > before);
}

#[tokio::test]
async fn closing_waits_no_longer_than_told() {
    let server = Fake::listen().await;
    // This peer neither reads nor answers.
    let (client, _peer) = server.pair_with(server.client().close_timeout(Duration::from_millis(10))).await;
    let closed = tokio::time::timeout(Duration::from_secs(4), client.close()).await;
    assert!(closed.is_ok(), "the default is 5 s");
}

/// The messages that are logged at WARN on the thread of a test.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut keep = |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            if field.name() == "message" {
                self.0.lock().unwrap().push(format!("{value:?}"));
            }
        };
        event.record(&mut keep);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_subprotocol_that_is_stripped_is_logged() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    let server = Fake::listen().await;
    // One that chooses version 1 says so.
    let (client, _peer) = tokio::join!(server.client().connect(), server.accept(Some("datasole.v1")));
    drop(client.unwrap());
    assert!(warnings.0.lock().unwrap().is_empty());
    let (client, _peer) = tokio::join!(server.client().connect(), async {
        // One that chooses none is asked again, without an offer.
        drop(server.try_accept(None).await);
        server.accept(None).await
    });
    drop(client.unwrap());
    let warnings = warnings.0.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("strips Sec-WebSocket-Protocol"), "{warnings:?}");
}
