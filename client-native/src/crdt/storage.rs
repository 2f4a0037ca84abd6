//! [`CrdtStorage`], the program's store of pending edits.

/// Keeps pending edits of CRDTs across restarts of the program, from [`Builder::crdt_storage`](crate::Builder).
///
/// Both methods are called under the client's lock: keep them short, call nothing of the client and edit none of its
/// documents in them. `save` is called after each edit and before it is sent, and with `None` once nothing is pending.
/// `save` must log its failures itself: the edit stands. Two clients that run at the same time must not share a
/// storage: the server would take their operations for repeats of each other.
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
    /// The replica that was saved last for this key.
    fn load(&self, key: &str) -> Option<String>;
    /// Replaces the saved replica; `None` removes it.
    fn save(&self, key: &str, replica: Option<&str>);
}
