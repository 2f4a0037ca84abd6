//! How a server is put together.

use std::{collections::HashMap, sync::Arc, time::Duration};

use datasole_core::{Payload, StreamId, crdt::CrdtKind};
use futures_util::FutureExt;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    auth::{AuthError, AuthHook, AuthRequest, Identity},
    backend::{Backend, Memory},
    error::RpcError,
    hub::Policy,
    limits::{Limits, Replay},
    origin::Origins,
    primitives::{
        events::Handlers,
        rpc::{Context, Methods},
    },
    server::Server,
};

/// Collects handlers and options; from [`Server::builder`].
pub struct Builder {
    pub(crate) path: String,
    pub(crate) limits: Limits,
    pub(crate) origins: Origins,
    pub(crate) auth: Option<AuthHook>,
    pub(crate) may_read: Option<Policy>,
    pub(crate) may_write: Option<Policy>,
    pub(crate) methods: Methods,
    pub(crate) handlers: Handlers,
    pub(crate) histories: HashMap<String, Replay>,
    pub(crate) crdts: HashMap<String, CrdtKind>,
    pub(crate) client_crdts: bool,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) reconnect_window: Option<Duration>,
    pub(crate) epoch: Option<u64>,
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
            origins: Origins::default(),
            auth: None,
            may_read: None,
            may_write: None,
            methods: Methods::default(),
            handlers: Handlers::default(),
            histories: HashMap::new(),
            crdts: HashMap::new(),
            client_crdts: true,
            backend: Arc::new(Memory::default()),
            reconnect_window: None,
            epoch: None,
        }
    }
}

impl Builder {
    /// The endpoint's path, `/__ds` by default; assets and health lie below it.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = format!("/{}", path.trim_matches('/'));
        self
    }

    /// The server's bounds.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets pages of another origin connect: `https://app.example.org`, or `*` for any. The server's own always may.
    #[must_use]
    pub fn allow_origin(mut self, origin: &str) -> Self {
        self.origins.allow(origin);
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
    /// are changed by the server only. It says nothing about following: see [`authorize_read`](Self::authorize_read).
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
        self.may_write = Some(Box::new(policy));
        self
    }

    /// Decides who may follow which stream. Without it, everybody may follow every stream.
    #[must_use]
    pub fn authorize_read(mut self, policy: impl Fn(&Identity, &StreamId) -> bool + Send + Sync + 'static) -> Self {
        self.may_read = Some(Box::new(policy));
        self
    }

    /// Registers an RPC method. Parameters are read from JSON, absent ones as `null`; a unit result is void.
    ///
    /// A handler is dropped at an `await` when its caller cancels or goes away: spawn what must be finished.
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
        P: DeserializeOwned,
        R: Serialize + 'static,
        F: Fn(Context, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, RpcError>> + Send + 'static,
    {
        self.methods.typed(method.to_owned(), handler);
        self
    }

    /// Registers an RPC method that takes and gives JSON text or raw bytes.
    #[must_use]
    pub fn rpc_raw<F, Fut>(mut self, method: &str, handler: F) -> Self
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Payload, RpcError>> + Send + 'static,
    {
        self.methods.raw(method.to_owned(), handler);
        self
    }

    /// Listens to an event of clients. Handlers of one connection start in the order of its events.
    ///
    /// Publishing it again under the same name goes to clients only, never back to this handler.
    ///
    /// A handler runs to its end, also when its client goes away meanwhile.
    #[must_use]
    pub fn on<T, F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        T: DeserializeOwned,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.handlers.typed(event.to_owned(), handler);
        self
    }

    /// The same with JSON text or raw bytes.
    #[must_use]
    pub fn on_raw<F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(Context, Payload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.handlers.raw(event.to_owned(), handler);
        self
    }

    /// Makes a topic resumable: clients that come back get what they missed, as far as it is kept.
    #[must_use]
    pub fn topic(mut self, event: &str, history: Replay) -> Self {
        self.histories.insert(event.to_owned(), history);
        self
    }

    /// Says of which type a CRDT is; operations of another are refused. It does not count as one of
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

    /// Whether clients may create CRDTs that are not registered, by their first operation; they may by default, within
    /// [`Limits::max_crdt_keys`] and [`Limits::max_crdt_keys_per_connection`].
    #[must_use]
    pub fn client_crdts(mut self, allowed: bool) -> Self {
        self.client_crdts = allowed;
        self
    }

    /// Where streams live: in memory by default, and gone with the server; in `backend::Sqlite` they survive it.
    #[must_use]
    pub fn backend(mut self, backend: impl Backend) -> Self {
        self.backend = Arc::new(backend);
        self
    }

    /// Over which time clients spread their attempts when this server goes away.
    #[must_use]
    pub fn reconnect_window(mut self, window: Duration) -> Self {
        self.reconnect_window = Some(window);
        self
    }

    /// Counts the epochs of streams from here, below 2^53, instead of from a random number: for runs that must repeat
    /// exactly. Two servers that clients may meet one after the other must never have the same.
    #[must_use]
    pub fn epoch(mut self, epoch: u64) -> Self {
        self.epoch = Some(epoch);
        self
    }

    /// The server, ready to be mounted or to serve.
    pub fn build(self) -> Server {
        Server::new(self)
    }
}
