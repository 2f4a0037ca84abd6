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

/// The longest step of the host's clock that is believed; milliseconds. Keeps sums far from overflow.
const LONGEST_STEP: u64 = 365 * 24 * 3_600_000;

/// The core's own time: it stands still when the host's clock jumps back, so that no deadline moves out of reach.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    host: Millis,
    core: Millis,
}

impl Clock {
    /// Follows the host's clock.
    pub(crate) fn advance(&mut self, host: Millis) {
        self.core = self.core + (host - self.host).min(LONGEST_STEP);
        self.host = host;
    }

    pub(crate) fn now(&self) -> Millis {
        self.core
    }

    /// A point of the core's time, now or later, on the host's clock.
    pub(crate) fn to_host(&self, deadline: Millis) -> Millis {
        self.host + (deadline - self.core)
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
    /// Something is due on a stream: an announcement, another try, or its end after the last follower has gone.
    Stream,
    /// The host has not answered [`Output::NeedToken`](crate::Output::NeedToken).
    Token,
}

#[cfg(test)]
mod tests {
    use super::{Clock, Millis};

    #[test]
    fn deadlines_survive_jumps_of_the_host_clock() {
        let mut clock = Clock::default();
        clock.advance(Millis(1_000_000));
        let deadline = clock.now() + 500;
        for (host, left) in [(1_000_100, 400), (20, 400), (120, 300), (0, 300), (u64::MAX, 0), (5, 0)] {
            clock.advance(Millis(host));
            assert_eq!(deadline - clock.now(), left, "at {host}");
            assert_eq!(clock.to_host(deadline), Millis(host) + left);
        }
    }
}
