//! How a stream in memory gets what the backend has: as it is opened, and as it falls behind.

use std::sync::Arc;

#[cfg(feature = "docs")]
use bytes::Bytes;
use datasole_core::StreamId;

#[cfg(feature = "docs")]
use super::held::kept;
use super::{
    Hub,
    held::Held,
    kind::{At, Kind},
    ready::{By, bytes},
    stream::{Common, Start, Stream},
};
use crate::{
    backend::{
        BackendError,
        log::{Loaded, Mark, Stored},
    },
    clock::unix_millis,
    desk::Desk,
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

    /// Where a stream begins: as the backend has it, or with a new life. With `again`, what those get who follow it already,
    /// too.
    pub(super) async fn start(
        &self,
        content: Box<dyn Kind>,
        stored: Option<Stored>,
        (id, channel, common): (&StreamId, u32, &Arc<Common>),
        (again, lane): (bool, u64),
    ) -> Result<Start, BackendError> {
        let now = unix_millis();
        let (mark, stored) = stored.map_or_else(|| (self.lives.birth(), None), |stored| (stored.mark, Some(stored)));
        let length = stored.as_ref().map_or(0, |stored| {
            let snapshot = stored.snapshot.as_ref().map_or(0, |(_, bytes)| bytes.len());
            snapshot + bytes(&stored.entries)
        });
        let start = move |key: &str, mut content: Box<dyn Kind>, stored: Option<Stored>, common: &Common| {
            let at = At { key, channel, position: mark.position, compress_above: common.compress_above };
            if let Some(stored) = &stored {
                content.restore(stored)?;
            }
            let again = if again { content.restart(&at) } else { Vec::new() };
            let stored = stored.unwrap_or_default();
            let (window, held) = (common.remembered(&stored, &at, now), Held::of(&stored));
            Ok(Start { mark, content, window, held, again })
        };
        if !content.is_long(length) {
            return start(&id.key, content, stored, common);
        }
        let (key, common) = (id.key.clone(), common.clone());
        self.desk.run(lane, move || start(&key, content, stored, &common)).await
    }

    /// Takes what others have appended: entry by entry, where the backend has them all, else the whole.
    pub(super) async fn catch_up(&self, stream: &Arc<Stream>, by: By) -> Result<(), BackendError> {
        if self.try_catch_up(stream, by).await? {
            return Ok(());
        }
        // Who waits holds nothing of what is to be taken: many may wait.
        let writer = stream.writer().await;
        self.try_catch_up(stream, By::Reader(Some(writer))).await.map(drop)
    }

    /// The same, but `false` where only who has the right to append may take what has come.
    pub(super) async fn try_catch_up(&self, stream: &Arc<Stream>, by: By) -> Result<bool, BackendError> {
        loop {
            let since = stream.mark();
            let stored = match self.backend.log.load(stream.id(), Some(since)).await? {
                Loaded::Since(entries) => {
                    if matches!(by, By::Reader(None)) && stream.is_long(bytes(&entries)) {
                        return Ok(false);
                    }
                    if self.take(stream, since.position, entries, by).await.is_err() {
                        // One of them does not fit what is here.
                        self.reload(stream).await?;
                    }
                    return Ok(true);
                }
                Loaded::Whole(stored) => Some(stored),
                // Nobody has appended anything yet.
                Loaded::Absent if since.position.seq == 0 => return Ok(true),
                Loaded::Absent => None,
            };
            if self.restart(stream, since, stored).await? {
                return Ok(true);
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
        let of = (stream.id(), stream.channel(), stream.common());
        let start = self.start(self.empty(stream.id())?, stored, of, (true, 0)).await?;
        let before = stream.reset(since, start);
        Ok(before.map(Desk::discard).is_some())
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
