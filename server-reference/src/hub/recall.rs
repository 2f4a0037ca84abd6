//! Streams that clients of version 1 follow without asking: fetching those that are not in memory, as a client connects
//! and as other nodes create them.

use std::sync::Weak;

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use tokio::time::sleep;

use super::{
    Hub,
    letter::{Letter, To},
    relaying::{PAUSE, V1},
};
use crate::{
    backend::{BackendError, bus::Address},
    connection::Connection,
    sync::read,
};

impl Hub {
    /// Shows a version 1 client what is stored and not in memory: it follows every stream of some kinds that it may read,
    /// and does not ask. One at a time, as long as it is there.
    pub(crate) async fn recall(&self, connection: &Connection) {
        let may_read = |id: &StreamId| {
            let identity = connection.identity().filter(|_| !connection.has_ended());
            identity.is_some_and(|identity| self.access.may_read(&identity, id))
        };
        if let Err(error) = self.fetch(may_read).await {
            tracing::error!(%error, "the stored keys could not be listed");
        }
    }

    /// Opens what is stored and wanted, and not in memory.
    async fn fetch(&self, is_wanted: impl Fn(&StreamId) -> bool) -> Result<(), BackendError> {
        for kind in self.v1_kinds() {
            for key in self.stored_keys(kind).await? {
                let id = StreamId { kind, key };
                if self.known(kind, &id.key).is_none() && is_wanted(&id) {
                    self.fetch_one(&id).await;
                }
            }
        }
        Ok(())
    }

    async fn fetch_one(&self, id: &StreamId) {
        match self.open(id.kind, &id.key).await {
            Ok(stream) => self.release(stream).await,
            Err(error) => tracing::error!(%error, key = id.key, "a stream could not be opened"),
        }
    }

    /// Tells nodes with clients of version 1 of a stream that has come into being: those follow it from here on.
    pub(super) async fn tell_birth(&self, id: &StreamId) {
        if self.v1_kinds().any(|kind| kind == id.kind) && self.has_others() {
            let message = Bytes::copy_from_slice(id.key.as_bytes());
            let letter = || Letter { to: To::Born(id.kind), v2_only: false, message }.encode();
            self.post(Address::Topic(V1), letter).await;
        }
    }

    /// Takes what another node tells of a stream that has come into being.
    pub(super) fn hear_birth(&self, kind: StreamKind, key: &str) {
        let id = StreamId { kind, key: key.to_owned() };
        let is_wanted = self.v1_kinds().any(|known| known == kind) && self.is_read_by_v1(&id);
        if is_wanted && self.known(kind, key).is_none() {
            let hub = self.me.clone();
            self.spawn(async move {
                let Some(hub) = hub.upgrade() else { return };
                let _permit = hub.following.catching_up.acquire().await;
                hub.fetch_one(&id).await;
            });
        }
    }

    fn is_read_by_v1(&self, id: &StreamId) -> bool {
        self.with_readers(id, |v1| !v1.is_empty())
    }

    /// Looks for streams of which nobody has told, if there are clients of version 1.
    pub(super) fn look_for_births(&self) {
        if self.has_others() && !read(&self.v1).is_empty() && self.following.births.begin() {
            self.spawn(look_for_births(self.me.clone()));
        }
    }
}

async fn look_for_births(hub: Weak<Hub>) {
    while let Some(hub) = hub.upgrade() {
        match hub.fetch(|id| hub.is_read_by_v1(id)).await {
            Ok(()) => {
                if hub.following.births.end() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "what other servers have created is not known yet");
                drop(hub);
                sleep(PAUSE).await;
            }
        }
    }
}
