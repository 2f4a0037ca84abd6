//! Faults between a node and its Redis: what was acknowledged is there once, errors are typed.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError,
    kv::Expected,
    log::{Append, Appended, Mark, Rule, Tag},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{PROGRAM, arguments, connect};
use crate::{
    late::{Late, hears, order_is_kept},
    running::Running,
    writers::{PAUSE, survives, whole},
};

async fn nodes(port: u16) -> [Backend; 2] {
    let redis = connect(&format!("redis://127.0.0.1:{port}")).await;
    [redis.node().await.unwrap(), redis.node().await.unwrap()]
}

/// What a server answers to Redis's own client; nothing if it is not there.
pub(super) fn read(port: u16, command: &str) -> String {
    let mut client = Command::new("redis-cli");
    client.args(["-p", &port.to_string()]).args(command.split(' ')).stderr(Stdio::null());
    String::from_utf8(client.output().unwrap().stdout).unwrap()
}

fn tell(port: u16, command: &str) {
    assert!(!read(port, command).trim().is_empty(), "{command}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_connections_are_killed() {
    let engine = Running::start(PROGRAM, arguments);
    let port = engine.port;
    survives(nodes(port).await, async || {
        for round in 0..30 {
            tell(port, if round % 3 == 2 { "CLIENT KILL TYPE pubsub" } else { "CLIENT KILL TYPE normal" });
            sleep(PAUSE * 3).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_engine_is_killed() {
    let mut engine = Running::start(PROGRAM, arguments);
    let port = engine.port;
    survives(nodes(port).await, async || {
        for _ in 0..3 {
            sleep(PAUSE * 20).await;
            engine.kill_and_start(PROGRAM, arguments);
            connect(&format!("redis://127.0.0.1:{port}")).await;
        }
        sleep(PAUSE * 20).await;
    })
    .await;
}

/// Passes everything on, but for the answers while `deaf`: then the connection ends with the first of them.
async fn proxy(to: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let deaf = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&deaf);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let deaf = Arc::clone(&shared);
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let up = tokio::io::copy(&mut from_client, &mut to_server);
                let down = async {
                    let mut bytes = vec![0; 64 * 1024];
                    while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
                        if deaf.swap(false, Ordering::SeqCst) || to_client.write_all(&bytes[..length]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    _ = up => {}
                    () = down => {}
                }
            });
        }
    });
    (port, deaf)
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_stored_once() {
    let engine = Running::start(PROGRAM, arguments);
    drop(connect(&format!("redis://127.0.0.1:{}", engine.port)).await);
    let (port, deaf) = proxy(engine.port).await;
    let node = connect(&format!("redis://127.0.0.1:{port}")).await.node().await.unwrap();
    let (stream, entries) = (StreamId::state("s"), [Bytes::from_static(b"1"), Bytes::from_static(b"2")]);
    let tag = |count| Tag { node: 1, count };
    let first = Append::new(&stream, Mark::birth(7), Rule::Exactly, tag(1), &entries);
    assert!(matches!(node.log.append(first).await, Ok(Appended::At { .. })));
    let after = whole(&node, &stream).await.unwrap().unwrap().mark;
    let append = Append::new(&stream, after, Rule::Exactly, tag(2), &entries);
    deaf.store(true, Ordering::SeqCst);
    let lost = node.log.append(append).await;
    assert!(matches!(lost, Err(BackendError::Unavailable(_))), "{lost:?}");
    for _ in 0..2 {
        let Ok(Appended::At { between, mark }) = node.log.append(append).await else { panic!("a repeat is answered") };
        assert_eq!((between.len(), mark.position.seq, mark.tag), (0, 4, tag(2)));
    }
    assert_eq!(whole(&node, &stream).await.unwrap().unwrap().entries.len(), 4);
}

/// A command that was not answered may be carried out later, from a connection that the node has given up.
#[tokio::test]
async fn a_message_that_was_given_up_does_not_come_after_later_ones() {
    let engine = Running::start(PROGRAM, arguments);
    let direct = connect(&format!("redis://127.0.0.1:{}", engine.port)).await.node().await.unwrap();
    let late = Late::start(engine.port).await;
    let node = connect(&format!("redis://127.0.0.1:{}", late.port)).await.node().await.unwrap();
    let mut heard = hears(engine.port, "SSUBSCRIBE ds:t:t\r\n").await;
    heard("ssubscribe").await;
    order_is_kept(&late, &node, &direct, async || heard("second").await).await;
}

#[tokio::test]
async fn an_engine_that_is_full_says_so_and_is_read_on() {
    let engine = Running::start(PROGRAM, arguments);
    let node = connect(&format!("redis://127.0.0.1:{}", engine.port)).await.node().await.unwrap();
    let (kept, brief) = (StreamId::state("kept"), StreamId::state("brief"));
    let entries = [Bytes::from_static(b"entry")];
    let append = |stream, count| Append::new(stream, Mark::birth(7), Rule::Exactly, Tag { node: 1, count }, &entries);
    node.log.append(append(&kept, 1)).await.unwrap();
    node.log.append(append(&brief, 2).ttl(PAUSE)).await.unwrap();
    sleep(PAUSE * 2).await;
    tell(engine.port, "CONFIG SET maxmemory 1");
    let other = StreamId::state("other");
    let refused = node.log.append(append(&other, 3)).await;
    assert!(matches!(refused, Err(BackendError::Full(_))), "{refused:?}");
    let refused = node.kv.put("k", entries[0].clone(), Expected::Any, None).await;
    assert!(matches!(refused, Err(BackendError::Full(_))), "{refused:?}");
    assert_eq!(whole(&node, &kept).await.unwrap().unwrap().entries.len(), 1);
    assert_eq!(whole(&node, &brief).await.unwrap(), None, "its life has ended");
    assert_eq!(node.log.keys(StreamKind::State, None, 9).await.unwrap(), ["kept"]);
    tell(engine.port, "CONFIG SET maxmemory 0");
    assert!(matches!(node.log.append(append(&other, 4)).await, Ok(Appended::At { .. })));
    assert_eq!(whole(&node, &brief).await.unwrap(), None);
    let mut again = append(&brief, 5);
    again.after = Mark::birth(8);
    assert!(matches!(node.log.append(again).await, Ok(Appended::At { .. })), "a new life");
    assert_eq!(whole(&node, &brief).await.unwrap().unwrap().entries.len(), 1, "with nothing of the one before");
}
