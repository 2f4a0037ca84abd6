//! [`Document`], the handle.

use std::{fmt, future::ready, sync::Arc};

use datasole_core::StreamId;
use futures_util::{Stream, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use yrs::Doc;

use super::{keeper::Keeper, link::Link};
use crate::{
    error::DocError,
    follow::Follow,
    host::Runtime,
    router::{Follower, Shared},
    signal::Reader,
    status::SyncStatus,
};

/// The awareness state of one client of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awareness<T> {
    /// The Yjs client.
    pub client_id: u64,
    /// True for this client.
    pub own: bool,
    /// The state; with editors usually `{user: {name, color}, cursor}`.
    pub value: T,
}

/// A document that is synchronised with the server's, from [`Client::doc`](crate::Client::doc) or
/// [`Client::open_doc`](crate::Client::open_doc).
///
/// Edit [`yrs_doc`](Self::yrs_doc) like any `yrs::Doc`: each transaction is sent when it ends. Remote changes are
/// applied with the origin `"datasole"`, so that an undo manager of yrs that tracks local edits undoes those only.
/// Edits made while disconnected are merged on reconnecting. Clones share one document. When the last clone is dropped,
/// the document is left once every edit is stored.
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
        let runtime = Runtime::current().ok_or(DocError::NoRuntime)?;
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

    /// The status of the document's edits on the server.
    pub fn status(&self) -> SyncStatus {
        self.follow.status(self.follow.made())
    }

    /// The number of local transactions that the server has not stored yet.
    pub fn pending(&self) -> usize {
        if let SyncStatus::Pending(count) = self.status() { count } else { 0 }
    }

    /// A stream of the status: the present one at once, then each change; ends when the client is closed.
    pub fn statuses(&self) -> impl Stream<Item = SyncStatus> + Send + Unpin + use<> {
        let link = Arc::downgrade(&*self.follow);
        let status = move |()| ready(link.upgrade().map(|link| link.status(link.made())));
        Reader::told(self.follow.feed()).into_stream().filter_map(status)
    }

    /// Waits until this document has all of the server's changes, and the server has stored all local edits made
    /// before. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`DocError::Refused`] if the server refuses the document or an edit, for example of a read-only document;
    /// [`DocError::Closed`].
    pub async fn synced(&self) -> Result<(), DocError> {
        let made = self.follow.made();
        Ok(self.follow.reach(|link| link.status(made)).await?)
    }

    /// Sets this client's awareness state, which others who have the document open see until it is replaced,
    /// [cleared](Self::clear_awareness), or the document is left.
    ///
    /// # Errors
    ///
    /// [`DocError::Value`] when it cannot be written as JSON.
    pub fn set_awareness<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), DocError> {
        self.show(Some(serde_json::to_string(value).map_err(DocError::Value)?));
        Ok(())
    }

    /// Removes this client's awareness state.
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

    /// The awareness states of all clients, this one included. States that are not a `T` are left out.
    pub fn awareness<T: DeserializeOwned + 'static>(&self) -> Vec<Awareness<T>> {
        let own = self.follow.doc.client_id().get();
        // Read without the lock, which an observer takes.
        let texts: Vec<_> = self.follow.local().awareness.all().map(|(id, json)| (id, json.to_owned())).collect();
        let read = |(client_id, json): (u64, String)| {
            Some(Awareness { client_id, own: client_id == own, value: datasole_core::value::read(&json).ok()? })
        };
        texts.into_iter().filter_map(read).collect()
    }

    /// A stream that yields once immediately and then after every awareness change of another client. Ends when the
    /// document is left.
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
