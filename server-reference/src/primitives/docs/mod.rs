//! Shared documents: Yjs on the wire and in browsers, yrs here.
//!
//! An update is judged by its structure (`update`, `index`), applied by yrs (`document`), stored, and only then
//! published. Changes of one document, and the answers to questions about it, are in the order of its stream's writers.

mod awareness;
mod document;
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

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use datasole_core::{Position, StreamKind};
use yrs::{GetString, ReadTxn, Transaction, TransactionMut};

use self::document::Document;
pub(crate) use self::{request::receive, shared::Shared};
use crate::{
    connection::Connection,
    error::DocError,
    hub::{Author, Content, Entry, Hub, Stream, Writer},
    limits::Limits,
    primitives::place::Place,
};

/// The server's documents; from [`Server::docs`](crate::Server::docs).
///
/// They are read and edited through yrs' transactions. Positions in texts count UTF-16's units, as in JavaScript.
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
    limits: &'a Limits,
}

impl std::fmt::Debug for Docs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Docs").finish_non_exhaustive()
    }
}

impl<'a> Docs<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, limits: &'a Limits) -> Self {
        Self { hub, limits }
    }

    /// The keys of all documents that are stored, sorted.
    ///
    /// # Errors
    ///
    /// When the backend fails.
    pub async fn keys(&self) -> Result<Vec<String>, DocError> {
        Ok(self.hub.keys(StreamKind::Doc).await?)
    }

    /// The root text `name` without its formatting; empty where there is none.
    ///
    /// # Errors
    ///
    /// When the backend fails.
    pub async fn text(&self, key: &str, name: &str) -> Result<String, DocError> {
        self.read(key, |read| read.get_text(name).map_or_else(String::new, |text| text.get_string(read))).await
    }

    /// Looks at a document. One that does not exist is empty, and does not exist afterwards.
    ///
    /// # Errors
    ///
    /// When the backend fails, or the function panics.
    pub async fn read<R>(&self, key: &str, look: impl FnOnce(&Transaction<'_>) -> R) -> Result<R, DocError> {
        let Some(stream) = self.hub.find(StreamKind::Doc, key).await? else {
            return Document::load(None, Vec::new(), self.limits.max_doc)?.read(look);
        };
        let result = {
            // What is about to be stored is not to be seen.
            let _writer = stream.writer().await;
            stream.with_content(|content| document(content)?.read(look))
        };
        self.hub.release(stream).await;
        result
    }

    /// Edits a document, new or not. What the function does is one change: it is stored, and published to everybody who
    /// follows the document, before this returns. The function runs under the document's lock: it must be quick.
    ///
    /// # Errors
    ///
    /// When the function panics, the document would become too large or the backend fails; nothing is changed then.
    pub async fn edit<R>(&self, key: &str, edit: impl FnOnce(&mut TransactionMut<'_>) -> R) -> Result<R, DocError> {
        if key.is_empty() || key.len() > self.limits.max_key {
            return Err(DocError::Key { bytes: key.len(), limit: self.limits.max_key });
        }
        let stream = self.hub.open(StreamKind::Doc, key).await?;
        let writer = stream.writer().await;
        let outcome = match admit(self.hub, &stream, self.limits, None).await {
            Ok(place) => commit(self.hub, &stream, writer, None, place, |document| document.edit(edit)).await,
            Err(error) => Err(error),
        };
        self.hub.release(stream).await;
        outcome.map(|(result, _)| result)
    }

    /// Forgets a document. Clients that have it bring it back when they next synchronise.
    ///
    /// # Errors
    ///
    /// When the backend fails. A key that does not exist is no error.
    pub async fn remove(&self, key: &str) -> Result<(), DocError> {
        let Some(stream) = self.hub.find(StreamKind::Doc, key).await? else { return Ok(()) };
        let writer = stream.writer().await;
        let count = self.hub.docs().await?;
        let exists = stream.position().seq > 0;
        let removed = self.hub.remove(&stream, writer).await;
        if removed.is_ok() && exists {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.hub.release(stream).await;
        Ok(removed?)
    }
}

fn document(content: &mut Content) -> Result<&mut Document, DocError> {
    match content {
        Content::Doc(shared) => Ok(&mut shared.document),
        _ => Err(DocError::Damaged),
    }
}

/// Takes a place for a document that is about to come into being, for which its writer waits; none where there is one.
async fn admit(
    hub: &Hub,
    stream: &Stream,
    limits: &Limits,
    client: Option<&Connection>,
) -> Result<Option<Place>, DocError> {
    if stream.position().seq > 0 {
        return Ok(None);
    }
    let mut place = Place::default();
    let total = place.take(hub.docs().await?);
    let Some(client) = client else { return Ok(Some(place)) };
    let own = place.take(&client.docs);
    for (taken, limit) in [(own, limits.max_docs_per_connection), (total, limits.max_docs)] {
        if taken >= limit {
            return Err(DocError::TooMany { limit });
        }
    }
    Ok(Some(place))
}

/// Changes a document, stores what is new and publishes it; where that is in the stream, if anything is new.
async fn commit<R>(
    hub: &Arc<Hub>,
    stream: &Arc<Stream>,
    mut writer: Writer,
    author: Option<Author>,
    mut place: Option<Place>,
    change: impl FnOnce(&mut Document) -> Result<(R, Option<Bytes>), DocError>,
) -> Result<(R, Option<Position>), DocError> {
    let outcome = stream.with_content(|content| change(document(content)?));
    if let Err(DocError::Damaged) = outcome {
        hub.reload(stream).await?;
    }
    let (result, mut new) = outcome?;
    while let Some(update) = new {
        let place = place.take();
        let settle = |content: &mut Content| {
            drop(document(content).map(Document::settle));
            place.into_iter().for_each(Place::keep);
        };
        let entry = Entry::Update(update.clone());
        if let Some(position) = hub.commit(stream, writer, entry, author.clone(), settle).await? {
            return Ok((result, Some(position)));
        }
        // Another server was faster, and its changes have been loaded.
        writer = stream.writer().await;
        new = stream.with_content(|content| document(content)?.apply(&update))?;
    }
    Ok((result, None))
}
