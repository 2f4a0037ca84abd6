//! Clients of version 1, which follow every state that they may read: also those that other servers create.

use std::{collections::BTreeMap, time::Duration};

use datasole_server::{
    StreamId,
    backend::log::{Append, Mark, Rule, Tag},
};
use tokio::time::sleep;

use super::*;

/// The states that a client was shown, by key.
fn states(peer: &mut Peer, shown: &mut BTreeMap<String, Value>) {
    for (opcode, body) in received(peer) {
        if opcode == Opcode::StateSnapshot {
            shown.insert(body["key"].as_str().unwrap().to_owned(), body["data"].clone());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn states_that_are_created_on_another_server_come() {
    let Site { spy, a, .. } = Site::new();
    let mut shown = BTreeMap::new();
    // A server that nobody has asked for anything before.
    let c = Server::builder().backend(spy.clone()).authorize_read(|_, id| id.key != "secret").build();
    let mut old = client(&c, Protocol::V1, "old");
    settle().await;
    for (key, value) in [("one", json!(1)), ("secret", json!(2)), ("two", json!({ "n": 2 }))] {
        a.state().set(key, &value).await.unwrap();
    }
    settle().await;
    states(&mut old, &mut shown);
    assert_eq!(shown, BTreeMap::from([("one".to_owned(), json!(1)), ("two".to_owned(), json!({ "n": 2 }))]));
    // Removed, and made again.
    a.state().remove("one").await.unwrap();
    settle().await;
    a.state().set("one", &json!("again")).await.unwrap();
    settle().await;
    states(&mut old, &mut shown);
    assert_eq!(shown["one"], json!("again"));
}

#[tokio::test(start_paused = true)]
async fn states_of_which_nobody_has_told_are_found() {
    let Site { spy, a, .. } = Site::new();
    let (mut old, mut shown) = (client(&a, Protocol::V1, "old"), BTreeMap::new());
    settle().await;
    let (id, content) = (StreamId::state("quiet"), Bytes::from_static(b"v[1]"));
    let append =
        Append::new(&id, Mark::birth(7), Rule::Exactly, Tag { node: 1, count: 1 }, std::slice::from_ref(&content));
    spy.log.append(append).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    states(&mut old, &mut shown);
    assert!(shown.is_empty(), "looking for them takes its time");
    sleep(Duration::from_secs(20)).await;
    settle().await;
    states(&mut old, &mut shown);
    assert_eq!(shown, BTreeMap::from([("quiet".to_owned(), json!([1]))]));
}
