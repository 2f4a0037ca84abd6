//! Servers by contract: names from types, paths of what does not fit, and what has no handler.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use datasole_contract::{ContractError, Invalid, TS, contract};
use datasole_core::frame::{Codec, Opcode};
use datasole_server::{Context, ContractMismatch, Identity, Peer, Protocol, RpcError, Server};
use http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize, TS)]
pub struct Order {
    items: Vec<Line>,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Line {
    #[serde(rename = "a/b")]
    qty: u32,
}

#[derive(Serialize, Deserialize, TS)]
pub struct NotInStock {
    left: u32,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Shout {
    text: String,
}

#[derive(Serialize, Deserialize, TS)]
pub struct Board {
    votes: u32,
    rows: Vec<String>,
}

impl Order {
    fn some(&self) -> Result<(), Invalid> {
        if self.items.is_empty() { Err(Invalid::new("/items", "order something")) } else { Ok(()) }
    }
}

contract! {
    pub App {
        rpc { Order = "order" -> u32 | NotInStock where Order::some; }
        events { Shout = "shout" both; }
        state { Dashboard = "dashboard" => Board; BoardOf { id: u32 } = "board:{id}" => Board; }
    }
}

async fn order(_: Context, order: Order) -> Result<u32, RpcError> {
    let all = order.items.iter().map(|line| line.qty).sum();
    if all > 9 { Err(RpcError::new("not in stock").data(&NotInStock { left: 9 })) } else { Ok(all) }
}

async fn shout(context: Context, shout: Shout) -> Result<(), datasole_server::EventError> {
    context.server().publish(&Shout { text: shout.text.to_uppercase() }).await
}

fn server() -> Server {
    Server::builder().contract::<App>().method(order).event(shout).try_build().unwrap()
}

fn received(peer: &mut Peer) -> Vec<(Opcode, Value)> {
    let read = |message: Vec<u8>| {
        let mut codec = Codec::default();
        let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
        (frame.opcode, serde_json::from_slice(frame.payload).unwrap())
    };
    std::iter::from_fn(|| peer.poll_message()).map(read).collect()
}

fn answer(server: &Server, params: &Value) -> Value {
    let mut peer = server.peer(Protocol::V2, Identity::anonymous());
    received(&mut peer);
    let payload = json!({ "method": "order", "params": params }).to_string();
    peer.receive(&Codec::default().encode(Opcode::RpcRequest, 1, payload.as_bytes(), usize::MAX));
    received(&mut peer).pop().unwrap().1
}

#[test]
fn parameters_that_do_not_fit_are_told_by_their_place() {
    let server = server();
    assert_eq!(answer(&server, &json!({ "items": [{ "a/b": 2 }, { "a/b": 3 }] }))["result"], 5);
    assert_eq!(
        answer(&server, &json!({ "items": [{ "a/b": 2 }, { "a/b": "3" }] }))["error"],
        json!({
            "code": -32602,
            "message": "/items/1/a~1b: invalid type: string \"3\"",
            "data": { "path": "/items/1/a~1b" },
        })
    );
    let missing = answer(&server, &json!({ "items": [{}] }));
    assert_eq!(missing["error"]["message"], "/items/0: missing member `a/b`");
    assert_eq!(answer(&server, &json!(null))["error"], json!({ "code": -32602, "message": "invalid type: null" }));
    assert_eq!(
        answer(&server, &json!({ "items": [] }))["error"],
        json!({ "code": -32602, "message": "/items: order something", "data": { "path": "/items" } })
    );
    let refused = answer(&server, &json!({ "items": [{ "a/b": 10 }] }));
    assert_eq!(refused["error"]["data"], json!({ "left": 9 }));
}

#[test]
fn a_long_path_is_cut() {
    let deep = (0..400).fold(json!("no"), |inner, _| json!({ "x": [inner] }));
    #[derive(Serialize, Deserialize)]
    struct Deep {
        x: Vec<Deep>,
    }
    let server = Server::builder().rpc("order", |_: Context, _: Deep| async move { Ok(()) }).build();
    let error = &answer(&server, &json!({ "x": [{ "x": [] }, deep["x"][0]] }))["error"];
    // Nested deeper than JSON is read, or told by a path of bounded length.
    assert!(error["message"].as_str().unwrap().len() < 300, "{error}");
}

#[tokio::test]
async fn states_and_events_by_their_types() {
    let server = server();
    assert!(server.at(Dashboard).get().await.unwrap().is_none());
    assert!(server.at(Dashboard).patch(|board| board.votes += 1).await.is_err(), "there is none");
    server.at(Dashboard).set(&Board { votes: 1, rows: vec!["a".into()] }).await.unwrap();
    let before = server.at(Dashboard).patch(|board| board.votes += 1).await.unwrap();
    let same = server.at(Dashboard).patch(|_| {}).await.unwrap();
    assert_eq!(before, same, "no entry without a change");
    server.at(Dashboard).update(|draft| draft.add("/votes", 1)).await.unwrap();
    assert_eq!(server.state().get("dashboard").await.unwrap(), Some(json!({ "votes": 3, "rows": ["a"] })));
    server.at(BoardOf { id: 7 }).set(&Board { votes: 0, rows: vec![] }).await.unwrap();
    assert_eq!(server.state().keys().await.unwrap(), ["board:7", "dashboard"]);
    server.at(BoardOf { id: 7 }).remove().await.unwrap();
    assert!(server.at(BoardOf { id: 7 }).get().await.unwrap().is_none());

    let mut peer = server.peer(Protocol::V1, Identity::user("ann"));
    received(&mut peer);
    let text = json!({ "event": "shout", "data": { "text": "hi" }, "timestamp": 0 }).to_string();
    peer.receive(&Codec::default().encode(Opcode::ClientEvent, 0, text.as_bytes(), usize::MAX));
    let heard = received(&mut peer).pop().unwrap();
    assert_eq!((heard.0, &heard.1["data"]), (Opcode::ServerEvent, &json!({ "text": "HI" })));
    server.to_user("ann").send(&Shout { text: "you".into() }).await.unwrap();
    assert_eq!(received(&mut peer).pop().unwrap().1["data"], json!({ "text": "you" }));
}

#[test]
fn what_has_no_handler_is_named() {
    let Err(ContractMismatch::Missing { contract, names }) =
        Server::builder().contract::<App>().rpc("other", |_: Context, _: Value| async move { Ok(()) }).try_build()
    else {
        panic!("a contract without handlers")
    };
    assert_eq!((&contract[..], &names[..]), ("App", &["rpc order".to_owned(), "event shout".to_owned()][..]));
    mod twice {
        use super::{Deserialize, Serialize, TS};
        #[derive(Serialize, Deserialize, TS)]
        pub struct A {}
        #[derive(Serialize, Deserialize, TS)]
        pub struct B {}
        datasole_contract::contract! { pub Bad { rpc { A = "a" -> (); B = "a" -> (); } } }
    }
    let error = Server::builder().contract::<twice::Bad>().try_build().unwrap_err();
    assert!(matches!(error, ContractMismatch::Contract(ContractError::Twice { .. })));
}

#[tokio::test]
async fn a_server_under_development_serves_its_contract() {
    use tower::ServiceExt;
    let get = async |server: &Server, path: &str| -> (StatusCode, Vec<u8>) {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = server.router().oneshot(request).await.unwrap();
        let status = response.status();
        (status, axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    };
    let server = server();
    let (status, text) = get(&server, "/__ds/contract.ts").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(text, datasole_contract::typescript::<App>().unwrap().as_bytes());
    let (status, json) = get(&server, "/__ds/contract.json").await;
    assert_eq!(status, StatusCode::OK);
    let description: datasole_contract::Description = serde_json::from_slice(&json).unwrap();
    assert_eq!(description, datasole_contract::describe::<App>().unwrap());
    assert_eq!(get(&Server::builder().build(), "/__ds/contract.ts").await.0, StatusCode::NOT_FOUND);
}
