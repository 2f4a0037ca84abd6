//! The server's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time, for timestamps and the age of entries; Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
