use super::*;

/// Connects, is told HELLO, lives for `lived` and is closed; returns the wait before the next attempt.
fn lose(peer: &mut Peer, hello: &str, lived: u64, code: u16) -> u64 {
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, hello);
    peer.wait(lived);
    peer.close(code);
    peer.drain();
    match peer.client.status() {
        Status::Waiting { until, .. } => *until - peer.now,
        status => panic!("{status:?}"),
    }
}

#[test]
fn reconnects_for_good_once_it_was_open() {
    let mut peer = Peer::v2(hasty());
    peer.wait(5_000);
    peer.drain();
    peer.close(1006);
    for attempt in 1..50 {
        peer.wait(0);
        let lines = peer.drain();
        assert_eq!(lines[1..], [format!("reconnecting {attempt}"), "open ws://h/__ds".into()], "{lines:?}");
        peer.close(1006);
    }
}

#[test]
fn gives_up_after_max_attempts_and_ends_what_waits() {
    let reconnect = Reconnect { cap: 0, max_attempts: Some(2), ..Reconnect::default() };
    let mut peer = Peer::v2(Config { reconnect, ..config() });
    peer.wait(1_000);
    peer.close(1006);
    peer.client.call(peer.now, queued("m")).unwrap();
    peer.wait(0);
    peer.drain();
    peer.close(1006);
    peer.drain();
    peer.wait(0);
    peer.check(&["reconnecting 2", "open ws://h/__ds"]);
    peer.close(1006);
    let lines = peer.drain();
    assert_eq!(lines[0], "done 1 -32104 the client is closed");
    assert!(lines[1].starts_with("disconnected: Closed"));
    peer.client.connect(peer.now);
    peer.check(&["connecting", "open ws://h/__ds"]);
}

#[test]
fn without_reconnect_a_loss_is_final() {
    let reconnect = Reconnect { enabled: false, ..Reconnect::default() };
    let mut peer = Peer::v2(Config { reconnect, ..config() });
    peer.close(1006);
    assert!(peer.drain()[0].starts_with("disconnected: Closed"));
}

#[test]
fn verdicts_reach_the_status() {
    for (code, status) in [(1001, "waiting 1: Closed"), (4001, "waiting 1: Closed"), (1009, "waiting 1: Closed")] {
        let mut peer = Peer::v2(config());
        peer.close(code);
        assert_eq!(peer.drain(), [status], "{code}");
    }
    for code in [1002, 1008, 4003, 4004] {
        let mut peer = Peer::v2(config());
        peer.close(code);
        assert!(peer.drain()[0].starts_with("disconnected: Closed"), "{code}");
    }
    let mut peer = Peer::v2(config());
    peer.close(4002);
    peer.check(&[r#"disconnected: Unauthorized("gone")"#]);
}

#[test]
fn a_server_that_drops_at_once_is_met_with_growing_delays() {
    // Greets, sends, lives just short of a second: every time a failed attempt.
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    let mut waited = 0;
    for _ in 0..40 {
        let wait = lose(&mut peer, HELLO, 999, 1006);
        waited += wait;
        peer.wait(wait);
    }
    assert!(waited > 40 * 5_000, "{waited} ms in 40 attempts");
}

#[test]
fn a_connection_of_a_second_resets_the_delays() {
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    for _ in 0..100 {
        let wait = lose(&mut peer, HELLO, 1_000, 1006);
        assert!(wait <= 1_000, "{wait}");
        assert!(matches!(peer.client.status(), Status::Waiting { attempt: 1, .. }));
        peer.wait(wait);
    }
}

#[test]
fn falling_behind_takes_the_first_delay_again() {
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    for _ in 0..100 {
        let wait = lose(&mut peer, HELLO, 0, 4001);
        assert!(wait <= 1_000, "{wait}");
        peer.wait(wait);
    }
}

#[test]
fn an_announced_window_is_obeyed() {
    let announced = hello("\"epoch\":5", "\"epoch\":5,\"reconnectWindow\":20000");
    for code in [1001, 1006, 1012, 1013] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        let mut longest = 0;
        for _ in 0..100 {
            let wait = lose(&mut peer, &announced, 1_000, code);
            assert!(wait <= 20_000);
            longest = longest.max(wait);
            peer.wait(wait);
        }
        assert!(longest > 15_000, "spread over the window, not over the first delay: {longest}");
    }
    // Falling behind is this client's own affair.
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    assert!(lose(&mut peer, &announced, 1_000, 4001) <= 1_000);
}

#[test]
fn connect_and_hints_cut_a_wait_short() {
    let cut: [fn(&mut Peer); 3] =
        [|peer| peer.client.connect(peer.now), |peer| peer.hint(Hint::Online), |peer| peer.hint(Hint::Visible)];
    for cut in cut {
        let mut peer = Peer::v2(config());
        peer.close(1006);
        peer.drain();
        peer.hint(Hint::Hidden);
        peer.check(&[]);
        cut(&mut peer);
        peer.check(&["reconnecting 1", "open ws://h/__ds"]);
    }
}

#[test]
fn offline_holds_attempts_back_until_online() {
    for offline_first in [true, false] {
        let mut peer = Peer::v2(hasty());
        if offline_first {
            peer.hint(Hint::Offline);
            peer.check(&[]);
            peer.close(1006);
            peer.check(&["waiting 1: Offline"]);
        } else {
            peer.close(1006);
            peer.check(&["waiting 1: Closed"]);
            peer.hint(Hint::Offline);
            peer.check(&["waiting 1: Offline"]);
        }
        assert_eq!(peer.client.poll_timeout(), None);
        peer.hint(Hint::Visible);
        peer.jump(90_000_000);
        peer.check(&[]);
        peer.hint(Hint::Online);
        peer.check(&["reconnecting 1", "open ws://h/__ds"]);
    }
}

#[test]
fn the_user_may_try_while_offline() {
    let mut peer = Peer::v2(config());
    peer.hint(Hint::Offline);
    peer.close(1006);
    peer.drain();
    peer.client.connect(peer.now);
    peer.check(&["reconnecting 1", "open ws://h/__ds"]);
    peer.close(1006);
    peer.check(&["waiting 2: Offline"]);
}
