//! Streams by kind: opening, storing, publishing, and letting go of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use futures_util::FutureExt;

use super::{
    Content, Entry, Hub, Stream, V1_FOLLOWS, Writer, read,
    stream::{Author, Rules, Start},
    unix_millis, write,
};
use crate::{
    backend::{Appended, BackendError, Stored},
    connection::Connection,
    limits::Replay,
    mailbox::lock,
};

/// Streams of one kind in memory before those that nobody needs are looked for.
const SWEEP_AT: usize = 1024;

/// The streams of one kind that are in memory.
#[derive(Debug)]
pub(super) struct Streams {
    map: RwLock<HashMap<String, Arc<Stream>>>,
    /// Keys that the backend is asked for, by how many: what it answers must not have been overtaken by a stream that has
    /// come and gone meanwhile.
    opening: Mutex<HashMap<String, usize>>,
    /// How many there may be before the idle ones are swept.
    sweep_at: AtomicUsize,
    /// How many there may be before idle ones that hold something are dropped.
    spare: usize,
}

/// A key that the backend is asked for.
struct Opening<'a> {
    streams: &'a Streams,
    key: &'a str,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut opening = lock(&self.streams.opening);
        if let Some(count) = opening.get_mut(self.key) {
            *count -= 1;
            if *count == 0 {
                opening.remove(self.key);
            }
        }
    }
}

impl Streams {
    pub(super) fn new(spare: usize) -> Self {
        Self {
            map: RwLock::default(),
            opening: Mutex::default(),
            sweep_at: AtomicUsize::new(SWEEP_AT.max(spare)),
            spare,
        }
    }

    pub(super) fn in_memory(&self) -> Vec<Arc<Stream>> {
        read(&self.map).values().cloned().collect()
    }

    fn opening<'a>(&'a self, key: &'a str) -> Opening<'a> {
        *lock(&self.opening).entry(key.to_owned()).or_default() += 1;
        Opening { streams: self, key }
    }

    /// Whether a stream can be dropped from the map, which is locked: a reference from elsewhere is somebody about to
    /// follow it, or to publish.
    fn is_spare(&self, stream: &Arc<Stream>) -> bool {
        Arc::strong_count(stream) == 1 && stream.is_idle() && !lock(&self.opening).contains_key(&stream.id().key)
    }

    /// Drops an idle stream, if it holds nothing or there are enough; what is gone and should be forgotten at the backend.
    fn release(&self, id: &StreamId) -> Option<Position> {
        let mut map = write(&self.map);
        let stream = map.get(&id.key).filter(|stream| self.is_spare(stream))?;
        let gone = stream.gone_at();
        if gone.is_some() || map.len() > self.spare {
            map.remove(&id.key);
        }
        gone
    }

    /// Takes the idle streams out whenever their number has doubled: those that somebody held when they were released.
    fn sweep(&self, map: &mut HashMap<String, Arc<Stream>>) -> Vec<(StreamId, Position)> {
        if map.len() < self.sweep_at.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut surplus = map.len().saturating_sub(self.spare);
        let mut forgotten = Vec::new();
        map.retain(|_, stream| {
            if !self.is_spare(stream) {
                return true;
            }
            let gone = stream.gone_at();
            forgotten.extend(gone.map(|position| (stream.id().clone(), position)));
            let drop = gone.is_some() || surplus > 0;
            surplus = surplus.saturating_sub(usize::from(drop));
            !drop
        });
        self.sweep_at.store((2 * map.len()).max(SWEEP_AT).max(self.spare), Ordering::Relaxed);
        forgotten
    }

    /// Drops idle streams that hold something, as long as there are too many.
    pub(super) fn trim(&self) {
        let mut map = write(&self.map);
        let mut surplus = map.len().saturating_sub(self.spare);
        if surplus > 0 {
            map.retain(|_, stream| {
                let drop = surplus > 0 && self.is_spare(stream) && stream.gone_at().is_none();
                surplus -= usize::from(drop);
                !drop
            });
        }
    }
}

impl Hub {
    pub(super) fn streams(&self, kind: StreamKind) -> &Streams {
        &self.streams[kind as usize]
    }

    /// The stream, as the backend has it, or a new and empty one.
    pub(crate) async fn open(&self, kind: StreamKind, key: &str) -> Result<Arc<Stream>, BackendError> {
        if let Some(stream) = self.known(kind, key) {
            return Ok(stream);
        }
        let streams = self.streams(kind);
        let _opening = streams.opening(key);
        let id = StreamId { kind, key: key.to_owned() };
        let rules = self.rules(&id);
        let stored = if self.is_stored(&id) { self.backend.load(&id).await? } else { None };
        let stream = Stream::new(id.clone(), self.start(&id, stored)?, rules);
        let (stream, forgotten) = {
            let mut map = write(&streams.map);
            let forgotten = streams.sweep(&mut map);
            (map.entry(id.key).or_insert_with(|| Arc::new(stream)).clone(), forgotten)
        };
        if V1_FOLLOWS.contains(&kind) {
            for connection in read(&self.v1).iter() {
                if connection.identity().is_some_and(|identity| self.may_read(&identity, stream.id())) {
                    stream.subscribe_v1(connection);
                }
            }
        }
        for (id, position) in forgotten {
            self.forget(&id, position).await;
        }
        Ok(stream)
    }

    /// The stream, if it may exist; looking for one that does not makes none.
    pub(crate) async fn find(&self, kind: StreamKind, key: &str) -> Result<Option<Arc<Stream>>, BackendError> {
        if let Some(stream) = self.known(kind, key) {
            return Ok(Some(stream));
        }
        match self.backend.load(&StreamId { kind, key: key.to_owned() }).await? {
            Some(_) => self.open(kind, key).await.map(Some),
            None => Ok(None),
        }
    }

    /// The stream if it is in memory.
    pub(crate) fn known(&self, kind: StreamKind, key: &str) -> Option<Arc<Stream>> {
        read(&self.streams(kind).map).get(key).cloned()
    }

    #[cfg(test)]
    pub(crate) fn in_memory(&self, kind: StreamKind) -> usize {
        read(&self.streams(kind).map).len()
    }

    /// The keys of all stored streams of a kind that exist, sorted.
    pub(crate) async fn keys(&self, kind: StreamKind) -> Result<Vec<String>, BackendError> {
        let mut keys = self.backend.keys(kind).await?;
        keys.retain(|key| self.known(kind, key).is_none_or(|stream| stream.gone_at().is_none()));
        keys.sort();
        Ok(keys)
    }

    /// How many documents exist.
    #[cfg(feature = "docs")]
    pub(crate) async fn docs(&self) -> Result<&Arc<AtomicUsize>, BackendError> {
        let count = async || Ok(Arc::new(AtomicUsize::new(self.keys(StreamKind::Doc).await?.len())));
        self.docs.get_or_try_init(count).await
    }

    /// The topic's stream, unless nobody follows it and remembering its position would be one too many.
    pub(crate) async fn topic_worth_having(&self, name: &str) -> Result<Option<Arc<Stream>>, BackendError> {
        let crowded = {
            let topics = read(&self.streams(StreamKind::Event).map);
            topics.len() >= self.limits.max_idle_topics && !topics.contains_key(name) && self.history(name).is_none()
        };
        if crowded { Ok(None) } else { self.open(StreamKind::Event, name).await.map(Some) }
    }

    /// What a topic declared.
    pub(crate) fn history(&self, topic: &str) -> Option<Replay> {
        self.histories.get(topic).copied()
    }

    /// Shows a version 1 client what is stored and not in memory: it follows every state and CRDT it may read, and does
    /// not ask. One at a time, as long as it is there.
    pub(crate) async fn recall(&self, connection: &Connection) {
        for kind in V1_FOLLOWS {
            let keys = match self.backend.keys(kind).await {
                Ok(keys) => keys,
                Err(error) => return tracing::error!(%error, ?kind, "the stored keys could not be listed"),
            };
            for key in keys {
                let id = StreamId { kind, key };
                let may_read = connection.identity().is_some_and(|identity| self.may_read(&identity, &id));
                if connection.has_ended() || !may_read || self.known(kind, &id.key).is_some() {
                    continue;
                }
                match self.open(kind, &id.key).await {
                    Ok(stream) => self.release(stream).await,
                    Err(error) => tracing::error!(%error, key = id.key, "a stream could not be opened"),
                }
            }
        }
    }

    /// Stores `entry` as the stream's next and publishes it; `change` brings the content in step. `None` when others
    /// were faster with what comes to something, whose change must be planned again on what they made of it.
    ///
    /// It runs to its end also when the caller is dropped: what was stored would otherwise be missing to the followers.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        writer: Writer,
        entry: Entry,
        author: Option<Author>,
        change: impl FnOnce(&mut Content) + Send + 'static,
    ) -> Result<Option<Position>, BackendError> {
        let (hub, stream) = (self.clone(), stream.clone());
        to_the_end(async move {
            let _writer = writer;
            let bytes = entry.encode();
            loop {
                match hub.append(&stream, bytes.clone()).await {
                    Ok(true) => break,
                    Ok(false) if stream.id().kind == StreamKind::Event => {}
                    Ok(false) => return Ok(None),
                    Err(error) => {
                        stream.with_content(Content::retract);
                        return Err(error);
                    }
                }
            }
            let position = hub.publish(&stream, &entry, author.as_ref(), change);
            if stream.note(bytes.len())
                && let Err(error) = hub.compact(&stream).await
            {
                // It is stored and published; the backend only holds more than it must.
                tracing::error!(%error, key = stream.id().key, "a stream could not be compacted");
            }
            Ok(Some(position))
        })
        .await
    }

    /// Hands an entry to the stream's followers.
    pub(crate) fn publish(
        &self,
        stream: &Arc<Stream>,
        entry: &Entry,
        author: Option<&Author>,
        change: impl FnOnce(&mut Content),
    ) -> Position {
        // Version 1 clients follow each state and CRDT by itself, and all topics at once.
        if stream.id().kind == StreamKind::Event && !entry.is_binary() {
            return self.with_v1(stream.id(), |v1| stream.publish(entry, unix_millis(), v1, author, change));
        }
        stream.publish(entry, unix_millis(), &[], author, change)
    }

    /// `false` when others were faster; the stream has then been brought up to date.
    async fn append(&self, stream: &Arc<Stream>, entry: Bytes) -> Result<bool, BackendError> {
        match self.backend.append(stream.id(), stream.position(), entry).await? {
            Appended::At(_) => Ok(true),
            Appended::Conflict(_) => self.reload(stream).await.map(|()| false),
        }
    }

    /// Lets the backend forget entries. The caller has the right to append: what a CRDT forgets is an entry, too, so that
    /// all who follow forget the same.
    async fn compact(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        let (limits, retention) = (self.limits.crdt(), self.limits.crdt_retention);
        if let Some(crdt) = stream.with_content(|content| content.collected(unix_millis(), retention, &limits)) {
            let entry = Entry::State(crdt.to_json());
            if !self.append(stream, entry.encode()).await? {
                return Ok(());
            }
            self.publish(stream, &entry, None, |content| *content = Content::Crdt(Some(crdt)));
        }
        match stream.stored() {
            Some((at, snapshot, keep)) => self.backend.snapshot(stream.id(), at, snapshot, keep).await,
            None => Ok(()),
        }
    }

    /// Makes the stream what the backend has.
    pub(crate) async fn reload(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        stream.reset(self.start(stream.id(), self.backend.load(stream.id()).await?)?);
        Ok(())
    }

    /// Forgets a stream, which begins a new life.
    #[cfg(feature = "docs")]
    pub(crate) async fn remove(self: &Arc<Self>, stream: &Arc<Stream>, writer: Writer) -> Result<(), BackendError> {
        let (hub, stream) = (self.clone(), stream.clone());
        to_the_end(async move {
            let _writer = writer;
            hub.backend.remove(stream.id(), stream.position()).await?;
            hub.reload(&stream).await
        })
        .await
    }

    /// Lets go of a stream: it leaves memory if nobody follows it and it holds nothing, or there are enough of its kind.
    /// Others that hold it keep it alive; one that they leave behind is swept up later.
    pub(crate) async fn release(&self, stream: Arc<Stream>) {
        if !stream.is_idle() {
            return;
        }
        let id = stream.id().clone();
        drop(stream);
        if let Some(position) = self.streams(id.kind).release(&id) {
            self.forget(&id, position).await;
        }
    }

    /// Forgets at the backend what has come to nothing.
    async fn forget(&self, id: &StreamId, position: Position) {
        if self.is_stored(id)
            && position.seq > 0
            && let Err(error) = self.backend.remove(id, position).await
        {
            tracing::error!(%error, key = id.key, "a stream could not be removed");
        }
    }

    /// Runs `f` with the version 1 clients that may read the stream.
    pub(crate) fn with_v1<R>(&self, stream: &StreamId, f: impl FnOnce(&[Arc<Connection>]) -> R) -> R {
        let v1 = read(&self.v1);
        if self.may_read.is_none() || v1.is_empty() {
            return f(v1.as_slice());
        }
        let may = |c: &&Arc<Connection>| c.identity().is_some_and(|identity| self.may_read(&identity, stream));
        let admitted: Vec<Arc<Connection>> = v1.iter().filter(may).cloned().collect();
        f(&admitted)
    }

    /// Whether the backend keeps it.
    fn is_stored(&self, id: &StreamId) -> bool {
        match id.kind {
            StreamKind::State | StreamKind::Crdt | StreamKind::Doc => true,
            StreamKind::Event => self.history(&id.key).is_some(),
            StreamKind::Presence => false,
        }
    }

    fn rules(&self, id: &StreamId) -> Rules {
        let limits = &self.limits;
        let (replay, compaction) = match id.kind {
            StreamKind::State | StreamKind::Crdt => (limits.replay, limits.replay),
            StreamKind::Event => [self.history(&id.key).unwrap_or(Replay::NONE); 2].into(),
            StreamKind::Doc => {
                let (entries, bytes) = (limits.doc_compact_entries, limits.doc_compact_bytes);
                (Replay::NONE, Replay { entries, bytes, age: None })
            }
            StreamKind::Presence => (Replay::NONE, Replay::NONE),
        };
        let channel = match id.kind {
            StreamKind::Doc => self.next_channel.fetch_add(1, Ordering::Relaxed).max(1),
            _ => 0,
        };
        Rules { replay, compaction, compress_above: limits.compress_above, channel }
    }

    /// Where a stream begins: as the backend has it, or a new life.
    fn start(&self, id: &StreamId, stored: Option<Stored>) -> Result<Start, BackendError> {
        let content = Content::restore(id, stored.as_ref(), &self.limits)?;
        let now = unix_millis();
        Ok(match stored {
            Some(stored) => {
                let fresh = stored.since_snapshot().len();
                Start { position: stored.position, content, entries: stored.entries, fresh, now }
            }
            None => {
                let position = Position { epoch: self.next_epoch.fetch_add(1, Ordering::Relaxed), seq: 0 };
                Start { position, content, entries: Vec::new(), fresh: 0, now }
            }
        })
    }
}

/// Runs a future to its end even if the caller is dropped meanwhile. One that is done at once costs no task.
async fn to_the_end<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let mut future = Box::pin(future);
    if let Some(output) = future.as_mut().now_or_never() {
        return output;
    }
    match tokio::spawn(future).await {
        Ok(output) => output,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and drops the caller, too.
        Err(_) => std::future::pending().await,
    }
}
