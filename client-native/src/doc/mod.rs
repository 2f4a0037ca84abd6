//! Shared documents, compatible with Yjs: a [`Document`] keeps a [`yrs::Doc`] equal to those of all who have it open.

mod awareness;
mod link;
mod provider;

use std::{fmt, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{runtime::Handle as Runtime, sync::watch};
use yrs::Doc;

pub(crate) use link::{Documents, Link};
use provider::{ORIGIN, Provider};

use crate::{error::DocError, router::Shared, status::SyncStatus};

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
    handle: Arc<Handle>,
}

/// Shared by the clones.
struct Handle {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Document {
    /// Opens `doc` under this key; without one, the document that is open or an empty one.
    pub(crate) fn open(shared: &Arc<Shared>, key: &str, doc: Option<Doc>) -> Result<Self, DocError> {
        let runtime = Runtime::try_current().map_err(|_| DocError::NoRuntime)?;
        let of = |link| Self { handle: Arc::new(Handle { shared: shared.clone(), link }) };
        if let Some(link) = shared.command(|router, _| router.join_document(key))? {
            let document = of(link);
            return match doc {
                Some(doc) if !Doc::ptr_eq(&doc, document.yrs_doc()) => Err(DocError::Open),
                _ => Ok(document),
            };
        }
        let given = doc.is_some();
        let link = Arc::new(Link::new(key, doc.unwrap_or_default()));
        let observer = Arc::downgrade(&link);
        let observed = link.doc.observe_update_v1(observer_name(&link), move |transaction, event| {
            if transaction.origin().is_none_or(|origin| origin.as_ref() != ORIGIN.as_bytes())
                && let Some(link) = observer.upgrade()
            {
                link.edited(&event.update);
            }
        });
        observed.map_err(|_| DocError::Busy)?;
        if let Some(other) = shared.command(|router, now| router.add_document(now, &link))? {
            // Opened elsewhere meanwhile.
            let other = of(other);
            return if given { Err(DocError::Open) } else { Ok(other) };
        }
        runtime.spawn(Provider::new(shared.clone(), link.clone()).run());
        Ok(of(link))
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.handle.link.key
    }

    /// The document.
    pub fn yrs_doc(&self) -> &Doc {
        &self.handle.link.doc
    }

    /// What the server has of it.
    pub fn status(&self) -> SyncStatus {
        self.handle.link.sync_status()
    }

    /// How many transactions made here the server has not stored yet.
    pub fn pending(&self) -> usize {
        if let SyncStatus::Pending(count) = self.status() { count } else { 0 }
    }

    /// The status, at once and after changes; ends when the client is closed.
    pub fn statuses(&self) -> impl Stream<Item = SyncStatus> + Send + Unpin + use<> {
        let mut receiver = self.handle.link.status.subscribe();
        receiver.mark_changed();
        let link = Arc::downgrade(&self.handle.link);
        let next = move |mut receiver: watch::Receiver<link::Progress>| {
            let link = link.clone();
            async move {
                receiver.changed().await.ok()?;
                let closed = receiver.borrow_and_update().closed;
                let status = link.upgrade()?.sync_status();
                (!closed).then_some((status, receiver))
            }
        };
        stream::unfold(receiver, next).boxed()
    }

    /// Waits until this document has what the server had, and the server everything made here before. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`DocError::Refused`] when the server does not show the document or does not take what was made, as of one that is
    /// read-only; [`DocError::Closed`].
    pub async fn synced(&self) -> Result<(), DocError> {
        let link = &self.handle.link;
        let made = link.edits().made;
        let mut status = link.status.subscribe();
        let done = |progress: &link::Progress| {
            progress.closed || progress.refused.is_some() || progress.compared && progress.stored >= made
        };
        let Ok(progress) = status.wait_for(done).await.map(|progress| progress.clone()) else {
            return Err(DocError::Closed);
        };
        match progress.refused {
            Some((code, message)) => Err(DocError::Refused { code, message }),
            None if progress.closed => Err(DocError::Closed),
            None => Ok(()),
        }
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
        let link = &self.handle.link;
        link.awareness().set_own(json);
        link.wake.notify_one();
    }

    /// What everybody shows, this client included. Those that are not a `T` are left out.
    pub fn awareness<T: DeserializeOwned>(&self) -> Vec<Awareness<T>> {
        let own = self.handle.link.own();
        let table = self.handle.link.awareness();
        let read = table.all(own).filter_map(|(client_id, json)| {
            Some(Awareness { client_id, own: client_id == own, value: serde_json::from_str(json).ok()? })
        });
        read.collect()
    }

    /// Others show something else: an item for now, and one after changes. Ends when the document is left.
    pub fn awareness_changes(&self) -> impl Stream<Item = ()> + Send + Unpin + use<> {
        let mut receiver = self.handle.link.shown.subscribe();
        receiver.mark_changed();
        let next =
            |mut receiver: watch::Receiver<u64>| async move { receiver.changed().await.ok().map(|()| ((), receiver)) };
        stream::unfold(receiver, next).boxed()
    }
}

/// Names the observer of one link, so that two clients of one program can follow the same `Doc`.
fn observer_name(link: &Arc<Link>) -> String {
    format!("datasole {:p}", Arc::as_ptr(link))
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.router().documents().leave(&self.link.key);
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("key", &self.key()).field("status", &self.status()).finish_non_exhaustive()
    }
}
