//! [`Backend`]: what one node stands on.

use std::{fmt, sync::Arc};

use super::{bus::Bus, kv::Kv, log::Log};

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

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}
