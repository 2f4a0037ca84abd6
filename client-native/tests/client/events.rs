//! Events both ways: typing, loss, slow readers, a server that does not read.

use datasole_client::{EventError, Payload, codes};
use serde_json::json;

use crate::fake::*;

#[tokio::test]
async fn events_are_typed_and_one_that_does_not_fit_is_an_item() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut numbers = client.events::<u32>("n").unwrap();
    let mut raw = client.events_raw("n").unwrap();
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    for (seq, data) in [(1, json!(7)), (2, json!("text")), (3, json!(8))] {
        let event = json!({"event": "n", "data": data, "timestamp": 1000 + seq, "epoch": 1, "seq": seq});
        peer.send(EVENT_S2C, 0, &event).await;
    }
    let first = numbers.next().await.unwrap().unwrap();
    assert_eq!((first.data, first.timestamp), (7, 1001));
    assert!(matches!(numbers.next().await, Some(Err(EventError::Data(_)))));
    assert_eq!(numbers.next().await.unwrap().unwrap().data, 8);
    for expected in ["7", "\"text\"", "8"] {
        let Payload::Json(json) = raw.next().await.unwrap().unwrap().data else { panic!("not JSON") };
        assert_eq!(json.get(), expected);
    }
    drop(raw);
    client.emit("still", &()).await.unwrap();
    peer.expect(EVENT_C2S).await;
    drop(numbers);
    peer.expect(UNSUBSCRIBE).await;
}

#[tokio::test]
async fn a_stream_that_was_not_recovered_says_so() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut events = client.events::<u32>("n").unwrap();
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 4, "recovered": false})).await;
    let event = |seq: u32| json!({"event": "n", "data": seq, "timestamp": 0, "epoch": 1, "seq": seq});
    peer.send(EVENT_S2C, 0, &event(5)).await;
    assert_eq!(events.next().await.unwrap().unwrap().data, 5);

    drop(peer);
    let mut peer = server.accept_v2().await;
    let recovered = json!({"epoch": 1, "seq": 5, "recovered": true});
    let (_, asked) = peer.accept_subscription("event", "n", recovered).await;
    assert_eq!(asked["since"], json!({"epoch": 1, "seq": 5}));
    peer.send(EVENT_S2C, 0, &event(6)).await;
    assert_eq!(events.next().await.unwrap().unwrap().data, 6);

    drop(peer);
    let mut peer = server.accept_v2().await;
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 9, "recovered": false})).await;
    peer.send(EVENT_S2C, 0, &event(10)).await;
    assert!(matches!(events.next().await, Some(Err(EventError::Missed))));
    assert_eq!(events.next().await.unwrap().unwrap().data, 10);
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_lost() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair_with(server.client().event_buffer(2)).await;
    let mut slow = client.events::<u32>("n").unwrap();
    let mut quick = client.events::<u32>("n").unwrap();
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    for seq in 1..=5 {
        let event = json!({"event": "n", "data": seq, "timestamp": 0, "epoch": 1, "seq": seq});
        peer.send(EVENT_S2C, 0, &event).await;
        assert_eq!(quick.next().await.unwrap().unwrap().data, seq);
    }
    assert!(matches!(slow.next().await, Some(Err(EventError::Lagged(3)))));
    assert_eq!(slow.next().await.unwrap().unwrap().data, 4);
    assert_eq!(slow.next().await.unwrap().unwrap().data, 5);
}

#[tokio::test]
async fn a_refused_topic_says_why_and_ends() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut events = client.events::<u32>("secret").unwrap();
    let (id, _) = peer.expect(SUBSCRIBE).await;
    peer.send(ERROR, id, &json!({"message": "not for you", "code": codes::FORBIDDEN})).await;
    let Some(Err(error)) = events.next().await else { panic!("expected an error") };
    assert_eq!((error.code(), error.to_string().as_str()), (codes::FORBIDDEN, "not for you"));
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_senders_up_but_not_readers() {
    let server = Fake::listen().await;
    let (client, mut peer) = server.pair().await;
    let mut events = client.events::<u32>("n").unwrap();
    peer.accept_subscription("event", "n", json!({"epoch": 1, "seq": 0, "recovered": false})).await;
    // More than what may wait here and what the system's socket buffers can take.
    const BLOBS: u32 = 64;
    let sender = tokio::spawn({
        let client = client.clone();
        async move {
            for _ in 0..BLOBS {
                client.emit_bytes("blob", vec![7; 1_000_000]).await.unwrap();
            }
        }
    });
    for seq in 1..=3 {
        let event = json!({"event": "n", "data": seq, "timestamp": 0, "epoch": 1, "seq": seq});
        peer.send(EVENT_S2C, 0, &event).await;
        assert_eq!(events.next().await.unwrap().unwrap().data, seq);
    }
    assert!(!sender.is_finished(), "64 MB cannot have gone anywhere");
    for _ in 0..BLOBS {
        peer.expect_raw(0x22).await;
    }
    sender.await.unwrap();
}
