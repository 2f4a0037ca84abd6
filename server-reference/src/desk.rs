//! [`Desk`]: work of milliseconds, done off the async workers, few pieces at a time and one owner after the other.

#[cfg(feature = "docs")]
use std::time::Duration;
use std::{
    collections::VecDeque,
    num::NonZero,
    sync::{Arc, Mutex},
};

use tokio::{runtime::Handle, sync::oneshot};

use crate::sync::lock;

/// The threads that work, and the work that waits.
#[derive(Clone, Debug)]
pub(crate) struct Desk(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// Whose turn is next: the lane, and those who wait in it.
    lanes: VecDeque<(u64, VecDeque<oneshot::Sender<Seat>>)>,
}

/// The right to work; passed on when dropped.
#[derive(Debug)]
struct Seat(Arc<Mutex<Queue>>);

impl Drop for Seat {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        while let Some((lane, mut waiting)) = queue.lanes.pop_front() {
            let Some(next) = waiting.pop_front() else { continue };
            queue.lanes.push_back((lane, waiting));
            drop(queue);
            // A caller that has gone meanwhile drops its seat, which goes on to the next.
            drop(next.send(Self(self.0.clone())));
            return;
        }
        queue.free += 1;
    }
}

impl Default for Desk {
    /// Half of the processors work.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self(Arc::new(Mutex::new(Queue { free: (threads / 2).max(1), lanes: VecDeque::new() })))
    }
}

/// The lane of snapshots that are owed to those who read slowly.
pub(crate) const OWED: u64 = u64::MAX;

impl Desk {
    /// Does work, after what waits in the same lane; lanes take turns. Work that has begun is done to its end, whoever
    /// waits for it. Without a runtime it is done here.
    pub(crate) async fn run<T: Send + 'static>(&self, lane: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
        let Ok(runtime) = Handle::try_current() else { return work() };
        let Some(seat) = self.seat(lane).await else { return work() };
        let done = runtime.spawn_blocking(move || {
            let _seat = seat;
            work()
        });
        match done.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down, and drops the caller, too.
            Err(_) => std::future::pending().await,
        }
    }

    /// Drops what takes long to drop.
    pub(crate) fn discard(value: impl Send + 'static) {
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(value)));
        }
    }

    /// Takes all seats, so that nothing is done until they are dropped.
    #[cfg(test)]
    pub(crate) async fn occupy(&self) -> impl Sized + use<> {
        let mut seats = Vec::new();
        while lock(&self.0).free > 0 {
            seats.push(self.seat(0).await);
        }
        seats
    }

    async fn seat(&self, lane: u64) -> Option<Seat> {
        let seat = {
            let mut queue = lock(&self.0);
            if queue.free > 0 {
                queue.free -= 1;
                return Some(Seat(self.0.clone()));
            }
            let (sender, seat) = oneshot::channel();
            match queue.lanes.iter_mut().find(|(known, _)| *known == lane) {
                Some((_, waiting)) => waiting.push_back(sender),
                None => queue.lanes.push_back((lane, VecDeque::from([sender]))),
            }
            seat
        };
        seat.await.ok()
    }
}

/// The processor time that this thread has taken: of use on a loaded machine, too.
#[cfg(all(unix, feature = "docs"))]
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// The time, where that of a thread is not known.
#[cfg(all(not(unix), feature = "docs"))]
pub(crate) fn thread_time() -> Duration {
    static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    BEGAN.get_or_init(std::time::Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    fn narrow() -> Arc<Desk> {
        Arc::new(Desk(Arc::new(Mutex::new(Queue { free: 1, lanes: VecDeque::new() }))))
    }

    /// Holds the desk while work of these lanes queues up; the order in which it is done.
    async fn order(lanes: &[u64], cancelled: &[usize]) -> Vec<(u64, usize)> {
        let (desk, done) = (narrow(), Arc::new(Mutex::new(Vec::new())));
        let seat = desk.seat(0).await.unwrap();
        let mut tasks = Vec::new();
        for (number, &lane) in lanes.iter().enumerate() {
            let (own, done) = (desk.clone(), done.clone());
            tasks.push(tokio::spawn(async move { own.run(lane, move || lock(&done).push((lane, number))).await }));
            while lock(&desk.0).lanes.iter().map(|(_, waiting)| waiting.len()).sum::<usize>() <= number {
                yield_now().await;
            }
        }
        for &number in cancelled {
            tasks[number].abort();
        }
        yield_now().await;
        drop(seat);
        for task in tasks {
            drop(task.await);
        }
        let queue = lock(&desk.0);
        assert_eq!((queue.free, queue.lanes.len()), (1, 0), "nothing is left");
        drop(queue);
        lock(&done).clone()
    }

    #[tokio::test]
    async fn lanes_take_turns() {
        let flood = [1, 1, 1, 1, 2, 3];
        assert_eq!(order(&flood, &[]).await, [(1, 0), (2, 4), (3, 5), (1, 1), (1, 2), (1, 3)]);
    }

    #[tokio::test]
    async fn who_has_gone_is_passed_over() {
        assert_eq!(order(&[1, 1, 2], &[0, 2]).await, [(1, 1)]);
    }

    #[tokio::test]
    async fn work_is_done_elsewhere_and_returns() {
        let here = std::thread::current().id();
        assert_ne!(narrow().run(1, move || std::thread::current().id()).await, here);
    }

    #[cfg(feature = "docs")]
    #[test]
    fn a_thread_that_sleeps_takes_no_time() {
        let before = thread_time();
        std::thread::sleep(Duration::from_millis(30));
        assert!(thread_time() - before < Duration::from_millis(20));
    }
}
