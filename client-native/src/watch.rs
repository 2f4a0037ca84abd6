//! [`Watchers`]: what the program wants called whenever there is something new to read.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

type Watcher = Arc<dyn Fn() + Send + Sync>;

/// The watchers of a client, for its whole life.
#[derive(Default)]
pub(crate) struct Watchers {
    all: Mutex<Vec<Watcher>>,
}

impl Watchers {
    pub(crate) fn add(&self, watcher: impl Fn() + Send + Sync + 'static) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(watcher));
    }

    /// Calls all of them, under no lock. One that panics must not end the client's task.
    pub(crate) fn tell(&self) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for watcher in all {
            if catch_unwind(AssertUnwindSafe(|| watcher())).is_err() {
                tracing::error!("a function given to `on_change` panicked");
            }
        }
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").finish_non_exhaustive()
    }
}
