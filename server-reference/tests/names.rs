//! Names of members that `serde_json` uses for itself: anybody may write them, and they are names like any other, in
//! everything that is stored, sent and read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use datasole_core::frame::{Codec, Opcode};
use datasole_server::{
    Context, CrdtKind, Identity, Limits, Peer, Protocol, Server,
    backend::Memory,
    patch::{Operation, Patch, PatchLimits, Pointer},
};
use serde_json::{Value, json};

const RAW: &str = "$serde_json::private::RawValue";
const NUMBER: &str = "$serde_json::private::Number";

/// An object of these members; `json!` writes into a map and reads nothing.
fn object(members: &[(&str, Value)]) -> Value {
    Value::Object(members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn values() -> Vec<Value> {
    let raw = |value: Value| object(&[(RAW, value)]);
    vec![
        raw(json!("[1,2]")),
        raw(json!("no JSON")),
        raw(json!(3)),
        raw(Value::Null),
        raw(raw(json!("1"))),
        json!([{ "a": raw(json!("{}")) }]),
        object(&[(RAW, json!("1")), ("a", json!(2))]),
        object(&[("!", json!(2)), (RAW, json!("1"))]),
        object(&[(NUMBER, json!("1"))]),
    ]
}

fn start(backend: &Memory) -> Server {
    Server::builder()
        .backend(backend.clone())
        .crdt("register", CrdtKind::LwwRegister)
        .crdt("map", CrdtKind::LwwMap)
        .crdt("set", CrdtKind::OrSet)
        .rpc("echo", |_: Context, value: Value| async move { Ok(value) })
        .build()
}

struct Client {
    peer: Peer,
    codec: Codec,
}

impl Client {
    fn new(server: &Server) -> Self {
        Self { peer: server.peer(Protocol::V2, Identity::user("ann")), codec: Codec::default() }
    }

    /// Sends a frame; the payloads of what came, as text.
    fn send(&mut self, opcode: Opcode, id: u32, payload: &Value) -> String {
        self.peer.receive(&self.codec.encode(opcode, id, payload.to_string().as_bytes(), 1 << 20));
        let mut all = String::new();
        while let Some(message) = self.peer.poll_message() {
            let frame = self.codec.decode(&message, &datasole_core::Limits::default()).unwrap();
            all += &String::from_utf8_lossy(frame.payload);
        }
        all
    }
}

#[tokio::test]
async fn values_come_back_as_they_were_and_after_a_restart() {
    for value in values() {
        let backend = Memory::default();
        let server = start(&backend);
        server.state().set("whole", &value).await.unwrap();
        server.state().set("drafted", &json!({ "users": {} })).await.unwrap();
        server.state().update("drafted", |draft| draft.set("/users/x", &value)).await.unwrap();
        let named = |draft: &mut datasole_server::Draft<'_>| draft.insert(&format!("/users/{RAW}"), "[1,2]");
        server.state().update("drafted", named).await.unwrap();
        let add = json!([{ "op": "add", "path": "/users/y", "value": value }]);
        let patch = Patch::parse(&add.to_string(), &PatchLimits::default()).unwrap();
        let path = Pointer::parse("/users/y").unwrap();
        assert_eq!(*patch.operations(), [Operation::Add { path, value: value.clone().into() }]);
        server.state().patch("drafted", &patch).await.unwrap();
        server.crdt().register("register").set(&value).await.unwrap();
        server.crdt().map("map").set(RAW, &value).await.unwrap();
        server.crdt().set("set").add(&value).await.unwrap();
        drop(server);
        let server = start(&backend);
        let drafted = json!({ "users": object(&[("x", value.clone()), (RAW, json!("[1,2]")), ("y", value.clone())]) });
        assert_eq!(server.state().get("whole").await.unwrap(), Some(value.clone()));
        assert_eq!(server.state().get_as::<Value>("whole").await.unwrap(), Some(value.clone()));
        assert_eq!(server.state().get("drafted").await.unwrap(), Some(drafted));
        server.state().update("drafted", |draft| draft.set("/users/x", 1)).await.unwrap();
        assert_eq!(server.crdt().register("register").get::<Value>().await.unwrap(), Some(value.clone()));
        assert_eq!(server.crdt().map("map").get::<Value>(RAW).await.unwrap(), Some(value.clone()));
        assert_eq!(server.crdt().set("set").values::<Value>().await.unwrap(), std::slice::from_ref(&value));
        assert!(server.crdt().set("set").contains(&value).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn clients_write_them_like_any_other() {
    let server = start(&Memory::default());
    let (mut ann, mut bob) = (Client::new(&server), Client::new(&server));
    ann.send(Opcode::Ping, 0, &Value::Null);
    bob.send(Opcode::Subscribe, 1, &json!({ "kind": "presence", "key": "room" }));
    bob.send(Opcode::Subscribe, 2, &json!({ "kind": "crdt", "key": "register" }));
    for (id, value) in (1u32..).zip(values()) {
        let text = value.to_string();
        let answer = ann.send(
            Opcode::RpcRequest,
            3 * id,
            &json!({ "method": "echo", "params": value, "correlationId": 3 * id }),
        );
        assert!(answer.contains(&text), "{text}: {answer}");
        let answer = ann.send(Opcode::Presence, 3 * id + 1, &json!({ "key": "room", "value": value }));
        assert!(!answer.contains("code"), "{text}: {answer}");
        assert_eq!(server.presence("room").list().await[0].value, value);
        let op = json!({
            "type": "lww-register", "nodeId": "a", "counter": id, "timestamp": 1_000 + id, "op": "set", "value": value
        });
        let answer = ann.send(Opcode::CrdtOp, 3 * id + 2, &json!({ "key": "register", "op": op }));
        assert!(!answer.contains("code"), "{text}: {answer}");
        // Changes of a room are gathered.
        tokio::time::sleep(Limits::default().presence_interval * 2).await;
        let seen = bob.send(Opcode::Ping, 0, &Value::Null);
        assert_eq!(seen.matches(&text).count(), 2, "{text}: {seen}");
    }
}
