//! Heartbeats and ends: peers that are silent, half gone or never say goodbye.

use std::{future::pending, time::Duration};

use datasole_core::frame::Opcode;
use datasole_server::{Context, CrdtLimits, Limits, RpcError};
use datasole_tests::peer::{Peer, Received, UPGRADE, V2, frame, masked};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{PATIENCE, Watch, all_gone, assert_serves, hasty, next, serve};

/// HELLO names every limit of the server that concerns a client. No two values are the same, so none stands for another.
#[tokio::test]
async fn the_limits_of_the_greeting_are_the_servers() {
    let limits = Limits::default().with(|limits| {
        limits.max_payload = 500_001;
        limits.compress_above = 302;
        limits.max_subscriptions = 1_003;
        limits.max_pending = 1_004;
        limits.max_event_name = 205;
        limits.max_key = 206;
        limits.max_rooms = 207;
        limits.max_presence = 4_008;
        limits.max_doc = 400_009;
        limits.max_crdt_keys_per_connection = 110;
        limits.crdt = CrdtLimits {
            max_value: 64_011,
            max_depth: 62,
            max_bytes: 300_013,
            max_entries: 9_014,
            max_key: 1_015,
            max_node: 116,
            max_dots: 217,
            max_ahead: 918,
            max_amount: 1_000_019,
            ..CrdtLimits::default()
        };
    });
    let running = serve(|builder| builder.limits(limits.clone())).await;
    let (_, mut peer) = Peer::upgrade(running.address, "", &format!("{UPGRADE}{V2}")).await;
    let expected = json!({
        "maxPayload": 500_001,
        "compressAbove": 302,
        "maxSubscriptions": 1_003,
        "maxPendingCalls": 1_004,
        "maxEventName": 205,
        "maxKey": 206,
        "maxRooms": 207,
        "maxPresence": 4_008,
        "maxDoc": 400_009,
        "maxCrdtValue": 64_011,
        "maxCrdtDepth": 62,
        "maxCrdt": 300_013,
        "maxCrdtEntries": 9_014,
        "maxCrdtKey": 1_015,
        "maxCrdtNode": 116,
        "maxCrdtDots": 217,
        "maxCrdtAhead": 918,
        "maxCrdtAmount": 1_000_019,
        "maxCrdtKeys": 110,
    });
    assert_eq!(peer.expect(Opcode::Hello, 0).await["limits"], expected);

    // A state must fit in a frame with the longest key and name, each byte of them escaped: 6 × (206 + 116) + 128.
    let running = serve(|builder| builder.limits(limits.with(|limits| limits.max_payload = 100_000))).await;
    let (_, mut peer) = Peer::upgrade(running.address, "", &format!("{UPGRADE}{V2}")).await;
    assert_eq!(peer.expect(Opcode::Hello, 0).await["limits"]["maxCrdt"], 100_000 - 2_060);
}

/// Half open: what the server says arrives nowhere, and nothing comes back. One ping, then the end.
#[tokio::test]
async fn a_peer_that_answers_no_ping() {
    let limits = hasty().with(|limits| limits.heartbeat = Duration::from_millis(200));
    let running = serve(|builder| builder.limits(limits)).await;
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        assert_eq!(peer.hear().await, Received::Ping);
        assert_eq!(peer.hear().await, Received::End, "after one interval more");
    }
    assert_serves(&running).await;
    all_gone(&running).await;
}

/// Who is half gone is shown in a room no longer than it takes to find out.
#[tokio::test]
async fn a_peer_that_answers_no_ping_leaves_its_room() {
    let limits = hasty().with(|limits| limits.heartbeat = Duration::from_millis(200));
    let running = serve(|builder| builder.limits(limits)).await;
    let mut follower = Peer::v2(running.address).await;
    follower.send(Opcode::Subscribe, 1, r#"{"kind":"presence","key":"r"}"#).await;
    let mut silent = Peer::v2(running.address).await;
    silent.send(Opcode::Presence, 1, r#"{"key":"r","value":"here"}"#).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&Value::Null) {
        match follower.hear().await {
            Received::Ping => follower.message(0x8a, b"").await,
            Received::Frame(Opcode::Presence, _, payload) => {
                let frame: Value = serde_json::from_slice(&payload).unwrap();
                seen.extend(frame["members"].as_array().unwrap().iter().map(|member| member["value"].clone()));
            }
            Received::Frame(Opcode::Subscribed, ..) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [Value::from("here"), Value::Null]);
    assert_eq!(running.server.presence("r").count().await, 0);
}

#[tokio::test]
async fn a_silent_peer_that_answers_pings_stays() {
    let limits = hasty().with(|limits| limits.heartbeat = Duration::from_millis(1_000));
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peer = Peer::v2(running.address).await;
    for _ in 0..3 {
        assert_eq!(peer.hear().await, Received::Ping);
        peer.message(0x8a, b"").await;
    }
    assert_eq!(peer.call(1, "add", "[1, 2]").await["result"], 3);
}

/// Half a message is a sign of life: an upload may take longer than two intervals.
#[tokio::test]
async fn a_slow_message_is_not_cut_off() {
    let limits = hasty().with(|limits| limits.heartbeat = Duration::from_millis(1_000));
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peer = Peer::v2(running.address).await;
    for byte in masked(0x82, &frame(Opcode::Ping as u8, 9, b"null")) {
        peer.write(&[byte]).await;
        // Time is what this is about: 19 bytes, more than two intervals.
        tokio::time::sleep(Duration::from_millis(130)).await;
    }
    loop {
        match peer.hear().await {
            Received::Ping => {}
            other => break assert_eq!(other, Received::Frame(Opcode::Pong, 9, b"null".to_vec())),
        }
    }
}

#[tokio::test]
async fn handlers_end_with_their_client_where_they_are_told_to() {
    let (watch, mut watched) = Watch::new();
    let running = serve(|builder| {
        let hang = builder.rpc("hang", move |_: Context, _: Value| {
            let watched = watch.begin();
            async move {
                let _watched = watched;
                pending::<Result<(), RpcError>>().await
            }
        });
        hang.cancel_on_disconnect()
    })
    .await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        let mut peer = Peer::v2(running.address).await;
        peer.begin(1, "hang", "null").await;
        assert_eq!(next(&mut watched).await, "begun");
        peers.push(peer);
    }
    let [mut closing, resetting, cancelling] = <[Peer; 3]>::try_from(peers).unwrap();
    closing.message(0x88, &1000u16.to_be_bytes()).await;
    assert_eq!(next(&mut watched).await, "gone");
    resetting.reset();
    assert_eq!(next(&mut watched).await, "gone");
    let mut cancelling = cancelling;
    cancelling.send(Opcode::Cancel, 1, "null").await;
    assert_eq!(next(&mut watched).await, "gone");
    assert_eq!(cancelling.call(2, "add", "[1, 2]").await["result"], 3, "and nothing else answers");
    assert_serves(&running).await;
}

/// However a caller leaves, its handler runs to its end; only CANCEL ends it before.
#[tokio::test]
async fn handlers_run_to_their_end() {
    let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let (watch, mut watched) = Watch::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = serve(|builder| {
        let gate = gate.clone();
        let transact = builder.rpc("transact", move |_: Context, n: u32| {
            let (watched, gate, told) = (watch.begin(), gate.clone(), told.clone());
            async move {
                let _watched = watched;
                gate.acquire().await.unwrap().forget();
                tokio::task::yield_now().await;
                told.send(n).unwrap();
                Ok(n)
            }
        });
        // The option is of the method before it alone.
        transact.rpc("other", |_: Context, _: Value| pending::<Result<(), RpcError>>()).cancel_on_disconnect()
    })
    .await;
    let mut peers = Vec::new();
    for n in 1..=4 {
        let mut peer = Peer::v2(running.address).await;
        peer.begin(n, "transact", &n.to_string()).await;
        assert_eq!(next(&mut watched).await, "begun");
        peers.push(peer);
    }
    let [mut closing, resetting, mut cancelling, mut staying] = <[Peer; 4]>::try_from(peers).unwrap();
    closing.message(0x88, &1000u16.to_be_bytes()).await;
    resetting.reset();
    cancelling.send(Opcode::Cancel, 3, "null").await;
    assert_eq!(next(&mut watched).await, "gone", "the cancelled one");
    drop((closing, cancelling));
    while running.server.connection_count() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(watched.try_recv().is_err(), "the others wait");
    gate.add_permits(3);
    let mut ended = Vec::new();
    for _ in 0..3 {
        ended.push(ends.recv().await.unwrap());
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 4]);
    assert_eq!(staying.expect(Opcode::RpcResponse, 4).await["result"], 4);
    assert_serves(&running).await;
}

/// Peers that answer the close, that do not, that are nobody yet, and that are being judged.
#[tokio::test]
async fn shutdown() {
    let (watch, mut watched) = Watch::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let running = serve(|builder| {
        let gate = gate.clone();
        builder.limits(Limits::default().with(|limits| limits.close_timeout = Duration::from_secs(2))).auth(
            move |request: datasole_server::AuthRequest| {
                let (watched, gate) = (request.token.is_some().then(|| watch.begin()), gate.clone());
                async move {
                    if watched.is_some() {
                        gate.acquire().await.unwrap().forget();
                    }
                    Ok(datasole_server::Identity::anonymous())
                }
            },
        )
    })
    .await;
    let mut polite = Peer::v1(running.address).await;
    let mut rude = Peer::v2(running.address).await;
    let (_, mut nobody) = Peer::upgrade(running.address, "?auth=frame", &format!("{UPGRADE}{V2}")).await;
    let mut judged = Peer::connect(running.address).await;
    judged.write(format!("GET /__ds?token=x HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{V2}\r\n").as_bytes()).await;
    assert_eq!(next(&mut watched).await, "begun");

    let server = running.server.clone();
    let shutdown = tokio::spawn(async move { server.shutdown().await });
    polite.expect_close(1001).await;
    drop(polite);
    nobody.expect_close(1001).await;
    drop(nobody);
    rude.expect_close(1001).await;
    // Let in at the last moment, and out again.
    gate.add_permits(1);
    match judged.status().await {
        101 => loop {
            match judged.receive().await {
                Received::Close(code) => break assert_eq!(code, 1001),
                Received::Frame(Opcode::Hello, ..) => {}
                other => panic!("{other:?}"),
            }
        },
        status => assert!([0, 503].contains(&status), "{status}"),
    }
    drop(judged);
    // `rude` never answers.
    timeout(PATIENCE, shutdown).await.expect("a bounded shutdown").unwrap();
    assert_eq!(rude.receive().await, Received::End);
    all_gone(&running).await;
}

/// A peer that does not read what it asked for cannot hold up the shutdown.
#[tokio::test]
async fn shutdown_with_a_reader_that_stopped() {
    let running = serve(|builder| builder.limits(hasty())).await;
    let mut peer = Peer::v2(running.address).await;
    peer.send(Opcode::Subscribe, 1, r#"{"kind":"event","key":"e"}"#).await;
    peer.expect(Opcode::Subscribed, 1).await;
    let noise: String = {
        let mut random = datasole_tests::random::Random::new(7);
        (0..200_000).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
    };
    for _ in 0..40 {
        running.server.broadcast("e", &noise).await.unwrap();
        tokio::task::yield_now().await;
    }
    timeout(PATIENCE, running.server.shutdown()).await.expect("a bounded shutdown");
    all_gone(&running).await;
}

#[tokio::test]
async fn health_tells() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::connect(running.address).await;
    peer.write(b"GET /__ds/health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(peer.status().await, 200);
}
