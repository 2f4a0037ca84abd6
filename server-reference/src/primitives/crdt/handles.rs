//! Handles by which server code reads and edits CRDTs, one per type.

use std::{collections::BTreeMap, fmt, sync::Arc};

use datasole_core::{
    StreamKind,
    crdt::{Crdt, CrdtError, CrdtKind, Edit},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Content, EditError, Registry, is_a};
use crate::hub::Hub;

/// The server's CRDTs; from [`Server::crdt`](crate::Server::crdt).
///
/// A handle is a key with the operations of a type, and costs nothing. The first edit creates the key, with its
/// registered type ([`Builder::crdt`](crate::Builder::crdt)) or the handle's; reading does not.
///
/// ```
/// # async fn example() -> Result<(), datasole_server::EditError> {
/// use datasole_server::{CrdtKind, Server};
/// use serde_json::json;
/// let server = Server::builder().crdt("votes", CrdtKind::PnCounter).build();
/// let votes = server.crdt().counter("votes");
/// votes.increment(5).await?;
/// votes.decrement(2).await?;
/// assert_eq!(votes.value().await?, 3);
///
/// let todo = server.crdt().set("todo");
/// todo.add(&"milk").await?;
/// assert_eq!(todo.values::<String>().await?, ["milk"]);
///
/// let settings = server.crdt().map("settings");
/// settings.set("colour", &"red").await?;
/// assert_eq!(settings.get("colour").await?, Some("red".to_owned()));
///
/// let title = server.crdt().register("title");
/// title.set(&json!({"text": "Shopping"})).await?;
/// assert_eq!(server.crdt().keys().await?, ["settings", "title", "todo", "votes"]);
/// # Ok(())
/// # }
/// # futures_util::FutureExt::now_or_never(example()).unwrap().unwrap();
/// ```
#[derive(Clone, Copy)]
pub struct Crdts<'a> {
    hub: &'a Arc<Hub>,
    registry: &'a Registry,
}

impl fmt::Debug for Crdts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crdts").finish_non_exhaustive()
    }
}

impl<'a> Crdts<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, registry: &'a Registry) -> Self {
        Self { hub, registry }
    }

    /// A counter: a `pn-counter`, or a `g-counter` if the key is one.
    pub fn counter(self, key: &'a str) -> Counter<'a> {
        Counter(self.handle(key, CrdtKind::PnCounter))
    }

    /// An `lww-register`: one value; the last set wins.
    pub fn register(self, key: &'a str) -> Register<'a> {
        Register(self.handle(key, CrdtKind::LwwRegister))
    }

    /// An `lww-map`: values by key; of each, the last set or removal wins.
    pub fn map(self, key: &'a str) -> Map<'a> {
        Map(self.handle(key, CrdtKind::LwwMap))
    }

    /// A set: an `or-set`, or a `g-set` if the key is one.
    pub fn set(self, key: &'a str) -> Set<'a> {
        Set(self.handle(key, CrdtKind::OrSet))
    }

    /// The type of `key`; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn kind(self, key: &str) -> Result<Option<CrdtKind>, EditError> {
        let Some(stream) = self.hub.find(StreamKind::Crdt, key).await? else { return Ok(None) };
        let kind = stream.with(|content: &mut Content| content.crdt().map(Crdt::kind));
        self.hub.release(stream).await;
        Ok(kind)
    }

    /// The keys of all CRDTs that exist, sorted. One that is registered exists once it has been edited.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn keys(self) -> Result<Vec<String>, EditError> {
        Ok(self.hub.keys(StreamKind::Crdt).await?)
    }

    /// Removes `key` with its content. Followers see an empty CRDT. Later edits of clients, also stale ones made before
    /// the removal, create the key again. Version 1 clients are not told.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails. A key that does not exist is no error.
    pub async fn remove(self, key: &str) -> Result<(), EditError> {
        self.registry.remove(self.hub, key).await
    }

    fn handle(self, key: &'a str, kind: CrdtKind) -> Handle<'a> {
        Handle { crdts: self, key, kind }
    }
}

#[derive(Clone, Copy)]
struct Handle<'a> {
    crdts: Crdts<'a>,
    key: &'a str,
    kind: CrdtKind,
}

impl fmt::Debug for Handle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("key", &self.key).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Handle<'_> {
    /// The result of `f` on the CRDT; `None` when there is none.
    async fn read<R>(self, f: impl FnOnce(&Crdt) -> R) -> Result<Option<R>, EditError> {
        let hub = self.crdts.hub;
        let Some(stream) = hub.find(StreamKind::Crdt, self.key).await? else { return Ok(None) };
        let read = stream.with(|content: &mut Content| {
            content.crdt().map(|crdt| match is_a(crdt.kind(), self.kind) {
                true => Ok(f(crdt)),
                false => Err(CrdtError::WrongKind { expected: crdt.kind(), found: self.kind }),
            })
        });
        hub.release(stream).await;
        Ok(read.transpose()?)
    }

    async fn edit(self, edit: Edit) -> Result<(), EditError> {
        self.crdts.registry.edit(self.crdts.hub, self.key, self.kind, edit).await
    }
}

/// A counter of integers within ±(2^53 − 1).
#[derive(Clone, Copy, Debug)]
pub struct Counter<'a>(Handle<'a>);

impl Counter<'_> {
    /// The value; 0 when it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the key is of another type, or the backend fails.
    pub async fn value(self) -> Result<i64, EditError> {
        Ok(self.0.read(Crdt::counter).await?.unwrap_or(0))
    }

    /// Adds 1 to 2^53 − 1.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn increment(self, by: u64) -> Result<(), EditError> {
        self.0.edit(Edit::Increment(by)).await
    }

    /// Subtracts 1 to 2^53 − 1. A `g-counter` refuses.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn decrement(self, by: u64) -> Result<(), EditError> {
        self.0.edit(Edit::Decrement(by)).await
    }
}

/// A register: one value, of which the last set wins.
#[derive(Clone, Copy, Debug)]
pub struct Register<'a>(Handle<'a>);

impl Register<'_> {
    /// The value; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the value or the key is of another type, or the backend fails.
    pub async fn get<T: DeserializeOwned + 'static>(self) -> Result<Option<T>, EditError> {
        let value = self.0.read(|crdt| crdt.register().cloned()).await?.flatten();
        Ok(value.map(|value| value.read()).transpose()?)
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn set(self, value: &impl Serialize) -> Result<(), EditError> {
        self.0.edit(Edit::Set(serde_json::to_value(value)?)).await
    }
}

/// A map: values by key; of each, the last set or removal wins.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a>(Handle<'a>);

impl Map<'_> {
    /// The value of an entry; `None` when there is none.
    ///
    /// # Errors
    ///
    /// Fails if the value or the key is of another type, or the backend fails.
    pub async fn get<T: DeserializeOwned + 'static>(self, entry: &str) -> Result<Option<T>, EditError> {
        let value = self.0.read(|crdt| crdt.get(entry).cloned()).await?.flatten();
        Ok(value.map(|value| value.read()).transpose()?)
    }

    /// All entries.
    ///
    /// # Errors
    ///
    /// Fails if the key is of another type, or the backend fails.
    pub async fn entries(self) -> Result<BTreeMap<String, Value>, EditError> {
        let entries = |crdt: &Crdt| crdt.entries().map(|(key, value)| (key.to_owned(), value.to_value())).collect();
        Ok(self.0.read(entries).await?.unwrap_or_default())
    }

    /// Sets an entry.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn set(self, entry: &str, value: &impl Serialize) -> Result<(), EditError> {
        self.0.edit(Edit::Put(entry.to_owned(), serde_json::to_value(value)?)).await
    }

    /// Removes an entry. A missing entry is no error.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn remove(self, entry: &str) -> Result<(), EditError> {
        self.0.edit(Edit::Delete(entry.to_owned())).await
    }
}

/// A set of JSON values.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a>(Handle<'a>);

impl Set<'_> {
    /// The elements, in the order of their canonical JSON.
    ///
    /// # Errors
    ///
    /// Fails if an element or the key is of another type, or the backend fails.
    pub async fn values<T: DeserializeOwned + 'static>(self) -> Result<Vec<T>, EditError> {
        let elements = self.0.read(Crdt::elements).await?.unwrap_or_default();
        Ok(elements.iter().map(|element| element.read()).collect::<Result<_, _>>()?)
    }

    /// True if the set has an element.
    ///
    /// # Errors
    ///
    /// Fails if the key is of another type, the value cannot be written as JSON, or the backend fails.
    pub async fn contains(self, value: &impl Serialize) -> Result<bool, EditError> {
        let value = serde_json::to_value(value)?;
        Ok(self.0.read(|crdt| crdt.contains(&value)).await?.unwrap_or(false))
    }

    /// Adds an element.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn add(self, value: &impl Serialize) -> Result<(), EditError> {
        self.0.edit(Edit::Add(serde_json::to_value(value)?)).await
    }

    /// Removes an element. A `g-set` refuses; an element that is not there is no error.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; nothing has changed then.
    pub async fn remove(self, value: &impl Serialize) -> Result<(), EditError> {
        self.0.edit(Edit::Remove(serde_json::to_value(value)?)).await
    }
}
