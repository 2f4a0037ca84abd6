//! [`Document`], the handle.

use std::{fmt, future::ready, sync::Arc};

use datasole_core::StreamId;
use futures_util::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::Handle as Runtime;
use yrs::Doc;

use super::{keeper::Keeper, link::Link};
use crate::{
    error::DocError,
    follow::Follow,
    router::{Follower, Shared},
    signal::Reader,
    status::SyncStatus,
};

/// What a client of a document shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awareness<T> {
    /// The Yjs client.
    pub client_id: u64,
    /// Whether it is this client.
    pub own: bool,
    /// What it shows; with editors usually `{user: {name, color}, cursor}`.
    pub value: T,
}

/// A document that is kept equal to the server's, from [`Client::doc`](crate::Client::doc) or
/// [`Client::open_doc`](crate::Client::open_doc).
///
/// Edit [`yrs_doc`](Self::yrs_doc) as any other: each transaction is sent when it ends, and what others do is applied with
/// the origin `"datasole"`, so that an undo manager of yrs that tracks local edits undoes those only. Edits made without a
/// connection are merged when there is one. Clones are the same document; when the last is dropped it is left, once
/// everything is stored.
///
/// ```no_run
/// # async fn example(client: &datasole_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// use datasole_client::yrs::{GetString, Text, Transact};
///
/// let notes = client.doc("notes")?;
/// notes.synced().await?;
/// let text = notes.yrs_doc().get_or_insert_text("text");
/// text.push(&mut notes.yrs_doc().transact_mut(), "hello");
/// println!("{}", text.get_string(&notes.yrs_doc().transact()));
/// notes.synced().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Document {
    follow: Arc<Follow<Link>>,
}

impl Document {
    /// Opens `doc` under this key; without one, the document that is open or an empty one.
    pub(crate) fn open(shared: &Arc<Shared>, key: &str, doc: Option<&Doc>) -> Result<Self, DocError> {
        let runtime = Runtime::try_current().map_err(|_| DocError::NoRuntime)?;
        let mut new = false;
        let follow = Follow::open::<DocError>(shared, StreamId::doc(key), || {
            new = true;
            let link = Arc::new(Link::new(StreamId::doc(key), doc.cloned().unwrap_or_default()));
            link.observe(shared).map_err(|_| DocError::Busy).map(|()| link)
        })?;
        if doc.is_some_and(|doc| !Doc::ptr_eq(doc, &follow.doc)) {
            return Err(DocError::Open);
        }
        if new {
            runtime.spawn(Keeper { shared: shared.clone(), link: (*follow).clone(), applied: false }.run());
        }
        Ok(Self { follow })
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.follow.key()
    }

    /// The document.
    pub fn yrs_doc(&self) -> &Doc {
        &self.follow.doc
    }

    /// What the server has of it.
    pub fn status(&self) -> SyncStatus {
        self.follow.status(self.follow.made())
    }

    /// How many transactions made here the server has not stored yet.
    pub fn pending(&self) -> usize {
        if let SyncStatus::Pending(count) = self.status() { count } else { 0 }
    }

    /// The status, at once and after changes; ends when the client is closed.
    pub fn statuses(&self) -> impl Stream<Item = SyncStatus> + Send + Unpin + use<> {
        let link = Arc::downgrade(&*self.follow);
        let status = move |()| ready(link.upgrade().map(|link| link.status(link.made())));
        Reader::told(self.follow.feed()).into_stream().filter_map(status)
    }

    /// Waits until this document has what the server had, and the server everything made here before. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`DocError::Refused`] when the server does not show the document or does not take what was made, as of one that is
    /// read-only; [`DocError::Closed`].
    pub async fn synced(&self) -> Result<(), DocError> {
        let made = self.follow.made();
        Ok(self.follow.reach(|link| link.status(made)).await?)
    }

    /// Shows this to the others who have the document open, until it is replaced, [cleared](Self::clear_awareness), or
    /// the document is left.
    ///
    /// # Errors
    ///
    /// [`DocError::Value`] when it cannot be written as JSON.
    pub fn set_awareness<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), DocError> {
        self.show(Some(serde_json::to_string(value).map_err(DocError::Value)?));
        Ok(())
    }

    /// Shows nothing any more.
    pub fn clear_awareness(&self) {
        self.show(None);
    }

    fn show(&self, json: Option<String>) {
        self.follow.shared().command(|router, now| {
            let (core, shows) = (router.core_mut(), json.is_some());
            core.aware(now, self.key(), Some(self.follow.local().awareness.show(json)));
            if !shows {
                core.aware(now, self.key(), None);
            }
        });
    }

    /// What everybody shows, this client included. Those that are not a `T` are left out.
    pub fn awareness<T: DeserializeOwned>(&self) -> Vec<Awareness<T>> {
        let own = self.follow.doc.client_id().get();
        // Read without the lock, which an observer takes.
        let texts: Vec<_> = self.follow.local().awareness.all().map(|(id, json)| (id, json.to_owned())).collect();
        let read = |(client_id, json): (u64, String)| {
            Some(Awareness { client_id, own: client_id == own, value: serde_json::from_str(&json).ok()? })
        };
        texts.into_iter().filter_map(read).collect()
    }

    /// Others show something else: an item for now, and one after changes. Ends when the document is left.
    pub fn awareness_changes(&self) -> impl Stream<Item = ()> + Send + Unpin + use<> {
        Reader::told(&self.follow.shown).into_stream()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("key", &self.key()).field("status", &self.status()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Document {
        /// A task as this document's, for a test that lets only this one do something.
        pub(crate) fn keeper(&self, shared: &Arc<Shared>) -> Keeper {
            Keeper { shared: shared.clone(), link: (*self.follow).clone(), applied: false }
        }
    }
}
