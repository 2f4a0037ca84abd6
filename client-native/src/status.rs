//! The connection's status, with times the program can use and a line for people.

use std::{fmt, time::Duration};

use datasole_core::{CloseVerdict, DisconnectReason, Millis, SocketClose, Status as CoreStatus, SyncPhase};

use crate::clock::Instant;

/// The connection, as the program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The client is not connected, and no attempt is under way.
    Disconnected(DisconnectReason),
    /// The first attempt is under way.
    Connecting,
    /// Open.
    Connected {
        /// 1 or 2.
        protocol: u8,
        /// The connection's id on the server; empty on version 1.
        connection_id: String,
        /// The user as the server knows it; `None` on version 1.
        user_id: Option<String>,
        /// Whether the server's contract is the one of `Builder::contract`; `None` where one of both is not known.
        same_contract: Option<bool>,
    },
    /// The connection was lost and another attempt is under way.
    Reconnecting {
        /// Counted from 1.
        attempt: u32,
    },
    /// The connection was lost, and another attempt will follow.
    Waiting {
        /// The time of the attempt; `None` while waiting for [`Hint::Online`](datasole_core::Hint::Online).
        until: Option<Instant>,
        /// The number the attempt will have.
        attempt: u32,
        /// The reason why the last one ended.
        reason: DisconnectReason,
    },
}

impl Status {
    /// True if calls are sent at once.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// `started` is the instant of `Millis(0)`.
    pub(crate) fn new(status: CoreStatus, started: Instant) -> Self {
        match status {
            CoreStatus::Disconnected(reason) => Self::Disconnected(reason),
            CoreStatus::Connecting => Self::Connecting,
            CoreStatus::Connected { protocol, connection_id, user_id, same_contract, .. } => {
                Self::Connected { protocol, connection_id, user_id, same_contract }
            }
            CoreStatus::Reconnecting { attempt } => Self::Reconnecting { attempt },
            CoreStatus::Waiting { until, attempt, reason } => {
                let until = match until {
                    Millis(u64::MAX) => None,
                    Millis(until) => started.checked_add(Duration::from_millis(until)),
                };
                Self::Waiting { until, attempt, reason }
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected(reason) => write!(f, "disconnected: {}", describe(reason)),
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { protocol, .. } => write!(f, "connected (version {protocol})"),
            Self::Reconnecting { attempt } => write!(f, "reconnecting (attempt {attempt})"),
            Self::Waiting { until, attempt, reason } => {
                match until.map(|until| until.saturating_duration_since(Instant::now())) {
                    Some(wait) => write!(f, "attempt {attempt} in {:.1} s: ", wait.as_secs_f32())?,
                    None => write!(f, "waiting for attempt {attempt}: ")?,
                }
                f.write_str(&describe(reason))
            }
        }
    }
}

/// A reason in words.
pub(crate) fn describe(reason: &DisconnectReason) -> String {
    match reason {
        DisconnectReason::Idle => "not connected".into(),
        DisconnectReason::ClosedByUser => "closed".into(),
        DisconnectReason::Closed(SocketClose { code: None, reason, .. }) if !reason.is_empty() => plain(reason),
        DisconnectReason::Closed(SocketClose { http_status: Some(status), .. }) => {
            format!("refused with HTTP status {status}")
        }
        DisconnectReason::Closed(SocketClose { code, reason, .. }) => {
            let what = match code {
                // 1006 is no code that a peer sends; it stands for having none.
                None | Some(1006) => "connection lost".into(),
                Some(code) => format!("closed with code {code}"),
            };
            if reason.is_empty() { what } else { format!("{what}: {}", plain(reason)) }
        }
        DisconnectReason::ConnectTimeout => "the attempt timed out".into(),
        DisconnectReason::HalfOpen => "the server stopped responding".into(),
        DisconnectReason::Protocol(violation) => format!("protocol violation: {violation}"),
        DisconnectReason::Unauthorized(message) => format!("unauthorized: {}", plain(message)),
        DisconnectReason::Offline => "no network".into(),
        other => format!("{other:?}"),
    }
}

/// A text with its control characters escaped: what a peer writes must not command a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { out.extend(character.escape_default()) } else { out.push(character) }
    }
    out
}

/// True if another attempt may succeed.
pub(crate) fn is_passing(reason: &DisconnectReason) -> bool {
    match reason {
        DisconnectReason::Closed(close) => {
            !matches!(CloseVerdict::of(close), CloseVerdict::Stop | CloseVerdict::RetryWithNewToken)
        }
        DisconnectReason::ConnectTimeout | DisconnectReason::HalfOpen | DisconnectReason::Offline => true,
        _ => false,
    }
}

/// The progress of local edits on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// On this connection the server has not told its value yet, or there is no connection; nothing is pending.
    Loading,
    /// This many edits are pending: not stored by the server yet.
    Pending(usize),
    /// All edits are stored by the server.
    Synced,
    /// The server refused to tell the value, or to take edits as well. Asked again with the next connection, and when
    /// the key is opened again.
    Refused {
        /// The error code, one of [`codes`](crate::codes).
        code: i32,
        /// The message, for people.
        message: String,
    },
}

impl SyncStatus {
    pub(crate) fn new(phase: &SyncPhase, pending: usize) -> Self {
        match phase {
            SyncPhase::Refused { code, message } => Self::Refused { code: *code, message: message.clone() },
            _ if pending > 0 => Self::Pending(pending),
            SyncPhase::Unreadable { code, message } => Self::Refused { code: *code, message: message.clone() },
            SyncPhase::Synced => Self::Synced,
            SyncPhase::Loading => Self::Loading,
        }
    }
}

impl fmt::Display for SyncStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => f.write_str("loading"),
            Self::Pending(count) => write!(f, "{count} pending"),
            Self::Synced => f.write_str("synced"),
            Self::Refused { message, .. } => write!(f, "refused: {}", plain(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_words() {
        for (close, text) in [
            (SocketClose::default(), "connection lost"),
            (SocketClose { reason: "reset".into(), ..SocketClose::default() }, "reset"),
            (SocketClose { code: Some(1006), ..SocketClose::default() }, "connection lost"),
            (SocketClose { code: Some(1001), ..SocketClose::default() }, "closed with code 1001"),
            (
                SocketClose { code: Some(4001), reason: "slow".into(), ..SocketClose::default() },
                "closed with code 4001: slow",
            ),
            (SocketClose { http_status: Some(503), ..SocketClose::default() }, "refused with HTTP status 503"),
        ] {
            assert_eq!(describe(&DisconnectReason::Closed(close)), text);
        }
    }

    #[test]
    fn what_a_peer_writes_commands_no_terminal() {
        let text = "no\x1b]0;owned\x07\x1b[2J\u{9b}\n\u{e9}";
        let escaped = "no\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}\\n\u{e9}";
        let close = SocketClose { code: Some(4000), reason: text.into(), ..SocketClose::default() };
        let refused = |code| SyncStatus::Refused { code, message: text.into() };
        let failed = crate::CallFailure::Server { code: 1, message: text.into(), data: None, retry_after: None };
        let command = || datasole_core::CommandError::Refused { code: 1, message: text.into() };
        for shown in [
            Status::Disconnected(DisconnectReason::Closed(close.clone())).to_string(),
            Status::Disconnected(DisconnectReason::Unauthorized(text.into())).to_string(),
            Status::Waiting { until: None, attempt: 1, reason: DisconnectReason::Closed(close.clone()) }.to_string(),
            refused(1).to_string(),
            crate::ConnectError::Failed(DisconnectReason::Closed(close.clone())).to_string(),
            format!("{:?}", crate::ConnectError::Failed(DisconnectReason::Closed(close))),
            crate::CallError::Failed(failed).to_string(),
            crate::EmitError::Refused(command()).to_string(),
            crate::EventError::Refused { code: 1, message: text.into() }.to_string(),
            crate::FollowError::Refused { code: 1, message: text.into() }.to_string(),
            crate::StateError::Refused { code: 1, message: text.into() }.to_string(),
            crate::EditError::Refused { code: 1, message: text.into() }.to_string(),
            crate::EditError::Command(command()).to_string(),
            crate::PresenceError::Command(command()).to_string(),
        ] {
            assert!(shown.ends_with(escaped), "{shown:?}");
        }
    }

    #[test]
    fn a_deadline_becomes_an_instant() {
        let started = Instant::now();
        let waiting = |until| CoreStatus::Waiting { until: Millis(until), attempt: 2, reason: DisconnectReason::Idle };
        let Status::Waiting { until, attempt: 2, .. } = Status::new(waiting(250), started) else { panic!() };
        assert_eq!(until, Some(started + Duration::from_millis(250)));
        assert!(matches!(Status::new(waiting(u64::MAX), started), Status::Waiting { until: None, .. }));
    }
}
