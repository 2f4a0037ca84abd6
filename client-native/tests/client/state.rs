//! Live states against a scripted server.

use std::time::Duration;

use datasole_client::{Client, State, StateError, codes};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fake::*;

#[derive(Debug, Deserialize, PartialEq)]
struct Board {
    n: u32,
    rows: Vec<u32>,
}

/// A client that follows the key `board`, whose snapshot is this.
async fn following(server: &Fake, data: Value) -> (Client, State<Board>, Peer) {
    let (client, mut peer) = server.pair().await;
    let mut state = client.state::<Board>("board").unwrap();
    assert!(!state.is_loaded());
    assert_eq!(state.get().unwrap(), None);
    peer.accept_subscription("state", "board", json!({"epoch": 1, "seq": 7, "recovered": false})).await;
    peer.send(STATE_SNAPSHOT, 0, &json!({"key": "board", "version": 7, "data": data, "epoch": 1, "seq": 7})).await;
    state.changed().await.unwrap();
    (client, state, peer)
}

fn patch(seq: u32, operations: Value) -> Value {
    json!({"key": "board", "patches": operations, "epoch": 1, "seq": seq})
}

#[tokio::test]
async fn follows_the_value() {
    let server = Fake::listen().await;
    let (_client, mut state, mut peer) = following(&server, json!({"n": 1, "rows": []})).await;
    assert_eq!(state.get().unwrap(), Some(Board { n: 1, rows: vec![] }));
    peer.send(STATE_PATCH, 0, &patch(8, json!([{"op": "add", "path": "/rows/-", "value": 5}]))).await;
    state.changed().await.unwrap();
    assert_eq!(state.get().unwrap(), Some(Board { n: 1, rows: vec![5] }));
    assert_eq!(state.value(), Some(json!({"n": 1, "rows": [5]})));
    assert_eq!(state.with_value(|value| value.and_then(|value| value["rows"].as_array().map(<[_]>::len))), Some(1));

    let removed = json!({"key": "board", "version": 9, "data": null, "removed": true, "epoch": 1, "seq": 9});
    peer.send(STATE_SNAPSHOT, 0, &removed).await;
    assert_eq!(state.next().await.unwrap().unwrap(), None);
    assert!(state.is_loaded());
}

#[tokio::test]
async fn changes_coalesce_and_the_newest_is_read() {
    let server = Fake::listen().await;
    let (client, state, mut peer) = following(&server, json!({"n": 0, "rows": []})).await;
    let mut events = client.events::<u32>("end").unwrap();
    for n in 1..=100 {
        peer.send(STATE_PATCH, 0, &patch(7 + n, json!([{"op": "replace", "path": "/n", "value": n}]))).await;
    }
    peer.send(EVENT_S2C, 0, &json!({"event": "end", "data": 0, "timestamp": 0})).await;
    events.next().await.unwrap().unwrap();
    let mut state = state;
    assert_eq!(state.next().await.unwrap().unwrap(), Some(Board { n: 100, rows: vec![] }));
    assert!(futures_util::FutureExt::now_or_never(state.changed()).is_none(), "100 changes were one");
}

#[tokio::test]
async fn a_value_of_another_shape_is_an_error_and_the_handle_goes_on() {
    let server = Fake::listen().await;
    let (_client, mut state, mut peer) = following(&server, json!("text")).await;
    let error = state.get().unwrap_err();
    assert!(matches!(error, StateError::Value { .. }));
    let told = error.to_string();
    assert!(told.starts_with("the state \"board\" is no "), "the key and the type: {told}");
    assert_eq!((error.code(), error.retryable()), (codes::PARSE, true));
    let whole = json!([{"op": "replace", "path": "", "value": {"n": 2, "rows": []}}]);
    peer.send(STATE_PATCH, 0, &patch(8, whole)).await;
    assert_eq!(state.next().await.unwrap().unwrap(), Some(Board { n: 2, rows: vec![] }));
}

#[tokio::test]
async fn handles_share_a_subscription_and_the_last_ends_it() {
    let server = Fake::listen().await;
    let (client, first, mut peer) = following(&server, json!({"n": 1, "rows": []})).await;
    let mut second = client.state::<Value>("board").unwrap();
    second.changed().await.unwrap();
    assert_eq!(second.get().unwrap(), Some(json!({"n": 1, "rows": []})));
    drop(first);
    client.emit("between", &()).await.unwrap();
    peer.expect(EVENT_C2S).await;
    drop(second);
    assert_eq!(peer.expect(UNSUBSCRIBE).await.1, Value::Null);

    let again = client.state::<Value>("board").unwrap();
    assert!(!again.is_loaded());
    let (_, asked) = peer.expect(SUBSCRIBE).await;
    assert_eq!(asked, json!({"kind": "state", "key": "board"}));
}

#[tokio::test]
async fn a_lost_connection_keeps_the_value_and_resumes() {
    let server = Fake::listen().await;
    let (_client, mut state, peer) = following(&server, json!({"n": 1, "rows": []})).await;
    drop(peer);
    let mut peer = server.accept_v2().await;
    assert_eq!(state.get().unwrap(), Some(Board { n: 1, rows: vec![] }));
    let recovered = json!({"epoch": 1, "seq": 7, "recovered": true});
    let (_, asked) = peer.accept_subscription("state", "board", recovered).await;
    assert_eq!(asked["since"], json!({"epoch": 1, "seq": 7}));
    peer.send(STATE_PATCH, 0, &patch(8, json!([{"op": "replace", "path": "/n", "value": 2}]))).await;
    assert_eq!(state.next().await.unwrap().unwrap(), Some(Board { n: 2, rows: vec![] }));
}

#[tokio::test]
async fn a_refused_key_says_why_and_ends() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut state = client.state::<Value>("secret").unwrap();
    let (id, _) = peer.expect(SUBSCRIBE).await;
    peer.send(ERROR, id, &json!({"message": "not for you", "code": codes::FORBIDDEN})).await;
    let error = state.changed().await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (codes::FORBIDDEN, "not for you"));
    assert!(state.next().await.is_some_and(|item| item.is_err()));
    assert!(state.next().await.is_none());
}

#[tokio::test]
async fn giving_up_is_told_and_reconnecting_goes_on() {
    let server = Fake::listen().await;
    let (client, mut state, mut peer) = following(&server, json!({"n": 1, "rows": []})).await;
    let mut events = client.events::<u32>("n").unwrap();
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    peer.stream.close(Some(close(4004))).await.unwrap();
    assert!(matches!(state.changed().await, Err(StateError::Disconnected(_))));
    assert!(events.next().await.is_some_and(|item| item.is_err()));
    assert_eq!(state.get().unwrap(), Some(Board { n: 1, rows: vec![] }));

    client.reconnect();
    let mut peer = server.accept_v2().await;
    for _ in 0..2 {
        let (id, asked) = peer.expect(SUBSCRIBE).await;
        let answer = json!({"epoch": asked["since"]["epoch"], "seq": asked["since"]["seq"], "recovered": true});
        peer.send(SUBSCRIBED, id, &answer).await;
    }
    peer.send(STATE_PATCH, 0, &patch(8, json!([{"op": "replace", "path": "/n", "value": 2}]))).await;
    state.changed().await.unwrap();
    assert_eq!(state.get().unwrap(), Some(Board { n: 2, rows: vec![] }));
}

#[tokio::test]
async fn a_handle_that_comes_soon_after_the_last_goes_on() {
    let server = Fake::listen().await;
    let (client, mut peer) =
        tokio::join!(server.client().linger(Duration::from_secs(60)).connect(), server.accept_v2());
    let client = client.unwrap();
    let mut state = client.state::<Value>("k").unwrap();
    let mut events = client.events::<u32>("n").unwrap();
    peer.accept_subscription("state", "k", json!({"epoch": 1, "seq": 7, "recovered": false})).await;
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    // A key that does not exist is loaded, too.
    peer.send(STATE_SNAPSHOT, 0, &json!({"key": "k", "epoch": 1, "seq": 7})).await;
    state.changed().await.unwrap();
    drop((state, std::mem::replace(&mut events, client.events::<u32>("n").unwrap())));
    let mut state = client.state::<Value>("k").unwrap();
    state.changed().await.unwrap();
    assert_eq!((state.is_loaded(), state.get().unwrap()), (true, None));
    drop(events);
    let mut events = client.events::<u32>("n").unwrap();
    peer.send(EVENT_S2C, 0, &json!({"event": "n", "data": 5, "timestamp": 0, "epoch": 1, "seq": 1})).await;
    assert_eq!(events.next().await.unwrap().unwrap().data, 5);
    client.emit("next", &()).await.unwrap();
    // Neither unsubscribed nor subscribed again.
    peer.expect(EVENT_C2S).await;
}

#[tokio::test]
async fn version_1_states_can_be_followed_again() {
    let server = Fake::listen().await;
    let (client, mut peer) = tokio::join!(server.client().connect(), server.accept(Some("datasole.v1")));
    let client = client.unwrap();
    let mut first = client.state::<Value>("k").unwrap();
    peer.send(STATE_SNAPSHOT, 0, &json!({"key": "k", "version": 1, "data": [1]})).await;
    first.changed().await.unwrap();
    drop(first);
    peer.send(STATE_PATCH, 0, &json!({"key": "k", "patches": [{"op": "add", "path": "/-", "value": 2}]})).await;
    let mut again = client.state::<Value>("k").unwrap();
    while again.get().unwrap() != Some(json!([1, 2])) {
        again.changed().await.unwrap();
    }
}

fn close(code: u16) -> tokio_tungstenite::tungstenite::protocol::CloseFrame {
    tokio_tungstenite::tungstenite::protocol::CloseFrame { code: code.into(), reason: "".into() }
}

/// Names that `serde_json` uses for itself are names like any other.
#[tokio::test]
async fn any_name_can_be_followed() {
    const RAW: &str = "$serde_json::private::RawValue";
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut state = client.state::<Value>("board").unwrap();
    peer.accept_subscription("state", "board", json!({"epoch": 1, "seq": 7, "recovered": false})).await;
    peer.send(STATE_SNAPSHOT, 0, &json!({"key": "board", "version": 7, "data": {RAW: "[1,2]"}, "epoch": 1, "seq": 7}))
        .await;
    state.changed().await.unwrap();
    assert_eq!(state.get().unwrap(), Some(json!({RAW: "[1,2]"})));
    let operations = json!([{"op": "add", "path": "/x", "value": {RAW: 3}}, {"op": "add", "path": format!("/x/{RAW}"), "value": "y"}]);
    peer.send(STATE_PATCH, 0, &patch(8, operations)).await;
    state.changed().await.unwrap();
    let expected = json!({RAW: "[1,2]", "x": {RAW: "y"}});
    assert_eq!((state.get().unwrap(), state.value()), (Some(expected.clone()), Some(expected)));
    let mut events = client.events::<Value>("said").unwrap();
    peer.send(EVENT_S2C, 0, &json!({"event": "said", "data": {RAW: null}, "timestamp": 0})).await;
    assert_eq!(events.next().await.unwrap().unwrap().data, json!({RAW: null}));
}
