use super::*;
use crate::error::CommandError;

#[test]
fn answers_end_calls_in_any_order() {
    let mut peer = Peer::v2(config());
    let params = json(r#"{"a": 1}"#);
    let first = peer.client.call(peer.now, Request { params, ..request("add") }).unwrap();
    let second = peer.call("void");
    let third = peer.call("boom");
    assert_eq!((first, second, third), (CallId(1), CallId(2), CallId(3)));
    peer.check(&[
        r#"> RpcRequest 1 {"method":"add","params":{"a": 1},"correlationId":1}"#,
        r#"> RpcRequest 2 {"method":"void","params":null,"correlationId":2}"#,
        r#"> RpcRequest 3 {"method":"boom","params":null,"correlationId":3}"#,
    ]);
    peer.send(Opcode::RpcResponse, 3, r#"{"correlationId":3,"error":{"code":-32000,"message":"boom","data":{}}}"#);
    peer.send(Opcode::RpcResponse, 2, r#"{"correlationId":2}"#);
    peer.send(Opcode::RpcResponse, 1, r#"{"correlationId":1,"result":[1, 2]}"#);
    peer.send(Opcode::RpcResponse, 1, r#"{"correlationId":1,"result":"twice"}"#);
    peer.check(&["done 3 -32000 boom", "done 2 empty", "done 1 [1, 2]"]);
}

#[test]
fn raw_bytes_go_both_ways_on_version_2() {
    let mut peer = Peer::v2(config());
    let params = Payload::Binary(vec![0, 255]);
    peer.client.call(peer.now, Request { params, ..request("blob") }).unwrap();
    peer.check(&["> RpcRequestBinary 1 \0\0\0#{\"method\":\"blob\",\"correlationId\":1}\0\u{fffd}"]);
    peer.send(Opcode::RpcResponseBinary, 1, crate::wire::join_binary(b"{}", &[7, 8]));
    peer.check(&["done 1 [7, 8]"]);
    peer.client.emit(peer.now, "blob", Payload::Binary(vec![1]), false).unwrap();
    peer.check(&["> ClientEventBinary 0 \0\0\0\u{10}{\"event\":\"blob\"}\u{1}"]);
}

#[test]
fn raw_bytes_are_refused_on_version_1() {
    let bytes = || Payload::Binary(vec![1]);
    let mut peer = Peer::new(config());
    let call = |queue| Request { params: bytes(), queue, ..request("blob") };
    peer.client.call(peer.now, call(true)).unwrap();
    peer.client.emit(peer.now, "blob", bytes(), true).unwrap();
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(None);
    peer.check(&[
        r#"connected v1 "" None"#,
        "done 1 -32600 a call with raw bytes needs protocol version 2, the server speaks version 1",
    ]);
    assert!(matches!(peer.client.call(peer.now, call(false)), Err(CommandError::NeedsV2 { .. })));
    assert!(matches!(peer.client.emit(peer.now, "blob", bytes(), true), Err(CommandError::NeedsV2 { .. })));
    peer.check(&[]);
}

#[test]
fn deadlines_end_calls_wherever_they_are() {
    let mut peer = Peer::v2(config());
    peer.client.call(peer.now, Request { timeout: Some(50), ..request("slow") }).unwrap();
    peer.client.call(peer.now, request("slower")).unwrap();
    peer.drain();
    assert_eq!(peer.client.poll_timeout(), Some(peer.now + 50));
    assert_eq!(peer.client.timeout_reason(), Some(crate::TimerKind::Call));
    peer.wait(49);
    peer.check(&[]);
    peer.wait(1);
    peer.check(&["> Cancel 1 null", "done 1 -32100 RPC timeout: slow (50ms)"]);
    peer.send(Opcode::RpcResponse, 1, r#"{"correlationId":1,"result":"late"}"#);
    peer.check(&[]);

    peer.close(1006);
    peer.client.call(peer.now, Request { timeout: Some(0), ..queued("waits") }).unwrap();
    peer.wait(0);
    let lines = peer.drain();
    assert!(lines.contains(&"done 3 -32100 RPC timeout: waits (0ms)".into()), "{lines:?}");
}

#[test]
fn version_1_is_not_told_of_calls_given_up() {
    let mut peer = Peer::v1(config());
    peer.client.call(peer.now, Request { timeout: Some(50), ..request("slow") }).unwrap();
    let cancelled = peer.call("slow");
    peer.drain();
    assert!(peer.client.cancel(peer.now, cancelled));
    peer.wait(50);
    peer.check(&["done 2 -32102 cancelled", "done 1 -32100 RPC timeout: slow (50ms)"]);
}

#[test]
fn cancelling_ends_a_call_once() {
    let mut peer = Peer::v2(config());
    let call = peer.call("m");
    peer.drain();
    assert!(peer.client.cancel(peer.now, call));
    assert!(!peer.client.cancel(peer.now, call));
    assert!(!peer.client.cancel(peer.now, CallId(99)));
    peer.check(&["> Cancel 1 null", "done 1 -32102 cancelled"]);
    peer.send(Opcode::RpcResponse, 1, r#"{"correlationId":1}"#);
    peer.check(&[]);
}

#[test]
fn errors_and_unreadable_answers_end_calls() {
    let mut peer = Peer::v1(config());
    for _ in 0..4 {
        peer.call("m");
    }
    peer.drain();
    peer.send(Opcode::Error, 1, r#"{"message":"Rate limit exceeded","retryAfter":7}"#);
    peer.send(Opcode::Error, 2, r#"{"message":"too many","code":-32004}"#);
    peer.send(Opcode::Error, 3, "not json");
    peer.send(Opcode::RpcResponse, 4, r#"{"correlationId":4,"error":{}}"#);
    peer.send(Opcode::Error, 0, r#"{"message":"of no call"}"#);
    peer.check(&[
        "done 1 -32000 Rate limit exceeded",
        "done 2 -32004 too many",
        "done 3 -32700 the answer cannot be read",
        "done 4 -32700 the answer cannot be read",
    ]);
}

#[test]
fn a_retry_hint_is_passed_on() {
    let mut peer = Peer::v2(config());
    peer.call("m");
    peer.drain();
    peer.send(Opcode::Error, 1, r#"{"message":"slow down","code":-32004,"retryAfter":250}"#);
    let output = peer.client.poll_output();
    let Some(Output::Event(Event::CallDone { outcome: Err(error), .. })) = output else { panic!("{output:?}") };
    assert!(matches!(error, crate::CallError::Server { retry_after: Some(250), .. }), "{error:?}");
    assert!(error.retryable());
}

#[test]
fn a_lost_connection_ends_calls_in_flight_and_keeps_queued_ones() {
    let mut peer = Peer::v2(hasty());
    peer.call("flying");
    peer.drain();
    peer.close(1006);
    peer.check(&["done 1 -32101 connection lost before the answer to flying", "waiting 1: Closed"]);
    assert!(matches!(peer.client.call(peer.now, request("m")), Err(CommandError::NotConnected)));
    assert_eq!(peer.client.emit(peer.now, "e", Payload::Empty, false), Err(CommandError::NotConnected));
    peer.client.call(peer.now, queued("first")).unwrap();
    peer.emit("second", true);
    let gone = peer.client.call(peer.now, queued("gone")).unwrap();
    peer.client.call(peer.now, queued("third")).unwrap();
    assert!(peer.client.cancel(peer.now, gone));
    peer.wait(0);
    peer.opened(Some("datasole.v2"));
    peer.check(&["done 3 -32102 cancelled", "reconnecting 1", "open ws://h/__ds"]);
    peer.opened(Some("datasole.v2"));
    peer.check(&[]);
    peer.send(Opcode::Hello, 0, HELLO);
    peer.check(&[
        r#"connected v2 "c1" Some("ann")"#,
        r#"> RpcRequest 1 {"method":"first","params":null,"correlationId":1}"#,
        r#"> ClientEvent 0 {"event":"second"}"#,
        r#"> RpcRequest 2 {"method":"third","params":null,"correlationId":2}"#,
    ]);
    peer.send(Opcode::RpcResponse, 2, "{}");
    peer.check(&["done 4 empty"]);
}

#[test]
fn queued_work_goes_out_on_version_1_as_soon_as_it_is_open() {
    let mut peer = Peer::new(config());
    peer.client.emit(peer.now, "e", json("[1]"), true).unwrap();
    peer.client.call(peer.now, queued("m")).unwrap();
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(None);
    peer.check(&[
        r#"connected v1 "" None"#,
        r#"> ClientEvent 0 {"event":"e","data":[1]}"#,
        r#"> RpcRequest 1 {"method":"m","params":null,"correlationId":1}"#,
    ]);
}

#[test]
fn names_have_one_to_max_name_bytes() {
    let mut peer = Peer::v2(Config { limits: Limits { max_name: 4, ..Limits::default() }, ..config() });
    for (name, good) in [("", false), ("abc", true), ("abcd", true), ("abcde", false), ("éé", true), ("ééé", false)]
    {
        assert_eq!(peer.client.call(peer.now, request(name)).is_ok(), good, "{name}");
        assert_eq!(peer.client.emit(peer.now, name, Payload::Empty, false).is_ok(), good, "{name}");
        assert_eq!(peer.client.subscribe(peer.now, StreamId::state(name)).is_ok(), good, "{name}");
    }
}

#[test]
fn pending_calls_are_bounded() {
    let limits = Limits { max_pending_calls: 2, ..Limits::default() };
    let mut peer = Peer::v2(Config { limits, ..config() });
    peer.call("m");
    peer.call("m");
    let refused = peer.client.call(peer.now, request("m"));
    assert_eq!(refused, Err(CommandError::Limit { what: "pending calls", limit: 2 }));
    peer.send(Opcode::RpcResponse, 1, "{}");
    peer.call("m");
}

/// `{"event":"e","data":"…"}` with a payload of `bytes` bytes.
fn event_of(bytes: usize) -> Payload {
    json(&format!("\"{}\"", "a".repeat(bytes - r#"{"event":"e","data":""}"#.len())))
}

fn check_payload_limit(peer: &mut Peer, queue: bool) {
    for (bytes, fits) in [(99, true), (100, true), (101, false)] {
        let outcome = peer.client.emit(peer.now, "e", event_of(bytes), queue);
        assert_eq!(outcome.is_ok(), fits, "{bytes} bytes: {outcome:?}");
    }
    let large = Request { params: event_of(200), queue, ..request("m") };
    assert!(matches!(peer.client.call(peer.now, large), Err(CommandError::TooLarge { limit: 100, .. })));
}

#[test]
fn our_payload_limit_holds_before_anything_is_queued() {
    let limits = Limits { max_payload: 100, ..Limits::default() };
    let mut peer = Peer::v1(Config { limits, ..config() });
    check_payload_limit(&mut peer, false);
    peer.close(1006);
    peer.drain();
    check_payload_limit(&mut peer, true);
    peer.check(&[]);
}

#[test]
fn the_servers_payload_limit_holds_when_it_is_smaller() {
    let open = |limit: usize, config| {
        let mut peer = Peer::new(config);
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v2"));
        peer.send(Opcode::Hello, 0, hello("\"maxPayload\":1048576", &format!("\"maxPayload\":{limit}")));
        peer.drain();
        peer
    };
    check_payload_limit(&mut open(100, config()), false);

    let ours = 1_000;
    let mut peer = open(ours + 1, Config { limits: Limits { max_payload: ours, ..Limits::default() }, ..config() });
    assert!(peer.client.emit(peer.now, "e", event_of(ours), false).is_ok());
    assert!(peer.client.emit(peer.now, "e", event_of(ours + 1), false).is_err());
}

#[test]
fn what_was_queued_may_be_too_large_for_the_server_that_comes() {
    let mut peer = Peer::new(config());
    let large = Request { params: event_of(200), ..queued("m") };
    peer.client.call(peer.now, large).unwrap();
    peer.client.emit(peer.now, "e", event_of(200), true).unwrap();
    peer.client.call(peer.now, queued("small")).unwrap();
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, hello("\"maxPayload\":1048576", "\"maxPayload\":100"));
    peer.check(&[
        r#"connected v2 "c1" Some("ann")"#,
        "done 1 -32005 payload of 221 bytes exceeds the limit of 100",
        r#"> RpcRequest 2 {"method":"small","params":null,"correlationId":2}"#,
    ]);
}

#[test]
fn the_queue_is_bounded() {
    let limits = Limits { max_queued: 2, ..Limits::default() };
    let mut peer = Peer::new(Config { limits, ..config() });
    peer.emit("e", true);
    let call = peer.client.call(peer.now, queued("m")).unwrap();
    let refused = peer.client.emit(peer.now, "e", Payload::Empty, true);
    assert_eq!(refused, Err(CommandError::Limit { what: "queued calls and events", limit: 2 }));
    assert!(peer.client.call(peer.now, queued("m")).is_err());
    peer.client.cancel(peer.now, call);
    peer.emit("e", true);
}

#[test]
fn correlation_ids_wrap_around_and_skip_what_is_in_use() {
    let mut peer = Peer::v2(config());
    peer.subscribe(StreamId::state("k"));
    peer.call("m");
    peer.client.phase.link().unwrap().last_correlation = u32::MAX - 1;
    peer.drain();
    peer.call("m");
    peer.call("m");
    peer.client.refresh_token(peer.now, None);
    peer.check(&[
        r#"> RpcRequest 4294967295 {"method":"m","params":null,"correlationId":4294967295}"#,
        r#"> RpcRequest 3 {"method":"m","params":null,"correlationId":3}"#,
        r#"> Auth 4 {"token":null}"#,
    ]);
}

#[test]
fn the_server_sets_the_compression_threshold() {
    for (threshold, compressed) in [(100_000, false), (0, true)] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v2"));
        let value = format!("\"compressAbove\":{threshold}");
        peer.send(Opcode::Hello, 0, hello("\"compressAbove\":256", &value));
        peer.drain();
        peer.client.emit(peer.now, "e", event_of(1_000), false).unwrap();
        let output = peer.client.poll_output();
        let Some(Output::Send { message, .. }) = output else { panic!("{output:?}") };
        assert_eq!(message[0] == crate::frame::ZLIB_MARK, compressed);
    }
}
