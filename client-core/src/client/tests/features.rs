use super::*;
use crate::{config::TokenVia, frame::HEADER_LEN, wire::push_item};

/// HELLO of a server with these features.
fn greeting(features: &str) -> String {
    hello(r#""heartbeat""#, &format!(r#""features":{features},"heartbeat""#))
}

/// About to be greeted.
fn opening(config: Config) -> Peer {
    let mut peer = Peer::new(config);
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer
}

/// A batch of these frames.
fn batch(frames: &[(Opcode, u32, &str)]) -> Vec<u8> {
    let (mut codec, mut payload) = (Codec::default(), Vec::new());
    for (opcode, correlation, content) in frames {
        push_item(&mut payload, &codec.encode(*opcode, *correlation, content.as_bytes(), 256));
    }
    payload
}

#[test]
fn features_are_told_to_who_has_any() {
    for (features, client) in [(r#"["batch"]"#, true), (r#"["later"]"#, true), ("[]", false)] {
        let mut peer = opening(config());
        peer.subscribe(StreamId::state("k"));
        peer.send(Opcode::Hello, 0, greeting(features));
        let lines = peer.drain();
        assert_eq!(lines.contains(&r#"> Client 0 {"features":["batch","short"]}"#.to_owned()), client, "{features}");
        assert_eq!(lines[lines.len() - 1], r#"> Subscribe 1 {"kind":"state","key":"k"}"#, "alone, it is no batch");
    }
}

#[test]
fn features_go_with_the_first_token_in_a_frame() {
    let mut peer = opening(Config { token_via: TokenVia::Frame, token: Some("t".into()), ..config() });
    peer.check(&[r#"> Auth 1 {"token":"t","features":["batch","short"]}"#]);
    peer.send(Opcode::Authed, 1, "{}");
    peer.send(Opcode::Hello, 0, greeting(r#"["batch"]"#));
    assert_eq!(peer.drain(), [r#"connected v2 "c1" Some("ann")"#]);
    peer.client.refresh_token(peer.now, Some("u".into()));
    peer.check(&[r#"> Auth 2 {"token":"u"}"#]);
}

/// The frames of a batch, as lines.
fn unpack(peer: &mut Peer, message: &[u8]) -> Vec<String> {
    let payload = peer.codec.decode(message, &Limits::default()).unwrap().payload.to_vec();
    let (mut rest, mut lines) = (&payload[..], Vec::new());
    while let Some((item, after)) = crate::wire::split_item(rest) {
        lines.push(peer.frame(item));
        rest = after;
    }
    assert!(rest.is_empty());
    lines
}

#[test]
fn subscriptions_are_renewed_in_batches_of_bounded_size() {
    let mut peer = opening(config());
    let key = |n: usize| format!("{n:0>250}");
    for n in 0..400 {
        peer.subscribe(StreamId::state(key(n)));
    }
    peer.send(Opcode::Hello, 0, greeting(r#"["batch"]"#));
    let (mut sizes, mut lines) = (Vec::new(), Vec::new());
    while let Some(output) = peer.client.poll_output() {
        let Output::Send { message, .. } = output else { continue };
        let payload = peer.codec.decode(&message, &Limits::default()).unwrap().payload.len();
        if lines.is_empty() && payload < 100 {
            assert_eq!(peer.frame(&message), r#"> Client 0 {"features":["batch","short"]}"#);
            continue;
        }
        sizes.push(payload);
        lines.extend(unpack(&mut peer, &message));
    }
    let expected: Vec<_> =
        (0..400).map(|n| format!(r#"> Subscribe {} {{"kind":"state","key":"{}"}}"#, n + 1, key(n))).collect();
    assert_eq!(lines, expected);
    let item = HEADER_LEN + 250 + r#"{"kind":"state","key":""}"#.len() + 2;
    assert!(sizes.iter().all(|size| *size <= 64 * 1024) && sizes[0] > 64 * 1024 - item - 5, "{sizes:?}");
    assert_eq!(sizes.len(), 2);
}

#[test]
fn a_batch_is_taken_message_by_message() {
    let mut peer = Peer::v2(config());
    let long = format!(r#"{{"event":"e","data":"{}","timestamp":2}}"#, "x".repeat(300));
    let payload = batch(&[
        (Opcode::ServerEvent, 0, r#"{"event":"e","data":1,"timestamp":1}"#),
        (Opcode::ServerEvent, 0, &long),
        (Opcode::Pong, 0, "null"),
    ]);
    peer.send(Opcode::Batch, 0, &payload);
    peer.check(&["event e 1 1", &format!("event e \"{}\" 2", "x".repeat(300))]);
    peer.send(Opcode::Batch, 0, []);
    peer.check(&[]);
    // Compressed as a whole, with a compressed message inside; with an opcode of a later version.
    let mut payload = [&payload[..]; 3].concat();
    push_item(&mut payload, &[0x33, 0, 0, 0, 0, 0, 0, 0, 0]);
    peer.send(Opcode::Batch, 0, &payload);
    assert_eq!(peer.drain().len(), 6);
    // HELLO may come in one, too.
    let mut peer = opening(config());
    peer.send(Opcode::Batch, 0, batch(&[(Opcode::Hello, 0, HELLO), (Opcode::Pong, 0, "null")]));
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);
}

#[test]
fn a_batch_that_makes_no_sense_ends_the_connection_at_that_message() {
    let event = (Opcode::ServerEvent, 0, r#"{"event":"e","timestamp":1}"#);
    let nested = String::from_utf8(batch(&[(Opcode::Pong, 0, "null")])).unwrap();
    let mut cut = batch(&[event, event]);
    cut.pop();
    let with = |item: &[u8]| {
        let mut payload = batch(&[event]);
        push_item(&mut payload, item);
        payload.extend(batch(&[event]));
        payload
    };
    for payload in [
        batch(&[event, (Opcode::Batch, 0, &nested), event]),
        batch(&[event, (Opcode::Hello, 0, HELLO), event]),
        cut,
        with(&[]),
        with(&[0x2f, 0, 0, 0, 0, 0, 0, 0, 0]),
        with(&[0x78, 1, 2]),
        [&batch(&[event])[..], &[0xff; 12]].concat(),
    ] {
        let mut peer = Peer::v2(config());
        peer.send(Opcode::Batch, 0, &payload);
        peer.check(&["event e empty 1", "close 4004", "waiting 1: Protocol"]);
    }
}

#[test]
fn unknown_opcodes_of_a_later_version_are_ignored_and_others_are_not() {
    for opcode in 0..=255u8 {
        let mut peer = Peer::v2(config());
        let mut compressed = vec![opcode, 0, 0, 0, 0, 0, 0, 1, 44];
        compressed.resize(HEADER_LEN + 300, b' ');
        let compressed = peer.codec.compress(compressed, 256);
        let plain = [opcode, 0, 0, 0, 0, 0, 0, 0, 0];
        for message in [&plain[..], &compressed] {
            peer.bytes(message);
            if Opcode::from_byte(opcode).is_none() {
                let ended = !peer.drain().is_empty();
                assert_eq!(ended, opcode < 0x30 || opcode == 0x78, "{opcode:#x}");
                if ended {
                    break;
                }
            }
        }
    }
    // Version 1 drops what it does not know.
    let mut peer = Peer::v1(config());
    peer.bytes(&[0x33, 0, 0, 0, 0, 0, 0, 0, 0]);
    peer.send(Opcode::Batch, 0, batch(&[(Opcode::ServerEvent, 0, r#"{"event":"e","timestamp":1}"#)]));
    peer.check(&[]);
}

/// The payload of an ENTRY.
fn short(numbers: &[u64], rest: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    numbers.iter().for_each(|number| crate::wire::push_varuint(&mut payload, *number));
    payload.extend_from_slice(rest.as_bytes());
    payload
}

/// Greeted by a server of short frames; `k` and `e` are followed as the streams 7 and 8.
fn short_peer() -> Peer {
    let mut peer = opening(config());
    peer.send(Opcode::Hello, 0, greeting(r#"["short"]"#));
    peer.subscribe(StreamId::state("k"));
    peer.subscribe(StreamId::event("e"));
    peer.drain();
    peer.send(Opcode::Subscribed, 1, r#"{"epoch":5,"seq":3,"recovered":false,"channel":7}"#);
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","version":3,"data":[0],"epoch":5,"seq":3}"#);
    peer.send(Opcode::Subscribed, 2, r#"{"epoch":6,"seq":0,"recovered":false,"channel":8}"#);
    peer.drain();
    peer
}

#[test]
fn short_entries_say_the_same_as_long_ones() {
    let long = |peer: &mut Peer| {
        let patch = r#"{"key":"k","patches":[{"op":"replace","path":"/0","value":1}],"epoch":5,"seq":4}"#;
        peer.send(Opcode::StatePatch, 0, patch);
        peer.send(Opcode::ServerEvent, 0, r#"{"event":"e","data":{"n":1},"timestamp":9,"epoch":6,"seq":1}"#);
        peer.send(Opcode::ServerEvent, 0, r#"{"event":"e","timestamp":10,"epoch":6,"seq":2}"#);
    };
    let in_few_bytes = |peer: &mut Peer| {
        peer.send(Opcode::Entry, 7, short(&[4], r#"[{"op":"replace","path":"/0","value":1}]"#));
        peer.send(Opcode::Entry, 8, short(&[1, 9], r#"{"n":1}"#));
        peer.send(Opcode::Entry, 8, short(&[2, 10], ""));
    };
    let said = |say: &dyn Fn(&mut Peer)| {
        let mut peer = short_peer();
        say(&mut peer);
        let lines = peer.drain();
        // An entry that came already is ignored in either form.
        long(&mut peer);
        in_few_bytes(&mut peer);
        peer.check(&[]);
        lines
    };
    assert_eq!(said(&long), said(&in_few_bytes));
    assert_eq!(said(&long).len(), 3);
}

#[test]
fn a_gap_in_short_entries_is_repaired_and_the_number_given_up() {
    let mut peer = short_peer();
    peer.send(Opcode::Entry, 7, short(&[5], "[]"));
    peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 3 {"kind":"state","key":"k","since":{"epoch":5,"seq":3}}"#]);
    // Of the old subscription; then of none.
    peer.send(Opcode::Entry, 7, short(&[4], "[]"));
    peer.send(Opcode::Entry, 99, short(&[4], "[]"));
    peer.check(&[]);
    // In another life the stream has no number.
    peer.send(Opcode::Subscribed, 3, r#"{"epoch":9,"seq":0,"recovered":false}"#);
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","version":1,"data":0,"epoch":9,"seq":1}"#);
    peer.drain();
    peer.send(Opcode::Entry, 7, short(&[2], "[]"));
    peer.check(&[]);
}

#[test]
fn a_short_entry_that_cannot_be_read_ends_the_connection() {
    let position = 1 << 53;
    for (channel, payload) in [
        (7, vec![]),
        (7, vec![0x80]),
        (7, short(&[4], "")),
        (7, short(&[4], "{}")),
        (7, short(&[4], "[")),
        (7, short(&[position], "[]")),
        (8, short(&[1], "")),
        (8, short(&[1, 9], "{")),
    ] {
        let mut peer = short_peer();
        peer.send(Opcode::Entry, channel, &payload);
        peer.check(&["close 4004", "waiting 1: Protocol"]);
    }
}

#[test]
fn calls_are_short_where_the_server_reads_that() {
    for (features, call) in [
        (r#"["short"]"#, (Opcode::Call, &b"\x03add[1]"[..])),
        (r#"["batch"]"#, (Opcode::RpcRequest, br#"{"method":"add","params":[1],"correlationId":1}"#)),
    ] {
        let mut peer = opening(config());
        peer.send(Opcode::Hello, 0, greeting(features));
        peer.drain();
        let id = peer.client.call(peer.now, Request { params: json("[1]"), ..request("add") }).unwrap();
        let Some(Output::Send { message, .. }) = peer.client.poll_output() else { panic!("it is sent") };
        let frame = peer.codec.decode(&message, &Limits::default()).unwrap();
        assert_eq!((frame.opcode, frame.correlation, frame.payload), (call.0, 1, call.1));
        peer.send(Opcode::Result, 1, "3");
        let outcome = std::iter::from_fn(|| peer.client.poll_output()).find_map(|output| match output {
            Output::Event(Event::CallDone { call, outcome }) if call == id => Some(outcome),
            _ => None,
        });
        assert_eq!(format!("{outcome:?}"), "Some(Ok(Json(RawValue(3))))", "the answer may have any form");
    }
}
