//! [`Waits`]: the times that one connection waits for.

use tokio::time::Instant;

/// The times that a connection at rest has none of.
#[derive(Default)]
pub(super) struct Waits {
    /// Until when nothing is read because too much is under way.
    pub(super) paused: Option<Instant>,
    /// Until when the bytes served last for at the rate that is allowed.
    pub(super) paid: Option<Instant>,
    /// The deadline of the first AUTH.
    pub(super) auth: Option<Instant>,
    /// Since when a message has been coming of which the end is missing.
    pub(super) begun: Option<Instant>,
}

impl Waits {
    /// None of them is set.
    pub(super) fn is_over(&self) -> bool {
        [self.paused, self.paid, self.auth, self.begun].iter().all(Option::is_none)
    }
}
