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
    let payload = format!(r#"{{"key":"r","members":[{{"id":"{seq}"}}]{whole},"epoch":5,"seq":{seq}}}"#);
    peer.send(Opcode::Presence, 0, payload);
}

/// DOC of the channel 7: an update.
fn message(peer: &mut Peer, seq: u8, text: &str) {
    update(peer, 7, seq, text);
}

fn update(peer: &mut Peer, channel: u32, seq: u8, text: &str) {
    peer.send(Opcode::Doc, channel, [&[seq, 0, 2, text.len() as u8], text.as_bytes()].concat());
}

/// Compares what was sent, and the entries; progress and questions aside.
#[track_caller]
fn check(peer: &mut Peer, expected: &[&str]) {
    let mut lines = peer.drain();
    lines.retain(|line| !line.starts_with("progress ") && !line.starts_with("ask "));
    assert_eq!(lines, expected);
}

fn opened(peer: &mut Peer, correlation: u32, epoch: u64, seq: u64, channel: u32) {
    let payload = format!(r#"{{"epoch":{epoch},"seq":{seq},"recovered":false,"channel":{channel}}}"#);
    peer.send(Opcode::Subscribed, correlation, payload);
}

/// The server's answer to a state vector: nothing was missing.
fn complete(peer: &mut Peer, channel: u32) {
    peer.send(Opcode::Doc, channel, [0, 0, 1, 2, 0, 0]);
}

/// Follows the document `d` at 5:3, as channel 7, and nothing is missing.
fn document() -> Peer {
    let mut peer = Peer::v2(hasty());
    peer.open(StreamId::doc("d"));
    opened(&mut peer, 1, 5, 3, 7);
    complete(&mut peer, 7);
    check(&mut peer, &[r#"> Subscribe 1 {"kind":"doc","key":"d"}"#, "entry doc d 5:3 [0, 0]"]);
    peer
}

#[test]
fn a_crdt_begins_with_its_state_and_goes_on_with_operations() {
    let mut peer = Peer::v2(hasty());
    op(&mut peer, 8, 1);
    state(&mut peer, 8, 1);
    check(&mut peer, &[]);
    peer.open(StreamId::crdt("c"));
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
    check(
        &mut peer,
        &[
            r#"> Subscribe 1 {"kind":"crdt","key":"c"}"#,
            "entry crdt c 8:3 whole [3]",
            "entry crdt c 8:4 4",
            "entry crdt c 8:5 5",
            "entry crdt c 8:9 whole [9]",
            "entry crdt c 8:10 10",
            "entry crdt c 9:0 whole [0]",
        ],
    );
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c","state":null,"whole":false,"epoch":9,"seq":1}"#);
    check(&mut peer, &["entry crdt c 9:1 whole null"]);
}

#[test]
fn a_gap_is_repaired_and_a_connection_resumed() {
    let mut peer = Peer::v2(hasty());
    peer.open(StreamId::crdt("c"));
    subscribed(&mut peer, 1, 8, 3, false);
    state(&mut peer, 8, 3);
    peer.drain();
    op(&mut peer, 8, 5);
    op(&mut peer, 8, 4);
    subscribed(&mut peer, 2, 8, 3, true);
    op(&mut peer, 8, 4);
    check(
        &mut peer,
        &[
            "> Unsubscribe 1 null",
            r#"> Subscribe 2 {"kind":"crdt","key":"c","since":{"epoch":8,"seq":3}}"#,
            "entry crdt c 8:4 4",
        ],
    );
    reconnect(&mut peer);
    assert_eq!(peer.drain()[1], r#"> Subscribe 1 {"kind":"crdt","key":"c","since":{"epoch":8,"seq":4}}"#);
    // An operation instead of the state that must come first.
    subscribed(&mut peer, 1, 9, 3, false);
    op(&mut peer, 9, 4);
    check(&mut peer, &["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"crdt","key":"c"}"#]);
}

#[test]
fn a_room_begins_with_everybody() {
    let mut peer = Peer::v2(hasty());
    peer.open(StreamId::presence("r"));
    subscribed(&mut peer, 1, 5, 3, false);
    members(&mut peer, 3, r#","whole":true"#);
    members(&mut peer, 4, "");
    members(&mut peer, 4, "");
    members(&mut peer, 9, r#","whole":true"#);
    members(&mut peer, 10, r#","whole":false"#);
    members(&mut peer, 12, "");
    check(
        &mut peer,
        &[
            r#"> Subscribe 1 {"kind":"presence","key":"r"}"#,
            r#"entry presence r 5:3 whole [{"id":"3"}]"#,
            r#"entry presence r 5:4 [{"id":"4"}]"#,
            r#"entry presence r 5:9 whole [{"id":"9"}]"#,
            r#"entry presence r 5:10 [{"id":"10"}]"#,
            "> Unsubscribe 1 null",
            r#"> Subscribe 2 {"kind":"presence","key":"r","since":{"epoch":5,"seq":10}}"#,
        ],
    );
}

#[test]
fn a_document_follows_its_answer_by_its_channel() {
    let mut peer = document();
    message(&mut peer, 4, "a");
    message(&mut peer, 4, "a");
    message(&mut peer, 0, "answer");
    message(&mut peer, 5, "b");
    update(&mut peer, 8, 6, "other");
    update(&mut peer, 0, 6, "none");
    check(
        &mut peer,
        &["entry doc d 5:4 [97]", "entry doc d 5:4 [97, 110, 115, 119, 101, 114]", "entry doc d 5:5 [98]"],
    );
    // A gap: what the old subscription still sends is ignored, even what is no entry.
    message(&mut peer, 7, "d");
    message(&mut peer, 0, "answer");
    opened(&mut peer, 2, 5, 7, 7);
    // In the answer, which may be what it refers to.
    message(&mut peer, 8, "e");
    complete(&mut peer, 7);
    message(&mut peer, 9, "f");
    check(
        &mut peer,
        &[
            "> Unsubscribe 1 null",
            r#"> Subscribe 2 {"kind":"doc","key":"d","since":{"epoch":5,"seq":5}}"#,
            "entry doc d 5:8 [0, 0]",
            "entry doc d 5:9 [102]",
        ],
    );
    peer.client.leave(peer.now, &StreamId::doc("d"));
    message(&mut peer, 10, "g");
    check(&mut peer, &["> Unsubscribe 2 null"]);
}

#[test]
fn channels_belong_to_a_connection() {
    let mut peer = document();
    reconnect(&mut peer);
    peer.drain();
    message(&mut peer, 4, "a");
    check(&mut peer, &[]);
    opened(&mut peer, 1, 5, 3, 9);
    complete(&mut peer, 9);
    message(&mut peer, 4, "a");
    update(&mut peer, 9, 4, "b");
    check(&mut peer, &["entry doc d 5:3 [0, 0]", "entry doc d 5:4 [98]"]);
}

#[test]
fn a_document_without_a_channel_is_no_answer() {
    for channel in ["", r#","channel":null"#, r#","channel":-1"#, r#","channel":4294967296"#, r#","channel":"7""#] {
        let mut peer = Peer::v2(config());
        peer.open(StreamId::doc("d"));
        peer.drain();
        peer.send(Opcode::Subscribed, 1, format!(r#"{{"epoch":1,"seq":1,"recovered":false{channel}}}"#));
        assert_eq!(peer.drain(), ["close 4004", "waiting 1: Protocol"], "{channel}");
    }
}

#[test]
fn two_documents_with_one_channel_harm_nobody_else() {
    let mut peer = document();
    peer.open(StreamId::doc("e"));
    opened(&mut peer, 2, 6, 0, 7);
    complete(&mut peer, 7);
    message(&mut peer, 1, "x");
    let subscribe = r#"> Subscribe 2 {"kind":"doc","key":"e"}"#;
    check(&mut peer, &[subscribe, "entry doc e 6:0 [0, 0]", "entry doc e 6:1 [120]"]);
    peer.client.leave(peer.now, &StreamId::doc("e"));
    message(&mut peer, 2, "y");
    check(&mut peer, &["> Unsubscribe 2 null"]);
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
    check(&mut peer, &["close 4004", "waiting 1: Protocol"]);
}

#[test]
fn a_version_1_server_sends_states_only() {
    let mut peer = Peer::v1(hasty());
    let state = r#"{"key":"c","state":{"type":"g-set"}}"#;
    peer.open(StreamId::crdt("c"));
    peer.send(Opcode::CrdtState, 0, state);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c"}"#);
    peer.send(Opcode::CrdtState, 0, state);
    check(&mut peer, &[r#"entry crdt c 0:1 whole {"type":"g-set"}"#, r#"entry crdt c 0:2 whole {"type":"g-set"}"#]);
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
    check(&mut peer, &[]);
    peer.open(StreamId::crdt(format!("c{count}")));
    let entries = peer.drain().iter().filter(|line| line.starts_with("entry ")).count();
    assert_eq!(entries, usize::from(kept), "{count} of {bytes}");
}

#[test]
fn version_1_states_wait_for_who_follows_them_later() {
    let mut peer = Peer::v1(hasty());
    for n in 0..3 {
        peer.send(Opcode::CrdtState, 0, format!(r#"{{"key":"c","state":{n}}}"#));
    }
    peer.send(Opcode::CrdtState, 0, r#"{"key":"d","state":4}"#);
    peer.open(StreamId::crdt("c"));
    check(&mut peer, &["entry crdt c 0:1 whole 2"]);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c","state":3}"#);
    check(&mut peer, &["entry crdt c 0:2 whole 3"]);
    peer.client.leave(peer.now, &StreamId::crdt("c"));
    peer.open(StreamId::crdt("c"));
    check(&mut peer, &["entry crdt c 0:1 whole 3"]);
    // The next connection says everything again.
    peer.close(1006);
    peer.wait(0);
    peer.drain();
    peer.opened(None);
    peer.drain();
    peer.open(StreamId::crdt("d"));
    check(&mut peer, &[]);

    let limit = hasty().limits.max_subscriptions;
    for count in [limit - 1, limit, limit + 1] {
        check_kept(count, 2, count <= limit);
    }
    let quarter = crate::subscriptions::MAX_KEPT / 4;
    check_kept(4, quarter - 1, true);
    check_kept(4, quarter, true);
    check_kept(4, quarter + 1, false);
}
