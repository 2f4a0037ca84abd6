//! [`Replicated`], the handle of a CRDT, and the operations of each type.

use std::{collections::BTreeMap, fmt, marker::PhantomData, sync::Arc};

use datasole_core::crdt::{Crdt, Edit};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, to_value};

use super::replicas::Tracked;
use crate::{
    error::EditError,
    follow::{Changes, Follow},
    status::SyncStatus,
};

/// The types, as parameters of [`Replicated`].
pub mod kinds {
    use std::marker::PhantomData;

    /// `pn-counter`.
    #[derive(Debug)]
    pub struct PnCounter;
    /// `g-counter`.
    #[derive(Debug)]
    pub struct GCounter;
    /// `lww-register` of `T`.
    #[derive(Debug)]
    pub struct LwwRegister<T>(PhantomData<fn() -> T>);
    /// `lww-map` with values `V`.
    #[derive(Debug)]
    pub struct LwwMap<V>(PhantomData<fn() -> V>);
    /// `or-set` of `T`.
    #[derive(Debug)]
    pub struct OrSet<T>(PhantomData<fn() -> T>);
    /// `g-set` of `T`.
    #[derive(Debug)]
    pub struct GSet<T>(PhantomData<fn() -> T>);

    /// The sets: [`OrSet`] and [`GSet`].
    pub trait Elements {
        /// The type of the elements.
        type Element;
    }

    impl<T> Elements for OrSet<T> {
        type Element = T;
    }

    impl<T> Elements for GSet<T> {
        type Element = T;
    }
}

/// A counter that goes up and down.
pub type Counter = Replicated<kinds::PnCounter>;
/// A counter that only goes up.
pub type GCounter = Replicated<kinds::GCounter>;
/// A register: one value, of which the last set wins.
pub type Register<T> = Replicated<kinds::LwwRegister<T>>;
/// A map: values by key; of each, the last set or removal wins.
pub type Map<V> = Replicated<kinds::LwwMap<V>>;
/// A set; an addition wins over removals that have not seen it.
pub type Set<T> = Replicated<kinds::OrSet<T>>;
/// A set whose elements stay.
pub type GSet<T> = Replicated<kinds::GSet<T>>;

/// A CRDT of this client, from [`Client::crdt`](crate::Client::crdt). Clones, and further handles of the same key,
/// share one replica; the key is followed until the last is dropped and nothing is pending.
///
/// Reading gives the local value: the server's value with all pending local edits on top. Edits return at once, are
/// sent in order, and are resent after the connection was lost, until the server acknowledges them. Edits are
/// idempotent: none counts twice.
pub struct Replicated<K> {
    follow: Arc<Follow<Tracked>>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Replicated<K> {
    pub(super) fn new(follow: Arc<Follow<Tracked>>) -> Self {
        Self { follow, kind: PhantomData }
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.follow.key()
    }

    /// A stream of changes of the value, of the pending edits, and of the status.
    pub fn changes(&self) -> Changes {
        self.follow.changes()
    }

    /// True once the server has sent the value.
    pub fn is_loaded(&self) -> bool {
        self.follow.is_loaded()
    }

    /// The progress of local edits on the server.
    pub fn status(&self) -> SyncStatus {
        self.follow.status()
    }

    /// The number of pending edits: not stored by the server yet.
    pub fn pending(&self) -> usize {
        if let SyncStatus::Pending(count) = self.status() { count } else { 0 }
    }

    /// Waits until the server has sent its value and stored every edit. A refused edit counts as done and comes as a
    /// [`Refusal`](crate::Refusal). Cancel safe.
    ///
    /// # Errors
    ///
    /// [`EditError::Disconnected`] when the client gives up reconnecting, [`EditError::Refused`] and
    /// [`EditError::Closed`].
    pub async fn synced(&self) -> Result<(), EditError> {
        Ok(self.follow.reach(Tracked::status).await?)
    }

    /// The value as JSON: a number, any value, an object or an array.
    pub fn to_json(&self) -> Value {
        self.follow.read(Crdt::value)
    }

    fn edit(&self, edit: Edit) -> Result<(), EditError> {
        self.follow.shared().command(|router, now| self.follow.edit(router, now, edit))
    }
}

// For all of the edits below: `EditError::Crdt` when the edit cannot be made, among others because 10,000 are pending,
// `EditError::Value` when the value cannot be written as JSON, `EditError::Refused` and `EditError::Closed`.

impl Counter {
    /// The sum.
    pub fn value(&self) -> i64 {
        self.follow.read(Crdt::counter)
    }

    /// Counts up; by at most 2^53 − 1.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn increment(&self, by: u64) -> Result<(), EditError> {
        if by == 0 { Ok(()) } else { self.edit(Edit::Increment(by)) }
    }

    /// Counts down; by at most 2^53 − 1.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn decrement(&self, by: u64) -> Result<(), EditError> {
        if by == 0 { Ok(()) } else { self.edit(Edit::Decrement(by)) }
    }
}

impl GCounter {
    /// The sum.
    pub fn value(&self) -> u64 {
        u64::try_from(self.follow.read(Crdt::counter)).unwrap_or(0)
    }

    /// Counts up; by at most 2^53 − 1.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn increment(&self, by: u64) -> Result<(), EditError> {
        if by == 0 { Ok(()) } else { self.edit(Edit::Increment(by)) }
    }
}

impl<T: DeserializeOwned + 'static> Register<T> {
    /// The value, once it was set.
    ///
    /// # Errors
    ///
    /// [`EditError::Value`] when it is not a `T`.
    pub fn get(&self) -> Result<Option<T>, EditError> {
        Ok(self.follow.read(|crdt| crdt.register().map(|json| json.read())).transpose()?)
    }
}

impl<T: Serialize> Register<T> {
    /// Sets the value.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn set(&self, value: &T) -> Result<(), EditError> {
        self.edit(Edit::Set(to_value(value)?))
    }
}

impl<V> Map<V> {
    /// True if there is such an entry.
    pub fn contains_key(&self, key: &str) -> bool {
        self.follow.read(|crdt| crdt.get(key).is_some())
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.follow.read(|crdt| crdt.entries().count())
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes an entry, if there is one.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn remove(&self, key: &str) -> Result<(), EditError> {
        self.edit(Edit::Delete(key.to_owned()))
    }
}

impl<V: DeserializeOwned + 'static> Map<V> {
    /// The value of an entry.
    ///
    /// # Errors
    ///
    /// [`EditError::Value`] when it is not a `V`.
    pub fn get(&self, key: &str) -> Result<Option<V>, EditError> {
        Ok(self.follow.read(|crdt| crdt.get(key).map(|json| json.read())).transpose()?)
    }

    /// All entries. Entries that are not a `V` are left out, so that one client's mistake does not hide the entries of
    /// others.
    pub fn value(&self) -> BTreeMap<String, V> {
        self.follow
            .read(|crdt| crdt.entries().filter_map(|(key, json)| Some((key.to_owned(), json.read().ok()?))).collect())
    }

    /// [`value`](Self::value), one by one, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (String, V)> + use<V> {
        self.value().into_iter()
    }
}

impl<V: Serialize> Map<V> {
    /// Sets an entry.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn insert(&self, key: &str, value: &V) -> Result<(), EditError> {
        self.edit(Edit::Put(key.to_owned(), to_value(value)?))
    }
}

impl<S: kinds::Elements<Element: Serialize>> Replicated<S> {
    /// Adds an element; to a [`GSet`] for good.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn add(&self, element: &S::Element) -> Result<(), EditError> {
        self.edit(Edit::Add(to_value(element)?))
    }

    /// True if the set has the element.
    pub fn contains(&self, element: &S::Element) -> bool {
        to_value(element).is_ok_and(|element| self.follow.read(|crdt| crdt.contains(&element)))
    }
}

impl<S: kinds::Elements<Element: DeserializeOwned + 'static>> Replicated<S> {
    /// The elements, in the order of their JSON texts. Elements of another type are left out.
    pub fn iter(&self) -> impl Iterator<Item = S::Element> + use<S> {
        let elements: Vec<_> =
            self.follow.read(|crdt| crdt.elements().iter().filter_map(|json| json.read().ok()).collect());
        elements.into_iter()
    }
}

impl<T: Serialize> Set<T> {
    /// Removes the element's additions that this replica has seen: a concurrent addition elsewhere stays.
    ///
    /// # Errors
    ///
    /// [`EditError`]; then nothing has changed.
    pub fn remove(&self, element: &T) -> Result<(), EditError> {
        self.edit(Edit::Remove(to_value(element)?))
    }
}

impl<K> Clone for Replicated<K> {
    fn clone(&self) -> Self {
        Self { follow: self.follow.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Replicated<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated").field("key", &self.key()).finish_non_exhaustive()
    }
}
