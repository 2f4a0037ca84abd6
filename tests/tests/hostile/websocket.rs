//! RFC 6455 broken in every way: each ends this connection with the right code, and no other.

use datasole_core::frame::{Opcode, ZLIB_MARK};
use datasole_tests::peer::{Peer, Received, UPGRADE, V1, V2, frame, masked};

use super::{all_gone, assert_serves, hasty, serve};

const MIB: usize = 1024 * 1024;

/// Both versions: these bytes, and this close code; 0 where the connection just ends.
async fn check(bytes: &[u8], code: u16) {
    let running = serve(|builder| builder.limits(hasty())).await;
    let mut peers = [Peer::v1(running.address).await, Peer::v2(running.address).await];
    for peer in &mut peers {
        peer.write(bytes).await;
        let ended = peer.receive().await;
        let expected = if code == 0 { Received::End } else { Received::Close(code) };
        assert_eq!(ended, expected, "{}", bytes[..bytes.len().min(40)].escape_ascii());
    }
    assert_serves(&running).await;
    // A close that breaks the rules is answered like any other.
    assert!(bytes[0] == 0x88 || running.server.metrics_snapshot().malformed >= 2, "it is counted");
    drop(peers);
    all_gone(&running).await;
}

#[tokio::test]
async fn reserved_bits() {
    for bit in [0x40, 0x20, 0x10] {
        check(&masked(0x82 | bit, b"x"), 1002).await;
    }
}

#[tokio::test]
async fn no_mask() {
    check(b"\x82\x01x", 1002).await;
}

/// Some proxies say goodbye so when they reload: no verdict of ours may reach their client as the last word.
#[tokio::test]
async fn a_close_without_mask_is_an_end() {
    check(b"\x88\x02\x03\xe9", 0).await;
    check(b"\x88\x00", 0).await;
}

#[tokio::test]
async fn opcodes_that_do_not_exist() {
    for opcode in [0x3, 0x7, 0xb, 0xf] {
        check(&masked(0x80 | opcode, b""), 1002).await;
    }
}

#[tokio::test]
async fn broken_control_frames() {
    check(&masked(0x09, b"a fragment"), 1002).await;
    check(&masked(0x08, b""), 1002).await;
    check(&masked(0x89, &[0; 126]), 1002).await;
    check(&masked(0x88, &[0; 126]), 1002).await;
}

#[tokio::test]
async fn broken_fragments() {
    check(&masked(0x80, b"continues nothing"), 1002).await;
    check(&[masked(0x02, b"begins"), masked(0x82, b"begins again")].concat(), 1002).await;
}

#[tokio::test]
async fn broken_closes() {
    check(&masked(0x88, b"\x03"), 1002).await;
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        check(&masked(0x88, &code.to_be_bytes()), 1002).await;
    }
    check(&masked(0x88, b"\x03\xe8\xff\xfe"), 1007).await;
}

#[tokio::test]
async fn closes_in_order() {
    check(&masked(0x88, b""), 1005).await;
    check(&masked(0x88, &1000u16.to_be_bytes()), 1000).await;
    check(&masked(0x88, b"\x0f\xa1its own"), 4001).await;
}

#[tokio::test]
async fn text() {
    check(&masked(0x81, b"{}"), 1003).await;
    check(&masked(0x81, b"\xff\xfe"), 1007).await;
    check(&[masked(0x01, b"\xc3"), masked(0x80, b"\x28")].concat(), 1007).await;
}

#[tokio::test]
async fn lengths_that_are_announced_and_never_come() {
    let announce = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    check(&announce(200_000_000), 1009).await;
    check(&announce((1 << 63) - 1), 1009).await;
    // The first bit must be 0.
    check(&announce(1 << 63), 1002).await;
    check(&announce(u64::MAX), 1002).await;
    // Fragments count together.
    check(&[masked(0x02, &vec![0; 3 * MIB]), masked(0x80, &vec![0; 2 * MIB])].concat(), 1009).await;
}

#[tokio::test]
async fn messages_below_at_and_above_the_limit() {
    let limits = hasty().with(|limits| limits.max_message = 1_000);
    for (bytes, code) in [(999, None), (1_000, None), (1_001, Some(1009))] {
        let running = serve(|builder| builder.limits(limits.clone())).await;
        let mut message = frame(Opcode::Ping as u8, 5, b"null");
        message.resize(bytes, b' ');
        let mut peer = Peer::v2(running.address).await;
        peer.message(0x82, &message).await;
        match code {
            None => drop(peer.expect(Opcode::Pong, 5).await),
            Some(code) => peer.expect_close(code).await,
        }
        // In two fragments it is as long.
        let mut peer = Peer::v2(running.address).await;
        peer.write(&[masked(0x02, &message[..600]), masked(0x80, &message[600..])].concat()).await;
        match code {
            None => drop(peer.expect(Opcode::Pong, 5).await),
            Some(code) => peer.expect_close(code).await,
        }
    }
}

#[tokio::test]
async fn payloads_below_at_and_above_the_limit() {
    let limits = hasty().with(|limits| limits.max_payload = 1_000);
    let running = serve(|builder| builder.limits(limits)).await;
    let mut v1 = Peer::v1(running.address).await;
    let mut v2 = Peer::v2(running.address).await;
    for (bytes, fits) in [(999, true), (1_000, true), (1_001, false)] {
        let mut payload = br#"{"method":"add","params":[1,2]}"#.to_vec();
        payload.resize(bytes, b' ');
        v2.send(Opcode::RpcRequest, 3, &payload).await;
        v1.send(Opcode::RpcRequest, 3, &payload).await;
        if fits {
            v1.expect(Opcode::RpcResponse, 3).await;
            v2.expect(Opcode::RpcResponse, 3).await;
        } else {
            v2.expect_error(3, -32600).await;
        }
    }
    // Version 1 has dropped the frame and kept the connection.
    assert_eq!(v1.call(4, "add", "[2, 3]").await["result"], 5);
    assert_eq!(v2.call(4, "add", "[2, 3]").await["result"], 5);
}

#[tokio::test]
async fn inflated_messages_below_at_and_above_the_limit() {
    let limits = hasty().with(|limits| limits.max_inflated = 10_000);
    let running = serve(|builder| builder.limits(limits)).await;
    let mut peer = Peer::v2(running.address).await;
    for (bytes, fits) in [(9_999, true), (10_000, true), (10_001, false)] {
        let mut plain = frame(Opcode::Ping as u8, 6, b"null");
        plain.resize(bytes, b' ');
        let message = datasole_core::frame::Codec::default().compress(plain, 0);
        peer.message(0x82, &message).await;
        match fits {
            true => drop(peer.expect(Opcode::Pong, 6).await),
            // Its correlation id lies in what could not be read.
            false => peer.expect_error(0, -32600).await,
        }
    }
}

#[tokio::test]
async fn frames_are_compressed_above_the_threshold() {
    let limits = hasty().with(|limits| limits.compress_above = 100);
    let running = serve(|builder| builder.limits(limits)).await;
    for mut peer in [Peer::v1(running.address).await, Peer::v2(running.address).await] {
        // Header, envelope and quotes.
        let around = 9 + r#"{"correlationId":1,"result":""}"#.len();
        for (bytes, compressed) in [(99, false), (100, false), (101, true)] {
            peer.begin(1, "echo", &format!("{:?}", "x".repeat(bytes - around))).await;
            let message = peer.binary().await;
            assert_eq!(message[0] == ZLIB_MARK, compressed, "{bytes} bytes");
            assert!(compressed || message.len() == bytes);
        }
    }
}

#[tokio::test]
async fn frames_that_are_none() {
    let running = serve(|builder| builder).await;
    let mut v1 = Peer::v1(running.address).await;
    let mut v2 = Peer::v2(running.address).await;
    let zlib = |plain: &[u8]| datasole_core::frame::Codec::default().compress(plain.to_vec(), 0);
    for (message, correlation) in [
        (b"".to_vec(), 0),
        (b"\x01".to_vec(), 0),
        (b"\x01\0\0\0\x09\0\0\0".to_vec(), 9),
        (frame(0x00, 9, b"null"), 9),
        (frame(0x0c, 9, b"null"), 9),
        (frame(0x1e, 9, b"null"), 9),
        (frame(Opcode::Batch as u8, 9, b"null"), 0),
        (frame(0x24, 9, b"null"), 9),
        (frame(0x01, 9, b"null")[..12].to_vec(), 9),
        (b"\x01\0\0\0\x09\xff\xff\xff\xff".to_vec(), 9),
        (b"\x78".to_vec(), 0),
        (b"\x78\x9c\xff\xff\xff".to_vec(), 0),
        (b"\x78\x9c\x03\x00\x00\x00\x00\x01".to_vec(), 0),
        (zlib(b"short"), 0),
        (zlib(&frame(0x01, 9, b"null")[..12]), 0),
        (zlib(&zlib(&frame(0x07, 9, b"null"))), 0),
        (frame(Opcode::RpcResponse as u8, 9, b"{}"), 9),
        (frame(Opcode::Hello as u8, 9, b"{}"), 9),
        (frame(Opcode::CrdtState as u8, 9, b"{}"), 9),
        (frame(Opcode::Ack as u8, 9, b"{}"), 9),
        (frame(Opcode::Propose as u8, 9, b"{}"), 9),
        (frame(Opcode::Doc as u8, 9, b"{}"), 9),
        (frame(Opcode::Entry as u8, 9, b"{}"), 9),
        (frame(Opcode::Result as u8, 9, b"{}"), 9),
    ] {
        v1.message(0x82, &message).await;
        v2.message(0x82, &message).await;
        v2.expect_error(correlation, -32600).await;
    }
    // Those of later versions mean nothing yet.
    for opcode in [0x33, 0x60, 0x77, 0x79, 0xff] {
        v1.message(0x82, &frame(opcode, 9, b"null")).await;
        v2.message(0x82, &frame(opcode, 9, b"null")).await;
    }
    // Version 2's opcodes mean nothing on version 1.
    for opcode in [Opcode::Subscribe, Opcode::Unsubscribe, Opcode::Cancel, Opcode::Auth, Opcode::RpcRequestBinary] {
        v1.send(opcode, 1, br#"{"kind":"state","key":"k"}"#).await;
    }
    assert_eq!(v1.call(10, "add", "[2, 3]").await["result"], 5);
    assert_eq!(v2.call(10, "add", "[2, 3]").await["result"], 5);
    assert_serves(&running).await;
}

#[tokio::test]
async fn a_frame_byte_by_byte() {
    let running = serve(|builder| builder).await;
    for headers in [V1, V2] {
        let (_, mut peer) = Peer::upgrade(running.address, "", &format!("{UPGRADE}{headers}")).await;
        if headers == V2 {
            peer.expect(Opcode::Hello, 0).await;
        }
        for byte in masked(0x82, &frame(Opcode::Ping as u8, 9, b"null")) {
            peer.write(&[byte]).await;
            tokio::task::yield_now().await;
        }
        peer.expect(Opcode::Pong, 9).await;
    }
}

#[tokio::test]
async fn a_frame_behind_the_request() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::connect(running.address).await;
    let mut bytes = format!("GET /__ds HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").into_bytes();
    bytes.extend(masked(0x82, &frame(Opcode::Ping as u8, 9, b"null")));
    peer.write(&bytes).await;
    assert_eq!(peer.status().await, 101);
    peer.expect(Opcode::Pong, 9).await;
}

/// Pongs may be left out under a flood (RFC 6455, section 5.5.3), but the last ping is answered.
#[tokio::test]
async fn a_flood_of_pings() {
    let running = serve(|builder| builder).await;
    let mut peer = Peer::v2(running.address).await;
    let flood: Vec<u8> = (0..5_000u32).flat_map(|number| masked(0x89, &number.to_be_bytes())).collect();
    peer.write(&flood).await;
    let mut last = 0;
    while last < 4_999 {
        let Received::Pong(number) = peer.receive().await else { panic!("only pongs") };
        let number = u32::from_be_bytes(*number.first_chunk().unwrap());
        assert!(last <= number, "in order");
        last = number;
    }
    assert_eq!(peer.call(1, "add", "[1, 2]").await["result"], 3);
    assert_serves(&running).await;
}

/// The answers to what came before a violation are still delivered.
#[tokio::test]
async fn an_answer_before_the_end() {
    let running = serve(|builder| builder.limits(hasty())).await;
    let mut peer = Peer::v2(running.address).await;
    let ping = masked(0x82, &frame(Opcode::Ping as u8, 9, b"null"));
    peer.write(&[ping, masked(0x81, b"text")].concat()).await;
    peer.expect(Opcode::Pong, 9).await;
    peer.expect_close(1003).await;
}
