//! How a stream in memory gets what the backend has: as it is opened, and as it falls behind.

use std::sync::Arc;

#[cfg(feature = "docs")]
use bytes::Bytes;
use datasole_core::StreamId;

#[cfg(feature = "docs")]
use super::held::kept;
use super::{
    Hub,
    kind::Kind,
    stream::{Start, Stream},
};
use crate::{
    backend::{
        BackendError,
        log::{Loaded, Mark, Stored},
    },
    clock::unix_millis,
};

/// Bytes that are made into a content at once; more take milliseconds.
const SMALL: usize = 64 * 1024;

impl Hub {
    /// The stream as the backend has it; `None` when there is none.
    pub(super) async fn stored(&self, id: &StreamId) -> Result<Option<Stored>, BackendError> {
        match self.backend.log.load(id, None).await? {
            Loaded::Whole(stored) => Ok(Some(stored)),
            Loaded::Absent => Ok(None),
            Loaded::Since(_) => Err(BackendError::Corrupt("a part of a stream in place of the whole".into())),
        }
    }

    /// Where a stream begins: as the backend has it, or with a new life.
    pub(super) async fn start(
        &self,
        mut content: Box<dyn Kind>,
        stored: Option<Stored>,
        lane: u64,
    ) -> Result<Start, BackendError> {
        let now = unix_millis();
        let Some(stored) = stored else {
            return Ok(Start { mark: self.lives.birth(), content, stored: Stored::default(), now });
        };
        let entries = stored.since_snapshot().iter().map(|entry| entry.bytes.len());
        let bytes: usize = stored.snapshot.iter().map(|(_, bytes)| bytes.len()).chain(entries).sum();
        let restore = move || content.restore(&stored).map(|()| Start { mark: stored.mark, content, stored, now });
        if bytes > SMALL { self.desk.run(lane, restore).await } else { restore() }
    }

    /// Takes what others have appended: entry by entry, where the backend has them all, else the whole.
    pub(super) async fn catch_up(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        loop {
            let since = stream.mark();
            let stored = match self.backend.log.load(stream.id(), Some(since)).await? {
                Loaded::Since(entries) => {
                    let now = unix_millis();
                    let taken = self.with_v1(stream, |v1| stream.accept(since.position, &entries, now, v1));
                    if taken.is_ok() {
                        return Ok(());
                    }
                    // One of them does not fit what is here.
                    return self.reload(stream).await;
                }
                Loaded::Whole(stored) => Some(stored),
                // Nobody has appended anything yet.
                Loaded::Absent if since.position.seq == 0 => return Ok(()),
                Loaded::Absent => None,
            };
            if self.restart(stream, since, stored).await? {
                return Ok(());
            }
        }
    }

    /// Makes the stream what the backend has.
    pub(crate) async fn reload(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        loop {
            let since = stream.mark();
            let stored = self.stored(stream.id()).await?;
            if self.restart(stream, since, stored).await? {
                return Ok(());
            }
        }
    }

    /// Resets the stream, unless it has moved since it was at `since`.
    async fn restart(&self, stream: &Arc<Stream>, since: Mark, stored: Option<Stored>) -> Result<bool, BackendError> {
        let start = self.start(self.empty(stream.id())?, stored, 0).await?;
        Ok(stream.reset(since, start))
    }

    /// Gives a stream that does not exist another life to begin with, unless it has moved.
    pub(super) async fn begin_again(&self, stream: &Arc<Stream>, since: Mark) -> Result<(), BackendError> {
        self.restart(stream, since, None).await.map(drop)
    }

    /// Lets the backend keep a snapshot of a stream as it was at `at`, or later, in place of the entries up to there, of
    /// which the last ones, so many and of so many bytes, are needed by nodes that are behind.
    #[cfg(feature = "docs")]
    pub(crate) async fn keep_snapshot(
        &self,
        stream: &Stream,
        (at, snapshot): (Mark, Bytes),
        (entries, bytes): (usize, usize),
    ) -> Result<(), BackendError> {
        let keep = if self.has_others() { kept(entries, bytes) } else { 0 };
        self.backend.log.snapshot(stream.id(), at, snapshot, keep as u64).await
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
            loop {
                let at = stream.mark();
                hub.backend.log.remove(stream.id(), at).await?;
                // Where others have appended meanwhile, nothing was removed.
                let stored = hub.stored(stream.id()).await?;
                let is_gone = stored.is_none();
                if hub.restart(&stream, at, stored).await? && is_gone {
                    return Ok(());
                }
            }
        })
        .await
    }

    /// Forgets at the backend what has come to nothing.
    pub(super) async fn forget(&self, id: &StreamId, at: Mark) {
        if at.position.seq > 0
            && let Err(error) = self.backend.log.remove(id, at).await
        {
            tracing::error!(%error, key = id.key, "a stream could not be removed");
        }
    }
}
