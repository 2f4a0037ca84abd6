//! Presence rooms over the wire: who is seen by whom, with what, and for how long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use datasole_core::frame::{Codec, HEADER_LEN, Opcode};
use datasole_server::{Identity, Limits, Member, Peer, Protocol, Server, StreamKind, codes};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::time::{advance, sleep};

/// A client that reads everything at once.
struct Client {
    peer: Peer,
    codec: Codec,
    id: String,
    next: u32,
}

/// What came.
#[derive(Debug, PartialEq)]
enum Received {
    Frame(Opcode, Value),
    /// With its `seq`.
    Ack(u8),
    Error(i64),
}

use Received::{Ack, Error, Frame};

impl Client {
    fn new(server: &Server, user: &str) -> Self {
        let peer = server.peer(Protocol::V2, Identity::user(user));
        let id = peer.connection_id();
        let mut client = Self { peer, codec: Codec::default(), id, next: 0 };
        assert!(matches!(client.received()[..], [Frame(Opcode::Hello, _)]));
        client
    }

    /// Sends a frame with a fresh correlation id.
    fn send(&mut self, opcode: Opcode, payload: &str) {
        self.next += 1;
        self.peer.receive(&self.codec.encode(opcode, self.next, payload.as_bytes(), 256));
    }

    /// What has come meanwhile.
    fn received(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        while let Some(message) = self.peer.poll_message() {
            let frame = self.codec.decode(&message, &datasole_core::Limits::default()).unwrap();
            if frame.opcode == Opcode::Ack {
                let &[seq] = frame.payload else { panic!("a small number") };
                assert_eq!(frame.correlation, self.next);
                all.push(Ack(seq));
                continue;
            }
            let mut json: Value = serde_json::from_slice(frame.payload).unwrap();
            all.push(match frame.opcode {
                Opcode::Error => Error(json["code"].as_i64().unwrap()),
                opcode => {
                    // A life is as good as another.
                    if opcode != Opcode::Hello {
                        assert!(json.as_object_mut().unwrap().remove("epoch").is_some());
                    }
                    Frame(opcode, json)
                }
            });
        }
        all
    }

    fn join(&mut self, room: &str, value: &Value) -> Vec<Received> {
        self.send(Opcode::Presence, &json!({"key": room, "value": value}).to_string());
        self.received()
    }

    fn leave(&mut self, room: &str) -> Vec<Received> {
        self.send(Opcode::Presence, &json!({"key": room}).to_string());
        self.received()
    }

    fn follow(&mut self, room: &str) -> Vec<Received> {
        self.send(Opcode::Subscribe, &json!({"kind": "presence", "key": room}).to_string());
        self.received()
    }

    /// As others see it.
    fn shown(&self, user: &str, value: &Value) -> Value {
        json!({"id": self.id, "userId": user, "value": value})
    }

    fn gone(&self, user: &str) -> Value {
        json!({"id": self.id, "userId": user})
    }
}

fn subscribed(seq: u64) -> Received {
    Frame(Opcode::Subscribed, json!({"seq": seq, "recovered": false}))
}

fn whole(seq: u64, members: Value) -> Received {
    Frame(Opcode::Presence, json!({"key": "r", "members": members, "whole": true, "seq": seq}))
}

fn change(seq: u64, member: Value) -> Received {
    changes(seq, &[member])
}

fn changes(seq: u64, members: &[Value]) -> Received {
    Frame(Opcode::Presence, json!({"key": "r", "members": members, "seq": seq}))
}

/// How many are in a room, as the server tells.
fn count(server: &Server, room: &str) -> usize {
    server.presence(room).count().now_or_never().unwrap()
}

fn list(server: &Server, room: &str) -> Vec<Member> {
    server.presence(room).list().now_or_never().unwrap()
}

fn server(limits: Limits) -> Server {
    Server::builder().limits(limits).build()
}

#[test]
fn followers_see_who_joins_changes_and_leaves() {
    let server = server(Limits::default());
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    assert_eq!(bob.follow("r"), [subscribed(0), whole(0, json!([]))]);
    assert_eq!(ann.join("r", &json!({"x": 1})), [Ack(1)]);
    assert_eq!(bob.received(), [change(1, ann.shown("ann", &json!({"x": 1})))]);
    assert_eq!(ann.join("r", &json!({"x": 1})), [Ack(0)], "nothing changed");
    assert_eq!(bob.received(), []);
    assert_eq!(ann.join("r", &Value::Null), [Ack(2)], "any JSON is a value");
    assert_eq!(bob.received(), [change(2, ann.shown("ann", &Value::Null))]);
    assert_eq!(bob.join("r", &json!(2)), [change(3, bob.shown("bob", &json!(2))), Ack(3)], "one's own, too");
    assert_eq!(ann.received(), [], "those who do not follow see nothing");

    let listed = list(&server, "r");
    let seen: Vec<_> = listed.iter().map(|m| (m.connection_id.as_str(), m.user_id.as_str(), &m.value)).collect();
    assert_eq!(seen, [(ann.id.as_str(), "ann", &Value::Null), (bob.id.as_str(), "bob", &json!(2))]);
    assert_eq!((count(&server, "r"), count(&server, "other")), (2, 0));

    let mut late = Client::new(&server, "late");
    let members = json!([ann.shown("ann", &Value::Null), bob.shown("bob", &json!(2))]);
    assert_eq!(late.follow("r"), [subscribed(3), whole(3, members)]);

    assert_eq!(ann.leave("r"), [Ack(4)]);
    assert_eq!(ann.leave("r"), [Ack(0)]);
    assert_eq!(late.received(), [change(4, ann.gone("ann"))]);
    assert_eq!(count(&server, "r"), 1);
}

#[test]
fn the_end_of_the_connection_leaves_every_room() {
    let server = server(Limits::default());
    let mut follower = Client::new(&server, "bob");
    follower.follow("r");
    let (mut one, mut other) = (Client::new(&server, "ann"), Client::new(&server, "ann"));
    for (client, n) in [(&mut one, 1), (&mut other, 2)] {
        client.join("r", &json!(n));
        client.join("unseen", &json!(n));
    }
    assert_eq!(follower.received().len(), 2, "one value for each connection");
    let gone = one.gone("ann");
    drop(one);
    assert_eq!(follower.received(), [change(3, gone)]);
    assert_eq!((count(&server, "r"), count(&server, "unseen")), (1, 1));
    drop(other);
    assert_eq!(follower.received().len(), 1);
    assert_eq!((count(&server, "r"), count(&server, "unseen")), (0, 0));
}

#[test]
fn policies_decide_who_sees_and_who_enters() {
    let server = Server::builder()
        .authorize_read(|identity, id| id.kind != StreamKind::Presence || identity.user_id == "reader")
        .authorize_write(|identity, id| id.kind != StreamKind::Presence || identity.user_id == "writer")
        .build();
    let (mut reader, mut writer) = (Client::new(&server, "reader"), Client::new(&server, "writer"));
    let forbidden = || Error(codes::FORBIDDEN.into());
    assert_eq!(writer.follow("r"), [forbidden()]);
    assert_eq!(reader.follow("r").len(), 2);
    assert_eq!(reader.join("r", &json!(1)), [forbidden()]);
    assert_eq!(count(&server, "r"), 0);
    assert_eq!(reader.received(), []);
    assert_eq!(writer.join("r", &json!(1)), [Ack(1)]);
    assert_eq!(reader.received(), [change(1, writer.shown("writer", &json!(1)))]);
    assert_eq!(reader.leave("r"), [Ack(0)], "nobody is locked in");
}

#[test]
fn values_below_at_and_above_the_limit() {
    let server = server(Limits::default().with(|limits| limits.max_presence = 100));
    let mut ann = Client::new(&server, "ann");
    for (bytes, answer) in [(99, Ack(1)), (100, Ack(2)), (101, Error(codes::LIMIT.into()))] {
        // As JSON text the string has two quotes.
        let value = json!("x".repeat(bytes - 2));
        let fits = matches!(answer, Ack(_));
        assert_eq!(ann.join("r", &value), [answer], "{bytes} bytes");
        assert_eq!(list(&server, "r")[0].value == value, fits);
    }
}

#[test]
fn rooms_below_at_and_above_the_limit() {
    let server = server(Limits::default().with(|limits| limits.max_rooms = 2));
    let mut ann = Client::new(&server, "ann");
    assert_eq!(ann.join("1", &json!(0)), [Ack(1)]);
    assert_eq!(ann.join("2", &json!(0)), [Ack(1)]);
    assert_eq!(ann.join("r", &json!(0)), [Error(codes::LIMIT.into())]);
    assert_eq!(ann.join("2", &json!(1)), [Ack(2)], "those it is in it may change");
    ann.leave("1");
    assert_eq!(ann.join("r", &json!(0)), [Ack(1)]);
    assert_eq!(count(&server, "1"), 0);
}

/// The snapshot of a room must fit in a frame, whatever its members.
#[test]
fn a_room_below_at_and_above_the_frame_limit() {
    let names = server(Limits::default());
    let mut sample = Client::new(&names, "u1");
    sample.join("r", &json!(""));
    let alone = sample.shown("u1", &json!("")).to_string().len();
    // The envelope, a key of one byte with every byte escaped; a comma behind each of two members.
    let around = 128 + 6 + 2 * (alone + 1);
    for (more, fits) in [(99, true), (100, true), (101, false)] {
        let server = Server::builder()
            .limits(Limits::default().with(|limits| limits.max_payload = around + 100))
            .epoch(u64::from_str_radix(sample.id.split_once('-').unwrap().0, 16).unwrap())
            .build();
        let (mut one, mut two) = (Client::new(&server, "u1"), Client::new(&server, "u2"));
        assert_eq!(one.join("r", &json!("")), [Ack(1)]);
        let answers = two.join("r", &json!("x".repeat(more)));
        assert_eq!(answers, [if fits { Ack(2) } else { Error(codes::LIMIT.into()) }], "{more} bytes");
        assert_eq!(count(&server, "r"), if fits { 2 } else { 1 });
        // Whoever leaves makes room.
        one.leave("r");
        assert_eq!(two.join("r", &json!("y".repeat(more))).len(), 1);
        assert_eq!(count(&server, "r"), 1);
    }
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let server = server(Limits::default().with(|limits| limits.max_key = 8));
    let (mut follower, mut hostile) = (Client::new(&server, "bob"), Client::new(&server, "eve"));
    follower.follow("r");
    let deep = |depth: usize| format!(r#"{{"key":"r","value":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    for (payload, code) in [
        ("", codes::PARSE),
        ("null", codes::PARSE),
        ("{}", codes::PARSE),
        (r#"{"key":1,"value":1}"#, codes::PARSE),
        (r#"{"key":"r","value":}"#, codes::PARSE),
        (r#"{"key":"r","value":1"#, codes::PARSE),
        (r#"{"key":"","value":1}"#, codes::INVALID_REQUEST),
        (r#"{"key":"123456789","value":1}"#, codes::INVALID_REQUEST),
        (r#"{"key":"r","value":"\ud800"}"#, codes::INVALID_PARAMS),
        (r#"{"key":"r","value":1e999}"#, codes::INVALID_PARAMS),
        (&deep(125), codes::INVALID_PARAMS),
        (&deep(2_000), codes::INVALID_PARAMS),
    ] {
        hostile.send(Opcode::Presence, payload);
        assert_eq!(hostile.received(), [Error(code.into())], "{payload}");
    }
    assert_eq!(count(&server, "r"), 0);
    assert_eq!(follower.received(), []);
    hostile.send(Opcode::Presence, &deep(120));
    assert_eq!(hostile.received(), [Ack(1)], "and goes on being served");
    let others = r#"{"key":"r","value":1,"id":"1-1","userId":"bob","members":[],"whole":true,"seq":9}"#;
    hostile.send(Opcode::Presence, others);
    assert_eq!(hostile.received(), [Ack(2)]);
    assert_eq!(follower.received()[1], change(2, hostile.shown("eve", &json!(1))), "nobody speaks for others");
}

#[test]
fn without_an_id_there_is_no_effect() {
    let server = server(Limits::default());
    let mut ann = Client::new(&server, "ann");
    ann.peer.receive(&ann.codec.encode(Opcode::Presence, 0, br#"{"key":"r","value":1}"#, 256));
    assert_eq!(ann.received(), [Error(codes::INVALID_REQUEST.into())]);
    assert_eq!(count(&server, "r"), 0);
    // Version 1 has no such frame.
    let mut old = server.peer(Protocol::V1, Identity::user("old"));
    old.receive(&Codec::default().encode(Opcode::Presence, 1, br#"{"key":"r","value":1}"#, 256));
    assert_eq!((old.poll_message(), count(&server, "r")), (None, 0));
}

#[test]
fn a_follower_that_falls_behind_gets_the_list() {
    let server = server(Limits::default().with(|limits| limits.max_queue = 2_000));
    let (mut slow, mut ann) = (Client::new(&server, "bob"), Client::new(&server, "ann"));
    slow.follow("r");
    for n in 1..=100 {
        assert_eq!(ann.join("r", &json!(n)), [Ack(n)]);
    }
    assert_eq!(slow.received(), [whole(100, json!([ann.shown("ann", &json!(100))]))]);
    ann.leave("r");
    assert_eq!(slow.received(), [change(101, ann.gone("ann"))]);
}

#[test]
fn a_room_is_left_behind_by_the_last() {
    let server = server(Limits::default());
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    for _ in 0..3 {
        assert_eq!(ann.join("r", &json!(1)), [Ack(1)], "a new life each time");
        assert_eq!(bob.follow("r").len(), 2);
        bob.peer.receive(&bob.codec.encode(Opcode::Unsubscribe, bob.next, b"null", 256));
        assert_eq!(count(&server, "r"), 1);
        ann.leave("r");
    }
}

const INTERVAL: Duration = Duration::from_millis(50);
const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn the_first_change_is_told_at_once_and_those_that_follow_together() {
    let server = server(Limits::default());
    let [mut ann, mut bob, mut cat, mut dan] = ["ann", "bob", "cat", "dan"].map(|name| Client::new(&server, name));
    bob.follow("r");
    assert_eq!(ann.join("r", &json!(1)), [Ack(1)]);
    assert_eq!(bob.received(), [change(1, ann.shown("ann", &json!(1)))], "at once");
    sleep(MOMENT).await;
    // They take effect now, and have the number of the entry that will tell.
    assert_eq!((cat.join("r", &json!(1)), ann.join("r", &json!(2))), (vec![Ack(2)], vec![Ack(2)]));
    assert_eq!((dan.join("r", &json!(1)), count(&server, "r")), (vec![Ack(2)], 3));
    assert_eq!(ann.join("r", &json!(3)), [Ack(2)]);
    dan.leave("r");
    assert_eq!(list(&server, "r")[0].value, json!(3));
    // Who comes meanwhile is shown what the others have been told.
    let mut late = Client::new(&server, "late");
    assert_eq!(late.follow("r"), [subscribed(1), whole(1, json!([ann.shown("ann", &json!(1))]))]);
    sleep(INTERVAL - 2 * MOMENT).await;
    assert_eq!((bob.received(), late.received()), (vec![], vec![]));
    sleep(2 * MOMENT).await;
    let told = || vec![changes(2, &[ann.shown("ann", &json!(3)), cat.shown("cat", &json!(1))])];
    assert_eq!((bob.received(), late.received()), (told(), told()), "nothing of one who was there for a moment");
    sleep(INTERVAL + MOMENT).await;
    assert_eq!(ann.leave("r"), [Ack(3)]);
    assert_eq!(bob.received(), [change(3, ann.gone("ann"))], "after a pause at once again");
    // What is as it was is not told: after that, too, the next has not to wait.
    cat.join("r", &json!(2));
    cat.join("r", &json!(1));
    sleep(INTERVAL + MOMENT).await;
    assert_eq!(bob.received(), []);
    assert_eq!(cat.join("r", &json!(4)), [Ack(4)]);
    assert_eq!(bob.received(), [change(4, cat.shown("cat", &json!(4)))]);
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_with_the_connection_is_told_with_the_others() {
    let server = server(Limits::default());
    let [ann, mut bob, mut cat] = ["ann", "bob", "cat"].map(|name| Client::new(&server, name));
    let mut clients = [ann, Client::new(&server, "ann"), Client::new(&server, "ann")];
    bob.follow("r");
    clients.iter_mut().for_each(|client| _ = client.join("r", &json!(1)));
    sleep(INTERVAL + MOMENT).await;
    assert_eq!(bob.received().len(), 2);
    let gone = clients.each_ref().map(|client| client.gone("ann"));
    drop(clients);
    cat.join("r", &json!(1));
    assert_eq!(bob.received(), []);
    sleep(INTERVAL + MOMENT).await;
    let [one, two, three] = gone;
    assert_eq!(bob.received(), [changes(3, &[one, cat.shown("cat", &json!(1)), two, three])]);
    // Nobody is left to be told: the room goes at once, and begins another life.
    drop(bob);
    cat.leave("r");
    assert_eq!(cat.join("r", &json!(1)), [Ack(1)]);
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_tells_each_change() {
    let server = server(Limits::default().with(|limits| limits.presence_interval = Duration::ZERO));
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    bob.follow("r");
    for n in 1..4 {
        ann.join("r", &json!(n));
        assert_eq!(bob.received(), [change(n, ann.shown("ann", &json!(n)))]);
    }
}

/// All leave a room that is full, and others fill it, in the same moment: more than a frame holds.
#[tokio::test(start_paused = true)]
async fn what_is_told_together_fits_in_a_frame() {
    const PAYLOAD: usize = 4 * 1_024;
    let server = server(Limits::default().with(|limits| {
        limits.max_payload = PAYLOAD;
        limits.compress_above = usize::MAX;
    }));
    let mut bob = Client::new(&server, "bob");
    bob.follow("r");
    let fill = || {
        let mut clients: Vec<Client> = Vec::new();
        loop {
            let mut client = Client::new(&server, "ann");
            if client.join("r", &json!("")) == [Error(codes::LIMIT.into())] {
                return clients;
            }
            clients.push(client);
        }
    };
    let first = fill();
    sleep(INTERVAL + MOMENT).await;
    bob.received();
    drop(first);
    let second = fill();
    assert!(second.len() > 40, "{}", second.len());
    sleep(INTERVAL + MOMENT).await;
    let mut told = Vec::new();
    while let Some(message) = bob.peer.poll_message() {
        assert!(message.len() <= HEADER_LEN + PAYLOAD, "{} bytes", message.len());
        let body: Value = serde_json::from_slice(&message[HEADER_LEN..]).unwrap();
        told.push((body["seq"].as_u64().unwrap(), body["members"].as_array().unwrap().len()));
    }
    let [(3, one), (4, other)] = told[..] else { panic!("two frames: {told:?}") };
    assert_eq!(one + other, 2 * second.len());
}

/// 1,000 follow a room and enter it at once.
#[tokio::test(start_paused = true)]
async fn a_crowd_that_joins_takes_few_frames_and_bytes() {
    const CROWD: usize = 1_000;
    let server = server(Limits::default());
    let mut clients: Vec<Client> = (0..CROWD).map(|n| Client::new(&server, &format!("user {n}"))).collect();
    clients.iter_mut().for_each(|client| _ = client.follow("r"));
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(
            Opcode::Presence,
            &json!({"key": "r", "value": {"name": format!("Ann {n}"), "x": 7 * n}}).to_string(),
        );
    }
    sleep(INTERVAL + MOMENT).await;
    let (mut frames, mut bytes) = (0, 0);
    for client in &mut clients {
        while let Some(message) = client.peer.poll_message() {
            frames += 1;
            bytes += message.len();
        }
    }
    println!("{CROWD} joins: {frames} frames, {bytes} bytes");
    // The acknowledgement, the first member, and the others.
    assert!(frames <= 3 * CROWD, "{frames} frames");
    assert!(bytes <= 20_000_000, "{bytes} bytes");
}

/// The runtime of a change ends before the followers are told of it: they are with the next one.
#[test]
fn a_room_outlives_the_runtime_of_a_change() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let limits = Limits::default();
    let interval = limits.presence_interval;
    let server = server(limits);
    let (mut ann, mut bob) = (Client::new(&server, "ann"), Client::new(&server, "bob"));
    bob.follow("r");
    runtime().block_on(async {
        assert_eq!(ann.join("r", &json!(1)), [Ack(1)]);
        assert_eq!(bob.received(), [change(1, ann.shown("ann", &json!(1)))]);
        assert_eq!(ann.join("r", &json!(2)), [Ack(2)]);
        assert_eq!(bob.received(), []);
    });
    runtime().block_on(async {
        advance(interval).await;
        assert_eq!(bob.received(), []);
        assert_eq!(ann.join("r", &json!(3)), [Ack(2)]);
        assert_eq!(bob.received(), [change(2, ann.shown("ann", &json!(3)))]);
        assert_eq!(ann.join("r", &json!(4)), [Ack(3)]);
        assert_eq!(bob.received(), []);
        sleep(2 * interval).await;
        assert_eq!(bob.received(), [change(3, ann.shown("ann", &json!(4)))]);
    });
}
