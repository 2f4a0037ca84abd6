//! The gate of a node under the scheduler: before and after every operation.

use tokio::sync::{mpsc, oneshot};

use super::{Chaos, Faults, State, Verdict, wrap};
use crate::{
    backend::{
        bus::{Bus, Delivery},
        error::BackendError,
        log::{Log, News},
    },
    sync::lock,
};

/// The gate that every operation of one node passes.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) chaos: Chaos,
    pub(super) node: usize,
}

fn failed(why: &str) -> BackendError {
    BackendError::Unavailable(why.to_owned())
}

impl Gate {
    /// Waits until the scheduler lets the node's operation go on.
    async fn wait(&self) -> Result<(), BackendError> {
        let verdict = {
            let mut inner = lock(&self.chaos.inner);
            if inner.nodes.get(&self.node).is_none_or(|node| node.state == State::Stopped) {
                return Err(failed("the node is stopped"));
            }
            let (gate, verdict) = oneshot::channel();
            inner.waiting.push((self.node, gate));
            verdict
        };
        match verdict.await {
            Ok(Verdict::Proceed) => Ok(()),
            Ok(Verdict::Fail) | Err(_) => Err(failed("the node was stopped")),
        }
    }

    fn draw(&self, fault: impl FnOnce(&Faults) -> u16) -> bool {
        let mut inner = lock(&self.chaos.inner);
        let thousandths = fault(&inner.faults);
        inner.seed.happens(thousandths)
    }
}

impl wrap::Gate for Gate {
    async fn pass<T: Send>(
        &self,
        operation: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> Result<T, BackendError> {
        self.wait().await?;
        if self.draw(|faults| faults.refuse) {
            return Err(failed("the request was lost"));
        }
        let answer = operation.await;
        let is_lost = self.draw(|faults| faults.lose_answer);
        self.wait().await?;
        if is_lost { Err(failed("the answer was lost")) } else { answer }
    }

    fn news(&self, _log: &dyn Log) -> Result<mpsc::Receiver<News>, BackendError> {
        let mut inner = lock(&self.chaos.inner);
        let node = inner.nodes.get_mut(&self.node).ok_or_else(|| failed("there is no such node"))?;
        node.news.take("news")
    }

    fn inbox(&self, _bus: &dyn Bus) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        let mut inner = lock(&self.chaos.inner);
        let node = inner.nodes.get_mut(&self.node).ok_or_else(|| failed("there is no such node"))?;
        node.inbox.take("inbox")
    }
}
