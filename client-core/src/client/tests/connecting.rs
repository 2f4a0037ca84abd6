use super::*;

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
        let retry_first = Reconnect { retry_first: true, ..Reconnect::default() };
        let mut peer = Peer::new(Config { offer_v2, reconnect: retry_first, ..config() });
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some(protocol));
        peer.check(&["close 1000", r#"disconnected: Protocol("the server chose a subprotocol that was not offered")"#]);
    }
}

#[test]
fn the_first_attempt_is_final_unless_told_otherwise() {
    for (retry_first, last) in [(false, "disconnected: Closed"), (true, "waiting 1: Closed")] {
        let reconnect = Reconnect { retry_first, ..Reconnect::default() };
        let mut peer = Peer::new(Config { reconnect, ..config() });
        let call = peer.client.call(peer.now, queued("m")).unwrap();
        peer.client.connect(peer.now);
        peer.drain();
        peer.close(1006);
        let lines = peer.drain();
        assert!(lines.last().unwrap().starts_with(last), "{lines:?}");
        let ended = lines.contains(&format!("done {} -32104 the client is closed", call.0));
        assert_eq!(ended, !retry_first, "{lines:?}");
    }
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
        peer.check(&["close 1000", "disconnected: ConnectTimeout"]);
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
        (Opcode::Hello, &hello(r#""protocol":2"#, r#""protocol":3"#)),
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
        assert!(lines[1].starts_with("disconnected: Protocol"), "{lines:?}");
    }
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
