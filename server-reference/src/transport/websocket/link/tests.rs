use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use datasole_core::frame;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::sleep,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, frame::coding::CloseCode},
    },
};

use super::*;
use crate::{AuthRequest, Identity, Limits, Protocol, Server};

/// The server looks at the time once an hour: only the identity's own end can close this.
#[tokio::test]
async fn an_identity_from_an_auth_frame_expires_on_time() {
    let hour = Duration::from_secs(3600);
    let server = Server::builder()
        .limits(Limits { heartbeat: hour, auth_timeout: hour, ..Limits::default() })
        .auth(|_: AuthRequest| async {
            // Longer than it takes until the loop has looked at its timer, and rests.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(Identity::user("ann").expires_in(Duration::from_millis(20)))
        })
        .build();
    let (ours, theirs) = tokio::io::duplex(4096);
    let upgrade = Some(Box::new(AuthRequest::renewal()));
    let node = server.node().clone();
    let session = Session::new(node.clone(), node.connection(Protocol::V2, None), upgrade);
    let seat = node.seat(None).unwrap();
    let served = tokio::spawn(run(ours, &[], session, seat));

    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let token = json!({ "token": "x" }).to_string();
    let mut frame = vec![datasole_core::frame::Opcode::Auth as u8, 0, 0, 0, 1, 0, 0, 0, token.len() as u8];
    frame.extend_from_slice(token.as_bytes());
    client.send(Message::Binary(frame.into())).await.unwrap();
    let mut last = None;
    while let Some(Ok(message)) = client.next().await {
        last = Some(message);
    }
    let Some(Message::Close(Some(close))) = last else { panic!("{last:?}") };
    assert_eq!(close.code, CloseCode::Library(4002));
    drop(client);
    served.await.unwrap();
}

/// A client of version 1, which writes its bytes by itself; what the socket holds is read at once.
fn raw(limits: Limits) -> (DuplexStream, JoinHandle<()>) {
    let server = Server::builder().limits(Limits { heartbeat: Duration::from_secs(3600), ..limits }).build();
    let (ours, theirs) = tokio::io::duplex(1024 * 1024);
    let node = server.node().clone();
    let connection = node.connection(Protocol::V1, None);
    if let Some(task) = node.welcome(&connection, Identity::anonymous()) {
        tokio::spawn(task);
    }
    let session = Session::new(node.clone(), connection, None);
    let seat = node.seat(None).unwrap();
    (theirs, tokio::spawn(run(ours, &[], session, seat)))
}

/// A frame whose mask is nothing.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
}

fn message() -> Vec<u8> {
    masked(0x82, &[&[frame::Opcode::Ping as u8, 0, 0, 0, 9, 0, 0, 0, 4][..], b"null"].concat())
}

/// The first byte and the payload of the next frame.
async fn next(client: &mut DuplexStream) -> (u8, Vec<u8>) {
    let (first, length) = (client.read_u8().await.unwrap(), client.read_u8().await.unwrap());
    let mut payload = vec![0; length.into()];
    client.read_exact(&mut payload).await.unwrap();
    (first, payload)
}

/// Half a ping may come in time and half a message long after: only what belongs together is timed together. Time passes
/// when everything that was written has been read.
#[tokio::test(start_paused = true)]
async fn a_message_is_timed_from_its_own_beginning() {
    let limits = Limits::default();
    let (soon, late) = (Duration::from_secs(1), limits.message_timeout + Duration::from_secs(1));
    for (first, payload) in [(0x89, &b"ping"[..]), (0x8a, b"pong"), (0x82, &message()[6..])] {
        let (mut client, _served) = raw(limits.clone());
        for (bytes, pause) in [(masked(first, payload), late), (message(), soon)] {
            let (one, other) = bytes.split_at(8);
            client.write_all(one).await.unwrap();
            sleep(soon).await;
            client.write_all(other).await.unwrap();
            sleep(pause).await;
        }
        if first == 0x89 {
            assert_eq!(next(&mut client).await, (0x8a, b"ping".to_vec()));
        }
        let (answer, payload) = next(&mut client).await;
        assert_eq!((answer, payload[0]), (0x82, frame::Opcode::Pong as u8), "{first:#x}");
    }
}

#[tokio::test(start_paused = true)]
async fn control_frames_between_fragments_give_a_message_no_more_time() {
    let limits = Limits::default();
    for (pause, expected) in [(Duration::from_secs(1), 0x82), (limits.message_timeout, 0x88)] {
        let (mut client, _served) = raw(limits.clone());
        let whole = message();
        client.write_all(&masked(0x02, &whole[6..8])).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        client.write_all(&masked(0x8a, b"")).await.unwrap();
        sleep(pause).await;
        let (end, rest) = (masked(0x80, &whole[8..]), Duration::from_millis(1));
        client.write_all(&end[..7]).await.unwrap();
        sleep(rest).await;
        client.write_all(&end[7..]).await.unwrap();
        let (first, payload) = next(&mut client).await;
        assert_eq!(first, expected);
        assert!(first == 0x82 || payload.starts_with(&1009_u16.to_be_bytes()));
    }
}

/// A megabyte of pings: others have their turn meanwhile, and of several in a row the last is answered.
#[tokio::test(start_paused = true)]
async fn pings_take_turns_and_the_last_is_answered() {
    const PINGS: u32 = 7_000;
    let (mut client, _served) = raw(Limits::default());
    let ping = |n: u32| masked(0x89, &[&n.to_be_bytes()[..], &[0; 121]].concat());
    client.write_all(&(1..=PINGS).flat_map(ping).collect::<Vec<u8>>()).await.unwrap();
    let turns = Arc::new(AtomicU32::new(0));
    let counted = turns.clone();
    let others = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            yield_now().await;
        }
    });
    let (mut last, mut pongs) = (0, 0);
    while last < PINGS {
        let (first, payload) = next(&mut client).await;
        let number = u32::from_be_bytes(*payload.first_chunk().unwrap());
        assert!(first == 0x8a && payload.len() == 125 && number > last, "in order");
        (last, pongs) = (number, pongs + 1);
    }
    others.abort();
    assert!(pongs <= PINGS / 32, "{pongs} pongs");
    assert!(turns.load(Relaxed) >= 10, "{turns:?} turns of others");
}

/// Where a rate is set, pings and pongs count like messages, with their headers.
#[tokio::test(start_paused = true)]
async fn control_frames_count_against_the_rate() {
    let limits = Limits::default().with(|limits| limits.max_rate = NonZeroU32::new(10_000));
    for (first, count, seconds) in [(0x89, 999, 0), (0x89, 2_500, 1), (0x8a, 2_500, 1)] {
        let (mut client, _served) = raw(limits.clone());
        let started = Instant::now();
        client.write_all(&masked(first, b"ping").repeat(count)).await.unwrap();
        client.write_all(&message()).await.unwrap();
        while next(&mut client).await.0 != 0x82 {}
        let took = started.elapsed();
        assert!(took >= Duration::from_secs(seconds) && took < Duration::from_secs(seconds + 2), "{count}: {took:?}");
    }
}
