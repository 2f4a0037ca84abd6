//! Faults between a node and its Redis: what was acknowledged is there once, errors are typed.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use datasole_server::backend::{
    Backend, BackendError,
    kv::Expected,
    log::{Append, Appended, Loaded, Mark, Rule, Stored, Tag},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use super::{PATIENCE, PROGRAM, arguments, connect};
use crate::running::Running;

const PAUSE: Duration = Duration::from_millis(10);

/// Redis's own client.
fn tell(port: u16, command: &str) {
    let mut client = Command::new("redis-cli");
    client.args(["-p", &port.to_string()]).args(command.split(' ')).stdout(Stdio::null());
    assert!(client.status().unwrap().success(), "{command}");
}

async fn whole(node: &Backend, stream: &StreamId) -> Result<Option<Stored>, BackendError> {
    Ok(match node.log.load(stream, None).await? {
        Loaded::Whole(stored) => Some(stored),
        Loaded::Absent | Loaded::Since(_) => None,
    })
}

/// Appends, and repeats what was not answered.
struct Writer {
    node: Backend,
    stream: StreamId,
    tag: Tag,
    at: Mark,
    acknowledged: Vec<Tag>,
}

impl Writer {
    fn new(node: &Backend, stream: &StreamId, name: u64) -> Self {
        let (tag, at) = (Tag { node: name, count: 0 }, Mark::birth(name));
        Self { node: node.clone(), stream: stream.clone(), tag, at, acknowledged: Vec::new() }
    }

    /// One entry: repeated until its fate is known.
    async fn write(&mut self) {
        self.tag.count += 1;
        let (entries, deadline) = ([Bytes::from_static(b"entry")], Instant::now() + PATIENCE);
        loop {
            assert!(Instant::now() < deadline, "an append is answered");
            match self.attempt(&entries).await {
                Ok(true) => break self.acknowledged.push(self.tag),
                Ok(false) => {}
                Err(BackendError::Unavailable(_)) => sleep(PAUSE).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Whether the entry is stored now.
    async fn attempt(&mut self, entries: &[Bytes]) -> Result<bool, BackendError> {
        let append = Append::new(&self.stream, self.at, Rule::Behind, self.tag, entries);
        match self.node.log.append(append).await? {
            Appended::At { mark, .. } => {
                self.at = mark;
                Ok(true)
            }
            Appended::Conflict { mark, .. } => {
                let Some(stored) = whole(&self.node, &self.stream).await? else {
                    self.at = Mark::birth(mark.position.epoch + 1);
                    return Ok(false);
                };
                self.at = stored.mark;
                Ok(stored.entries.iter().any(|entry| entry.tag == self.tag))
            }
        }
    }
}

/// Four writers on two nodes append to one stream while `disturb` does its work; nothing acknowledged is lost or
/// doubled.
async fn survives(port: u16, disturb: impl AsyncFnOnce()) {
    let redis = connect(&format!("redis://127.0.0.1:{port}")).await;
    let nodes = [redis.node().await.unwrap(), redis.node().await.unwrap()];
    let (stream, over) = (StreamId::event("s"), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (1..=4_u64)
        .map(|name| {
            let mut writer = Writer::new(&nodes[name as usize % 2], &stream, name);
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    writer.write().await;
                }
                writer.write().await;
                writer
            })
        })
        .collect();
    disturb().await;
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap().acknowledged);
    }
    let stored = whole(&nodes[0], &stream).await.unwrap().unwrap();
    assert_eq!(stored.mark.position.seq, stored.entries.len() as u64, "no gap");
    let mut times: BTreeMap<Tag, u32> = BTreeMap::new();
    stored.entries.iter().for_each(|entry| *times.entry(entry.tag).or_default() += 1);
    assert!(acknowledged.len() > 8, "writers got on: {}", acknowledged.len());
    for tag in &acknowledged {
        assert_eq!(times.remove(tag), Some(1), "{tag:?} is there once");
    }
    assert!(times.is_empty(), "nothing that was not acknowledged in the end: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_when_connections_are_killed() {
    let engine = Running::start(PROGRAM, arguments);
    let port = engine.port;
    survives(port, async || {
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
    survives(port, async || {
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
