use super::*;
use crate::{
    error::CommandError,
    stream::{Position, StreamKind},
};

fn patch(peer: &mut Peer, epoch: u64, seq: u64) {
    peer.send(Opcode::StatePatch, 0, format!(r#"{{"key":"k","patches":[],"epoch":{epoch},"seq":{seq}}}"#));
}

fn snapshot(peer: &mut Peer, epoch: u64, seq: u64) {
    let payload = format!(r#"{{"key":"k","version":{seq},"data":[{seq}],"epoch":{epoch},"seq":{seq}}}"#);
    peer.send(Opcode::StateSnapshot, 0, payload);
}

pub(super) fn subscribed(peer: &mut Peer, correlation: u32, epoch: u64, seq: u64, recovered: bool) {
    let payload = format!(r#"{{"epoch":{epoch},"seq":{seq},"recovered":{recovered}}}"#);
    peer.send(Opcode::Subscribed, correlation, payload);
}

/// Follows the state `k`, at 8:3.
fn following() -> Peer {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::state("k"));
    subscribed(&mut peer, 1, 8, 3, false);
    snapshot(&mut peer, 8, 3);
    peer.check(&[r#"> Subscribe 1 {"kind":"state","key":"k"}"#, "subscribed 1 k anew", "snapshot k 8:3 [3]"]);
    peer
}

pub(super) fn reconnect(peer: &mut Peer) {
    peer.close(1006);
    peer.wait(0);
    peer.drain();
    peer.open_v2();
}

#[test]
fn entries_in_sequence_pass_and_duplicates_do_not() {
    let mut peer = following();
    for seq in [4, 5, 5, 4, 3, 0, 6] {
        patch(&mut peer, 8, seq);
    }
    snapshot(&mut peer, 8, 6);
    snapshot(&mut peer, 8, 2);
    snapshot(&mut peer, 8, 7);
    peer.check(&["patch k 8:4 []", "patch k 8:5 []", "patch k 8:6 []", "snapshot k 8:7 [7]"]);
}

#[test]
fn a_snapshot_elsewhere_replaces_everything() {
    let mut peer = following();
    snapshot(&mut peer, 8, 20);
    patch(&mut peer, 8, 21);
    snapshot(&mut peer, 9, 1);
    patch(&mut peer, 9, 2);
    peer.check(&["snapshot k 8:20 [20]", "patch k 8:21 []", "snapshot k 9:1 [1]", "patch k 9:2 []"]);
}

#[test]
fn any_json_root_and_a_removed_key_are_values() {
    let mut peer = following();
    for (data, expected) in [("null", "null"), ("0", "0"), ("\"\"", "\"\""), ("false", "false"), ("{}", "{}")] {
        let seq = 4 + u64::from(expected.as_bytes()[0]);
        peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"k","data":{data},"epoch":{seq},"seq":4}}"#));
        peer.check(&[&format!("snapshot k {seq}:4 {expected}")]);
    }
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":null,"removed":true,"epoch":8,"seq":5}"#);
    peer.check(&["snapshot k 8:5 none"]);
}

#[test]
fn a_gap_is_repaired_by_subscribing_again() {
    for (epoch, seq) in [(8, 5), (7, 4), (9, 4), (9, 1)] {
        let mut peer = following();
        patch(&mut peer, epoch, seq);
        peer.check(&[
            "> Unsubscribe 1 null",
            r#"> Subscribe 2 {"kind":"state","key":"k","since":{"epoch":8,"seq":3}}"#,
        ]);
        // Until the answer nothing of the stream counts, and the old name of the subscription means nothing.
        patch(&mut peer, 8, 4);
        snapshot(&mut peer, 8, 6);
        subscribed(&mut peer, 1, 8, 3, true);
        peer.check(&[]);
        subscribed(&mut peer, 2, 8, 3, true);
        subscribed(&mut peer, 2, 8, 3, true);
        patch(&mut peer, 8, 4);
        peer.check(&["subscribed 1 k recovered", "patch k 8:4 []"]);
    }
}

#[test]
fn a_host_that_has_a_value_is_sent_what_follows_or_a_snapshot() {
    let since = Some(Position { epoch: 8, seq: 3 });
    let ask = r#"> Subscribe 1 {"kind":"state","key":"k","since":{"epoch":8,"seq":3}}"#;
    for recovered in [true, false] {
        let mut peer = Peer::v2(config());
        let first = peer.client.subscribe_since(peer.now, StreamId::state("k"), since).unwrap();
        peer.check(&[ask]);
        // One that is followed stays where it is.
        let other = Some(Position { epoch: 8, seq: 1 });
        assert_eq!(peer.client.subscribe_since(peer.now, StreamId::state("k"), other), Ok(first));
        peer.check(&[]);
        subscribed(&mut peer, 1, 8, if recovered { 3 } else { 5 }, recovered);
        if recovered {
            patch(&mut peer, 8, 3);
            patch(&mut peer, 8, 4);
            peer.check(&["subscribed 1 k recovered", "patch k 8:4 []"]);
        } else {
            snapshot(&mut peer, 8, 5);
            peer.check(&["subscribed 1 k anew", "snapshot k 8:5 [5]"]);
        }
    }
    // Without a connection, the first one asks.
    let mut peer = Peer::new(config());
    peer.client.subscribe_since(peer.now, StreamId::state("k"), since).unwrap();
    peer.client.connect(peer.now);
    peer.drain();
    peer.open_v2();
    assert!(peer.drain().contains(&ask.to_owned()));
}

#[test]
fn a_recovery_from_elsewhere_starts_from_scratch() {
    for (epoch, seq) in [(8, 2), (8, 4), (9, 3)] {
        let mut peer = following();
        reconnect(&mut peer);
        peer.drain();
        subscribed(&mut peer, 1, epoch, seq, true);
        peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"state","key":"k"}"#]);
    }
}

#[test]
fn a_life_that_has_begun_elsewhere_goes_on_from_nothing() {
    for kind in [StreamKind::State, StreamKind::Event] {
        let name = kind.name();
        for ((epoch, seq), (to, from), goes_on) in
            [((8, 0), (9, 0), true), ((8, 0), (8, 0), true), ((8, 0), (9, 1), false), ((8, 3), (9, 0), false)]
        {
            let mut peer = Peer::v2(hasty());
            peer.subscribe(StreamId { kind, key: "k".into() });
            subscribed(&mut peer, 1, epoch, seq, false);
            if kind == StreamKind::State {
                snapshot(&mut peer, epoch, seq);
            }
            reconnect(&mut peer);
            peer.drain();
            subscribed(&mut peer, 1, to, from, true);
            if !goes_on {
                let again = format!(r#"> Subscribe 2 {{"kind":"{name}","key":"k"}}"#);
                peer.check(&["> Unsubscribe 1 null", &again]);
                continue;
            }
            peer.check(&["subscribed 1 k recovered"]);
            // The client is there: after the next loss it asks from there.
            reconnect(&mut peer);
            let since = format!(r#"> Subscribe 1 {{"kind":"{name}","key":"k","since":{{"epoch":{to},"seq":0}}}}"#);
            assert!(peer.drain().contains(&since), "{name} {to}");
            subscribed(&mut peer, 1, to, 0, true);
            peer.drain();
            match kind {
                StreamKind::State => patch(&mut peer, to, 1),
                _ => peer.send(
                    Opcode::ServerEvent,
                    0,
                    format!(r#"{{"event":"k","data":1,"timestamp":0,"epoch":{to},"seq":1}}"#),
                ),
            }
            assert!(!peer.drain().iter().any(|line| line.starts_with('>')), "the first entry is next");
        }
    }
}

#[test]
fn a_patch_in_place_of_the_promised_snapshot_is_a_gap() {
    let mut peer = Peer::v2(config());
    peer.subscribe(StreamId::state("k"));
    subscribed(&mut peer, 1, 8, 3, false);
    peer.drain();
    patch(&mut peer, 8, 4);
    peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"state","key":"k"}"#]);
}

#[test]
fn gaps_without_end_first_start_over_and_then_end_the_connection() {
    let mut peer = following();
    let mut since = Vec::new();
    for correlation in 2.. {
        patch(&mut peer, 8, 99);
        let lines = peer.drain();
        if lines[0] == "close 4004" {
            assert_eq!(lines[1], "waiting 1: Protocol");
            break;
        }
        since.push(lines[1].contains("since"));
        if *since.last().unwrap() {
            subscribed(&mut peer, correlation, 8, 3, true);
        } else {
            subscribed(&mut peer, correlation, 8, 3, false);
            snapshot(&mut peer, 8, 3);
        }
        peer.drain();
    }
    assert_eq!(since, [true, true, false, true, true]);
}

#[test]
fn an_entry_in_sequence_between_gaps_is_progress() {
    let mut peer = following();
    for step in 0..20 {
        patch(&mut peer, 8, 99);
        subscribed(&mut peer, 2 + step as u32, 8, 3 + step, true);
        patch(&mut peer, 8, 4 + step);
    }
    assert!(matches!(peer.client.status(), Status::Connected { .. }));
}

#[test]
fn subscriptions_are_renewed_from_where_they_were() {
    let mut peer = following();
    patch(&mut peer, 8, 4);
    peer.subscribe(StreamId::event("e"));
    reconnect(&mut peer);
    peer.check(&[
        r#"connected v2 "c1" Some("ann")"#,
        r#"> Subscribe 1 {"kind":"state","key":"k","since":{"epoch":8,"seq":4}}"#,
        r#"> Subscribe 2 {"kind":"event","key":"e"}"#,
    ]);
    subscribed(&mut peer, 1, 8, 4, true);
    patch(&mut peer, 8, 5);
    peer.check(&["subscribed 1 k recovered", "patch k 8:5 []"]);
}

#[test]
fn a_restarted_stream_is_followed_from_its_snapshot() {
    let mut peer = following();
    reconnect(&mut peer);
    peer.drain();
    subscribed(&mut peer, 1, 9, 0, false);
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":null,"removed":true,"epoch":9,"seq":0}"#);
    patch(&mut peer, 9, 1);
    peer.check(&["subscribed 1 k anew", "snapshot k 9:0 none", "patch k 9:1 []"]);
}

#[test]
fn a_snapshot_that_did_not_come_is_no_position() {
    let mut peer = following();
    reconnect(&mut peer);
    subscribed(&mut peer, 1, 9, 7, false);
    reconnect(&mut peer);
    let lines = peer.drain();
    assert_eq!(lines.last().unwrap(), r#"> Subscribe 1 {"kind":"state","key":"k"}"#);
}

#[test]
fn following_twice_counts() {
    let mut peer = following();
    assert_eq!(peer.subscribe(StreamId::state("k")), SubscriptionId(1));
    let other = peer.subscribe(StreamId::event("k"));
    assert_eq!(other, SubscriptionId(2));
    peer.drain();
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(0)));
    patch(&mut peer, 8, 4);
    peer.check(&["patch k 8:4 []"]);
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(0)));
    assert!(!peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(0)));
    patch(&mut peer, 8, 5);
    snapshot(&mut peer, 9, 9);
    peer.check(&["> Unsubscribe 1 null", "left k"]);
    reconnect(&mut peer);
    peer.check(&[r#"connected v2 "c1" Some("ann")"#, r#"> Subscribe 1 {"kind":"event","key":"k"}"#]);
}

#[test]
fn a_stream_is_followed_a_while_after_its_last_follower() {
    let mut peer = following();
    peer.drain();
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1), None));
    assert!(!peer.client.unsubscribe(peer.now, SubscriptionId(1), None), "nobody follows it");
    patch(&mut peer, 8, 4);
    peer.check(&["patch k 8:4 []"]);
    // A follower comes in time: nothing has happened.
    peer.wait(4_999);
    assert_eq!(peer.subscribe(StreamId::state("k")), SubscriptionId(1));
    peer.wait(5_000);
    patch(&mut peer, 8, 5);
    peer.check(&["patch k 8:5 []"]);
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(60_000)));
    assert_eq!(peer.subscribe(StreamId::state("k")), SubscriptionId(1));
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1), None));
    peer.wait(4_999);
    peer.check(&[]);
    peer.wait(1);
    peer.check(&["> Unsubscribe 1 null", "left k"]);
    assert_ne!(peer.subscribe(StreamId::state("k")), SubscriptionId(1));
}

#[test]
fn what_lingers_is_resumed_and_ends_with_the_client() {
    let mut peer = following();
    peer.client.unsubscribe(peer.now, SubscriptionId(1), None);
    reconnect(&mut peer);
    let lines = peer.drain();
    assert_eq!(lines.last().unwrap(), r#"> Subscribe 1 {"kind":"state","key":"k","since":{"epoch":8,"seq":3}}"#);
    peer.client.close(peer.now);
    assert!(peer.drain().contains(&"left k".to_owned()));
}

#[test]
fn what_lingers_makes_room() {
    let limits = Limits { max_subscriptions: 2, ..Limits::default() };
    let mut peer = Peer::v2(Config { limits, ..config() });
    let first = peer.subscribe(StreamId::state("a"));
    let second = peer.subscribe(StreamId::event("b"));
    peer.client.unsubscribe(peer.now, second, Some(3_000));
    peer.client.unsubscribe(peer.now, first, Some(2_000));
    peer.drain();
    assert_eq!(peer.subscribe(StreamId::event("b")), second);
    peer.subscribe(StreamId::state("c"));
    peer.check(&["> Unsubscribe 1 null", "left a", r#"> Subscribe 3 {"kind":"state","key":"c"}"#]);
    let refused = peer.client.subscribe(peer.now, StreamId::state("d"));
    assert_eq!(refused, Err(CommandError::Limit { what: "subscriptions", limit: 2 }));
}

#[test]
fn a_refused_subscription_is_gone() {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::state("secret"));
    peer.drain();
    peer.send(Opcode::Error, 1, r#"{"message":"not allowed","code":-32002}"#);
    peer.check(&["refused 1 secret -32002 not allowed"]);
    assert!(!peer.client.unsubscribe(peer.now, SubscriptionId(1), Some(0)));
    reconnect(&mut peer);
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);
    let again = peer.subscribe(StreamId::state("secret"));
    assert_ne!(again, SubscriptionId(1));
}

#[test]
fn subscriptions_are_bounded() {
    let limits = Limits { max_subscriptions: 2, ..Limits::default() };
    let mut peer = Peer::v2(Config { limits, ..config() });
    let first = peer.subscribe(StreamId::state("a"));
    peer.subscribe(StreamId::state("b"));
    let refused = peer.client.subscribe(peer.now, StreamId::state("c"));
    assert_eq!(refused, Err(CommandError::Limit { what: "subscriptions", limit: 2 }));
    assert_eq!(peer.subscribe(StreamId::state("a")), first);
    peer.client.unsubscribe(peer.now, SubscriptionId(2), Some(0));
    peer.subscribe(StreamId::state("c"));
}

#[test]
fn resync_asks_for_the_snapshot() {
    let mut peer = following();
    assert!(peer.client.resync(peer.now, &StreamId::state("k"), true));
    assert!(!peer.client.resync(peer.now, &StreamId::state("other"), true));
    peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"state","key":"k"}"#]);
    peer.close(1006);
    peer.wait(0);
    peer.drain();
    assert!(peer.client.resync(peer.now, &StreamId::state("k"), true));
    peer.open_v2();
    assert_eq!(peer.drain()[1], r#"> Subscribe 1 {"kind":"state","key":"k"}"#);
}

#[test]
fn a_mirror_that_never_fits_is_repaired_six_times_the_last_ones_after_a_wait() {
    let mut peer = following();
    let again = |peer: &mut Peer, applied| assert!(peer.client.resync(peer.now, &StreamId::state("k"), applied));
    for round in 0..3 {
        again(&mut peer, round == 0);
        assert_eq!(peer.drain().len(), 2, "at once");
    }
    for bound in [2_000, 4_000, 8_000] {
        again(&mut peer, false);
        peer.check(&[]);
        assert!(peer.client.poll_timeout().unwrap() - peer.now <= bound);
        peer.wait(bound);
        assert_eq!(peer.drain().iter().filter(|line| line.starts_with("> Subscribe")).count(), 1);
    }
    let mut repaired = following();
    again(&mut peer, false);
    peer.check(&["close 4004", "waiting 1: Protocol"]);
    for _ in 0..100 {
        again(&mut repaired, true);
        assert_eq!(repaired.drain().len(), 2, "a patch was applied in between");
    }
}

fn event(peer: &mut Peer, seq: u64) {
    let payload = format!(r#"{{"event":"news","data":{seq},"timestamp":{seq},"epoch":8,"seq":{seq}}}"#);
    peer.send(Opcode::ServerEvent, 0, payload);
}

#[test]
fn events_of_a_topic_follow_its_stream() {
    let mut peer = Peer::v2(hasty());
    event(&mut peer, 1);
    peer.subscribe(StreamId::event("news"));
    event(&mut peer, 2);
    subscribed(&mut peer, 1, 8, 2, false);
    for seq in [3, 3, 2, 4] {
        event(&mut peer, seq);
    }
    peer.check(&[
        r#"> Subscribe 1 {"kind":"event","key":"news"}"#,
        "subscribed 1 news anew",
        "event news 3 3",
        "event news 4 4",
    ]);
    event(&mut peer, 6);
    peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 2 {"kind":"event","key":"news","since":{"epoch":8,"seq":4}}"#]);
    subscribed(&mut peer, 2, 8, 4, true);
    event(&mut peer, 5);
    peer.check(&["subscribed 1 news recovered", "event news 5 5"]);
    reconnect(&mut peer);
    subscribed(&mut peer, 1, 11, 70, false);
    event(&mut peer, 6);
    let lines = peer.drain();
    assert_eq!(lines[2], "subscribed 1 news anew", "{lines:?}");
    assert!(lines[4].starts_with("> Subscribe 2"), "an event of another epoch is a gap: {lines:?}");
}

#[test]
fn events_without_a_position_go_straight_out() {
    let mut peer = Peer::v2(config());
    peer.send(Opcode::ServerEvent, 0, r#"{"event":"dm","data":{"x": 1},"timestamp":5}"#);
    peer.send(Opcode::ServerEvent, 0, r#"{"event":"dm"}"#);
    let bytes = crate::wire::join_binary(br#"{"event":"raw","timestamp":6}"#, &[1, 2]);
    peer.send(Opcode::ServerEventBinary, 0, bytes);
    peer.check(&[r#"event dm {"x": 1} 5"#, "event dm empty 0", "event raw [1, 2] 6"]);
}

#[test]
fn states_nobody_follows_are_ignored() {
    let mut peer = Peer::v2(config());
    patch(&mut peer, 8, 4);
    snapshot(&mut peer, 8, 4);
    peer.check(&[]);
}

#[test]
fn what_is_written_to_is_opened_not_subscribed() {
    let mut peer = Peer::v2(config());
    for kind in [StreamKind::Crdt, StreamKind::Doc, StreamKind::Presence] {
        let refused = peer.client.subscribe(peer.now, StreamId { kind, key: "x".into() });
        assert_eq!(refused, Err(CommandError::Unfit { what: kind.name() }));
    }
    peer.check(&[]);
}
