//! The browser's clock and timers.

use std::{future::pending, pin::pin, time::Duration};

use futures_util::future::{Either, select};
use gloo_timers::future::TimeoutFuture;
use web_time::{SystemTime, UNIX_EPOCH};

pub use web_time::Instant;

/// The longest delay of a browser's timer; milliseconds.
const MAX_DELAY: u32 = i32::MAX as u32;

/// Waits; after 24 days at most.
pub(crate) async fn sleep(time: Duration) {
    let millis = u32::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(MAX_DELAY);
    TimeoutFuture::new(millis.min(MAX_DELAY)).await;
}

/// Waits for an instant. Woken too early, the core asks again.
pub(crate) async fn sleep_until(instant: Instant) {
    sleep(instant.saturating_duration_since(Instant::now())).await;
}

/// A future's output, or `None` once the time is over.
pub(crate) async fn timeout<F: Future>(time: Duration, future: F) -> Option<F::Output> {
    match select(pin!(future), pin!(sleep(time))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// The time since the Unix epoch.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A future that never ends.
pub(crate) async fn never<T>() -> T {
    pending().await
}
