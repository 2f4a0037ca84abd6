use super::{
    streams::{reconnect, subscribed},
    *,
};
use crate::error::CommandError;

impl Peer {
    fn submit(&mut self, stream: &StreamId, payload: Payload) -> Result<Option<CallId>, CommandError> {
        self.client.clock.advance(self.now);
        self.client.submit(stream, &payload)
    }

    fn notify(&mut self, stream: &StreamId, payload: &Payload) -> Result<(), CommandError> {
        self.client.transmit(stream, payload, false).map(drop)
    }
}

fn bytes(text: &str) -> Payload {
    Payload::Binary(text.into())
}

/// Follows the document `d` at 5:3, as channel 65, `A`.
fn document() -> Peer {
    let mut peer = Peer::v2(hasty());
    peer.open(StreamId::doc("d"));
    peer.send(Opcode::Subscribed, 1, r#"{"epoch":5,"seq":3,"recovered":false,"channel":65}"#);
    peer.send(Opcode::Doc, 65, [0, 0, 1, 2, 0, 0]);
    peer.drain();
    peer
}

#[test]
fn each_kind_has_its_frame_and_every_answer_ends_one() {
    let mut peer = document();
    peer.submit(&StreamId::crdt("c\""), json(r#"{"op": 1}"#)).unwrap();
    peer.submit(&StreamId::presence("r"), json("null")).unwrap();
    peer.submit(&StreamId::presence("r"), Payload::Empty).unwrap();
    peer.submit(&StreamId::doc("d"), bytes("msg")).unwrap();
    peer.notify(&StreamId::doc("d"), &bytes("here")).unwrap();
    peer.check(&[
        r#"> CrdtOp 2 {"key":"c\"","op":{"op": 1}}"#,
        r#"> Presence 3 {"key":"r","value":null}"#,
        r#"> Presence 4 {"key":"r"}"#,
        "> Doc 5 Amsg",
        "> Doc 0 Ahere",
    ]);
    peer.send(Opcode::Ack, 3, [0]);
    peer.send(Opcode::Ack, 2, [0x80, 1]);
    peer.send(Opcode::Error, 4, r#"{"message":"slow down","code":-32004,"retryAfter":50}"#);
    peer.send(Opcode::Ack, 5, [4]);
    for again in [2, 3, 4, 5, 6, 0] {
        peer.send(Opcode::Ack, again, [9]);
    }
    peer.check(&["done 2 empty", "done 1 empty", "done 3 -32004 slow down", "done 4 empty"]);
}

#[test]
fn an_answer_that_cannot_be_read_fails_what_it_answers() {
    for payload in [&b""[..], b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", &[0xff; 20]] {
        let mut peer = Peer::v2(config());
        peer.submit(&StreamId::crdt("c"), json("1")).unwrap();
        peer.drain();
        peer.send(Opcode::Ack, 1, payload);
        assert_eq!(peer.drain(), ["done 1 -32700 the answer cannot be read"], "{payload:?}");
    }
}

#[test]
fn what_does_not_fit_or_has_no_connection_is_refused() {
    let unfit = |what| Err(CommandError::Unfit { what });
    let mut peer = Peer::new(config());
    assert_eq!(peer.submit(&StreamId::crdt("c"), json("1")), Err(CommandError::NotConnected));
    assert_eq!(peer.notify(&StreamId::doc("d"), &bytes("x")), Err(CommandError::NotConnected));
    let mut peer = document();
    for (stream, payload, what) in [
        (StreamId::state("s"), json("1"), "state"),
        (StreamId::event("e"), json("1"), "event"),
        (StreamId::crdt("c"), Payload::Empty, "crdt"),
        (StreamId::crdt("c"), bytes("1"), "crdt"),
        (StreamId::presence("r"), bytes("1"), "presence"),
        (StreamId::doc("d"), json("1"), "doc"),
        (StreamId::doc("d"), Payload::Empty, "doc"),
    ] {
        assert_eq!(peer.submit(&stream, payload), unfit(what));
    }
    assert_eq!(peer.notify(&StreamId::crdt("c"), &json("1")), Err(CommandError::Unfit { what: "crdt" }));
    assert_eq!(peer.submit(&StreamId::doc("other"), bytes("x")), Err(CommandError::NotConnected));
    assert!(matches!(peer.submit(&StreamId::crdt(""), json("1")), Err(CommandError::BadName { .. })));
    peer.check(&[]);
    // A document that is being asked for again has no channel.
    assert!(peer.client.resync(peer.now, &StreamId::doc("d"), true));
    assert_eq!(peer.submit(&StreamId::doc("d"), bytes("x")), Err(CommandError::NotConnected));
}

#[test]
fn submissions_count_as_calls_and_payloads_are_bounded() {
    let limits = Limits { max_pending_calls: 2, max_payload: 1_000, ..Limits::default() };
    let mut peer = Peer::v2(Config { limits, ..config() });
    let crdt = StreamId::crdt("c");
    peer.submit(&crdt, json("1")).unwrap();
    peer.call("m");
    assert_eq!(peer.submit(&crdt, json("1")), Err(CommandError::Limit { what: "pending calls", limit: 2 }));
    peer.send(Opcode::Ack, 1, [1]);
    peer.submit(&crdt, json("1")).unwrap();
    // All but the operation is 17 bytes.
    for (length, fits) in [(982, true), (983, true), (984, false)] {
        let mut peer = Peer::v2(Config { limits, ..config() });
        let sent = peer.submit(&crdt, json(&"1".repeat(length)));
        assert_eq!(sent.is_ok(), fits, "{length}: {sent:?}");
    }
}

#[test]
fn a_lost_connection_or_a_late_answer_leaves_it_open_whether_it_took_effect() {
    let mut peer = Peer::v2(Config { call_timeout: 5_000, ..hasty() });
    let crdt = StreamId::crdt("c");
    peer.submit(&crdt, json("1")).unwrap();
    peer.drain();
    peer.wait(4_999);
    peer.check(&[]);
    peer.wait(1);
    // Nothing tells the server to stop.
    peer.check(&["done 1 -32100 RPC timeout: crdt c (5000ms)"]);
    peer.send(Opcode::Ack, 1, [1]);
    peer.check(&[]);
    peer.submit(&crdt, json("2")).unwrap();
    peer.drain();
    peer.close(1006);
    let lines = peer.drain();
    assert!(lines.contains(&"done 2 -32101 connection lost before the answer to crdt c".into()), "{lines:?}");
    assert_eq!(peer.submit(&crdt, json("3")), Err(CommandError::NotConnected));
    assert!(!peer.client.cancel(peer.now, CallId(2)));
}

#[test]
fn one_that_is_given_up_is_not_cancelled_on_the_server() {
    let mut peer = Peer::v2(config());
    let call = peer.submit(&StreamId::crdt("c"), json("1")).unwrap().unwrap();
    peer.drain();
    assert!(peer.client.cancel(peer.now, call));
    peer.check(&["done 1 -32102 cancelled"]);
}

#[test]
fn the_answer_is_the_authors_entry_of_a_document() {
    let mut peer = document();
    let doc = StreamId::doc("d");
    for _ in 0..4 {
        peer.submit(&doc, bytes("m")).unwrap();
    }
    peer.drain();
    // Own 4, of another 5, nothing new, own 6, twice.
    peer.send(Opcode::Ack, 2, [4]);
    peer.send(Opcode::Doc, 65, [5, 0, 2, 1, b'x']);
    peer.send(Opcode::Ack, 3, [0]);
    peer.send(Opcode::Ack, 4, [6]);
    peer.send(Opcode::Ack, 5, [6]);
    peer.send(Opcode::Doc, 65, [7, 0, 2, 1, b'y']);
    peer.check(&[
        "done 1 empty",
        "entry doc d 5:5 [120]",
        "done 2 empty",
        "done 3 empty",
        "done 4 empty",
        "entry doc d 5:7 [121]",
    ]);
    // What came between is missing.
    peer.submit(&doc, bytes("m")).unwrap();
    peer.send(Opcode::Ack, 6, [9]);
    peer.check(&[
        "> Doc 6 Am",
        "done 5 empty",
        "> Unsubscribe 1 null",
        r#"> Subscribe 7 {"kind":"doc","key":"d","since":{"epoch":5,"seq":7}}"#,
    ]);
}

#[test]
fn an_answer_after_the_end_of_a_subscription_moves_nothing() {
    let mut peer = document();
    let doc = StreamId::doc("d");
    peer.submit(&doc, bytes("m")).unwrap();
    peer.client.leave(peer.now, &doc);
    peer.send(Opcode::Ack, 2, [9]);
    peer.check(&["> Doc 2 Am", "> Unsubscribe 1 null", "done 1 empty"]);
    // Of a CRDT it is no entry either: that comes by itself.
    peer.open(StreamId::crdt("c"));
    subscribed(&mut peer, 3, 1, 1, false);
    peer.submit(&StreamId::crdt("c"), json("1")).unwrap();
    peer.drain();
    peer.send(Opcode::Ack, 4, [9]);
    peer.check(&["done 2 empty"]);
}

#[test]
fn a_version_1_server_does_not_answer() {
    let mut peer = Peer::v1(hasty());
    assert_eq!(peer.submit(&StreamId::crdt("votes"), json(r#"{"op":"increment"}"#)), Ok(None));
    peer.check(&[r#"> CrdtOp 0 {"key":"votes","op":{"op":"increment"}}"#]);
    for stream in [StreamId::presence("r"), StreamId::doc("d")] {
        let refused = peer.submit(&stream, json("1"));
        assert!(matches!(refused, Err(CommandError::NeedsV2 { .. })), "{refused:?}");
    }
    reconnect(&mut peer);
    peer.submit(&StreamId::crdt("votes"), json("1")).unwrap();
    assert_eq!(peer.drain()[1], r#"> CrdtOp 1 {"key":"votes","op":1}"#);
}
