//! Where a server keeps what it is given.

use datasole_server::backend::{Backend, BackendError, Redis, Sqlite};

/// The storage that the flags name.
pub(crate) enum Storage {
    /// The server's own memory.
    Memory,
    /// The file of `--data`.
    File(Sqlite),
    /// The server of `--redis`.
    Redis(Redis),
}

impl Storage {
    /// The backend of the next server; `None` leaves it in memory.
    pub(crate) async fn node(&self) -> Result<Option<Backend>, BackendError> {
        Ok(match self {
            Self::Memory => None,
            Self::File(sqlite) => Some(sqlite.clone().into()),
            Self::Redis(redis) => Some(redis.node().await?),
        })
    }
}
