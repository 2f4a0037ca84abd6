//! Two servers on one Redis: what one changes, clients of the other see, also across faults of the engine.

use datasole_core::frame::{Codec, Opcode};
use datasole_server::{Identity, Peer, Protocol, Server, backend::Redis};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, PROGRAM, arguments, connect, pause};
use crate::running::Running;

/// A client of one server, and what came from it.
struct Client {
    peer: Peer,
    requests: u32,
    came: Vec<(Opcode, Value)>,
}

impl Client {
    fn new(server: &Server, user: &str) -> Self {
        Self { peer: server.peer(Protocol::V2, Identity::user(user)), requests: 0, came: Vec::new() }
    }

    fn send(&mut self, opcode: Opcode, payload: &Value) {
        self.requests += 1;
        self.peer.receive(&Codec::default().encode(opcode, self.requests, payload.to_string().as_bytes(), usize::MAX));
    }

    /// Reads on until a message is found.
    async fn until(&mut self, what: &str, is: impl Fn(Opcode, &Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(message) = self.peer.poll_message() {
                let mut codec = Codec::default();
                let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
                let text = || Value::String(String::from_utf8_lossy(frame.payload).into());
                let payload = serde_json::from_slice(frame.payload).unwrap_or_else(|_| text());
                self.came.push((frame.opcode, payload));
            }
            if let Some(at) = self.came.iter().position(|(opcode, payload)| is(*opcode, payload)) {
                return self.came.remove(at).1;
            }
            assert!(Instant::now() < deadline, "{what} did not come, but {:?}", self.came);
            sleep(PAUSE).await;
        }
    }

    async fn follow(&mut self, kind: &str, key: &str, since: Option<&Value>) -> Value {
        let mut request = json!({ "kind": kind, "key": key });
        if let Some(since) = since {
            request["since"] = since.clone();
        }
        self.send(Opcode::Subscribe, &request);
        self.until("the answer to a subscription", |opcode, _| opcode == Opcode::Subscribed).await
    }

    /// The text of whatever came, until it holds `part`.
    async fn holds(&mut self, part: &str) -> Value {
        self.until(part, |opcode, payload| opcode != Opcode::Subscribed && payload.to_string().contains(part)).await
    }
}

const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

async fn server(redis: &Redis) -> Server {
    Server::builder().backend(redis.node().await.unwrap()).build()
}

/// Until a change is stored: the engine may be away.
async fn set(server: &Server, value: &Value) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = server.state().set("k", value).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_one() {
    let engine = Running::start(PROGRAM, arguments);
    let redis = connect(&format!("redis://127.0.0.1:{}/?prefix=app", engine.port)).await;
    let (a, b) = (server(&redis).await, server(&redis).await);
    set(&a, &json!({ "n": "first" })).await;
    assert_eq!(b.state().get("k").await.unwrap(), Some(json!({ "n": "first" })));

    let mut ann = Client::new(&b, "ann");
    ann.follow("state", "k", None).await;
    set(&a, &json!({ "n": "second" })).await;
    ann.holds("second").await;
    b.state().set("k", &json!({ "n": "third" })).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while a.state().get("k").await.unwrap() != Some(json!({ "n": "third" })) {
        assert!(Instant::now() < deadline, "the other way");
        sleep(PAUSE).await;
    }

    // Events of no stored topic cross by the bus; a server's first subscription of a user is on its way at first.
    let deadline = Instant::now() + PATIENCE;
    while !ann.came.iter().any(|(opcode, event)| *opcode == Opcode::ServerEvent && event["data"] == "hello") {
        assert!(Instant::now() < deadline, "an event crosses");
        a.to_user("ann").emit("greet", &"hello").await.unwrap();
        sleep(PAUSE).await;
        while let Some(message) = ann.peer.poll_message() {
            let mut codec = Codec::default();
            let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
            ann.came.push((frame.opcode, serde_json::from_slice(frame.payload).unwrap_or(Value::Null)));
        }
    }

    // A client that comes back to the other server gets what it missed.
    let mut bob = Client::new(&a, "bob");
    let at = bob.follow("state", "k", None).await;
    let position = json!({ "epoch": at["epoch"], "seq": at["seq"] });
    drop(bob);
    set(&b, &json!({ "n": "fourth" })).await;
    let mut bob = Client::new(&b, "bob");
    let again = bob.follow("state", "k", Some(&position)).await;
    assert_eq!(again["recovered"], true, "{again}");
    bob.holds("fourth").await;
}

/// Members of a room and cursors of a document are shown on the other server, and go with their server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_and_cursors_are_shown_on_the_other_server() {
    let engine = Running::start(PROGRAM, arguments);
    let redis = connect(&format!("redis://127.0.0.1:{}", engine.port)).await;
    let (a, b) = (server(&redis).await, server(&redis).await);
    let (mut ann, mut bob) = (Client::new(&a, "ann"), Client::new(&b, "bob"));
    ann.send(Opcode::Presence, &json!({ "key": "lobby", "value": "ann in the lobby" }));
    bob.follow("presence", "lobby", None).await;
    bob.holds("ann in the lobby").await;
    let channel = ann.follow("doc", "d", None).await["channel"].as_u64().unwrap();
    bob.follow("doc", "d", None).await;
    let state = |clock: u8, text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        // The channel, the message and its length, one client, its id and clock, its state.
        let mut payload = vec![u8::try_from(channel).unwrap(), 1, length + 4, 1, 7, clock, length];
        payload.extend_from_slice(text.as_bytes());
        Codec::default().encode(Opcode::Doc, 100, &payload, usize::MAX)
    };
    ann.peer.receive(&state(1, "\"first\""));
    bob.holds("first").await;
    ann.peer.receive(&state(2, "\"second\""));
    bob.holds("second").await;
    let mut eve = Client::new(&b, "eve");
    eve.follow("doc", "d", None).await;
    eve.holds("second").await;
    drop(ann);
    bob.until("the end of the cursor", |opcode, body| {
        opcode == Opcode::Doc && body.as_str().is_some_and(|text| text.ends_with("null"))
    })
    .await;
    bob.until("the end of the member", |opcode, body| {
        opcode == Opcode::Presence && body["members"][0]["id"].is_string() && body["members"][0]["value"].is_null()
    })
    .await;
    // What a user creates is counted by the engine.
    let limits = || datasole_server::Limits::default().with(|limits| limits.max_docs_per_user = 1);
    let create = |server: Server, key: &'static str| async move {
        let mut ann = Client::new(&server, "ann");
        let channel = ann.follow("doc", key, None).await["channel"].as_u64().unwrap();
        let doc = datasole_server::yrs::Doc::new();
        let update = {
            use datasole_server::yrs::{Text, Transact, WriteTxn};
            let mut edit = doc.transact_mut();
            edit.get_or_insert_text("t").insert(&mut edit, 0, "text");
            edit.encode_update_v1()
        };
        let mut payload = vec![u8::try_from(channel).unwrap(), 0, 2, u8::try_from(update.len()).unwrap()];
        payload.extend_from_slice(&update);
        ann.peer.receive(&Codec::default().encode(Opcode::Doc, 100, &payload, usize::MAX));
        let is_answer = |opcode, _: &Value| matches!(opcode, Opcode::Ack | Opcode::Error);
        ann.until("an answer", is_answer).await["code"].as_i64()
    };
    let with = async || Server::builder().limits(limits()).backend(redis.node().await.unwrap()).build();
    assert_eq!(create(with().await, "one").await, None);
    assert_eq!(create(with().await, "two").await, Some(-32_004));
}

/// Killed and started again, with its file and without one; stopped for longer than anybody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_survive_their_engine() {
    for keeps in [true, false] {
        let with = |port, dir: &std::path::Path| {
            let mut arguments = arguments(port, dir);
            if !keeps {
                arguments[5] = "no".to_owned();
            }
            arguments
        };
        let mut engine = Running::start(PROGRAM, with);
        let redis = connect(&format!("redis://127.0.0.1:{}", engine.port)).await;
        let (a, b) = (server(&redis).await, server(&redis).await);
        let mut ann = Client::new(&b, "ann");
        set(&a, &json!("before")).await;
        ann.follow("state", "k", None).await;
        engine.kill_and_start(PROGRAM, with);
        if keeps {
            connect(&format!("redis://127.0.0.1:{}", engine.port)).await;
            let deadline = Instant::now() + PATIENCE;
            while b.state().get("k").await.ok().flatten() != Some(json!("before")) {
                assert!(Instant::now() < deadline, "what was acknowledged is there");
                sleep(PAUSE).await;
            }
        }
        set(&a, &json!("after")).await;
        ann.holds("after").await;
        assert_eq!(ann.peer.closing(), None, "clients are not disconnected");

        let began = Instant::now();
        let stopped = pause(&engine);
        let refused = a.state().set("k", &json!("stopped")).await;
        let waited = began.elapsed();
        assert!(refused.is_err() && waited < PATIENCE / 3, "a change fails in time: {refused:?} after {waited:?}");
        assert_eq!(b.state().get("k").await.unwrap(), Some(json!("after")), "what is in memory is read on");
        drop(stopped);
        set(&b, &json!("resumed")).await;
        ann.holds("resumed").await;
        let deadline = Instant::now() + PATIENCE;
        while a.state().get("k").await.unwrap() != Some(json!("resumed")) {
            assert!(Instant::now() < deadline, "both servers agree");
            sleep(PAUSE).await;
        }
    }
}
