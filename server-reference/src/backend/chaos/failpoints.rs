//! Points at which a node is late or ends, in real time, for tests with processes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::mpsc, time::sleep};

use super::{Seed, wrap};
use crate::{
    backend::{
        bus::{Bus, Delivery},
        error::BackendError,
        log::{Log, News},
        node::Backend,
    },
    sync::lock,
};

/// How long an operation may be held up, at most; milliseconds.
const LATE: usize = 1_500;
/// How long an engine takes at most to tell others of what it has stored; milliseconds.
const TOLD: Duration = Duration::from_millis(20);

/// Where a node can fail around an operation of its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Nothing has reached the engine.
    Before,
    /// The engine has answered. What the node itself tells others of it may not be on its way.
    Stored,
    /// Others have been told, and the caller is not answered.
    Published,
}

impl Failpoint {
    /// Every point.
    pub const ALL: [Self; 3] = [Self::Before, Self::Stored, Self::Published];
}

/// How often a node fails; in thousandths of its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// The operation is held up at a point.
    pub late: u16,
    /// The node ends at a point.
    pub end: u16,
}

/// The points of one node.
#[derive(Clone)]
pub struct Failpoints {
    drawn: Arc<Mutex<(Seed, Rates)>>,
    end: Arc<dyn Fn(Failpoint) + Send + Sync>,
}

impl Failpoints {
    /// Draws from `seed`; `end` ends the node, as a crash would.
    pub fn new(seed: u64, rates: Rates, end: impl Fn(Failpoint) + Send + Sync + 'static) -> Self {
        Self { drawn: Arc::new(Mutex::new((Seed(seed), rates))), end: Arc::new(end) }
    }

    /// Changes how often the node fails from now on.
    pub fn set_rates(&self, rates: Rates) {
        lock(&self.drawn).1 = rates;
    }

    /// The handles of a node, with these points around every operation.
    pub fn wrap(&self, engine: Backend) -> Backend {
        wrap::engine(engine, self.clone())
    }

    /// What happens to an operation: where it is held up, and for how long; where the node ends.
    fn draw(&self) -> (Option<(Failpoint, Duration)>, Option<Failpoint>) {
        let (seed, rates) = &mut *lock(&self.drawn);
        let mut point = |rate| {
            let happens = seed.happens(rate);
            let [one, two, three] = Failpoint::ALL;
            let point = match seed.below(3) {
                0 => one,
                1 => two,
                _ => three,
            };
            happens.then_some(point)
        };
        let (late, end) = (point(rates.late), point(rates.end));
        let wait = Duration::from_millis(u64::try_from(seed.below(LATE)).unwrap_or(0));
        (late.map(|point| (point, wait)), end)
    }

    async fn reach(&self, here: Failpoint, late: Option<(Failpoint, Duration)>, end: Option<Failpoint>) {
        if let Some((_, wait)) = late.filter(|(point, _)| *point == here) {
            sleep(wait).await;
        }
        if end == Some(here) {
            (self.end)(here);
        }
    }
}

impl wrap::Gate for Failpoints {
    async fn pass<T: Send>(
        &self,
        operation: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        let (late, end) = self.draw();
        self.reach(Failpoint::Before, late, end).await;
        let answer = operation.await;
        self.reach(Failpoint::Stored, late, end).await;
        let is_published = |point: Failpoint| point == Failpoint::Published;
        if late.is_some_and(|(point, _)| is_published(point)) || end.is_some_and(is_published) {
            sleep(TOLD).await;
            self.reach(Failpoint::Published, late, end).await;
        }
        answer
    }

    fn news(&self, log: &dyn Log) -> Result<mpsc::Receiver<News>, BackendError> {
        log.news()
    }

    fn inbox(&self, bus: &dyn Bus) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        bus.inbox()
    }
}
