//! Whether the backend stores what it is given, told by the last append and by a probe after one that failed.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{backend::BackendError, sync::lock};

/// The shortest time between two probes, and the longest that one may take.
pub(super) const PROBE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Standing {
    failing: AtomicBool,
    probed: Mutex<Option<Instant>>,
}

impl Standing {
    /// Takes note of an append. What is wrong with the request itself says nothing about the backend.
    pub(super) fn observe<T>(&self, outcome: &Result<T, BackendError>) {
        let failed = match outcome {
            Ok(_) => false,
            Err(BackendError::Invalid(_)) => return,
            Err(_) => true,
        };
        if self.is_failing() == failed {
            return;
        }
        self.failing.store(failed, Ordering::Relaxed);
        match outcome {
            Ok(_) => tracing::info!("the backend stores again"),
            Err(error) => tracing::error!(%error, "the backend does not store"),
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// True if another probe may be made now.
    pub(super) fn may_probe(&self) -> bool {
        let (now, mut probed) = (Instant::now(), lock(&self.probed));
        let may = probed.is_none_or(|at| at + PROBE <= now);
        if may {
            *probed = Some(now);
        }
        may
    }
}
