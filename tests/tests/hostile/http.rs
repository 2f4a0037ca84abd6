//! Before the upgrade: request lines, headers, handshakes that never finish, origins, places.

use std::time::Duration;

use datasole_core::frame::Opcode;
use datasole_server::Limits;
use datasole_tests::peer::{Peer, UPGRADE, V2};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpStream, time::timeout};

use super::{PATIENCE, all_gone, assert_serves, serve};

/// Any of these answers; 0 is an end without one.
async fn check(request: &[u8], answers: &[u16]) {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::connect(running.address).await;
    peer.write(request).await;
    let status = peer.status().await;
    assert!(answers.contains(&status), "{status} to {}", request[..request.len().min(80)].escape_ascii());
    drop(peer);
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn a_path_of_two_slashes() {
    check(b"GET // HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400, 404]).await;
}

#[tokio::test]
async fn a_host_that_is_none() {
    // The server listens on loopback only, where no other host than this machine is meant.
    check(b"GET / HTTP/1.1\r\nHost: [\r\n\r\n", &[400, 403]).await;
    check(format!("GET /__ds HTTP/1.1\r\nHost: [\r\n{UPGRADE}\r\n").as_bytes(), &[400, 403]).await;
    check(format!("GET /__ds HTTP/1.1\r\nHost: [\r\nOrigin: http://x\r\n{UPGRADE}\r\n").as_bytes(), &[403]).await;
    check(format!("GET /__ds HTTP/1.1\r\nHost: \r\nOrigin: http://\r\n{UPGRADE}\r\n").as_bytes(), &[101, 403]).await;
}

#[tokio::test]
async fn garbage() {
    check(b"\x00\x01\x02\xff\xfe\r\n\r\n", &[400]).await;
    check(b"\r\n\r\n\r\nGET\r\n\r\n", &[400]).await;
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &[400]).await;
    check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[505]).await;
    check(b"GET http:///__ds HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400, 404]).await;
    check(b"GET /__ds?%zz=%%% HTTP/1.1\r\nHost: localhost\r\n\r\n", &[426]).await;
    check(b"GET /__ds/%ff%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", &[400, 404]).await;
    check(b"GET /__ds/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n\r\n", &[404]).await;
}

#[tokio::test]
async fn http_before_1() {
    check(b"GET /\r\n", &[0, 400]).await;
    check(b"GET /__ds HTTP/0.9\r\n\r\n", &[0, 400]).await;
    check(format!("GET /__ds HTTP/1.0\r\n{UPGRADE}\r\n").as_bytes(), &[400, 426]).await;
}

#[tokio::test]
async fn headers_without_end() {
    check(format!("GET /__ds HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes(), &[431])
        .await;
    check(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)).as_bytes(), &[414, 431]).await;
    check(format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(1_000)).as_bytes(), &[431]).await;
}

#[tokio::test]
async fn upgrades_that_are_none() {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let header = |connection: &str, upgrade: &str, version: &str, key: &str| {
        format!(
            "Connection: {connection}\r\nUpgrade: {upgrade}\r\nSec-WebSocket-Version: {version}\r\n\
             Sec-WebSocket-Key: {key}\r\n"
        )
    };
    let running = serve(|builder| builder).await;
    for (headers, expected) in [
        (header("Upgrade", "websocket", "13", key), 101),
        (header("keep-alive, upgrade", "WebSocket", "13", key), 101),
        (String::new(), 426),
        (header("close", "websocket", "13", key), 426),
        (header("Upgrade", "h2c", "13", key), 426),
        (header("Upgrade", "websocket", "12", key), 426),
        (header("Upgrade", "websocket", "", key), 426),
        (header("Upgrade", "websocket", "13", ""), 400),
        (header("Upgrade", "websocket", "13", "short"), 400),
        (header("Upgrade", "websocket", "13", "dGhlIHNhbXBsZSBub25jZQ=!"), 400),
        (header("Upgrade", "websocket", "13", "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ=="), 400),
        (header("Upgrade", "websocket", "13", key).replace("Sec-WebSocket-Key", "X-Key"), 400),
    ] {
        let (status, _) = Peer::upgrade(running.address, "", &headers).await;
        assert_eq!(status, expected, "{headers}");
    }
    let mut post = Peer::connect(running.address).await;
    post.write(format!("POST /__ds HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").as_bytes()).await;
    assert_eq!(post.status().await, 405);
    assert_serves(&running).await;
}

/// RFC 6455, section 4.4: a version that is not spoken is answered with the one that is.
#[tokio::test]
async fn the_version_spoken_is_told() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::connect(running.address).await;
    let headers = UPGRADE.replace(": 13", ": 8");
    peer.write(format!("GET /__ds HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await;
    let head = peer.head().await;
    assert!(head.starts_with("HTTP/1.1 426 "), "{head}");
    assert!(head.contains("sec-websocket-version: 13\r\n"), "{head}");
}

#[tokio::test]
async fn the_subprotocol_is_version_2_where_offered() {
    let running = serve(|builder| builder).await;
    for (offer, chosen) in [
        ("", None),
        ("Sec-WebSocket-Protocol: graphql-ws\r\n", None),
        ("Sec-WebSocket-Protocol: datasole.v1\r\n", Some("datasole.v1")),
        ("Sec-WebSocket-Protocol: datasole.v2, datasole.v1\r\n", Some("datasole.v2")),
        ("Sec-WebSocket-Protocol: datasole.v1\r\nSec-WebSocket-Protocol: datasole.v2\r\n", Some("datasole.v2")),
        ("Sec-WebSocket-Protocol: datasole.v3,,\r\n", None),
    ] {
        let mut peer = Peer::connect(running.address).await;
        peer.write(format!("GET /__ds HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{offer}\r\n").as_bytes()).await;
        let head = peer.head().await;
        let echoed = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(echoed, chosen, "{offer}");
    }
}

#[tokio::test]
async fn pages_of_other_origins() {
    let running = serve(|builder| builder.allow_origin("https://listed.example")).await;
    for (origin, expected) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("https://listed.example.evil", 403),
        ("https://listed.example", 101),
        (&format!("http://{}", running.address), 101),
    ] {
        let headers = format!("Origin: {origin}\r\n{UPGRADE}{V2}");
        let (status, _) = Peer::upgrade(running.address, "", &headers).await;
        assert_eq!(status, expected, "{origin}");
    }
    assert_serves(&running).await;
}

#[tokio::test]
async fn places_are_counted_before_authentication() {
    let limits = Limits::default().with(|limits| limits.max_connections = 3);
    let running = serve(|builder| builder.limits(limits)).await;
    let headers = format!("{UPGRADE}{V2}");
    let upgrade = |query: &'static str| Peer::upgrade(running.address, query, &headers);
    let below = upgrade("").await;
    // Nobody yet, and never to be: it takes a place all the same.
    let nobody = upgrade("?auth=frame").await;
    let (status, mut at) = upgrade("").await;
    assert_eq!((below.0, nobody.0, status), (101, 101, 101));
    for _ in 0..10 {
        let (status, mut above) = upgrade("").await;
        assert_eq!(status, 101);
        above.expect_close(1013).await;
    }
    at.expect(Opcode::Hello, 0).await;
    assert_eq!(at.call(1, "add", "[1, 1]").await["result"], 2, "who has a place keeps it");
}

/// Raises the limit of descriptors to the most that is permitted, and returns it.
fn raise_descriptors() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

/// More than the listeners of tokio have room for.
const CROWD: usize = 1_500;

/// All clients of a server that is busy come at once: none of them has to try again.
#[tokio::test]
async fn a_crowd_waits_until_it_is_accepted() {
    let permitted = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
    let permitted = permitted.and_then(|most| most.trim().parse().ok()).unwrap_or(0);
    // Other tests of this process need descriptors meanwhile.
    if permitted < CROWD as u64 || raise_descriptors() < 4 * CROWD as u64 {
        eprintln!("not tested: this system permits no {CROWD} that wait");
        return;
    }
    let listener = datasole_server::listen("127.0.0.1:0").await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        // Without room the handshake is not answered, and nobody accepts.
        crowd.push(timeout(PATIENCE, TcpStream::connect(listener.local_addr().unwrap())).await.unwrap().unwrap());
    }
}

const SLOW: usize = 1_000;

#[tokio::test]
async fn a_thousand_handshakes_that_never_finish() {
    raise_descriptors();
    let limits = Limits::default().with(|limits| limits.handshake_timeout = Duration::from_secs(2));
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peers = Vec::new();
    for number in 0..SLOW {
        let mut peer = Peer::connect(running.address).await;
        // Some say nothing at all, some stop in the request line, some in the headers.
        match number % 3 {
            0 => {}
            1 => peer.write(b"GET /__").await,
            _ => peer.write(format!("GET /__ds HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}").as_bytes()).await,
        }
        peers.push(peer);
    }
    assert_serves(&running).await;
    for peer in &mut peers {
        peer.end().await;
    }
    assert_serves(&running).await;
    all_gone(&running).await;
}
