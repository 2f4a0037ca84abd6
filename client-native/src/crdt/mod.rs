//! CRDTs: values that several clients edit at once, online or not, and that end the same everywhere.
//!
//! An edit counts here at once and is sent when it can be. Each key that is open has one replica
//! ([`datasole_core::crdt::Replica`]), shared by its handles; [`Replicas`] sends its operations and takes what comes.

mod handles;
mod replicas;

pub use handles::{Counter, GCounter, GSet, Map, Register, Replicated, Set, kinds};
pub(crate) use replicas::{Policy, Replicas};

use std::{fmt, sync::Arc};

use datasole_core::{StreamId, crdt::CrdtKind};

use crate::{error::EditError, follow::Follow, router::Shared};

/// Keeps what is not sent yet across restarts of the program, from [`Builder::crdt_storage`](crate::Builder).
///
/// Both are called under the client's lock: keep them short, and call nothing of the client in them. `save` comes after
/// each edit and before it is sent, and with `None` once nothing is pending. What it cannot write it must log itself: the
/// edit stands. Two clients that run at the same time must not share a storage, or their operations are taken for each
/// other's.
///
/// ```
/// use std::{collections::HashMap, sync::Mutex};
/// use datasole_client::CrdtStorage;
///
/// #[derive(Default)]
/// struct InMemory(Mutex<HashMap<String, String>>);
///
/// impl CrdtStorage for InMemory {
///     fn load(&self, key: &str) -> Option<String> {
///         self.0.lock().ok()?.get(key).cloned()
///     }
///     fn save(&self, key: &str, replica: Option<&str>) {
///         let Ok(mut saved) = self.0.lock() else { return };
///         match replica {
///             Some(replica) => drop(saved.insert(key.to_owned(), replica.to_owned())),
///             None => drop(saved.remove(key)),
///         }
///     }
/// }
/// ```
pub trait CrdtStorage: Send + Sync + 'static {
    /// What was saved last for this key.
    fn load(&self, key: &str) -> Option<String>;
    /// Replaces it; `None` removes it.
    fn save(&self, key: &str, replica: Option<&str>);
}

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
}

impl Crdts {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// A counter that goes up and down (`pn-counter`).
    ///
    /// # Errors
    ///
    /// For this and the others: [`EditError`] when the client is closed, the key is bad or open with another type, too
    /// much is followed, or what the storage has cannot be read.
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

    /// One value, of which the last set wins (`lww-register`).
    ///
    /// # Errors
    ///
    /// As for [`counter`](Self::counter).
    pub fn register<T>(&self, key: &str) -> Result<Register<T>, EditError> {
        self.open(CrdtKind::LwwRegister, key)
    }

    /// Values by key, of each of which the last change wins (`lww-map`).
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

    fn open<K>(&self, kind: CrdtKind, key: &str) -> Result<Replicated<K>, EditError> {
        self.shared.command(|router, now| router.open_replica(now, kind, key))?;
        Ok(Replicated::new(Follow::new(&self.shared, StreamId::crdt(key))))
    }

    /// How many edits, of all keys, the server has not stored yet.
    pub fn pending(&self) -> usize {
        *self.shared.router().replicas().pending().borrow()
    }

    /// Waits until the server has stored every edit, of all keys: before the program ends, say. What it refuses counts
    /// as done and comes as a [`Refusal`](crate::Refusal). Cancel safe.
    ///
    /// # Errors
    ///
    /// [`EditError::Closed`].
    pub async fn synced(&self) -> Result<(), EditError> {
        let mut pending = self.shared.router().replicas().pending();
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
