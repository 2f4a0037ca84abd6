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

use crate::{
    account::{Accounts, Standing},
    auth::Identity,
    budget::{Budget, Held},
    mailbox::Mailbox,
    sync::lock,
};

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
    /// Made when first used: an idle connection has none.
    own: OnceLock<Box<Own>>,
    calls: Mutex<Calls>,
    budget: Arc<Budget>,
    /// The account of its owner: created and cost; its own until it is known who that is.
    standing: OnceLock<Arc<Standing>>,
}

/// The parts of a connection that most do without.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Values of the application, one of each type.
    pub(crate) values: Mutex<Extensions>,
    /// Tags of the application.
    pub(crate) tags: Mutex<BTreeMap<String, String>>,
    /// The groups of the connection.
    pub(crate) groups: Mutex<Vec<Arc<str>>>,
    /// The number of streams of each kind that the client's frames created.
    created: [OnceLock<Arc<AtomicUsize>>; StreamKind::ALL.len()],
    /// Held while a stream is opened and its writer lock awaited, so that the client's operations stay in order.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Admitted {
    identity: Arc<Identity>,
    expires: Option<Instant>,
    /// The number of the AUTH that brought it; 0 for the upgrade request.
    order: u64,
}

/// The outcome of an identity that the authentication hook has answered with.
#[derive(Debug)]
pub(crate) enum Reception {
    /// The connection had none before.
    First(Arc<Identity>),
    /// The same user's, in place of the one before.
    Renewed(Arc<Identity>),
    /// Of an AUTH that a later one has overtaken: this one holds.
    Overtaken(Arc<Identity>),
    /// Another user's.
    Other,
}

/// Handlers under way: calls by their correlation id, others by count.
#[derive(Debug, Default)]
struct Calls {
    running: HashMap<u32, Running>,
    /// Handlers under way, calls included.
    count: usize,
    held: Held,
    ended: bool,
    /// True after `on_connect` and before `on_disconnect`.
    welcomed: bool,
}

/// A call under way.
#[derive(Debug)]
struct Running {
    abort: AbortHandle,
    /// Whether its handler is dropped when the connection ends.
    ends_with_caller: bool,
}

/// A handler or a frame under way, and the bytes that it holds; over when dropped.
#[derive(Debug)]
pub(crate) struct Busy {
    connection: Arc<Connection>,
    bytes: usize,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut calls = lock(&self.connection.calls);
        let was_full = !calls.held.room(&self.connection.budget, 1);
        calls.count -= 1;
        calls.held.release(&self.connection.budget, self.bytes);
        drop(calls);
        // The peer may have stopped reading.
        if was_full {
            self.connection.mailbox.nudge();
        }
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
            calls: Mutex::default(),
            budget: Arc::default(),
            standing: OnceLock::new(),
        }
    }

    /// The same with the client's address, and the budget of all connections.
    pub(crate) fn from(mut self, remote: Option<SocketAddr>, budget: &Arc<Budget>) -> Self {
        self.remote = remote;
        self.budget = budget.clone();
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
        self.own().created[kind as usize].get_or_init(Arc::default)
    }

    /// The account of its owner, created and cost, over all of its connections.
    pub(crate) fn standing(&self) -> &Arc<Standing> {
        self.standing.get_or_init(|| Standing::new(self.serial))
    }

    /// Makes it one of its owner's: of its user, or of those who come from its address without one.
    pub(crate) fn belong(&self, accounts: &Accounts) {
        if let Some(standing) = accounts.standing(self.user().as_deref(), self.remote.map(|remote| remote.ip())) {
            drop(self.standing.set(standing));
        }
    }

    /// The name of its owner, the same on every server, if it has one.
    pub(crate) fn owner(&self) -> Option<String> {
        crate::account::name(self.user().as_deref(), self.remote.map(|remote| remote.ip()))
    }

    /// The user, unless anonymous.
    pub(crate) fn user(&self) -> Option<String> {
        let user = self.identity().map(|identity| identity.user_id.clone());
        user.filter(|user| *user != self.anonymous())
    }

    fn anonymous(&self) -> String {
        format!("anonymous-{}", self.id())
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

    /// Takes the identity that the AUTH of this number brought, unless a later one has brought one already. The user never
    /// changes.
    pub(crate) fn admit(&self, order: u64, mut identity: Identity) -> Reception {
        if identity.user_id.is_empty() {
            identity.user_id = self.anonymous().into_boxed_str().into();
        }
        let expires = identity.expires_in.and_then(|time| Instant::now().checked_add(time));
        let identity = Arc::new(identity);
        let mut admitted = lock(&self.identity);
        let outcome = match &*admitted {
            None => Reception::First(identity.clone()),
            Some(known) if known.order > order => return Reception::Overtaken(known.identity.clone()),
            Some(known) if known.identity.user_id != identity.user_id => return Reception::Other,
            Some(_) => Reception::Renewed(identity.clone()),
        };
        *admitted = Some(Admitted { identity, expires, order });
        outcome
    }

    /// The identity of a later AUTH than the one of this number.
    pub(crate) fn overtaken(&self, order: u64) -> Option<Arc<Identity>> {
        lock(&self.identity).as_ref().filter(|known| known.order > order).map(|known| known.identity.clone())
    }

    /// The end of the identity; `None` if it does not expire.
    pub(crate) fn expires(&self) -> Option<Instant> {
        lock(&self.identity).as_ref()?.expires
    }

    /// The parts that most connections do without.
    pub(crate) fn own(&self) -> &Own {
        self.own.get_or_init(Box::default)
    }

    /// Takes the names of the groups that the connection is in.
    pub(crate) fn take_groups(&self) -> Vec<Arc<str>> {
        self.own.get().map(|own| std::mem::take(&mut *lock(&own.groups))).unwrap_or_default()
    }

    /// True if a call that holds so many bytes may begin: its id is free, fewer than `limit` handlers are under way, and
    /// they leave room.
    pub(crate) fn takes_call(&self, correlation: u32, limit: usize, bytes: usize) -> bool {
        let calls = lock(&self.calls);
        !calls.ended
            && calls.count < limit
            && !calls.running.contains_key(&correlation)
            && calls.held.room(&self.budget, bytes)
    }

    /// True if a call of this id is under way.
    pub(crate) fn has_call(&self, correlation: u32) -> bool {
        lock(&self.calls).running.contains_key(&correlation)
    }

    /// Registers a call whose handler has not finished.
    pub(crate) fn begin_call(
        self: &Arc<Self>,
        correlation: u32,
        abort: AbortHandle,
        ends_with_caller: bool,
        bytes: usize,
    ) -> Busy {
        let mut calls = lock(&self.calls);
        calls.running.insert(correlation, Running { abort, ends_with_caller });
        self.take(&mut calls, bytes)
    }

    /// Removes a call that has ended; `false` if it was cancelled meanwhile.
    pub(crate) fn ends_call(&self, correlation: u32) -> bool {
        lock(&self.calls).running.remove(&correlation).is_some()
    }

    pub(crate) fn cancel_call(&self, correlation: u32) {
        if let Some(running) = lock(&self.calls).running.remove(&correlation) {
            running.abort.abort();
        }
    }

    /// Registers a handler that is no call and holds so many bytes, if there is room.
    pub(crate) fn begin(self: &Arc<Self>, limit: usize, bytes: usize) -> Option<Busy> {
        let mut calls = lock(&self.calls);
        let has_room = !calls.ended && calls.count < limit && calls.held.room(&self.budget, bytes);
        has_room.then(|| self.take(&mut calls, bytes))
    }

    fn take(self: &Arc<Self>, calls: &mut Calls, bytes: usize) -> Busy {
        calls.count += 1;
        calls.held.take(&self.budget, bytes);
        Busy { connection: self.clone(), bytes }
    }

    /// True while handlers and frames under way hold so much that nothing more should be read.
    pub(crate) fn is_full(&self) -> bool {
        !lock(&self.calls).held.room(&self.budget, 1)
    }

    /// Drops the handlers of calls that end with their caller, and all queued messages. Other handlers go on.
    pub(crate) fn end(&self) {
        self.mailbox.end();
        let mut calls = lock(&self.calls);
        calls.ended = true;
        for (_, running) in calls.running.drain() {
            if running.ends_with_caller {
                running.abort.abort();
            }
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
