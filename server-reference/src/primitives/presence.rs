//! Presence: the members of a room and their values. Nothing is stored; a member leaves with its connection. What a
//! connection shares with other servers is its member, as followers see it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind, codes, frame::Opcode, wire::ClientPresence};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    answer::{Author, Refusal, Request},
    auth::Identity,
    backend::{BackendError, log::Stored},
    connection::{Connection, Protocol},
    entry::Entry,
    hub::{self, At, Bounds, Delivery, Hub, Inapplicable, Kind, Rules, Seat, Spec, Stream, Taken, V1},
    limits::{Limits, Replay},
    message::{OBJECT, Object, framed},
    sync::lock,
};

/// An entry: the members that changed, a JSON array.
const MEMBERS: u8 = b'm';

/// The line of presence rooms in the table of kinds. An empty room without followers is evicted at once.
pub(crate) fn kind(limits: &Limits) -> Spec {
    let max_payload = limits.max_payload;
    let make =
        move |key: &str| Box::new(Room { limit: room_for(key, max_payload), ..Room::default() }) as Box<dyn Kind>;
    Spec { kind: StreamKind::Presence, spare: 0, bounds: Bounds::default(), v1_follows: false, make: Box::new(make) }
}

/// The bytes that all members of a room may have, so that they fit in a frame. Every byte of the key may be escaped.
fn room_for(key: &str, max_payload: usize) -> usize {
    max_payload.saturating_sub(ENVELOPE + 6 * key.len())
}

/// Bytes that the frame of a whole room needs beside key and members.
const ENVELOPE: usize = 128;

/// A presence room, as the server sees it; from [`Server::presence`](crate::Server::presence). Only clients enter
/// rooms.
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

/// A member of a presence room: one connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Member {
    /// The connection's id.
    #[serde(rename = "id")]
    pub connection_id: String,
    /// The user's id.
    #[serde(rename = "userId")]
    pub user_id: String,
    /// The value that the client announced.
    #[serde(deserialize_with = "datasole_core::value::deserialize")]
    pub value: Value,
}

impl<'a> Presence<'a> {
    pub(crate) fn new(hub: &'a Hub, room: &'a str) -> Self {
        Self { hub, room }
    }

    /// The members of the room on all servers: first those of this one, the longest connected first. Others come and go
    /// here a moment later than there, those of a server that has died within 20 seconds, and are left out while the
    /// backend cannot tell of them.
    pub async fn list(self) -> Vec<Member> {
        let elsewhere = self.elsewhere().await;
        let read = |member: &[u8]| serde_json::from_slice(member).ok();
        let mut list: Vec<Member> = self.look(|room| {
            let members = room.members.iter().filter(|(seat, _)| elsewhere.is_none() || seat.serial_here().is_some());
            members.filter_map(|(_, member)| read(member.get().as_bytes())).collect()
        });
        list.extend(elsewhere.into_iter().flatten().filter_map(|(_, member)| read(&member)));
        list
    }

    /// The number of connections in the room, as [`list`](Self::list) shows them.
    pub async fn count(self) -> usize {
        match self.elsewhere().await {
            Some(elsewhere) => elsewhere.len() + self.look(|room| room.sharers().len()),
            None => self.look(|room| room.members.len()),
        }
    }

    /// The members of other servers, where nobody follows the room here; `None` where memory has them.
    async fn elsewhere(&self) -> Option<Vec<(Seat, Bytes)>> {
        let id = StreamId { kind: StreamKind::Presence, key: self.room.to_owned() };
        self.hub.shares_elsewhere(&id).await.unwrap_or_else(|error| {
            tracing::warn!(%error, room = self.room, "the members of other servers are not known");
            None
        })
    }

    fn look<R: Default>(&self, f: impl FnOnce(&mut Room) -> R) -> R {
        self.hub.known(StreamKind::Presence, self.room).map_or_else(R::default, |stream| stream.with(f))
    }
}

/// Members of a room, each as it is shown to followers.
#[derive(Debug, Default)]
struct Room {
    members: BTreeMap<Seat, Box<RawValue>>,
    /// Bytes of all members, with a comma each; and how many there may be.
    bytes: usize,
    limit: usize,
    /// The change that is about to be published: the member and its new value.
    pending: Option<(Entry, Seat, Option<Box<RawValue>>)>,
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

/// The reason why a plan makes no entry.
#[derive(Debug, PartialEq)]
enum NoEntry {
    /// The room would be the same as before.
    Unchanged,
    /// The room would no longer fit in a frame.
    Full,
}

impl Room {
    /// Plans to set the value of `member`.
    fn enter(&mut self, seat: Seat, member: &RawValue) -> Result<Entry, NoEntry> {
        let before = self.members.get(&seat);
        if before.is_some_and(|before| before.get() == member.get()) {
            return Err(NoEntry::Unchanged);
        }
        if self.bytes - before.map_or(0, |before| weight(before)) + weight(member) > self.limit {
            return Err(NoEntry::Full);
        }
        Ok(self.intend(seat, member, Some(member.to_owned())))
    }

    /// Plans to remove a member.
    fn leave(&mut self, seat: Seat, gone: &RawValue) -> Result<Entry, NoEntry> {
        if !self.members.contains_key(&seat) {
            return Err(NoEntry::Unchanged);
        }
        Ok(self.intend(seat, gone, None))
    }

    /// Plans to set a member of another server, or to remove it.
    fn take(&mut self, seat: Seat, share: Option<&[u8]>) -> Option<Entry> {
        if let Some(share) = share {
            let member: Box<RawValue> = serde_json::from_slice(share).ok()?;
            // A member that is shown must be one that can leave.
            serde_json::from_str::<Member>(member.get()).ok()?;
            return self.enter(seat, &member).ok();
        }
        let Member { connection_id, user_id, .. } = serde_json::from_str(self.members.get(&seat)?.get()).ok()?;
        let gone = to_raw_value(&Shown { id: &connection_id, user_id: &user_id, value: None }).ok()?;
        self.leave(seat, &gone).ok()
    }

    fn intend(&mut self, seat: Seat, shown: &RawValue, member: Option<Box<RawValue>>) -> Entry {
        let entry = Entry::of(MEMBERS, &[b"[", shown.get().as_bytes(), b"]"]);
        self.pending = Some((entry.clone(), seat, member));
        entry
    }
}

/// The bytes of a member within the list of all, with a comma.
fn weight(member: &RawValue) -> usize {
    member.get().len() + 1
}

impl Kind for Room {
    fn rules(&self) -> Rules {
        Rules {
            stored: false,
            relayed: false,
            replay: Replay::NONE,
            compaction: Replay::NONE,
            delivery: Delivery::Conflated,
            v1: V1::Nothing,
            evictable: false,
            numbered: false,
        }
    }

    fn restore(&mut self, _: &Stored) -> Result<(), BackendError> {
        Ok(())
    }

    fn apply(&mut self, entry: &Entry) -> Result<(), Inapplicable> {
        let (_, seat, member) = self.pending.take().filter(|(own, ..)| own == entry).ok_or(Inapplicable)?;
        let after = member.as_deref().map_or(0, weight);
        let before = match member {
            Some(member) => self.members.insert(seat, member),
            None => self.members.remove(&seat),
        };
        self.bytes = self.bytes + after - before.map_or(0, |before| weight(&before));
        Ok(())
    }

    fn retract(&mut self) {
        self.pending = None;
    }

    fn snapshot(&mut self) -> Option<Bytes> {
        Some(Bytes::new())
    }

    fn is_gone(&self) -> bool {
        self.members.is_empty()
    }

    fn reads(&self, entry: &Entry) -> bool {
        entry.tag() == MEMBERS
    }

    fn message(&self, entry: &Entry, at: &At<'_>) -> Bytes {
        message(entry.content(), false, at)
    }

    fn show(&mut self, _: Protocol, at: &At<'_>) -> Option<Bytes> {
        let members = serde_json::to_vec(&self.members.values().collect::<Vec<_>>()).ok()?;
        Some(message(&members, true, at))
    }

    fn share(&self, serial: u64) -> Option<Bytes> {
        self.members.get(&Seat::here(serial)).map(|member| Bytes::copy_from_slice(member.get().as_bytes()))
    }

    fn sharers(&self) -> Vec<u64> {
        self.members.keys().map_while(|seat| seat.serial_here()).collect()
    }

    fn take_share(&mut self, of: Seat, share: Option<&[u8]>, _: &At<'_>) -> Taken {
        self.take(of, share).map_or(Taken::Nothing, Taken::Entry)
    }

    fn weight(&self) -> usize {
        self.bytes
    }
}

/// The message with the changed members, or with all members.
fn message(members: &[u8], whole: bool, at: &At<'_>) -> Bytes {
    framed(Opcode::Presence, 0, OBJECT + at.key.len() + members.len(), at.compress_above, |out| {
        let mut object = Object::new(out).text("key", at.key).raw("members", members);
        if whole {
            object = object.raw("whole", b"true");
        }
        object.position(at.position).end();
    })
}

/// A connection as a member of a room; `None` if it is not authenticated, and so in no room.
fn shown(connection: &Connection, value: Option<&RawValue>) -> Option<Box<RawValue>> {
    let identity = connection.identity()?;
    to_raw_value(&Shown { id: &connection.id(), user_id: &identity.user_id, value }).ok()
}

/// A PRESENCE frame of a client.
pub(crate) struct Step {
    pub(crate) id: StreamId,
    /// `None` leaves.
    value: Option<Box<RawValue>>,
}

impl Step {
    /// Reads the payload of a frame.
    pub(crate) fn read(payload: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        let frame: ClientPresence<'_> =
            serde_json::from_slice(payload).map_err(|_| Refusal::new(codes::PARSE, "the payload is not a presence"))?;
        if frame.key.is_empty() || frame.key.len() > limits.max_key {
            return Err(Refusal::new(codes::INVALID_REQUEST, "the room's key is too long or empty"));
        }
        let id = StreamId { kind: StreamKind::Presence, key: frame.key.into_owned() };
        Ok(Self { id, value: frame.value.map(ToOwned::to_owned) })
    }

    /// True if the frame joins or updates, which policies can forbid. Leaving is always allowed.
    pub(crate) fn enters(&self) -> bool {
        self.value.is_some()
    }

    /// The same as a member of the room, or `None` to leave it.
    fn member(&self, connection: &Connection, limits: &Limits) -> Result<Option<Box<RawValue>>, Refusal> {
        let Some(value) = &self.value else { return Ok(None) };
        if value.get().len() > limits.max_presence {
            let (bytes, limit) = (value.get().len(), limits.max_presence);
            return Err(Refusal::new(codes::LIMIT, format!("a value of {bytes} bytes exceeds the limit of {limit}")));
        }
        let member = shown(connection, Some(value));
        // Checked at the depth that it has in a frame, so that every client can read it.
        match member.filter(|member| datasole_core::value::parse(&format!("[[{member}]]")).is_ok()) {
            Some(member) => Ok(Some(member)),
            None => Err(Refusal::new(codes::INVALID_PARAMS, "the value is nested too deeply, or not Unicode")),
        }
    }
}

/// The rooms that a connection is in.
#[derive(Debug, Default)]
pub(crate) struct Joined(Mutex<Vec<Arc<Stream>>>);

impl Joined {
    /// Serves a PRESENCE frame of the connection. `may_enter` is asked again where the identity has been renewed while the
    /// room was loaded.
    pub(crate) async fn serve(
        &self,
        hub: &Hub,
        request: &Request,
        step: Step,
        may_enter: impl Fn(&Identity, &StreamId) -> bool,
    ) {
        let served = match step.member(&request.connection, hub.limits()) {
            Ok(Some(member)) => self.enter(hub, request, &step.id, &member, may_enter).await,
            Ok(None) => {
                self.leave(hub, request, &step.id).await;
                Ok(())
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = served {
            request.refuse(&refusal);
        }
    }

    async fn enter(
        &self,
        hub: &Hub,
        request: &Request,
        id: &StreamId,
        member: &RawValue,
        may_enter: impl Fn(&Identity, &StreamId) -> bool,
    ) -> Result<(), Refusal> {
        let stream = hub.open(id.kind, &id.key).await.map_err(|error| Refusal::failed(&error))?;
        let entered = self.enter_room(hub, request, &stream, member, may_enter);
        hub.release(stream).await;
        entered
    }

    fn enter_room(
        &self,
        hub: &Hub,
        request: &Request,
        stream: &Arc<Stream>,
        member: &RawValue,
        may_enter: impl Fn(&Identity, &StreamId) -> bool,
    ) -> Result<(), Refusal> {
        // A connection that ends, or whose identity is renewed, leaves the rooms listed here: under the lock, it has done so
        // or will find this one.
        let mut rooms = lock(&self.0);
        let renewed = request.connection.identity().filter(|identity| !Arc::ptr_eq(identity, &request.identity));
        if renewed.is_some_and(|identity| !may_enter(&identity, stream.id())) {
            return Err(Refusal::new(codes::FORBIDDEN, "not allowed to change this presence room any more"));
        }
        let is_in = rooms.iter().any(|room| Arc::ptr_eq(room, stream));
        let limits = hub.limits();
        if request.connection.has_ended() {
            // Nobody waits for an answer.
            return Ok(());
        }
        if !is_in && rooms.len() >= limits.max_rooms {
            return Err(Refusal::new(codes::LIMIT, "too many rooms"));
        }
        let serial = request.connection.serial();
        let author = request.author();
        match publish(hub, stream, serial, author.as_ref(), |room, seat| room.enter(seat, member)) {
            Ok(()) if !is_in => rooms.push(stream.clone()),
            Ok(()) => {}
            Err(NoEntry::Unchanged) => request.acknowledge(0),
            Err(NoEntry::Full) => return Err(Refusal::busy("the room is full")),
        }
        Ok(())
    }

    async fn leave(&self, hub: &Hub, request: &Request, id: &StreamId) {
        let connection = &request.connection;
        let left = {
            let mut rooms = lock(&self.0);
            let at = rooms.iter().position(|room| *room.id() == *id);
            at.map(|at| rooms.swap_remove(at))
        };
        let gone = shown(connection, None);
        let (Some(stream), Some(gone)) = (left, gone) else { return request.acknowledge(0) };
        let (serial, author) = (connection.serial(), request.author());
        let left = publish(hub, &stream, serial, author.as_ref(), |room, seat| room.leave(seat, &gone));
        if left.is_err() {
            request.acknowledge(0);
        }
        hub.release(stream).await;
    }

    /// The connection leaves the rooms that it may not enter any more; those rooms, to be released.
    pub(crate) fn review(
        &self,
        hub: &Hub,
        connection: &Connection,
        may_write: impl Fn(&StreamId) -> bool,
    ) -> Vec<Arc<Stream>> {
        let rooms = lock(&self.0).clone();
        // The policies are the application's: they are asked without a lock.
        let refused: Vec<Arc<Stream>> = rooms.into_iter().filter(|room| !may_write(room.id())).collect();
        let Some(gone) = shown(connection, None).filter(|_| !refused.is_empty()) else { return refused };
        lock(&self.0).retain(|room| !refused.iter().any(|refused| Arc::ptr_eq(refused, room)));
        for stream in &refused {
            // The connection may have left it meanwhile.
            let _ = publish(hub, stream, connection.serial(), None, |room, seat| room.leave(seat, &gone));
        }
        refused
    }

    /// The connection has ended: it leaves every room; those rooms, to be released.
    pub(crate) fn end(&self, hub: &Hub, connection: &Connection) -> Vec<Arc<Stream>> {
        let rooms = std::mem::take(&mut *lock(&self.0));
        if rooms.is_empty() {
            return rooms;
        }
        if let Some(gone) = shown(connection, None) {
            for stream in &rooms {
                // The connection is in every room listed.
                let _ = publish(hub, stream, connection.serial(), None, |room, seat| room.leave(seat, &gone));
            }
        }
        rooms
    }
}

/// Publishes a change that a connection makes of the room, here and to other servers, and acknowledges it.
fn publish(
    hub: &Hub,
    stream: &Arc<Stream>,
    serial: u64,
    author: Option<&Author>,
    change: impl FnOnce(&mut Room, Seat) -> Result<Entry, NoEntry>,
) -> Result<(), NoEntry> {
    let change = |room: &mut Room| change(room, Seat::here(serial));
    hub.publish(stream, author, |content| hub::of(content).map_or(Err(NoEntry::Unchanged), change))?;
    hub.share(stream, [serial]);
    Ok(())
}
