use super::*;
use crate::time::TimerKind;

/// Open with a heartbeat of 1 s.
fn peer(v1: bool) -> Peer {
    if v1 {
        return Peer::v1(Config { heartbeat: 1_000, ..config() });
    }
    let mut peer = Peer::new(Config { heartbeat: 77_000, ..config() });
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, hello("\"heartbeat\":15000", "\"heartbeat\":1000"));
    peer.drain();
    peer
}

#[test]
fn silence_is_asked_after_one_interval_and_ends_after_two() {
    for v1 in [true, false] {
        let mut peer = peer(v1);
        assert_eq!(peer.client.timeout_reason(), Some(TimerKind::Ping));
        peer.wait(999);
        peer.check(&[]);
        peer.wait(1);
        peer.check(&["> Ping 0 null"]);
        assert_eq!(peer.client.timeout_reason(), Some(TimerKind::Silence));
        peer.wait(999);
        peer.check(&[]);
        peer.wait(1);
        peer.check(&["close 1000", "waiting 1: HalfOpen"]);
    }
}

#[test]
fn any_traffic_is_a_sign_of_life() {
    for (opcode, payload) in [(Opcode::Pong, "null"), (Opcode::ServerEvent, r#"{"event":"e"}"#)] {
        let mut peer = peer(false);
        for _ in 0..20 {
            peer.wait(1_500);
            peer.send(opcode, 0, payload);
        }
        assert!(matches!(peer.client.status(), Status::Connected { .. }), "{opcode:?}");
    }
}

#[test]
fn who_only_listens_pings_and_who_only_talks_pings() {
    // The server talks all the time, the client says nothing: it must show that it is there.
    let mut listening = peer(false);
    for _ in 0..10 {
        listening.wait(500);
        listening.send(Opcode::ServerEvent, 0, r#"{"event":"e"}"#);
    }
    assert_eq!(listening.drain().iter().filter(|line| line.starts_with("> Ping")).count(), 5);

    // The client talks all the time, the server says nothing.
    let mut talking = peer(false);
    for _ in 0..3 {
        talking.emit("e", false);
        talking.wait(500);
    }
    assert_eq!(talking.drain().iter().filter(|line| line.starts_with("> Ping")).count(), 1);
    talking.emit("e", false);
    talking.wait(500);
    assert!(talking.drain().contains(&"waiting 1: HalfOpen".into()));
}

#[test]
fn a_busy_connection_pings_nobody() {
    let mut peer = peer(true);
    for _ in 0..20 {
        peer.wait(900);
        peer.emit("e", false);
        peer.send(Opcode::ServerEvent, 0, r#"{"event":"e"}"#);
    }
    assert!(!peer.drain().iter().any(|line| line.contains("Ping")));
}

#[test]
fn hints_probe_an_open_connection() {
    for hint in [Hint::Online, Hint::Visible] {
        let mut peer = Peer::v2(config());
        peer.hint(hint);
        peer.check(&["> Ping 0 null"]);
        peer.wait(4_999);
        peer.check(&[]);
        peer.send(Opcode::Pong, 0, "null");
        peer.wait(5_000);
        assert!(matches!(peer.client.status(), Status::Connected { .. }));

        peer.hint(hint);
        peer.wait(5_000);
        assert_eq!(peer.drain()[1..], ["close 1000", "waiting 1: HalfOpen"]);
    }
    let mut peer = Peer::v2(config());
    peer.hint(Hint::Hidden);
    peer.hint(Hint::Offline);
    peer.check(&[]);
}

#[test]
fn probing_again_and_again_does_not_put_the_end_off() {
    let mut peer = Peer::v2(config());
    for _ in 0..5 {
        peer.hint(Hint::Visible);
        peer.wait(1_000);
    }
    assert!(peer.drain().contains(&"waiting 1: HalfOpen".into()));
}

#[test]
fn a_host_that_slept_asks_before_it_gives_up() {
    let mut peer = peer(false);
    peer.jump(1_000_000 + 7 * 3_600_000);
    peer.check(&["> Ping 0 null"]);
    peer.wait(999);
    peer.check(&[]);
    peer.send(Opcode::Pong, 0, "null");
    peer.wait(1_500);
    assert!(matches!(peer.client.status(), Status::Connected { .. }));
}

#[test]
fn a_clock_that_jumps_loses_no_deadline() {
    for jumps in [&[1_000_000 + 36_000_000][..], &[5][..], &[5, 99_000_000, 3][..], &[u64::MAX, 0][..]] {
        let mut peer = Peer::v2(config());
        peer.call("m");
        for &to in jumps {
            peer.jump(to);
        }
        peer.wait(120_000);
        let ends = peer.drain().iter().filter(|line| line.starts_with("done 1 ")).count();
        assert_eq!(ends, 1, "{jumps:?}");
    }
}

#[test]
fn a_clock_at_the_end_of_time_neither_panics_nor_spins() {
    let mut peer = Peer::v2(config());
    peer.client.call(peer.now, Request { timeout: Some(u64::MAX), ..request("m") }).unwrap();
    for now in [u64::MAX - 1, u64::MAX, 0, u64::MAX] {
        peer.jump(now);
        peer.drain();
    }
    peer.jump(0);
    peer.wait(200_000);
}

#[test]
fn heartbeats_out_of_range_are_not_believed() {
    for (heartbeat, least) in [("0", 100), ("18446744073709551615", 86_400_000)] {
        let mut peer = Peer::new(config());
        peer.client.connect(peer.now);
        peer.drain();
        peer.opened(Some("datasole.v2"));
        peer.send(Opcode::Hello, 0, hello("\"heartbeat\":15000", &format!("\"heartbeat\":{heartbeat}")));
        assert_eq!(peer.client.poll_timeout(), Some(peer.now + least));
    }
}

/// The quiet time after which the client asks, once its connection was cut after these quiet times.
fn asks_after(cuts: &[u64]) -> u64 {
    let mut peer = Peer::new(hasty());
    peer.client.connect(peer.now);
    for &quiet in cuts {
        peer.drain();
        peer.open_v2();
        peer.wait(quiet);
        peer.close(1006);
        peer.wait(0);
    }
    peer.drain();
    peer.open_v2();
    peer.client.poll_timeout().unwrap() - peer.now
}

#[test]
fn something_that_cuts_quiet_connections_is_met_with_more_pings() {
    assert_eq!(asks_after(&[]), 15_000);
    assert_eq!(asks_after(&[10_000]), 15_000, "once may be chance");
    assert_eq!(asks_after(&[10_000, 10_020]), 5_010);
    assert_eq!(asks_after(&[10_000, 9_000, 3_000]), 4_500, "within an eighth it is the same");
    assert_eq!(asks_after(&[10_000, 8_800]), 15_000, "beyond, another");
    assert_eq!(asks_after(&[900, 900, 900]), 15_000, "so soon is another fault");
    assert_eq!(asks_after(&[10_000, 10_000, 4_000, 4_000]), 2_000);
}
