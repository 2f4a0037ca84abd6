//! tokio's clock and timers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use tokio::time::Instant;
pub(crate) use tokio::time::sleep_until;

/// A future's output, or `None` once the time is over.
pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(time, future).await.ok()
}

/// The time since the Unix epoch.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
