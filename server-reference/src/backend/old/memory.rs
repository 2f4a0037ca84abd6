//! Streams in this process's memory: gone with it, and therefore in a new epoch after it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use futures_util::{FutureExt, future::BoxFuture, future::ready};
use tokio::sync::broadcast;

use super::{Appended, Backend, BackendError, Stored, Wake};
use crate::sync::lock;

/// The default backend.
///
/// Holds each stream's entries since its newest snapshot, and those to be kept before it. Expired values are dropped when they are next looked at, and
/// all of them whenever the number of values has doubled.
#[derive(Debug)]
pub struct Memory {
    streams: Mutex<HashMap<StreamId, Held>>,
    values: Mutex<Values>,
    wakes: broadcast::Sender<Wake>,
}

#[derive(Debug, Default)]
struct Held {
    position: Position,
    snapshot: Option<(u64, Bytes)>,
    entries: VecDeque<Bytes>,
}

#[derive(Debug, Default)]
struct Values {
    map: HashMap<String, (Bytes, Option<Instant>)>,
    sweep_at: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { streams: Mutex::default(), values: Mutex::default(), wakes: broadcast::Sender::new(256) }
    }
}

impl Held {
    fn first_seq(&self) -> u64 {
        self.position.seq - self.entries.len() as u64
    }
}

impl Backend for Memory {
    fn load<'a>(&'a self, stream: &'a StreamId) -> BoxFuture<'a, Result<Option<Stored>, BackendError>> {
        let streams = lock(&self.streams);
        let stored = streams.get(stream).map(|held| Stored {
            position: held.position,
            snapshot: held.snapshot.clone(),
            entries: held.entries.iter().cloned().collect(),
        });
        ready(Ok(stored)).boxed()
    }

    fn append<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        entry: Bytes,
    ) -> BoxFuture<'a, Result<Appended, BackendError>> {
        let appended = {
            let mut streams = lock(&self.streams);
            if at.seq == 0 && !streams.contains_key(stream) {
                streams.insert(stream.clone(), Held { position: at, ..Held::default() });
            }
            match streams.get_mut(stream) {
                Some(held) if held.position == at => {
                    held.entries.push_back(entry);
                    held.position.seq += 1;
                    Appended::At(held.position)
                }
                Some(held) => Appended::Conflict(held.position),
                None => Appended::Conflict(Position::default()),
            }
        };
        if let Appended::At(position) = appended
            && self.wakes.receiver_count() > 0
        {
            // No receiver is no error: wake-ups are hints.
            let _ = self.wakes.send(Wake { stream: stream.clone(), position });
        }
        ready(Ok(appended)).boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        since: Position,
    ) -> BoxFuture<'a, Result<Option<Vec<Bytes>>, BackendError>> {
        let streams = lock(&self.streams);
        let entries = streams.get(stream).and_then(|held| {
            if held.position.epoch != since.epoch || since.seq > held.position.seq {
                return None;
            }
            let skip = since.seq.checked_sub(held.first_seq())?;
            Some(held.entries.iter().skip(skip as usize).cloned().collect())
        });
        ready(Ok(entries)).boxed()
    }

    fn snapshot<'a>(
        &'a self,
        stream: &'a StreamId,
        at: Position,
        snapshot: Bytes,
        keep: u64,
    ) -> BoxFuture<'a, Result<(), BackendError>> {
        let mut streams = lock(&self.streams);
        if let Some(held) = streams.get_mut(stream)
            && held.position.epoch == at.epoch
            && at.seq <= held.position.seq
            && held.snapshot.as_ref().is_none_or(|(seq, _)| *seq < at.seq)
        {
            let forget = at.seq.saturating_sub(keep).saturating_sub(held.first_seq());
            held.entries.drain(..forget as usize);
            held.snapshot = Some((at.seq, snapshot));
        }
        ready(Ok(())).boxed()
    }

    fn remove<'a>(&'a self, stream: &'a StreamId, at: Position) -> BoxFuture<'a, Result<(), BackendError>> {
        let mut streams = lock(&self.streams);
        if streams.get(stream).is_some_and(|held| held.position == at) {
            streams.remove(stream);
        }
        ready(Ok(())).boxed()
    }

    fn keys(&self, kind: StreamKind) -> BoxFuture<'_, Result<Vec<String>, BackendError>> {
        let streams = lock(&self.streams);
        let keys = streams.keys().filter(|id| id.kind == kind).map(|id| id.key.clone()).collect();
        ready(Ok(keys)).boxed()
    }

    fn wakes(&self) -> broadcast::Receiver<Wake> {
        self.wakes.subscribe()
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, BackendError>> {
        let mut values = lock(&self.values);
        if values.map.get(key).is_some_and(|(_, expires)| is_past(*expires)) {
            values.map.remove(key);
        }
        ready(Ok(values.map.get(key).map(|(value, _)| value.clone()))).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), BackendError>> {
        let mut values = lock(&self.values);
        let expires = ttl.and_then(|ttl| Instant::now().checked_add(ttl));
        values.map.insert(key.to_owned(), (value, expires));
        if values.map.len() > values.sweep_at {
            values.map.retain(|_, (_, expires)| !is_past(*expires));
            values.sweep_at = (values.map.len() * 2).max(1024);
        }
        ready(Ok(())).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<(), BackendError>> {
        lock(&self.values).map.remove(key);
        ready(Ok(())).boxed()
    }
}

fn is_past(expires: Option<Instant>) -> bool {
    expires.is_some_and(|at| at <= Instant::now())
}

#[cfg(test)]
mod tests {
    use super::{super::conformance, Memory};

    #[tokio::test]
    async fn conforms() {
        conformance::check(&Memory::default()).await;
    }
}
