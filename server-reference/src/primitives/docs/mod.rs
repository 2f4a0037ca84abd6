//! Shared documents: Yjs on the wire and in browsers, yrs here.
//!
//! An update is judged by its structure (`update`, `index`), applied by yrs (`document`), stored, and only then
//! published. Changes of one document, and the answers to questions about it, are in the order of its stream's writers.

mod awareness;
mod document;
mod error;
#[cfg(any(test, feature = "arbitrary"))]
#[expect(clippy::panic, reason = "what is broken shall be found")]
pub(crate) mod fuzz;
mod habit;
mod index;
mod ledger;
mod lib0;
mod message;
mod request;
mod shared;
#[cfg(test)]
mod tests;
mod update;
mod work;

use std::sync::{Arc, atomic::AtomicUsize};

use bytes::Bytes;
use datasole_core::{Position, StreamId, StreamKind};
use yrs::{GetString, ReadTxn, Transaction, TransactionMut};

pub use self::error::DocError;
use self::{document::Document, shared::Shared};
pub(crate) use self::{
    request::{Posted, serve},
    shared::kind,
};
pub(crate) use crate::primitives::reservation::Count;
use crate::{
    answer::Author,
    connection::Connection,
    hub::{self, Hub, Kind, Stream, Writer},
    limits::Limits,
    primitives::reservation::{Reservation, give_back},
};

/// The number of documents, for somebody who is about to change one.
async fn count<'a>(hub: &Hub, count: &'a Count, stream: &Stream) -> Result<&'a Arc<AtomicUsize>, DocError> {
    let exists = stream.with_content(|content| shared(content).map(|shared| shared.exists()))?;
    Ok(if exists {
        count.get(hub, StreamKind::Doc, |_| true).await?
    } else {
        count.fresh(hub, StreamKind::Doc, |_| true).await?
    })
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
            return Document::empty(document::Bounds { size: 0, memory: 0 }).read(look);
        };
        let result = {
            // A change that is about to be stored is not to be seen.
            let _writer = stream.writer().await;
            stream.with_content(|content| {
                let document = shared(content)?.document()?;
                document.mend()?;
                document.read(look)
            })
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
        let total = count(self.hub, self.count, &stream).await?;
        let admission = Admission { total, limits: self.hub.limits(), client: None };
        let edited = stream.with_content(|content| {
            let shared = shared(content)?;
            let edited = shared.document()?.edit(edit);
            shared.settle(None);
            edited
        });
        let outcome = match edited {
            Ok((result, None)) => Ok(result),
            Ok((result, Some(new))) => publish(self.hub, &stream, writer, None, &admission, new).await.map(|_| result),
            Err(error) => {
                drop(writer);
                Err(error)
            }
        };
        let outcome = work::heal(self.hub, &stream, outcome).await;
        self.hub.release(stream).await;
        outcome
    }

    /// Removes a document. Clients that have it create it again when they next synchronise.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails. A key that does not exist is no error.
    pub async fn remove(self, key: &str) -> Result<(), DocError> {
        let Some(stream) = self.hub.find(StreamKind::Doc, key).await? else { return Ok(()) };
        let writer = stream.writer().await;
        let count = count(self.hub, self.count, &stream).await?;
        let exists = stream.position().seq > 0;
        let removed = self.hub.remove(&stream, writer).await;
        if removed.is_ok() && exists {
            give_back(count);
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
        let of_owner = reservation.take(client.standing().created(StreamKind::Doc));
        let Limits { max_docs_per_connection, max_docs_per_user, max_docs, .. } = *self.limits;
        for (taken, limit) in [(own, max_docs_per_connection), (of_owner, max_docs_per_user), (total, max_docs)] {
            if taken >= limit {
                return Err(DocError::TooMany { limit });
            }
        }
        Ok(reservation)
    }

    /// Asks the quota of the client's owner, which all servers share, for what this node allows.
    async fn ask(&self, hub: &Hub, id: &StreamId) -> Result<(), DocError> {
        let Some(client) = self.client else { return Ok(()) };
        drop(self.reserve()?);
        let limit = self.limits.max_docs_per_user;
        if hub.may_create(id, client, limit).await { Ok(()) } else { Err(DocError::TooMany { limit }) }
    }
}

/// Stores and publishes changes that are pending in the document, and compacts it now and then; the position, unless others
/// had the same changes.
async fn publish(
    hub: &Arc<Hub>,
    stream: &Arc<Stream>,
    writer: Writer,
    author: Option<Author>,
    admission: &Admission<'_>,
    update: Bytes,
) -> Result<Option<Position>, DocError> {
    let plan = |content: &mut dyn Kind| {
        let shared = shared(content)?;
        let reservation = if shared.exists() { None } else { Some(admission.reserve()?) };
        let document = shared.document()?;
        // After a conflict with another server: plan again on its changes.
        let is_pending = document.is_pending(&update);
        let new = if is_pending { Some(update.clone()) } else { document.apply(&update, usize::MAX)? };
        Ok(new.map(|update| shared.intend(&update, reservation)))
    };
    let exists = stream.with_content(|content| shared(content).map(|shared| shared.exists()))?;
    if !exists && let Err(error) = admission.ask(hub, stream.id()).await {
        stream.retract();
        return Err(error);
    }
    let position = hub.transact(stream, writer, author, plan).await;
    if matches!(position, Ok(Some(_))) {
        if let (false, Some(client)) = (exists, admission.client) {
            client.standing().spend(stream.id());
        }
        work::compact(hub, stream).await;
    }
    position
}
