//! Where the client is between idle and open, and the one open connection: its correlation ids, limits and heartbeat.
//!
//! Only the books and the deadlines; the transitions are the client's.

use crate::{
    config::Config,
    event::SocketId,
    reconnect::STABLE_AFTER,
    time::{Millis, TimerKind},
    wire::{BATCH, Hello, SHORT},
};

/// How long a probe waits for a sign of life, when the host says that the network may have changed; milliseconds. Also
/// the least time a PING is given, however late the host's timer was.
pub(crate) const PROBE: u64 = 5_000;

/// The time after opening at which a client that has not heard HELLO sends a PING: proxies are known to hold back what
/// a server sends together with its 101 until the server sends more; milliseconds.
const NUDGE: u64 = 1_000;

/// Heartbeats that are believed; milliseconds.
const HEARTBEAT: std::ops::RangeInclusive<u64> = 100..=24 * 3_600_000;

/// The way from idle to open and back.
#[derive(Debug, Default)]
pub(crate) enum Phase {
    /// Nothing is under way.
    #[default]
    Idle,
    /// The host was asked for a token.
    Token { deadline: Millis },
    /// The host was asked for a socket.
    Opening { socket: SocketId, deadline: Millis },
    /// Version 2: the socket is open, HELLO (and AUTHED, where `auth` is pending) has not come.
    Greeting { link: Link, deadline: Millis },
    /// Open.
    Open(Link),
    /// The next attempt is due at `until`, or without one when the host is online again.
    Waiting { until: Option<Millis> },
}

impl Phase {
    /// The socket of the attempt or connection.
    pub(crate) fn socket(&self) -> Option<SocketId> {
        match self {
            Self::Opening { socket, .. } => Some(*socket),
            Self::Greeting { link, .. } | Self::Open(link) => Some(link.socket),
            Self::Idle | Self::Token { .. } | Self::Waiting { .. } => None,
        }
    }

    /// The connection, greeted or not.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match self {
            Self::Greeting { link, .. } | Self::Open(link) => Some(link),
            _ => None,
        }
    }

    /// The connection, once it is of use.
    pub(crate) fn open(&self) -> Option<&Link> {
        if let Self::Open(link) = self { Some(link) } else { None }
    }

    /// When it ends by itself, and why.
    pub(crate) fn deadline(&self) -> Option<(Millis, TimerKind)> {
        match self {
            Self::Idle => None,
            Self::Token { deadline } => Some((*deadline, TimerKind::Token)),
            Self::Greeting { link, deadline } if link.nudge() < *deadline => Some((link.nudge(), TimerKind::Ping)),
            Self::Opening { deadline, .. } | Self::Greeting { deadline, .. } => Some((*deadline, TimerKind::Connect)),
            Self::Open(link) => Some(link.deadline()),
            Self::Waiting { until } => until.map(|until| (until, TimerKind::Reconnect)),
        }
    }
}

/// The version that was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// An open socket.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) socket: SocketId,
    pub(crate) version: Version,
    /// The last correlation id given out.
    pub(crate) last_correlation: u32,
    /// The AUTH that has not been answered.
    pub(crate) auth: Option<u32>,
    /// Since when it is of use.
    pub(crate) opened: Millis,
    pub(crate) max_payload: usize,
    /// The server's payloads are no longer.
    pub(crate) announced: usize,
    pub(crate) compress_above: usize,
    /// The server reads batches.
    pub(crate) batches: bool,
    /// The server reads short calls.
    pub(crate) short: bool,
    /// What HELLO announced as `reconnectWindow`.
    pub(crate) window: Option<u64>,
    heartbeat: u64,
    sent: Millis,
    received: Millis,
    /// A PING since the last sign of life.
    pinged: Option<Millis>,
    /// When a probe's patience ends.
    probe: Option<Millis>,
}

impl Link {
    pub(crate) fn new(socket: SocketId, version: Version, now: Millis, config: &Config) -> Self {
        Self {
            socket,
            version,
            last_correlation: 0,
            auth: None,
            opened: now,
            max_payload: config.limits.max_payload,
            announced: 0,
            compress_above: config.limits.compress_above,
            batches: false,
            short: false,
            window: None,
            heartbeat: believed(config.heartbeat),
            sent: now,
            received: now,
            pinged: None,
            probe: None,
        }
    }

    /// Takes over what HELLO announces.
    pub(crate) fn greeted(&mut self, now: Millis, hello: &Hello<'_>) {
        self.opened = now;
        self.max_payload = self.max_payload.min(hello.limits.max_payload);
        self.announced = hello.limits.max_payload;
        self.compress_above = hello.limits.compress_above;
        self.batches = hello.has(BATCH);
        self.short = hello.has(SHORT);
        self.window = hello.reconnect_window;
        self.heartbeat = believed(hello.heartbeat);
    }

    /// Pings at least as often as this.
    pub(crate) fn ping_within(&mut self, millis: u64) {
        self.heartbeat = self.heartbeat.min(millis);
    }

    /// When to ask for HELLO. Never while AUTH is not answered: nothing may come before that answer.
    fn nudge(&self) -> Millis {
        if self.pinged.is_some() || self.auth.is_some() { Millis(u64::MAX) } else { self.opened + NUDGE }
    }

    /// Anything came.
    pub(crate) fn received(&mut self, now: Millis) {
        self.received = now;
        self.pinged = None;
        self.probe = None;
    }

    /// Anything goes out.
    pub(crate) fn sent(&mut self, now: Millis) {
        self.sent = now;
    }

    /// A PING goes out.
    pub(crate) fn pinged(&mut self, now: Millis) {
        self.pinged.get_or_insert(now);
    }

    /// A PING goes out that must be answered soon.
    pub(crate) fn probed(&mut self, now: Millis) {
        self.pinged(now);
        self.probe.get_or_insert(now + PROBE);
    }

    /// The next thing to do, in the order of time: another PING, or to give the connection up.
    pub(crate) fn deadline(&self) -> (Millis, TimerKind) {
        let idle_since = if self.pinged.is_some() { self.sent } else { self.sent.min(self.received) };
        let ping = idle_since + self.heartbeat;
        match self.silence() {
            Some(silence) if silence <= ping => (silence, TimerKind::Silence),
            _ => (ping, TimerKind::Ping),
        }
    }

    /// Two intervals after the last sign of life. A host that slept through them has not asked yet: the first PING is
    /// always given some time.
    fn silence(&self) -> Option<Millis> {
        let pinged = self.pinged?;
        let silence = (self.received + 2 * self.heartbeat).max(pinged + self.heartbeat.min(PROBE));
        Some(self.probe.map_or(silence, |probe| probe.min(silence)))
    }
}

/// Connections that something in between cuts when they are quiet for a time shorter than the heartbeat.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// How long the last connection was quiet before it was lost; milliseconds.
    quiet: u64,
    /// Pings must be at most so far apart.
    pub(crate) every: u64,
}

impl Default for Cuts {
    fn default() -> Self {
        Self { quiet: 0, every: u64::MAX }
    }
}

impl Cuts {
    /// A connection was lost without a word. Twice after almost the same quiet time is no accident.
    pub(crate) fn lost(&mut self, link: &Link, now: Millis) {
        let quiet = now - link.sent.max(link.received);
        if (STABLE_AFTER..link.heartbeat).contains(&quiet) {
            if quiet.abs_diff(self.quiet) <= quiet / 8 {
                self.every = quiet / 2;
            }
            self.quiet = quiet;
        }
    }
}

fn believed(heartbeat: u64) -> u64 {
    heartbeat.clamp(*HEARTBEAT.start(), *HEARTBEAT.end())
}
