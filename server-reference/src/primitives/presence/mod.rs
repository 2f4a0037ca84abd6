//! Presence: the members of a room and their values. Nothing is stored; a member leaves with its connection. What a
//! connection shares with other servers is its member, as followers see it.

mod room;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind, codes, wire::ClientPresence};
use serde::Deserialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

pub(crate) use self::room::kind;
use self::room::{NoEntry, Room, Shown};
use crate::{
    answer::{Author, Refusal, Request},
    auth::Identity,
    connection::Connection,
    hub::{self, Hub, Seat, Stream},
    limits::Limits,
    sync::lock,
};

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
            let members = room.members().filter(|(seat, _)| elsewhere.is_none() || seat.serial_here().is_some());
            members.filter_map(|(_, member)| read(member.get().as_bytes())).collect()
        });
        list.extend(elsewhere.into_iter().flatten().filter_map(|(_, member)| read(&member)));
        list
    }

    /// The number of connections in the room, as [`list`](Self::list) shows them.
    pub async fn count(self) -> usize {
        match self.elsewhere().await {
            Some(elsewhere) => {
                elsewhere.len() + self.look(|room| room.members().map_while(|(seat, _)| seat.serial_here()).count())
            }
            None => self.look(|room| room.members().count()),
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

/// A connection as a member of a room; `None` if it is not authenticated, and so in no room.
fn shown(connection: &Connection, value: &RawValue) -> Option<Box<RawValue>> {
    let identity = connection.identity()?;
    let (id, user_id) = (connection.id(), identity.user_id.as_str());
    to_raw_value(&Shown { id: id.as_str().into(), user_id: user_id.into(), value: Some(value) }).ok()
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
        let member = shown(connection, value);
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
        match change(hub, stream, serial, author.as_ref(), |room, seat| room.enter(seat, member)) {
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
        let Some(stream) = left else { return request.acknowledge(0) };
        let (serial, author) = (connection.serial(), request.author());
        if change(hub, &stream, serial, author.as_ref(), Room::leave).is_err() {
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
        lock(&self.0).retain(|room| !refused.iter().any(|refused| Arc::ptr_eq(refused, room)));
        for stream in &refused {
            // The connection may have left it meanwhile.
            let _ = change(hub, stream, connection.serial(), None, Room::leave);
        }
        refused
    }

    /// The connection has ended: it leaves every room; those rooms, to be released.
    pub(crate) fn end(&self, hub: &Hub, connection: &Connection) -> Vec<Arc<Stream>> {
        let rooms = std::mem::take(&mut *lock(&self.0));
        for stream in &rooms {
            // The connection is in every room listed.
            let _ = change(hub, stream, connection.serial(), None, Room::leave);
        }
        rooms
    }
}

/// Makes a change of the room for a connection: acknowledges it, and tells it here and to other servers.
fn change(
    hub: &Hub,
    stream: &Arc<Stream>,
    serial: u64,
    author: Option<&Author>,
    change: impl FnOnce(&mut Room, Seat) -> Result<(), NoEntry>,
) -> Result<(), NoEntry> {
    let change = |room: &mut Room| change(room, Seat::here(serial));
    stream.change(author, |content| hub::of(content).map_or(Err(NoEntry::Unchanged), change))?;
    hub.share(stream, [serial]);
    Ok(())
}
