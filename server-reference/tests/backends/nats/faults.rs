//! Faults between a node and its NATS: what was acknowledged is there once, errors are typed, loss begins a generation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError,
    log::{Append, Appended, Mark, News, Rule, Tag},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{connect, restart, start, until_it_answers};
use crate::{
    late::{Late, hears, order_is_kept},
    writers::{PATIENCE, PAUSE, survives, whole},
};

async fn nodes(port: u16) -> [Backend; 2] {
    let nats = connect(&format!("nats://127.0.0.1:{port}")).await;
    [nats.node().await.unwrap(), nats.node().await.unwrap()]
}

/// Between nodes and a server: connections can be ended, and answers withheld.
struct Proxy {
    port: u16,
    /// A connection ends when this is no longer what it was.
    run: watch::Sender<u64>,
    /// The next answer ends its connection instead of arriving.
    is_deaf: Arc<AtomicBool>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (run, is_deaf) = (watch::Sender::new(0), Arc::new(AtomicBool::new(false)));
        let (ends, deaf) = (run.subscribe(), Arc::clone(&is_deaf));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut ends, deaf) = (ends.clone(), Arc::clone(&deaf));
                ends.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
                    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                        (client.into_split(), server.into_split());
                    let up = tokio::io::copy(&mut from_client, &mut to_server);
                    let down = async {
                        let mut bytes = vec![0; 64 * 1024];
                        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
                            let is_lost = deaf.swap(false, Ordering::SeqCst);
                            if is_lost || to_client.write_all(&bytes[..length]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        _ = up => {}
                        () = down => {}
                        _ = ends.changed() => {}
                    }
                });
            }
        });
        Self { port, run, is_deaf }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_connections_end() {
    let engine = start("");
    drop(connect(&format!("nats://127.0.0.1:{}", engine.port)).await);
    let proxy = Proxy::start(engine.port).await;
    survives(nodes(proxy.port).await, async || {
        for _ in 0..20 {
            sleep(PAUSE * 10).await;
            proxy.run.send_modify(|run| *run += 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_the_engine_is_killed() {
    let mut engine = start("");
    let port = engine.port;
    survives(nodes(port).await, async || {
        for _ in 0..3 {
            sleep(PAUSE * 20).await;
            restart(&mut engine);
            connect(&format!("nats://127.0.0.1:{port}")).await;
        }
        sleep(PAUSE * 20).await;
    })
    .await;
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_stored_once() {
    let engine = start("");
    drop(connect(&format!("nats://127.0.0.1:{}", engine.port)).await);
    let proxy = Proxy::start(engine.port).await;
    let node = connect(&format!("nats://127.0.0.1:{}", proxy.port)).await.node().await.unwrap();
    let (stream, entries) = (StreamId::state("s"), [Bytes::from_static(b"1"), Bytes::from_static(b"2")]);
    let tag = |count| Tag { node: 1, count };
    let first = Append::new(&stream, Mark::birth(7), Rule::Exactly, tag(1), &entries);
    assert!(matches!(node.log.append(first).await, Ok(Appended::At { .. })));
    let after = whole(&node, &stream).await.unwrap().unwrap().mark;
    let append = Append::new(&stream, after, Rule::Exactly, tag(2), &entries);
    proxy.is_deaf.store(true, Ordering::SeqCst);
    let lost = node.log.append(append).await;
    assert!(matches!(lost, Err(BackendError::Unavailable(_))), "{lost:?}");
    until_it_answers(&node, &[StreamId::event("probe")]).await;
    for _ in 0..2 {
        let Ok(Appended::At { between, mark }) = node.log.append(append).await else { panic!("a repeat is answered") };
        assert_eq!((between.len(), mark.position.seq, mark.tag), (0, 4, tag(2)));
    }
    assert_eq!(whole(&node, &stream).await.unwrap().unwrap().entries.len(), 4);
}

/// The client cannot take back what lies in a connection, and the engine reads each connection by itself.
#[tokio::test]
async fn a_message_that_was_given_up_does_not_come_after_later_ones() {
    let engine = start("");
    let direct = connect(&format!("nats://127.0.0.1:{}", engine.port)).await.node().await.unwrap();
    let late = Late::start(engine.port).await;
    let node = connect(&format!("nats://127.0.0.1:{}", late.port)).await.node().await.unwrap();
    let mut heard = hears(engine.port, "CONNECT {\"verbose\":false}\r\nSUB ds.b.t.t 1\r\nPING\r\n").await;
    heard("PONG").await;
    order_is_kept(&late, &node, &direct, async || heard("second").await).await;
}

#[tokio::test]
async fn an_engine_that_is_away_fails_at_once_and_heals() {
    let mut engine = start("");
    let node = connect(&format!("nats://127.0.0.1:{}", engine.port)).await.node().await.unwrap();
    assert_eq!(node.log.keys(StreamKind::State, None, 1).await.unwrap(), Vec::<String>::new());
    engine.stop();
    let began = Instant::now();
    for _ in 0..20 {
        let refused = node.log.keys(StreamKind::State, None, 1).await;
        assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
        let refused = node.log.follow(&[StreamId::event("e")]).await;
        assert!(matches!(refused, Err(BackendError::Unavailable(_))), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(3), "nobody waits for an engine that is away");
    restart(&mut engine);
    until_it_answers(&node, &[StreamId::event("probe")]).await;
}

/// What the streams held is there again as it was a while before, as after a fault of the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_has_lost_entries_begins_a_generation() {
    for durable in ["no", "yes"] {
        let mut engine = start("");
        let nats = connect(&format!("nats://127.0.0.1:{}?durable={durable}", engine.port)).await;
        let (a, b) = (nats.node().await.unwrap(), nats.node().await.unwrap());
        let (stream, entries) = (StreamId::state("s"), [Bytes::from_static(b"x")]);
        let count = AtomicU64::new(0);
        let append = async |node: &Backend, after| {
            let tag = Tag { node: 1, count: count.fetch_add(1, Ordering::Relaxed) + 1 };
            let answer = node.log.append(Append::new(&stream, after, Rule::Exactly, tag, &entries)).await.unwrap();
            let Appended::At { mark, .. } = answer else { panic!("{answer:?}") };
            mark
        };
        let kept = append(&a, Mark::birth(7)).await;
        engine.stop();
        let (store, copy) = (engine.dir.join("store"), engine.dir.join("copy"));
        copy_folder(&store, &copy);
        restart(&mut engine);
        for node in [&a, &b] {
            until_it_answers(node, &[StreamId::event("probe")]).await;
        }
        let mut news = [a.log.news().unwrap(), b.log.news().unwrap()];
        for news in &mut news {
            while news.try_recv().is_ok() {}
        }
        let mut lost = whole(&a, &stream).await.unwrap().unwrap().mark;
        assert_eq!(lost.position.epoch > kept.position.epoch, durable == "no", "a run of the engine is a generation");
        for _ in 0..3 {
            lost = append(&a, lost).await;
        }
        engine.stop();
        std::fs::remove_dir_all(&store).unwrap();
        copy_folder(&copy, &store);
        restart(&mut engine);
        for node in [&a, &b] {
            until_it_answers(node, &[StreamId::event("probe")]).await;
        }
        let [mut ours, mut theirs] = news;
        let mut generations = Vec::new();
        for news in [&mut ours, &mut theirs] {
            // A node that was back before the other one, and had seen nothing of what was lost, is told by it.
            let generation = loop {
                match timeout(PATIENCE, news.recv()).await.unwrap().unwrap() {
                    News::Generation(generation) => break generation,
                    News::Lost => {}
                    other => panic!("{durable}: before the generation came {other:?}"),
                }
            };
            generations.push(generation);
        }
        assert_eq!(generations[0], generations[1]);
        let stored = whole(&b, &stream).await.unwrap().unwrap();
        assert_eq!((stored.entries.len(), stored.mark.tag), (1, kept.tag), "what was not lost");
        assert!(stored.mark.position.epoch > lost.position.epoch, "in a new life");
        let refused = a.log.append(Append::new(&stream, lost, Rule::Behind, Tag { node: 2, count: 1 }, &entries)).await;
        assert!(matches!(refused, Ok(Appended::Conflict { mark, .. }) if mark == stored.mark), "{refused:?}");
        append(&b, stored.mark).await;
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "the folder is copied");
}

/// Below, at and above what the engine takes in one message; snapshots are split.
#[tokio::test]
async fn sizes() {
    let engine = start("");
    let node = connect(&format!("nats://127.0.0.1:{}", engine.port)).await.node().await.unwrap();
    const MOST: usize = 8 * 1_024 * 1_024;
    let stream = StreamId::doc("s");
    // A record and an entry in it have 57 and 28 bytes beside what they hold, and the message its condition.
    let append = async |bytes: usize, count| {
        let entries = [Bytes::from(vec![b'x'; bytes])];
        let append = Append::new(&stream, Mark::birth(count), Rule::Exactly, Tag { node: 1, count }, &entries);
        node.log.append(append).await
    };
    for (bytes, count) in [(MOST, 1), (MOST - 85, 2)] {
        let refused = append(bytes, count).await;
        assert!(matches!(refused, Err(BackendError::Full(_))), "{bytes}: {refused:?}");
    }
    let Appended::At { mark, .. } = append(MOST - 1_024, 3).await.unwrap() else { panic!("it fits") };
    let first = Bytes::from(vec![b'1'; MOST - 4_096 + 1]);
    node.log.snapshot(&stream, mark, first.clone(), 0).await.unwrap();
    assert_eq!(whole(&node, &stream).await.unwrap().unwrap().snapshot, Some((1, first)));
    let entries = [Bytes::from_static(b"more")];
    let more = Append::new(&stream, mark, Rule::Exactly, Tag { node: 1, count: 9 }, &entries);
    let Appended::At { mark, .. } = node.log.append(more).await.unwrap() else { panic!("it fits") };
    let second = Bytes::from(vec![b'2'; 3 * MOST]);
    node.log.snapshot(&stream, mark, second.clone(), 0).await.unwrap();
    let stored = whole(&node, &stream).await.unwrap().unwrap();
    assert_eq!(stored.snapshot, Some((2, second)));
    assert!(stored.entries.is_empty());
}

/// More streams than are subscribed to at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_follows_many_streams_hears_again() {
    let engine = start("");
    let [direct, _] = nodes(engine.port).await;
    let proxy = Proxy::start(engine.port).await;
    let node = connect(&format!("nats://127.0.0.1:{}", proxy.port)).await.node().await.unwrap();
    let streams: Vec<StreamId> = (0..3_000).map(|number| StreamId::event(number.to_string())).collect();
    node.log.follow(&streams).await.unwrap();
    let mut news = node.log.news().unwrap();
    proxy.run.send_modify(|run| *run += 1);
    let lost = timeout(PATIENCE, news.recv()).await.expect("the node finds its engine again");
    assert_eq!(lost, Some(News::Lost));
    let entries = [Bytes::from_static(b"entry")];
    for (count, stream) in (1..).zip(&streams) {
        if count % 100 == 0 {
            let append = Append::new(stream, Mark::birth(7), Rule::Exactly, Tag { node: 1, count }, &entries);
            direct.log.append(append).await.unwrap();
            let heard = timeout(PATIENCE, news.recv()).await.expect("each is followed again");
            assert!(matches!(&heard, Some(News::Entries { stream: of, .. }) if of == stream), "{heard:?}");
        }
    }
}
