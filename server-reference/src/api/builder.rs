//! [`Builder`]: handlers and options of a server.

use std::{any::TypeId, collections::HashMap, sync::Arc, time::Duration};

use datasole_core::{Payload, StreamId, crdt::CrdtKind};
use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};

use super::{Context, Server};
use crate::{
    access::Access,
    account::Accounts,
    admission::{Admission, Network},
    auth::{AuthError, AuthHook, AuthRequest, Identity},
    backend::{Backend, Memory},
    budget::Budget,
    clock::{Clock, System, Told, unix_millis},
    error::RpcError,
    gate::Gate,
    hub::{Hub, Lives},
    limits::{Limits, Replay},
    metrics::Metrics,
    primitives::{
        crdt::Registry,
        events::{EventOutcome, Handlers},
        kinds,
        rpc::Methods,
    },
    protocol::{Caller, Census, Data, Hook, Node},
};

/// Collects handlers and options; from [`Server::builder`].
pub struct Builder {
    path: String,
    limits: Limits,
    admission: Admission,
    metrics: bool,
    auth: Option<AuthHook>,
    access: Access,
    pub(super) methods: Methods<Caller>,
    pub(super) handlers: Handlers<Caller>,
    connected: Option<Hook>,
    renewed: Option<Hook>,
    disconnected: Option<Hook>,
    data: Data,
    histories: HashMap<String, Replay>,
    crdts: HashMap<String, CrdtKind>,
    client_crdts: bool,
    backend: Option<Backend>,
    reconnect_window: Option<Duration>,
    epoch: Option<u64>,
    clock: Arc<dyn Clock>,
    #[cfg(feature = "contract")]
    pub(super) contract: Option<Result<crate::contract::Published, datasole_contract::ContractError>>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("path", &self.path).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            path: "/__ds".into(),
            limits: Limits::default(),
            admission: Admission::default(),
            metrics: false,
            auth: None,
            access: Access::default(),
            methods: Methods::default(),
            handlers: Handlers::default(),
            connected: None,
            renewed: None,
            disconnected: None,
            data: Data::default(),
            histories: HashMap::new(),
            crdts: HashMap::new(),
            client_crdts: true,
            backend: None,
            reconnect_window: None,
            epoch: None,
            clock: Arc::new(System),
            #[cfg(feature = "contract")]
            contract: None,
        }
    }
}

impl Server {
    /// A builder with default options.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// The endpoint's path, `/__ds` by default; assets and health lie below it.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = format!("/{}", path.trim_matches('/'));
        self
    }

    /// Sets the server's bounds.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets pages of another origin connect: `https://app.example.org`, or `*` for any. Pages of the server's own
    /// origin always may. A text that is no origin allows nothing and is logged: parse [`Origin`](crate::Origin) first to
    /// be told.
    #[must_use]
    pub fn allow_origin(mut self, origin: &str) -> Self {
        match origin {
            "*" => self.admission.origins.allow_any(),
            _ => match origin.parse() {
                Ok(origin) => self.admission.origins.allow(origin),
                Err(error) => tracing::error!(%error, "allow_origin"),
            },
        }
        self
    }

    /// Lets every page of this machine connect, whatever its port: for development servers.
    #[must_use]
    pub fn allow_loopback_origins(mut self) -> Self {
        self.admission.origins.allow_loopback();
        self
    }

    /// Names this server: `app.example.org` on any port, or `*` for any name. Requests for other hosts are refused with
    /// 403, except for those of this machine and of allowed origins. Without a name a server bound to loopback answers to
    /// this machine's names only (against DNS rebinding), unless it [trusts a proxy](Self::trust_proxy); any other server
    /// answers to all.
    #[must_use]
    pub fn allow_host(mut self, host: &str) -> Self {
        self.admission.hosts.allow(host);
        self
    }

    /// Trusts the proxies of a network: their `X-Forwarded-For` names the client, `X-Forwarded-Proto` and
    /// `X-Forwarded-Host` the page's origin. Headers of all others are ignored.
    ///
    /// ```
    /// let server = datasole_server::Server::builder().trust_proxy("10.0.0.0/8".parse().unwrap()).build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn trust_proxy(mut self, network: Network) -> Self {
        self.admission.proxies.trust(network);
        self
    }

    /// Shows the counters of [`Server::metrics_snapshot`] to everybody who asks for `health`; off by default.
    #[must_use]
    pub fn public_metrics(mut self, shown: bool) -> Self {
        self.metrics = shown;
        self
    }

    /// Decides who may connect. Without it, everybody may and is anonymous.
    ///
    /// ```
    /// use datasole_server::{AuthError, AuthRequest, Identity, Server};
    /// let server = Server::builder()
    ///     .auth(|request: AuthRequest| async move {
    ///         match request.token.as_deref() {
    ///             Some("secret") => Ok(Identity::user("ann")),
    ///             _ => Err(AuthError::refused("no such token")),
    ///         }
    ///     })
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn auth<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(AuthRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, AuthError>> + Send + 'static,
    {
        self.auth = Some(Box::new(move |request| hook(request).boxed()));
        self
    }

    /// Decides who may change which CRDT, document or presence room. Without it, everybody who is connected may. States
    /// are changed by the server only. Following is another matter: see [`authorize_read`](Self::authorize_read).
    ///
    /// ```
    /// use datasole_server::{Server, StreamKind};
    /// let server = Server::builder()
    ///     .authorize_write(|identity, stream| stream.kind != StreamKind::Doc || identity.user_id == "ann")
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn authorize_write(mut self, policy: impl Fn(&Identity, &StreamId) -> bool + Send + Sync + 'static) -> Self {
        self.access.write = Some(Box::new(policy));
        self
    }

    /// Decides who may follow which stream. Without it, everybody may follow every stream.
    #[must_use]
    pub fn authorize_read(mut self, policy: impl Fn(&Identity, &StreamId) -> bool + Send + Sync + 'static) -> Self {
        self.access.read = Some(Box::new(policy));
        self
    }

    /// Registers an RPC method. Parameters are read from JSON, absent ones as `null`; a unit result is void.
    ///
    /// A handler runs to its end when its caller goes away, unless [`cancel_on_disconnect`](Self::cancel_on_disconnect)
    /// says otherwise. A handler is dropped at an `await` when its caller cancels the call: spawn what must be finished
    /// even then.
    ///
    /// ```
    /// use datasole_server::{Context, RpcError, Server};
    /// #[derive(serde::Deserialize)]
    /// struct Add { a: i64, b: i64 }
    /// let server = Server::builder()
    ///     .rpc("add", |_: Context, p: Add| async move {
    ///         p.a.checked_add(p.b).ok_or_else(|| RpcError::new("overflow"))
    ///     })
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn rpc<P, R, F, Fut>(mut self, method: &str, handler: F) -> Self
    where
        P: DeserializeOwned + 'static,
        R: Serialize + 'static,
        F: Fn(Context, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, RpcError>> + Send + 'static,
    {
        self.methods.typed(method.to_owned(), move |caller: Caller, params| handler(caller.into(), params));
        self
    }

    /// Registers an RPC method that takes and gives JSON text or raw bytes.
    #[must_use]
    pub fn rpc_raw<F, Fut>(mut self, method: &str, handler: F) -> Self
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, RpcError>> + Send + 'static,
    {
        self.methods.raw(method.to_owned(), move |caller: Caller, params| handler(caller.into(), params));
        self
    }

    /// Lets handlers of the method registered last be dropped, at an `await`, when their caller's connection ends: for work
    /// that is of use to nobody else.
    ///
    /// ```
    /// use datasole_server::{Context, Server};
    /// let server = Server::builder()
    ///     .rpc("search", |_: Context, text: String| async move { Ok(text.len()) })
    ///     .cancel_on_disconnect()
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn cancel_on_disconnect(mut self) -> Self {
        self.methods.end_with_caller();
        self
    }

    /// Registers the handler of an event from clients. Handlers of one connection start in the order of its events.
    ///
    /// Publishing an event of the same name reaches clients only, never this handler.
    ///
    /// A handler runs to its end, also when its client goes away meanwhile. The handler returns nothing, or a `Result`,
    /// whose error is logged and not sent.
    ///
    /// ```
    /// use datasole_server::{Context, EventError, Server};
    /// let server = Server::builder()
    ///     .on("chat:message", |context: Context, text: String| async move {
    ///         context.server().broadcast("chat:message", &text).await?;
    ///         Ok::<(), EventError>(())
    ///     })
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn on<T, F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        T: DeserializeOwned + 'static,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.handlers.typed(event.to_owned(), move |caller: Caller, data| handler(caller.into(), data));
        self
    }

    /// Like [`on`](Self::on), for handlers that take JSON text or raw bytes.
    #[must_use]
    pub fn on_raw<F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.handlers.raw(event.to_owned(), move |caller: Caller, data| handler(caller.into(), data));
        self
    }

    /// Registers a hook that starts when a connection has been authenticated. The hook runs up to its first wait before
    /// any frame of the connection is served.
    ///
    /// ```
    /// use datasole_server::{Context, RpcError, Server};
    /// let server = Server::builder()
    ///     .on_connect(|context: Context| async move {
    ///         context.connection().set_tag("plan", "free");
    ///         context.join_group("everybody").await
    ///     })
    ///     .on_disconnect(|context: Context| async move {
    ///         println!("{} has left", context.identity().user_id);
    ///     })
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn on_connect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.connected = Some(Box::new(move |caller| hook(caller.into()).map(EventOutcome::report).boxed()));
        self
    }

    /// Registers a hook that starts when an AUTH frame has renewed the identity of an open connection. The policies have
    /// been asked again by then: subscriptions and rooms that the user may not have any more are ended. Groups are the
    /// application's: take the connection out of those that the new roles do not allow.
    #[must_use]
    pub fn on_renew<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.renewed = Some(Box::new(move |caller| hook(caller.into()).map(EventOutcome::report).boxed()));
        self
    }

    /// Registers a hook that starts when a connection has ended and left its groups, once for each run of
    /// [`on_connect`](Self::on_connect), which may still be waiting.
    #[must_use]
    pub fn on_disconnect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: EventOutcome> + Send + 'static,
    {
        self.disconnected = Some(Box::new(move |caller| hook(caller.into()).map(EventOutcome::report).boxed()));
        self
    }

    /// Gives the application's own data to handlers, one of each type: see [`Context::data`].
    #[must_use]
    pub fn data<T: Send + Sync + 'static>(mut self, data: T) -> Self {
        self.data.insert(TypeId::of::<T>(), Box::new(data));
        self
    }

    /// Makes a topic resumable: returning clients receive missed events, as far as the log keeps them.
    #[must_use]
    pub fn topic(mut self, event: &str, history: Replay) -> Self {
        self.histories.insert(event.to_owned(), history);
        self
    }

    /// Registers the type of a CRDT; operations of other types are refused. Registered keys do not count toward
    /// [`Limits::max_crdt_keys`].
    ///
    /// ```
    /// use datasole_server::{CrdtKind, Server};
    /// let server = Server::builder()
    ///     .crdt("votes", CrdtKind::PnCounter)
    ///     .crdt("settings", CrdtKind::LwwMap)
    ///     .client_crdts(false)
    ///     .build();
    /// # drop(server);
    /// ```
    #[must_use]
    pub fn crdt(mut self, key: &str, kind: CrdtKind) -> Self {
        self.crdts.insert(key.to_owned(), kind);
        self
    }

    /// Allows or forbids clients to create unregistered CRDTs by their first operation. Allowed by default, within
    /// [`Limits::max_crdt_keys`], [`Limits::max_crdt_keys_per_connection`] and [`Limits::max_crdt_keys_per_user`].
    #[must_use]
    pub fn client_crdts(mut self, allowed: bool) -> Self {
        self.client_crdts = allowed;
        self
    }

    /// Sets the backend that stores streams: memory by default, lost with the process; `backend::Sqlite` is durable. Servers
    /// with handles of one engine are nodes of one service. A `Log` of your own alone is enough for one server.
    #[must_use]
    pub fn backend(mut self, backend: impl Into<Backend>) -> Self {
        self.backend = Some(backend.into());
        self
    }

    /// Sets the time over which clients of version 2 spread their reconnects when this server goes away, at most an hour. A core greets about
    /// 5,000 a second.
    #[must_use]
    pub fn reconnect_window(mut self, window: Duration) -> Self {
        self.reconnect_window = Some(window);
        self
    }

    /// Sets the first epoch of streams, below 2^53, instead of a random number: for runs that must repeat exactly. The node
    /// has the same name, unless it is given a [`backend`](Self::backend). Two
    /// servers that clients may meet one after the other must never have the same.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// Sets the clock by which the pace of new CRDT replicas goes, instead of the machine's: for runs in a time of their
    /// own. Timers are tokio's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The server, ready to be mounted or to serve.
    pub fn build(self) -> Server {
        #[cfg(feature = "contract")]
        self.tell_mismatch();
        let lives = self.epoch.map_or_else(|| Lives::new(fresh_epoch()), Lives::counted);
        let epoch = self.epoch.unwrap_or_else(fresh_epoch);
        let backend = self.backend.unwrap_or_else(|| Memory::new(Arc::new(System), Arc::new(move || epoch)).node());
        let (limits, access) = (Arc::new(self.limits), Arc::new(self.access));
        let (metrics, histories) = (Arc::<Metrics>::default(), Arc::new(self.histories));
        let hub = Hub::new(backend, limits.clone(), access.clone(), kinds(&limits, &histories), lives);
        let mut admission = self.admission;
        admission.bound_reads(limits.max_rate);
        let window = self.reconnect_window.map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        Server::of(Arc::new(Node {
            path: self.path,
            codec_limits: limits.codec(),
            admission,
            public_metrics: self.metrics,
            auth: self.auth,
            methods: self.methods,
            handlers: self.handlers,
            connected: self.connected,
            renewed: self.renewed,
            disconnected: self.disconnected,
            budget: Arc::new(Budget::new(limits.max_under_way, limits.max_under_way_total)),
            data: self.data,
            gate: Gate::new(access, limits.clone(), metrics.clone()),
            hub,
            crdts: Registry::new(self.crdts, self.client_crdts, &limits, epoch, self.clock),
            #[cfg(feature = "docs")]
            docs: Default::default(),
            histories,
            metrics,
            epoch,
            reconnect_window: window,
            census: Census::default(),
            accounts: Accounts::default(),
            told: Told::default(),
            #[cfg(feature = "contract")]
            contract: self.contract.and_then(Result::ok),
            limits,
        }))
    }
}

/// A random first epoch of 52 bits. Epochs only need to be unique, not increasing.
fn fresh_epoch() -> u64 {
    let random = getrandom::u64().unwrap_or_else(|_| unix_millis());
    (random >> 12) | 1
}
