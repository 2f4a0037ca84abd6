//! [`Following`]: what a node remembers of how it follows the log, and [`Lag`]: whether a stream is behind.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{runtime::Handle, sync::Semaphore, task::AbortHandle};

/// The unit of the times of streams.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// Ticks for which the news of a stream still come when nobody needs it, and after which one without news is checked.
pub(super) const LINGER: u64 = 6;
/// Streams that catch up at the same time.
const CATCHING_UP: usize = 16;

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

/// The task that hears the news.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) runtime: Handle,
    pub(super) task: AbortHandle,
}

/// What a node needs to follow.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) listening: OnceLock<Option<Listening>>,
    /// How many ticks have passed.
    pub(super) ticks: AtomicU64,
    pub(super) lost: Lag,
    /// Whether somebody looks for streams that other nodes have created.
    pub(super) births: Lag,
    pub(super) catching_up: Arc<Semaphore>,
}

impl Default for Following {
    fn default() -> Self {
        Self {
            listening: OnceLock::new(),
            ticks: AtomicU64::new(0),
            lost: Lag::default(),
            births: Lag::default(),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP)),
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(Some(listening)) = self.listening.get() {
            listening.task.abort();
        }
    }
}
