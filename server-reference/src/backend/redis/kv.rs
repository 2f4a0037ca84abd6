//! Values, maps, quotas and leases, in the engine's time.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use redis::Value;

use super::{engine::Engine, log::millis};
use crate::backend::{
    bus::NodeId,
    error::BackendError,
    kv::{Expected, Kv, Lease, Quota, Taken, Version},
};

/// The slots of a quota's window.
const SLOTS: u64 = 16;

/// The values of one store.
pub(super) struct Values {
    engine: Arc<Engine>,
}

fn version(bytes: &[u8]) -> Option<Version> {
    Some(Version(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn corrupt(expected: &str) -> BackendError {
    BackendError::Corrupt(format!("the engine holds something other than {expected}"))
}

/// A lifetime in milliseconds; 0 deletes what it is given to.
fn lifetime(ttl: Option<Duration>) -> String {
    ttl.map(|ttl| if ttl.is_zero() { 0 } else { millis(ttl) }.to_string()).unwrap_or_default()
}

impl Values {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }

    /// Renews a lease, or ends it when `millis` is 0.
    async fn change(&self, lease: &Lease, millis: u64) -> Result<bool, BackendError> {
        let held = [lease.holder.0.to_be_bytes(), lease.version.0.to_be_bytes()].concat();
        let names = &self.engine.names;
        let keys = [&*names.lease(&lease.name), &*names.leases()];
        let answer = self.engine.run(&self.engine.scripts.renew, &keys, |call, _| {
            call.arg(&lease.name).arg(&held).arg(millis);
        });
        answer.await
    }
}

#[async_trait]
impl Kv for Values {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        let name = self.engine.names.value("v", key);
        let stored = self.engine.command::<Option<Vec<u8>>>(&name, redis::cmd("GET").arg(&name)).await?;
        let Some(stored) = stored.map(Bytes::from) else { return Ok(None) };
        let version = stored.get(..8).and_then(version).ok_or_else(|| corrupt("a value"))?;
        Ok(Some((version, stored.slice(8..))))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        let names = &self.engine.names;
        let keys = [&*names.value("v", key), &*names.versions(key)];
        let answer = self.engine.run::<Option<Vec<u8>>>(&self.engine.scripts.put, &keys, |call, _| {
            call.arg(&value[..]);
            match expected {
                Expected::Any => call.arg("any"),
                Expected::Absent => call.arg("absent"),
                Expected::Version(version) => call.arg(&version.0.to_be_bytes()[..]),
            };
            call.arg(lifetime(ttl));
        });
        answer.await?.map(|stored| version(&stored).ok_or_else(|| corrupt("a version"))).transpose()
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        let name = self.engine.names.value("v", key);
        self.engine.command(&name, redis::cmd("DEL").arg(&name)).await
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        let name = self.engine.names.value("f", key);
        let stored = self.engine.command::<Vec<(String, Vec<u8>)>>(&name, redis::cmd("HGETALL").arg(&name)).await?;
        let mut fields: Vec<_> = stored.into_iter().map(|(field, value)| (field, value.into())).collect();
        fields.sort_unstable_by(|(a, _): &(String, Bytes), (b, _)| a.cmp(b));
        Ok(fields)
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        let name = self.engine.names.value("f", key);
        let keys = [&*name];
        let answer = self.engine.run(&self.engine.scripts.set_field, &keys, |call, _| {
            call.arg(field).arg(lifetime(ttl));
            if let Some(value) = &value {
                call.arg(&value[..]);
            }
        });
        answer.await.map(|_: Value| ())
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        let window = u64::try_from(quota.window.as_micros()).unwrap_or(u64::MAX).min(1 << 50);
        let slot = window.div_ceil(SLOTS).max(1);
        // Slots of different lengths cannot be compared.
        let name = self.engine.names.value("q", &format!("{slot}:{key}"));
        let keys = [&*name];
        let answer = self.engine.run::<(bool, u64, i64)>(&self.engine.scripts.take, &keys, |call, _| {
            call.arg(quota.limit.min(1 << 52)).arg(quota.cost.min(1 << 53)).arg(slot);
        });
        let (granted, left, wait) = answer.await?;
        let retry_after = u64::try_from(wait).map_or(Duration::MAX, Duration::from_micros);
        Ok(Taken { granted, left, retry_after })
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        let names = &self.engine.names;
        let keys = [&*names.lease(name), &*names.leases(), &*names.lease_versions()];
        let answer = self.engine.run::<Option<Vec<u8>>>(&self.engine.scripts.lease, &keys, |call, _| {
            call.arg(name).arg(&holder.0.to_be_bytes()[..]).arg(millis(ttl));
        });
        let Some(stored) = answer.await? else { return Ok(None) };
        let version = version(&stored).ok_or_else(|| corrupt("a version"))?;
        Ok(Some(Lease { name: name.to_owned(), holder, version, ttl }))
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        self.change(lease, millis(lease.ttl)).await
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        self.change(&lease, 0).await.map(drop)
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        let names = &self.engine.names;
        let keys = [&*names.leases()];
        let answer = self.engine.run::<Vec<(String, Vec<u8>)>>(&self.engine.scripts.leases, &keys, |call, _| {
            call.arg(prefix).arg(names.lease(""));
        });
        let leases = answer.await?.into_iter().map(|(name, holder)| {
            let holder = version(&holder).ok_or_else(|| corrupt("a lease"))?.0;
            Ok((name, NodeId(holder)))
        });
        leases.collect()
    }
}
