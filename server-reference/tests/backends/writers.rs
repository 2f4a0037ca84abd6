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
    log::{Append, Appended, Loaded, Mark, Rule, Stored, Tag},
};
use tokio::time::{Instant, sleep};

/// Far above what anything takes here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn whole(node: &Backend, stream: &StreamId) -> Result<Option<Stored>, BackendError> {
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
