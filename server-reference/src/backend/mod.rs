//! Where streams live, how nodes talk and where short-lived values are kept: three contracts, so that each engine does
//! what it is good at.
//!
//! - [`Log`](log::Log): ordered streams, the only truth. Nothing acknowledged is lost but what the engine declares.
//! - [`Bus`](bus::Bus): messages between nodes, each delivered at most once.
//! - [`Kv`](kv::Kv): values that expire, quotas and leases.
//!
//! [`memory`] implements all three for the nodes of one process, `sqlite` keeps log and values in a file. A custom
//! [`Log`](log::Log) alone is enough for one node ([`Engine::alone`]). [`conformance`] is the suite each of them
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
mod old;
mod outlet;
mod quota;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt, sync::Arc};

pub use async_trait::async_trait;
pub use epoch::{Epochs, epoch};
#[cfg(feature = "sqlite")]
pub use old::Sqlite;
pub use old::{Appended, Backend, Memory, Stored, Wake};

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
}

/// The three contracts that one node stands on, each with a handle of that node.
#[derive(Clone)]
pub struct Engine {
    /// Ordered streams.
    pub log: Arc<dyn log::Log>,
    /// Messages between nodes.
    pub bus: Arc<dyn bus::Bus>,
    /// Values that expire, quotas, leases.
    pub kv: Arc<dyn kv::Kv>,
}

impl Engine {
    /// An engine for exactly one node: streams live in `log`, messages and values in memory. A second node that takes
    /// this engine's inbox is refused with [`BackendError::Taken`].
    pub fn alone(log: Arc<dyn log::Log>) -> Self {
        let memory = memory::Memory::default().node();
        Self { log, ..memory }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
