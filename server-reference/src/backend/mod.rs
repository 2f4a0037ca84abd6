//! Where streams live, how nodes talk and where short-lived values are kept: three contracts, so that each engine does
//! what it is good at.
//!
//! - [`Log`]: ordered streams, the only truth. Nothing acknowledged is lost but what the engine declares.
//! - [`Bus`]: messages between nodes, each delivered at most once.
//! - [`Kv`]: values that expire, quotas and leases.
//!
//! [`memory`] implements all three for the nodes of one process, `sqlite` keeps log and values in a file. A custom
//! [`Log`] alone is enough for one node ([`Backend::alone`]). [`conformance`] is the suite each of them
//! passes.

pub mod bus;
#[cfg(any(test, feature = "arbitrary"))]
pub mod chaos;
pub mod conformance;
mod epoch;
mod feed;
mod judge;
pub mod kv;
pub mod log;
pub mod memory;
mod outlet;
mod quota;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt, sync::Arc};

pub use async_trait::async_trait;
pub use bus::Bus;
pub use epoch::{Epochs, epoch};
pub use kv::Kv;
pub use log::Log;
pub use memory::Memory;
#[cfg(feature = "sqlite")]
pub use sqlite::Sqlite;

use crate::sync::lock;

/// The reason why a backend did not do something.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The engine cannot be reached, or failed. The outcome is open: the caller may retry, an append with the same tag.
    #[error("backend unavailable: {0}")]
    Unavailable(String),
    /// The engine is full, or the entry is larger than it accepts.
    #[error("backend full: {0}")]
    Full(String),
    /// The engine holds something other than what was stored.
    #[error("backend corrupt: {0}")]
    Corrupt(String),
    /// The request breaks the contract, for example an append without entries.
    #[error("not a valid request: {0}")]
    Invalid(String),
    /// The handle serves a node already; a second node opens a handle of its own.
    #[error("backend in use: {0}")]
    Taken(String),
    /// Repeats of an append were not answered either, or too much has come since: it may be stored or not.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The three contracts that one node stands on, each with a handle of that node.
#[derive(Clone)]
pub struct Backend {
    /// Ordered streams.
    pub log: Arc<dyn Log>,
    /// Messages between nodes.
    pub bus: Arc<dyn Bus>,
    /// Values that expire, quotas, leases.
    pub kv: Arc<dyn Kv>,
}

impl Backend {
    /// An engine for exactly one node: streams live in `log`, messages and values in memory. A second node that takes
    /// this engine's inbox is refused with [`BackendError::Taken`].
    pub fn alone(log: Arc<dyn Log>) -> Self {
        let memory = memory::Memory::default().node();
        Self { log, ..memory }
    }
}

/// The backend of one node whose streams live in this log.
impl<L: Log> From<L> for Backend {
    fn from(log: L) -> Self {
        Self::alone(Arc::new(log))
    }
}

/// Another node on this memory.
impl From<Memory> for Backend {
    fn from(memory: Memory) -> Self {
        memory.node()
    }
}

/// Another node of this process on this file.
#[cfg(feature = "sqlite")]
impl From<Sqlite> for Backend {
    fn from(sqlite: Sqlite) -> Self {
        sqlite.node()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}
