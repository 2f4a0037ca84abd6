//! [`Builder`]: the options of a client, checked when connecting.

use std::{fmt, sync::Arc, time::Duration};

use datasole_core::{Client as Core, Config, Limits, Reconnect, Seed, TokenVia, crdt::CrdtLimits};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::{
    crdt::{CrdtStorage, Policy, Replicas},
    driver::{Driver, TokenProvider},
    error::ConnectError,
    handle::Client,
    inbox::InboxLimits,
    router::Shared,
    socket::Dialer,
};

/// Bytes of event data that one subscriber may have waiting.
const EVENT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Headers of the WebSocket handshake, which are not the program's to set.
const RESERVED: [HeaderName; 6] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_EXTENSIONS,
];

/// Options of a client; from [`Client::builder`].
#[derive(Clone)]
#[must_use = "nothing happens before `connect`"]
pub struct Builder {
    url: String,
    path: String,
    config: Config,
    provider: Option<TokenProvider>,
    headers: Result<HeaderMap, String>,
    event_buffer: usize,
    replicas: Policy,
    #[cfg(feature = "__tls")]
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Client {
    /// Options for the server at `url`: `http`, `https`, `ws` or `wss`, with or without a trailing slash.
    pub fn builder(url: &str) -> Builder {
        Builder::new(url)
    }
}

impl Builder {
    fn new(url: &str) -> Self {
        Self {
            url: url.into(),
            path: "/__ds".into(),
            config: Config { mirror: true, ..Config::new("") },
            provider: None,
            headers: Ok(HeaderMap::new()),
            event_buffer: 1_024,
            replicas: Policy { node: "native".into(), secret: None, limits: CrdtLimits::default(), storage: None },
            #[cfg(feature = "__tls")]
            tls: None,
        }
    }

    /// Sets the endpoint's path; `/__ds` by default.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Sets the token that authenticates this client.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.config.token = Some(token.into());
        self
    }

    /// Sets the way the token reaches the server; in the URL by default.
    pub fn token_via(mut self, via: TokenVia) -> Self {
        self.config.token_via = via;
        self
    }

    /// Asks for a token before every attempt, so that an expired one is never used twice. `Ok(None)` connects without.
    ///
    /// An error, a panic or no answer within 10 s counts as a failed attempt.
    pub fn token_provider<F, Fut, E>(mut self, provider: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<String>, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.config.ask_token = true;
        self.provider = Some(Arc::new(move || {
            let token = provider();
            Box::pin(async move { token.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// Adds a header to the opening request, such as `Authorization`. Several of one name are all sent.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Ok(headers) = &mut self.headers {
            match (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                (Ok(name), Ok(mut value)) if !RESERVED.contains(&name) => {
                    value.set_sensitive(true);
                    headers.append(name, value);
                }
                _ => self.headers = Err(name.into()),
            }
        }
        self
    }

    /// Sets the policy of reconnecting.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.config.reconnect = reconnect;
        self
    }

    /// Sets the maximum time of an attempt; 10 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = millis(timeout);
        self
    }

    /// Sets the default time-out of calls; 30 s by default.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.config.call_timeout = millis(timeout);
        self
    }

    /// Sets the bounds of everything a peer or the program could make grow.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Sets the maximum of items waiting in one [`Events`](crate::Events) stream (at least 1; 1,024 by default, and at
    /// most 4 MiB of data). Above that the oldest are discarded, and [`EventError::Lagged`](crate::EventError::Lagged)
    /// says how many.
    pub fn event_buffer(mut self, items: usize) -> Self {
        self.event_buffer = items;
        self
    }

    /// Sets the prefix of this client's CRDT replica names, for people who read them; `native` by default, at most 64
    /// bytes. The rest of a name is random: no two replicas have the same name.
    pub fn node_id(mut self, name: &str) -> Self {
        self.replicas.node = name.into();
        self
    }

    /// Sets the bounds of CRDTs, which should not be below the server's.
    pub fn crdt_limits(mut self, limits: CrdtLimits) -> Self {
        self.replicas.limits = limits;
        self
    }

    /// Sets the storage that keeps pending edits of CRDTs across restarts of the program.
    pub fn crdt_storage(mut self, storage: impl CrdtStorage) -> Self {
        self.replicas.storage = Some(Arc::new(storage));
        self
    }

    /// Sets the minimum time between two [updates](crate::Presence::update) sent to a presence room, or of a document's
    /// awareness; 50 ms by default.
    pub fn presence_throttle(mut self, throttle: Duration) -> Self {
        self.config.presence_throttle = millis(throttle);
        self
    }

    /// Sets trust and client certificates for `wss`, instead of the root certificates this crate was built with.
    #[cfg(feature = "__tls")]
    pub fn tls_config(mut self, config: impl Into<Arc<rustls::ClientConfig>>) -> Self {
        self.tls = Some(config.into());
        self
    }

    /// Connects, and returns once the connection is open and authenticated.
    ///
    /// If the first attempt fails, nothing goes on in the background, unless
    /// [`Reconnect::retry_first`](datasole_core::Reconnect) is set: then this waits until an attempt succeeds or no
    /// more are allowed. Dropping the future gives up.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConnectError::NoRuntime)?;
        let url = Config::endpoint(&self.url, &self.path).ok_or(ConnectError::Url)?;
        let uri: Uri = url.parse().map_err(|_| ConnectError::Url)?;
        let dialer = Dialer {
            headers: self.headers.map_err(ConnectError::Header)?,
            limits: self.config.limits,
            #[cfg(feature = "__tls")]
            tls: match self.tls {
                Some(config) => Some(config),
                None if uri.scheme_str() == Some("wss") => Some(crate::tls::default_config().await?),
                None => None,
            },
        };
        #[cfg(not(feature = "__tls"))]
        if uri.scheme_str() == Some("wss") {
            return Err(ConnectError::Tls("not compiled in".into()));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(ConnectError::Entropy)?;
        let (mut replica, mut secret) = ([0; 8], [0; 16]);
        for bytes in [&mut replica[..], &mut secret[..]] {
            getrandom::fill(bytes).map_err(ConnectError::Entropy)?;
        }
        let core = Core::new(Config { url, ..self.config }, Seed(seed));
        let Policy { node, limits, storage, .. } = self.replicas;
        let secret = Some(format!("{:032x}", u128::from_be_bytes(secret)));
        let node = format!("{node}.{:016x}", u64::from_be_bytes(replica));
        let replicas = Replicas::new(Policy { node, secret, limits, storage });
        let inboxes = InboxLimits { items: self.event_buffer, bytes: EVENT_BUFFER_BYTES };
        let shared = Arc::new(Shared::new(core, inboxes));
        let client = Client::new(shared.clone(), replicas);
        let opened = shared.command(|router, now| router.open(now));
        runtime.spawn(Driver::new(shared, dialer, self.provider).run());
        match opened.await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(reason)) => Err(ConnectError::Failed(reason)),
            // The runtime is shutting down.
            Err(_) => Err(ConnectError::Failed(datasole_core::DisconnectReason::ClosedByUser)),
        }
    }
}

impl fmt::Debug for Builder {
    /// Omits the token and the values of headers, which must not appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("path", &self.path).field("headers", &self.headers).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
