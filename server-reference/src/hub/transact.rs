//! The one way by which a stored stream changes: plan, append by compare-and-set, apply, publish.

use std::sync::Arc;

use datasole_core::Position;

use super::{
    Hub,
    kind::Kind,
    stream::{Stream, Writer},
};
use crate::{
    answer::Author,
    backend::{Appended, BackendError},
    clock::unix_millis,
    entry::Entry,
    task::to_the_end,
};

/// Outcome of a commit.
enum Committed {
    /// The entry is stored and published.
    At(Position),
    /// Others were faster. Their entries have been applied and published.
    Conflict(Writer),
}

impl Hub {
    /// Changes a stream that the backend keeps: `plan` makes an entry of the content, which is stored, applied and
    /// published, and acknowledged to its author in the same step. Where others were faster, their entries are applied and
    /// published, and `plan` is asked again. `None` where it has nothing to change.
    ///
    /// `plan` may leave in the content what is pending: see [`Kind`].
    pub(crate) async fn transact<E: From<BackendError>>(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        mut writer: Writer,
        author: Option<Author>,
        mut plan: impl FnMut(&mut dyn Kind) -> Result<Option<Entry>, E>,
    ) -> Result<Option<Position>, E> {
        loop {
            let Some(entry) = stream.with_content(&mut plan)? else { return Ok(None) };
            let (hub, own, author) = (self.clone(), stream.clone(), author.clone());
            // A commit that were dropped with its caller would leave followers without an entry that is stored.
            let committed = to_the_end(async move { hub.commit(&own, writer, &entry, author.as_ref()).await });
            match committed.await? {
                Committed::At(position) => return Ok(Some(position)),
                Committed::Conflict(still) => writer = still,
            }
        }
    }

    async fn commit(
        &self,
        stream: &Arc<Stream>,
        writer: Writer,
        entry: &Entry,
        author: Option<&Author>,
    ) -> Result<Committed, BackendError> {
        let Some(position) = self.append(stream, entry, author).await? else {
            return Ok(Committed::Conflict(writer));
        };
        if stream.note(entry.bytes().len())
            && let Err(error) = self.compact(stream).await
        {
            // The entry is stored and published; the backend only holds more than it must.
            tracing::error!(%error, key = stream.id().key, "a stream could not be compacted");
        }
        Ok(Committed::At(position))
    }

    /// Stores an entry as the stream's next, applies and publishes it. `None` when others were faster; what they have
    /// appended is here then, and nothing is pending.
    async fn append(
        &self,
        stream: &Arc<Stream>,
        entry: &Entry,
        author: Option<&Author>,
    ) -> Result<Option<Position>, BackendError> {
        match self.backend.append(stream.id(), stream.position(), entry.bytes().clone()).await {
            Ok(Appended::At(position)) => {
                let applied = self.with_v1(stream, |v1| stream.publish(entry, unix_millis(), v1, author));
                if applied.is_err() {
                    // The plan does not fit: memory differs from the backend.
                    self.reload(stream).await?;
                    if let Some(Author { connection, correlation }) = author {
                        connection.acknowledge(*correlation, position.seq);
                    }
                }
                Ok(Some(applied.unwrap_or(position)))
            }
            Ok(Appended::Conflict(_)) => {
                stream.with_content(|content| content.retract());
                self.catch_up(stream).await.map(|()| None)
            }
            Err(error) => {
                stream.with_content(|content| content.retract());
                Err(error)
            }
        }
    }

    /// Lets the backend forget entries. The caller has the right to append: what the content forgets is an entry, too, so
    /// that all who follow forget the same.
    async fn compact(&self, stream: &Arc<Stream>) -> Result<(), BackendError> {
        if let Some(entry) = stream.with_content(|content| content.compact(unix_millis()))
            && self.append(stream, &entry, None).await?.is_none()
        {
            return Ok(());
        }
        match stream.snapshot() {
            Some((at, snapshot, keep)) => self.backend.snapshot(stream.id(), at, snapshot, keep).await,
            None => Ok(()),
        }
    }

    /// Publishes on a stream that no backend keeps what `plan` makes of its content.
    pub(crate) fn publish<E>(
        &self,
        stream: &Arc<Stream>,
        author: Option<&Author>,
        plan: impl FnOnce(&mut dyn Kind) -> Result<Entry, E>,
    ) -> Result<(), E> {
        self.with_v1(stream, |v1| stream.publish_planned(unix_millis(), v1, author, plan)).map(drop)
    }
}
