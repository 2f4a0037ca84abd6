//! Writers that repeat what was not answered, and what must be true of their stream in the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use datasole_core::StreamId;
use datasole_server::backend::{
    Backend, BackendError,
    log::{Append, Appended, Loaded, Mark, News, Rule, Stored, Tag},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// Far above what anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn whole(node: &Backend, stream: &StreamId) -> Result<Option<Stored>, BackendError> {
    Ok(match node.log.load(stream, None).await? {
        Loaded::Whole(stored) => Some(stored),
        Loaded::Absent | Loaded::Since(_) => None,
    })
}

/// Appends an entry behind `after`, which is there.
pub(crate) async fn append(node: &Backend, stream: &StreamId, after: Mark, count: u64) -> Mark {
    let entries = [Bytes::from_static(b"entry")];
    let append = Append::new(stream, after, Rule::Exactly, Tag { node: 1, count }, &entries);
    match node.log.append(append).await.unwrap() {
        Appended::At { mark, .. } => mark,
        conflict => panic!("{conflict:?}"),
    }
}

/// Waits until a node's log answers again.
pub(crate) async fn until_it_answers(node: &Backend) {
    let (probe, deadline) = ([StreamId::event("probe")], Instant::now() + PATIENCE);
    loop {
        let mut outcome = node.log.follow(&probe).await;
        if outcome.is_ok() {
            outcome = node.log.heads(&probe).await.map(drop);
        }
        match outcome {
            Ok(()) => return node.log.unfollow(&probe),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(PAUSE).await;
    }
}

/// The generation that a node is told to have begun.
pub(crate) async fn generation(news: &mut mpsc::Receiver<News>) -> u64 {
    loop {
        match timeout(PATIENCE, news.recv()).await.expect("a generation is told").unwrap() {
            News::Generation(generation) => return generation,
            News::Lost => {}
            other => panic!("before the generation came {other:?}"),
        }
    }
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
pub(crate) async fn survives(nodes: [Backend; 2], disturb: impl AsyncFnOnce()) {
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
