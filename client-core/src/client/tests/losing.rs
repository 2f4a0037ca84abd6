use super::*;
use crate::reconnect::OBJECTIONS;

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

/// Where the next socket is opened.
fn opened_at(peer: &mut Peer) -> String {
    peer.wait(0);
    let lines = peer.drain();
    lines.iter().find_map(|line| line.strip_prefix("open ")).unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

#[test]
fn goes_on_to_the_next_endpoint_where_one_does_not_answer() {
    const URLS: [&str; 3] = ["ws://a/__ds", "ws://b/__ds", "ws://c/__ds"];
    let of = |url: &str| URLS.iter().position(|known| *known == url).unwrap();
    let mut begun = [0; 3];
    for seed in 1..=60_u32 {
        let mut peer = Peer::new(hasty());
        let bytes = std::array::from_fn(|at| seed.wrapping_mul(0x9e37_79b1).rotate_left(at as u32 * 5) as u8);
        peer.client = Client::new(Config { url: URLS.join(" "), ..hasty() }, Seed(bytes));
        peer.client.connect(peer.now);
        let mut at = of(&opened_at(&mut peer));
        begun[at] += 1;
        // Refused, again and again: each in turn.
        for _ in 0..7 {
            peer.close(1006);
            at = (at + 1) % 3;
            assert_eq!(of(&opened_at(&mut peer)), at);
        }
        for (lived, code, moves) in
            [(1_000, 1006, 0), (999, 1006, 1), (1_000, 1001, 1), (1_000, 1012, 1), (5_000, 1011, 0)]
        {
            peer.open_v2();
            peer.wait(lived);
            peer.close(code);
            at = (at + moves) % 3;
            assert_eq!(of(&opened_at(&mut peer)), at, "{code} after {lived} ms");
        }
    }
    assert!(begun.iter().all(|count| *count >= 10), "they begin anywhere: {begun:?}");
}

#[test]
fn the_token_goes_to_every_endpoint() {
    let mut peer = Peer::new(Config { url: "ws://a/x ws://b/x?y".into(), token: Some("t".into()), ..hasty() });
    peer.client.connect(peer.now);
    let first = opened_at(&mut peer);
    peer.close(1006);
    let mut both = [first, opened_at(&mut peer)];
    both.sort();
    assert_eq!(both, ["ws://a/x?token=t", "ws://b/x?y&token=t"]);
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
fn each_endpoint_is_tried_once_whatever_bounds_the_attempts() {
    let never = Reconnect { enabled: false, cap: 0, ..Reconnect::default() };
    let at_most = |most| Reconnect { cap: 0, max_attempts: Some(most), ..Reconnect::default() };
    let urls = "ws://a/__ds ws://b/__ds ws://c/__ds";
    for (reconnect, attempts) in [(never, 3), (at_most(0), 3), (at_most(2), 3), (at_most(3), 4)] {
        let mut peer = Peer::new(Config { url: urls.into(), reconnect, ..config() });
        // Again after the end.
        for _ in 0..2 {
            peer.client.connect(peer.now);
            let mut tried = Vec::new();
            for _ in 0..attempts {
                tried.push(opened_at(&mut peer));
                peer.close(1006);
            }
            assert!(
                matches!(peer.client.status(), Status::Disconnected(_)),
                "{reconnect:?}: {:?}",
                peer.client.status()
            );
            peer.drain();
            tried.sort();
            tried.dedup();
            assert_eq!(tried.len(), 3, "{reconnect:?}");
        }
        // The last of them answers; what it loses is bounded as with one endpoint.
        peer.client.connect(peer.now);
        for _ in 0..2 {
            opened_at(&mut peer);
            peer.close(1006);
        }
        opened_at(&mut peer);
        peer.open_v2();
        peer.wait(1_000);
        peer.close(1006);
        let goes_on = reconnect.enabled && reconnect.max_attempts != Some(0);
        assert_eq!(matches!(peer.client.status(), Status::Waiting { .. }), goes_on, "{reconnect:?}");
    }
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
    for code in [1001, 1002, 1003, 1007, 1008, 1009, 1010, 4001] {
        let mut peer = Peer::v2(config());
        peer.close(code);
        assert_eq!(peer.drain(), ["waiting 1: Closed"], "{code}");
    }
    for code in [4003, 4004] {
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
fn what_a_proxy_may_say_is_final_only_several_times_in_a_row() {
    // A proxy that says goodbye in the wrong words, once per reload.
    let mut peer = Peer::new(config());
    peer.client.connect(peer.now);
    for _ in 0..50 {
        let wait = lose(&mut peer, HELLO, 1_000, 1002);
        peer.wait(wait);
    }
    // A server that means it.
    for _ in 2..OBJECTIONS {
        let wait = lose(&mut peer, HELLO, 999, 1002);
        peer.wait(wait);
    }
    peer.drain();
    peer.open_v2();
    peer.close(1002);
    assert!(matches!(peer.client.status(), Status::Disconnected(_)));
    // Called again, it starts over.
    peer.client.connect(peer.now);
    lose(&mut peer, HELLO, 0, 1002);
}

#[test]
fn retry_after_is_waited_for_within_an_hour() {
    for (asked, least) in [(0, 0), (7_000, 7_000), (3_600_000, 3_600_000), (u64::MAX, 3_600_000)] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        let close = SocketClose { http_status: Some(429), retry_after: Some(asked), ..SocketClose::default() };
        peer.input(Input::SocketClosed { socket: peer.socket, close });
        let Status::Waiting { until, .. } = peer.client.status() else { panic!() };
        assert!((least..=least + 1_000).contains(&(*until - peer.now)), "{asked}: {until:?}");
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
