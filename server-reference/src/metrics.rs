//! The server's counters. Each is exact; together they are no snapshot (relaxed atomics).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

#[derive(Debug)]
pub(crate) struct Metrics {
    since: Instant,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) messages_in: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) calls: AtomicU64,
    pub(crate) call_errors: AtomicU64,
    pub(crate) fell_behind: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            messages_in: AtomicU64::default(),
            bytes_in: AtomicU64::default(),
            messages_out: AtomicU64::default(),
            bytes_out: AtomicU64::default(),
            malformed: AtomicU64::default(),
            calls: AtomicU64::default(),
            call_errors: AtomicU64::default(),
            fell_behind: AtomicU64::default(),
        }
    }
}

/// Messages between nodes that came to nothing, by why.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    /// Times that messages were lost because this node was slow.
    pub(crate) lost: AtomicU64,
    /// Messages that made no sense.
    pub(crate) malformed: AtomicU64,
    /// Messages that the bus did not take.
    pub(crate) unsent: AtomicU64,
}

/// The server's counters since it started; from [`Server::metrics_snapshot`](crate::Server::metrics_snapshot).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct MetricsSnapshot {
    /// Seconds since the server was built.
    pub uptime: u64,
    /// Connections now open and authenticated.
    pub connections: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Attempts that were refused: origin, credentials, limits.
    pub refused: u64,
    /// Binary messages received.
    pub messages_in: u64,
    /// Bytes of binary messages, as received.
    pub bytes_in: u64,
    /// Binary messages written to WebSockets. Several frames of the protocol may share one.
    pub messages_out: u64,
    /// Bytes written to WebSockets.
    pub bytes_out: u64,
    /// Messages that broke the protocol, on either layer.
    pub malformed: u64,
    /// Calls.
    pub calls: u64,
    /// Calls that ended in an error.
    pub call_errors: u64,
    /// Connections closed for falling behind.
    pub fell_behind: u64,
    /// Times that messages of other nodes were lost, because this one was slow.
    pub bus_lost: u64,
    /// Messages of other nodes that made no sense.
    pub bus_malformed: u64,
    /// Messages for other nodes that the bus did not take.
    pub bus_unsent: u64,
}

impl Metrics {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, connections: usize, relayed: &Relayed) -> MetricsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MetricsSnapshot {
            uptime: self.since.elapsed().as_secs(),
            connections: connections as u64,
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            messages_in: read(&self.messages_in),
            bytes_in: read(&self.bytes_in),
            messages_out: read(&self.messages_out),
            bytes_out: read(&self.bytes_out),
            malformed: read(&self.malformed),
            calls: read(&self.calls),
            call_errors: read(&self.call_errors),
            fell_behind: read(&self.fell_behind),
            bus_lost: read(&relayed.lost),
            bus_malformed: read(&relayed.malformed),
            bus_unsent: read(&relayed.unsent),
        }
    }
}
