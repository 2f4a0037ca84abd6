//! [`Watch`]: how long the thread of a runtime is kept by one task, or a few that are ready together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::task::yield_now;

use crate::process::thread_time;

/// The longest time that the thread worked without coming back to a task of ours, which is always ready. CPU time: what others
/// on the machine do does not count.
#[derive(Default)]
pub(crate) struct Watch(Arc<AtomicU64>);

impl Watch {
    /// Watches from now on; the runtime does not sleep any more.
    pub(crate) fn start(&self) {
        let longest = self.0.clone();
        tokio::spawn(async move {
            let mut before = thread_time();
            loop {
                yield_now().await;
                let after = thread_time();
                longest.fetch_max((after - before).as_nanos() as u64, Ordering::Relaxed);
                before = after;
            }
        });
    }

    /// The longest time since this was asked last; nanoseconds.
    pub(crate) async fn longest(&self) -> u64 {
        // Until the task has had a turn since what was done last.
        for _ in 0..2 {
            yield_now().await;
        }
        self.0.swap(0, Ordering::Relaxed)
    }
}
