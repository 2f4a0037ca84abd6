//! Subscriptions and streams: limits, absurd positions, late joiners, resume, who may read what.

use datasole_core::frame::Opcode;
use datasole_server::{Context, Identity, Limits, Payload, Replay, StreamId};
use datasole_tests::{
    peer::{Peer, Received, UPGRADE, V2},
    running::Running,
};
use serde_json::{Value, json};

use super::{all_gone, assert_serves, serve};

async fn subscribe(peer: &mut Peer, id: u32, request: impl ToString) {
    peer.send(Opcode::Subscribe, id, request.to_string()).await;
}

/// Follows a stream that need not exist; the answer.
async fn follow(peer: &mut Peer, id: u32, kind: &str, key: &str, since: Value) -> Value {
    let mut request = json!({"kind": kind, "key": key});
    if !since.is_null() {
        request["since"] = since;
    }
    subscribe(peer, id, request).await;
    peer.expect(Opcode::Subscribed, id).await
}

/// The connection works: nothing else was in the way.
async fn nothing_more(peer: &mut Peer) {
    peer.send(Opcode::Ping, 99, "null").await;
    peer.expect(Opcode::Pong, 99).await;
}

#[tokio::test]
async fn subscriptions_that_make_no_sense() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    for request in [
        "",
        "{}",
        "[]",
        r#"{"kind":"state"}"#,
        r#"{"kind":"states","key":"k"}"#,
        r#"{"kind":"state","key":7}"#,
        r#"{"kind":"state","key":"k","since":7}"#,
        r#"{"kind":"state","key":"k","since":{}}"#,
        r#"{"kind":"state","key":"k","since":{"epoch":1}}"#,
        r#"{"kind":"state","key":"k","since":{"epoch":1,"seq":-1}}"#,
        r#"{"kind":"state","key":"k","since":{"epoch":1.5,"seq":1}}"#,
        r#"{"kind":"state","key":"k","since":{"epoch":1,"seq":18446744073709551616}}"#,
        r#"{"kind":"state","key":"k","since":{"epoch":1,"seq":1e300}}"#,
    ] {
        subscribe(&mut peer, 1, request).await;
        peer.expect_error(1, -32700).await;
    }
    for (id, request, code) in
        [(0, json!({"kind": "state", "key": "k"}), -32600), (1, json!({"kind": "state", "key": ""}), -32600)]
    {
        subscribe(&mut peer, id, request).await;
        peer.expect_error(id, code).await;
    }
    peer.send(Opcode::Unsubscribe, 1, "null").await;
    peer.send(Opcode::Unsubscribe, u32::MAX, "garbage").await;
    nothing_more(&mut peer).await;
    assert_eq!(running.server.state().keys().await.unwrap(), [""; 0]);
    assert_serves(&running).await;
}

#[tokio::test]
async fn keys_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| limits.max_key = 8);
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peer = Peer::v2(running.address).await;
    for kind in ["state", "event"] {
        for (id, key, fits) in [(1, "1234567", true), (2, "12345678", true), (3, "123456789", false)] {
            subscribe(&mut peer, id, json!({"kind": kind, "key": key})).await;
            if fits {
                peer.expect(Opcode::Subscribed, id).await;
                if kind == "state" {
                    assert_eq!(peer.expect(Opcode::StateSnapshot, 0).await["removed"], true);
                }
                peer.send(Opcode::Unsubscribe, id, "null").await;
            } else {
                peer.expect_error(id, -32600).await;
            }
        }
    }
    nothing_more(&mut peer).await;
}

#[tokio::test]
async fn subscriptions_below_at_and_above_the_limit() {
    let limits = Limits::default().with(|limits| limits.max_subscriptions = 3);
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peer = Peer::v2(running.address).await;
    for id in 1..=3 {
        follow(&mut peer, id, "event", &format!("topic {id}"), Value::Null).await;
    }
    subscribe(&mut peer, 4, json!({"kind": "event", "key": "topic 4"})).await;
    peer.expect_error(4, -32004).await;
    peer.send(Opcode::Unsubscribe, 2, "null").await;
    follow(&mut peer, 5, "event", "topic 4", Value::Null).await;
    subscribe(&mut peer, 6, json!({"kind": "event", "key": "topic 6"})).await;
    peer.expect_error(6, -32004).await;
    assert_serves(&running).await;
}

#[tokio::test]
async fn subscribed_twice() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    follow(&mut peer, 1, "event", "a", Value::Null).await;
    for (id, key) in [(1, "a"), (1, "b"), (2, "a")] {
        subscribe(&mut peer, id, json!({"kind": "event", "key": key})).await;
        peer.expect_error(id, -32600).await;
    }
    follow(&mut peer, 2, "state", "a", Value::Null).await;
    peer.expect(Opcode::StateSnapshot, 0).await;
    running.server.broadcast("a", &1).await.unwrap();
    assert_eq!(peer.expect(Opcode::ServerEvent, 0).await["data"], 1, "once");
    nothing_more(&mut peer).await;
}

#[tokio::test]
async fn positions_that_cannot_be() {
    let running = serve(|builder| builder.topic("feed", Replay::default())).await;
    running.server.state().set("k", &1).await.unwrap();
    running.server.broadcast("feed", &1).await.unwrap();
    let mut peer = Peer::v2(running.address).await;
    for (kind, key) in [("state", "k"), ("event", "feed"), ("event", "unknown"), ("state", "unknown")] {
        let here = follow(&mut peer, 1, kind, key, Value::Null).await;
        let epoch = here["epoch"].as_u64().unwrap();
        let mut drain = kind == "state";
        for since in [
            json!({"epoch": epoch, "seq": here["seq"].as_u64().unwrap() + 1}),
            json!({"epoch": epoch, "seq": u64::MAX}),
            json!({"epoch": epoch + 1, "seq": here["seq"]}),
            json!({"epoch": u64::MAX, "seq": 0}),
            json!({"epoch": 0, "seq": 0}),
        ] {
            if drain {
                peer.expect(Opcode::StateSnapshot, 0).await;
            }
            peer.send(Opcode::Unsubscribe, 1, "null").await;
            let answer = follow(&mut peer, 1, kind, key, since.clone()).await;
            // Nothing of a state is the same in every life.
            let nothing = kind == "state" && since["seq"] == 0;
            assert_eq!(answer["recovered"], nothing, "{kind} {key} since {since}");
            let seq = if nothing { &since["seq"] } else { &here["seq"] };
            assert_eq!(&answer["seq"], seq);
            drain = kind == "state" && (!nothing || key == "k");
        }
        if drain {
            peer.expect(Opcode::StateSnapshot, 0).await;
        }
        peer.send(Opcode::Unsubscribe, 1, "null").await;
    }
    nothing_more(&mut peer).await;
    assert_serves_v2(&running).await;
}

#[tokio::test]
async fn a_late_joiner_and_one_that_comes_back() {
    let running = serve(|builder| builder).await;
    let state = running.server.state();
    state.set("k", &json!({"n": 1})).await.unwrap();
    state.update("k", |draft| draft.add("/n", 1)).await.unwrap();
    let mut peer = Peer::v2(running.address).await;
    let start = follow(&mut peer, 1, "state", "k", Value::Null).await;
    assert_eq!((&start["seq"], &start["recovered"]), (&json!(2), &json!(false)));
    let snapshot = peer.expect(Opcode::StateSnapshot, 0).await;
    assert_eq!((&snapshot["data"], &snapshot["version"]), (&json!({"n": 2}), &json!(2)));
    assert_eq!((&snapshot["epoch"], &snapshot["seq"]), (&start["epoch"], &start["seq"]));
    state.update("k", |draft| draft.add("/n", 1)).await.unwrap();
    assert_eq!(peer.expect(Opcode::StatePatch, 0).await["seq"], 3);
    drop(peer);
    for n in 4..=6 {
        state.update("k", |draft| draft.set("/n", n)).await.unwrap();
    }
    let mut peer = Peer::v2(running.address).await;
    let answer = follow(&mut peer, 1, "state", "k", json!({"epoch": start["epoch"], "seq": 3})).await;
    assert_eq!((&answer["seq"], &answer["recovered"]), (&json!(3), &json!(true)), "since, and what follows");
    for seq in 4..=6 {
        let patch = peer.expect(Opcode::StatePatch, 0).await;
        assert_eq!((&patch["seq"], &patch["patches"][0]["value"]), (&json!(seq), &json!(seq)));
    }
    state.remove("k").await.unwrap();
    let gone = peer.expect(Opcode::StateSnapshot, 0).await;
    assert_eq!((&gone["removed"], &gone["data"]), (&json!(true), &Value::Null));
    nothing_more(&mut peer).await;
}

#[tokio::test]
async fn a_new_life_is_not_resumed() {
    let start = || async {
        let running = serve(|builder| builder.topic("feed", Replay::default())).await;
        running.server.state().set("k", &1).await.unwrap();
        running.server.broadcast("feed", &1).await.unwrap();
        running
    };
    let first = start().await;
    let mut peer = Peer::v2(first.address).await;
    let state = follow(&mut peer, 1, "state", "k", Value::Null).await;
    peer.expect(Opcode::StateSnapshot, 0).await;
    let topic = follow(&mut peer, 2, "event", "feed", Value::Null).await;
    drop(first);
    let second = start().await;
    let mut peer = Peer::v2(second.address).await;
    for (id, kind, key, old) in [(1, "state", "k", state), (2, "event", "feed", topic)] {
        let since = json!({"epoch": old["epoch"], "seq": old["seq"]});
        let answer = follow(&mut peer, id, kind, key, since).await;
        assert_eq!((&answer["recovered"], &answer["seq"]), (&json!(false), &json!(1)));
        assert_ne!(answer["epoch"], old["epoch"]);
        if kind == "state" {
            assert_eq!(peer.expect(Opcode::StateSnapshot, 0).await["data"], 1);
        }
    }
    // A key that was removed and comes back begins a new life, too, once nobody follows it.
    peer.send(Opcode::Unsubscribe, 1, "null").await;
    nothing_more(&mut peer).await;
    let state = second.server.state();
    let before = state.set("k", &2).await.unwrap();
    state.remove("k").await.unwrap();
    let after = state.set("k", &3).await.unwrap();
    assert!(after.epoch != before.epoch || after.seq > before.seq);
}

#[tokio::test]
async fn a_topic_with_history_is_resumed() {
    let replay = Replay::default().entries(3);
    let running = serve(|builder| builder.topic("feed", replay)).await;
    let mut peer = Peer::v2(running.address).await;
    let start = follow(&mut peer, 1, "event", "feed", Value::Null).await;
    let live = follow(&mut peer, 2, "event", "live", Value::Null).await;
    drop(peer);
    for n in 1..=4 {
        running.server.broadcast("feed", &n).await.unwrap();
        running.server.broadcast("live", &n).await.unwrap();
    }
    for (seq, recovered) in [(2, true), (1, true), (0, false)] {
        let mut peer = Peer::v2(running.address).await;
        let answer = follow(&mut peer, 1, "event", "feed", json!({"epoch": start["epoch"], "seq": seq})).await;
        assert_eq!(answer["recovered"], recovered, "since {seq}");
        for n in seq + 1..=4 {
            if recovered {
                assert_eq!(peer.expect(Opcode::ServerEvent, 0).await["data"], n);
            }
        }
        let answer = follow(&mut peer, 2, "event", "live", json!({"epoch": live["epoch"], "seq": seq})).await;
        assert_eq!(answer["recovered"], false, "it has no history");
        nothing_more(&mut peer).await;
    }
}

/// How many topics without history and followers are remembered, below, at and above the limit.
#[tokio::test]
async fn idle_topics_are_bounded() {
    let limits = Limits::default().with(|limits| limits.max_idle_topics = 3);
    let running = serve(|builder| builder.limits(limits).topic("kept", Replay::default())).await;
    for name in ["kept", "1", "2", "3", "4"] {
        running.server.broadcast(name, &1).await.unwrap();
    }
    let mut peer = Peer::v2(running.address).await;
    for (id, name, seq) in [(1, "kept", 1), (2, "1", 1), (3, "2", 1), (4, "3", 1), (5, "4", 0)] {
        assert_eq!(follow(&mut peer, id, "event", name, Value::Null).await["seq"], seq, "{name}");
    }
    // One is above the limit once nobody follows them, and is forgotten; the others are remembered.
    for (id, name) in [(2, "1"), (3, "2"), (4, "3"), (5, "4")] {
        running.server.broadcast(name, &1).await.unwrap();
        peer.expect(Opcode::ServerEvent, 0).await;
        peer.send(Opcode::Unsubscribe, id, "null").await;
    }
    nothing_more(&mut peer).await;
    let mut remembered = 0;
    for (id, name) in [(2, "1"), (3, "2"), (4, "3"), (5, "4")] {
        let seq = follow(&mut peer, id, "event", name, Value::Null).await["seq"].as_u64().unwrap();
        remembered += usize::from(seq > 0);
    }
    assert_eq!(remembered, 3, "the one with history takes no place of theirs");
    assert_serves(&running).await;
}

#[tokio::test]
async fn who_may_not_read() {
    let running = serve(|builder| {
        builder
            .auth(|request| async move {
                Ok(request.token.map_or_else(Identity::anonymous, |user: String| Identity::user(user)))
            })
            .authorize_read(|identity: &Identity, stream: &StreamId| {
                assert_ne!(stream.key, "panic", "a policy that panics");
                !stream.key.starts_with("secret") || identity.user_id == "ann"
            })
    })
    .await;
    let state = running.server.state();
    state.set("secret", &1).await.unwrap();
    state.set("open", &1).await.unwrap();

    let mut stranger = Peer::v2(running.address).await;
    for kind in ["state", "event"] {
        for key in ["secret", "panic"] {
            subscribe(&mut stranger, 1, json!({"kind": kind, "key": key})).await;
            stranger.expect_error(1, -32002).await;
        }
    }
    let (_, mut ann) = Peer::upgrade(running.address, "?token=ann", &format!("{UPGRADE}{V2}")).await;
    ann.expect(Opcode::Hello, 0).await;
    follow(&mut ann, 1, "state", "secret", Value::Null).await;
    assert_eq!(ann.expect(Opcode::StateSnapshot, 0).await["data"], 1);

    // Version 1 clients are sent what they may read, states born later and events included.
    let mut v1 = Peer::v1(running.address).await;
    assert_eq!(v1.expect(Opcode::StateSnapshot, 0).await["key"], "open");
    let (_, mut v1_ann) = Peer::upgrade(running.address, "?token=ann", UPGRADE).await;
    let mut keys = [v1_ann.expect(Opcode::StateSnapshot, 0).await, v1_ann.expect(Opcode::StateSnapshot, 0).await]
        .map(|snapshot| snapshot["key"].as_str().unwrap().to_owned());
    keys.sort();
    assert_eq!(keys, ["open", "secret"]);
    state.set("secret", &2).await.unwrap();
    state.set("secret born later", &1).await.unwrap();
    running.server.broadcast("secret news", &1).await.unwrap();
    running.server.broadcast("news", &1).await.unwrap();
    assert_eq!(v1.expect(Opcode::ServerEvent, 0).await["event"], "news");
    for opcode in [Opcode::StatePatch, Opcode::StateSnapshot] {
        let Received::Frame(got, ..) = v1_ann.receive().await else { panic!("a frame") };
        assert!([opcode, Opcode::StateSnapshot].contains(&got));
    }
    assert_eq!(v1_ann.expect(Opcode::ServerEvent, 0).await["event"], "secret news");
    assert_serves_v2(&running).await;
}

/// A version 1 client would be sent states first.
async fn assert_serves_v2(running: &Running) {
    let mut peer = Peer::v2(running.address).await;
    assert_eq!(peer.call(1, "add", "[1, 2]").await["result"], 3);
}

#[tokio::test]
async fn broadcasts_reach_both_versions_once() {
    let running = serve(|builder| {
        builder.on_raw("chat", |context: Context, message: Payload| async move {
            context.server().broadcast_payload("chat", message).await.unwrap();
        })
    })
    .await;
    let mut v1 = Peer::v1(running.address).await;
    let mut v2 = Peer::v2(running.address).await;
    let mut other = Peer::v2(running.address).await;
    follow(&mut v2, 1, "event", "chat", Value::Null).await;
    v1.send(Opcode::ClientEvent, 0, r#"{"event":"chat","data":{"text":"hi"}}"#).await;
    for peer in [&mut v1, &mut v2] {
        let event = peer.expect(Opcode::ServerEvent, 0).await;
        assert_eq!((&event["event"], &event["data"]), (&json!("chat"), &json!({"text": "hi"})));
        assert!(event["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
        nothing_more(peer).await;
    }
    nothing_more(&mut other).await;
    // Bytes are for those who know them.
    running.server.broadcast_payload("chat", Payload::Binary(vec![1])).await.unwrap();
    let Received::Frame(Opcode::ServerEventBinary, 0, _) = v2.receive().await else { panic!("bytes") };
    nothing_more(&mut v1).await;
    assert_serves(&running).await;
}

#[tokio::test]
async fn groups_users_and_connections() {
    let limits = Limits::default().with(|limits| limits.max_groups = 2);
    let running = serve(|builder| {
        builder
            .limits(limits)
            .auth(|request| async move {
                Ok(request.token.map_or_else(Identity::anonymous, |user: String| Identity::user(user)))
            })
            .rpc("join", |context: Context, group: String| async move { context.join_group(&group).await })
            .rpc("leave", |context: Context, group: String| async move {
                context.leave_group(&group).await;
                Ok(())
            })
            .rpc("id", |context: Context, _: Value| async move { Ok(context.connection_id()) })
            .rpc("address", |context: Context, _: Value| async move { Ok(context.connection().remote_addr()) })
    })
    .await;
    let open = |query: &'static str, headers: &'static str| async move {
        let (_, mut peer) = Peer::upgrade(running.address, query, &format!("{UPGRADE}{headers}")).await;
        if headers == V2 {
            peer.expect(Opcode::Hello, 0).await;
        }
        peer
    };
    let running = &running;
    let (mut ann, mut ann_v1, mut bob) =
        (open("?token=ann", V2).await, open("?token=ann", "").await, open("?token=bob", V2).await);
    for (group, code) in [("\"1\"", None), ("\"2\"", None), ("\"2\"", None), ("\"3\"", Some(-32004))] {
        assert_eq!(ann.call(1, "join", group).await["error"]["code"].as_i64(), code, "{group}");
    }
    bob.call(1, "join", "\"1\"").await;
    let server = &running.server;
    server.to_group("1").emit("e", &1).await.unwrap();
    server.to_group("2").emit("e", &2).await.unwrap();
    server.to_group("3").emit("e", &3).await.unwrap();
    server.to_user("ann").emit("e", &4).await.unwrap();
    server.to_user("nobody").emit("e", &5).await.unwrap();
    for data in [1, 2, 4] {
        let event = ann.expect(Opcode::ServerEvent, 0).await;
        assert_eq!(event["data"], data);
        assert!(event.get("seq").is_none(), "it belongs to no stream");
    }
    assert_eq!(ann_v1.expect(Opcode::ServerEvent, 0).await["data"], 4);
    assert_eq!(bob.expect(Opcode::ServerEvent, 0).await["data"], 1);
    let id = bob.call(2, "id", "null").await["result"].as_str().unwrap().to_owned();
    server.to_connection(&id).emit("e", &6).await.unwrap();
    assert_eq!(bob.expect(Opcode::ServerEvent, 0).await["data"], 6);
    for unknown in ["", "-", "zz", "1-zz", "-1", &format!("{id}0"), &id.replace('-', "")] {
        server.to_connection(unknown).emit("e", &7).await.unwrap();
        server.disconnect(unknown, 1000, "").await;
    }
    let address = bob.call(3, "address", "null").await["result"].as_str().unwrap().to_owned();
    assert!(address.starts_with("127.0.0.1:") && address != running.address.to_string(), "{address}");
    ann.call(3, "leave", "\"1\"").await;
    ann.call(3, "leave", "\"never entered\"").await;
    assert_eq!(ann.call(3, "join", "\"3\"").await.get("error"), None, "there is room again");
    server.to_group("1").emit("e", &8).await.unwrap();
    server.to_user("ann").emit("e", &9).await.unwrap();
    assert_eq!(ann.expect(Opcode::ServerEvent, 0).await["data"], 9, "she has left the group");
    server.disconnect(&id, 4321, "bye").await;
    assert_eq!(bob.expect(Opcode::ServerEvent, 0).await["data"], 8);
    bob.expect_close(4321).await;
    drop((ann, ann_v1, bob));
    all_gone(running).await;
    for group in ["1", "2", "3"] {
        server.to_group(group).emit("e", &9).await.unwrap();
    }
}

#[tokio::test]
async fn names_and_sizes_of_published_events() {
    let limits = Limits::default().with(|limits| {
        limits.max_event_name = 8;
        limits.max_payload = 1_000;
    });
    let running = serve(|builder| builder.limits(limits)).await;
    for (name, fits) in [("", false), ("1234567", true), ("12345678", true), ("123456789", false)] {
        assert_eq!(running.server.broadcast(name, &1).await.is_ok(), fits, "{name}");
        assert_eq!(running.server.to_group("r").emit(name, &1).await.is_ok(), fits, "{name}");
    }
    let mut peer = Peer::v2(running.address).await;
    follow(&mut peer, 1, "event", "e", Value::Null).await;
    let envelope = 128 + 6 + 2;
    for (length, fits) in [(999, true), (1_000, true), (1_001, false), (2_000, false)] {
        let sent = running.server.broadcast("e", &"x".repeat(length - envelope)).await;
        assert_eq!(sent.is_ok(), fits, "{length}");
        if fits {
            peer.expect(Opcode::ServerEvent, 0).await;
        }
    }
    nothing_more(&mut peer).await;
}

/// Following and leaving in one breath, and leaving without a word: no state comes of it.
#[tokio::test]
async fn states_that_do_not_exist_are_not_made_by_looking() {
    let running = serve(|builder| {
        builder.rpc("get", |context: Context, key: String| async move { Ok(context.server().state().get(&key).await?) })
    })
    .await;
    let _v1 = Peer::v1(running.address).await;
    let mut peer = Peer::v2(running.address).await;
    for id in 1..=2_000 {
        subscribe(&mut peer, id, json!({"kind": "state", "key": format!("unknown {id}")})).await;
        peer.send(Opcode::Unsubscribe, id, "null").await;
        peer.expect(Opcode::Subscribed, id).await;
        assert_eq!(peer.expect(Opcode::StateSnapshot, 0).await["removed"], true);
    }
    assert_eq!(peer.call(1, "get", "\"unknown\"").await["result"], Value::Null);
    subscribe(&mut peer, 1, json!({"kind": "state", "key": "unknown"})).await;
    peer.reset();
    assert_eq!(running.server.state().keys().await.unwrap(), [""; 0]);
    assert_serves(&running).await;
}
