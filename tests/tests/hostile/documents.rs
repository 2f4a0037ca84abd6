//! Documents: updates that cost the server much and their sender little.

use datasole_core::{
    frame::Opcode,
    wire::{push_varuint, split_varuint},
};
use datasole_server::Limits;
use datasole_tests::peer::{Peer, Received};
use serde_json::Value;

use super::{assert_serves, probe::assert_unnoticed, serve};

/// Letters that so many clients insert at one place, in the order for which Yjs looks at all of them for each.
fn at_one_place(letters: u64) -> Vec<u8> {
    let mut update = Vec::new();
    push_varuint(&mut update, letters);
    for client in (1..=letters).rev() {
        update.push(1);
        push_varuint(&mut update, client);
        update.extend_from_slice(&[0, 4, 1, 1, b't', 1, b'x']);
    }
    update.push(0);
    update
}

/// Follows a document; its channel.
async fn follow(peer: &mut Peer, key: &str) -> u64 {
    peer.send(Opcode::Subscribe, 1, format!(r#"{{"kind":"doc","key":"{key}"}}"#)).await;
    loop {
        if let Received::Frame(Opcode::Subscribed, 1, payload) = peer.receive().await {
            return serde_json::from_slice::<Value>(&payload).unwrap()["channel"].as_u64().unwrap();
        }
    }
}

/// Sends an update; the `seq` or the code of the answer, or the code of the close.
async fn change(peer: &mut Peer, channel: u64, update: &[u8]) -> Result<u64, i64> {
    let mut payload = Vec::new();
    push_varuint(&mut payload, channel);
    payload.extend_from_slice(&[0, 2]);
    push_varuint(&mut payload, update.len() as u64);
    payload.extend_from_slice(update);
    peer.send(Opcode::Doc, 2, payload).await;
    loop {
        match peer.receive().await {
            Received::Frame(Opcode::Ack, 2, seq) => return Ok(split_varuint(&seq).unwrap().0),
            Received::Frame(Opcode::Error, 2, error) => {
                return Err(serde_json::from_slice::<Value>(&error).unwrap()["code"].as_i64().unwrap());
            }
            Received::Close(code) => return Err(code.into()),
            Received::End => return Err(0),
            _ => {}
        }
    }
}

#[tokio::test]
async fn updates_that_take_too_long_are_given_up_and_the_third_ends_the_connection() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    let channel = follow(&mut peer, "d").await;
    let (honest, slow) = (at_one_place(10), at_one_place(40_000));
    for outcome in [-32004, -32004, 1008] {
        assert_eq!(change(&mut peer, channel, &slow).await, Err(outcome));
    }
    let mut peer = Peer::v2(running.address).await;
    let channel = follow(&mut peer, "d").await;
    assert_eq!(change(&mut peer, channel, &honest).await, Ok(1), "what was refused has left nothing");
    assert_serves(&running).await;
}

#[tokio::test]
async fn slow_updates_are_not_noticed_by_others() {
    let running = serve(|builder| builder.limits(Limits::default())).await;
    let address = running.address;
    assert_unnoticed(&running, move || async move {
        let slow = at_one_place(40_000);
        loop {
            let mut peer = Peer::v2(address).await;
            let channel = follow(&mut peer, "d").await;
            while change(&mut peer, channel, &slow).await == Err(-32004) {}
        }
    })
    .await;
    assert_serves(&running).await;
}
