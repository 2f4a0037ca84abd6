//! Values, maps, quotas and leases, in the engine's time and in tables that a crash of the engine empties.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::Row;

use super::engine::{Engine, Param, corrupt};
use crate::backend::{
    bus::NodeId,
    error::BackendError,
    kv::{Expected, Kv, Lease, Quota, Taken, Version},
};

/// The slots of a quota's window.
const SLOTS: u64 = 16;

/// The values of one schema.
pub(super) struct Values {
    engine: Arc<Engine>,
}

/// A lifetime in whole milliseconds; `None` for ever.
pub(super) fn millis(ttl: Option<Duration>) -> Option<i64> {
    ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).min(1 << 45))
}

/// A number that may be greater than the engine's.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn version(row: &Row) -> Result<Option<Version>, BackendError> {
    let version: Option<i64> = row.try_get(0).map_err(|_| corrupt("a version"))?;
    Ok(version.map(|version| Version(version.cast_unsigned())))
}

impl Values {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }
}

#[async_trait]
impl Kv for Values {
    async fn get(&self, key: &str) -> Result<Option<(Version, Bytes)>, BackendError> {
        let sql =
            "SELECT version, bytes FROM value WHERE key = $1 AND (expires IS NULL OR expires > clock_timestamp())";
        let rows = self.engine.query(sql, &[&key.as_bytes()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let bytes: Vec<u8> = row.try_get(1).map_err(|_| corrupt("a value"))?;
        Ok(version(row)?.map(|version| (version, bytes.into())))
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Expected,
        ttl: Option<Duration>,
    ) -> Result<Option<Version>, BackendError> {
        let (rule, expected) = match expected {
            Expected::Any => (0_i32, 0),
            Expected::Absent => (1, 0),
            Expected::Version(version) => (2, version.0.cast_signed()),
        };
        let sql = "SELECT put($1, $2, $3, $4, $5)";
        let params: &[Param<'_>] = &[&key.as_bytes(), &&value[..], &rule, &expected, &millis(ttl)];
        let rows = self.engine.query(sql, params).await?;
        version(rows.first().ok_or_else(|| corrupt("a version"))?)
    }

    async fn delete(&self, key: &str) -> Result<(), BackendError> {
        self.engine.query("DELETE FROM value WHERE key = $1", &[&key.as_bytes()]).await.map(drop)
    }

    async fn fields(&self, key: &str) -> Result<Vec<(String, Bytes)>, BackendError> {
        let sql = "SELECT f.field, f.bytes FROM map m JOIN field f ON f.map = m.key
            WHERE m.key = $1 AND (m.expires IS NULL OR m.expires > clock_timestamp()) ORDER BY f.field";
        let rows = self.engine.query(sql, &[&key.as_bytes()]).await?;
        let field = |row: &Row| {
            let field = String::from_utf8(row.try_get(0).ok()?).ok()?;
            Some((field, Bytes::from(row.try_get::<_, Vec<u8>>(1).ok()?)))
        };
        rows.iter().map(|row| field(row).ok_or_else(|| corrupt("a field"))).collect()
    }

    async fn set_field(
        &self,
        key: &str,
        field: &str,
        value: Option<Bytes>,
        ttl: Option<Duration>,
    ) -> Result<(), BackendError> {
        let sql = "SELECT set_field($1, $2, $3, $4)";
        let params: &[Param<'_>] = &[&key.as_bytes(), &field.as_bytes(), &value.as_deref(), &millis(ttl)];
        self.engine.query(sql, params).await.map(drop)
    }

    async fn take(&self, key: &str, quota: Quota) -> Result<Taken, BackendError> {
        let window = u64::try_from(quota.window.as_micros()).unwrap_or(u64::MAX).min(1 << 50);
        let slot = window.div_ceil(SLOTS).max(1);
        // Slots of different lengths cannot be compared.
        let name = format!("{slot}:{key}");
        let (limit, cost) = (integer(quota.limit).min(1 << 52), integer(quota.cost).min(1 << 53));
        let sql = "SELECT granted, remaining, wait FROM take($1, $2, $3, $4)";
        let params: &[Param<'_>] = &[&name.as_bytes(), &limit, &cost, &integer(slot)];
        let rows = self.engine.query(sql, params).await?;
        let taken = |row: &Row| {
            let (granted, left, wait): (bool, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let retry_after = u64::try_from(wait).map_or(Duration::MAX, Duration::from_micros);
            Ok::<_, tokio_postgres::Error>(Taken { granted, left: left.cast_unsigned(), retry_after })
        };
        rows.first().and_then(|row| taken(row).ok()).ok_or_else(|| corrupt("a quota"))
    }

    async fn lease(&self, name: &str, holder: NodeId, ttl: Duration) -> Result<Option<Lease>, BackendError> {
        let sql = "INSERT INTO lease (name, holder, version, expires)
            VALUES ($1, $2, nextval('versions'), clock_timestamp() + $3 * interval '1 millisecond')
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, version = excluded.version, expires = excluded.expires
            WHERE lease.holder = excluded.holder OR lease.expires <= clock_timestamp() RETURNING version";
        let params: &[Param<'_>] = &[&name.as_bytes(), &holder.0.cast_signed(), &ttl_of(ttl)];
        let rows = self.engine.query(sql, params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(version(row)?.map(|version| Lease { name: name.to_owned(), holder, version, ttl }))
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, BackendError> {
        let sql = "UPDATE lease SET expires = clock_timestamp() + $4 * interval '1 millisecond'
            WHERE name = $1 AND holder = $2 AND version = $3 AND expires > clock_timestamp() RETURNING version";
        let (holder, version) = (lease.holder.0.cast_signed(), lease.version.0.cast_signed());
        let params: &[Param<'_>] = &[&lease.name.as_bytes(), &holder, &version, &ttl_of(lease.ttl)];
        self.engine.query(sql, params).await.map(|rows| !rows.is_empty())
    }

    async fn end(&self, lease: Lease) -> Result<(), BackendError> {
        let sql = "DELETE FROM lease WHERE name = $1 AND holder = $2 AND version = $3";
        let (holder, version) = (lease.holder.0.cast_signed(), lease.version.0.cast_signed());
        self.engine.query(sql, &[&lease.name.as_bytes(), &holder, &version]).await.map(drop)
    }

    async fn leases(&self, prefix: &str) -> Result<Vec<(String, NodeId)>, BackendError> {
        let sql = "SELECT name, holder FROM lease WHERE name >= $1 AND substring(name FROM 1 FOR length($1)) = $1
            AND expires > clock_timestamp() ORDER BY name";
        let rows = self.engine.query(sql, &[&prefix.as_bytes()]).await?;
        let lease = |row: &Row| {
            let name = String::from_utf8(row.try_get(0).ok()?).ok()?;
            Some((name, NodeId(row.try_get::<_, i64>(1).ok()?.cast_unsigned())))
        };
        rows.iter().map(|row| lease(row).ok_or_else(|| corrupt("a lease"))).collect()
    }
}

/// A lease's lifetime in milliseconds. A double, as intervals are multiplied by.
fn ttl_of(ttl: Duration) -> f64 {
    ttl.as_secs_f64() * 1_000.0
}
