//! Reservations of keys that are about to be created, within their limits, and how many keys there are.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use datasole_core::StreamKind;
use tokio::{sync::OnceCell, time::Instant};

use crate::{backend::BackendError, hub::Hub, sync::lock};

/// The time after which keys are counted again while other servers create some, too.
const RECOUNT: Duration = Duration::from_secs(30);

/// A key's part in one or more counts, given back when dropped before the key exists.
#[derive(Debug, Default)]
pub(crate) struct Reservation(Vec<Arc<AtomicUsize>>);

impl Reservation {
    /// Counts the key; returns the count before.
    pub(crate) fn take(&mut self, count: &Arc<AtomicUsize>) -> usize {
        self.0.push(count.clone());
        count.fetch_add(1, Ordering::Relaxed)
    }

    /// The key exists.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.iter().for_each(give_back);
    }
}

/// Counts one key less. The keys may have been counted again since it was counted.
pub(crate) fn give_back(count: &Arc<AtomicUsize>) {
    let less = |number: usize| Some(number.saturating_sub(1));
    // It answers what it found.
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

/// The number of stored keys of a kind, those that other servers create included: counted when first asked for, and
/// again now and then while there are other servers.
#[derive(Debug, Default)]
pub(crate) struct Count {
    number: OnceCell<Arc<AtomicUsize>>,
    counted: Mutex<Option<Instant>>,
}

impl Count {
    /// The number as it is known; `counts` tells which keys are counted.
    pub(crate) async fn get(
        &self,
        hub: &Hub,
        kind: StreamKind,
        counts: impl Fn(&str) -> bool,
    ) -> Result<&Arc<AtomicUsize>, BackendError> {
        let count = async || {
            *lock(&self.counted) = Some(Instant::now());
            Ok(Arc::new(AtomicUsize::new(number(hub, kind, &counts).await?)))
        };
        self.number.get_or_try_init(count).await
    }

    /// The number for whoever is about to create a key.
    pub(crate) async fn fresh(
        &self,
        hub: &Hub,
        kind: StreamKind,
        counts: impl Fn(&str) -> bool,
    ) -> Result<&Arc<AtomicUsize>, BackendError> {
        let known = self.get(hub, kind, &counts).await?;
        if self.is_due(hub) {
            known.store(number(hub, kind, &counts).await?, Ordering::Relaxed);
        }
        Ok(known)
    }

    /// Whether it is time to count again, for one of those who ask.
    fn is_due(&self, hub: &Hub) -> bool {
        let (mut counted, now) = (lock(&self.counted), Instant::now());
        let is_due = counted.is_none_or(|at| now.duration_since(at) >= RECOUNT) && hub.has_others();
        if is_due {
            *counted = Some(now);
        }
        is_due
    }
}

async fn number(hub: &Hub, kind: StreamKind, counts: impl Fn(&str) -> bool) -> Result<usize, BackendError> {
    Ok(hub.keys(kind).await?.iter().filter(|key| counts(key)).count())
}
