//! What the host decides before it connects. Everything has a default but the URL.

/// A client's configuration.
///
/// ```
/// use datasole_core::Config;
/// let config = Config { token: Some("secret".into()), ..Config::new("wss://example.org/__ds") };
/// assert_eq!(config.call_timeout, 30_000);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The endpoint, `ws://` or `wss://`, with its path (see [`Config::endpoint`]). Several, of nodes that are one server,
    /// are separated by spaces: the client begins with one at random and goes on to the next whenever an attempt fails, a
    /// connection ends within a second, or the server says that it goes away or starts again (1001, 1012).
    pub url: String,
    /// The first token; `None` for anonymous clients.
    pub token: Option<String>,
    /// How a token reaches the server.
    pub token_via: TokenVia,
    /// Ask the host for a token ([`Output::NeedToken`](crate::Output::NeedToken)) before every attempt.
    pub ask_token: bool,
    /// When and how often to try again.
    pub reconnect: Reconnect,
    /// How long an attempt may take until the socket is open and, on version 2, HELLO has come; milliseconds.
    pub connect_timeout: u64,
    /// How long the host may take to answer `NeedToken`; milliseconds.
    pub token_timeout: u64,
    /// An RPC's deadline where the call names none; milliseconds.
    pub call_timeout: u64,
    /// The heartbeat until HELLO announces another, and the one on version 1; milliseconds.
    pub heartbeat: u64,
    /// The hash of the contract that the program was built with, which [`Status::Connected`](crate::Status::Connected)
    /// compares with the server's.
    pub contract: Option<String>,
    /// Offer version 2 beside version 1. Off, the client speaks version 1 to any server.
    pub offer_v2: bool,
    /// Between two announcements in a presence room or of a document's awareness, where [`Client::open`] names no other
    /// time; milliseconds.
    ///
    /// [`Client::open`]: crate::Client::open
    pub presence_throttle: u64,
    /// How long a state or topic is followed after its last follower has gone, in case one comes back; milliseconds.
    pub linger: u64,
    /// Keep a document per subscribed state key inside the core (needs the feature `mirror`).
    pub mirror: bool,
    /// Bounds of everything a peer or a caller could make grow.
    pub limits: Limits,
}

impl Config {
    /// The defaults, for the endpoint `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            token_via: TokenVia::Url,
            ask_token: false,
            reconnect: Reconnect::default(),
            connect_timeout: 10_000,
            token_timeout: 10_000,
            call_timeout: 30_000,
            heartbeat: 25_000,
            contract: None,
            offer_v2: true,
            presence_throttle: 50,
            linger: 5_000,
            mirror: false,
            limits: Limits::default(),
        }
    }

    /// The endpoint for a base URL as apps give it: `http`, `https`, `ws` or `wss`, with or without a trailing slash,
    /// and the path of the endpoint.
    ///
    /// ```
    /// use datasole_core::Config;
    /// assert_eq!(Config::endpoint("https://example.org/", "/__ds").as_deref(), Some("wss://example.org/__ds"));
    /// assert_eq!(Config::endpoint("ws://127.0.0.1:4000", "__ds").as_deref(), Some("ws://127.0.0.1:4000/__ds"));
    /// assert_eq!(Config::endpoint("ftp://example.org", "/__ds"), None);
    /// ```
    pub fn endpoint(base: &str, path: &str) -> Option<String> {
        let (scheme, rest) = base.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" | "ws" => "ws",
            "https" | "wss" => "wss",
            _ => return None,
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        if rest.is_empty() {
            return None;
        }
        Some(format!("{scheme}://{rest}/{}", path.trim_start_matches('/')))
    }
}

/// How a token reaches the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenVia {
    /// As `?token=…` of the endpoint's URL: works with version 1 servers, but proxies may log it.
    #[default]
    Url,
    /// In an AUTH frame after opening. The server must speak version 2.
    Frame,
    /// The host sends it (an `Authorization` header); the core only keeps quiet about it.
    Host,
}

/// Exponential backoff with full jitter: attempt n waits a uniformly random time up to `min(cap, base * 2^n)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// Try again after an attempt has failed or a connection was lost. Without, several endpoints are tried once each.
    pub enabled: bool,
    /// The first attempt's upper bound; milliseconds.
    pub base: u64,
    /// Every attempt's upper bound; milliseconds.
    pub cap: u64,
    /// Give up after this many failed attempts in a row, not counting the one that `connect` makes; `None` never does.
    /// A connection that lasted less than a second counts as a failed attempt. Several endpoints are tried once each in any case.
    pub max_attempts: Option<u32>,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { enabled: true, base: 1_000, cap: 30_000, max_attempts: None }
    }
}

/// Bounds. A server's HELLO may lower `max_payload` for what we send and sets `compress_above`; it raises the bounds on what we
/// accept up to `max_received`, and no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest payload of a frame, either way; bytes.
    pub max_payload: usize,
    /// Longest payload that is accepted of a server whose HELLO announces so long ones; bytes.
    pub max_received: usize,
    /// Longest compressed message accepted; bytes.
    pub max_compressed: usize,
    /// Longest inflated message accepted; bytes.
    pub max_inflated: usize,
    /// Frames longer than this are compressed; bytes of header and payload.
    pub compress_above: usize,
    /// Calls without an answer yet, queued ones included.
    pub max_pending_calls: usize,
    /// Calls and events waiting for a connection.
    pub max_queued: usize,
    /// The same, in bytes of payload.
    pub max_queued_bytes: usize,
    /// Subscriptions, and on version 1 the number of mirrored keys.
    pub max_subscriptions: usize,
    /// Longest method, event or key name; bytes.
    pub max_name: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: 1024 * 1024,
            max_received: 64 * 1024 * 1024,
            max_compressed: 4 * 1024 * 1024,
            max_inflated: 16 * 1024 * 1024,
            compress_above: 256,
            max_pending_calls: 1_024,
            max_queued: 1_024,
            max_queued_bytes: 4 * 1024 * 1024,
            max_subscriptions: 1_024,
            max_name: 256,
        }
    }
}
