//! Who takes places, sockets and time from others: those without credentials, those who do not read, those who guess.

use std::{sync::Arc, time::Duration};

use axum::routing::get;
use bytes::Bytes;
use datasole_core::frame::Opcode;
use datasole_server::{AuthError, AuthRequest, Builder, Identity, Limits, Server};
use datasole_tests::{
    peer::{Peer, Received, UPGRADE, V2, frame, masked},
    running::Running,
};
use futures_util::future::join_all;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};

use super::{PATIENCE, all_gone, assert_serves, hasty, methods, probe::assert_unnoticed, serve};

const BODY: usize = 32 * 1024 * 1024;

/// The token `secret` is ann's; everybody else is refused.
fn guarded(builder: Builder) -> Builder {
    builder.trust_proxy("127.0.0.1".parse().unwrap()).auth(|request: AuthRequest| async move {
        match request.token.as_deref() {
            Some("secret") => Ok(Identity::user("ann")),
            _ => Err(AuthError::refused("no such token")),
        }
    })
}

async fn upgrade(running: &Running, query: &str, from: Option<&str>) -> (u16, Peer) {
    let from = from.map(|from| format!("X-Forwarded-For: {from}\r\n")).unwrap_or_default();
    Peer::upgrade(running.address, query, &format!("{UPGRADE}{V2}{from}")).await
}

async fn stranger(running: &Running) -> Peer {
    let (status, peer) = upgrade(running, "?auth=frame", None).await;
    assert_eq!(status, 101);
    peer
}

#[tokio::test]
async fn strangers_leave_half_of_the_places() {
    let limits = hasty().with(|limits| limits.max_connections = 8);
    let running = serve(|builder| guarded(builder).limits(limits)).await;
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(stranger(&running).await);
    }
    let mut fifth = stranger(&running).await;
    strangers.remove(0).expect_close(1013).await;
    let mut sixth = stranger(&running).await;
    strangers.remove(0).expect_close(1013).await;
    let mut known = Vec::new();
    for _ in 0..4 {
        let (status, mut peer) = upgrade(&running, "?token=secret", None).await;
        assert_eq!(status, 101);
        peer.expect(Opcode::Hello, 0).await;
        known.push(peer);
    }
    // A peer that authenticates in time is no stranger, and leaves room for another one.
    for peer in [&mut fifth, &mut sixth] {
        peer.send(Opcode::Auth, 1, r#"{"token":"secret"}"#).await;
        peer.expect(Opcode::Authed, 1).await;
        peer.expect(Opcode::Hello, 0).await;
    }
    drop(known.pop());
    while running.server.connection_count() > 7 {
        tokio::task::yield_now().await;
    }
    let _third = stranger(&running).await;
    for peer in known.iter_mut().chain([&mut fifth, &mut sixth]) {
        assert_eq!(peer.call(9, "add", "[1, 2]").await["result"], 3);
    }
    drop((known, fifth, sixth, strangers, _third));
    all_gone(&running).await;
}

/// A hook may take long: whoever has sent a token is no stranger while it is being judged.
#[tokio::test]
async fn a_slow_hook_makes_nobody_a_stranger() {
    let open = Arc::new(Semaphore::new(0));
    let limits = hasty().with(|limits| {
        limits.max_connections = 8;
        limits.auth_frame_timeout = Duration::from_millis(200);
    });
    let hook = {
        let open = open.clone();
        move |request: AuthRequest| {
            let open = open.clone();
            async move {
                if request.token.as_deref() == Some("slow") {
                    open.acquire().await.unwrap().forget();
                }
                Ok(Identity::user("ann"))
            }
        }
    };
    let running = serve(|builder| builder.auth(hook).limits(limits)).await;
    let mut asking = Vec::new();
    for _ in 0..4 {
        let mut peer = stranger(&running).await;
        peer.send(Opcode::Auth, 1, r#"{"token":"slow"}"#).await;
        asking.push(peer);
    }
    // Half of the places are for strangers still, and all of their time has passed when they end.
    let mut strangers = Vec::new();
    for _ in 0..4 {
        strangers.push(stranger(&running).await);
    }
    for peer in &mut strangers {
        peer.expect_close(4002).await;
    }
    open.add_permits(4);
    for peer in &mut asking {
        peer.expect(Opcode::Authed, 1).await;
        peer.expect(Opcode::Hello, 0).await;
        assert_eq!(peer.call(2, "add", "[1, 2]").await["result"], 3);
    }
}

/// The attack: handshakes without end, and never an AUTH.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_strangers_is_not_noticed() {
    let limits = Limits::default().with(|limits| limits.max_connections = 100);
    let running = serve(|builder| builder.limits(limits)).await;
    let address = running.address;
    let attack = move || async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            held.push_back(Peer::upgrade(address, "?auth=frame", &format!("{UPGRADE}{V2}")).await);
            if held.len() > 200 {
                held.pop_front();
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert_unnoticed(&running, attack).await;
    // Nor do those who come while it goes on.
    let attackers = [tokio::spawn(attack()), tokio::spawn(attack())];
    for _ in 0..50 {
        assert_serves(&running).await;
    }
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The attack: answers that nobody reads, and sockets that say nothing, more of them than there is room for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_sockets_that_do_not_read_is_not_noticed() {
    let limits = Limits::default().with(|limits| limits.max_http_sockets = 64);
    let running = with_a_file(limits).await;
    let address = running.address;
    let attack = move || async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            held.push_back(Peer::connect(address).await);
            held.push_back(ask_for_the_file(address).await);
            if held.len() > 200 {
                held.drain(..2);
            }
            // Each fills the kernel's buffers with megabytes: more of them would measure the machine.
            sleep(Duration::from_millis(25)).await;
        }
    };
    assert_unnoticed(&running, attack).await;
    let attackers = [tokio::spawn(attack()), tokio::spawn(attack())];
    for _ in 0..50 {
        assert_serves(&running).await;
    }
    attackers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn an_address_has_its_share() {
    let limits = hasty().with(|limits| limits.max_connections = 8);
    let running = serve(|builder| guarded(builder).limits(limits)).await;
    let open = |from: Option<&'static str>| upgrade(&running, "?token=secret", from);
    let (mut first, mut second) = (open(Some("203.0.113.7")).await.1, open(Some("203.0.113.7")).await.1);
    for peer in [&mut first, &mut second] {
        peer.expect(Opcode::Hello, 0).await;
    }
    let (status, mut third) = open(Some("203.0.113.7")).await;
    assert_eq!(status, 101);
    third.expect_close(1013).await;
    open(Some("203.0.113.8")).await.1.expect(Opcode::Hello, 0).await;
    // This machine stands for many, whatever a client says of itself to others than the proxy.
    let mut own = Vec::new();
    for _ in 0..4 {
        let mut peer = open(None).await.1;
        peer.expect(Opcode::Hello, 0).await;
        own.push(peer);
    }
    drop(first);
    drop(own);
    while running.server.connection_count() > 1 {
        tokio::task::yield_now().await;
    }
    open(Some("203.0.113.7")).await.1.expect(Opcode::Hello, 0).await;
    assert_eq!(second.call(1, "add", "[1, 2]").await["result"], 3);
}

/// Everything that comes before AUTH was accepted counts together.
#[tokio::test]
async fn bytes_before_auth_below_at_and_above_the_limit() {
    let running =
        serve(|builder| guarded(builder).limits(hasty().with(|limits| limits.max_unauthenticated = 1_000))).await;
    for (bytes, accepted) in [(999, true), (1_000, true), (1_001, false)] {
        let mut auth = frame(Opcode::Auth as u8, 1, br#"{"token":"secret"}"#);
        auth.resize(bytes - 8, b' ');
        let message = masked(0x82, &auth);
        assert_eq!(message.len(), bytes);
        let mut peer = stranger(&running).await;
        peer.write(&message).await;
        if accepted {
            peer.expect(Opcode::Authed, 1).await;
            peer.expect(Opcode::Hello, 0).await;
            // From here on as much as anybody.
            let long = "x".repeat(5_000);
            assert_eq!(peer.call(2, "echo", &format!("{long:?}")).await["result"], long);
        } else {
            peer.expect_close(1009).await;
        }
    }
    // A message without end.
    let mut peer = stranger(&running).await;
    peer.write(&[&[0x82, 0xff][..], &4_000_000u64.to_be_bytes(), &[0; 4], &[0; 2_000]].concat()).await;
    peer.expect_close(1009).await;
}

/// A pong may come at any time, between two fragments too.
#[tokio::test]
async fn control_frames_between_fragments_give_no_more_time() {
    let patience = Duration::from_millis(400);
    let running = serve(|builder| builder.limits(hasty().with(|limits| limits.message_timeout = patience))).await;
    let mut peer = Peer::v2(running.address).await;
    let started = Instant::now();
    peer.write(&masked(0x02, b"begins")).await;
    let more = [masked(0x8a, b""), masked(0x00, b"x")].concat();
    while peer.try_write(&more) > 0 && started.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10)).await;
        if running.server.connection_count() == 0 {
            break;
        }
    }
    peer.expect_close(1009).await;
    assert!(started.elapsed() >= patience);
}

#[tokio::test]
async fn half_a_message_takes_its_place_for_a_while_only() {
    let patience = Duration::from_millis(400);
    let running = serve(|builder| builder.limits(hasty().with(|limits| limits.message_timeout = patience))).await;
    let mut peer = Peer::v2(running.address).await;
    let started = Instant::now();
    peer.write(&[&[0x82, 0xff][..], &100_000u64.to_be_bytes(), &[0; 4]].concat()).await;
    // One byte at a time, each a sign of life.
    while peer.try_write(&[0]) > 0 && started.elapsed() < PATIENCE {
        sleep(Duration::from_millis(10)).await;
        if running.server.connection_count() == 0 {
            break;
        }
    }
    peer.expect_close(1009).await;
    assert!(started.elapsed() >= patience);
    // Many messages, each in pieces, may take longer together.
    let mut peer = Peer::v2(running.address).await;
    let started = Instant::now();
    let mut id = 0;
    while started.elapsed() < patience * 2 {
        id += 1;
        let call = masked(0x82, &frame(Opcode::Ping as u8, id, b"null"));
        for piece in call.chunks(7) {
            peer.write(piece).await;
            sleep(Duration::from_millis(5)).await;
        }
        peer.expect(Opcode::Pong, id).await;
    }
}

#[tokio::test]
async fn guesses_are_slowed_by_address() {
    let running = serve(|builder| guarded(builder).limits(hasty())).await;
    let (mallory, ann) = (Some("203.0.113.7"), Some("203.0.113.8"));
    for guess in 0..10 {
        let (status, _) = upgrade(&running, &format!("?token={guess}"), mallory).await;
        assert_eq!(status, 401, "guess {guess}");
    }
    let mut peer = Peer::connect(running.address).await;
    let from = "X-Forwarded-For: 203.0.113.7\r\n";
    peer.write(format!("GET /__ds?token=x HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{V2}{from}\r\n").as_bytes()).await;
    let head = peer.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 429 ") && head.contains("retry-after: 1\r\n"), "{head}");
    assert!(head.contains("datasole-refused: limit"), "{head}");
    assert_eq!(upgrade(&running, "?auth=frame", mallory).await.0, 429, "nor by frame");
    assert_eq!(upgrade(&running, "?token=secret", ann).await.0, 101, "others are not slowed");
    for _ in 0..20 {
        assert_eq!(upgrade(&running, "?token=x", None).await.0, 401, "this machine stands for many");
    }
    // Guesses in frames count likewise.
    for _ in 0..10 {
        let (status, mut peer) = upgrade(&running, "?auth=frame", Some("203.0.113.9")).await;
        assert_eq!(status, 101);
        peer.send(Opcode::Auth, 1, r#"{"token":"x"}"#).await;
        peer.expect_close(4002).await;
    }
    assert_eq!(upgrade(&running, "?auth=frame", Some("203.0.113.9")).await.0, 429);
}

/// A server with a large file beside its endpoint.
async fn with_a_file(limits: Limits) -> Running {
    let server = methods(Server::builder()).limits(limits).build();
    let file = Bytes::from(vec![7; BODY]);
    let router = server.router().route("/file", get(async move || file));
    Running::with(server, router).await
}

async fn ask_for_the_file(address: std::net::SocketAddr) -> Peer {
    let mut peer = Peer::connect(address).await;
    peer.write(b"GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read_end() {
    let limits = hasty().with(|limits| limits.answer_timeout = Duration::from_millis(200));
    let running = with_a_file(limits).await;
    let address = running.address;
    let mut reader = ask_for_the_file(address).await;
    reader.head().await;
    assert_eq!(reader.rest().await.len(), BODY, "who reads gets all");
    let mut idle = ask_for_the_file(address).await;
    idle.head().await;
    // Nothing can be awaited here: reading would be progress.
    sleep(Duration::from_secs(2)).await;
    let got = idle.rest().await.len();
    assert!(got < BODY, "it is cut off after what the kernel had room for: {got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_that_make_no_progress_make_room() {
    let limits = hasty().with(|limits| limits.max_http_sockets = 16);
    let running = with_a_file(limits).await;
    let address = running.address;
    let (mut idle, mut open) = (Vec::new(), Vec::new());
    for number in 0..64 {
        idle.push(if number % 2 == 0 { Peer::connect(address).await } else { ask_for_the_file(address).await });
        if number % 8 == 0 {
            // An honest newcomer gets in at once, and is not sent away for others.
            let (status, mut peer) = Peer::upgrade(address, "", &format!("{UPGRADE}{V2}")).await;
            assert_eq!(status, 101, "after {number}");
            peer.expect(Opcode::Hello, 0).await;
            open.push(peer);
        }
    }
    assert_eq!(running.server.connection_count(), 8, "WebSockets are not in the way");
    idle.remove(0).end().await;
    for peer in &mut open {
        peer.message(0x89, b"x").await;
        assert_eq!(peer.receive().await, Received::Pong(b"x".to_vec()));
    }
}

/// More clients come at once than there is room for: each is let in, and none has to come again.
#[tokio::test]
async fn a_crowd_larger_than_the_room_is_let_in() {
    const CROWD: usize = 400;
    let limits = Limits::default().with(|limits| limits.max_http_sockets = 16);
    let slow = |_| async {
        sleep(Duration::from_millis(5)).await;
        Ok(Identity::anonymous())
    };
    let running = serve(|builder| builder.limits(limits).auth(slow)).await;
    let crowd = join_all((0..CROWD).map(|_| Peer::v2(running.address))).await;
    assert_eq!(running.server.connection_count(), CROWD);
    drop(crowd);
    all_gone(&running).await;
}
