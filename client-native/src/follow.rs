//! What the handles of CRDTs and rooms share: [`Follow`], one subscription for all clones, and [`Changes`].

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use datasole_core::StreamId;
use futures_util::Stream;

use crate::{error::FollowError, router::Shared, signal::Signal};

/// A stream that is followed for as long as this lives.
pub(crate) struct Follow {
    shared: Arc<Shared>,
    stream: StreamId,
}

impl Follow {
    /// Of a stream that the router has been told to follow.
    pub(crate) fn new(shared: &Arc<Shared>, stream: StreamId) -> Arc<Self> {
        Arc::new(Self { shared: shared.clone(), stream })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn key(&self) -> &str {
        &self.stream.key
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.shared.command(|router, now| router.unfollow(now, &self.stream));
    }
}

/// The news of a CRDT or a presence room: an item once its value is known, and then after changes of the value or of
/// what is pending, also those made here. Several may be reported as one; read the value from the handle.
///
/// [`FollowError::Disconnected`] comes once when the client gives up reconnecting; the stream ends when the client is
/// closed, or after [`FollowError::Refused`]. The key is followed for as long as this lives.
pub struct Changes {
    follow: Arc<Follow>,
    signal: Arc<Signal>,
}

impl Changes {
    pub(crate) fn new(follow: &Arc<Follow>) -> Self {
        let signal = follow.shared.router().join_follow(&follow.stream);
        Self { follow: follow.clone(), signal }
    }

    /// The next item; `None` after the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<(), FollowError>> {
        poll_fn(|cx| self.signal.poll_item(cx)).await
    }
}

impl Stream for Changes {
    type Item = Result<(), FollowError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.signal.poll_item(cx)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.follow.shared.router().leave_follow(&self.follow.stream, &self.signal);
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("stream", &self.follow.stream).finish_non_exhaustive()
    }
}
