use serde_json::{Value, json};

use super::*;
use crate::tree::Tree;

fn config() -> Config {
    Config { mirror: true, ..hasty() }
}

fn following() -> Peer {
    let mut peer = Peer::v2(config());
    peer.subscribe(StreamId::state("k"));
    peer.send(Opcode::Subscribed, 1, r#"{"epoch":8,"seq":1,"recovered":false}"#);
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":{"rows":[1]},"epoch":8,"seq":1}"#);
    peer.drain();
    peer
}

fn patch(peer: &mut Peer, seq: u64, ops: Value) {
    peer.send(Opcode::StatePatch, 0, json!({"key": "k", "patches": ops, "epoch": 8, "seq": seq}).to_string());
}

#[test]
fn patches_and_snapshots_reach_the_document() {
    let mut peer = following();
    assert_eq!(peer.client.state("k"), Some(&Tree::from(json!({"rows": [1]}))));
    patch(&mut peer, 2, json!([{"op": "add", "path": "/rows/-", "value": 2}]));
    assert_eq!(peer.client.state("k"), Some(&Tree::from(json!({"rows": [1, 2]}))));
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":null,"epoch":8,"seq":3}"#);
    assert_eq!(peer.client.state("k"), Some(&Tree::default()));
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":null,"removed":true,"epoch":8,"seq":4}"#);
    assert_eq!(peer.client.state("k"), None);
}

#[test]
fn a_patch_that_does_not_apply_is_not_shown_and_starts_over() {
    for ops in [
        json!([{"op": "add", "path": "/rows/-", "value": 2}, {"op": "remove", "path": "/nothing"}]),
        json!([{"op": "nonsense"}]),
    ] {
        let mut peer = following();
        patch(&mut peer, 2, ops);
        peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"state","key":"k"}"#]);
        assert_eq!(peer.client.state("k"), Some(&Tree::from(json!({"rows": [1]}))), "all or nothing");
        peer.send(Opcode::Subscribed, 2, r#"{"epoch":8,"seq":2,"recovered":false}"#);
        peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":7,"epoch":8,"seq":2}"#);
        peer.check(&["subscribed 1 k anew", "snapshot k 8:2 7"]);
        assert_eq!(peer.client.state("k"), Some(&Tree::from(json!(7))));
    }
}

#[test]
fn a_value_too_deep_to_hold_ends_the_connection_in_the_end() {
    let mut peer = following();
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"k","data":{deep},"epoch":8,"seq":2}}"#));
    for correlation in 2..8 {
        peer.wait(8_000);
        let asked = peer.drain().into_iter().filter(|line| !line.starts_with("> Ping")).count();
        assert_eq!(asked, 2, "UNSUBSCRIBE and SUBSCRIBE");
        peer.send(Opcode::Subscribed, correlation, r#"{"epoch":8,"seq":2,"recovered":false}"#);
        peer.drain();
        peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"k","data":{deep},"epoch":8,"seq":2}}"#));
    }
    peer.check(&["close 4004", "waiting 1: Protocol"]);
}

#[test]
fn a_document_lives_as_long_as_its_subscription() {
    let mut peer = following();
    peer.close(1006);
    assert!(peer.client.state("k").is_some());
    peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(0));
    assert_eq!(peer.client.state("k"), None);
}

#[test]
fn off_it_keeps_nothing() {
    let mut peer = Peer::v1(hasty());
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":1}"#);
    assert_eq!(peer.client.state("k"), None);
}

#[test]
fn version_1_starts_from_an_empty_document() {
    let mut peer = Peer::v1(config());
    peer.send(Opcode::StatePatch, 0, r#"{"key":"k","patches":[{"op":"add","path":"/0","value":1}]}"#);
    assert_eq!(peer.client.state("k"), Some(&Tree::from(json!([1]))));
    peer.drain();
}

#[test]
fn version_1_leaves_out_a_change_that_does_not_fit_and_says_so_once() {
    const DOUBT: &str = "rejected k -32700 the state may be wrong: a change did not fit, and a server of version 1 cannot \
                         repeat it empty";
    let patch = |peer: &mut Peer, op, path| {
        peer.send(
            Opcode::StatePatch,
            0,
            json!({"key": "k", "patches": [{"op": op, "path": path, "value": 2}]}).to_string(),
        );
    };
    let mut peer = Peer::v1(config());
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","version":1,"data":[1]}"#);
    peer.drain();
    for expected in [&[DOUBT][..], &[]] {
        patch(&mut peer, "remove", "/5");
        peer.check(expected);
    }
    patch(&mut peer, "add", "/-");
    assert_eq!(peer.client.state("k"), Some(&Tree::from(json!([1, 2]))), "the next one is applied");
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","version":1,"data":[]}"#);
    peer.drain();
    patch(&mut peer, "remove", "/5");
    peer.check(&[DOUBT]);
}

/// A server whose patches never fit, or fit now and then: how often the client subscribed, and what it did at last.
fn misfits(fits: impl Fn(u64) -> bool) -> (usize, String) {
    let mut peer = following();
    let (mut asked, mut seq, mut correlation) = (0, 1, 1);
    for round in 0..100 {
        seq += 1;
        let path = if fits(round) { "/rows" } else { "/nothing" };
        patch(&mut peer, seq, json!([{"op": "replace", "path": path, "value": []}]));
        for line in peer.drain() {
            if let Some(rest) = line.strip_prefix("> Subscribe ") {
                asked += 1;
                correlation = rest.split(' ').next().unwrap().parse().unwrap();
            } else if line.starts_with("close") {
                return (asked, line);
            }
        }
        if peer.client.timeout_reason() == Some(crate::TimerKind::Stream) {
            patch(&mut peer, seq, json!([]));
            peer.check(&[]);
            let wait = peer.client.poll_timeout().unwrap() - peer.now;
            peer.wait(wait);
            asked += 1;
            correlation += 1;
            let line = peer.drain().pop().unwrap();
            assert!(line.starts_with(&format!("> Subscribe {correlation}")), "{line}");
        }
        peer.send(Opcode::Subscribed, correlation, format!(r#"{{"epoch":8,"seq":{seq},"recovered":false}}"#));
        let data = format!(r#"{{"key":"k","data":{{"rows":[1]}},"epoch":8,"seq":{seq}}}"#);
        peer.send(Opcode::StateSnapshot, 0, data);
        peer.drain();
    }
    (asked, String::new())
}

#[test]
fn patches_that_never_fit_are_repaired_six_times_the_last_ones_after_a_wait() {
    assert_eq!(misfits(|_| false), (6, "close 4004".into()));
    assert_eq!(misfits(|round| round == 5), (5 + 6, "close 4004".into()), "a patch that fits begins anew");
    assert_eq!(misfits(|round| round % 7 > 0).1, "", "now and then is repaired for good");
    assert_eq!(misfits(|_| true), (0, String::new()));
}

#[test]
fn version_1_values_outlive_their_followers_but_not_the_version() {
    let mut peer = Peer::v1(config());
    let id = peer.client.subscribe(peer.now, StreamId::state("k")).unwrap();
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","version":1,"data":[1]}"#);
    assert!(peer.client.unsubscribe(peer.now, id, Some(0)));
    peer.send(Opcode::StatePatch, 0, r#"{"key":"k","patches":[{"op":"add","path":"/-","value":2}]}"#);
    peer.client.subscribe(peer.now, StreamId::state("other")).unwrap();
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"other","version":1,"data":3}"#);
    assert_eq!(peer.client.state("k"), Some(&Tree::from(json!([1, 2]))));

    peer.close(1006);
    peer.wait(0);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, HELLO);
    assert_eq!(peer.client.state("k"), None);
    assert_eq!(peer.client.state("other"), Some(&Tree::from(json!(3))));
}
