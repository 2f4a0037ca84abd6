//! [`Lag`]: whether a stream is behind the log; and how long news go on.

use std::sync::atomic::{AtomicU8, Ordering};

/// Ticks for which the news of a stream still come when nobody needs it, and after which one without news is checked.
pub(super) const LINGER: u64 = 6;

/// Whether somebody brings a stream up to date.
#[derive(Debug, Default)]
pub(super) struct Lag(AtomicU8);

const CURRENT: u8 = 0;
const BEHIND: u8 = 1;
/// Behind, and more has come since.
const FURTHER: u8 = 2;

impl Lag {
    /// Takes note of what is missing: whether the caller is the one to get it.
    pub(super) fn begin(&self) -> bool {
        let further = |state| Some(if state == CURRENT { BEHIND } else { FURTHER });
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, further) == Ok(CURRENT)
    }

    /// Ends what `begin` began, unless more has come since.
    pub(super) fn end(&self) -> bool {
        if self.0.compare_exchange(BEHIND, CURRENT, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
        self.0.store(BEHIND, Ordering::SeqCst);
        false
    }
}
