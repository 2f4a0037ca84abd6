//! Shared documents: Yjs on the wire and in browsers, yrs here.
//!
//! An update is judged by its structure (`update`, `index`), applied by yrs (`document`), stored, and only then
//! published. Changes of one document, and the answers to questions about it, are in the order of its stream's writers.

mod awareness;
mod document;
mod error;
#[cfg(any(test, feature = "arbitrary"))]
#[expect(clippy::panic, reason = "what is broken shall be found")]
pub mod fuzz;
mod index;
mod lib0;
mod message;
mod request;
mod shared;
#[cfg(test)]
mod tests;
mod update;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use datasole_core::{Position, StreamKind};
use tokio::sync::OnceCell;
use yrs::{GetString, ReadTxn, Transaction, TransactionMut};

pub use self::error::DocError;
use self::{document::Document, shared::Shared};
pub(crate) use self::{
    request::{Posted, serve},
    shared::kind,
};
use crate::{
    answer::Author,
    backend::BackendError,
    connection::Connection,
    hub::{self, Hub, Kind, Stream, Writer},
    limits::Limits,
    primitives::reservation::Reservation,
};

/// The number of documents; counted when first asked for.
#[derive(Debug, Default)]
pub(crate) struct Count(OnceCell<Arc<AtomicUsize>>);

impl Count {
    async fn get(&self, hub: &Hub) -> Result<&Arc<AtomicUsize>, BackendError> {
        let count = async || Ok(Arc::new(AtomicUsize::new(hub.keys(StreamKind::Doc).await?.len())));
        self.0.get_or_try_init(count).await
    }
}

/// The server's documents; from [`Server::docs`](crate::Server::docs).
///
/// Documents are read and edited through yrs' transactions. Positions in texts count UTF-16's units, as in JavaScript.
///
/// ```
/// # async fn example() -> Result<(), datasole_server::DocError> {
/// use datasole_server::{Server, yrs::{Map, ReadTxn, Text, WriteTxn}};
/// let server = Server::builder().build();
/// let docs = server.docs();
/// docs.edit("notes", |edit| {
///     let text = edit.get_or_insert_text("body");
///     text.insert(edit, 0, "Hello");
///     edit.get_or_insert_map("meta").insert(edit, "done", false);
/// })
/// .await?;
/// assert_eq!(docs.text("notes", "body").await?, "Hello");
/// let fields = docs.read("notes", |read| read.get_map("meta").map_or(0, |map| map.len(read))).await?;
/// assert_eq!(fields, 1);
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Clone, Copy)]
pub struct Docs<'a> {
    hub: &'a Arc<Hub>,
    count: &'a Count,
}

impl std::fmt::Debug for Docs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Docs").finish_non_exhaustive()
    }
}

impl<'a> Docs<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, count: &'a Count) -> Self {
        Self { hub, count }
    }

    /// The keys of all documents that are stored, sorted.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn keys(self) -> Result<Vec<String>, DocError> {
        Ok(self.hub.keys(StreamKind::Doc).await?)
    }

    /// The root text `name` without its formatting; empty where there is none.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn text(self, key: &str, name: &str) -> Result<String, DocError> {
        self.read(key, |read| read.get_text(name).map_or_else(String::new, |text| text.get_string(read))).await
    }

    /// Reads a document. A missing document is empty, and is not created.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails, or the function panics.
    pub async fn read<R>(self, key: &str, look: impl FnOnce(&Transaction<'_>) -> R) -> Result<R, DocError> {
        let Some(stream) = self.hub.find(StreamKind::Doc, key).await? else {
            return Document::empty(self.hub.limits().max_doc).read(look);
        };
        let result = {
            // A change that is about to be stored is not to be seen.
            let _writer = stream.writer().await;
            stream.with_content(|content| shared(content)?.document.read(look))
        };
        self.hub.release(stream).await;
        result
    }

    /// Edits a document, new or not. All that the function does is one change: it is stored, and published to everybody
    /// who follows the document, before this returns. The function runs under the document's lock: it must be quick.
    ///
    /// # Errors
    ///
    /// Fails if the function panics, the document would become too large or the backend fails; nothing is changed then.
    pub async fn edit<R>(self, key: &str, edit: impl FnOnce(&mut TransactionMut<'_>) -> R) -> Result<R, DocError> {
        let Limits { max_key: limit, .. } = *self.hub.limits();
        if key.is_empty() || key.len() > limit {
            return Err(DocError::Key { bytes: key.len(), limit });
        }
        let stream = self.hub.open(StreamKind::Doc, key).await?;
        let writer = stream.writer().await;
        let admission = Admission { total: self.count.get(self.hub).await?, limits: self.hub.limits(), client: None };
        let edit = |document: &mut Document| document.edit(edit);
        let outcome = change(self.hub, &stream, writer, None, &admission, edit).await;
        self.hub.release(stream).await;
        outcome.map(|(result, _)| result)
    }

    /// Removes a document. Clients that have it create it again when they next synchronise.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails. A key that does not exist is no error.
    pub async fn remove(self, key: &str) -> Result<(), DocError> {
        let Some(stream) = self.hub.find(StreamKind::Doc, key).await? else { return Ok(()) };
        let writer = stream.writer().await;
        let count = self.count.get(self.hub).await?;
        let exists = stream.position().seq > 0;
        let removed = self.hub.remove(&stream, writer).await;
        if removed.is_ok() && exists {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.hub.release(stream).await;
        Ok(removed?)
    }
}

/// A document's stream holds nothing else.
fn shared(content: &mut dyn Kind) -> Result<&mut Shared, DocError> {
    hub::of(content).ok_or(DocError::Damaged)
}

/// The permission to create a document, within the limits of documents.
struct Admission<'a> {
    /// The number of documents.
    total: &'a Arc<AtomicUsize>,
    limits: &'a Limits,
    /// The client that creates the document, unless the server does.
    client: Option<&'a Connection>,
}

impl Admission<'_> {
    fn reserve(&self) -> Result<Reservation, DocError> {
        let mut reservation = Reservation::default();
        let total = reservation.take(self.total);
        let Some(client) = self.client else { return Ok(reservation) };
        let own = reservation.take(client.created(StreamKind::Doc));
        for (taken, limit) in [(own, self.limits.max_docs_per_connection), (total, self.limits.max_docs)] {
            if taken >= limit {
                return Err(DocError::TooMany { limit });
            }
        }
        Ok(reservation)
    }
}

/// Changes a document, stores and publishes the new changes; returns their position, if there are any.
async fn change<R>(
    hub: &Arc<Hub>,
    stream: &Arc<Stream>,
    writer: Writer,
    author: Option<Author>,
    admission: &Admission<'_>,
    change: impl FnOnce(&mut Document) -> Result<(R, Option<Bytes>), DocError>,
) -> Result<(R, Option<Position>), DocError> {
    let (mut change, mut result, mut update) = (Some(change), None, None);
    let plan = |content: &mut dyn Kind| {
        let shared = shared(content)?;
        let reservation = if shared.exists() { None } else { Some(admission.reserve()?) };
        let new = match (change.take(), &update) {
            (Some(change), _) => {
                let (returned, new) = change(&mut shared.document)?;
                result = Some(returned);
                update.clone_from(&new);
                new
            }
            // A conflict with another server: plan again on its changes.
            (None, Some(update)) => shared.document.apply(update)?,
            (None, None) => None,
        };
        Ok(new.map(|update| shared.intend(&update, reservation)))
    };
    let changed = hub.transact(stream, writer, author, plan).await;
    if let Err(DocError::Damaged) = changed {
        let _writer = stream.writer().await;
        hub.reload(stream).await?;
    }
    let position = changed?;
    Ok((result.ok_or(DocError::Damaged)?, position))
}
