//! Authentication: refused, failing, hanging, panicking, late, as somebody else; and resets in the middle of it.

use std::{future::pending, time::Duration};

use datasole_core::frame::Opcode;
use datasole_server::{
    AuthError, AuthRequest, Builder, Context, Identity, Limits, StreamId,
    yrs::{Text, WriteTxn},
};
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
    super::hasty().with(|limits| {
        limits.auth_timeout = Duration::from_millis(100);
        limits.auth_frame_timeout = Duration::from_millis(100);
    })
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
    let limits = super::hasty().with(|limits| limits.max_pending = 2);
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

/// A server whose admins may read and write what begins with `admin/`; `TOKEN@GATE` waits for a permit of the gate.
async fn guarded(gate: std::sync::Arc<tokio::sync::Semaphore>) -> Running {
    let renewed = |context: Context| async move {
        if !context.identity().has_role("admin") {
            context.leave_group("admins").await;
        }
    };
    let may = |identity: &Identity, stream: &StreamId| !stream.key.starts_with("admin/") || identity.has_role("admin");
    serve(|builder| {
        builder
            .auth(move |request: AuthRequest| {
                let gate = gate.clone();
                async move {
                    let token = request.token.ok_or_else(|| AuthError::refused("no token"))?;
                    let (token, waits) = token.strip_suffix("@gate").map_or((&*token, false), |token| (token, true));
                    if waits {
                        gate.acquire().await.unwrap().forget();
                    }
                    let (user, role) = token.split_once('/').ok_or_else(|| AuthError::refused("no role"))?;
                    Ok(Identity::user(user).role(role))
                }
            })
            .authorize_read(may)
            .authorize_write(may)
            .on_renew(renewed)
            .rpc("whoami", |context: Context, (): ()| async move { Ok(context.identity().roles.clone()) })
            .rpc("admins", |context: Context, (): ()| async move { context.join_group("admins").await })
    })
    .await
}

async fn open_as(running: &Running, token: &str) -> Peer {
    let (status, mut peer) =
        Peer::upgrade(running.address, &format!("?token={token}"), &format!("{UPGRADE}{V2}")).await;
    assert_eq!(status, 101);
    peer.expect(Opcode::Hello, 0).await;
    peer
}

/// With fewer roles everything that the user may not have any more ends: each subscription by an ERROR under its id, rooms,
/// and the application's groups by its hook.
#[tokio::test]
async fn permissions_are_asked_again() {
    let running = guarded(std::sync::Arc::new(tokio::sync::Semaphore::new(0))).await;
    let server = &running.server;
    let mut peer = open_as(&running, "ann/admin").await;
    let mut other = open_as(&running, "bob/admin").await;
    let mut channel = None;
    for (id, kind, key) in [
        (1, "state", "admin/s"),
        (2, "event", "admin/e"),
        (3, "crdt", "admin/c"),
        (4, "presence", "admin/p"),
        (5, "state", "public"),
        (12, "doc", "admin/d"),
    ] {
        peer.send(Opcode::Subscribe, id, format!(r#"{{"kind":"{kind}","key":"{key}"}}"#)).await;
        let subscribed = peer.expect(Opcode::Subscribed, id).await;
        channel = subscribed["channel"].as_u64().or(channel);
        if kind != "event" {
            assert!(matches!(peer.receive().await, Received::Frame(..)), "a snapshot");
        }
    }
    other.send(Opcode::Subscribe, 1, r#"{"kind":"presence","key":"admin/p"}"#).await;
    other.expect(Opcode::Subscribed, 1).await;
    other.expect(Opcode::Presence, 0).await;
    peer.send(Opcode::Presence, 6, r#"{"key":"admin/p","value":1}"#).await;
    peer.expect(Opcode::Presence, 0).await;
    assert!(matches!(peer.receive().await, Received::Frame(Opcode::Ack, 6, _)));
    assert_eq!(other.expect(Opcode::Presence, 0).await["members"][0]["value"], 1);
    assert!(peer.call(7, "admins", "null").await.get("error").is_none());
    // `0 0` for the empty state vector.
    let channel = u32::try_from(channel.expect("the document has one")).unwrap();
    let question = [u8::try_from(channel).unwrap(), 0, 0, 1, 0];
    peer.send(Opcode::Doc, 13, question).await;
    assert!(matches!(peer.receive().await, Received::Frame(Opcode::Doc, from, _) if from == channel));
    assert!(matches!(peer.receive().await, Received::Frame(Opcode::Ack, 13, _)));

    peer.send(Opcode::Auth, 8, r#"{"token":"ann/guest"}"#).await;
    assert_eq!(peer.expect(Opcode::Authed, 8).await["userId"], "ann");
    let mut refused = Vec::new();
    for _ in 1..=5 {
        let Received::Frame(Opcode::Error, id, body) = peer.receive().await else { panic!("an ERROR") };
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], -32002);
        refused.push(id);
    }
    refused.sort_unstable();
    assert_eq!(refused, [1, 2, 3, 4, 12]);
    assert!(other.expect(Opcode::Presence, 0).await["members"][0].get("value").is_none(), "ann has left the room");
    assert_eq!(peer.call(9, "whoami", "null").await["result"], serde_json::json!(["guest"]));

    // Nothing of it comes any more; what is allowed goes on.
    server.state().set("admin/s", &1).await.unwrap();
    server.broadcast("admin/e", &1).await.unwrap();
    server.to_group("admins").emit("secret", &1).await.unwrap();
    server.docs().edit("admin/d", |t| t.get_or_insert_text("text").insert(t, 0, "secret")).await.unwrap();
    server.state().set("public", &1).await.unwrap();
    assert_eq!(peer.expect(Opcode::StateSnapshot, 0).await["key"], "public");
    peer.send(Opcode::Presence, 10, r#"{"key":"admin/p","value":1}"#).await;
    peer.expect_error(10, -32002).await;
    peer.send(Opcode::Doc, 14, question).await;
    peer.expect_error(14, -32600).await;
    peer.send(Opcode::Subscribe, 12, r#"{"kind":"doc","key":"admin/d"}"#).await;
    peer.expect_error(12, -32002).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"state","key":"admin/s"}"#).await;
    peer.expect_error(1, -32002).await;
    // With the role back, the same id is free again.
    peer.send(Opcode::Auth, 11, r#"{"token":"ann/admin"}"#).await;
    peer.expect(Opcode::Authed, 11).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"state","key":"admin/s"}"#).await;
    peer.expect(Opcode::Subscribed, 1).await;
}

/// Of two AUTH on their way the later token holds, whichever answer comes first; both are answered.
#[tokio::test]
async fn the_later_token_holds() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = guarded(gate.clone()).await;
    // Good, refused, and another user's: what has been overtaken has no effect.
    for slow in ["ann/admin@gate", "ann@gate", "bob/admin@gate"] {
        let mut peer = open_as(&running, "ann/user").await;
        peer.send(Opcode::Auth, 1, format!(r#"{{"token":"{slow}"}}"#)).await;
        peer.send(Opcode::Auth, 2, r#"{"token":"ann/guest"}"#).await;
        assert_eq!(peer.expect(Opcode::Authed, 2).await["userId"], "ann");
        gate.add_permits(1);
        assert_eq!(peer.expect(Opcode::Authed, 1).await["userId"], "ann");
        assert_eq!(peer.call(3, "whoami", "null").await["result"], serde_json::json!(["guest"]), "{slow}");
    }
    // The first token of a connection is no exception.
    let mut peer = deferred(&running).await;
    peer.send(Opcode::Auth, 1, r#"{"token":"ann/admin@gate"}"#).await;
    peer.send(Opcode::Auth, 2, r#"{"token":"ann/guest"}"#).await;
    peer.expect(Opcode::Authed, 2).await;
    peer.expect(Opcode::Hello, 0).await;
    gate.add_permits(1);
    peer.expect(Opcode::Authed, 1).await;
    assert_eq!(peer.call(3, "whoami", "null").await["result"], serde_json::json!(["guest"]));
    // In their order both take effect.
    peer.send(Opcode::Auth, 4, r#"{"token":"ann/user"}"#).await;
    peer.expect(Opcode::Authed, 4).await;
    assert_eq!(peer.call(5, "whoami", "null").await["result"], serde_json::json!(["user"]));
}

#[tokio::test]
async fn tokens_without_an_id_or_that_cannot_be_read() {
    let running = serve(obeying).await;
    for (id, payload) in [(1, ""), (1, "7"), (1, r#"{"token":7}"#), (0, r#"{"token":"ann"}"#)] {
        let mut peer = deferred(&running).await;
        peer.send(Opcode::Auth, id, payload).await;
        peer.expect_close(4002).await;
    }
    let mut peer = open_as(&running, "ann").await;
    peer.send(Opcode::Auth, 0, r#"{"token":"ann"}"#).await;
    peer.expect_error(0, -32600).await;
    // Nobody in particular is not ann.
    peer.send(Opcode::Auth, 1, r#"{"token":null}"#).await;
    peer.expect_close(4002).await;
    // An anonymous user stays the same one.
    let mut peer = deferred(&running).await;
    peer.send(Opcode::Auth, 1, r#"{"token":null}"#).await;
    let user = peer.expect(Opcode::Authed, 1).await["userId"].clone();
    assert!(user.as_str().unwrap().starts_with("anonymous-"));
    assert_eq!(peer.expect(Opcode::Hello, 0).await["userId"], user);
    peer.send(Opcode::Auth, 2, r#"{"token":null}"#).await;
    assert_eq!(peer.expect(Opcode::Authed, 2).await["userId"], user);
}

/// A HELLO is compressed from the length on from which it would take a second packet.
#[tokio::test]
async fn a_hello_of_one_packet_is_sent_as_it_is() {
    const PACKET: usize = 1_200;
    let running = serve(obeying).await;
    let hello = async |user: usize| {
        let query = format!("?token={}", "u".repeat(user));
        let (status, mut peer) = Peer::upgrade(running.address, &query, &format!("{UPGRADE}{V2}")).await;
        assert_eq!(status, 101);
        peer.binary().await
    };
    let around = hello(1).await.len() - 1;
    for length in [PACKET - 1, PACKET] {
        let plain = hello(length - around).await;
        assert_eq!((plain[0], plain.len()), (Opcode::Hello as u8, length));
    }
    let compressed = hello(PACKET + 1 - around).await;
    assert_eq!(compressed[0], 0x78, "a zlib stream");
    assert!(compressed.len() < PACKET);
}
