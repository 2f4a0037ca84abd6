//! What the handles of all nodes on a file share, and how numbers and bytes are in its columns.

use std::sync::{Arc, atomic::AtomicU64};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension};

use super::{
    super::{error::BackendError, feed::Feeds},
    log::Lives,
    thread::Thread,
};
use crate::clock::Clock;

pub(super) struct Shared {
    pub(super) thread: Thread,
    pub(super) base: Arc<Base>,
    pub(super) feeds: Arc<Feeds>,
    /// The version that was last given to a value.
    pub(super) version: AtomicU64,
    pub(super) max_bytes: usize,
}

/// The part that jobs share too: without the thread, which must not wait for its own end.
pub(super) struct Base {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lives: Lives,
}

impl Shared {
    pub(super) fn check_size(&self, bytes: &Bytes) -> Result<(), BackendError> {
        if bytes.len() > self.max_bytes {
            let (size, limit) = (bytes.len(), self.max_bytes);
            return Err(BackendError::Full(format!("{size} bytes exceed the limit of {limit} for one entry")));
        }
        Ok(())
    }
}

/// The text of a row of `meta`.
pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let mut query = connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    query.query_row([name], |row| row.get(0)).optional()
}

pub(super) fn blob(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

/// Positions, versions and times are below 2^53; what is greater stands for ever.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
