//! Log and values in one SQLite file, for the nodes of one process: state, positions and history survive the server.

mod file;
mod kv;
mod log;
mod shared;
mod thread;

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use self::{
    kv::Pairs,
    shared::{Base, Shared},
    thread::Thread,
};
use super::{
    epoch::epoch,
    error::BackendError,
    feed::Feeds,
    memory::{Memory, Random},
    node::Backend,
};
use crate::clock::{Clock, System};

/// The longest entry, snapshot or value; bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A durable engine: one file in a folder of its own, `datasole.sqlite`, of which one process at a time has the use.
///
/// **What survives.** Whatever was acknowledged survives the end of the process, however it ends: the operating system
/// has it by then. Epochs and sequences survive too, so that clients resume across a restart. A power failure may take
/// the last moments along ([`open`](Self::open)), in which case all streams begin new lives when the file is next
/// opened, and clients start from snapshots; or nothing ([`open_synced`](Self::open_synced)). The file is never torn.
/// An operator who puts an older copy in place loses what came later, unnoticed by clients that saw it. Quotas, leases
/// and messages are of the process and end with it, as its nodes do.
///
/// **How.** SQLite with a write-ahead log, and one thread that carries out whatever has queued up in one transaction
/// and answers after its commit (group commit), so that callers at the same time share the cost of a commit. Files of
/// earlier versions are migrated when they are opened; earlier versions cannot open them afterwards.
///
/// Cloning yields another handle to the same file. Dropping the last one waits until what is queued is stored.
#[derive(Clone)]
pub struct Sqlite {
    shared: Arc<Shared>,
    /// The bus of the nodes, their quotas and leases.
    memory: Memory,
}

impl Sqlite {
    /// Opens the folder's database, and makes both where there are none. Waits for the disk.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] when the folder cannot be used or another process has the file open,
    /// [`BackendError::Corrupt`] when the file is damaged, another program's, or of a later schema. The file is left as
    /// it is.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, BackendError> {
        Self::open_with(dir.as_ref(), false, MAX_BYTES)
    }

    /// Opens the database as [`open`](Self::open) does, but acknowledges a change only when the disk has it: a power
    /// failure takes nothing along either. Each commit then costs as long as the disk takes to write, often
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_synced(dir: impl AsRef<Path>) -> Result<Self, BackendError> {
        Self::open_with(dir.as_ref(), true, MAX_BYTES)
    }

    fn open_with(dir: &Path, synced: bool, max_bytes: usize) -> Result<Self, BackendError> {
        let random = || getrandom::u64().unwrap_or_else(|_| System.unix_millis());
        Self::open_at(dir, synced, max_bytes, Arc::new(System), Arc::new(random))
    }

    /// The same with this clock and randomness.
    pub(crate) fn open_at(
        dir: &Path,
        synced: bool,
        max_bytes: usize,
        clock: Arc<dyn Clock>,
        random: Random,
    ) -> Result<Self, BackendError> {
        let fresh = epoch(clock.unix_millis(), random());
        let connection = file::open(dir, synced, fresh)?;
        connection.set_prepared_statement_cache_capacity(48);
        let lives = log::lives(&connection).map_err(|error| file::failure(&error))?;
        let newest = kv::newest_version(&connection).map_err(|error| file::failure(&error))?;
        let thread = Thread::start(connection).map_err(|error| BackendError::Unavailable(error.to_string()))?;
        let feeds = Arc::new(Feeds::new(Arc::clone(&clock)));
        let memory = Memory::new(Arc::clone(&clock), random);
        // Above every version given before, also to values that are deleted.
        let version = AtomicU64::new(fresh.max(newest));
        let base = Arc::new(Base { clock, lives });
        Ok(Self { shared: Arc::new(Shared { thread, base, feeds, version, max_bytes }), memory })
    }

    /// Handles of a node of its own.
    pub fn node(&self) -> Backend {
        let memory = self.memory.node();
        Backend {
            log: Arc::new(log::Handle::new(&self.shared)),
            bus: memory.bus,
            kv: Arc::new(Pairs::new(&self.shared, memory.kv)),
        }
    }
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite").finish_non_exhaustive()
    }
}

/// Another node of this process on this file.
impl From<Sqlite> for Backend {
    fn from(sqlite: Sqlite) -> Self {
        sqlite.node()
    }
}

#[cfg(test)]
mod tests;
