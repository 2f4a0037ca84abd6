//! Presence: who is in a room, and with what value. Nothing is stored; a member leaves with its connection.

use std::{collections::BTreeMap, sync::Arc};

use datasole_core::{StreamId, StreamKind, codes, wire::ClientPresence};
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    connection::Connection,
    hub::{Content, Entry, Hub, Stream, unix_millis},
    mailbox::lock,
    metrics::Metrics,
    session::{RETRY_AFTER, Request, Task, at_once},
};

/// What the frame of a whole room needs beside key and members; bytes.
const ENVELOPE: usize = 128;

/// A presence room, as the server sees it; from [`Server::presence`](crate::Server::presence). Who enters is up to the
/// clients.
#[derive(Clone, Copy)]
pub struct Presence<'a> {
    hub: &'a Hub,
    room: &'a str,
}

impl std::fmt::Debug for Presence<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("room", &self.room).finish_non_exhaustive()
    }
}

/// Somebody in a presence room: one connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The connection's id.
    #[serde(rename = "id")]
    pub connection_id: String,
    /// Its user's.
    #[serde(rename = "userId")]
    pub user_id: String,
    /// What the client shows of itself.
    pub value: Value,
}

impl<'a> Presence<'a> {
    pub(crate) fn new(hub: &'a Hub, room: &'a str) -> Self {
        Self { hub, room }
    }

    /// Everybody in the room, those longest connected first.
    pub fn list(&self) -> Vec<Member> {
        self.look(|room| room.members.values().filter_map(|member| serde_json::from_str(member.get()).ok()).collect())
    }

    /// How many connections are in the room.
    pub fn count(&self) -> usize {
        self.look(|room| room.members.len())
    }

    fn look<R: Default>(&self, f: impl FnOnce(&Room) -> R) -> R {
        let stream = self.hub.known(StreamKind::Presence, self.room);
        stream.map_or_else(R::default, |stream| {
            stream.with_content(|content| if let Content::Room(room) = content { f(room) } else { R::default() })
        })
    }
}

/// Those in a room, by the serial number of their connection, each as it is shown to followers.
#[derive(Debug, Default)]
pub(crate) struct Room {
    members: BTreeMap<u64, Box<RawValue>>,
    /// Of all of them, with a comma each.
    bytes: usize,
}

/// A member in a frame: without a value, it is gone.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(rename = "userId")]
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

/// Why there is no entry.
#[derive(Debug, PartialEq)]
enum NoEntry {
    /// It would be the same as before.
    Unchanged,
    /// The room would no longer fit in a frame.
    Full,
}

impl Room {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Everybody, as `members` of PRESENCE.
    pub(crate) fn whole(&self) -> Option<Box<RawValue>> {
        to_raw_value(&self.members.values().collect::<Vec<_>>()).ok()
    }

    /// Shows `member` as this from now on.
    fn enter(&mut self, serial: u64, member: Box<RawValue>, limit: usize) -> Result<Entry, NoEntry> {
        let before = self.members.get(&serial);
        if before.is_some_and(|before| before.get() == member.get()) {
            return Err(NoEntry::Unchanged);
        }
        let bytes = self.bytes - before.map_or(0, |before| before.get().len() + 1) + member.get().len() + 1;
        if bytes > limit {
            return Err(NoEntry::Full);
        }
        let entry = changed(&member)?;
        self.bytes = bytes;
        self.members.insert(serial, member);
        Ok(entry)
    }

    fn leave(&mut self, serial: u64, gone: &RawValue) -> Result<Entry, NoEntry> {
        let member = self.members.remove(&serial).ok_or(NoEntry::Unchanged)?;
        self.bytes -= member.get().len() + 1;
        changed(gone)
    }
}

fn changed(member: &RawValue) -> Result<Entry, NoEntry> {
    // JSON text can always be written.
    to_raw_value(&[member]).map(Entry::Members).map_err(|_| NoEntry::Unchanged)
}

/// A connection as a member of a room; `None` for one that is nobody yet, which is in none.
fn shown(connection: &Connection, value: Option<&RawValue>) -> Option<Box<RawValue>> {
    let identity = connection.identity()?;
    to_raw_value(&Shown { id: &connection.id(), user_id: &identity.user_id, value }).ok()
}

/// Serves a PRESENCE frame.
pub(crate) fn receive(request: Request, payload: &[u8]) -> Option<Task> {
    let Ok(frame) = serde_json::from_slice::<ClientPresence<'_>>(payload) else {
        Metrics::add(&request.server.metrics().malformed, 1);
        request.refuse(codes::PARSE, "the payload is not a presence", None);
        return None;
    };
    let limits = request.server.limits();
    if frame.key.is_empty() || frame.key.len() > limits.max_key {
        request.refuse(codes::INVALID_REQUEST, "the room's key is too long or empty", None);
        return None;
    }
    let id = StreamId { kind: StreamKind::Presence, key: frame.key.into_owned() };
    let Some(value) = frame.value else {
        return at_once(async move { leave_room(&request, &id).await }.boxed());
    };
    if !request.server.hub().may_write(&request.identity, &id) {
        request.refuse(codes::FORBIDDEN, "not allowed to enter this room", None);
        return None;
    }
    if value.get().len() > limits.max_presence {
        let (bytes, limit) = (value.get().len(), limits.max_presence);
        request.refuse(codes::LIMIT, &format!("a value of {bytes} bytes exceeds the limit of {limit}"), None);
        return None;
    }
    let member = shown(&request.connection, Some(value))?;
    // As deep as it will be in a frame: what no client can read is passed on to none.
    if serde_json::from_str::<Value>(&format!("[[{member}]]")).is_err() {
        request.refuse(codes::INVALID_PARAMS, "the value is nested too deeply, or not Unicode", None);
        return None;
    }
    at_once(async move { enter_room(&request, &id, member).await }.boxed())
}

async fn enter_room(request: &Request, id: &StreamId, member: Box<RawValue>) {
    let hub = request.server.hub();
    let stream = match hub.open(id.kind, &id.key).await {
        Ok(stream) => stream,
        Err(error) => return request.fail(&error),
    };
    {
        // A connection that ends leaves the rooms listed here: under the lock, it has ended or will find this one.
        let mut rooms = lock(&request.connection.presence);
        let is_in = rooms.iter().any(|room| Arc::ptr_eq(room, &stream));
        let limits = request.server.limits();
        if request.connection.has_ended() {
            // Nobody waits for an answer.
        } else if !is_in && rooms.len() >= limits.max_rooms {
            request.refuse(codes::LIMIT, "in too many rooms", None);
        } else {
            // Every byte of the key may be escaped.
            let limit = limits.max_payload.saturating_sub(ENVELOPE + 6 * id.key.len());
            let serial = request.connection.serial();
            match publish(request, &stream, |room| room.enter(serial, member, limit)) {
                Ok(()) if !is_in => rooms.push(stream.clone()),
                Ok(()) => {}
                Err(NoEntry::Unchanged) => request.acknowledge(0),
                Err(NoEntry::Full) => request.refuse(codes::LIMIT, "the room is full", Some(RETRY_AFTER)),
            }
        }
    }
    hub.release(stream).await;
}

async fn leave_room(request: &Request, id: &StreamId) {
    let connection = &request.connection;
    let left = {
        let mut rooms = lock(&connection.presence);
        let at = rooms.iter().position(|room| *room.id() == *id);
        at.map(|at| rooms.swap_remove(at))
    };
    let gone = shown(connection, None);
    let (Some(stream), Some(gone)) = (left, gone) else { return request.acknowledge(0) };
    if publish(request, &stream, |room| room.leave(connection.serial(), &gone)).is_err() {
        request.acknowledge(0);
    }
    request.server.hub().release(stream).await;
}

/// Publishes what `change` makes of the room, and acknowledges it.
fn publish(
    request: &Request,
    stream: &Arc<Stream>,
    change: impl FnOnce(&mut Room) -> Result<Entry, NoEntry>,
) -> Result<(), NoEntry> {
    let author = request.author();
    stream.publish_planned(unix_millis(), author.as_ref(), |content| in_room(content, change)).map(drop)
}

fn in_room(content: &mut Content, change: impl FnOnce(&mut Room) -> Result<Entry, NoEntry>) -> Result<Entry, NoEntry> {
    if let Content::Room(room) = content { change(room) } else { Err(NoEntry::Unchanged) }
}

/// The connection has ended: it leaves every room; those rooms, to be released.
pub(crate) fn leave(connection: &Connection) -> Vec<Arc<Stream>> {
    let rooms = std::mem::take(&mut *lock(&connection.presence));
    if rooms.is_empty() {
        return rooms;
    }
    if let Some(gone) = shown(connection, None) {
        for stream in &rooms {
            let leave = |content: &mut Content| in_room(content, |room| room.leave(connection.serial(), &gone));
            // It is in every room listed.
            let _ = stream.publish_planned(unix_millis(), None, leave);
        }
    }
    rooms
}
