//! [`Crdts`], which opens the CRDTs of a client.

use std::{fmt, sync::Arc};

use datasole_core::{StreamId, crdt::CrdtKind};

use super::{
    handles::{Counter, GCounter, GSet, Map, Register, Replicated, Set},
    replicas::{Replicas, Tracked},
};
use crate::{error::EditError, follow::Follow, router::Shared};

/// The CRDTs of a client, from [`Client::crdt`](crate::Client::crdt).
///
/// ```no_run
/// # async fn example(client: &datasole_client::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let likes = client.crdt().counter("likes")?;
/// likes.increment(1)?;
/// println!("{} likes, {}", likes.value(), likes.status());
///
/// let todo = client.crdt().set::<String>("todo")?;
/// todo.add(&"buy milk".into())?;
/// let mut changes = todo.changes();
/// while changes.next().await.is_some() {
///     println!("{:?}", todo.iter().collect::<Vec<_>>());
/// }
/// client.crdt().synced().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Crdts {
    shared: Arc<Shared>,
    replicas: Arc<Replicas>,
}

impl Crdts {
    pub(crate) fn new(shared: &Arc<Shared>, replicas: &Arc<Replicas>) -> Self {
        Self { shared: shared.clone(), replicas: replicas.clone() }
    }

    /// A counter that goes up and down (`pn-counter`).
    ///
    /// # Errors
    ///
    /// [`EditError`] if the client is closed, the key is invalid or open with another type, there are too many
    /// subscriptions, or the stored replica cannot be read.
    pub fn counter(&self, key: &str) -> Result<Counter, EditError> {
        self.open(CrdtKind::PnCounter, key)
    }

    /// A counter that only goes up (`g-counter`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn g_counter(&self, key: &str) -> Result<GCounter, EditError> {
        self.open(CrdtKind::GCounter, key)
    }

    /// A register: one value, of which the last set wins (`lww-register`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn register<T>(&self, key: &str) -> Result<Register<T>, EditError> {
        self.open(CrdtKind::LwwRegister, key)
    }

    /// A map: values by key, of each of which the last change wins (`lww-map`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn map<V>(&self, key: &str) -> Result<Map<V>, EditError> {
        self.open(CrdtKind::LwwMap, key)
    }

    /// A set, in which an addition wins over a removal that has not seen it (`or-set`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn set<T>(&self, key: &str) -> Result<Set<T>, EditError> {
        self.open(CrdtKind::OrSet, key)
    }

    /// A set whose elements stay (`g-set`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn g_set<T>(&self, key: &str) -> Result<GSet<T>, EditError> {
        self.open(CrdtKind::GSet, key)
    }

    pub(crate) fn open<K>(&self, kind: CrdtKind, key: &str) -> Result<Replicated<K>, EditError> {
        let stream = StreamId::crdt(key);
        let follow = Follow::open(&self.shared, stream.clone(), || Tracked::load(&self.replicas, kind, stream))?;
        follow.check(kind)?;
        Ok(Replicated::new(follow))
    }

    /// The number of pending edits of all keys: not stored by the server yet.
    pub fn pending(&self) -> usize {
        *self.replicas.pending.borrow()
    }

    /// Waits until the server has stored every edit of all keys, for example before the program ends. A refused edit
    /// counts as done and comes as a [`Refusal`](crate::Refusal). Cancel safe.
    ///
    /// # Errors
    ///
    /// [`EditError::Closed`].
    pub async fn synced(&self) -> Result<(), EditError> {
        let mut pending = self.replicas.pending.subscribe();
        let stored = async { pending.wait_for(|pending| *pending == 0).await.is_ok() };
        tokio::select! {
            biased;
            true = stored => Ok(()),
            () = self.shared.wait_finished() => Err(EditError::Closed),
        }
    }
}

impl fmt::Debug for Crdts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crdts").field("pending", &self.pending()).finish()
    }
}
