//! The three contracts with a gate around every operation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use tokio::sync::mpsc;

use crate::backend::{
    bus::{Address, Bus, Delivery, NodeId},
    error::BackendError,
    kv::{Expected, Kv, Lease, Quota, Taken, Version},
    log::{Append, Appended, Loaded, Log, Mark, News},
    node::Backend,
};

/// What every operation of one node passes, and what reaches it.
pub(super) trait Gate: Clone + Send + Sync + 'static {
    /// Carries an operation out, or not.
    fn pass<T: Send>(
        &self,
        operation: impl Future<Output = Result<T, BackendError>> + Send,
    ) -> impl Future<Output = Result<T, BackendError>> + Send;

    fn news(&self, log: &dyn Log) -> Result<mpsc::Receiver<News>, BackendError>;

    fn inbox(&self, bus: &dyn Bus) -> Result<mpsc::Receiver<Delivery>, BackendError>;
}

/// A contract behind a gate.
struct Gated<G, T: ?Sized> {
    gate: G,
    inner: Arc<T>,
}

pub(super) fn engine(engine: Backend, gate: impl Gate) -> Backend {
    Backend {
        log: Arc::new(Gated { gate: gate.clone(), inner: engine.log }),
        bus: Arc::new(Gated { gate: gate.clone(), inner: engine.bus }),
        kv: Arc::new(Gated { gate, inner: engine.kv }),
    }
}

#[async_trait]
impl<G: Gate> Log for Gated<G, dyn Log> {
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
        self.gate.news(&*self.inner)
    }

    async fn take_turn(&self, stream: &StreamId) -> Result<bool, BackendError> {
        self.gate.pass(self.inner.take_turn(stream)).await
    }

    async fn end_turn(&self, stream: &StreamId) -> Result<(), BackendError> {
        self.gate.pass(self.inner.end_turn(stream)).await
    }
}

#[async_trait]
impl<G: Gate> Bus for Gated<G, dyn Bus> {
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
        self.gate.inbox(&*self.inner)
    }
}

#[async_trait]
impl<G: Gate> Kv for Gated<G, dyn Kv> {
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
