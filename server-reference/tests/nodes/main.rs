//! Events and presence rooms between servers on one memory: who receives what, how often, and in which order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod births;
mod rooms;
mod version1;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bytes::Bytes;
use datasole_core::frame::{Codec, Opcode};
use datasole_server::{
    Context, Identity, Payload, Peer, Protocol, Server,
    backend::{
        Backend, BackendError, Bus, Memory, async_trait,
        bus::{Address, Delivery, NodeId},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    task::yield_now,
};

fn server(backend: impl Into<Backend>) -> Server {
    Server::builder()
        .backend(backend)
        .rpc("join", |context: Context, group: String| async move { context.join_group(&group).await })
        .rpc("leave", |context: Context, group: String| async move {
            context.leave_group(&group).await;
            Ok(())
        })
        .build()
}

/// A client of a server; the greeting has been read.
fn client(server: &Server, protocol: Protocol, user: &str) -> Peer {
    let mut peer = server.peer(protocol, Identity::user(user));
    received(&mut peer);
    peer
}

/// What came since it was last asked: opcodes and payloads, bytes as text.
fn received(peer: &mut Peer) -> Vec<(Opcode, Value)> {
    let read = |message: Vec<u8>| {
        let mut codec = Codec::default();
        let frame = codec.decode(&message, &datasole_core::Limits::default()).unwrap();
        (frame.opcode, serde_json::from_slice(frame.payload).unwrap_or(Value::Null))
    };
    std::iter::from_fn(|| peer.poll_message()).map(read).collect()
}

/// The names and data of the events that came since it was last asked.
fn events(peer: &mut Peer) -> Vec<(String, Value)> {
    let mut events = received(peer);
    events.retain(|(opcode, _)| *opcode == Opcode::ServerEvent);
    events.into_iter().map(|(_, event)| (event["event"].as_str().unwrap().to_owned(), event["data"].clone())).collect()
}

fn send(peer: &mut Peer, opcode: Opcode, payload: &Value) -> (Opcode, Value) {
    peer.receive(&Codec::default().encode(opcode, 1, payload.to_string().as_bytes(), usize::MAX));
    received(peer).pop().unwrap()
}

fn call(peer: &mut Peer, method: &str, group: &str) {
    let answer = send(peer, Opcode::RpcRequest, &json!({ "method": method, "params": group })).1;
    assert_eq!(answer["error"], Value::Null, "{answer}");
}

fn follow(peer: &mut Peer, topic: &str, since: Option<&Value>) -> Value {
    let mut request = json!({ "kind": "event", "key": topic });
    if let Some(since) = since {
        request["since"] = since.clone();
    }
    let (opcode, answer) = send(peer, Opcode::Subscribe, &request);
    assert_eq!(opcode, Opcode::Subscribed, "{answer}");
    answer
}

/// Lets all tasks go as far as they can.
async fn settle() {
    for _ in 0..64 {
        yield_now().await;
    }
}

/// Two servers on one memory, and a third node that looks on.
struct Site {
    spy: Backend,
    a: Server,
    b: Server,
}

impl Site {
    fn new() -> Self {
        let memory = Memory::default();
        Self { spy: memory.node(), a: server(memory.clone()), b: server(memory) }
    }

    fn is_heard(&self, topic: &str) -> bool {
        self.spy.bus.is_heard(Address::Topic(topic))
    }
}

fn one(event: &str, data: Value) -> Vec<(String, Value)> {
    vec![(event.to_owned(), data)]
}

#[tokio::test]
async fn a_connection_of_another_node_is_reached_and_ended() {
    let site = Site::new();
    let (mut ann, mut bob) = (client(&site.a, Protocol::V2, "ann"), client(&site.b, Protocol::V2, "bob"));
    let mut eve = client(&site.b, Protocol::V2, "bob");
    settle().await;
    site.a.to_connection(&bob.connection_id()).emit("hi", &1).await.unwrap();
    site.b.to_connection(&ann.connection_id()).emit("hi", &2).await.unwrap();
    site.a.to_connection(&ann.connection_id()).emit("hi", &3).await.unwrap();
    assert_eq!(events(&mut ann), one("hi", json!(3)), "one of this node is reached at once");
    settle().await;
    assert_eq!(events(&mut bob), one("hi", json!(1)));
    assert_eq!(events(&mut ann), one("hi", json!(2)));
    // No such connection, node, or id.
    let (node, _) = bob.connection_id().split_once('-').map(|(node, serial)| (node.to_owned(), serial.len())).unwrap();
    for id in [format!("{node}-ff"), "1-1".into(), "nobody".into(), String::new(), format!("{node}-")] {
        site.a.to_connection(&id).emit("hi", &4).await.unwrap();
        site.a.disconnect(&id, 4_001, "bye").await;
    }
    settle().await;
    site.a.disconnect(&bob.connection_id(), 4_002, "moved").await;
    assert_eq!(bob.closing(), None);
    settle().await;
    assert_eq!(bob.closing(), Some((4_002, "moved".into())));
    assert_eq!((ann.closing(), eve.closing()), (None, None));
    assert!(events(&mut ann).is_empty() && events(&mut eve).is_empty());
    assert_eq!((site.a.metrics_snapshot().bus_malformed, site.b.metrics_snapshot().bus_malformed), (0, 0));
}

#[tokio::test]
async fn a_user_is_reached_on_every_node_once_and_in_order() {
    let site = Site::new();
    let mut here = client(&site.a, Protocol::V2, "ann");
    let mut there = [client(&site.b, Protocol::V2, "ann"), client(&site.b, Protocol::V1, "ann")];
    let mut other = client(&site.b, Protocol::V2, "bob");
    settle().await;
    let expected: Vec<_> = (0..500).map(|n| ("n".to_owned(), json!(n))).collect();
    for n in 0..500 {
        site.a.to_user("ann").emit("n", &n).await.unwrap();
    }
    assert_eq!(events(&mut here), expected, "at once on this node");
    settle().await;
    for peer in &mut there {
        assert_eq!(events(peer), expected);
    }
    site.a.to_user("ann").emit_payload("raw", &Payload::Binary(vec![1, 2])).await.unwrap();
    settle().await;
    let opcodes = |peer: &mut Peer| received(peer).into_iter().map(|(opcode, _)| opcode).collect::<Vec<_>>();
    assert_eq!(opcodes(&mut there[0]), [Opcode::ServerEventBinary]);
    assert_eq!(opcodes(&mut there[1]), [], "version 1 has no bytes");
    assert!(received(&mut other).is_empty());
    assert_eq!(opcodes(&mut here), [Opcode::ServerEventBinary], "no echo");
}

#[tokio::test]
async fn the_topic_of_a_user_is_held_while_the_user_is_here() {
    let site = Site::new();
    let (first, second) = (client(&site.b, Protocol::V2, "ann"), client(&site.b, Protocol::V2, "ann"));
    settle().await;
    assert!(site.is_heard("u:ann") && !site.is_heard("u:bob"));
    drop(first);
    settle().await;
    assert!(site.is_heard("u:ann"), "another connection is there");
    drop(second);
    settle().await;
    assert!(!site.is_heard("u:ann"));
    // The last goes and the next comes before anything was done about either.
    let mut again = client(&site.b, Protocol::V2, "ann");
    for _ in 0..3 {
        drop(again);
        again = client(&site.b, Protocol::V2, "ann");
    }
    settle().await;
    site.a.to_user("ann").emit("back", &1).await.unwrap();
    settle().await;
    assert_eq!(events(&mut again), one("back", json!(1)));
}

#[tokio::test]
async fn a_group_spans_nodes_until_it_is_empty() {
    let site = Site::new();
    let (mut ann, mut bob) = (client(&site.a, Protocol::V2, "ann"), client(&site.b, Protocol::V2, "bob"));
    call(&mut ann, "join", "red: 1");
    call(&mut bob, "join", "red: 1");
    // In force with the answer.
    site.a.to_group("red: 1").emit("go", &1).await.unwrap();
    assert_eq!(events(&mut ann), one("go", json!(1)));
    settle().await;
    assert_eq!(events(&mut bob), one("go", json!(1)));
    site.b.to_group("red: 1").emit("go", &2).await.unwrap();
    settle().await;
    assert_eq!((events(&mut ann), events(&mut bob)), (one("go", json!(2)), one("go", json!(2))));
    call(&mut bob, "leave", "red: 1");
    drop(ann);
    settle().await;
    assert!(!site.is_heard("g:red: 1"), "one has left, the other's connection has ended");
    site.a.to_group("red: 1").emit("go", &3).await.unwrap();
    settle().await;
    assert!(events(&mut bob).is_empty());
}

#[tokio::test]
async fn a_topic_without_history_has_a_stream_on_each_node() {
    let site = Site::new();
    let (mut ann, mut bob) = (client(&site.a, Protocol::V2, "ann"), client(&site.b, Protocol::V2, "bob"));
    let (mut old, mut other) = (client(&site.b, Protocol::V1, "old"), client(&site.b, Protocol::V2, "other"));
    settle().await;
    let elsewhere = follow(&mut ann, "news", None);
    let at = follow(&mut bob, "news", None);
    for n in 0..200 {
        site.a.broadcast("news", &n).await.unwrap();
    }
    let expected: Vec<_> = (0..200).map(|n| ("news".to_owned(), json!(n))).collect();
    assert_eq!(events(&mut ann), expected, "at once on this node");
    settle().await;
    let came = received(&mut bob);
    let sequence: Vec<_> = came.iter().map(|(_, event)| (event["epoch"].clone(), event["seq"].clone())).collect();
    let own: Vec<_> = (1..=200).map(|n| (at["epoch"].clone(), json!(at["seq"].as_u64().unwrap() + n))).collect();
    assert_eq!(sequence, own, "each once, at a position of this node's");
    assert!(came.iter().map(|(_, event)| &event["data"]).eq(expected.iter().map(|(_, data)| data)));
    assert_eq!(events(&mut old), expected, "version 1 gets the events of every topic");
    assert!(events(&mut ann).is_empty() && events(&mut other).is_empty(), "no echo, and none unasked");
    site.a.broadcast_payload("news", Payload::Binary(vec![1])).await.unwrap();
    site.a.broadcast("unheard", &1).await.unwrap();
    settle().await;
    assert_eq!(received(&mut bob).pop().unwrap().0, Opcode::ServerEventBinary);
    assert_eq!(events(&mut old), one("unheard", json!(1)));
    // Who comes from another node may have missed something.
    assert_ne!(elsewhere["epoch"], at["epoch"]);
    let since = json!({ "epoch": elsewhere["epoch"], "seq": elsewhere["seq"] });
    assert_eq!(follow(&mut other, "news", Some(&since))["recovered"], false);
}

#[tokio::test]
async fn a_slow_node_loses_events_and_harms_nobody() {
    const EVENTS: usize = 3_000;
    let site = Site::new();
    let (mut ann, mut bob) = (client(&site.a, Protocol::V2, "ann"), client(&site.b, Protocol::V2, "ann"));
    settle().await;
    let mut here = Vec::new();
    // No other task runs meanwhile.
    for n in 0..EVENTS {
        site.a.to_user("ann").emit("n", &n).await.unwrap();
        here.extend(events(&mut ann));
    }
    assert_eq!(here.len(), EVENTS);
    let mut there = Vec::new();
    for _ in 0..EVENTS {
        yield_now().await;
        there.extend(events(&mut bob));
    }
    assert!(!there.is_empty() && there.len() < EVENTS, "{} came", there.len());
    assert_eq!(there, here[..there.len()], "the rest is in order");
    assert_eq!(site.b.metrics_snapshot().bus_lost, 1);
    assert_eq!(site.a.metrics_snapshot().bus_lost, 0);
    site.a.to_user("ann").emit("n", &"after").await.unwrap();
    settle().await;
    assert_eq!(events(&mut bob), one("n", json!("after")));
}

#[tokio::test]
async fn messages_that_make_no_sense_are_counted() {
    let site = Site::new();
    let mut bob = client(&site.b, Protocol::V2, "bob");
    follow(&mut bob, "news", None);
    settle().await;
    let id = bob.connection_id();
    let node = NodeId(u64::from_str_radix(id.split_once('-').unwrap().0, 16).unwrap());
    let too_long = [&b"\x01m\0\x78"[..], &vec![b'x'; 20 << 20]].concat();
    let frame = |opcode| [&b"\x01m\0"[..], &Codec::default().encode(opcode, 0, b"{}", usize::MAX)].concat();
    let (event, other) = (frame(Opcode::ServerEvent), frame(Opcode::Error));
    let malformed: [(Address<'_>, &[u8]); 12] = [
        (Address::Node(node), b""),
        (Address::Everybody, b"hello"),
        (Address::Node(node), b"\x01m\0no topic"),
        (Address::Topic("u:bob"), b"\x01e\0an entry of a user"),
        (Address::Topic("u:bob"), b"\x01x\0\0\0\0\0\0\0\0\x01\x0f\xa0not by topic"),
        (Address::Topic("u:bob"), &too_long),
        (Address::Topic("u:bob"), b"\x01m\0"),
        (Address::Topic("u:bob"), &event[..event.len() - 1]),
        (Address::Topic("u:bob"), &[&event[..], b"x"].concat()),
        (Address::Topic("u:bob"), &other),
        (Address::Topic("e:news"), b"\x01e\0no entry"),
        (Address::Topic("e:news"), b"\x01e\0"),
    ];
    for (to, bytes) in malformed {
        site.spy.bus.publish(to, Bytes::copy_from_slice(bytes)).await.unwrap();
    }
    settle().await;
    assert_eq!(site.b.metrics_snapshot().bus_malformed, 12);
    assert!(received(&mut bob).is_empty() && bob.closing().is_none());
    site.spy.bus.publish(Address::Topic("u:bob"), event.into()).await.unwrap();
    site.a.broadcast("news", &1).await.unwrap();
    settle().await;
    let opcodes: Vec<_> = received(&mut bob).into_iter().map(|(opcode, _)| opcode).collect();
    assert_eq!(opcodes, [Opcode::ServerEvent; 2], "one that makes sense, and one of a server");
}

/// A bus that can be out of order, and counts what is published.
struct Counted {
    bus: Arc<dyn Bus>,
    fails: AtomicBool,
    /// Whether subscribing waits.
    held: AtomicBool,
    released: Notify,
    published: AtomicUsize,
    /// Notified when topics have been subscribed to.
    subscribed: Notify,
}

impl Counted {
    fn on(memory: &Memory) -> (Arc<Self>, Backend) {
        let backend = memory.node();
        let bus = Arc::new(Self {
            bus: backend.bus.clone(),
            fails: AtomicBool::new(false),
            held: AtomicBool::new(false),
            released: Notify::new(),
            published: AtomicUsize::new(0),
            subscribed: Notify::new(),
        });
        (bus.clone(), Backend { bus, ..backend })
    }

    fn check(&self) -> Result<(), BackendError> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable("for a test".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for Counted {
    fn node(&self) -> NodeId {
        self.bus.node()
    }

    fn is_heard(&self, by: Address<'_>) -> bool {
        self.bus.is_heard(by)
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        self.published.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        self.bus.publish(to, bytes).await
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        if self.held.load(Ordering::SeqCst) {
            self.released.notified().await;
        }
        self.check()?;
        self.bus.subscribe(topics).await?;
        self.subscribed.notify_one();
        Ok(())
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        self.bus.unsubscribe(topics);
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        self.bus.inbox()
    }
}

async fn send_everything(server: &Server, other: &str) {
    server.to_user("ann").emit("n", &1).await.unwrap();
    server.to_group("red").emit("n", &1).await.unwrap();
    server.to_connection(other).emit("n", &1).await.unwrap();
    server.broadcast("news", &1).await.unwrap();
    server.disconnect(other, 4_000, "").await;
}

#[tokio::test]
async fn nothing_is_published_that_nobody_hears() {
    let memory = Memory::default();
    let (bus, backend) = Counted::on(&memory);
    let a = server(backend);
    let mut ann = client(&a, Protocol::V2, "ann");
    call(&mut ann, "join", "red");
    follow(&mut ann, "news", None);
    send_everything(&a, "1-1").await;
    assert_eq!(events(&mut ann).len(), 3);
    let b = server(memory.clone());
    let bob = client(&b, Protocol::V2, "bob");
    settle().await;
    send_everything(&a, "1-1").await;
    assert_eq!(bus.published.load(Ordering::SeqCst), 0, "one node, then another with nobody concerned");
    send_everything(&a, &bob.connection_id()).await;
    assert_eq!(bus.published.load(Ordering::SeqCst), 2, "the event for the connection, and its end");
}

#[tokio::test]
async fn a_bus_that_is_down_leaves_the_clients_of_the_node() {
    let memory = Memory::default();
    let (bus, backend) = Counted::on(&memory);
    let (a, b) = (server(backend), server(memory.clone()));
    let mut there = client(&b, Protocol::V2, "ann");
    settle().await;
    bus.fails.store(true, Ordering::SeqCst);
    let mut here = client(&a, Protocol::V2, "ann");
    settle().await;
    a.to_user("ann").emit("n", &1).await.unwrap();
    b.to_user("ann").emit("n", &2).await.unwrap();
    settle().await;
    assert_eq!((events(&mut here), events(&mut there)), (one("n", json!(1)), one("n", json!(2))));
    assert_eq!(a.metrics_snapshot().bus_unsent, 1);
    bus.fails.store(false, Ordering::SeqCst);
    // The subscription is tried again.
    bus.subscribed.notified().await;
    b.to_user("ann").emit("n", &3).await.unwrap();
    settle().await;
    assert_eq!(events(&mut here), one("n", json!(3)));
}

/// Whoever subscribes to a topic first may leave before that is done: the others hear it all the same.
#[tokio::test]
async fn a_follower_that_leaves_early_does_not_take_the_topic_along() {
    let memory = Memory::default();
    let (bus, backend) = Counted::on(&memory);
    let (a, b) = (server(backend), server(memory.clone()));
    let (mut bob, mut carl) = (client(&a, Protocol::V2, "bob"), client(&a, Protocol::V2, "carl"));
    let mut ann = client(&b, Protocol::V2, "ann");
    settle().await;
    bus.held.store(true, Ordering::SeqCst);
    let lobby = json!({ "kind": "presence", "key": "lobby" }).to_string();
    for peer in [&mut bob, &mut carl] {
        peer.receive(&Codec::default().encode(Opcode::Subscribe, 1, lobby.as_bytes(), usize::MAX));
        assert!(received(peer).is_empty(), "the bus has not answered");
    }
    drop(bob);
    bus.held.store(false, Ordering::SeqCst);
    bus.released.notify_waiters();
    settle().await;
    assert!(received(&mut carl).iter().any(|(opcode, _)| *opcode == Opcode::Subscribed));
    assert_eq!(send(&mut ann, Opcode::Presence, &json!({ "key": "lobby", "value": 1 })).0, Opcode::Ack);
    settle().await;
    let shown = received(&mut carl);
    assert!(
        shown.iter().any(|(opcode, body)| *opcode == Opcode::Presence && body["members"][0]["value"] == 1),
        "{shown:?}"
    );
}
