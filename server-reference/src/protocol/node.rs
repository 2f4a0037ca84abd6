//! [`Node`]: one running server, as its connections see it.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use datasole_core::{codes, frame::Opcode, wire};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::watch, time::timeout};

#[cfg(feature = "docs")]
use crate::primitives::docs::Count;
use crate::{
    account::Accounts,
    admission::{Admission, Full, Seat, counted},
    auth::{AuthError, AuthHook, AuthRequest, Identity},
    budget::Budget,
    clock::{Told, unix_millis},
    connection::{Connection, Protocol, Reception},
    gate::Gate,
    hub::Hub,
    limits::{Limits, Replay},
    message::{self, json},
    metrics::{Metrics, MetricsSnapshot},
    primitives::{crdt::Registry, events::Handlers, rpc::Methods},
    task::{Task, at_once},
};

/// Features of this server beyond version 2, announced in HELLO.
const FEATURES: [&str; 2] = [wire::BATCH, wire::SHORT];

/// A HELLO up to here, with what is around it, is one packet on most networks, compressed or not; bytes. Each is another, and
/// compressing it takes a sixth of what a connection costs.
const PACKET: usize = 1_200;

/// A running server: registered handlers, stored streams and connections.
pub(crate) struct Node {
    /// Path of the endpoint.
    pub(crate) path: String,
    pub(crate) limits: Arc<Limits>,
    pub(crate) codec_limits: datasole_core::Limits,
    pub(crate) admission: Admission,
    /// Whether `health` shows the counters.
    pub(crate) public_metrics: bool,
    pub(crate) auth: Option<AuthHook>,
    pub(crate) methods: Methods<Caller>,
    pub(crate) handlers: Handlers<Caller>,
    pub(crate) connected: Option<Hook>,
    pub(crate) renewed: Option<Hook>,
    pub(crate) disconnected: Option<Hook>,
    pub(crate) data: Data,
    pub(crate) gate: Gate,
    pub(crate) budget: Arc<Budget>,
    pub(crate) hub: Arc<Hub>,
    /// Histories of topics, for clients that resume.
    pub(crate) histories: Arc<HashMap<String, Replay>>,
    pub(crate) crdts: Registry,
    #[cfg(feature = "docs")]
    pub(crate) docs: Count,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) epoch: u64,
    /// Milliseconds.
    pub(crate) reconnect_window: Option<u64>,
    pub(crate) census: Census,
    pub(crate) accounts: Accounts,
    pub(crate) told: Told,
    #[cfg(feature = "contract")]
    pub(crate) contract: Option<crate::contract::Published>,
}

/// The client whose call or event a handler serves.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) node: Arc<Node>,
    pub(crate) connection: Arc<Connection>,
    pub(crate) identity: Arc<Identity>,
}

/// The application's own data, one of each type.
pub(crate) type Data = HashMap<TypeId, Box<dyn Any + Send + Sync>>;

/// A function of the application that runs as a connection comes or goes.
pub(crate) type Hook = Box<dyn Fn(Caller) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The connections by number.
#[derive(Debug)]
pub(crate) struct Census {
    next_serial: AtomicU64,
    closing: watch::Sender<bool>,
}

impl Default for Census {
    fn default() -> Self {
        Self { next_serial: AtomicU64::new(1), closing: watch::Sender::new(false) }
    }
}

impl Node {
    /// Connections open now, those not yet authenticated included.
    pub(crate) fn connection_count(&self) -> usize {
        self.admission.places.taken()
    }

    pub(crate) fn metrics_snapshot(&self) -> MetricsSnapshot {
        self.metrics.snapshot(self.hub.connection_count(), self.hub.relayed())
    }

    /// Closes every connection and waits until all are gone, as long as closing may take.
    pub(crate) async fn shutdown(&self) {
        self.census.closing.send_replace(true);
        self.hub.each_connection(|connection| connection.mailbox().close(1001, "server is shutting down"));
        let all_gone = async {
            loop {
                let gone = self.admission.places.gone.notified();
                if self.connection_count() == 0 {
                    return;
                }
                gone.await;
            }
        };
        if timeout(self.limits.close_timeout, all_gone).await.is_err() {
            tracing::warn!(connections = self.connection_count(), "connections outlived the shutdown");
        }
        match timeout(self.limits.close_timeout, self.hub.depart()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "other servers notice a little later that this one is gone"),
            Err(_) => tracing::warn!("other servers notice a little later that this one is gone"),
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.census.closing.borrow()
    }

    /// Becomes `true` when the server shuts down.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.census.closing.subscribe()
    }

    /// Takes a seat among the connections, for a client of this address.
    pub(crate) fn seat(&self, from: Option<IpAddr>) -> Result<Seat, Full> {
        let Limits { max_connections, max_connections_per_address, .. } = *self.limits;
        let share = max_connections_per_address.unwrap_or(max_connections.div_ceil(4));
        self.admission.places.take(1, max_connections, from, share)
    }

    /// Takes room for so many bytes of an answer to a client of this address that has no connection.
    pub(crate) fn answers(&self, bytes: usize, from: Option<IpAddr>) -> Result<Seat, Full> {
        let Limits { max_under_way_total, max_payload, .. } = *self.limits;
        // A few of the longest fit in any case.
        let limit = (max_under_way_total / 4).max(max_payload.saturating_mul(8));
        self.admission.answers.take(bytes, limit, from, limit / 4)
    }

    /// The identity of a client that asks without a connection, and the lane in which work is done for it.
    pub(crate) fn visitor(&self, identity: Identity, remote: Option<SocketAddr>) -> Option<(Arc<Identity>, u64)> {
        let visitor = self.connection(Protocol::V2, remote);
        visitor.admit(0, identity);
        visitor.belong(&self.accounts);
        Some((visitor.identity()?, visitor.standing().lane))
    }

    /// A connection that is not authenticated yet; `remote` is the peer of its socket.
    pub(crate) fn connection(&self, protocol: Protocol, remote: Option<SocketAddr>) -> Arc<Connection> {
        let serial = self.census.next_serial.fetch_add(1, Ordering::Relaxed);
        let Limits { max_queue, compress_above, .. } = *self.limits;
        Arc::new(
            Connection::new(serial, self.hub.node(), protocol, max_queue, compress_above).from(remote, &self.budget),
        )
    }

    /// Asks the authentication hook, within its time.
    pub(crate) async fn identify(&self, request: AuthRequest) -> Result<Identity, AuthError> {
        let Some(hook) = &self.auth else { return Ok(Identity::anonymous()) };
        let guarded = AssertUnwindSafe(async { hook(request).await }).catch_unwind();
        match timeout(self.limits.auth_timeout, guarded).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AuthError::Failed("the hook panicked".into())),
            Err(_) => Err(AuthError::TimedOut),
        }
    }

    /// Registers an authenticated connection, and greets it. The task runs `on_connect`, and loads the streams of a
    /// version 1 client that are not in memory.
    #[must_use]
    pub(crate) fn welcome(self: &Arc<Self>, connection: &Arc<Connection>, identity: Identity) -> Option<Task> {
        match connection.admit(0, identity) {
            Reception::First(identity) => self.greet(connection, identity),
            // Nobody is welcomed twice.
            Reception::Renewed(_) | Reception::Overtaken(_) | Reception::Other => None,
        }
    }

    fn greet(self: &Arc<Self>, connection: &Arc<Connection>, identity: Arc<Identity>) -> Option<Task> {
        connection.belong(&self.accounts);
        Metrics::add(&self.metrics.accepted, 1);
        if connection.protocol() == Protocol::V2 {
            connection.mailbox().push(message::shared(
                Opcode::Hello,
                0,
                &json(&self.hello(connection, &identity)),
                self.limits.compress_above.max(PACKET),
            ));
        }
        self.hub.join(connection, &identity);
        self.close_late(connection);
        let hooked = self.connected.as_ref().filter(|_| connection.welcome());
        let hooked = hooked.map(|hook| guarded(|| hook(self.caller(connection, &identity)), "connects"));
        let recalls = connection.protocol() == Protocol::V1;
        if hooked.is_none() && !recalls {
            return None;
        }
        let (hub, connection) = (self.hub.clone(), connection.clone());
        let task = async move {
            if let Some(hooked) = hooked {
                hooked.await;
            }
            if recalls {
                hub.recall(&connection).await;
            }
        };
        at_once(task.boxed())
    }

    fn hello<'a>(&'a self, connection: &Connection, identity: &'a Identity) -> wire::Hello<'a, wire::ServerLimits> {
        let limits = &self.limits;
        let crdt = limits.crdt();
        wire::Hello {
            protocol: 2,
            connection_id: connection.id().into(),
            user_id: Some(identity.user_id.as_str().into()),
            epoch: self.epoch,
            time: Some(self.told.at(unix_millis())),
            heartbeat: u64::try_from(limits.heartbeat.as_millis()).unwrap_or(u64::MAX),
            limits: wire::ServerLimits {
                common: wire::HelloLimits {
                    max_payload: limits.max_payload,
                    compress_above: limits.compress_above,
                    max_subscriptions: limits.max_subscriptions,
                    max_pending_calls: limits.max_pending,
                    max_event_name: limits.max_event_name,
                },
                max_key: limits.max_key,
                max_rooms: limits.max_rooms,
                max_presence: limits.max_presence,
                max_doc: limits.max_doc,
                max_crdt_value: crdt.max_value,
                max_crdt_depth: crdt.max_depth,
                max_crdt: crdt.max_bytes,
                max_crdt_entries: crdt.max_entries,
                max_crdt_key: crdt.max_key,
                max_crdt_node: crdt.max_node,
                max_crdt_dots: crdt.max_dots,
                max_crdt_ahead: crdt.max_ahead,
                max_crdt_amount: crdt.max_amount,
                max_crdt_keys: limits.max_crdt_keys_per_connection,
            },
            reconnect_window: self.reconnect_window,
            features: FEATURES.map(Into::into).to_vec(),
            #[cfg(feature = "contract")]
            contract: self.contract.as_ref().map(|contract| contract.hash.as_str().into()),
            #[cfg(not(feature = "contract"))]
            contract: None,
        }
    }

    fn caller(self: &Arc<Self>, connection: &Arc<Connection>, identity: &Arc<Identity>) -> Caller {
        Caller { node: self.clone(), connection: connection.clone(), identity: identity.clone() }
    }

    /// Registers a connection that is not authenticated yet, so that a shutdown closes it. Half of the places are for
    /// those that are: of more that are not, the one that has waited longest has to go.
    pub(crate) fn expect(&self, connection: &Arc<Connection>) {
        if let Some(longest) = self.hub.expect(connection, (self.limits.max_connections / 2).max(1)) {
            longest.mailbox().close(1013, "too many connections without AUTH");
        }
        self.close_late(connection);
    }

    /// Closes a connection that has come while the shutdown went through those that were there.
    fn close_late(&self, connection: &Connection) {
        if self.is_closing() {
            connection.mailbox().close(1001, "server is shutting down");
        }
    }

    /// Runs `on_renew` for a connection whose identity was renewed.
    pub(super) fn renewed(self: &Arc<Self>, connection: &Arc<Connection>, identity: &Arc<Identity>) -> Option<Task> {
        let hook = self.renewed.as_ref()?;
        Some(guarded(|| hook(self.caller(connection, identity)), "renews its identity"))
    }

    /// Runs `on_disconnect` for a connection that has ended, if `on_connect` ran.
    pub(super) fn parted(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Task> {
        let hook = self.disconnected.as_ref().filter(|_| connection.parts())?;
        let caller = self.caller(connection, &connection.identity()?);
        at_once(guarded(|| hook(caller), "disconnects"))
    }

    /// Serves the AUTH frame of this number: the first one that is answered opens the connection, others renew its
    /// identity. One that a later frame has overtaken has no effect. `true` if the identity was renewed.
    pub(crate) async fn authenticate(
        self: Arc<Self>,
        connection: Arc<Connection>,
        (order, correlation): (u64, u32),
        request: AuthRequest,
    ) -> bool {
        let known = connection.identity().filter(|_| self.auth.is_none());
        let identified = match known {
            // Without a hook nobody's identity is in question.
            Some(known) => Ok((*known).clone()),
            None => self.identify(request).await,
        };
        let authed = |identity: &Identity| {
            let body = json(&wire::Authed { user_id: Some(identity.user_id.as_str().into()) });
            let above = self.limits.compress_above;
            connection.mailbox().push(message::shared(Opcode::Authed, correlation, &body, above));
        };
        if let Err(AuthError::Refused(_)) = identified {
            self.admission.guesses.charge(counted(connection.remote()), 1.0);
        }
        match identified.map(|identity| connection.admit(order, identity)) {
            Ok(Reception::First(identity)) => {
                authed(&identity);
                if let Some(task) = self.greet(&connection, identity) {
                    task.await;
                }
            }
            Ok(Reception::Renewed(identity)) => {
                authed(&identity);
                return true;
            }
            Ok(Reception::Overtaken(identity)) => authed(&identity),
            Ok(Reception::Other) => {
                connection.mailbox().close(wire::CLOSE_UNAUTHORIZED, "the token is another user's");
            }
            Err(error) => match (connection.overtaken(order), error) {
                (Some(identity), _) => authed(&identity),
                (None, AuthError::Failed(why)) => {
                    tracing::error!(why, code = codes::INTERNAL, "the auth hook failed");
                    connection.mailbox().close(1011, "authentication failed");
                }
                (None, error) => {
                    tracing::debug!(%error, "an AUTH was refused");
                    connection.mailbox().close(wire::CLOSE_UNAUTHORIZED, "unauthorized");
                }
            },
        }
        false
    }
}

/// Runs a hook of the application, whose failures are logged.
fn guarded(hook: impl FnOnce() -> BoxFuture<'static, Result<(), String>>, when: &'static str) -> Task {
    let Ok(running) = std::panic::catch_unwind(AssertUnwindSafe(hook)) else {
        tracing::error!(when, "a hook panicked");
        return std::future::ready(()).boxed();
    };
    let logged = AssertUnwindSafe(running).catch_unwind().map(move |outcome| match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(when, error, "a hook failed"),
        Err(_) => tracing::error!(when, "a hook panicked"),
    });
    logged.boxed()
}
