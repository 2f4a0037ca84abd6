//! Documents as a hostile peer makes them: updates that are short on the wire, and long to apply or large in memory.

use datasole_core::{
    frame::Opcode,
    wire::{push_varuint, split_varuint},
};
use serde_json::Value;

use crate::peer::{Peer, Received};

/// Letters that so many clients insert at one place, in the order for which Yjs looks at all of them for each.
pub fn at_one_place(letters: u64) -> Vec<u8> {
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

/// A map of so many entries of one letter: as many blocks, none of which can be merged with another.
pub fn entries(entries: u64) -> Vec<u8> {
    let mut update = vec![1];
    push_varuint(&mut update, entries);
    update.extend_from_slice(&[1, 0]);
    for entry in 0..entries {
        let key = format!("{entry:x}");
        update.extend_from_slice(&[0x24, 1, 1, b'm']);
        push_varuint(&mut update, key.len() as u64);
        update.extend_from_slice(key.as_bytes());
        update.extend_from_slice(&[1, b'x']);
    }
    update.push(0);
    update
}

/// Follows a document under this id; its channel, or the code of the refusal.
pub async fn follow(peer: &mut Peer, id: u32, key: &str) -> Result<u64, i64> {
    peer.send(Opcode::Subscribe, id, format!(r#"{{"kind":"doc","key":"{key}"}}"#)).await;
    loop {
        match peer.receive().await {
            Received::Frame(Opcode::Subscribed, of, payload) if of == id => {
                return Ok(serde_json::from_slice::<Value>(&payload).unwrap()["channel"].as_u64().unwrap());
            }
            Received::Frame(Opcode::Error, of, error) if of == id => return Err(code(&error)),
            Received::Close(code) => return Err(code.into()),
            Received::End => return Err(0),
            _ => {}
        }
    }
}

/// Sends an update; the `seq` or the code of the answer, or the code of the close.
pub async fn change(peer: &mut Peer, channel: u64, update: &[u8]) -> Result<u64, i64> {
    const ID: u32 = 1_000_000;
    let mut payload = Vec::new();
    push_varuint(&mut payload, channel);
    payload.extend_from_slice(&[0, 2]);
    push_varuint(&mut payload, update.len() as u64);
    payload.extend_from_slice(update);
    peer.send(Opcode::Doc, ID, payload).await;
    loop {
        match peer.receive().await {
            Received::Frame(Opcode::Ack, ID, seq) => return Ok(split_varuint(&seq).unwrap().0),
            Received::Frame(Opcode::Error, ID, error) => return Err(code(&error)),
            Received::Close(code) => return Err(code.into()),
            Received::End => return Err(0),
            _ => {}
        }
    }
}

fn code(error: &[u8]) -> i64 {
    serde_json::from_slice::<Value>(error).unwrap()["code"].as_i64().unwrap()
}
