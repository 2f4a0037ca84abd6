//! [`Server`]: the handle that applications hold.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use datasole_core::{Payload, codes, frame::Opcode, wire};
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

#[cfg(feature = "docs")]
use crate::primitives::docs::Docs;
use crate::{
    auth::{AuthError, AuthHook, AuthRequest, Identity},
    builder::Builder,
    connection::{Connection, Protocol},
    error::EventError,
    hub::{Hub, entry, unix_millis},
    limits::Limits,
    message,
    metrics::{Metrics, MetricsSnapshot},
    origin::Origins,
    primitives::{
        crdt::{Crdts, Registry},
        events::{self, Handlers, Target, Who},
        presence::Presence,
        rpc::Methods,
        state::State,
    },
    session::{Task, at_once},
};

/// A datasole server. Cloning yields another handle to the same one.
///
/// ```no_run
/// use datasole_server::{Context, Server};
/// # async fn example() -> std::io::Result<()> {
/// let server = Server::builder().rpc("echo", |_: Context, x: serde_json::Value| async move { Ok(x) }).build();
/// let app = axum::Router::new().merge(server.router());
/// axum::serve(tokio::net::TcpListener::bind("127.0.0.1:4000").await?, app).await
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    path: String,
    limits: Limits,
    codec_limits: datasole_core::Limits,
    origins: Origins,
    auth: Option<AuthHook>,
    methods: Methods,
    handlers: Handlers,
    hub: Arc<Hub>,
    crdts: Registry,
    metrics: Metrics,
    epoch: u64,
    reconnect_window: Option<u64>,
    next_serial: AtomicU64,
    /// Sockets that count towards the limit, authenticated or not.
    open: AtomicUsize,
    closing: watch::Sender<bool>,
    /// Notified whenever a socket is gone.
    gone: Notify,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("path", &self.inner.path).field("open", &self.inner.open).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts putting a server together.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(builder: Builder) -> Self {
        let epoch = builder.epoch.unwrap_or_else(fresh_epoch);
        let codec_limits = builder.limits.codec();
        let crdts = Registry::new(builder.crdts, builder.client_crdts, &builder.limits, epoch);
        let hub = Hub::new(
            builder.backend,
            builder.limits.clone(),
            builder.histories,
            builder.may_read,
            builder.may_write,
            epoch,
        );
        let window = builder.reconnect_window.map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        Self {
            inner: Arc::new(Inner {
                path: builder.path,
                limits: builder.limits,
                codec_limits,
                origins: builder.origins,
                auth: builder.auth,
                methods: builder.methods,
                handlers: builder.handlers,
                hub: Arc::new(hub),
                crdts,
                metrics: Metrics::default(),
                epoch,
                reconnect_window: window,
                next_serial: AtomicU64::new(1),
                open: AtomicUsize::new(0),
                closing: watch::Sender::new(false),
                gone: Notify::new(),
            }),
        }
    }

    // --- for applications ---

    /// The live states.
    pub fn state(&self) -> State<'_> {
        State::new(&self.inner.hub, &self.inner.limits)
    }

    /// The CRDTs.
    pub fn crdt(&self) -> Crdts<'_> {
        Crdts::new(&self.inner.hub, &self.inner.crdts)
    }

    /// A presence room: who is in it.
    ///
    /// ```
    /// # let server = datasole_server::Server::builder().build();
    /// for member in server.presence("lobby").list() {
    ///     println!("{} is here: {}", member.user_id, member.value);
    /// }
    /// ```
    pub fn presence<'a>(&'a self, room: &'a str) -> Presence<'a> {
        Presence::new(&self.inner.hub, room)
    }

    /// The shared documents.
    #[cfg(feature = "docs")]
    pub fn docs(&self) -> Docs<'_> {
        Docs::new(&self.inner.hub, &self.inner.limits)
    }

    /// Publishes an event to everybody who follows its topic, and to every version 1 client.
    ///
    /// # Errors
    ///
    /// When it does not fit in a frame, cannot be written as JSON, or the backend of its history fails.
    pub async fn broadcast(&self, event: &str, data: &impl Serialize) -> Result<(), EventError> {
        self.broadcast_payload(event, Payload::Json(to_raw_value(data)?)).await
    }

    /// The same with JSON text or raw bytes.
    ///
    /// # Errors
    ///
    /// As [`broadcast`](Self::broadcast).
    pub async fn broadcast_payload(&self, event: &str, data: Payload) -> Result<(), EventError> {
        events::broadcast(&self.inner.hub, &self.inner.limits, event, data).await
    }

    /// Everyone in a room (see [`Context::join`](crate::Context::join)).
    pub fn to_room<'a>(&'a self, room: &'a str) -> Target<'a> {
        Target::new(&self.inner.hub, &self.inner.limits, Who::Room(room))
    }

    /// Every connection of a user.
    pub fn to_user<'a>(&'a self, user_id: &'a str) -> Target<'a> {
        Target::new(&self.inner.hub, &self.inner.limits, Who::User(user_id))
    }

    /// One connection.
    pub fn to_connection<'a>(&'a self, connection_id: &'a str) -> Target<'a> {
        Target::new(&self.inner.hub, &self.inner.limits, Who::Connection(connection_id))
    }

    /// Ends a connection with a close code (1000, 1008, or 4000–4999 of the application's); `false` if there is none.
    pub fn disconnect(&self, connection_id: &str, code: u16, reason: &str) -> bool {
        let connection = self.inner.hub.connection(connection_id);
        connection.as_ref().inspect(|connection| connection.mailbox().close(code, reason)).is_some()
    }

    /// Connections open now, those not yet authenticated included.
    pub fn connection_count(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// What the server has counted since it started.
    pub fn metrics_snapshot(&self) -> MetricsSnapshot {
        self.inner.metrics.snapshot(self.inner.hub.connection_count())
    }

    /// Closes every connection with 1001 and waits until all are gone, at most [`Limits::close_timeout`]. New ones are
    /// refused from now on.
    pub async fn shutdown(&self) {
        self.inner.closing.send_replace(true);
        self.inner.hub.each_connection(|connection| connection.mailbox().close(1001, "server is shutting down"));
        let all_gone = async {
            loop {
                let gone = self.inner.gone.notified();
                if self.connection_count() == 0 {
                    return;
                }
                gone.await;
            }
        };
        if timeout(self.inner.limits.close_timeout, all_gone).await.is_err() {
            tracing::warn!(connections = self.connection_count(), "connections outlived the shutdown");
        }
    }

    // --- for the layers below ---

    pub(crate) fn path(&self) -> &str {
        &self.inner.path
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn codec_limits(&self) -> &datasole_core::Limits {
        &self.inner.codec_limits
    }

    pub(crate) fn origins(&self) -> &Origins {
        &self.inner.origins
    }

    pub(crate) fn methods(&self) -> &Methods {
        &self.inner.methods
    }

    pub(crate) fn handlers(&self) -> &Handlers {
        &self.inner.handlers
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.inner.hub
    }

    pub(crate) fn crdts(&self) -> &Registry {
        &self.inner.crdts
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.inner.closing.borrow()
    }

    /// Becomes `true` when the server shuts down.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.inner.closing.subscribe()
    }

    /// Takes a place among the connections; `None` when all are taken.
    pub(crate) fn admit_socket(&self) -> Option<Place> {
        let place = Place { server: self.clone() };
        let taken = self.inner.open.fetch_add(1, Ordering::AcqRel);
        (taken < self.inner.limits.max_connections).then_some(place)
    }

    pub(crate) fn connection(&self, protocol: Protocol) -> Arc<Connection> {
        let serial = self.inner.next_serial.fetch_add(1, Ordering::Relaxed);
        let limits = &self.inner.limits;
        Arc::new(Connection::new(serial, self.inner.epoch, protocol, limits.max_queue, limits.compress_above))
    }

    /// Asks the hook, within its time.
    pub(crate) async fn identify(&self, request: AuthRequest) -> Result<Identity, AuthError> {
        let Some(hook) = &self.inner.auth else { return Ok(Identity::anonymous()) };
        let guarded = AssertUnwindSafe(async { hook(request).await }).catch_unwind();
        match timeout(self.inner.limits.auth_timeout, guarded).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AuthError::Failed("the hook panicked".into())),
            Err(_) => Err(AuthError::TimedOut),
        }
    }

    /// Makes an authenticated connection a member, and greets it. The task fetches what a version 1 client follows and is
    /// only stored.
    #[must_use]
    pub(crate) fn welcome(&self, connection: &Arc<Connection>, identity: Identity) -> Option<Task> {
        let identity = connection.admit(identity);
        Metrics::add(&self.inner.metrics.accepted, 1);
        if connection.protocol() == Protocol::V2 {
            let limits = &self.inner.limits;
            let hello = wire::Hello {
                protocol: 2,
                connection_id: connection.id().into(),
                user_id: Some(identity.user_id.as_str().into()),
                epoch: self.inner.epoch,
                time: Some(unix_millis()),
                heartbeat: u64::try_from(limits.heartbeat.as_millis()).unwrap_or(u64::MAX),
                limits: wire::HelloLimits {
                    max_payload: limits.max_payload,
                    compress_above: limits.compress_above,
                    max_subscriptions: limits.max_subscriptions,
                    max_pending_calls: limits.max_pending,
                    max_event_name: limits.max_event_name,
                },
                reconnect_window: self.inner.reconnect_window,
                features: Vec::new(),
            };
            let hello = message::shared(Opcode::Hello, 0, &entry::json(&hello), limits.compress_above);
            connection.mailbox().push(hello);
        }
        self.inner.hub.join(connection, &identity);
        self.close_late(connection);
        if connection.protocol() == Protocol::V2 {
            return None;
        }
        let (hub, connection) = (self.inner.hub.clone(), connection.clone());
        at_once(async move { hub.recall(&connection).await }.boxed())
    }

    /// Lets a connection that is yet to authenticate know of a shutdown.
    pub(crate) fn expect(&self, connection: &Arc<Connection>) {
        self.inner.hub.expect(connection);
        self.close_late(connection);
    }

    /// Closes a connection that has come while the shutdown went through those that were there.
    fn close_late(&self, connection: &Connection) {
        if self.is_closing() {
            connection.mailbox().close(1001, "server is shutting down");
        }
    }

    /// Serves an AUTH frame: the first one opens the connection, later ones renew its identity.
    pub(crate) async fn authenticate(self, connection: Arc<Connection>, correlation: u32, request: AuthRequest) {
        let refuse = |why: &str| connection.mailbox().close(wire::CLOSE_UNAUTHORIZED, why);
        match self.identify(request).await {
            Ok(mut identity) => {
                let known = connection.identity();
                if let Some(known) = &known {
                    if identity.user_id.is_empty() {
                        identity.user_id.clone_from(&known.user_id);
                    }
                    if identity.user_id != known.user_id {
                        return refuse("the token is another user's");
                    }
                    connection.admit(identity.clone());
                }
                let user_id = Some(identity.user_id.as_str()).filter(|id| !id.is_empty()).map(Into::into);
                let authed = entry::json(&wire::Authed { user_id });
                let above = self.inner.limits.compress_above;
                connection.mailbox().push(message::shared(Opcode::Authed, correlation, &authed, above));
                if known.is_none() {
                    // Only version 2 has AUTH, and its clients ask for what they follow.
                    drop(self.welcome(&connection, identity));
                }
            }
            Err(AuthError::Failed(why)) => {
                tracing::error!(why, code = codes::INTERNAL, "the auth hook failed");
                connection.mailbox().close(1011, "authentication failed");
            }
            Err(error) => {
                tracing::debug!(%error, "an AUTH was refused");
                refuse("unauthorized");
            }
        }
    }
}

/// A place among the connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    server: Server,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.inner.open.fetch_sub(1, Ordering::AcqRel);
        self.server.inner.gone.notify_waiters();
    }
}

/// Above every epoch of earlier starts is not needed, only different: 52 random bits.
fn fresh_epoch() -> u64 {
    let random = getrandom::u64().unwrap_or_else(|_| crate::hub::unix_millis());
    (random >> 12) | 1
}
