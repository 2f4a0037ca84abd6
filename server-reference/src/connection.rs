//! [`Connection`]: the server's side of one client: identity, mailbox, groups, handlers under way, the application's
//! own data.
//!
//! No socket, no subscriptions and no streams: those belong to the transport and the session.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize},
    time::SystemTime,
};

use datasole_core::StreamKind;
use futures_util::future::AbortHandle;
use http::Extensions;
use tokio::time::Instant;

use crate::{auth::Identity, mailbox::Mailbox, sync::lock};

/// The protocol version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Version 1: the original protocol, without resume.
    V1,
    /// Version 2: subscriptions, positions and resume.
    V2,
}

#[derive(Debug)]
pub(crate) struct Connection {
    serial: u64,
    /// The name of its node.
    node: u64,
    protocol: Protocol,
    mailbox: Mailbox,
    compress_above: usize,
    identity: Mutex<Option<Admitted>>,
    remote: Option<SocketAddr>,
    since: SystemTime,
    /// Values and tags of the application; made when first used.
    own: OnceLock<Box<Own>>,
    /// The groups of the connection.
    pub(crate) groups: Mutex<Vec<Arc<str>>>,
    calls: Mutex<Calls>,
    /// The number of streams of each kind that the client's frames created; made when first used.
    created: OnceLock<Box<[Arc<AtomicUsize>; StreamKind::ALL.len()]>>,
    /// Held while a stream is opened and its writer lock awaited, so that the client's operations stay in order.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// Values and tags that the application keeps beside a connection.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Values of its own, one of each type.
    pub(crate) values: Mutex<Extensions>,
    pub(crate) tags: Mutex<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Admitted {
    identity: Arc<Identity>,
    expires: Option<Instant>,
}

/// Handlers under way: calls by their correlation id, others by count.
#[derive(Debug, Default)]
struct Calls {
    running: HashMap<u32, AbortHandle>,
    others: usize,
    ended: bool,
    /// True after `on_connect` and before `on_disconnect`.
    welcomed: bool,
}

impl Calls {
    fn have_room(&self, limit: usize) -> bool {
        !self.ended && self.running.len() + self.others < limit
    }
}

/// A handler under way that is no call; over when dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        lock(&self.0.calls).others -= 1;
    }
}

impl Connection {
    pub(crate) fn new(serial: u64, node: u64, protocol: Protocol, max_queue: usize, compress_above: usize) -> Self {
        Self {
            serial,
            node,
            protocol,
            mailbox: Mailbox::new(max_queue, protocol),
            compress_above,
            identity: Mutex::default(),
            remote: None,
            since: SystemTime::now(),
            own: OnceLock::new(),
            groups: Mutex::default(),
            calls: Mutex::default(),
            created: OnceLock::new(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The same with the client's address.
    pub(crate) fn from(mut self, remote: Option<SocketAddr>) -> Self {
        self.remote = remote;
        self
    }

    /// The client's address, as in [`AuthRequest`](crate::AuthRequest).
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The time at which the connection was opened.
    pub(crate) fn since(&self) -> SystemTime {
        self.since
    }

    /// Frames longer than this are compressed; bytes.
    pub(crate) fn compress_above(&self) -> usize {
        self.compress_above
    }

    /// The number of streams of a kind that the client's frames created.
    pub(crate) fn created(&self, kind: StreamKind) -> &Arc<AtomicUsize> {
        &self.created.get_or_init(Box::default)[kind as usize]
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// The id: unique among nodes and their incarnations, and naming the node.
    pub(crate) fn id(&self) -> String {
        format!("{:x}-{:x}", self.node, self.serial)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// `None` until authenticated.
    pub(crate) fn identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).as_ref().map(|admitted| admitted.identity.clone())
    }

    pub(crate) fn admit(&self, mut identity: Identity) -> Arc<Identity> {
        if identity.user_id.is_empty() {
            identity.user_id = format!("anonymous-{}", self.id());
        }
        let expires = identity.expires_in.and_then(|time| Instant::now().checked_add(time));
        let identity = Arc::new(identity);
        *lock(&self.identity) = Some(Admitted { identity: identity.clone(), expires });
        identity
    }

    /// The end of the identity; `None` if it does not expire.
    pub(crate) fn expires(&self) -> Option<Instant> {
        lock(&self.identity).as_ref()?.expires
    }

    /// Values and tags of the application.
    pub(crate) fn own(&self) -> &Own {
        self.own.get_or_init(Box::default)
    }

    /// True if a call may begin: its id is free, and fewer than `limit` handlers are under way.
    pub(crate) fn takes_call(&self, correlation: u32, limit: usize) -> bool {
        let calls = lock(&self.calls);
        calls.have_room(limit) && !calls.running.contains_key(&correlation)
    }

    /// Registers a call whose handler has not finished.
    pub(crate) fn begin_call(&self, correlation: u32, abort: AbortHandle) {
        lock(&self.calls).running.insert(correlation, abort);
    }

    /// Removes a call that has ended; `false` if it was cancelled meanwhile.
    pub(crate) fn ends_call(&self, correlation: u32) -> bool {
        lock(&self.calls).running.remove(&correlation).is_some()
    }

    pub(crate) fn cancel_call(&self, correlation: u32) {
        if let Some(abort) = lock(&self.calls).running.remove(&correlation) {
            abort.abort();
        }
    }

    /// Registers a handler that is no call, if there is room.
    pub(crate) fn begin(self: &Arc<Self>, limit: usize) -> Option<Busy> {
        let mut calls = lock(&self.calls);
        calls.have_room(limit).then(|| {
            calls.others += 1;
            Busy(self.clone())
        })
    }

    /// Drops the handlers of calls, whose answers are not awaited any more, and all queued messages. Event handlers go
    /// on.
    pub(crate) fn end(&self) {
        self.mailbox.end();
        let mut calls = lock(&self.calls);
        calls.ended = true;
        for (_, abort) in calls.running.drain() {
            abort.abort();
        }
    }

    /// Marks the connection as announced to the application; `false` if it has ended.
    pub(crate) fn welcome(&self) -> bool {
        let mut calls = lock(&self.calls);
        calls.welcomed = !calls.ended;
        calls.welcomed
    }

    /// Marks the end as announced to the application; `false` if the connection was never announced.
    pub(crate) fn parts(&self) -> bool {
        std::mem::take(&mut lock(&self.calls).welcomed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.calls).ended
    }
}
