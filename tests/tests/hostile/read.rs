//! `state/KEY`: reading a state without a connection, and everything that must not be read.

use datasole_core::{codes, frame::Opcode};
use datasole_server::{AuthError, AuthRequest, Builder, Identity, Limits, Payload, Server, StreamKind};
use datasole_tests::{
    peer::{Peer, UPGRADE, V2},
    running::Running,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::serve;

/// The status, the head in lower case, and the body.
async fn ask(running: &Running, method: &str, key: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let mut peer = Peer::connect(running.address).await;
    let request = format!(
        "{method} /__ds/state/{key} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n",
        running.address
    );
    peer.write(request.as_bytes()).await;
    let head = peer.head().await;
    let body = peer.rest().await;
    (head[9..12].parse().unwrap(), head.to_lowercase(), body)
}

/// What is read.
async fn read(running: &Running, key: &str, headers: &str) -> (u16, Value) {
    let (status, head, body) = ask(running, "GET", key, headers).await;
    assert!(
        head.contains("content-type: application/json\r\n") && head.contains("cache-control: no-store\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\ndatasole: ") && head.contains("vary: origin\r\n"), "{head}");
    assert_eq!(head.contains("datasole-refused: "), status != 200, "{head}");
    (status, serde_json::from_slice(&body).unwrap())
}

/// The status and the code of a refusal.
async fn refused(running: &Running, key: &str, headers: &str) -> (u16, i32) {
    let (status, body) = read(running, key, headers).await;
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    (status, body["error"]["code"].as_i64().unwrap().try_into().unwrap())
}

#[tokio::test]
async fn a_state_is_read_with_the_position_that_a_client_goes_on_from() {
    let running = serve(|builder| builder).await;
    let state = running.server.state();
    state.set("page", &json!({"n": 1})).await.unwrap();
    state.update("page", |draft| draft.add("/n", 1)).await.unwrap();
    let (status, body) = read(&running, "page", "").await;
    assert_eq!((status, &body["value"], &body["seq"]), (200, &json!({"n": 2}), &json!(2)));
    assert_eq!(body.as_object().unwrap().len(), 3, "{body}");
    state.update("page", |draft| draft.add("/n", 1)).await.unwrap();
    let mut peer = Peer::v2(running.address).await;
    let since = json!({"kind": "state", "key": "page", "since": {"epoch": body["epoch"], "seq": body["seq"]}});
    peer.send(Opcode::Subscribe, 1, since.to_string()).await;
    let subscribed = peer.expect(Opcode::Subscribed, 1).await;
    assert_eq!((&subscribed["recovered"], &subscribed["epoch"]), (&json!(true), &body["epoch"]));
    assert_eq!(peer.expect(Opcode::StatePatch, 0).await["seq"], 3, "nothing is missing");
}

#[tokio::test]
async fn keys_and_values_of_any_kind() {
    let running = serve(|builder| builder).await;
    let long = "k".repeat(256);
    for (key, path) in [
        ("a/b", "a%2Fb"),
        ("a/b", "a/b"),
        ("ü ?#%\"+&", "%C3%BC%20%3F%23%25%22+%26"),
        ("$serde_json::private::RawValue", "%24serde_json::private::RawValue"),
        (&*long, &*long),
    ] {
        for value in [Value::Null, json!(false), json!("\u{0}</script>"), json!([{"data": {"value": 1, "seq": "x"}}])] {
            running.server.state().set(key, &value).await.unwrap();
            let (status, body) = read(&running, path, "").await;
            assert_eq!((status, &body["value"]), (200, &value), "{key}");
        }
    }
    for (path, expected) in [
        ("none", (404, codes::NOT_FOUND)),
        (&*format!("{long}k"), (400, codes::INVALID_REQUEST)),
        ("%ff", (400, codes::INVALID_REQUEST)),
    ] {
        assert_eq!(refused(&running, path, "").await, expected, "{path}");
    }
    running.server.state().remove("a/b").await.unwrap();
    assert_eq!(refused(&running, "a%2Fb", "").await, (404, codes::NOT_FOUND));
    assert_eq!(ask(&running, "POST", "a", "Content-Length: 0\r\n").await.0, 405);
    assert_eq!(ask(&running, "GET", "", "").await.0, 404);
    let (status, head, body) = ask(&running, "HEAD", &long, "").await;
    assert!(status == 200 && body.is_empty() && !head.contains("content-length: 0"), "{head}");
    assert_eq!(Peer::v2(running.address).await.call(1, "add", "[1, 2]").await["result"], 3);
}

/// Tokens and cookies, and what each may read.
fn guarded(builder: Builder) -> Builder {
    builder
        .auth(|request: AuthRequest| async move {
            let cookie = request.headers.get("cookie").and_then(|value| value.to_str().ok());
            match request.token.as_deref().or_else(|| cookie?.strip_prefix("session=")) {
                Some(user @ ("ann" | "bob")) => Ok(Identity::user(user)),
                Some("slow") => std::future::pending().await,
                Some("broken") => panic!("on purpose"),
                _ => Err(AuthError::refused("who is that?")),
            }
        })
        .authorize_read(|identity, stream| {
            assert_ne!(stream.key, "panic");
            stream.kind == StreamKind::State && stream.key.starts_with(&identity.user_id)
        })
        .trust_proxy("127.0.0.1/32".parse().unwrap())
}

#[tokio::test]
async fn who_may_not_follow_a_state_may_not_read_it() {
    let running = serve(guarded).await;
    running.server.state().set("ann's", &1).await.unwrap();
    for (key, headers, expected) in [
        ("ann's", "Authorization: Bearer ann\r\n", 200),
        ("ann's?token=ann", "", 200),
        ("ann's", "Cookie: session=ann\r\n", 200),
        ("ann's?token=ann", "Authorization: Bearer bob\r\n", 200),
        ("ann's", "", 401),
        ("ann's", "Authorization: Bearer mallory\r\n", 401),
        ("ann's", "Authorization: Bearer bob\r\n", 403),
        ("none", "Authorization: Bearer bob\r\n", 403),
        ("panic", "Authorization: Bearer bob\r\n", 403),
        ("bob's", "Authorization: Bearer bob\r\n", 404),
        ("ann's", "Authorization: Bearer broken\r\n", 500),
    ] {
        let (status, body) = read(&running, key, headers).await;
        let code = match expected {
            200 => Value::Null,
            401 => codes::UNAUTHORIZED.into(),
            403 => codes::FORBIDDEN.into(),
            404 => codes::NOT_FOUND.into(),
            _ => codes::INTERNAL.into(),
        };
        assert_eq!((status, &body["error"]["code"]), (expected, &code), "{key} {headers}");
        assert_eq!(body["value"].is_null(), expected != 200, "{body}");
    }
    // Guesses are slowed as those for a connection are, and together with them.
    let mallory = "X-Forwarded-For: 203.0.113.7\r\n";
    for guess in 0..10 {
        assert_eq!(refused(&running, &format!("ann's?token={guess}"), mallory).await.0, 401);
    }
    assert_eq!(refused(&running, "ann's?token=ann", mallory).await, (429, codes::LIMIT));
    assert_eq!(Peer::upgrade(running.address, "?token=ann", &format!("{UPGRADE}{V2}{mallory}")).await.0, 429);
    assert_eq!(read(&running, "ann's?token=ann", "X-Forwarded-For: 203.0.113.8\r\n").await.0, 200);
}

#[tokio::test]
async fn pages_of_other_origins_read_where_they_are_allowed() {
    const LISTED: &str = "Origin: https://listed.example\r\n";
    let running = serve(|builder| builder.allow_origin("https://listed.example")).await;
    running.server.state().set("k", &1).await.unwrap();
    for (key, status) in [("k", 200), ("none", 404)] {
        let (answered, head, _) = ask(&running, "GET", key, LISTED).await;
        assert_eq!(answered, status);
        assert!(head.contains("access-control-allow-origin: https://listed.example\r\n"), "{head}");
        assert!(head.contains("access-control-allow-credentials: true\r\n"), "{head}");
        assert!(head.contains("access-control-expose-headers: datasole, datasole-refused, retry-after\r\n"), "{head}");
    }
    let (status, head, body) =
        ask(&running, "OPTIONS", "k", &format!("{LISTED}Access-Control-Request-Method: GET\r\n")).await;
    assert!(status == 204 && body.is_empty(), "{head}");
    for allowed in ["access-control-allow-headers: authorization\r\n", "access-control-allow-methods: get, head\r\n"] {
        assert!(head.contains(allowed), "{head}");
    }
    let own = format!("Origin: http://{}\r\n", running.address);
    assert_eq!(ask(&running, "GET", "k", &own).await.0, 200);
    // Any page can set X-Forwarded-Host on a request of this kind.
    for headers in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: https://evil.example\r\nX-Forwarded-Host: evil.example\r\n",
    ] {
        assert_eq!(refused(&running, "k", headers).await, (403, codes::FORBIDDEN), "{headers}");
        for method in ["GET", "OPTIONS"] {
            let (status, head, body) = ask(&running, method, "k", headers).await;
            assert!(status == 403 && !head.contains("access-control-allow-origin"), "{head}");
            assert!(!body.windows(7).any(|part| part == b"\"value\""));
        }
    }
    assert_eq!(refused(&running, "k", &format!("{LISTED}{LISTED}")).await.0, 400);
    // Where every page may read, none does so in the name of its visitors.
    let open = serve(|builder| builder.allow_origin("*")).await;
    open.server.state().set("k", &1).await.unwrap();
    let (status, head, _) = ask(&open, "GET", "k", "Origin: https://evil.example\r\n").await;
    assert!(status == 200 && head.contains("access-control-allow-origin: *\r\n"), "{head}");
    assert!(!head.contains("credentials"), "{head}");
}

/// A page that rebinds its name reads nothing.
#[tokio::test]
async fn a_host_of_another() {
    let running = serve(|builder| builder).await;
    running.server.state().set("k", &1).await.unwrap();
    let mut peer = Peer::connect(running.address).await;
    peer.write(b"GET /__ds/state/k HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert_eq!(peer.status().await, 403);
}

#[tokio::test]
async fn a_large_state_that_changes_is_read_as_it_is() {
    let running = serve(|builder| builder).await;
    let state = running.server.state();
    let text = "x".repeat(900_000);
    state.set("k", &json!({"n": 0, "text": text})).await.unwrap();
    for n in 1..=20 {
        state.update("k", |draft| draft.add("/n", 1)).await.unwrap();
        // Whoever has seen a change reads it.
        let (status, body) = read(&running, "k", "").await;
        assert_eq!((status, &body["value"]["n"], &body["seq"]), (200, &json!(n), &json!(n + 1)));
        assert!(body["value"]["text"] == text);
    }
    assert_eq!(Peer::v2(running.address).await.call(1, "add", "[1, 2]").await["result"], 3);
}

fn address(host: u8) -> String {
    format!("X-Forwarded-For: 203.0.113.{host}\r\n")
}

/// The refusal for want of room, once those that wait have all been taken in.
async fn refusal(running: &Running, host: u8) -> String {
    loop {
        let (status, head, body) = ask(running, "GET", "k?token=x", &address(host)).await;
        if status != 200 {
            let body = String::from_utf8(body).unwrap();
            assert!(status == 503 && head.contains("retry-after: 1\r\n"), "{head}");
            assert!(body.contains(r#""retryAfter":1000"#), "{body}");
            return body;
        }
    }
}

/// Requests that wait hold room: those of one address a quarter of it, and all together no more than there is.
#[tokio::test]
async fn answers_below_at_and_above_the_limit() {
    // Room for 32 answers of 16 KiB, of one address for eight.
    let limits = Limits::default().with(|limits| {
        limits.max_under_way_total = 0;
        limits.max_payload = 64 * 1024;
        limits.auth_timeout = super::PATIENCE;
    });
    let open = watch::Sender::new(false);
    let gate = open.subscribe();
    let running = serve(|builder| {
        builder.limits(limits).trust_proxy("127.0.0.1/32".parse().unwrap()).auth(move |request: AuthRequest| {
            let mut gate = gate.clone();
            async move {
                if request.token.is_none() {
                    let _ = gate.wait_for(|open| *open).await;
                }
                Ok(Identity::anonymous())
            }
        })
    })
    .await;
    running.server.state().set("k", &1).await.unwrap();
    let mut waiting = Vec::new();
    for n in 0..32 {
        let mut peer = Peer::connect(running.address).await;
        let from = format!("Host: localhost\r\nX-Forwarded-For: 203.0.113.{}\r\n", n / 8);
        peer.write(format!("GET /__ds/state/k HTTP/1.1\r\n{from}\r\n").as_bytes()).await;
        waiting.push(peer);
        match n {
            6 => assert_eq!(read(&running, "k?token=x", &address(0)).await.0, 200, "an eighth fits"),
            7 => assert!(refusal(&running, 0).await.contains("to this address")),
            30 => assert_eq!(read(&running, "k?token=x", &address(9)).await.0, 200, "the last one fits"),
            31 => assert!(refusal(&running, 9).await.contains("are on their way")),
            _ => {}
        }
    }
    open.send_replace(true);
    for peer in &mut waiting {
        assert_eq!(peer.status().await, 200);
    }
    assert_eq!(read(&running, "k", &address(0)).await.0, 200, "there is room again");
}

/// Where the bytes of a connection are bounded by the second, those that an address reads are, too.
#[tokio::test]
async fn a_rate_is_kept() {
    let limits = Limits::default().with(|limits| limits.max_rate = std::num::NonZeroU32::new(20_000));
    let running = serve(|builder| builder.limits(limits).trust_proxy("127.0.0.1/32".parse().unwrap())).await;
    running.server.state().set("k", &"x".repeat(6_000)).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(read(&running, "k", &address(7)).await.0);
    }
    // Each counts for 8 KB: the third exceeds the first second's worth.
    assert_eq!(seen[..3], [200; 3]);
    assert_eq!(seen[4], 429, "{seen:?}");
    let (_, head, _) = ask(&running, "GET", "k", &address(7)).await;
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(read(&running, "k", &address(8)).await.0, 200, "another address");
    assert_eq!(read(&running, "k", "").await.0, 200, "this machine stands for many");
}

/// Mounted in a router of the application, below another path, behind a shutdown.
#[tokio::test]
async fn mounted_by_an_application_until_it_shuts_down() {
    let server = Server::builder().rpc_raw("echo", |_, payload: Payload| async move { Ok(payload) }).build();
    server.state().set("k", &1).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().nest("/app", server.router());
    let mounted = tokio::spawn(async move { axum::serve(listener, router).await });
    for expected in [200, 503] {
        let mut peer = Peer::connect(address).await;
        peer.write(b"GET /app/__ds/state/k HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(peer.status().await, expected);
        server.shutdown().await;
    }
    mounted.abort();
}
