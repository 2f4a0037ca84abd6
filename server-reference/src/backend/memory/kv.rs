//! Values, maps, quotas and leases behind one lock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::super::{
    bus::NodeId,
    error::BackendError,
    kv::{Expected, Kv, Lease, Quota, Taken, Version},
    quota::Meter,
};
use crate::{clock::Clock, sync::lock};

/// The values that all nodes share.
pub(super) struct Values {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    values: HashMap<String, Expiring<(Version, Bytes)>>,
    maps: HashMap<String, Expiring<BTreeMap<String, Bytes>>>,
    /// By the length of the window too: slots of different lengths cannot be compared.
    meters: HashMap<(String, Duration), Meter>,
    leases: BTreeMap<String, Expiring<(NodeId, Version)>>,
    version: u64,
    /// Everything is swept when there is more.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct Expiring<T> {
    value: T,
    until: Option<Duration>,
}

impl<T> Expiring<T> {
    fn new(value: T, now: Duration, ttl: Option<Duration>) -> Self {
        Self { value, until: until(now, ttl) }
    }

    fn is_alive(&self, now: Duration) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

fn until(now: Duration, ttl: Option<Duration>) -> Option<Duration> {
    ttl.map(|ttl| now.saturating_add(ttl))
}

impl State {
    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version(self.version)
    }

    /// Drops what has expired, if there is twice as much as the last time.
    fn sweep(&mut self, now: Duration) {
        let len = |state: &Self| state.values.len() + state.maps.len() + state.meters.len() + state.leases.len();
        if len(self) > self.sweep_at {
            self.values.retain(|_, value| value.is_alive(now));
            self.maps.retain(|_, map| map.is_alive(now));
            self.meters.retain(|(_, window), meter| !meter.is_idle(now, *window));
            self.leases.retain(|_, lease| lease.is_alive(now));
            self.sweep_at = (len(self) * 2).max(1_024);
        }
    }
}

impl Values {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }
}

#[async_trait]
impl Kv for Values {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        let now = self.clock.monotonic();
        let state = lock(&self.state);
        Ok(state.values.get(key).filter(|value| value.is_alive(now)).map(|value| value.value.clone()))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let present = state.values.get(key).filter(|value| value.is_alive(now)).map(|value| value.value.0);
        if !expected.allows(present) {
            return Ok(None);
        }
        let version = state.next_version();
        state.values.insert(key.to_owned(), Expiring::new((version, value), now, ttl));
        state.sweep(now);
        Ok(Some(version))
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        lock(&self.state).values.remove(key);
        Ok(())
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        let now = self.clock.monotonic();
        let state = lock(&self.state);
        let map = state.maps.get(key).filter(|map| map.is_alive(now));
        Ok(map.map(|map| map.value.clone().into_iter().collect()).unwrap_or_default())
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let map = state.maps.entry(key.to_owned()).or_default();
        if !map.is_alive(now) {
            map.value.clear();
        }
        map.until = until(now, ttl);
        match value {
            Some(value) => drop(map.value.insert(field.to_owned(), value)),
            None => drop(map.value.remove(field)),
        }
        if map.value.is_empty() {
            state.maps.remove(key);
        }
        state.sweep(now);
        Ok(())
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let taken = state.meters.entry((key.to_owned(), quota.window)).or_default().take(now, quota);
        state.sweep(now);
        Ok(taken)
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let held = state.leases.get(name).filter(|lease| lease.is_alive(now));
        if held.is_some_and(|lease| lease.value.0 != holder) {
            return Ok(None);
        }
        let version = state.next_version();
        state.leases.insert(name.to_owned(), Expiring::new((holder, version), now, Some(ttl)));
        state.sweep(now);
        Ok(Some(Lease { name: name.to_owned(), holder, version, ttl }))
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        let now = self.clock.monotonic();
        let mut state = lock(&self.state);
        let held = state.leases.get_mut(&lease.name).filter(|held| held.is_alive(now));
        let Some(held) = held.filter(|held| held.value == (lease.holder, lease.version)) else { return Ok(false) };
        held.until = until(now, Some(lease.ttl));
        Ok(true)
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        let mut state = lock(&self.state);
        if state.leases.get(&lease.name).is_some_and(|held| held.value == (lease.holder, lease.version)) {
            state.leases.remove(&lease.name);
        }
        Ok(())
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        let now = self.clock.monotonic();
        let state = lock(&self.state);
        let from = state.leases.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        Ok(from.filter(|(_, lease)| lease.is_alive(now)).map(|(name, lease)| (name.clone(), lease.value.0)).collect())
    }
}
