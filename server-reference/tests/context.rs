//! What handlers and hooks are given: the application's data, connections with tags, groups.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use datasole_core::frame::{Codec, Opcode, decode};
use datasole_server::{Context, EventError, Identity, Peer, Protocol, RpcError, Server};
use serde_json::{Value, json};

/// What came since it was last asked: opcodes and payloads.
fn received(peer: &mut Peer) -> Vec<(Opcode, Value)> {
    let read = |message: Vec<u8>| {
        let mut codec = Codec::default();
        let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
        (frame.opcode, serde_json::from_slice(frame.payload).unwrap())
    };
    std::iter::from_fn(|| peer.poll_message()).map(read).collect()
}

fn send(peer: &mut Peer, opcode: Opcode, payload: &Value) {
    let frame = Codec::default().encode(opcode, 1, payload.to_string().as_bytes(), usize::MAX);
    assert!(decode(&frame, 1_000).is_ok());
    peer.receive(&frame);
}

fn call(peer: &mut Peer, method: &str) -> Value {
    send(peer, Opcode::RpcRequest, &json!({ "method": method, "params": null }));
    received(peer).pop().unwrap().1
}

struct Greeting(&'static str);

#[test]
fn handlers_get_the_applications_data_by_its_type() {
    let server = Server::builder()
        .data(Greeting("first"))
        .data(Greeting("hello"))
        .data(AtomicUsize::new(41))
        .rpc("greeting", |context: Context, (): ()| async move { Ok(context.data::<Greeting>()?.0) })
        .rpc("count", |context: Context, (): ()| async move {
            Ok(context.data::<AtomicUsize>()?.fetch_add(1, Ordering::Relaxed))
        })
        .rpc("missing", |context: Context, (): ()| async move { context.data::<String>().cloned() })
        .build();
    let mut peer = server.peer(Protocol::V2, Identity::anonymous());
    received(&mut peer);
    assert_eq!(call(&mut peer, "greeting")["result"], "hello", "the later one of a type");
    assert_eq!([call(&mut peer, "count"), call(&mut peer, "count")].map(|answer| answer["result"].clone()), [41, 42]);
    let missing = call(&mut peer, "missing");
    assert_eq!(missing["error"], json!({ "code": -32603, "message": "internal error" }));
}

#[test]
fn connections_have_tags_and_a_time() {
    let server = Server::builder()
        .on_connect(|context: Context| async move {
            assert_eq!(context.connection().set_tag("plan", "free"), None);
        })
        .rpc("upgrade", |context: Context, (): ()| async move {
            let connection = context.connection();
            connection.set_tag("seats", "3");
            Ok((connection.set_tag("plan", "paid"), connection.tag("plan"), connection.tags().len()))
        })
        .rpc("reset", |context: Context, (): ()| async move {
            let connection = context.connection();
            Ok((connection.remove_tag("plan"), connection.remove_tag("plan"), connection.tag("plan")))
        })
        .rpc("about", |context: Context, (): ()| async move {
            let connection = context.connection();
            let age = SystemTime::now().duration_since(connection.connected_at()).unwrap().as_secs();
            Ok((connection.id(), connection.remote_addr(), connection.protocol() == Protocol::V1, age < 60))
        })
        .build();
    let mut ann = server.peer(Protocol::V1, Identity::user("ann"));
    let mut bob = server.peer(Protocol::V1, Identity::user("bob"));
    assert_eq!(call(&mut ann, "upgrade")["result"], json!(["free", "paid", 2]));
    assert_eq!(call(&mut bob, "reset")["result"], json!(["free", null, null]), "each has its own");
    assert_eq!(call(&mut ann, "reset")["result"], json!(["paid", null, null]));
    assert_eq!(call(&mut ann, "about")["result"], json!([ann.connection_id(), null, true, true]));
}

#[tokio::test]
async fn hooks_come_before_the_first_frame_and_after_the_last() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| {
        let told = told.clone();
        move |context: Context| {
            told.lock().unwrap().push((what, context.identity().user_id.clone(), context.connection_id()));
            async { Err::<(), _>(RpcError::new("logged, and told to nobody")) }
        }
    };
    let (came, went) = (note("came"), note("went"));
    let server = Server::builder()
        .on_connect(move |context: Context| {
            let noted = came(context.clone());
            async move {
                context.join_group("all").await?;
                noted.await
            }
        })
        .on_disconnect(went)
        .build();
    let mut ann = server.peer(Protocol::V2, Identity::user("ann"));
    let bob = server.peer(Protocol::V2, Identity::user("bob"));
    received(&mut ann);
    server.to_group("all").emit("hi", &1).await.unwrap();
    assert_eq!(received(&mut ann)[0].1["data"], 1, "the hook has put it into a group");
    let expected = |what, peer: &Peer, user: &str| (what, user.to_owned(), peer.connection_id());
    let (came, went) = (expected("came", &ann, "ann"), expected("went", &bob, "bob"));
    let (also_came, also_went) = (expected("came", &bob, "bob"), expected("went", &ann, "ann"));
    bob.end().await;
    drop(ann);
    assert_eq!(*told.lock().unwrap(), [came, also_came, went, also_went]);
    // One that the server has no seat for was never there.
    server.shutdown().await;
}

#[test]
fn an_event_handler_may_fail() {
    let server = Server::builder()
        .on("say", |context: Context, text: String| async move {
            context.server().broadcast(&text, &1).await?;
            Ok::<(), EventError>(())
        })
        .build();
    let mut peer = server.peer(Protocol::V1, Identity::user("ann"));
    for (text, heard) in [("hello", true), ("", false)] {
        send(&mut peer, Opcode::ClientEvent, &json!({ "event": "say", "data": text }));
        assert_eq!(received(&mut peer).len(), usize::from(heard), "{text:?}");
    }
}
