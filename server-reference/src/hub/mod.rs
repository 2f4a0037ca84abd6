//! Streams and fan-out: who follows what, who is where, and how an entry reaches everyone.
//!
//! It knows neither sockets nor frames of requests. Locks are taken in the order map → stream → mailbox and never held
//! across an `await`.

mod content;
pub(crate) mod entry;
mod members;
mod stream;
mod streams;

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, AtomicU64},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};

use self::streams::Streams;
pub(crate) use self::{
    content::{Content, StateValue},
    entry::Entry,
    members::Members,
    stream::{Author, Stream, Writer},
};
use crate::{
    auth::Identity,
    backend::Backend,
    connection::{Connection, Protocol},
    limits::{Limits, Replay},
    mailbox::lock,
};

/// May this user follow this stream, or change it?
pub(crate) type Policy = Box<dyn Fn(&Identity, &StreamId) -> bool + Send + Sync>;

pub(crate) struct Hub {
    backend: Arc<dyn Backend>,
    limits: Limits,
    histories: HashMap<String, Replay>,
    may_read: Option<Policy>,
    may_write: Option<Policy>,
    /// Streams born in this process get epochs from here.
    next_epoch: AtomicU64,
    /// Documents in memory are named from here.
    next_channel: AtomicU32,
    /// How many documents exist; counted when first asked for.
    #[cfg(feature = "docs")]
    docs: tokio::sync::OnceCell<Arc<std::sync::atomic::AtomicUsize>>,
    /// By [`StreamKind`].
    streams: [Streams; 5],
    connections: RwLock<Members>,
    /// Those that have yet to authenticate.
    strangers: Mutex<Members>,
    v1: RwLock<Members>,
    users: Mutex<HashMap<String, Members>>,
    rooms: Mutex<HashMap<Arc<str>, Members>>,
}

impl Hub {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        limits: Limits,
        histories: HashMap<String, Replay>,
        may_read: Option<Policy>,
        may_write: Option<Policy>,
        epoch: u64,
    ) -> Self {
        // In the order of the kinds: states and rooms nobody needs are nothing, the others hold something.
        let spare = [0, limits.max_idle_topics, limits.max_idle_crdts, limits.max_idle_docs, 0];
        Self {
            backend,
            limits,
            histories,
            may_read,
            may_write,
            next_epoch: AtomicU64::new(epoch),
            next_channel: AtomicU32::new(1),
            #[cfg(feature = "docs")]
            docs: tokio::sync::OnceCell::new(),
            streams: spare.map(Streams::new),
            connections: RwLock::default(),
            strangers: Mutex::default(),
            v1: RwLock::default(),
            users: Mutex::default(),
            rooms: Mutex::default(),
        }
    }

    /// May this user follow this stream?
    pub(crate) fn may_read(&self, identity: &Identity, stream: &StreamId) -> bool {
        allows(self.may_read.as_ref(), identity, stream)
    }

    /// May this user change this stream?
    pub(crate) fn may_write(&self, identity: &Identity, stream: &StreamId) -> bool {
        allows(self.may_write.as_ref(), identity, stream)
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

    /// Adds an authenticated connection, unless it has ended. A version 1 client gets every state and CRDT in memory that
    /// it may read; what is only stored, [`recall`](Self::recall) has to fetch.
    pub(crate) fn join(&self, connection: &Arc<Connection>, identity: &Identity) {
        write(&self.connections).insert(connection);
        lock(&self.strangers).remove(connection);
        lock(&self.users).entry(identity.user_id.clone()).or_default().insert(connection);
        if connection.protocol() == Protocol::V1 {
            // Registered first, so that a state born meanwhile finds it; joining twice is harmless.
            write(&self.v1).insert(connection);
            for kind in V1_FOLLOWS {
                let mut streams = self.streams(kind).in_memory();
                streams.sort_unstable_by(|a, b| a.id().cmp(b.id()));
                for stream in streams.iter().filter(|stream| self.may_read(identity, stream.id())) {
                    stream.subscribe_v1(connection);
                }
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
            for kind in V1_FOLLOWS {
                self.streams(kind).in_memory().iter().for_each(|stream| stream.unsubscribe(connection));
                self.streams(kind).trim();
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
}

/// The server's clock, for timestamps and the age of entries; Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The kinds of streams that version 1 clients follow each by itself, without asking.
const V1_FOLLOWS: [StreamKind; 2] = [StreamKind::State, StreamKind::Crdt];

/// What a policy says; one that panics refuses.
fn allows(policy: Option<&Policy>, identity: &Identity, stream: &StreamId) -> bool {
    let Some(policy) = policy else { return true };
    catch_unwind(AssertUnwindSafe(|| policy(identity, stream))).unwrap_or_else(|_| {
        tracing::error!(key = stream.key, "a policy panicked");
        false
    })
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
