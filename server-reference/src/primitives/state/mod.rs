//! Live states: values by key that every client mirrors.
//!
//! Every change is planned on the value, stored by the backend, and only then published: subscribers never see what was
//! not stored, and a change that is refused leaves no trace. Changes of one key are linearised by its stream's writer
//! lock.

mod draft;
mod error;
mod form;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use datasole_core::{Position, StreamKind, patch::Patch, tree::Tree};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

pub(crate) use self::read::read;
use self::value::{Base, Room, StateValue};
pub use self::{draft::Draft, error::StateError};
use crate::{
    entry::Entry,
    hub::{self, Bounds, Hub, Kind, Plan, Spec, Stream, Tried, Writer},
    limits::Limits,
};

/// Bytes of a value's text that is compared at once; longer ones are compared off the async workers.
const SMALL: usize = 64 * 1024;

/// How often a large value is compared off the async workers in vain; then its stream is held meanwhile, and nobody is faster.
const COMPARED_APART: u32 = 3;

/// The line of states in the table of kinds.
pub(crate) fn kind(limits: &Arc<Limits>) -> Spec {
    let spare = limits.max_idle_states;
    let limits = limits.clone();
    Spec {
        kind: StreamKind::State,
        spare,
        bounds: Bounds::default(),
        v1_follows: true,
        make: Box::new(move |_| Box::new(StateValue::new(limits.clone()))),
    }
}

/// The server's live states; from [`Server::state`](crate::Server::state).
///
/// ```
/// # async fn example() -> Result<(), datasole_server::StateError> {
/// use datasole_server::Server;
/// use serde_json::json;
/// let server = Server::builder().build();
/// let state = server.state();
/// state.set("dashboard", &json!({"visitors": 1, "rows": []})).await?;
/// state.update("dashboard", |draft| draft.add("/visitors", 1)).await?;
/// assert_eq!(state.get("dashboard").await?, Some(json!({"visitors": 2, "rows": []})));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct State<'a> {
    hub: &'a Arc<Hub>,
}

impl std::fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl<'a> State<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>) -> Self {
        Self { hub }
    }

    /// The value of `key`; `None` when it does not exist. It is made on the caller's thread, and holds nobody up.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn get(self, key: &str) -> Result<Option<Value>, StateError> {
        Ok(self.look(key).await?.as_ref().map(Value::from))
    }

    /// The value of `key` as a type of the application.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails, or the value is not of that type.
    pub async fn get_as<T: DeserializeOwned + 'static>(self, key: &str) -> Result<Option<T>, StateError> {
        Ok(self.look(key).await?.as_ref().map(Tree::read).transpose()?)
    }

    async fn look(self, key: &str) -> Result<Option<Tree>, StateError> {
        let Some(stream) = self.hub.find(StreamKind::State, key).await? else { return Ok(None) };
        let seen = stream.with(StateValue::stored);
        self.hub.release(stream).await;
        Ok(seen)
    }

    /// The keys of all states that exist, sorted.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails.
    pub async fn keys(self) -> Result<Vec<String>, StateError> {
        Ok(self.hub.keys(StreamKind::State).await?)
    }

    /// Sets the value of `key`: any JSON value. Clients receive the difference, or the whole if that is shorter. Large values
    /// are compared off the async workers; changes of a key take effect in the order in which they were asked for.
    ///
    /// The value is written as JSON on the caller's thread, which takes one or two milliseconds per megabyte. Who has large
    /// ones may write them elsewhere, and pass the [`RawValue`], of which only the text is copied.
    ///
    /// # Errors
    ///
    /// A value that would not fit in a frame is refused and not stored.
    pub async fn set(self, key: &str, value: &impl Serialize) -> Result<Position, StateError> {
        let text = to_raw_value(value)?;
        self.room(key).check(text.get().len())?;
        let stream = self.open(key).await?;
        let text = Arc::new(text);
        let outcome = self.replace(&stream, |_| Ok(text.clone())).await;
        self.hub.release(stream).await;
        outcome
    }

    /// Sets the value to that of a text, made with the value before. What another server has changed during the comparison
    /// makes both necessary again.
    async fn replace(
        self,
        stream: &Arc<Stream>,
        mut make: impl FnMut(&Base) -> Result<Arc<Box<RawValue>>, StateError> + Send,
    ) -> Result<Position, StateError> {
        let (mut writer, mut tries) = (stream.writer().await, 0);
        loop {
            // A state's stream holds nothing else.
            let base = stream.with(|state: &mut StateValue| Some(state.base())).unwrap_or_default();
            let text = make(&base)?;
            let is_large = text.get().len().max(stream.weight()) > SMALL;
            let own = text.clone();
            let compare = move || base.compare(own.get());
            let compared = if is_large { self.hub.desk().run(0, compare).await } else { compare() }?;
            let is_last = tries >= COMPARED_APART;
            let plan = |content: &mut dyn Kind| {
                let Some(state) = hub::of::<StateValue>(content) else { return Ok(Plan::Nothing) };
                let entry = if state.is_at(&compared) {
                    state.plan_set(text.get(), Some(compared))
                } else if is_last {
                    let text = make(&state.base())?;
                    state.plan_set(text.get(), None)
                } else {
                    return Ok(Plan::Again);
                };
                entry.map(|entry| entry.map_or(Plan::Nothing, Plan::Entry))
            };
            match self.hub.attempt(stream, (writer, &mut tries), None, plan).await? {
                Tried::At(position) => return Ok(position),
                Tried::Nothing => return Ok(stream.position()),
                Tried::Again(still) => writer = still,
            }
        }
    }

    /// Applies RFC 6902 operations, all or none, without looking at the rest of the value. A key that does not exist
    /// starts from `null`.
    ///
    /// # Errors
    ///
    /// A patch that does not apply, or whose result would not fit in a frame, changes nothing.
    pub async fn patch(self, key: &str, patch: &Patch) -> Result<Position, StateError> {
        self.change(key, |state| state.plan_patch(self.room(key), patch)).await
    }

    /// Changes the value by a closure, whose changes are recorded as they are made: no comparison of whole values.
    ///
    /// The closure runs under the state's lock, so it must be quick; it runs again after a conflict with another
    /// server.
    ///
    /// # Errors
    ///
    /// The closure's own error ([`StateError::Rejected`] for reasons of the application) or a change that would not
    /// fit; nothing is changed then.
    pub async fn update<F>(self, key: &str, mut f: F) -> Result<Position, StateError>
    where
        F: FnMut(&mut Draft<'_>) -> Result<(), StateError> + Send,
    {
        self.change(key, |state| state.plan_update(self.room(key), &mut f)).await
    }

    /// Changes the value as a type of the application. Clients receive the difference between before and after, found by
    /// comparing both: [`update`](Self::update) records it instead, which is quicker for large values.
    ///
    /// Other changes of the state wait for the closure, which runs again after a conflict with another server. The value is
    /// read and written on the caller's thread, and compared as by [`set`](Self::set).
    ///
    /// ```
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Board { votes: u32 }
    /// # async fn example(state: datasole_server::State<'_>) -> Result<(), datasole_server::StateError> {
    /// let vote = |board: &mut Board| {
    ///     board.votes += 1;
    ///     Ok(())
    /// };
    /// state.edit("board", vote).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the value is not of that type (a key that does not exist is `null`), by the closure's own error, or if the
    /// new value would not fit in a frame; nothing is changed then.
    pub async fn edit<T, F>(self, key: &str, mut f: F) -> Result<Position, StateError>
    where
        T: Serialize + DeserializeOwned + 'static,
        F: FnMut(&mut T) -> Result<(), StateError> + Send,
    {
        let edit = |base: &Base| {
            let mut value: T = base.value().unwrap_or(&Tree::default()).read()?;
            f(&mut value)?;
            let text = to_raw_value(&value)?;
            self.room(key).check(text.get().len())?;
            Ok(Arc::new(text))
        };
        let stream = self.open(key).await?;
        let outcome = self.replace(&stream, edit).await;
        self.hub.release(stream).await;
        outcome
    }

    /// Removes `key`. Clients see a state that does not exist.
    ///
    /// # Errors
    ///
    /// Fails if the backend fails. A key that does not exist is no error.
    pub async fn remove(self, key: &str) -> Result<(), StateError> {
        if self.hub.find(StreamKind::State, key).await?.is_none() {
            return Ok(());
        }
        self.change(key, |state| Ok(state.plan_remove())).await.map(drop)
    }

    /// Plans, stores and publishes a change, and returns its position. Plans again after a conflict with another
    /// server.
    async fn change(
        self,
        key: &str,
        plan: impl FnMut(&mut StateValue) -> Result<Option<Entry>, StateError> + Send,
    ) -> Result<Position, StateError> {
        let stream = self.open(key).await?;
        let writer = stream.writer().await;
        let outcome = self.commit(&stream, writer, plan).await;
        self.hub.release(stream).await;
        outcome
    }

    async fn open(self, key: &str) -> Result<Arc<Stream>, StateError> {
        let Limits { max_key: limit, .. } = *self.hub.limits();
        if key.is_empty() || key.len() > limit {
            return Err(StateError::Key { bytes: key.len(), limit });
        }
        Ok(self.hub.open(StreamKind::State, key).await?)
    }

    async fn commit(
        self,
        stream: &Arc<Stream>,
        writer: Writer,
        mut plan: impl FnMut(&mut StateValue) -> Result<Option<Entry>, StateError> + Send,
    ) -> Result<Position, StateError> {
        // A state's stream holds nothing else.
        let outcome = self.hub.transact(stream, writer, None, |content| hub::of(content).map_or(Ok(None), &mut plan));
        outcome.await.map(|changed| changed.unwrap_or_else(|| stream.position()))
    }

    fn room(self, key: &str) -> Room<'_> {
        Room { key, max_payload: self.hub.limits().max_payload }
    }
}
