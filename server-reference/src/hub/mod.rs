//! Streams and fan-out: who follows what, who is where, and how an entry reaches everyone.
//!
//! It knows neither sockets nor frames of requests. Locks are taken in the order map → stream → mailbox and never held
//! across an `await`.

pub(crate) mod entry;
mod members;
mod stream;

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind, patch};
use futures_util::FutureExt;
use serde_json::{Value, value::to_raw_value};

pub(crate) use self::{
    entry::Entry,
    members::Members,
    stream::{Document, Start, Stream, Writer},
};
use crate::{
    auth::Identity,
    backend::{Appended, Backend, BackendError, Stored},
    connection::{Connection, Protocol},
    limits::{Limits, Replay},
    mailbox::lock,
};

/// States in memory before those that nobody needs are looked for.
const SWEEP_AT: usize = 1024;

/// May this user follow this stream?
pub(crate) type ReadPolicy = Box<dyn Fn(&Identity, &StreamId) -> bool + Send + Sync>;

pub(crate) struct Hub {
    backend: Arc<dyn Backend>,
    limits: Limits,
    histories: HashMap<String, Replay>,
    may_read: Option<ReadPolicy>,
    /// Streams born in this process get epochs from here.
    next_epoch: AtomicU64,
    states: Streams,
    /// How many states there may be before the idle ones are swept.
    sweep_at: AtomicUsize,
    topics: Streams,
    connections: RwLock<Members>,
    /// Those that have yet to authenticate.
    strangers: Mutex<Members>,
    v1: RwLock<Members>,
    users: Mutex<HashMap<String, Members>>,
    rooms: Mutex<HashMap<Arc<str>, Members>>,
}

type Streams = RwLock<HashMap<String, Arc<Stream>>>;

impl Hub {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        limits: Limits,
        histories: HashMap<String, Replay>,
        may_read: Option<ReadPolicy>,
        epoch: u64,
    ) -> Self {
        Self {
            backend,
            limits,
            histories,
            may_read,
            next_epoch: AtomicU64::new(epoch),
            states: RwLock::default(),
            sweep_at: AtomicUsize::new(SWEEP_AT),
            topics: RwLock::default(),
            connections: RwLock::default(),
            strangers: Mutex::default(),
            v1: RwLock::default(),
            users: Mutex::default(),
            rooms: Mutex::default(),
        }
    }

    pub(crate) fn may_read(&self, identity: &Identity, stream: &StreamId) -> bool {
        let Some(may_read) = &self.may_read else { return true };
        catch_unwind(AssertUnwindSafe(|| may_read(identity, stream))).unwrap_or_else(|_| {
            tracing::error!(key = stream.key, "the read policy panicked");
            false
        })
    }

    // --- connections ---

    pub(crate) fn connection_count(&self) -> usize {
        read(&self.connections).len()
    }

    pub(crate) fn connection(&self, id: &str) -> Option<Arc<Connection>> {
        let serial = u64::from_str_radix(id.split_once('-')?.1, 16).ok()?;
        let connection = read(&self.connections).get(serial)?.clone();
        (connection.id() == id).then_some(connection)
    }

    /// Goes through all connections, those that have yet to authenticate included.
    pub(crate) fn each_connection(&self, mut f: impl FnMut(&Arc<Connection>)) {
        // One that is authenticated meanwhile is seen in either place: it leaves the first after it has entered the second.
        lock(&self.strangers).iter().for_each(&mut f);
        read(&self.connections).iter().for_each(f);
    }

    /// Adds a connection that has yet to authenticate.
    pub(crate) fn expect(&self, connection: &Arc<Connection>) {
        lock(&self.strangers).insert(connection);
    }

    /// Adds an authenticated connection, unless it has ended. A version 1 client gets every state it may read.
    pub(crate) fn join(&self, connection: &Arc<Connection>, identity: &Identity) {
        write(&self.connections).insert(connection);
        lock(&self.strangers).remove(connection);
        lock(&self.users).entry(identity.user_id.clone()).or_default().insert(connection);
        if connection.protocol() == Protocol::V1 {
            // Registered first, so that a state born meanwhile finds it; joining twice is harmless.
            write(&self.v1).insert(connection);
            let mut states: Vec<Arc<Stream>> = read(&self.states).values().cloned().collect();
            states.sort_unstable_by(|a, b| a.id().cmp(b.id()));
            for stream in states.iter().filter(|stream| self.may_read(identity, stream.id())) {
                stream.subscribe_v1(connection);
            }
        }
        // It may have ended while its credentials were looked at: then it has left before it came.
        if connection.has_ended() {
            self.leave(connection);
        }
    }

    /// Removes a connection that has ended. Its subscriptions are the session's to end.
    pub(crate) fn leave(&self, connection: &Arc<Connection>) {
        write(&self.connections).remove(connection);
        lock(&self.strangers).remove(connection);
        if let Some(identity) = connection.identity() {
            remove_member(&mut lock(&self.users), identity.user_id.as_str(), connection);
        }
        let joined = std::mem::take(&mut *lock(&connection.rooms));
        let mut rooms = lock(&self.rooms);
        for room in joined {
            remove_member(&mut rooms, &room, connection);
        }
        drop(rooms);
        if connection.protocol() == Protocol::V1 {
            write(&self.v1).remove(connection);
            for stream in read(&self.states).values() {
                stream.unsubscribe(connection);
            }
        }
    }

    // --- rooms ---

    /// `false` when the connection is in too many rooms or has ended.
    pub(crate) fn join_room(&self, connection: &Arc<Connection>, room: &str) -> bool {
        let mut joined = lock(&connection.rooms);
        if joined.iter().any(|own| **own == *room) {
            return true;
        }
        if joined.len() >= self.limits.max_rooms || read(&self.connections).get(connection.serial()).is_none() {
            return false;
        }
        let name: Arc<str> = room.into();
        joined.push(name.clone());
        lock(&self.rooms).entry(name).or_default().insert(connection);
        true
    }

    pub(crate) fn leave_room(&self, connection: &Arc<Connection>, room: &str) {
        lock(&connection.rooms).retain(|own| **own != *room);
        remove_member(&mut lock(&self.rooms), room, connection);
    }

    /// Hands a message to those in a room who understand it; how many.
    pub(crate) fn send_to_room(&self, room: &str, message: &Bytes, v2_only: bool) -> usize {
        lock(&self.rooms).get(room).map_or(0, |members| send_to_all(members.as_slice(), message, v2_only))
    }

    /// Hands a message to the connections of a user that understand it; how many.
    pub(crate) fn send_to_user(&self, user: &str, message: &Bytes, v2_only: bool) -> usize {
        lock(&self.users).get(user).map_or(0, |members| send_to_all(members.as_slice(), message, v2_only))
    }

    /// Hands a message to one connection, if it is there and understands it; how many.
    pub(crate) fn send_to_connection(&self, id: &str, message: &Bytes, v2_only: bool) -> usize {
        send_to_all(self.connection(id).as_slice(), message, v2_only)
    }

    // --- streams ---

    /// The state's stream, as the backend has it, or a new and empty one.
    pub(crate) async fn state(&self, key: &str) -> Result<Arc<Stream>, BackendError> {
        if let Some(stream) = read(&self.states).get(key) {
            return Ok(stream.clone());
        }
        let id = StreamId::state(key);
        let start = self.start(&id, self.backend.load(&id).await?)?;
        let stream = Stream::new(id, start, self.limits.replay, self.limits.compress_above);
        let (stream, idle) = {
            let mut states = write(&self.states);
            let idle = self.sweep(&mut states);
            (states.entry(key.to_owned()).or_insert_with(|| Arc::new(stream)).clone(), idle)
        };
        for connection in read(&self.v1).iter() {
            if connection.identity().is_some_and(|identity| self.may_read(&identity, stream.id())) {
                stream.subscribe_v1(connection);
            }
        }
        for (id, position) in idle {
            self.forget(&id, position).await;
        }
        Ok(stream)
    }

    /// The state's stream, if the state may exist; looking for one that does not makes none.
    pub(crate) async fn find_state(&self, key: &str) -> Result<Option<Arc<Stream>>, BackendError> {
        if let Some(stream) = self.known_state(key) {
            return Ok(Some(stream));
        }
        match self.backend.load(&StreamId::state(key)).await? {
            Some(_) => self.state(key).await.map(Some),
            None => Ok(None),
        }
    }

    /// The state's stream if it is in memory.
    pub(crate) fn known_state(&self, key: &str) -> Option<Arc<Stream>> {
        read(&self.states).get(key).cloned()
    }

    #[cfg(test)]
    pub(crate) fn states_in_memory(&self) -> usize {
        read(&self.states).len()
    }

    /// The keys of all states that exist.
    pub(crate) async fn state_keys(&self) -> Result<Vec<String>, BackendError> {
        let mut keys = self.backend.keys(StreamKind::State).await?;
        keys.retain(|key| self.known_state(key).is_none_or(|s| s.with_document(|document| document.value.is_some())));
        keys.sort();
        Ok(keys)
    }

    /// The topic's stream.
    pub(crate) async fn topic(&self, name: &str) -> Result<Arc<Stream>, BackendError> {
        if let Some(stream) = read(&self.topics).get(name) {
            return Ok(stream.clone());
        }
        let id = StreamId::event(name);
        let replay = self.history(name);
        let stored = if replay.is_some() { self.backend.load(&id).await? } else { None };
        let start = self.start(&id, stored)?;
        let stream = Stream::new(id, start, replay.unwrap_or(Replay::NONE), self.limits.compress_above);
        Ok(write(&self.topics).entry(name.to_owned()).or_insert_with(|| Arc::new(stream)).clone())
    }

    /// The topic's stream, unless nobody follows it and remembering its position would be one too many.
    pub(crate) async fn topic_worth_having(&self, name: &str) -> Result<Option<Arc<Stream>>, BackendError> {
        let crowded = {
            let topics = read(&self.topics);
            topics.len() >= self.limits.max_idle_topics && !topics.contains_key(name) && self.history(name).is_none()
        };
        if crowded { Ok(None) } else { self.topic(name).await.map(Some) }
    }

    /// What a topic declared.
    pub(crate) fn history(&self, topic: &str) -> Option<Replay> {
        self.histories.get(topic).copied()
    }

    /// Stores `entry` as the stream's next and publishes it; `change` brings the document in step. `None` when others
    /// were faster with a state, whose change must be planned again on what they made of it.
    ///
    /// It runs to its end also when the caller is dropped: what was stored would otherwise be missing to the followers.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        writer: Writer,
        entry: Entry,
        change: impl FnOnce(&mut Document) + Send + 'static,
    ) -> Result<Option<Position>, BackendError> {
        let (hub, stream) = (self.clone(), stream.clone());
        to_the_end(async move {
            let _writer = writer;
            let bytes = entry.encode();
            while !hub.append(&stream, bytes.clone()).await? {
                if stream.id().kind == StreamKind::State {
                    return Ok(None);
                }
            }
            let position = hub.publish(&stream, &entry, change);
            if let Some(at) = stream.compact_to(bytes.len())
                && let Err(error) = hub.compact(&stream, at).await
            {
                // It is stored and published; the backend only holds more than it must.
                tracing::error!(%error, key = stream.id().key, "a stream could not be compacted");
            }
            Ok(Some(position))
        })
        .await
    }

    /// Hands an entry to the stream's followers.
    pub(crate) fn publish(&self, stream: &Arc<Stream>, entry: &Entry, change: impl FnOnce(&mut Document)) -> Position {
        match stream.id().kind {
            // Version 1 clients follow each state by itself, and all topics at once.
            StreamKind::State => stream.publish(entry, unix_millis(), &[], change),
            _ if entry.is_binary() => stream.publish(entry, unix_millis(), &[], change),
            _ => self.with_v1(stream.id(), |v1| stream.publish(entry, unix_millis(), v1, change)),
        }
    }

    /// `false` when others were faster; the stream has then been brought up to date.
    async fn append(&self, stream: &Arc<Stream>, entry: Bytes) -> Result<bool, BackendError> {
        match self.backend.append(stream.id(), stream.position(), entry).await? {
            Appended::At(_) => Ok(true),
            Appended::Conflict(_) => {
                stream.reset(self.start(stream.id(), self.backend.load(stream.id()).await?)?);
                Ok(false)
            }
        }
    }

    /// Lets the backend forget entries up to here.
    async fn compact(&self, stream: &Arc<Stream>, at: Position) -> Result<(), BackendError> {
        let snapshot = match stream.id().kind {
            StreamKind::State => {
                let value = stream.with_document(|document| document.value.as_ref().map(to_raw_value));
                value.map_or(Entry::Removed, |text| text.map_or(Entry::Removed, Entry::Value)).encode()
            }
            _ => Bytes::new(),
        };
        self.backend.snapshot(stream.id(), at, snapshot).await
    }

    /// Lets go of a stream, and forgets it if nobody follows it and it holds nothing. Others that hold it keep it alive;
    /// a state that they leave behind is swept up later.
    pub(crate) async fn release(&self, stream: Arc<Stream>) {
        if !stream.is_idle() {
            return;
        }
        let id = stream.id().clone();
        drop(stream);
        let position = {
            let (map, spare) = match id.kind {
                StreamKind::State => (&self.states, 0),
                _ => (&self.topics, self.limits.max_idle_topics),
            };
            let mut map = write(map);
            match map.get(&id.key) {
                Some(held) if map.len() > spare && is_spare(held) => {
                    let position = held.position();
                    map.remove(&id.key);
                    position
                }
                _ => return,
            }
        };
        self.forget(&id, position).await;
    }

    /// Takes the idle states out whenever their number has doubled: those that somebody held when they were released.
    fn sweep(&self, states: &mut HashMap<String, Arc<Stream>>) -> Vec<(StreamId, Position)> {
        let mut idle = Vec::new();
        if states.len() >= self.sweep_at.load(Ordering::Relaxed) {
            states.retain(|_, stream| {
                let spare = is_spare(stream);
                if spare {
                    idle.push((stream.id().clone(), stream.position()));
                }
                !spare
            });
            self.sweep_at.store((2 * states.len()).max(SWEEP_AT), Ordering::Relaxed);
        }
        idle
    }

    /// Forgets at the backend what is no longer in memory.
    async fn forget(&self, id: &StreamId, position: Position) {
        if id.kind == StreamKind::State
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

    /// Where a stream begins: as the backend has it, or a new life.
    fn start(&self, id: &StreamId, stored: Option<Stored>) -> Result<Start, BackendError> {
        let Some(stored) = stored else {
            let position = Position { epoch: self.next_epoch.fetch_add(1, Ordering::Relaxed), seq: 0 };
            return Ok(Start { position, ..Start::default() });
        };
        let document = match id.kind {
            StreamKind::State => restore(id, &stored)?,
            _ => Document::default(),
        };
        Ok(Start { position: stored.position, document, entries: stored.entries })
    }
}

/// The server's clock, for timestamps and the age of entries; Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The value that a stored state's snapshot and entries amount to.
fn restore(id: &StreamId, stored: &Stored) -> Result<Document, BackendError> {
    let corrupt = || BackendError::Corrupt(format!("state {:?}", id.key));
    let mut value = None;
    for bytes in stored.snapshot.iter().map(|(_, bytes)| bytes).chain(&stored.entries) {
        match Entry::decode(bytes).ok_or_else(corrupt)? {
            Entry::Value(text) => value = Some(serde_json::from_str(text.get()).map_err(|_| corrupt())?),
            Entry::Removed => value = None,
            Entry::Patch(ops) => {
                let limits = patch::PatchLimits::default();
                let ops = patch::Patch::parse(ops.get(), &limits).map_err(|_| corrupt())?;
                patch::apply(value.get_or_insert(Value::Null), &ops, &limits).map_err(|_| corrupt())?;
            }
            Entry::Event { .. } => return Err(corrupt()),
        }
    }
    Ok(Document { value, bound: usize::MAX })
}

/// Whether a stream can be dropped from its map, which is locked: a reference from elsewhere is somebody about to follow
/// it, or to publish.
fn is_spare(stream: &Arc<Stream>) -> bool {
    Arc::strong_count(stream) == 1 && stream.is_idle()
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

fn send_to_all(connections: &[Arc<Connection>], message: &Bytes, v2_only: bool) -> usize {
    let understands = |connection: &&Arc<Connection>| !v2_only || connection.protocol() == Protocol::V2;
    connections.iter().filter(understands).map(|connection| connection.mailbox().push(message.clone())).count()
}

fn remove_member<K: Borrow<str> + Eq + Hash>(map: &mut HashMap<K, Members>, key: &str, connection: &Connection) {
    if let Some(members) = map.get_mut(key) {
        members.remove(connection);
        if members.is_empty() {
            map.remove(key);
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
