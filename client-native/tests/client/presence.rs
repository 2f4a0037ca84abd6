//! Presence rooms against a scripted server.

use std::time::Duration;

use datasole_client::{Client, Presence, PresenceError, codes};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::fake::*;

const ROOM: &str = "lobby";

/// A client that follows the room, in which these are.
async fn following(server: &Fake, members: Value) -> (Client, Presence<u32>, Peer) {
    let (client, mut peer) = server.pair_with(server.client().presence_throttle(Duration::from_millis(20))).await;
    let room = client.presence::<u32>(ROOM).unwrap();
    peer.accept_subscription("presence", ROOM, json!({"epoch": 1, "seq": 4, "recovered": false})).await;
    tell(&mut peer, 4, members, true).await;
    let mut changes = room.changes();
    changes.next().await.unwrap().unwrap();
    (client, room, peer)
}

async fn tell(peer: &mut Peer, seq: u64, members: Value, whole: bool) {
    let frame = json!({"key": ROOM, "members": members, "whole": whole, "epoch": 1, "seq": seq});
    peer.send(PRESENCE, 0, &frame).await;
}

/// The ids and values of those who are seen.
fn seen(room: &Presence<u32>) -> Vec<(String, u32, bool)> {
    room.members().into_iter().map(|member| (member.id, member.value, member.own)).collect()
}

#[tokio::test]
async fn members_come_change_and_go() {
    let server = Fake::listen().await;
    let everybody = json!([{"id": "c9", "userId": "bob", "value": 1}, {"id": "x", "userId": null, "value": "text"}]);
    let (client, room, mut peer) = following(&server, everybody).await;
    assert!(room.is_loaded());
    let bob = &room.members()[0];
    assert_eq!((bob.id.as_str(), bob.user_id.as_deref(), bob.value, bob.own), ("c9", Some("bob"), 1, false));
    assert_eq!(client.presence::<Value>(ROOM).unwrap().members().len(), 2, "as JSON all are seen");
    let mut changes = room.changes();
    changes.next().await.unwrap().unwrap();
    for (seq, change, after) in [
        (
            5,
            json!([{"id": "c1", "userId": "ann", "value": 7}]),
            vec![("c1".to_owned(), 7, true), ("c9".to_owned(), 1, false)],
        ),
        (
            6,
            json!([{"id": "c9", "userId": "bob"}, {"id": "c1", "userId": "ann", "value": 8}]),
            vec![("c1".to_owned(), 8, true)],
        ),
    ] {
        tell(&mut peer, seq, change, false).await;
        changes.next().await.unwrap().unwrap();
        assert_eq!(seen(&room), after);
    }
}

#[tokio::test]
async fn updates_are_throttled_and_the_last_is_sent() {
    let server = Fake::listen().await;
    let (_client, room, mut peer) = following(&server, json!([])).await;
    room.join(&0).unwrap();
    for value in 1..=100 {
        room.update(&value).unwrap();
    }
    assert_eq!(peer.expect(PRESENCE).await.1, json!({"key": ROOM, "value": 0}));
    let (_, mut sent) = peer.expect(PRESENCE).await;
    // Some may have been sent in between on a slow machine; few, and the last one in the end.
    let mut frames = 1;
    while sent["value"] != 100 {
        sent = peer.expect(PRESENCE).await.1;
        frames += 1;
    }
    assert!(frames < 20, "{frames}");
    room.leave();
    assert_eq!(peer.expect(PRESENCE).await.1, json!({"key": ROOM}));
}

#[tokio::test]
async fn the_own_entry_is_announced_again_on_the_next_connection() {
    let server = Fake::listen().await;
    let (_client, room, mut peer) = following(&server, json!([])).await;
    room.update(&3).unwrap();
    let (correlation, _) = peer.expect(PRESENCE).await;
    peer.send_raw(ACK, correlation, &[5]).await;
    drop(peer);
    let mut peer = server.accept_v2().await;
    let mut frames = [peer.expect_any().await, peer.expect_any().await];
    frames.sort_by_key(|frame| frame.0);
    assert_eq!((frames[0].0, frames[1].0), (SUBSCRIBE, PRESENCE));
    assert_eq!(serde_json::from_slice::<Value>(&frames[1].2).unwrap(), json!({"key": ROOM, "value": 3}));
}

#[tokio::test]
async fn the_own_value_stays_its_own_until_that_of_the_next_connection_is_here() {
    for recovered in [false, true] {
        let server = Fake::listen().await;
        let (client, room, peer) = following(&server, json!([{"id": "c1", "userId": "ann", "value": 1}])).await;
        assert_eq!(seen(&room), [("c1".to_owned(), 1, true)]);
        let mut statuses = client.statuses();
        let mut other = hello();
        other["connectionId"] = json!("c2");
        drop(peer);
        while statuses.next().await.unwrap().is_connected() {}
        assert_eq!(seen(&room), [("c1".to_owned(), 1, true)], "nobody connected");
        let mut peer = server.accept(Some("datasole.v2")).await;
        peer.send(HELLO, 0, &other).await;
        while !statuses.next().await.unwrap().is_connected() {}
        assert_eq!(seen(&room), [("c1".to_owned(), 1, true)], "connected, the members not told anew");
        let seq = if recovered { 4 } else { 5 };
        peer.accept_subscription("presence", ROOM, json!({"epoch": 1, "seq": seq, "recovered": recovered})).await;
        let mut changes = room.changes();
        let (old, new) =
            (json!({"id": "c1", "userId": "ann", "value": 1}), json!({"id": "c2", "userId": "ann", "value": 1}));
        let members = if recovered { json!([new]) } else { json!([old, new]) };
        tell(&mut peer, 5, members, !recovered).await;
        while !room.members().iter().any(|member| member.id == "c2") {
            changes.next().await.unwrap().unwrap();
        }
        assert_eq!(seen(&room), [("c2".to_owned(), 1, true)], "the client is one member");
    }
}

#[tokio::test]
async fn a_refused_value_is_told_and_a_busy_server_is_asked_again() {
    let server = Fake::listen().await;
    let (client, room, mut peer) = following(&server, json!([])).await;
    let mut refusals = client.refusals();
    room.join(&1).unwrap();
    let (correlation, _) = peer.expect(PRESENCE).await;
    peer.send(ERROR, correlation, &json!({"message": "slowly", "code": codes::LIMIT, "retryAfter": 10})).await;
    let (correlation, again) = peer.expect(PRESENCE).await;
    assert_eq!(again["value"], 1);
    peer.send(ERROR, correlation, &json!({"message": "not you", "code": codes::FORBIDDEN})).await;
    let refusal = refusals.next().await.unwrap();
    assert_eq!((refusal.code, refusal.payload.as_json()), (codes::FORBIDDEN, Some("1")));
}

#[tokio::test]
async fn the_last_handle_leaves_the_room() {
    let server = Fake::listen().await;
    let (_client, room, mut peer) = following(&server, json!([])).await;
    room.join(&1).unwrap();
    peer.expect(PRESENCE).await;
    drop(room);
    assert_eq!(peer.expect(PRESENCE).await.1, json!({"key": ROOM}));
    peer.expect(UNSUBSCRIBE).await;
}

#[tokio::test]
async fn version_1_has_no_rooms() {
    let server = Fake::listen().await;
    let (client, _peer) = tokio::join!(server.client().connect(), server.accept(Some("datasole.v1")));
    let room = client.unwrap().presence::<u32>(ROOM);
    assert!(matches!(room.and_then(|room| room.join(&1)), Err(PresenceError::Command(_))));
}

#[tokio::test]
async fn no_more_than_16_values_are_unanswered_and_the_newest_follows() {
    let server = Fake::listen().await;
    let (client, room, mut peer) = following(&server, json!([])).await;
    // Entering and leaving wait for no interval.
    for value in 1..=9 {
        room.join(&value).unwrap();
        room.leave();
    }
    room.join(&10).unwrap();
    client.emit("mark", &()).await.unwrap();
    let (first, _) = peer.expect(PRESENCE).await;
    for number in 1..16 {
        let expected = if number % 2 == 0 { json!(number / 2 + 1) } else { Value::Null };
        assert_eq!(peer.expect(PRESENCE).await.1["value"], expected);
    }
    peer.expect(EVENT_C2S).await;
    peer.send_raw(ACK, first, &[5]).await;
    assert_eq!(peer.expect(PRESENCE).await.1["value"], 10);
}
