//! Calls and events: payloads that are none, limits, handlers that panic, hang or are no longer wanted.

use std::future::pending;

use datasole_core::{frame::Opcode, wire::join_binary};
use datasole_server::{Context, Limits, Payload, RpcError};
use datasole_tests::peer::{Peer, Received};
use serde_json::{Value, json};

use super::{Watch, all_gone, assert_serves, next, serve};

#[tokio::test]
async fn calls_that_cannot_be_read_are_answered() {
    let running = serve(|builder| builder).await;
    let deep = "[".repeat(100_000);
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        for (id, payload) in [
            &b""[..],
            b"{",
            b"null",
            b"[]",
            b"{}",
            b"\xff\xfe",
            b"{\"method\":\"\xff\"}",
            br#"{"method":1}"#,
            br#"{"method":null}"#,
            br#"{"method":"add"}}"#,
            br#"{"method":"add","method":"add"}"#,
            br#"{"method":"add","correlationId":-1}"#,
            br#"{"method":"add","correlationId":4294967296}"#,
            br#"{"method":"\ud800"}"#,
            deep.as_bytes(),
            format!(r#"{{"method":"add","params":{deep}}}"#).as_bytes(),
        ]
        .into_iter()
        .enumerate()
        {
            let id = id as u32 + 1;
            peer.send(Opcode::RpcRequest, id, payload).await;
            let answer = peer.expect(Opcode::RpcResponse, id).await;
            assert_eq!(answer["error"]["code"], -32700, "{answer} to {}", payload.escape_ascii());
            assert_eq!(answer["correlationId"], id);
        }
    }
    assert_serves(&running).await;
}

#[tokio::test]
async fn parameters_that_do_not_fit() {
    let running = serve(|builder| builder).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        for params in ["null", "{}", "[1]", "[1, 2, 3]", "[1, 1e99]", "[1, \"2\"]", &deep] {
            let answer = peer.call(1, "add", params).await;
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        peer.begin(2, "echo", &deep).await;
        let Received::Frame(Opcode::RpcResponse, 2, answer) = peer.receive().await else { panic!("an answer") };
        assert!(answer.windows(deep.len()).any(|part| part == deep.as_bytes()), "what is not read is passed on");
        let answer = peer.call(3, "missing", "1").await;
        assert_eq!(answer["error"], json!({"code": -32601, "message": "Method not found: missing"}));
    }
    assert_serves(&running).await;
}

#[tokio::test]
async fn a_method_name_as_long_as_the_frame() {
    let running = serve(|builder| builder).await;
    let name = "m".repeat(1_000_000);
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        let answer = peer.call(1, &name, "null").await;
        assert_eq!(answer["error"]["code"], -32601);
        let payload = format!(r#"{{"method":"{}"}}"#, "\u{7f}\\u0001".repeat(140_000));
        peer.send(Opcode::RpcRequest, 2, payload).await;
        let answer = peer.expect(Opcode::RpcResponse, 2).await;
        assert_eq!(answer["error"]["code"], -32601, "{answer:.200}");
        assert!(answer.to_string().len() < 200, "the name is not repeated");
        // Below, at and above the limit of names.
        for (length, repeated) in [(255, true), (256, true), (257, false)] {
            let answer = peer.call(3, &name[..length], "null").await.to_string();
            assert_eq!(answer.contains(&name[..length]), repeated, "{length}: {answer}");
        }
    }
    assert_serves(&running).await;
}

#[tokio::test]
async fn results_below_at_and_above_the_frame_limit() {
    let limits = Limits::default().with(|limits| {
        limits.max_payload = 1_000;
        limits.compress_above = usize::MAX;
    });
    let running = serve(|builder| {
        builder.limits(limits).rpc("text", |_: Context, length: usize| async move { Ok("x".repeat(length)) })
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    let envelope = peer.call(1, "text", "0").await.to_string().len();
    for (length, fits) in [(999, true), (1_000, true), (1_001, false)] {
        let answer = peer.call(1, "text", &(length - envelope).to_string()).await;
        assert_eq!(answer["result"].is_string(), fits, "{length}");
        assert_eq!(answer["error"]["code"].as_i64(), (!fits).then_some(-32005));
    }
}

#[tokio::test]
async fn a_void_result_has_no_member() {
    let running = serve(|builder| builder.rpc("void", |_: Context, _: Value| async move { Ok(()) })).await;
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        assert_eq!(peer.call(1, "void", "null").await, json!({"correlationId": 1}));
        assert_eq!(peer.call(2, "echo", "null").await, json!({"correlationId": 2, "result": null}));
    }
}

#[tokio::test]
async fn bytes_to_and_from_methods() {
    let running = serve(|builder| {
        builder.rpc_raw("bytes", |_: Context, _: Payload| async move { Ok(Payload::Binary(vec![0, 255])) })
    })
    .await;
    let mut v2 = Peer::v2(running.address).await;
    v2.send(Opcode::RpcRequestBinary, 1, join_binary(br#"{"method":"echo"}"#, &[0, 255])).await;
    let answer = join_binary(br#"{"correlationId":1}"#, &[0, 255]);
    assert_eq!(v2.receive().await, Received::Frame(Opcode::RpcResponseBinary, 1, answer));
    for payload in [&b""[..], b"\0\0\0", b"\0\0\0\x09{}", b"\xff\xff\xff\xff{}", b"\0\0\0\x02{}"] {
        v2.send(Opcode::RpcRequestBinary, 2, payload).await;
        assert_eq!(v2.expect(Opcode::RpcResponse, 2).await["error"]["code"], -32700);
    }
    v2.send(Opcode::RpcRequestBinary, 3, join_binary(br#"{"method":"add"}"#, b"[1,2]")).await;
    assert_eq!(v2.expect(Opcode::RpcResponse, 3).await["error"]["code"], -32602);
    // Version 1 has no bytes: an error rather than a frame that it drops, and a call that hangs.
    let mut v1 = Peer::v1(running.address).await;
    assert!(v1.call(4, "bytes", "null").await["error"]["code"].is_i64());
    assert_serves(&running).await;
}

#[tokio::test]
async fn calls_below_at_and_above_the_limit() {
    let (watch, mut watched) = Watch::new();
    let limits = Limits::default().with(|limits| limits.max_pending = 3);
    let running = serve(|builder| {
        builder
            .limits(limits)
            .rpc("hang", move |_: Context, _: Value| {
                let watched = watch.begin();
                async move {
                    let _watched = watched;
                    pending::<Result<(), RpcError>>().await
                }
            })
            .cancel_on_disconnect()
    })
    .await;
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        for id in 1..=3 {
            peer.begin(id, "hang", "null").await;
            assert_eq!(next(&mut watched).await, "begun");
        }
        for id in 4..=6 {
            assert_eq!(peer.call(id, "hang", "null").await["error"]["code"], -32004, "one too many");
        }
        drop(peer);
        for _ in 0..3 {
            assert_eq!(next(&mut watched).await, "gone", "nobody waits any more");
        }
    }
    assert!(watched.try_recv().is_err(), "what is refused is not begun");
    assert_serves(&running).await;
    all_gone(&running).await;
}

#[tokio::test]
async fn an_id_that_is_in_use() {
    let (watch, mut watched) = Watch::new();
    let running = serve(|builder| {
        builder
            .rpc("hang", move |_: Context, _: Value| {
                let watched = watch.begin();
                async move {
                    let _watched = watched;
                    pending::<Result<(), RpcError>>().await
                }
            })
            .cancel_on_disconnect()
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    peer.begin(5, "hang", "null").await;
    assert_eq!(next(&mut watched).await, "begun");
    assert_eq!(peer.call(5, "hang", "null").await["error"]["code"], -32004);
    peer.send(Opcode::Cancel, 5, "null").await;
    assert_eq!(next(&mut watched).await, "gone", "the first was under way and is cancelled");
    // Ids that nobody knows are cancelled without harm.
    peer.send(Opcode::Cancel, 5, "null").await;
    peer.send(Opcode::Cancel, 0, "garbage").await;
    peer.begin(5, "hang", "null").await;
    assert_eq!(next(&mut watched).await, "begun", "the id is free again");
    drop(peer);
    assert_eq!(next(&mut watched).await, "gone");
    assert!(watched.try_recv().is_err());
    assert_serves(&running).await;
}

#[tokio::test]
async fn handlers_that_panic() {
    let running = serve(|builder| {
        builder
            .rpc("sync", |_: Context, _: Value| {
                assert!(std::hint::black_box(false), "a panic before the future");
                async { Ok(()) }
            })
            .rpc("async", |_: Context, _: Value| async {
                assert!(std::hint::black_box(false), "a panic in the first poll");
                Ok(())
            })
            .rpc("later", |_: Context, _: Value| async {
                tokio::task::yield_now().await;
                assert!(std::hint::black_box(false), "a panic in a later poll");
                Ok(())
            })
            .on("sync", |_: Context, _: Value| {
                assert!(std::hint::black_box(false), "a panic before the future");
                async {}
            })
            .on("async", |_: Context, _: Value| async {
                assert!(std::hint::black_box(false), "a panic in the first poll");
            })
            .on("later", |_: Context, _: Value| async {
                tokio::task::yield_now().await;
                assert!(std::hint::black_box(false), "a panic in a later poll");
            })
    })
    .await;
    for (is_v2, mut peer) in [(false, Peer::v1(running.address).await), (true, Peer::v2(running.address).await)] {
        for (id, name) in [(1, "sync"), (2, "async"), (3, "later")] {
            let answer = peer.call(id, name, "null").await;
            assert_eq!(answer["error"]["code"], -32603, "{name}: {answer}");
            peer.send(Opcode::ClientEvent, 9, json!({ "event": name }).to_string()).await;
            if is_v2 && name == "sync" {
                peer.expect_error(9, -32603).await;
            }
        }
        assert_eq!(peer.call(4, "add", "[1, 2]").await["result"], 3);
    }
    assert_serves(&running).await;
}

#[tokio::test]
async fn a_closure_that_panics_leaves_no_trace() {
    let running = serve(|builder| {
        builder.rpc("update", |context: Context, key: String| async move {
            let state = context.server().state();
            let changed = state.update(&key, |draft| {
                draft.set("", json!({"half": true}))?;
                assert!(std::hint::black_box(false), "a panic in an update");
                Ok(())
            });
            changed.await?;
            Ok(())
        })
    })
    .await;
    let state = running.server.state();
    state.set("there", &json!({"n": 1})).await.unwrap();
    let mut peer = Peer::v2(running.address).await;
    for key in ["there", "missing"] {
        assert_eq!(peer.call(1, "update", &format!("{key:?}")).await["error"]["code"], -32603);
    }
    assert_eq!(state.get("there").await.unwrap(), Some(json!({"n": 1})));
    assert_eq!(state.get("missing").await.unwrap(), None);
    state.update("there", |draft| draft.add("/n", 1)).await.unwrap();
    assert_eq!(state.get("there").await.unwrap(), Some(json!({"n": 2})), "it can still be changed");
}

#[tokio::test]
async fn events_that_make_no_sense() {
    let (watch, mut watched) = Watch::new();
    let name = "n".repeat(256);
    let running = serve(|builder| {
        builder.on_raw(&name, move |_: Context, _: Payload| {
            let watched = watch.begin();
            async move { drop(watched) }
        })
    })
    .await;
    let mut v1 = Peer::v1(running.address).await;
    let mut v2 = Peer::v2(running.address).await;
    for (payload, code) in [
        (String::new(), -32700),
        ("{}".into(), -32700),
        (r#"{"event":7}"#.into(), -32700),
        (r#"{"event":""}"#.into(), -32600),
        (format!(r#"{{"event":"{name}n"}}"#), -32600),
    ] {
        v1.send(Opcode::ClientEvent, 4, &payload).await;
        v2.send(Opcode::ClientEvent, 4, &payload).await;
        v2.expect_error(4, code).await;
    }
    v2.send(Opcode::ClientEventBinary, 4, b"\0\0\0\x09{}").await;
    v2.expect_error(4, -32700).await;
    // At the limit and below it; nobody listens to the second, which is no error.
    for payload in [format!(r#"{{"event":"{name}"}}"#), format!(r#"{{"event":"{}"}}"#, &name[1..])] {
        v1.send(Opcode::ClientEvent, 0, &payload).await;
        v2.send(Opcode::ClientEvent, 0, &payload).await;
    }
    for _ in 0..2 {
        assert_eq!((next(&mut watched).await, next(&mut watched).await), ("begun", "gone"));
    }
    assert_eq!(v1.call(5, "add", "[1, 2]").await["result"], 3);
    assert_eq!(v2.call(5, "add", "[1, 2]").await["result"], 3);
    assert!(watched.try_recv().is_err());
    assert_serves(&running).await;
}

/// An event that is admitted can be sent on under its name: with the time and a position it fits in a frame.
#[tokio::test]
async fn events_below_at_and_above_what_can_be_sent_on() {
    let limits = Limits::default().with(|limits| {
        limits.max_payload = 2_000;
        limits.compress_above = usize::MAX;
    });
    let running = serve(|builder| {
        builder
            .limits(limits)
            .on("e", |context: Context, text: String| async move { context.server().broadcast("e", &text).await })
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"event","key":"e"}"#).await;
    peer.expect(Opcode::Subscribed, 1).await;
    let most = 2_000 - 128 - 6;
    for (length, fits) in [(most - 1, true), (most, true), (most + 1, false)] {
        let text = "x".repeat(length - 2);
        peer.send(Opcode::ClientEvent, 2, format!(r#"{{"event":"e","data":"{text}"}}"#)).await;
        if fits {
            assert_eq!(peer.expect(Opcode::ServerEvent, 0).await["data"], text);
        } else {
            peer.expect_error(2, -32005).await;
        }
    }
}

/// One header field, one rule: what is answered needs an id, and no id is used twice.
#[tokio::test]
async fn ids_of_what_is_answered() {
    let running = serve(|builder| {
        builder.rpc("hang", |_: Context, _: Value| pending::<Result<(), RpcError>>()).cancel_on_disconnect()
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    for (opcode, payload) in [
        (Opcode::Presence, r#"{"key":"room","value":1}"#),
        (
            Opcode::CrdtOp,
            r#"{"key":"k","op":{"type":"g-set","nodeId":"n","counter":1,"timestamp":1,"op":"add","value":1}}"#,
        ),
        (Opcode::Subscribe, r#"{"kind":"state","key":"k"}"#),
    ] {
        peer.send(opcode, 0, payload).await;
        peer.expect_error(0, -32600).await;
    }
    assert_eq!(running.server.presence("room").count().await, 0, "without an id there is no effect");
    peer.begin(5, "hang", "null").await;
    peer.send(Opcode::Subscribe, 5, r#"{"kind":"state","key":"k"}"#).await;
    peer.expect_error(5, -32600).await;
    peer.send(Opcode::Cancel, 5, "null").await;
    peer.send(Opcode::Subscribe, 5, r#"{"kind":"state","key":"k"}"#).await;
    peer.expect(Opcode::Subscribed, 5).await;
}

#[tokio::test]
async fn event_handlers_below_at_and_above_the_limit() {
    let (watch, mut watched) = Watch::new();
    let limits = Limits::default().with(|limits| limits.max_pending = 2);
    let running = serve(|builder| {
        builder.limits(limits).on("hang", move |_: Context, _: Value| {
            let watched = watch.begin();
            async move {
                let _watched = watched;
                pending::<()>().await;
            }
        })
    })
    .await;
    let mut peer = Peer::v2(running.address).await;
    for _ in 0..2 {
        peer.send(Opcode::ClientEvent, 0, r#"{"event":"hang","data":1}"#).await;
        assert_eq!(next(&mut watched).await, "begun");
    }
    peer.send(Opcode::ClientEvent, 3, r#"{"event":"hang","data":1}"#).await;
    peer.expect_error(3, -32004).await;
    assert!(watched.try_recv().is_err());
    assert_serves(&running).await;
}

/// Calls under way count in bytes: large calls are not read beyond the bound, but cancelled they make room, and a call
/// that is larger than the bound is served alone.
#[tokio::test]
async fn bytes_under_way_below_at_and_above_the_limit() {
    let (watch, mut watched) = Watch::new();
    // Four of these calls fit, a fifth does not: 100,000 bytes of text, and 512 for each.
    let limits = Limits::default().with(|limits| limits.max_under_way = 4 * 101_000);
    let running = serve(|builder| {
        let hang = builder.limits(limits).rpc("hang", move |_: Context, _: Value| {
            let watched = watch.begin();
            async move {
                let _watched = watched;
                pending::<Result<(), RpcError>>().await
            }
        });
        hang.cancel_on_disconnect()
    })
    .await;
    let text = format!("{:?}", "x".repeat(100_000));
    let mut peer = Peer::v2(running.address).await;
    for id in 1..=4 {
        peer.begin(id, "hang", &text).await;
        assert_eq!(next(&mut watched).await, "begun");
    }
    assert_eq!(peer.call(5, "hang", &text).await["error"]["code"], -32004, "one too many");
    assert_eq!(peer.call(6, "add", "[1, 2]").await["result"], 3, "small ones fit");
    peer.send(Opcode::Cancel, 2, "null").await;
    assert_eq!(next(&mut watched).await, "gone");
    peer.begin(5, "hang", &text).await;
    assert_eq!(next(&mut watched).await, "begun");
    for id in [1, 3, 4, 5] {
        peer.send(Opcode::Cancel, id, "null").await;
        assert_eq!(next(&mut watched).await, "gone");
    }
    // Values weigh more than their text: 100,000 numbers are above the bound, and served alone.
    let numbers = format!("[{}0]", "0,".repeat(100_000));
    peer.begin(7, "hang", &numbers).await;
    assert_eq!(next(&mut watched).await, "begun");
    assert!(watched.try_recv().is_err());
    // Nothing is read for a second, then the cancellation.
    assert_eq!(peer.call(8, "hang", "1").await["error"]["code"], -32004);
    peer.send(Opcode::Cancel, 7, "null").await;
    assert_eq!(next(&mut watched).await, "gone");
    peer.begin(8, "hang", &text).await;
    assert_eq!(next(&mut watched).await, "begun");
    // Events and others count as well.
    peer.begin(9, "hang", &numbers).await;
    assert_eq!(peer.expect(Opcode::RpcResponse, 9).await["error"]["code"], -32004);
    assert_serves(&running).await;
    drop(peer);
    all_gone(&running).await;
}

/// A connection that takes all it can of the common budget leaves as much to others as he has.
#[tokio::test]
async fn bytes_under_way_of_all_are_shared() {
    let (watch, mut watched) = Watch::new();
    let limits = Limits::default().with(|limits| {
        limits.max_under_way = 1_000_000;
        limits.max_under_way_total = 1_000_000;
    });
    let running = serve(|builder| {
        builder
            .limits(limits)
            .rpc("hang", move |_: Context, _: Value| {
                let watched = watch.begin();
                async move {
                    let _watched = watched;
                    pending::<Result<(), RpcError>>().await
                }
            })
            .cancel_on_disconnect()
    })
    .await;
    let text = format!("{:?}", "x".repeat(100_000));
    let mut greedy = Peer::v2(running.address).await;
    let mut taken = 0;
    for id in 1..=20 {
        greedy.begin(id, "hang", &text).await;
    }
    greedy.begin(21, "add", "[1, 2]").await;
    loop {
        match greedy.receive().await {
            Received::Frame(Opcode::RpcResponse, 21, _) => break,
            Received::Frame(Opcode::RpcResponse, ..) => taken += 1,
            other => panic!("{other:?}"),
        }
    }
    let held = 20 - taken;
    assert!((4..=7).contains(&held), "{held} are under way");
    let mut modest = Peer::v2(running.address).await;
    for id in 1..=2 {
        modest.begin(id, "hang", &text).await;
    }
    assert_eq!(
        modest.call(3, "add", "[1, 2]").await["result"],
        3,
        "both are under way, or they had been refused before"
    );
    for _ in 0..held + 2 {
        assert_eq!(next(&mut watched).await, "begun");
    }
    assert!(watched.try_recv().is_err());
    assert_serves(&running).await;
}
