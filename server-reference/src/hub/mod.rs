//! Streams and fan-out: who follows what, who is where, and how an entry reaches everyone.
//!
//! The hub knows neither sockets nor frames of requests, nor what any entry means: that is the [`Kind`] of a stream. Locks
//! are taken in the order map → stream → mailbox and never held across an `await`, but for a stream's writer.

mod follow;
mod following;
mod forms;
mod groups;
mod held;
mod kind;
mod lease;
mod letter;
mod lives;
mod members;
mod ready;
mod recall;
mod relay;
mod relaying;
mod roster;
mod rosters;
mod seat;
mod share;
mod sharing;
mod shown;
mod standing;
mod stream;
mod streams;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
mod transact;
mod turns;
mod window;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock, Weak, atomic::AtomicU32},
};

use datasole_core::{StreamId, StreamKind};

#[cfg(feature = "docs")]
pub(crate) use self::kind::{Lent, Room};
pub(crate) use self::lives::Lives;
use self::{
    following::Following, lives::Tags, members::Members, relaying::Relaying, sharing::Sharing, standing::Standing,
    streams::Streams, turns::Turns,
};
pub(crate) use self::{
    groups::Audience,
    kind::{
        At, Bounds, Compaction, Delivery, Displaced, Form, Inapplicable, Job, Kind, Read, Rules, Showing, Spec, Taken,
        V1, of,
    },
    seat::Seat,
    stream::{Stream, Writer},
    transact::{Plan, Tried},
};
use crate::{
    access::Access,
    account::MEMORY,
    backend::{Backend, kv::Quota},
    connection::Connection,
    desk::Desk,
    limits::Limits,
};

pub(crate) struct Hub {
    /// For the tasks that outlive a call, but not the hub.
    me: Weak<Self>,
    backend: Backend,
    limits: Arc<Limits>,
    access: Arc<Access>,
    desk: Desk,
    /// Streams born in this process get epochs from here.
    lives: Lives,
    /// The names of appends.
    tags: Tags,
    following: Following,
    relaying: Relaying,
    sharing: Sharing,
    standing: Standing,
    turns: Turns,
    /// Streams that are named by a number get it from here.
    next_channel: AtomicU32,
    next_number: AtomicU32,
    /// One for each line in the table of kinds.
    streams: Vec<Streams>,
    connections: RwLock<Members>,
    /// Connections that have yet to authenticate.
    strangers: Mutex<Members>,
    /// Those whose token is being judged.
    asking: Mutex<Members>,
    v1: RwLock<Members>,
    users: Mutex<HashMap<String, Members>>,
    groups: Mutex<HashMap<Arc<str>, Members>>,
}

impl Hub {
    pub(crate) fn new(
        backend: Backend,
        limits: Arc<Limits>,
        access: Arc<Access>,
        kinds: Vec<Spec>,
        lives: Lives,
    ) -> Arc<Self> {
        let node = backend.bus.node();
        let (tags, relaying) = (Tags::new(node), Relaying::new(node));
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            backend,
            limits,
            access,
            desk: Desk::default(),
            lives,
            tags,
            following: Following::default(),
            relaying,
            sharing: Sharing::default(),
            standing: Standing::default(),
            turns: Turns::default(),
            next_channel: AtomicU32::new(1),
            next_number: AtomicU32::new(0),
            streams: kinds.into_iter().map(Streams::new).collect(),
            connections: RwLock::default(),
            strangers: Mutex::default(),
            asking: Mutex::default(),
            v1: RwLock::default(),
            users: Mutex::default(),
            groups: Mutex::default(),
        })
    }

    /// Where work of milliseconds is done.
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Whether a client may create another stream, by the quota of its owner that all nodes share: `limit` in a day. Without
    /// an answer, the limits of this node hold. Granted once, it costs no more until it has come into being and
    /// [`Standing::spend`](crate::account::Standing::spend) was told.
    pub(crate) async fn may_create(&self, id: &StreamId, client: &Connection, limit: usize) -> bool {
        let Some(owner) = client.owner() else { return true };
        if client.standing().is_granted(id) {
            return true;
        }
        let name = if id.kind == StreamKind::Doc { "docs" } else { id.kind.name() };
        let quota = Quota { limit: limit as u64, window: MEMORY, cost: 1 };
        match self.backend.kv.take(&format!("{name} {owner}"), quota).await {
            Ok(taken) => {
                if taken.granted {
                    client.standing().grant(id, limit);
                }
                taken.granted
            }
            Err(error) => {
                tracing::warn!(%error, "what a user has created on other servers is not known");
                true
            }
        }
    }

    /// The server's bounds.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }
}
