//! [`Builder`]: the options of a client, checked when connecting.

use std::{fmt, sync::Arc, time::Duration};

use datasole_core::{Client as Core, Config, DisconnectReason, Limits, Reconnect, Seed, TokenVia, crdt::CrdtLimits};
use tokio::sync::oneshot;

use crate::{
    clock,
    crdt::{CrdtStorage, Policy, Replicas},
    driver::{Driver, TokenProvider},
    error::ConnectError,
    handle::Client,
    host::{self, MaybeSend, MaybeSync, Runtime},
    inbox::InboxLimits,
    router::Shared,
    status::Status,
};

/// Bytes of event data that one subscriber may have waiting.
const EVENT_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How long a closing handshake may take, unless the program says otherwise.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a client; from [`Client::builder`].
#[derive(Clone)]
#[must_use = "nothing happens before `start` or `connect`"]
pub struct Builder {
    urls: Vec<String>,
    path: String,
    config: Config,
    provider: Option<TokenProvider>,
    pub(crate) host: host::Options,
    #[cfg(feature = "contract")]
    contract: Option<Result<String, datasole_contract::ContractError>>,
    /// How long `connect` waits.
    patience: Option<Duration>,
    close_timeout: Duration,
    event_buffer: usize,
    replicas: Policy,
}

impl Client {
    /// Options for the server at a URL: `http`, `https`, `ws` or `wss`, with or without a trailing slash. Several URLs are
    /// nodes that are one server: the client begins with one at random and goes on to the next when one does not answer.
    ///
    /// ```
    /// use datasole_client::Client;
    /// let one = Client::builder("https://example.org");
    /// let three = Client::builder(["https://a.example.org", "https://b.example.org", "https://c.example.org"]);
    /// ```
    pub fn builder(urls: impl Urls) -> Builder {
        Builder::new(urls.urls())
    }
}

/// One URL or several: what [`Client::builder`] takes.
pub trait Urls: sealed::Sealed {
    /// The URLs.
    #[doc(hidden)]
    fn urls(self) -> Vec<String>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! urls {
    ($([$($generic:tt)*] $type:ty: |$given:ident| $urls:expr;)*) => {$(
        impl<$($generic)*> sealed::Sealed for $type {}
        impl<$($generic)*> Urls for $type {
            fn urls(self) -> Vec<String> {
                let $given = self;
                $urls
            }
        }
    )*};
}

urls! {
    [] &str: |url| vec![url.into()];
    [] &String: |url| vec![url.clone()];
    [] String: |url| vec![url];
    [S: Into<String>, const N: usize] [S; N]: |urls| urls.into_iter().map(Into::into).collect();
    [S: Into<String>] Vec<S>: |urls| urls.into_iter().map(Into::into).collect();
    [S: AsRef<str>] &[S]: |urls| urls.iter().map(|url| url.as_ref().into()).collect();
}

impl Builder {
    fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            path: "/__ds".into(),
            config: Config { mirror: true, ..Config::new("") },
            provider: None,
            host: host::Options::new(),
            #[cfg(feature = "contract")]
            contract: None,
            patience: None,
            close_timeout: CLOSE_TIMEOUT,
            event_buffer: 1_024,
            replicas: Policy { node: "native".into(), secret: None, limits: CrdtLimits::default(), storage: None },
        }
    }

    /// Sets the endpoint's path; `/__ds` by default.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Names the contract that the program was built with: [`Status::Connected`] tells whether the server has the same, and
    /// a difference is logged once.
    #[cfg(feature = "contract")]
    pub fn contract<C: datasole_contract::Contract>(mut self) -> Self {
        self.contract = Some(datasole_contract::describe::<C>().map(|contract| contract.hash()));
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
        F: Fn() -> Fut + MaybeSync + 'static,
        Fut: Future<Output = Result<Option<String>, E>> + MaybeSend + 'static,
        E: fmt::Display,
    {
        self.config.ask_token = true;
        self.provider = Some(host::function(move || {
            let token = provider();
            Box::pin(async move { token.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    /// Sets the policy of reconnecting.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Self {
        self.config.reconnect = reconnect;
        self
    }

    /// Sets the time within which [`connect`](Self::connect) has a connection or fails, and the maximum time of each
    /// attempt. By default an attempt takes at most 10 s, and `connect` waits as long as attempts are made.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.patience = Some(timeout);
        self.config.connect_timeout = millis(timeout);
        self
    }

    /// Sets the time that [`Client::close`] waits for the server to agree; 5 s by default.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets the default time-out of calls; 30 s by default.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.config.call_timeout = millis(timeout);
        self
    }

    /// Sets how long a state or topic is followed after its last handle has gone, in case there is another one soon; 5 s by
    /// default.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = millis(linger);
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

    /// Starts a client, which connects in the background and is of use at once: states and events can be followed, CRDTs and
    /// documents edited, calls and events wait for the connection. [`Client::status`] tells how far it is.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] for options that cannot be used, and outside a tokio runtime.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), datasole_client::ConnectError> {
    /// let client = datasole_client::Client::builder("http://localhost:4000").start()?;
    /// assert!(!client.status().is_connected());
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(self) -> Result<Client, ConnectError> {
        self.launch().map(|(client, _)| client)
    }

    /// Connects, and returns once the connection is open and authenticated. Attempts that fail are repeated as
    /// [`reconnect`](Self::reconnect) says. Dropping the future gives up.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: the options cannot be used, the server refuses this client for good, no more attempts are allowed,
    /// or [`connect_timeout`](Self::connect_timeout) was set and has passed.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let patience = self.patience;
        let (client, opened) = self.launch()?;
        let opened = match patience {
            Some(patience) => clock::timeout(patience, opened).await,
            None => Some(opened.await),
        };
        let reason = match opened {
            Some(Ok(Ok(()))) => return Ok(client),
            Some(Ok(Err(reason))) => reason,
            // The runtime is shutting down.
            Some(Err(_)) => DisconnectReason::ClosedByUser,
            None => match client.status() {
                Status::Waiting { reason, .. } => reason,
                _ => DisconnectReason::ConnectTimeout,
            },
        };
        Err(ConnectError::Failed(reason))
    }

    /// Starts the client's task; how connecting ends comes through the channel.
    fn launch(self) -> Result<(Client, oneshot::Receiver<Result<(), DisconnectReason>>), ConnectError> {
        let runtime = Runtime::current().ok_or(ConnectError::NoRuntime)?;
        #[cfg(feature = "contract")]
        let contract = self.contract.transpose()?;
        #[cfg(not(feature = "contract"))]
        let contract = None;
        let endpoints: Option<Vec<String>> =
            self.urls.iter().map(|url| Config::endpoint(url, &self.path).filter(|url| !url.contains(' '))).collect();
        let endpoints = endpoints.filter(|endpoints| !endpoints.is_empty()).ok_or(ConnectError::Url)?;
        let dialer = self.host.dialer(self.config.limits, &endpoints)?;
        let url = endpoints.join(" ");
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(ConnectError::Entropy)?;
        let (mut replica, mut secret) = ([0; 8], [0; 16]);
        for bytes in [&mut replica[..], &mut secret[..]] {
            getrandom::fill(bytes).map_err(ConnectError::Entropy)?;
        }
        let core = Core::new(Config { url, contract, ..self.config }, Seed(seed));
        let Policy { node, limits, storage, .. } = self.replicas;
        let secret = Some(format!("{:032x}", u128::from_be_bytes(secret)));
        let node = format!("{node}.{:016x}", u64::from_be_bytes(replica));
        let replicas = Replicas::new(Policy { node, secret, limits, storage });
        let inboxes = InboxLimits { items: self.event_buffer, bytes: EVENT_BUFFER_BYTES };
        let shared = Arc::new(Shared::new(core, inboxes));
        let client = Client::new(shared.clone(), replicas);
        let opened = shared.command(|router, now| router.open(now));
        runtime.spawn(Driver::new(shared, dialer, self.provider, self.close_timeout).run());
        Ok((client, opened))
    }
}

impl fmt::Debug for Builder {
    /// Omits the token and the values of headers, which must not appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("path", &self.path).field("host", &self.host).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
