//! [`CrdtStorage`], where the program keeps what is not sent yet.

/// Keeps what is not sent yet across restarts of the program, from [`Builder::crdt_storage`](crate::Builder).
///
/// Both are called under the client's lock: keep them short, call nothing of the client and edit none of its documents in
/// them. `save` comes after each edit and before it is sent, and with `None` once nothing is pending. What it cannot write
/// it must log itself: the edit stands. Two clients that run at the same time must not share a storage, or their operations are taken for each
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
