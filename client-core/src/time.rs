//! Time as a plain number. `std::time::Instant` can be made up neither in a test nor in wasm, so it is not used.

use std::ops::{Add, Sub};

/// A point on the host's monotonic clock, in milliseconds; any origin.
///
/// ```
/// use datasole_core::Millis;
/// assert_eq!(Millis(10) + 5, Millis(15));
/// assert_eq!(Millis(10) - Millis(4), 6);
/// assert_eq!(Millis(4) - Millis(10), 0, "a clock that jumps back measures nothing, it does not wrap");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Add<u64> for Millis {
    type Output = Self;

    fn add(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl Sub for Millis {
    type Output = u64;

    fn sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Who armed the deadline that [`Client::poll_timeout`](crate::Client::poll_timeout) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// The attempt to open a socket (and to be greeted on it) ends.
    Connect,
    /// The next attempt to connect begins.
    Reconnect,
    /// A PING is due.
    Ping,
    /// The peer has been silent for two intervals: the connection counts as half open.
    Silence,
    /// An RPC's deadline.
    Call,
    /// The host has not answered [`Output::NeedToken`](crate::Output::NeedToken).
    Token,
}
