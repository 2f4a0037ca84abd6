use super::*;

#[test]
fn contracts_are_compared_where_both_are_known() {
    let of = |ours: Option<&str>, theirs: &str| {
        let mut peer = Peer::new(Config { contract: ours.map(Into::into), ..config() });
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v2"));
        peer.send(Opcode::Hello, 0, hello(r#""heartbeat""#, &format!(r#"{theirs}"heartbeat""#)));
        peer.drain();
        match peer.client.status() {
            Status::Connected { same_contract, .. } => *same_contract,
            status => panic!("{status:?}"),
        }
    };
    assert_eq!(of(Some("a1"), r#""contract":"a1","#), Some(true));
    assert_eq!(of(Some("a1"), r#""contract":"b2","#), Some(false));
    assert_eq!(of(Some("a1"), ""), None, "the server names none");
    assert_eq!(of(Some("a1"), r#""contract":null,"#), None);
    assert_eq!(of(None, r#""contract":"b2","#), None, "the client names none");
}

#[test]
fn opens_with_both_subprotocols_and_waits_for_hello() {
    let mut peer = Peer::new(config());
    assert_eq!(peer.client.status(), &Status::Disconnected(crate::DisconnectReason::Idle));
    assert_eq!((peer.client.poll_timeout(), peer.client.timeout_reason()), (None, None));
    peer.client.connect(peer.now);
    peer.client.connect(peer.now);
    peer.check(&["connecting", "open ws://h/__ds"]);
    peer.opened(Some("datasole.v2"));
    peer.check(&[]);
    peer.send(Opcode::Hello, 0, HELLO);
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);
    peer.client.connect(peer.now);
    peer.check(&[]);
}

#[test]
fn offers_version_2_unless_told_not_to() {
    for (offer_v2, offered) in [(true, &["datasole.v1", "datasole.v2"][..]), (false, &["datasole.v1"][..])] {
        let mut client = Client::new(Config { offer_v2, ..config() }, Seed([1; 32]));
        client.connect(Millis(0));
        let protocols = std::iter::from_fn(|| client.poll_output()).find_map(|output| match output {
            Output::OpenSocket { protocols, .. } => Some(protocols),
            _ => None,
        });
        assert_eq!(protocols, Some(offered));
    }
}

#[test]
fn no_subprotocol_or_the_first_is_version_1() {
    for protocol in [None, Some(""), Some("datasole.v1")] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(protocol);
        peer.check(&[r#"connected v1 "" None"#]);
    }
}

#[test]
fn a_subprotocol_that_was_not_offered_is_final() {
    for (offer_v2, protocol) in [(true, "datasole.v3"), (false, "datasole.v2")] {
        let mut peer = Peer::new(Config { offer_v2, ..config() });
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some(protocol));
        peer.check(&["close 1000", r#"disconnected: Protocol("the server chose a subprotocol that was not offered")"#]);
    }
}

#[test]
fn a_first_attempt_that_fails_is_repeated_as_the_policy_allows() {
    for (reconnect, last) in [
        (Reconnect::default(), "waiting 1: Closed"),
        (Reconnect { max_attempts: Some(1), ..Reconnect::default() }, "waiting 1: Closed"),
        (Reconnect { max_attempts: Some(0), ..Reconnect::default() }, "disconnected: Closed"),
        (Reconnect { enabled: false, ..Reconnect::default() }, "disconnected: Closed"),
    ] {
        let mut peer = Peer::new(Config { reconnect, ..config() });
        let call = peer.client.call(peer.now, queued("m")).unwrap();
        peer.client.connect(peer.now);
        peer.drain();
        peer.close(1006);
        let lines = peer.drain();
        assert!(lines.last().unwrap().starts_with(last), "{lines:?}");
        let ended = lines.contains(&format!("done {} -32104 the client is closed", call.0));
        assert_eq!(ended, last.starts_with("disconnected"), "{lines:?}");
    }
}

#[test]
fn only_verdicts_of_a_server_end_the_first_attempts() {
    let http = |status, by_datasole| SocketClose { http_status: Some(status), by_datasole, ..SocketClose::default() };
    let code = |code| SocketClose { code: Some(code), ..SocketClose::default() };
    for (close, ends) in [
        (http(401, true), true),
        (http(403, true), true),
        (code(4002), true),
        (code(4003), true),
        (http(401, false), false),
        (http(403, false), false),
        (http(429, false), false),
        (http(502, false), false),
        (http(503, true), false),
        (code(1002), false),
        (code(1006), false),
        (code(1013), false),
    ] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        peer.input(Input::SocketClosed { socket: peer.socket, close: close.clone() });
        assert_eq!(matches!(peer.client.status(), Status::Disconnected(_)), ends, "{close:?}");
    }
}

#[test]
fn what_is_sent_before_the_first_connection_waits_with_its_deadline() {
    let mut peer = Peer::new(Config { limits: Limits { max_queued: 3, ..Limits::default() }, ..hasty() });
    for early in
        [peer.client.call(peer.now, request("m")).err(), peer.client.emit(peer.now, "e", Payload::Empty, false).err()]
    {
        assert_eq!(early, Some(crate::CommandError::NotConnected), "never called");
    }
    peer.client.connect(peer.now);
    let impatient = peer.client.call(peer.now, Request { timeout: Some(500), ..request("slow") }).unwrap();
    peer.drain();
    peer.close(1006);
    // Between the attempts as well.
    peer.emit("e", false);
    let patient = peer.call("m");
    let full = peer.client.emit(peer.now, "e", Payload::Empty, false);
    assert_eq!(full, Err(crate::CommandError::Limit { what: "queued calls and events", limit: 3 }));
    peer.drain();
    peer.wait(0);
    peer.drain();
    peer.wait(499);
    peer.check(&[]);
    peer.wait(1);
    peer.check(&[&format!("done {} -32100 RPC timeout: slow (500ms)", impatient.0)]);
    peer.open_v2();
    peer.check(&[
        r#"connected v2 "c1" Some("ann")"#,
        r#"> ClientEvent 0 {"event":"e"}"#,
        r#"> RpcRequest 1 {"method":"m","params":null,"correlationId":1}"#,
    ]);
    peer.send(Opcode::RpcResponse, 1, r#"{"correlationId":1,"result":1}"#);
    peer.check(&[&format!("done {} 1", patient.0)]);
    // Once it was open, what may not wait is refused.
    peer.close(1006);
    peer.drain();
    assert_eq!(peer.client.emit(peer.now, "e", Payload::Empty, false), Err(crate::CommandError::NotConnected));
}

#[test]
fn a_greeting_that_is_held_back_is_asked_for_after_a_second() {
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.wait(999);
    peer.check(&[]);
    peer.wait(1);
    peer.check(&["> Ping 0 null"]);
    peer.wait(8_000);
    peer.check(&[]);
    peer.send(Opcode::Hello, 0, HELLO);
    peer.send(Opcode::Pong, 0, "null");
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);

    // One that comes in time, and one that is authenticated by a frame, are not asked for.
    let mut peer = Peer::v2(config());
    peer.wait(1_000);
    peer.check(&[]);
    let mut peer = Peer::new(Config { token_via: crate::TokenVia::Frame, ..config() });
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.drain();
    peer.wait(5_000);
    peer.check(&[]);
}

#[test]
fn an_attempt_has_a_deadline_until_hello() {
    for until_hello in [false, true] {
        let mut peer = Peer::new(Config { connect_timeout: 500, ..config() });
        peer.client.connect(peer.now);
        peer.drain();
        if until_hello {
            peer.wait(200);
            peer.opened(Some("datasole.v2"));
        }
        assert_eq!(peer.client.timeout_reason(), Some(crate::TimerKind::Connect));
        peer.jump(1_000_499);
        peer.check(&[]);
        peer.jump(1_000_500);
        peer.check(&["close 1000", "waiting 1: ConnectTimeout"]);
        peer.opened(Some("datasole.v2"));
        peer.close(1006);
        peer.check(&[]);
    }
}

#[test]
fn greetings_that_make_no_sense_end_the_attempt() {
    for (opcode, payload) in [
        (Opcode::Hello, ""),
        (Opcode::Hello, "{}"),
        (Opcode::Hello, &hello(r#""heartbeat":15000"#, r#""heartbeat":-1"#)),
        (Opcode::ServerEvent, r#"{"event":"e"}"#),
        (Opcode::Subscribed, r#"{"epoch":1,"seq":1,"recovered":true}"#),
    ] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v2"));
        peer.send(opcode, 0, payload);
        let lines = peer.drain();
        assert_eq!(lines[0], "close 4004", "{opcode:?} {payload}");
        assert_eq!(lines[1], "waiting 1: Protocol");
    }
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, hello(r#""protocol":2"#, r#""protocol":3"#));
    peer.check(&["close 1000", r#"disconnected: Protocol("HELLO is of another version")"#]);
}

#[test]
fn a_second_hello_is_a_violation() {
    let mut peer = Peer::v2(config());
    peer.send(Opcode::Hello, 0, HELLO);
    peer.check(&["close 4004", "waiting 1: Protocol"]);
}

#[test]
fn close_ends_everything_but_subscriptions() {
    let mut peer = Peer::v2(config());
    peer.subscribe(StreamId::state("k"));
    peer.call("m");
    peer.drain();
    peer.client.close(peer.now);
    peer.check(&["close 1000", "done 1 -32104 the client is closed", "disconnected: ClosedByUser"]);
    peer.client.close(peer.now);
    peer.close(1000);
    peer.check(&[]);
    assert_eq!(peer.client.poll_timeout(), None);
    for queue in [false, true] {
        assert_eq!(peer.client.emit(peer.now, "e", Payload::Empty, queue), Err(crate::CommandError::Closed));
    }

    peer.client.connect(peer.now);
    peer.check(&["connecting", "open ws://h/__ds"]);
    peer.open_v2();
    peer.check(&[r#"connected v2 "c1" Some("ann")"#, r#"> Subscribe 1 {"kind":"state","key":"k"}"#]);
}

#[test]
fn close_ends_every_phase() {
    let enter: [fn(&mut Peer); 4] = [
        |_| {},
        |peer| peer.client.connect(peer.now),
        |peer| {
            peer.client.connect(peer.now);
            peer.drain();
            peer.opened(Some("datasole.v2"));
        },
        |peer| {
            peer.client.connect(peer.now);
            peer.drain();
            peer.open_v2();
            peer.close(1006);
        },
    ];
    for (index, enter) in enter.iter().enumerate() {
        let mut peer = Peer::new(config());
        enter(&mut peer);
        peer.drain();
        peer.client.close(peer.now);
        assert_eq!(peer.drain().last().unwrap(), "disconnected: ClosedByUser", "phase {index}");
        assert_eq!(peer.client.poll_timeout(), None, "phase {index}");
    }
}

#[test]
fn inputs_of_dead_or_unknown_sockets_are_ignored() {
    let mut peer = Peer::v2(hasty());
    let old = peer.socket;
    peer.close(1006);
    peer.wait(0);
    peer.check(&["waiting 1: Closed", "reconnecting 1", "open ws://h/__ds"]);
    let hello = peer.codec.encode(Opcode::Hello, 0, HELLO.as_bytes(), 256);
    for socket in [old, SocketId(0), SocketId(99)] {
        peer.input(Input::SocketOpened { socket, protocol: Some("datasole.v2") });
        peer.input(Input::Message { socket, bytes: &hello });
        peer.input(Input::SocketClosed { socket, close: SocketClose::default() });
    }
    // The right socket, but too early and twice.
    peer.bytes(&hello);
    peer.check(&[]);
    peer.opened(Some("datasole.v2"));
    peer.opened(Some("datasole.v2"));
    peer.bytes(&hello);
    peer.opened(Some("datasole.v1"));
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);
}
