//! Authentication: refused, failing, hanging, panicking, late, as somebody else; and resets in the middle of it.

use std::{future::pending, time::Duration};

use datasole_core::frame::Opcode;
use datasole_server::{AuthError, AuthRequest, Builder, Identity, Limits};
use datasole_tests::{
    peer::{Peer, Received, UPGRADE, V1, V2},
    running::Running,
};

use super::{Watch, all_gone, assert_serves, next, serve};

/// A hook that does what the token says; without one, nobody in particular comes in.
fn obeying(builder: Builder) -> Builder {
    builder.auth(|request: AuthRequest| {
        assert_ne!(request.token.as_deref(), Some("sync panic"), "a panic before the future");
        async move {
            match request.token.as_deref() {
                Some("bad") => Err(AuthError::refused("bad")),
                Some("failing") => Err(AuthError::Failed("no database".into())),
                Some("hanging") => pending().await,
                Some("panic") => panic!("a panic in the hook"),
                Some("expiring") => Ok(Identity::user("ann").expires_in(Duration::from_millis(50))),
                Some("expired") => Ok(Identity::user("ann").expires_in(Duration::ZERO)),
                Some("ann again") => Ok(Identity::user("ann")),
                Some(user) => Ok(Identity::user(user)),
                None => Ok(Identity::anonymous()),
            }
        }
    })
}

fn quick() -> Limits {
    Limits {
        auth_timeout: Duration::from_millis(100),
        auth_frame_timeout: Duration::from_millis(100),
        ..super::hasty()
    }
}

async fn deferred(running: &Running) -> Peer {
    let (status, peer) = Peer::upgrade(running.address, "?auth=frame", &format!("{UPGRADE}{V2}")).await;
    assert_eq!(status, 101);
    peer
}

#[tokio::test]
async fn tokens_in_the_url() {
    let running = serve(|builder| obeying(builder).limits(quick())).await;
    for headers in [V1, V2] {
        for (query, expected) in [
            ("?token=ann", 101),
            ("?token=bad", 401),
            ("?token=failing", 500),
            ("?token=panic", 500),
            ("?token=sync%20panic", 500),
            ("?token=hanging", 408),
        ] {
            let (status, _) = Peer::upgrade(running.address, query, &format!("{UPGRADE}{headers}")).await;
            assert_eq!(status, expected, "{query}");
        }
    }
    assert_serves(&running).await;
    all_gone(&running).await;
    assert_eq!(running.server.metrics_snapshot().refused, 10);
}

#[tokio::test]
async fn tokens_in_a_frame() {
    let running = serve(|builder| obeying(builder).limits(quick())).await;
    for (token, code) in [("bad", 4002), ("failing", 1011), ("panic", 1011), ("sync panic", 1011), ("hanging", 4002)] {
        let mut peer = deferred(&running).await;
        peer.send(Opcode::Auth, 1, format!(r#"{{"token":{token:?}}}"#)).await;
        assert_eq!(peer.receive().await, Received::Close(code), "{token}");
    }
    let mut peer = deferred(&running).await;
    peer.send(Opcode::Auth, 3, r#"{"token":"ann"}"#).await;
    assert_eq!(peer.expect(Opcode::Authed, 3).await["userId"], "ann");
    assert_eq!(peer.expect(Opcode::Hello, 0).await["userId"], "ann");
    assert_eq!(peer.call(4, "add", "[1, 2]").await["result"], 3);
    assert_serves(&running).await;
    drop(peer);
    all_gone(&running).await;
}

#[tokio::test]
async fn nothing_is_served_before_the_token() {
    let running = serve(obeying).await;
    for opcode in [Opcode::RpcRequest, Opcode::Ping, Opcode::Subscribe, Opcode::ClientEvent, Opcode::Cancel] {
        let mut peer = deferred(&running).await;
        peer.send(opcode, 1, r#"{"method":"add","params":[1,2],"kind":"state","key":"k","event":"e"}"#).await;
        peer.expect_close(4002).await;
    }
    // What cannot be read is not answered either: the server says nothing before AUTH.
    for message in [&b""[..], b"\x01", b"\xff\0\0\0\x01\0\0\0\0", b"\x78\x9c\xff"] {
        let mut peer = deferred(&running).await;
        peer.message(0x82, message).await;
        peer.expect_close(4002).await;
    }
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn a_token_that_never_comes() {
    let running = serve(|builder| obeying(builder).limits(quick())).await;
    let mut peer = deferred(&running).await;
    peer.expect_close(4002).await;
    // Pings keep it no longer.
    let mut peer = deferred(&running).await;
    peer.message(0x89, b"").await;
    assert_eq!(peer.receive().await, Received::Pong(vec![]));
    peer.expect_close(4002).await;
    drop(peer);
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn tokens_on_an_open_connection() {
    let running = serve(|builder| obeying(builder).limits(quick())).await;
    let open = || async {
        let (_, mut peer) = Peer::upgrade(running.address, "?token=ann", &format!("{UPGRADE}{V2}")).await;
        peer.expect(Opcode::Hello, 0).await;
        peer
    };
    for (token, code) in [
        ("bob", 4002),
        ("bad", 4002),
        ("failing", 1011),
        ("panic", 1011),
        ("sync panic", 1011),
        ("hanging", 4002),
        ("expiring", 4002),
        ("expired", 4002),
    ] {
        let mut peer = open().await;
        peer.send(Opcode::Auth, 2, format!(r#"{{"token":{token:?}}}"#)).await;
        if token.starts_with("expir") {
            peer.expect(Opcode::Authed, 2).await;
        }
        assert_eq!(peer.receive().await, Received::Close(code), "{token}");
    }
    let mut peer = open().await;
    peer.send(Opcode::Auth, 2, r#"{"token":"ann again"}"#).await;
    assert_eq!(peer.expect(Opcode::Authed, 2).await["userId"], "ann");
    for payload in ["", "7", r#"{"token":7}"#] {
        peer.send(Opcode::Auth, 3, payload).await;
        peer.expect_error(3, -32700).await;
    }
    assert_eq!(peer.call(4, "add", "[1, 2]").await["result"], 3);
    drop(peer);
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn an_identity_that_expires() {
    let running = serve(|builder| obeying(builder).limits(super::hasty())).await;
    for headers in [V1, V2] {
        let (_, mut peer) = Peer::upgrade(running.address, "?token=expiring", &format!("{UPGRADE}{headers}")).await;
        if headers == V2 {
            peer.expect(Opcode::Hello, 0).await;
        }
        peer.expect_close(4002).await;
    }
    let mut peer = deferred(&running).await;
    peer.send(Opcode::Auth, 1, r#"{"token":"expiring"}"#).await;
    peer.expect(Opcode::Authed, 1).await;
    peer.expect(Opcode::Hello, 0).await;
    peer.expect_close(4002).await;
    drop(peer);
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn a_flood_of_tokens() {
    let (watch, mut watched) = Watch::new();
    let limits = Limits { max_pending: 2, ..super::hasty() };
    let running = serve(|builder| {
        builder.limits(limits).auth(move |request: AuthRequest| {
            let watched = request.token.is_some().then(|| watch.begin());
            async move {
                let Some(_watched) = watched else { return Ok(Identity::anonymous()) };
                pending().await
            }
        })
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    for id in 1..=100 {
        peer.send(Opcode::Auth, id, r#"{"token":"x"}"#).await;
    }
    peer.begin(200, "add", "[1, 2]").await;
    let refused = refused_until(&mut peer, 200).await;
    assert!(refused >= 98, "{refused} were refused");
    drop(peer);
    let mut begun = 0;
    while let Ok(what) = watched.try_recv() {
        begun += usize::from(what == "begun");
    }
    assert!((1..=2).contains(&begun), "{begun} hooks at once");
}

#[tokio::test]
async fn resets_while_the_hook_is_at_work() {
    let (watch, mut watched) = Watch::new();
    let running = serve(|builder| {
        builder.auth(move |request: AuthRequest| {
            let watched = request.token.is_some().then(|| watch.begin());
            async move {
                let Some(_watched) = watched else { return Ok(Identity::anonymous()) };
                pending().await
            }
        })
    })
    .await;
    for reset in [true, false] {
        let mut peer = Peer::connect(running.address).await;
        peer.write(format!("GET /__ds?token=x HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{V2}\r\n").as_bytes()).await;
        assert_eq!(next(&mut watched).await, "begun");
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        assert_eq!(next(&mut watched).await, "gone", "the hook is dropped with its client");
        all_gone(&running).await;
    }
    assert_serves(&running).await;
    all_gone(&running).await;
}

/// The hook lets somebody in who has left meanwhile: nobody may be left behind.
#[tokio::test]
async fn a_client_that_leaves_while_its_frame_is_judged() {
    let (watch, mut watched) = Watch::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = serve(|builder| {
        let gate = gate.clone();
        builder.auth(move |request: AuthRequest| {
            let (watched, gate) = (request.token.is_some().then(|| watch.begin()), gate.clone());
            async move {
                if watched.is_none() {
                    return Ok(Identity::anonymous());
                }
                gate.acquire().await.unwrap().forget();
                Ok(Identity::user("ann"))
            }
        })
    })
    .await;
    let mut peer = deferred(&running).await;
    peer.send(Opcode::Auth, 1, r#"{"token":"x"}"#).await;
    assert_eq!(next(&mut watched).await, "begun");
    peer.reset();
    all_gone(&running).await;
    gate.add_permits(1);
    assert_eq!(next(&mut watched).await, "gone");
    // What follows the hook takes no turn of its own: once another client is served, it is over.
    assert_serves(&running).await;
    all_gone(&running).await;
    assert_eq!(running.server.metrics_snapshot().connections, 0);
    assert_eq!(running.server.connection_count(), 0);
}

/// How many ERROR frames come before the answer to this call.
async fn refused_until(peer: &mut Peer, call: u32) -> usize {
    let mut refused = 0;
    loop {
        match peer.receive().await {
            Received::Frame(Opcode::Error, ..) => refused += 1,
            Received::Frame(Opcode::RpcResponse, id, _) if id == call => return refused,
            other => panic!("{other:?}"),
        }
    }
}
