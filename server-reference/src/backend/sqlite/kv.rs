//! Values and maps in tables. Quotas and leases are the process's: they stay in memory.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    super::{
        bus::NodeId,
        error::BackendError,
        kv::{Expected, Kv, Lease, Quota, Taken, Version},
    },
    shared::{Shared, blob, integer, number},
};
use crate::clock::millis;

/// One node's handle.
pub(super) struct Pairs {
    shared: Arc<Shared>,
    memory: Arc<dyn Kv>,
}

/// The newest version of any value.
pub(super) fn newest_version(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT coalesce(max(version), 0) FROM pairs", [], |row| number(row, 0))
}

impl Pairs {
    pub(super) fn new(shared: &Arc<Shared>, memory: Arc<dyn Kv>) -> Self {
        Self { shared: Arc::clone(shared), memory }
    }

    fn now(&self) -> i64 {
        integer(self.shared.base.clock.unix_millis())
    }
}

fn until(now: i64, ttl: Option<Duration>) -> Option<i64> {
    ttl.map(|ttl| now.saturating_add(integer(millis(ttl))))
}

fn find(connection: &Connection, key: &str, now: i64) -> rusqlite::Result<Option<(Version, Bytes)>> {
    let sql = "SELECT version, value FROM pairs WHERE key = ?1 AND (expires IS NULL OR expires > ?2)";
    let pair = |row: &rusqlite::Row<'_>| Ok((Version(number(row, 0)?), blob(row, 1)?));
    connection.prepare_cached(sql)?.query_row(params![key, now], pair).optional()
}

#[async_trait]
impl Kv for Pairs {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        let (key, now) = (key.to_owned(), self.now());
        self.shared.thread.call(move |connection| find(connection, &key, now)).await
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        self.shared.check_size(&value)?;
        let (key, now) = (key.to_owned(), self.now());
        let version = Version(self.shared.version.fetch_add(1, Ordering::Relaxed) + 1);
        let put = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM pairs WHERE expires <= ?1")?.execute([now])?;
            if expected != Expected::Any {
                let mut query = connection.prepare_cached("SELECT version FROM pairs WHERE key = ?1")?;
                let present = query.query_row([&key], |row| number(row, 0)).optional()?;
                if !expected.allows(present.map(Version)) {
                    return Ok(None);
                }
            }
            let sql = "REPLACE INTO pairs (key, value, expires, version) VALUES (?1, ?2, ?3, ?4)";
            let row = params![key, &value[..], until(now, ttl), integer(version.0)];
            connection.prepare_cached(sql)?.execute(row)?;
            Ok(Some(version))
        };
        self.shared.thread.call(put).await
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        let key = key.to_owned();
        let delete = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM pairs WHERE key = ?1")?.execute([&key]).map(drop)
        };
        self.shared.thread.call(delete).await
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        let (key, now) = (key.to_owned(), self.now());
        let fields = move |connection: &Connection| {
            let sql = "SELECT field, value FROM fields JOIN maps ON key = map
                WHERE map = ?1 AND (expires IS NULL OR expires > ?2) ORDER BY field";
            let mut query = connection.prepare_cached(sql)?;
            query.query_map(params![key, now], |row| Ok((row.get(0)?, blob(row, 1)?)))?.collect()
        };
        self.shared.thread.call(fields).await
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        value.iter().try_for_each(|value| self.shared.check_size(value))?;
        let (key, field, now) = (key.to_owned(), field.to_owned(), self.now());
        let set = move |connection: &Connection| {
            let sql = "DELETE FROM fields WHERE map IN (SELECT key FROM maps WHERE expires <= ?1)";
            connection.prepare_cached(sql)?.execute([now])?;
            connection.prepare_cached("DELETE FROM maps WHERE expires <= ?1")?.execute([now])?;
            match &value {
                Some(value) => connection
                    .prepare_cached("REPLACE INTO fields VALUES (?1, ?2, ?3)")?
                    .execute(params![key, field, &value[..]])?,
                None => connection
                    .prepare_cached("DELETE FROM fields WHERE map = ?1 AND field = ?2")?
                    .execute(params![key, field])?,
            };
            let mut left = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM fields WHERE map = ?1)")?;
            if left.query_row([&key], |row| row.get(0))? {
                let sql = "REPLACE INTO maps VALUES (?1, ?2)";
                connection.prepare_cached(sql)?.execute(params![key, until(now, ttl)])?;
            } else {
                connection.prepare_cached("DELETE FROM maps WHERE key = ?1")?.execute([&key])?;
            }
            Ok(())
        };
        self.shared.thread.call(set).await
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        self.memory.take(key, quota).await
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        self.memory.lease(name, holder, ttl).await
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        self.memory.renew(lease).await
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        self.memory.end(lease).await
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        self.memory.leases(prefix).await
    }
}
