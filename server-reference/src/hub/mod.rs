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
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind, patch};
use serde_json::{Value, value::to_raw_value};

pub(crate) use self::{
    entry::Entry,
    members::Members,
    stream::{Document, Stream},
};
use crate::{
    auth::Identity,
    backend::{Appended, Backend, BackendError, Stored},
    connection::{Connection, Protocol},
    limits::{Limits, Replay},
    mailbox::lock,
};

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
    topics: Streams,
    connections: RwLock<Members>,
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
            topics: RwLock::default(),
            connections: RwLock::default(),
            v1: RwLock::default(),
            users: Mutex::default(),
            rooms: Mutex::default(),
        }
    }

    pub(crate) fn may_read(&self, identity: &Identity, stream: &StreamId) -> bool {
        self.may_read.as_ref().is_none_or(|may_read| may_read(identity, stream))
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

    pub(crate) fn each_connection(&self, f: impl FnMut(&Arc<Connection>)) {
        read(&self.connections).iter().for_each(f);
    }

    /// Adds an authenticated connection. A version 1 client gets every state it may read.
    pub(crate) fn join(&self, connection: &Arc<Connection>, identity: &Identity) {
        write(&self.connections).insert(connection);
        lock(&self.users).entry(identity.user_id.clone()).or_default().insert(connection);
        if connection.protocol() == Protocol::V1 {
            // Registered first, so that a state born meanwhile finds it; joining twice is harmless.
            write(&self.v1).insert(connection);
            let states: Vec<Arc<Stream>> = read(&self.states).values().cloned().collect();
            for stream in states.iter().filter(|stream| self.may_read(identity, stream.id())) {
                stream.subscribe_v1(connection);
            }
        }
    }

    /// Removes a connection that has ended. Its subscriptions are the session's to end.
    pub(crate) fn leave(&self, connection: &Arc<Connection>) {
        write(&self.connections).remove(connection);
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

    /// Hands a message to everyone in a room; how many.
    pub(crate) fn send_to_room(&self, room: &str, message: &Bytes) -> usize {
        lock(&self.rooms).get(room).map_or(0, |members| send_to_all(members, message))
    }

    /// Hands a message to every connection of a user; how many.
    pub(crate) fn send_to_user(&self, user: &str, message: &Bytes) -> usize {
        lock(&self.users).get(user).map_or(0, |members| send_to_all(members, message))
    }

    // --- streams ---

    /// The state's stream, as the backend has it, or a new and empty one.
    pub(crate) async fn state(&self, key: &str) -> Result<Arc<Stream>, BackendError> {
        if let Some(stream) = read(&self.states).get(key) {
            return Ok(stream.clone());
        }
        let id = StreamId::state(key);
        let stored = self.backend.load(&id).await?;
        let (position, document) = match stored {
            Some(stored) => (stored.position, restore(&id, &stored)?),
            None => (self.birth(), Document::default()),
        };
        let stream = Stream::new(id, position, document, self.limits.replay, self.limits.compress_above);
        let stream = write(&self.states).entry(key.to_owned()).or_insert_with(|| Arc::new(stream)).clone();
        for connection in read(&self.v1).iter() {
            if connection.identity().is_some_and(|identity| self.may_read(&identity, stream.id())) {
                stream.subscribe_v1(connection);
            }
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
        let position = stored.as_ref().map_or_else(|| self.birth(), |stored| stored.position);
        let replay = replay.unwrap_or(Replay::NONE);
        let stream = Stream::new(id, position, Document::default(), replay, self.limits.compress_above);
        if let Some(stored) = stored {
            stream.refill(&stored);
        }
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

    /// Stores `entry` as the stream's next. `false` when others were faster; the stream has then been brought up to
    /// date. The caller holds the stream's writer lock.
    pub(crate) async fn append(&self, stream: &Arc<Stream>, entry: &Entry) -> Result<bool, BackendError> {
        match self.backend.append(stream.id(), stream.position(), entry.encode()).await? {
            Appended::At(_) => Ok(true),
            Appended::Conflict(_) => {
                let (position, document) = match self.backend.load(stream.id()).await? {
                    Some(stored) => (stored.position, restore(stream.id(), &stored)?),
                    None => (self.birth(), Document::default()),
                };
                stream.reset(position, document);
                Ok(false)
            }
        }
    }

    /// Lets the backend forget entries that a snapshot of the state covers.
    pub(crate) async fn compact(&self, stream: &Arc<Stream>, position: Position) -> Result<(), BackendError> {
        if !position.seq.is_multiple_of(self.limits.replay.entries.max(1) as u64) {
            return Ok(());
        }
        let snapshot = match stream.id().kind {
            StreamKind::State => {
                let value = stream.with_document(|document| document.value.as_ref().map(to_raw_value));
                value.map_or(Entry::Removed, |text| text.map_or(Entry::Removed, Entry::Value)).encode()
            }
            _ => Bytes::new(),
        };
        self.backend.snapshot(stream.id(), position, snapshot).await
    }

    /// Forgets a stream that nobody follows and that holds nothing. Others that hold it keep it alive.
    pub(crate) async fn release(&self, stream: Arc<Stream>) -> Result<(), BackendError> {
        if !stream.is_idle() {
            return Ok(());
        }
        let id = stream.id().clone();
        drop(stream);
        let position = {
            let (map, spare) = match id.kind {
                StreamKind::State => (&self.states, 0),
                _ => (&self.topics, self.limits.max_idle_topics),
            };
            let mut map = write(map);
            // A reference outside the map is somebody about to follow or to publish.
            match map.get(&id.key) {
                Some(held) if map.len() > spare && Arc::strong_count(held) == 1 && held.is_idle() => {
                    let position = held.position();
                    map.remove(&id.key);
                    position
                }
                _ => return Ok(()),
            }
        };
        if id.kind == StreamKind::State && position.seq > 0 {
            self.backend.remove(&id, position).await?;
        }
        Ok(())
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

    fn birth(&self) -> Position {
        Position { epoch: self.next_epoch.fetch_add(1, Ordering::Relaxed), seq: 0 }
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

fn send_to_all(members: &Members, message: &Bytes) -> usize {
    for connection in members.iter() {
        connection.mailbox().push(message.clone());
    }
    members.len()
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
