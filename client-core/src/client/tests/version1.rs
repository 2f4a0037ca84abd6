use super::*;

fn patch(peer: &mut Peer, key: &str, ops: &str) {
    peer.send(Opcode::StatePatch, 0, format!(r#"{{"key":"{key}","patches":{ops}}}"#));
}

#[test]
fn every_key_is_forwarded_and_counted() {
    let mut peer = Peer::v1(config());
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"a","version":9,"data":null}"#);
    patch(&mut peer, "a", "[]");
    patch(&mut peer, "b", r#"[{"op":"add","path":"/x","value":1}]"#);
    patch(&mut peer, "a", "[]");
    peer.check(&[
        "snapshot a 0:1 null",
        "patch a 0:2 []",
        "snapshot b 0:0 {}",
        r#"patch b 0:1 [{"op":"add","path":"/x","value":1}]"#,
        "patch a 0:3 []",
    ]);
}

#[test]
fn the_first_path_decides_what_an_unknown_key_starts_from() {
    for (path, start) in
        [("/0", "[]"), ("/12/name", "[]"), ("/-", "[]"), ("/a", "{}"), ("/0a", "{}"), ("", "{}"), ("/", "{}")]
    {
        let mut peer = Peer::v1(config());
        patch(&mut peer, "k", &format!(r#"[{{"op":"add","path":"{path}","value":1}},{{"op":"x","path":"/0"}}]"#));
        assert_eq!(peer.drain()[0], format!("snapshot k 0:0 {start}"), "{path}");
    }
}

#[test]
fn a_repeated_connection_warns_of_stale_values() {
    let mut peer = Peer::v1(hasty());
    peer.subscribe(StreamId::state("k"));
    peer.check(&["subscribed 1 k anew"]);
    patch(&mut peer, "k", "[]");
    peer.drain();
    peer.close(1006);
    peer.wait(0);
    peer.drain();
    peer.opened(None);
    patch(&mut peer, "k", "[]");
    peer.check(&[r#"connected v1 "" None"#, "subscribed 1 k anew", "patch k 0:2 []"]);
    assert!(!peer.client.resync(peer.now, &StreamId::state("k"), false));
    assert!(peer.client.unsubscribe(peer.now, SubscriptionId(1)));
    peer.check(&[]);
}

#[test]
fn positions_do_not_survive_a_change_of_version() {
    let mut peer = Peer::v2(hasty());
    peer.subscribe(StreamId::state("k"));
    peer.send(Opcode::Subscribed, 1, r#"{"epoch":8,"seq":3,"recovered":false}"#);
    peer.send(Opcode::StateSnapshot, 0, r#"{"key":"k","data":1,"epoch":8,"seq":3}"#);
    peer.close(1001);
    peer.wait(0);
    peer.drain();
    peer.opened(None);
    patch(&mut peer, "k", "[]");
    peer.check(&[r#"connected v1 "" None"#, "subscribed 1 k anew", "snapshot k 0:0 {}", "patch k 0:1 []"]);
    peer.close(1001);
    peer.wait(1_000);
    peer.drain();
    peer.open_v2();
    peer.check(&[r#"connected v2 "c1" Some("ann")"#, r#"> Subscribe 1 {"kind":"state","key":"k"}"#]);
}

#[test]
fn keys_are_bounded_but_for_those_that_are_subscribed() {
    let limits = Limits { max_subscriptions: 2, max_name: 3, ..Limits::default() };
    let mut peer = Peer::v1(Config { limits, ..config() });
    for key in ["long", "a", "b", "c", "a"] {
        peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"{key}","data":0}}"#));
    }
    peer.check(&["snapshot a 0:1 0", "snapshot b 0:1 0", "snapshot a 0:2 0"]);
    for round in ["d", "e", "f", "g"] {
        let id = peer.subscribe(StreamId::state(round));
        peer.drain();
        peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"{round}","data":0}}"#));
        peer.check(&[&format!("snapshot {round} 0:1 0")]);
        peer.client.unsubscribe(peer.now, id);
        peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"{round}","data":0}}"#));
        peer.check(&[]);
    }
}

#[test]
fn what_cannot_be_read_is_dropped_and_the_connection_kept() {
    let mut peer = Peer::v1(config());
    peer.bytes(b"");
    peer.bytes(b"\x02\0\0");
    peer.bytes(b"\xff\0\0\0\0\0\0\0\0");
    peer.bytes(b"\x78\x9cgarbage");
    for (opcode, payload) in [
        (Opcode::ServerEvent, "{}"),
        (Opcode::ServerEvent, "\u{0}"),
        (Opcode::StatePatch, r#"{"key":"k","patches":{}}"#),
        (Opcode::StatePatch, r#"{"key":"k"}"#),
        (Opcode::StateSnapshot, r#"{"data":1}"#),
        (Opcode::RpcResponse, "garbage for nobody"),
        (Opcode::CrdtState, "{}"),
        (Opcode::Ping, "null"),
        (Opcode::Hello, HELLO),
        (Opcode::Subscribed, r#"{"epoch":1,"seq":1,"recovered":true}"#),
        (Opcode::RpcResponseBinary, ""),
    ] {
        peer.send(opcode, 0, payload);
    }
    peer.check(&[]);
    peer.send(Opcode::ServerEvent, 0, r#"{"event":"e","data":1,"timestamp":2}"#);
    peer.check(&["event e 1 2"]);
}

/// The recorded session of the existing implementation; the client half must be what this client would send.
#[test]
fn the_recorded_session_replays() {
    #[derive(serde::Deserialize)]
    struct Session {
        messages: Vec<Message>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        from: String,
        wire: String,
    }
    let text = include_str!("../../../../tests/vectors/v1-session.json");
    let session: Session = serde_json::from_str(text).unwrap();
    let mut peer = Peer::v1(config());
    let mut codec = Codec::default();
    let mut calls = 0;
    for Message { from, wire } in session.messages {
        let bytes: Vec<u8> =
            (0..wire.len()).step_by(2).map(|at| u8::from_str_radix(&wire[at..at + 2], 16).unwrap()).collect();
        if from == "server" {
            peer.bytes(&bytes);
            continue;
        }
        let frame = codec.decode(&bytes, &Limits::default()).unwrap();
        if frame.opcode != Opcode::RpcRequest {
            continue;
        }
        let theirs: crate::wire::RpcRequest<'_> = serde_json::from_slice(frame.payload).unwrap();
        let params = theirs.params.map_or(Payload::Empty, |raw| Payload::Json(raw.to_owned()));
        peer.client.call(peer.now, Request { params, ..request(&theirs.method) }).unwrap();
        calls += 1;
        let ours = std::iter::from_fn(|| peer.client.poll_output()).find_map(|output| match output {
            Output::Send { message, .. } => Some(message),
            _ => None,
        });
        let ours = codec.decode(&ours.unwrap(), &Limits::default()).map(|frame| frame.payload.to_vec()).unwrap();
        let theirs = codec.decode(&bytes, &Limits::default()).unwrap();
        assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(theirs.payload));
    }
    assert!(calls > 3);
    peer.drain();
    peer.client.close(peer.now);
    assert_eq!(peer.drain(), ["close 1000", "disconnected: ClosedByUser"], "every call was answered");
}
