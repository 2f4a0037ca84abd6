//! How a stream in memory gets what the backend has: as it is opened, and as it falls behind.

use std::sync::Arc;

use datasole_core::StreamId;

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
    pub(super) fn start(&self, mut content: Box<dyn Kind>, stored: Option<Stored>) -> Result<Start, BackendError> {
        let now = unix_millis();
        Ok(match stored {
            Some(stored) => {
                content.restore(&stored)?;
                Start { mark: stored.mark, content, stored, now }
            }
            None => Start { mark: self.lives.birth(), content, stored: Stored::default(), now },
        })
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
            if self.restart(stream, since, stored)? {
                return Ok(());
            }
        }
    }

    /// Makes the stream what the backend has.
    pub(crate) async fn reload(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        loop {
            let since = stream.mark();
            let stored = self.stored(stream.id()).await?;
            if self.restart(stream, since, stored)? {
                return Ok(());
            }
        }
    }

    /// Resets the stream, unless it has moved since it was at `since`.
    fn restart(&self, stream: &Arc<Stream>, since: Mark, stored: Option<Stored>) -> Result<bool, BackendError> {
        Ok(stream.reset(since, self.start(self.empty(stream.id())?, stored)?))
    }

    /// Gives a stream that does not exist another life to begin with, unless it has moved.
    pub(super) fn begin_again(&self, stream: &Arc<Stream>, since: Mark) -> Result<(), BackendError> {
        self.restart(stream, since, None).map(drop)
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
                if hub.restart(&stream, at, stored)? && is_gone {
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
