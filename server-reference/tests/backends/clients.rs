//! Two servers on one engine: what one changes, clients of the other see.

use datasole_core::frame::{Codec, Opcode};
use datasole_server::{Identity, Peer, Protocol, Server, backend::Backend};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::writers::PATIENCE;

/// A client of one server, and what came from it.
pub(crate) struct Client {
    pub(crate) peer: Peer,
    requests: u32,
    came: Vec<(Opcode, Value)>,
}

impl Client {
    pub(crate) fn new(server: &Server, user: &str) -> Self {
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

    pub(crate) async fn follow(&mut self, kind: &str, key: &str, since: Option<&Value>) -> Value {
        let mut request = json!({ "kind": kind, "key": key });
        if let Some(since) = since {
            request["since"] = since.clone();
        }
        self.send(Opcode::Subscribe, &request);
        self.until("the answer to a subscription", |opcode, _| opcode == Opcode::Subscribed).await
    }

    /// The text of whatever came, until it holds `part`.
    pub(crate) async fn holds(&mut self, part: &str) -> Value {
        self.until(part, |opcode, payload| opcode != Opcode::Subscribed && payload.to_string().contains(part)).await
    }
}

const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

pub(crate) fn server(node: Backend) -> Server {
    Server::builder().backend(node).build()
}

/// Until a change is stored: the engine may be away.
pub(crate) async fn set(server: &Server, value: &Value) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = server.state().set("k", value).await {
        assert!(Instant::now() < deadline, "{error}");
        sleep(PAUSE).await;
    }
}

/// A state, an event and a client that comes back, over nodes of one engine.
pub(crate) async fn two_servers_are_one(node: impl AsyncFn() -> Backend) {
    let (a, b) = (server(node().await), server(node().await));
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
pub(crate) async fn members_and_cursors_are_shown_on_the_other_server(node: impl AsyncFn() -> Backend) {
    let (a, b) = (server(node().await), server(node().await));
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
    let with = async || Server::builder().limits(limits()).backend(node().await).build();
    assert_eq!(create(with().await, "one").await, None);
    assert_eq!(create(with().await, "two").await, Some(-32_004));
}
