//! How a stream in memory gets what the backend has: as it is opened, and as it falls behind.

use std::sync::{Arc, atomic::Ordering};

use datasole_core::{Position, StreamId};

use super::{
    Hub,
    kind::Kind,
    stream::{Start, Stream},
};
use crate::{
    backend::{BackendError, Stored},
    clock::unix_millis,
    entry::Entry,
};

impl Hub {
    /// The stream as the backend holds it, where it `keeps` it.
    pub(super) async fn stored(&self, id: &StreamId, keeps: bool) -> Result<Option<Stored>, BackendError> {
        if keeps { self.backend.load(id).await } else { Ok(None) }
    }

    /// Where a stream begins: as the backend has it, or with a new life.
    pub(super) fn start(&self, mut content: Box<dyn Kind>, stored: Option<Stored>) -> Result<Start, BackendError> {
        let now = unix_millis();
        Ok(match stored {
            Some(stored) => {
                content.restore(&stored)?;
                Start { position: stored.position, content, stored, now }
            }
            None => {
                let position = Position { epoch: self.next_epoch.fetch_add(1, Ordering::Relaxed), seq: 0 };
                Start { position, content, stored: Stored::default(), now }
            }
        })
    }

    /// Takes what others have appended: entry by entry, where the backend has them all, else the whole.
    pub(super) async fn catch_up(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        let since = stream.position();
        let missed = self.backend.read(stream.id(), since).await?.unwrap_or_default();
        let entries: Vec<Entry> = missed.into_iter().map_while(Entry::stored).collect();
        let accepted = self.with_v1(stream, |v1| stream.accept(since, &entries, unix_millis(), v1));
        if entries.is_empty() || accepted.is_err() {
            return self.reload(stream).await;
        }
        for entry in &entries {
            // The writer of these entries lets the backend forget them.
            let _ = stream.note(entry.bytes().len());
        }
        Ok(())
    }

    /// Makes the stream what the backend has.
    pub(crate) async fn reload(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        let stored = self.stored(stream.id(), stream.rules().stored).await?;
        stream.reset(self.start(self.empty(stream.id())?, stored)?);
        Ok(())
    }

    /// Forgets a stream, which begins a new life.
    #[cfg(feature = "docs")]
    pub(crate) async fn remove(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        writer: super::Writer,
    ) -> Result<(), BackendError> {
        let (hub, stream) = (self.clone(), stream.clone());
        crate::task::to_the_end(async move {
            let _writer = writer;
            hub.backend.remove(stream.id(), stream.position()).await?;
            hub.reload(&stream).await
        })
        .await
    }

    /// Forgets at the backend what has come to nothing.
    pub(super) async fn forget(&self, id: &StreamId, position: Position) {
        if position.seq > 0
            && let Err(error) = self.backend.remove(id, position).await
        {
            tracing::error!(%error, key = id.key, "a stream could not be removed");
        }
    }
}
