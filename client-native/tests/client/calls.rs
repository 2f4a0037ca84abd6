//! Calls: answers, errors, deadlines, cancelling.

use std::{collections::HashMap, time::Duration};

use datasole_client::{CallError, CallOptions, codes};
use serde_json::{Value, json};

use crate::fake::*;

#[tokio::test]
async fn a_call_fails_with_what_the_server_said() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let (outcome, ()) = tokio::join!(client.call::<_, Value>("f", &()), async {
        let (id, _) = peer.expect(RPC_REQ).await;
        let error = json!({"code": 7, "message": "boom", "data": {"x": 1}});
        peer.send(RPC_RES, id, &json!({"correlationId": id, "error": error})).await;
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.code(), error.retryable(), error.to_string().as_str()), (7, false, "boom"));

    let (outcome, ()) = tokio::join!(client.call::<_, u8>("f", &()), async {
        let (id, _) = peer.expect(RPC_REQ).await;
        peer.send(ERROR, id, &json!({"message": "too fast", "code": codes::LIMIT, "retryAfter": 5})).await;
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.code(), error.retryable()), (codes::LIMIT, true));
}

#[tokio::test]
async fn a_call_fails_here_when_its_types_do_not_fit() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let unspeakable = HashMap::from([((1, 2), 3)]);
    let error = client.call::<_, ()>("f", &unspeakable).await.unwrap_err();
    assert!(matches!(error, CallError::Params(_)), "{error}");
    assert_eq!(error.code(), codes::INVALID_PARAMS);

    let (outcome, ()) = tokio::join!(client.call::<_, u8>("f", &()), async {
        let (id, _) = peer.expect(RPC_REQ).await;
        peer.send(RPC_RES, id, &json!({"correlationId": id, "result": "text"})).await;
    });
    assert!(matches!(outcome, Err(CallError::Result(_))), "{outcome:?}");

    let (outcome, ()) = tokio::join!(client.call::<_, ()>("void", &()), async {
        let (id, _) = peer.expect(RPC_REQ).await;
        peer.send(RPC_RES, id, &json!({"correlationId": id})).await;
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_dropped_call_is_cancelled_on_the_wire() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let called = {
        let call = client.call::<_, Value>("slow", &());
        tokio::pin!(call);
        tokio::select! {
            outcome = &mut call => panic!("{outcome:?}"),
            (called, _) = peer.expect(RPC_REQ) => called,
        }
    };
    assert_eq!(peer.expect(CANCEL).await, (called, Value::Null));
}

#[tokio::test]
async fn a_call_that_was_never_polled_sends_nothing() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    drop(client.call::<_, Value>("never", &()));
    client.emit("next", &1).await.unwrap();
    assert_eq!(peer.expect(EVENT_C2S).await.1, json!({"event": "next", "data": 1}));
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let options = CallOptions::new().timeout(Duration::from_millis(20));
    let error = client.call_with::<_, Value>("slow", &(), options).await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (codes::TIMEOUT, "RPC timeout: slow (20ms)"));
    peer.expect(RPC_REQ).await;

    let (client, _peer) = server.pair_with(server.client().call_timeout(Duration::from_millis(10))).await;
    let error = client.call::<_, Value>("slow", &()).await.unwrap_err();
    assert_eq!(error.to_string(), "RPC timeout: slow (10ms)");
}

#[tokio::test]
async fn calls_in_flight_fail_with_the_connection_and_queued_ones_wait_for_the_next() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let (outcome, ()) = tokio::join!(client.call::<_, Value>("f", &()), async {
        peer.expect(RPC_REQ).await;
        drop(peer);
    });
    let error = outcome.unwrap_err();
    assert_eq!((error.code(), error.retryable()), (codes::CONNECTION_LOST, true));

    client.emit_queued("e", &1).await.unwrap();
    let queued = client.call_with::<_, Value>("g", &(), CallOptions::new().queue());
    let (outcome, ()) = tokio::join!(queued, async {
        let mut peer = server.accept_v2().await;
        peer.expect(EVENT_C2S).await;
        let (id, _) = peer.expect(RPC_REQ).await;
        peer.send(RPC_RES, id, &json!({"correlationId": id, "result": 1})).await;
    });
    assert_eq!(outcome.unwrap(), 1);
}

#[tokio::test]
async fn raw_bytes_go_both_ways() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let (answer, ()) = tokio::join!(client.call_bytes("blob", vec![0, 159, 146, 150]), async {
        let (id, payload) = peer.expect_raw(RPC_REQ_BIN).await;
        let json = u32::from_be_bytes(payload[..4].try_into().unwrap()) as usize;
        let head: Value = serde_json::from_slice(&payload[4..4 + json]).unwrap();
        assert_eq!(head, json!({"method": "blob", "correlationId": id}));
        assert_eq!(payload[4 + json..], [0, 159, 146, 150]);
        let head = format!(r#"{{"correlationId":{id}}}"#);
        let mut answer = (head.len() as u32).to_be_bytes().to_vec();
        answer.extend(head.as_bytes());
        answer.extend([255, 0]);
        peer.send_raw(RPC_RES_BIN, id, &answer).await;
    });
    assert_eq!(answer.unwrap(), [255, 0]);
}
