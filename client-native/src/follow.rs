//! The common part of the handles of CRDTs, rooms and documents: [`Follow`], one open stream for all clones, and
//! [`Changes`].

use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datasole_core::{CommandError, StreamId};
use futures_util::Stream;

use crate::{
    error::FollowError,
    router::{Follower, Shared},
    signal::Reader,
    status::SyncStatus,
};

/// A stream that is open for as long as this lives, with its follower.
pub(crate) struct Follow<F> {
    shared: Arc<Shared>,
    stream: StreamId,
    follower: Arc<F>,
}

impl<F: Follower> Follow<F> {
    /// Opens a stream; where it is not open, it is followed by what `make` makes.
    pub(crate) fn open<E: From<CommandError>>(
        shared: &Arc<Shared>,
        stream: StreamId,
        make: impl FnOnce() -> Result<Arc<F>, E>,
    ) -> Result<Arc<Self>, E> {
        let follower = shared.command(|router, now| router.open_stream(now, &stream, make))?;
        Ok(Arc::new(Self { shared: shared.clone(), stream, follower }))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn key(&self) -> &str {
        &self.stream.key
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.feed().followers().is_loaded()
    }

    /// Waits until `status` is synchronised or refused.
    pub(crate) async fn reach(&self, status: impl Fn(&F) -> SyncStatus) -> Result<(), FollowError> {
        let mut reader = Reader::new(self.feed());
        while !self.feed().followers().is_closed() {
            match status(&self.follower) {
                SyncStatus::Synced => return Ok(()),
                SyncStatus::Refused { code, message } => return Err(FollowError::Refused { code, message }),
                SyncStatus::Loading | SyncStatus::Pending(_) => {}
            }
            reader.next().await.unwrap_or(Err(FollowError::Closed))?;
        }
        Err(FollowError::Closed)
    }

    pub(crate) fn changes(self: &Arc<Self>) -> Changes {
        Changes { reader: Reader::new(self.feed()), follow: self.clone() }
    }
}

impl<F> Deref for Follow<F> {
    type Target = Arc<F>;

    fn deref(&self) -> &Arc<F> {
        &self.follower
    }
}

impl<F> Drop for Follow<F> {
    fn drop(&mut self) {
        self.shared.command(|router, now| router.leave(now, &self.stream));
    }
}

/// A [`Follow`] without the type of its follower, for [`Changes`].
trait Kept: Send + Sync {
    fn stream(&self) -> &StreamId;
}

impl<F: Follower> Kept for Follow<F> {
    fn stream(&self) -> &StreamId {
        &self.stream
    }
}

/// Change notifications of a CRDT or a presence room: an item once the value is known, then one after each change of
/// the value, of the pending edits, or of the status, local changes included. Several changes may be reported as one;
/// read the value from the handle.
///
/// [`FollowError::Disconnected`] comes once when the client gives up reconnecting; the stream ends when the client is
/// closed, or after [`FollowError::Refused`]. The key is followed for as long as this lives.
pub struct Changes {
    reader: Reader,
    follow: Arc<dyn Kept>,
}

impl Changes {
    /// The next item; `None` after the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<(), FollowError>> {
        self.reader.next().await
    }
}

impl Stream for Changes {
    type Item = Result<(), FollowError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reader.poll_item(cx)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("stream", self.follow.stream()).finish_non_exhaustive()
    }
}
