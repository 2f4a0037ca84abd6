use super::*;
use crate::config::TokenVia;

fn asking() -> Config {
    Config { ask_token: true, token_timeout: 500, ..hasty() }
}

fn token(peer: &mut Peer, token: &str) {
    peer.input(Input::Token(Ok(Some(token.into()))));
}

fn refuse(peer: &mut Peer) {
    let close =
        SocketClose { code: None, reason: "no".into(), http_status: Some(401), by_datasole: true, retry_after: None };
    peer.input(Input::SocketClosed { socket: peer.socket, close });
}

#[test]
fn tokens_in_the_url_are_percent_encoded() {
    for (url, token, expected) in [
        (URL, "plain-._~9", "open ws://h/__ds?token=plain-._~9"),
        (URL, "a b&c=é/+%", "open ws://h/__ds?token=a%20b%26c%3D%C3%A9%2F%2B%25"),
        ("ws://h/__ds?room=1", "t", "open ws://h/__ds?room=1&token=t"),
    ] {
        let mut peer = Peer::new(Config { token: Some(token.into()), ..Config::new(url) });
        peer.client.connect(peer.now);
        peer.check(&["connecting", expected]);
    }
}

#[test]
fn the_host_is_asked_before_every_attempt() {
    let mut peer = Peer::new(asking());
    peer.client.connect(peer.now);
    peer.check(&["connecting", "need token"]);
    token(&mut peer, "one");
    peer.check(&["open ws://h/__ds?token=one"]);
    peer.open_v2();
    peer.close(1006);
    peer.wait(0);
    peer.check(&[r#"connected v2 "c1" Some("ann")"#, "waiting 1: Closed", "reconnecting 1", "need token"]);
    peer.input(Input::Token(Ok(None)));
    peer.check(&["open ws://h/__ds"]);
}

#[test]
fn one_question_is_in_flight_at_a_time() {
    let mut peer = Peer::new(asking());
    for _ in 0..3 {
        peer.client.connect(peer.now);
        peer.client.close(peer.now);
    }
    peer.client.connect(peer.now);
    assert_eq!(peer.drain().iter().filter(|line| *line == "need token").count(), 1);
    token(&mut peer, "late");
    peer.check(&["open ws://h/__ds?token=late"]);
    token(&mut peer, "nobody asked");
    peer.check(&[]);
}

#[test]
fn an_answer_that_does_not_come_or_fails_is_a_failed_attempt() {
    let fail: [fn(&mut Peer); 2] = [|peer| peer.wait(500), |peer| peer.input(Input::Token(Err("broken".into())))];
    for fail in fail {
        let mut peer = Peer::new(asking());
        peer.client.connect(peer.now);
        peer.drain();
        fail(&mut peer);
        peer.wait(0);
        peer.check(&["waiting 1: Unauthorized", "reconnecting 1", "need token"]);

        let mut peer = Peer::v2_asking();
        peer.close(1006);
        peer.wait(0);
        peer.drain();
        fail(&mut peer);
        peer.wait(0);
        peer.check(&["waiting 2: Unauthorized", "reconnecting 2", "need token"]);
    }
}

impl Peer {
    fn v2_asking() -> Self {
        let mut peer = Self::new(asking());
        peer.client.connect(peer.now);
        token(&mut peer, "t");
        peer.drain();
        peer.open_v2();
        peer.drain();
        peer
    }
}

#[test]
fn a_refused_token_is_replaced_once() {
    let mut peer = Peer::new(asking());
    peer.client.connect(peer.now);
    token(&mut peer, "stale");
    peer.drain();
    refuse(&mut peer);
    peer.wait(0);
    peer.check(&["waiting 1: Unauthorized", "reconnecting 1", "need token"]);
    token(&mut peer, "stale too");
    peer.drain();
    refuse(&mut peer);
    peer.check(&[r#"disconnected: Unauthorized("no")"#]);
}

#[test]
fn refusals_are_in_a_row_only_without_a_stable_connection_between() {
    for (lived, last) in [(999, "disconnected: Unauthorized(\"gone\")"), (1_000, "waiting 1: Unauthorized")] {
        let mut peer = Peer::v2_asking();
        peer.close(4002);
        peer.wait(0);
        token(&mut peer, "new");
        peer.drain();
        peer.open_v2();
        peer.wait(lived);
        peer.drain();
        peer.close(4002);
        peer.check(&[last]);
    }
}

#[test]
fn a_token_in_a_frame_goes_first_and_hello_follows_authed() {
    let config = Config { token_via: TokenVia::Frame, token: Some("s\"ecret".into()), offer_v2: false, ..config() };
    let mut peer = Peer::new(config.clone());
    peer.client.connect(peer.now);
    peer.check(&["connecting", "open ws://h/__ds?auth=frame"]);
    peer.opened(Some("datasole.v2"));
    peer.check(&[r#"> Auth 1 {"token":"s\"ecret","features":["batch","short"]}"#]);
    peer.send(Opcode::Authed, 1, r#"{"userId":"ann"}"#);
    peer.check(&[]);
    peer.send(Opcode::Hello, 0, HELLO);
    peer.check(&[r#"connected v2 "c1" Some("ann")"#]);

    let mut peer = Peer::new(config.clone());
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.send(Opcode::Hello, 0, HELLO);
    assert_eq!(peer.drain()[1], "close 4004", "HELLO before AUTHED");

    let mut peer = Peer::new(config.clone());
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v1"));
    peer.check(&[
        "close 1000",
        r#"disconnected: Protocol("the server speaks version 1, which takes no token in a frame")"#,
    ]);

    let mut peer = Peer::new(config);
    peer.client.connect(peer.now);
    peer.drain();
    peer.opened(Some("datasole.v2"));
    peer.drain();
    peer.send(Opcode::Error, 1, r#"{"message":"no","code":-32001}"#);
    peer.check(&["close 1000", r#"disconnected: Unauthorized("no")"#]);
}

#[test]
fn a_refreshed_token_is_sent_and_remembered() {
    let mut peer = Peer::v2(hasty());
    peer.client.refresh_token(peer.now, Some("fresh".into()));
    peer.check(&[r#"> Auth 1 {"token":"fresh"}"#]);
    peer.send(Opcode::Authed, 1, r#"{"userId":"ann"}"#);
    peer.close(1006);
    peer.wait(0);
    peer.check(&["waiting 1: Closed", "reconnecting 1", "open ws://h/__ds?token=fresh"]);

    let mut peer = Peer::v1(hasty());
    peer.client.refresh_token(peer.now, Some("fresh".into()));
    peer.check(&[]);
}

#[test]
fn a_refused_refresh_ends_the_connection_but_a_limit_does_not() {
    let mut peer = Peer::v2(config());
    peer.client.refresh_token(peer.now, Some("bad".into()));
    peer.drain();
    peer.send(Opcode::Error, 1, r#"{"message":"slower","code":-32004}"#);
    peer.check(&[]);
    peer.client.refresh_token(peer.now, Some("bad".into()));
    peer.drain();
    peer.send(Opcode::Error, 2, r#"{"message":"no","code":-32001}"#);
    peer.check(&["close 1000", r#"disconnected: Unauthorized("no")"#]);
}
