//! Opening, authorising, reconnecting and closing.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use datasole_client::{Client, ConnectError, DisconnectReason, Reconnect, Status, codes};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::fake::*;

#[tokio::test]
async fn speaks_version_2_where_the_server_does() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    assert_eq!(peer.request.uri().path(), "/__ds");
    assert_eq!(peer.request.headers()["sec-websocket-protocol"], "datasole.v1, datasole.v2");
    let connected =
        Status::Connected { protocol: 2, connection_id: "c1".into(), user_id: Some("ann".into()), same_contract: None };
    assert_eq!(client.status(), connected);

    let (sum, ()) = tokio::join!(client.call::<_, i64>("add", &[1, 2]), async {
        let (correlation, request) = peer.expect(RPC_REQ).await;
        assert_eq!(request, json!({"method": "add", "params": [1, 2], "correlationId": correlation}));
        peer.send(RPC_RES, correlation, &json!({"correlationId": correlation, "result": 3})).await;
    });
    assert_eq!(sum.unwrap(), 3);
}

#[tokio::test]
async fn speaks_version_1_where_the_server_does_or_ignores_the_offer() {
    for protocol in [Some("datasole.v1"), None] {
        let server = Fake::listen().await;
        let accept = async {
            loop {
                if let Some(peer) = server.try_accept(protocol).await
                    && (protocol.is_some() || !peer.request.headers().contains_key("sec-websocket-protocol"))
                {
                    return peer;
                }
            }
        };
        let (client, mut peer) = tokio::join!(server.client().connect(), accept);
        let client = client.unwrap();
        assert!(matches!(client.status(), Status::Connected { protocol: 1, .. }));
        let mut state = client.state::<Value>("k").unwrap();
        peer.send(STATE_SNAPSHOT, 0, &json!({"key": "k", "version": 1, "data": [1]})).await;
        peer.send(STATE_PATCH, 0, &json!({"key": "k", "patches": [{"op": "add", "path": "/-", "value": 2}]})).await;
        while state.get().unwrap() != Some(json!([1, 2])) {
            state.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn headers_and_the_token_go_with_the_request() {
    let server = Fake::listen().await;
    let client = server.client().token("s3 cret").header("Authorization", "Bearer x").path("ws");
    assert!(!format!("{client:?}").contains("cret"));
    assert!(!format!("{client:?}").contains("Bearer"));
    let (_client, peer) = server.pair_with(client).await;
    assert_eq!(peer.request.uri().path(), "/ws");
    assert_eq!(peer.request.uri().query(), Some("token=s3%20cret"));
    assert_eq!(peer.request.headers()["authorization"], "Bearer x");
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_connecting() {
    let refused = |client: datasole_client::Builder| async { client.connect().await.unwrap_err() };
    for url in ["ftp://localhost", "localhost:80", "http://", "ws://a b"] {
        assert!(matches!(refused(Client::builder(url)).await, ConnectError::Url), "{url}");
    }
    for (name, value) in [("bad name", "x"), ("x", "bad\nvalue"), ("Upgrade", "h2"), ("sec-websocket-key", "x")] {
        let error = refused(Client::builder("ws://127.0.0.1:1").header(name, value)).await;
        assert!(matches!(&error, ConnectError::Header(header) if header == name), "{name}: {error}");
    }
}

/// Wherever it begins, it finds the one that answers; when that goes away, the other.
#[tokio::test]
async fn several_urls_are_tried_in_turn() {
    let reconnect = Reconnect { base: 0, cap: 0, ..Reconnect::default() };
    let (one, other) = (Fake::listen().await, Fake::listen().await);
    let nobody = {
        let closed = Fake::listen().await;
        closed.url()
    };
    let client = Client::builder([nobody.clone(), one.url(), nobody, other.url()]).reconnect(reconnect);
    let (client, (peer, is_one)) = tokio::join!(client.connect(), async {
        tokio::select! {
            peer = one.accept_v2() => (peer, true),
            peer = other.accept_v2() => (peer, false),
        }
    });
    let client = client.unwrap();
    // Lost within a second: it goes on.
    drop(peer);
    let next = if is_one { other.accept_v2().await } else { one.accept_v2().await };
    assert_eq!(next.request.uri().path(), "/__ds");
    client.close().await;
    for urls in [Vec::new(), vec!["ws://127.0.0.1:1", "ftp://127.0.0.1"], vec!["ws://127.0.0.1:1 ws://127.0.0.1:2"]] {
        let refused = Client::builder(urls.clone()).connect().await;
        assert!(matches!(refused, Err(ConnectError::Url)), "{urls:?}");
    }
}

/// Connects once to a server that answers the upgrade with this HTTP response.
async fn refused_with(response: &str) -> ConnectError {
    let server = Fake::listen().await;
    let once = server.client().reconnect(Reconnect { max_attempts: Some(0), ..Reconnect::default() });
    let (outcome, ()) = tokio::join!(once.connect(), server.answer(response));
    outcome.unwrap_err()
}

#[tokio::test]
async fn a_refused_upgrade_is_a_typed_error() {
    for (response, code, retryable) in [
        (
            "HTTP/1.1 401 Unauthorized\r\ndatasole-refused: token\r\ncontent-length: 0\r\n\r\n",
            codes::UNAUTHORIZED,
            false,
        ),
        (
            "HTTP/1.1 403 Forbidden\r\ndatasole-refused: origin\r\ncontent-length: 0\r\n\r\n",
            codes::CONNECTION_LOST,
            false,
        ),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", codes::CONNECTION_LOST, true),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", codes::CONNECTION_LOST, true),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", codes::CONNECTION_LOST, true),
        ("SSH-2.0-OpenSSH\r\n\r\n", codes::CONNECTION_LOST, true),
        ("", codes::CONNECTION_LOST, true),
    ] {
        let error = refused_with(response).await;
        assert_eq!((error.code(), error.retryable()), (code, retryable), "{response:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_never_answers_times_out() {
    let server = Fake::listen().await;
    let (outcome, _stream) =
        tokio::join!(server.client().connect_timeout(Duration::from_millis(20)).connect(), server.accept_tcp());
    let error = outcome.unwrap_err();
    assert!(matches!(error, ConnectError::Failed(DisconnectReason::ConnectTimeout)), "{error}");
    assert!(error.retryable());
}

#[tokio::test]
async fn each_attempt_has_a_token_of_its_own() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let server = Fake::listen().await;
    let client = server
        .client()
        .token_provider(|| async { Ok::<_, String>(Some(format!("t{}", ASKED.fetch_add(1, Ordering::Relaxed)))) });
    let (_client, peer) = server.pair_with(client).await;
    assert_eq!(peer.request.uri().query(), Some("token=t0"));
    drop(peer);
    let peer = server.accept_v2().await;
    assert_eq!(peer.request.uri().query(), Some("token=t1"));
}

#[tokio::test]
async fn a_provider_that_fails_or_panics_is_a_failed_attempt() {
    let server = Fake::listen().await;
    let once = || server.client().reconnect(Reconnect { max_attempts: Some(0), ..Reconnect::default() });
    let failing = once().token_provider(|| async { Err::<Option<String>, _>("no key ring") });
    let error = failing.connect().await.unwrap_err();
    assert!(error.to_string().contains("no key ring"), "{error}");

    async fn explode() -> Result<Option<String>, String> {
        panic!("in the provider, as this test wants it")
    }
    let error = once().token_provider(explode).connect().await.unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[tokio::test]
async fn a_text_message_closes_with_1003_and_the_fifth_in_a_row_is_final() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut statuses = client.statuses();
    for connection in 1..=5 {
        futures_util::SinkExt::send(&mut peer.stream, "text".into()).await.unwrap();
        assert_eq!(u16::from(peer.expect_close().await.code), 1003);
        if connection < 5 {
            peer = server.accept_v2().await;
        }
    }
    while let Some(status) = statuses.next().await {
        if let Status::Disconnected(DisconnectReason::Closed(close)) = status {
            assert_eq!(close.code, Some(1003));
            return;
        }
    }
    panic!("the stream of statuses ended");
}

#[tokio::test]
async fn dropping_the_last_clone_closes_gracefully() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut events = client.events::<Value>("n").unwrap();
    let clone = client.clone();
    drop(client);
    clone.emit("bye", &1).await.unwrap();
    drop(clone);
    peer.expect(SUBSCRIBE).await;
    assert_eq!(peer.expect(EVENT_C2S).await.1["event"], "bye");
    assert_eq!(u16::from(peer.expect_close().await.code), 1000);
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn close_waits_for_the_server_and_ends_everything() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut state = client.state::<Value>("k").unwrap();
    peer.expect(SUBSCRIBE).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<_, Value>("slow", &()).await }
    });
    peer.expect(RPC_REQ).await;
    let ((), close) = tokio::join!(client.close(), peer.expect_close());
    assert_eq!(u16::from(close.code), 1000);
    assert_eq!(call.await.unwrap().unwrap_err().code(), codes::CLOSED);
    assert!(state.changed().await.is_err());
    assert!(state.next().await.is_none());
    assert_eq!(client.call::<_, Value>("f", &()).await.unwrap_err().code(), codes::CLOSED);
    assert_eq!(client.emit_queued("e", &()).await.unwrap_err().code(), codes::CLOSED);
    assert_eq!(client.events::<Value>("n").unwrap_err().code(), codes::CLOSED);
    assert_eq!(client.status(), Status::Disconnected(DisconnectReason::ClosedByUser));
    client.reconnect();
    client.close().await;
    assert_eq!(client.status(), Status::Disconnected(DisconnectReason::ClosedByUser));
}

#[test]
fn a_runtime_that_shuts_down_leaves_nobody_waiting() {
    let inner = tokio::runtime::Runtime::new().unwrap();
    let (client, mut events, _peer) = inner.block_on(async {
        let server = Fake::listen().await;
        let (client, peer) = server.pair().await;
        let events = client.events::<Value>("n").unwrap();
        (client, events, peer)
    });
    drop(inner);
    let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    outer.block_on(async {
        assert!(events.next().await.is_none());
        assert_eq!(client.call::<_, Value>("f", &()).await.unwrap_err().code(), codes::CLOSED);
        client.close().await;
    });
}

#[tokio::test]
async fn needs_a_runtime() {
    let connecting = std::thread::spawn(|| futures_util::FutureExt::now_or_never(Client::builder("ws://a").connect()));
    let outcome = connecting.join().unwrap();
    assert!(matches!(outcome, Some(Err(ConnectError::NoRuntime))), "{outcome:?}");
}
