//! The words for those that are turned away: the same in the answer's body and in the log, where each kind is told at most
//! once a minute.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::sync::lock;

/// How long a kind that was told is only counted.
const QUIET: Duration = Duration::from_secs(60);

/// The kind of a rejection, named in the header `Datasole-Refused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request is no upgrade to a WebSocket.
    Upgrade,
    /// The handshake is malformed.
    Handshake,
    Origin,
    Host,
    Token,
    /// The authentication hook failed.
    Auth,
    /// Too many of something.
    Limit,
    Closing,
    /// A policy of the application.
    Access,
    /// There is nothing of this name.
    Missing,
    /// The backend failed.
    Backend,
    /// Connections are cut after the same quiet time; no answer, but told like one.
    Cut,
    /// Sockets are not accepted, likewise.
    Accept,
}

impl Kind {
    pub(crate) const COUNT: usize = 13;

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Handshake => "handshake",
            Self::Origin => "origin",
            Self::Host => "host",
            Self::Token => "token",
            Self::Auth => "auth",
            Self::Limit => "limit",
            Self::Closing => "closing",
            Self::Access => "access",
            Self::Missing => "missing",
            Self::Backend => "backend",
            Self::Cut => "cut",
            Self::Accept => "accept",
        }
    }
}

/// The answer to a request that is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    pub(crate) kind: Kind,
    pub(crate) text: Cow<'static, str>,
    /// Seconds after which another attempt may succeed.
    pub(crate) retry_after: Option<u32>,
}

impl Rejection {
    pub(crate) fn new(status: StatusCode, kind: Kind, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind, text: text.into(), retry_after: None }
    }
}

/// When each kind was told last, and how often it came since.
#[derive(Debug, Default)]
pub(crate) struct Rejections(Mutex<[Told; Kind::COUNT]>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Rejections {
    /// Logs a rejection, or counts it if its kind was told within the last minute.
    pub(crate) fn tell(&self, kind: Kind, text: &str, peer: Option<SocketAddr>) {
        let Some(more) = self.due(kind, Instant::now()) else { return };
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(refused = kind.name(), peer, more, "{text}");
    }

    /// The number of untold rejections of this kind, if it is time to tell.
    fn due(&self, kind: Kind, now: Instant) -> Option<u64> {
        let told = &mut lock(&self.0)[kind as usize];
        if told.at.is_some_and(|at| now.duration_since(at) < QUIET) {
            told.since += 1;
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_a_minute_with_a_count() {
        let (rejections, start) = (Rejections::default(), Instant::now());
        let due = |kind, seconds| rejections.due(kind, start + Duration::from_millis(seconds));
        assert_eq!(due(Kind::Origin, 0), Some(0));
        assert_eq!(due(Kind::Origin, 1), None);
        assert_eq!(due(Kind::Cut, 2), Some(0), "another kind");
        assert_eq!(due(Kind::Origin, 59_999), None);
        assert_eq!(due(Kind::Origin, 60_000), Some(2));
        assert_eq!(due(Kind::Origin, 60_001), None);
        assert_eq!(due(Kind::Origin, 120_000), Some(1));
    }
}
