//! The three contracts with a gate before and after every operation.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use tokio::sync::{mpsc, oneshot};

use super::{Chaos, State, Verdict};
use crate::{
    backend::{
        bus::{Address, Bus, Delivery, NodeId},
        error::BackendError,
        kv::{Expected, Kv, Lease, Quota, Taken, Version},
        log::{Append, Appended, Loaded, Log, Mark, News},
        node::Backend,
    },
    sync::lock,
};

/// The gate that every operation of one node passes.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) chaos: Chaos,
    pub(super) node: usize,
}

/// A contract behind a gate.
struct Gated<T: ?Sized> {
    gate: Gate,
    inner: Arc<T>,
}

pub(super) fn engine(engine: Backend, gate: Gate) -> Backend {
    Backend {
        log: Arc::new(Gated { gate: gate.clone(), inner: engine.log }),
        bus: Arc::new(Gated { gate: gate.clone(), inner: engine.bus }),
        kv: Arc::new(Gated { gate, inner: engine.kv }),
    }
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

    fn draw(&self, fault: impl FnOnce(&super::Faults) -> u16) -> bool {
        let mut inner = lock(&self.chaos.inner);
        let thousandths = fault(&inner.faults);
        inner.seed.happens(thousandths)
    }

    async fn pass<T>(&self, operation: impl Future<Output = Result<T, BackendError>>) -> Result<T, BackendError> {
        self.wait().await?;
        if self.draw(|faults| faults.refuse) {
            return Err(failed("the request was lost"));
        }
        let answer = operation.await;
        let is_lost = self.draw(|faults| faults.lose_answer);
        self.wait().await?;
        if is_lost { Err(failed("the answer was lost")) } else { answer }
    }
}

#[async_trait]
impl Log for Gated<dyn Log> {
    async fn append(&self, append: Append<'_>) -> Result<Appended, BackendError> {
        self.gate.pass(self.inner.append(append)).await
    }

    async fn load(&self, stream: &StreamId, since: Option<Mark>) -> Result<Loaded, BackendError> {
        self.gate.pass(self.inner.load(stream, since)).await
    }

    async fn heads(&self, streams: &[StreamId]) -> Result<Vec<Option<Mark>>, BackendError> {
        self.gate.pass(self.inner.heads(streams)).await
    }

    async fn snapshot(&self, stream: &StreamId, at: Mark, bytes: Bytes, keep: u64) -> Result<(), BackendError> {
        self.gate.pass(self.inner.snapshot(stream, at, bytes, keep)).await
    }

    async fn remove(&self, stream: &StreamId, at: Mark) -> Result<(), BackendError> {
        self.gate.pass(self.inner.remove(stream, at)).await
    }

    async fn keys(&self, kind: StreamKind, after: Option<&str>, limit: usize) -> Result<Vec<String>, BackendError> {
        self.gate.pass(self.inner.keys(kind, after, limit)).await
    }

    async fn follow(&self, streams: &[StreamId]) -> Result<(), BackendError> {
        self.gate.pass(self.inner.follow(streams)).await
    }

    fn unfollow(&self, streams: &[StreamId]) {
        self.inner.unfollow(streams);
    }

    fn news(&self) -> Result<mpsc::Receiver<News>, BackendError> {
        let mut inner = lock(&self.gate.chaos.inner);
        let node = inner.nodes.get_mut(&self.gate.node).ok_or_else(|| failed("there is no such node"))?;
        node.news.take("news")
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.gate.pass(self.inner.take_turn(stream)).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.gate.pass(self.inner.end_turn(stream)).await
    }
}

#[async_trait]
impl Bus for Gated<dyn Bus> {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn is_heard(&self, by: Address<'_>) -> bool {
        self.inner.is_heard(by)
    }

    async fn publish(&self, to: Address<'_>, bytes: Bytes) -> Result<(), BackendError> {
        self.gate.pass(self.inner.publish(to, bytes)).await
    }

    async fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), BackendError> {
        self.gate.pass(self.inner.subscribe(topics)).await
    }

    fn unsubscribe(&self, topics: &[Arc<str>]) {
        self.inner.unsubscribe(topics);
    }

    fn inbox(&self) -> Result<mpsc::Receiver<Delivery>, BackendError> {
        let mut inner = lock(&self.gate.chaos.inner);
        let node = inner.nodes.get_mut(&self.gate.node).ok_or_else(|| failed("there is no such node"))?;
        node.inbox.take("inbox")
    }
}

#[async_trait]
impl Kv for Gated<dyn Kv> {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        self.gate.pass(self.inner.get(key)).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        self.gate.pass(self.inner.put(key, value, expected, ttl)).await
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.gate.pass(self.inner.delete(key)).await
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        self.gate.pass(self.inner.fields(key)).await
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        self.gate.pass(self.inner.set_field(key, field, value, ttl)).await
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        self.gate.pass(self.inner.take(key, quota)).await
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        self.gate.pass(self.inner.lease(name, holder, ttl)).await
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        self.gate.pass(self.inner.renew(lease)).await
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        self.gate.pass(self.inner.end(lease)).await
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        self.gate.pass(self.inner.leases(prefix)).await
    }
}
