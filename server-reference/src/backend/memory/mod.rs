//! All three contracts in this process's memory, for the nodes of this process. Everything ends with it.

mod bus;
mod kv;
mod log;

use std::{fmt, sync::Arc};

use self::{bus::Topics, kv::Values, log::Streams};
use super::{log::Log, node::Backend};
use crate::clock::{Clock, System};

/// A source of random numbers.
pub type Random = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The memory that the nodes of one process share. Cloning yields another handle to the same.
///
/// Streams hold the entries since their newest snapshot, and those to be kept before it. What has expired is dropped
/// when looked at, and all of it whenever the number of things has doubled.
#[derive(Clone)]
pub struct Memory {
    streams: Arc<Streams>,
    topics: Arc<Topics>,
    values: Arc<Values>,
}

impl Memory {
    /// An empty memory with this clock; `random` names nodes.
    pub fn new(clock: Arc<dyn Clock>, random: Random) -> Self {
        Self {
            streams: Arc::new(Streams::new(Arc::clone(&clock))),
            topics: Arc::new(Topics::new(random)),
            values: Arc::new(Values::new(clock)),
        }
    }

    /// Handles of a node of its own.
    pub fn node(&self) -> Backend {
        Backend {
            log: Arc::new(log::Handle::new(&self.streams)),
            bus: Arc::new(bus::Handle::new(&self.topics)),
            kv: Arc::clone(&self.values) as _,
        }
    }

    /// Begins a new generation, as an engine does that may have lost acknowledged entries: every stream begins a new
    /// life, and every node hears of it. Once for all who saw the same generation; answers the current one. The first
    /// is 0.
    pub fn begin_generation(&self, seen: u64) -> u64 {
        self.streams.begin_generation(seen)
    }
}

impl Default for Memory {
    fn default() -> Self {
        let clock = System;
        let random = move || getrandom::u64().unwrap_or_else(|_| clock.unix_millis());
        Self::new(Arc::new(clock), Arc::new(random))
    }
}

impl Backend {
    /// An engine for exactly one node: streams live in `log`, messages and values in memory. A second node that takes
    /// this engine's inbox is refused with [`BackendError::Taken`](super::BackendError::Taken).
    pub fn alone(log: Arc<dyn Log>) -> Self {
        let memory = Memory::default().node();
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

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
