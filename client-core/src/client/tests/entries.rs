use super::{
    streams::{reconnect, subscribed},
    *,
};

fn op(peer: &mut Peer, epoch: u64, seq: u64) {
    peer.send(Opcode::CrdtOp, 0, format!(r#"{{"key":"c","op":{seq},"epoch":{epoch},"seq":{seq}}}"#));
}

fn state(peer: &mut Peer, epoch: u64, seq: u64) {
    peer.send(Opcode::CrdtState, 0, format!(r#"{{"key":"c","state":[{seq}],"epoch":{epoch},"seq":{seq}}}"#));
}

fn members(peer: &mut Peer, seq: u64, whole: &str) {
    let payload = format!(r#"{{"key":"r","members":[{seq}]{whole},"epoch":5,"seq":{seq}}}"#);
    peer.send(Opcode::Presence, 0, payload);
}

/// DOC of the channel 7.
fn message(peer: &mut Peer, seq: u8, text: &str) {
    peer.send(Opcode::Doc, 7, [&[seq], text.as_bytes()].concat());
}

fn opened(peer: &mut Peer, correlation: u32, epoch: u64, seq: u64, channel: u32) {
    let payload = format!(r#"{{"epoch":{epoch},"seq":{seq},"recovered":false,"channel":{channel}}}"#);
    peer.send(Opcode::Subscribed, correlation, payload);
}

/// Follows the document `d` at 5:3, as channel 7.
fn document() -> Peer {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::doc("d"));
    opened(&mut peer, 1, 5, 3, 7);
    peer.check(&[r#"> Subscribe 1 {"kind":"doc","key":"d"}"#, "subscribed 1 d anew"]);
    peer
}

#[test]
fn a_crdt_begins_with_its_state_and_goes_on_with_operations() {
    let mut peer = Peer::v2(hasty());
    op(&mut peer, 8, 1);
    state(&mut peer, 8, 1);
    peer.check(&[]);
    peer.subscribe(StreamId::crdt("c"));
    op(&mut peer, 8, 4);
    subscribed(&mut peer, 1, 8, 3, false);
    state(&mut peer, 8, 3);
    for seq in [3, 4, 4, 5] {
        op(&mut peer, 8, seq);
    }
    // Conflated, then out of date, then another life.
    state(&mut peer, 8, 9);
    state(&mut peer, 8, 9);
    op(&mut peer, 8, 10);
    state(&mut peer, 9, 0);
    peer.check(&[
        r#"> Subscribe 1 {"kind":"crdt","key":"c"}"#,
        "subscribed 1 c anew",
        "entry crdt c 8:3 whole [3]",
        "entry crdt c 8:4 4",
        "entry crdt c 8:5 5",
        "entry crdt c 8:9 whole [9]",
        "entry crdt c 8:10 10",
        "entry crdt c 9:0 whole [0]",
    ]);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c","state":null,"whole":false,"epoch":9,"seq":1}"#);
    peer.check(&["entry crdt c 9:1 whole null"]);
}

#[test]
fn a_gap_is_repaired_and_a_connection_resumed() {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::crdt("c"));
    subscribed(&mut peer, 1, 8, 3, false);
    state(&mut peer, 8, 3);
    peer.drain();
    op(&mut peer, 8, 5);
    op(&mut peer, 8, 4);
    subscribed(&mut peer, 2, 8, 3, true);
    op(&mut peer, 8, 4);
    peer.check(&[
        "> Unsubscribe 1 null",
        r#"> Subscribe 2 {"kind":"crdt","key":"c","since":{"epoch":8,"seq":3}}"#,
        "subscribed 1 c recovered",
        "entry crdt c 8:4 4",
    ]);
    reconnect(&mut peer);
    assert_eq!(peer.drain()[1], r#"> Subscribe 1 {"kind":"crdt","key":"c","since":{"epoch":8,"seq":4}}"#);
    // An operation instead of the state that must come first.
    subscribed(&mut peer, 1, 9, 3, false);
    op(&mut peer, 9, 4);
    peer.check(&["subscribed 1 c anew", "> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"crdt","key":"c"}"#]);
}

#[test]
fn a_room_begins_with_everybody() {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::presence("r"));
    subscribed(&mut peer, 1, 5, 3, false);
    members(&mut peer, 3, r#","whole":true"#);
    members(&mut peer, 4, "");
    members(&mut peer, 4, "");
    members(&mut peer, 9, r#","whole":true"#);
    members(&mut peer, 10, r#","whole":false"#);
    members(&mut peer, 12, "");
    peer.check(&[
        r#"> Subscribe 1 {"kind":"presence","key":"r"}"#,
        "subscribed 1 r anew",
        "entry presence r 5:3 whole [3]",
        "entry presence r 5:4 [4]",
        "entry presence r 5:9 whole [9]",
        "entry presence r 5:10 [10]",
        "> Unsubscribe 1 null",
        r#"> Subscribe 2 {"kind":"presence","key":"r","since":{"epoch":5,"seq":10}}"#,
    ]);
}

#[test]
fn a_document_follows_at_once_by_its_channel() {
    let mut peer = document();
    message(&mut peer, 4, "a");
    message(&mut peer, 4, "a");
    message(&mut peer, 0, "answer");
    message(&mut peer, 5, "b");
    peer.send(Opcode::Doc, 8, b"\x06other");
    peer.send(Opcode::Doc, 0, b"\x06none");
    peer.check(&["entry doc d 5:4 [97]", "entry doc d 5:4 [97, 110, 115, 119, 101, 114]", "entry doc d 5:5 [98]"]);
    // A gap: what the old subscription still sends is ignored, even what is no entry.
    message(&mut peer, 7, "d");
    message(&mut peer, 0, "answer");
    opened(&mut peer, 2, 5, 7, 7);
    message(&mut peer, 8, "e");
    peer.check(&[
        "> Unsubscribe 1 null",
        r#"> Subscribe 2 {"kind":"doc","key":"d","since":{"epoch":5,"seq":5}}"#,
        "subscribed 1 d anew",
        "entry doc d 5:8 [101]",
    ]);
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1)));
    message(&mut peer, 9, "f");
    peer.check(&["> Unsubscribe 2 null"]);
}

#[test]
fn channels_belong_to_a_connection() {
    let mut peer = document();
    reconnect(&mut peer);
    peer.drain();
    message(&mut peer, 4, "a");
    peer.check(&[]);
    opened(&mut peer, 1, 5, 3, 9);
    message(&mut peer, 4, "a");
    peer.send(Opcode::Doc, 9, b"\x04b");
    peer.check(&["subscribed 1 d anew", "entry doc d 5:4 [98]"]);
}

#[test]
fn a_document_without_a_channel_is_no_answer() {
    for channel in ["", r#","channel":null"#, r#","channel":-1"#, r#","channel":4294967296"#, r#","channel":"7""#] {
        let mut peer = Peer::v2(config());
        peer.subscribe(StreamId::doc("d"));
        peer.drain();
        peer.send(Opcode::Subscribed, 1, format!(r#"{{"epoch":1,"seq":1,"recovered":false{channel}}}"#));
        assert_eq!(peer.drain(), ["close 4004", "waiting 1: Protocol"], "{channel}");
    }
}

#[test]
fn two_documents_with_one_channel_harm_nobody_else() {
    let mut peer = document();
    peer.subscribe(StreamId::doc("e"));
    opened(&mut peer, 2, 6, 0, 7);
    message(&mut peer, 1, "x");
    peer.check(&[r#"> Subscribe 2 {"kind":"doc","key":"e"}"#, "subscribed 2 e anew", "entry doc e 6:1 [120]"]);
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(2)));
    message(&mut peer, 2, "y");
    peer.check(&["> Unsubscribe 2 null"]);
}

#[test]
fn gap_after_gap_ends_the_connection() {
    let mut peer = document();
    for round in 1..6 {
        message(&mut peer, 9, "far");
        opened(&mut peer, round + 1, 5, 3, 7);
    }
    peer.drain();
    message(&mut peer, 9, "far");
    peer.check(&["close 4004", "waiting 1: Protocol"]);
}

#[test]
fn a_version_1_server_sends_states_only() {
    let mut peer = Peer::v1(hasty());
    let state = r#"{"key":"c","state":{"type":"g-set"}}"#;
    peer.subscribe(StreamId::crdt("c"));
    peer.send(Opcode::CrdtState, 0, state);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c"}"#);
    peer.send(Opcode::CrdtState, 0, state);
    peer.check(&[
        "subscribed 1 c anew",
        r#"entry crdt c 0:1 whole {"type":"g-set"}"#,
        r#"entry crdt c 0:2 whole {"type":"g-set"}"#,
    ]);
    // What was counted is no position.
    reconnect(&mut peer);
    assert_eq!(peer.drain()[1], r#"> Subscribe 1 {"kind":"crdt","key":"c"}"#);
}

/// States of these lengths that come before anybody follows them, and whether the last is there for who does.
fn check_kept(count: usize, bytes: usize, kept: bool) {
    let mut peer = Peer::v1(hasty());
    let state = format!("\"{}\"", "x".repeat(bytes - 2));
    for number in 1..=count {
        peer.send(Opcode::CrdtState, 0, format!(r#"{{"key":"c{number}","state":{state}}}"#));
    }
    peer.check(&[]);
    peer.subscribe(StreamId::crdt(format!("c{count}")));
    assert_eq!(peer.drain().len(), 1 + usize::from(kept), "{count} of {bytes}");
}

#[test]
fn version_1_states_wait_for_who_follows_them_later() {
    let mut peer = Peer::v1(hasty());
    for n in 0..3 {
        peer.send(Opcode::CrdtState, 0, format!(r#"{{"key":"c","state":{n}}}"#));
    }
    peer.send(Opcode::CrdtState, 0, r#"{"key":"d","state":4}"#);
    peer.subscribe(StreamId::crdt("c"));
    peer.check(&["subscribed 1 c anew", "entry crdt c 0:1 whole 2"]);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c","state":3}"#);
    peer.check(&["entry crdt c 0:2 whole 3"]);
    peer.client.unsubscribe(peer.now, SubscriptionId(1));
    peer.subscribe(StreamId::crdt("c"));
    peer.check(&["subscribed 2 c anew", "entry crdt c 0:1 whole 3"]);
    // The next connection says everything again.
    peer.close(1006);
    peer.wait(0);
    peer.drain();
    peer.opened(None);
    peer.drain();
    peer.subscribe(StreamId::crdt("d"));
    peer.check(&["subscribed 3 d anew"]);

    let limit = hasty().limits.max_subscriptions;
    for count in [limit - 1, limit, limit + 1] {
        check_kept(count, 2, count <= limit);
    }
    let quarter = crate::subscriptions::MAX_KEPT / 4;
    check_kept(4, quarter - 1, true);
    check_kept(4, quarter, true);
    check_kept(4, quarter + 1, false);
}
