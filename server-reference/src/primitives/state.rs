//! Live state: values by key that every client mirrors.
//!
//! Every change is planned on the value, stored by the backend, and only then made and published: subscribers never see
//! what was not stored, and a change that is refused leaves no trace. Changes of one key are linearised by its
//! stream's writer lock.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use datasole_core::{
    Position, StreamKind,
    patch::{Operation, Patch, PatchError, PatchLimits, Pointer, PointerError, Undo, apply, apply_undoable, diff},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    error::StateError,
    hub::{Content, Entry, Hub, StateValue, Stream},
    limits::{ENVELOPE, Limits},
};

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
    limits: &'a Limits,
}

impl std::fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A change that fits: what is published, and how the state follows.
struct Plan {
    entry: Entry,
    commit: Box<dyn FnOnce(&mut StateValue) + Send>,
}

impl<'a> State<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, limits: &'a Limits) -> Self {
        Self { hub, limits }
    }

    /// The value of `key`; `None` when it does not exist.
    ///
    /// # Errors
    ///
    /// When the backend fails.
    pub async fn get(&self, key: &str) -> Result<Option<Value>, StateError> {
        let Some(stream) = self.hub.find(StreamKind::State, key).await? else { return Ok(None) };
        Ok(stream.with_content(|content| value(content).and_then(|state| state.value.clone())))
    }

    /// The value of `key` as a type of the application.
    ///
    /// # Errors
    ///
    /// When the backend fails, or the value is not of that type.
    pub async fn get_as<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StateError> {
        let Some(stream) = self.hub.find(StreamKind::State, key).await? else { return Ok(None) };
        let read = |content: &mut Content| value(content)?.value.as_ref().map(T::deserialize);
        Ok(stream.with_content(read).transpose()?)
    }

    /// The keys of all states that exist, sorted.
    ///
    /// # Errors
    ///
    /// When the backend fails.
    pub async fn keys(&self) -> Result<Vec<String>, StateError> {
        Ok(self.hub.keys(StreamKind::State).await?)
    }

    /// Makes `value` the value of `key`: any JSON value. Clients get the difference, or the whole where that is shorter.
    ///
    /// # Errors
    ///
    /// A value that would not fit in a frame is refused and not stored.
    pub async fn set(&self, key: &str, value: &impl Serialize) -> Result<Position, StateError> {
        let text = to_raw_value(value)?;
        // Reading it back also refuses what is nested too deeply for any client.
        let value: Value = serde_json::from_str(text.get())?;
        self.check_size(key, text.get().len())?;
        self.change(key, |state| {
            let length = text.get().len();
            let entry = match &state.value {
                Some(old) => {
                    let patch = diff(old, &value);
                    if patch.is_empty() {
                        return Ok(None);
                    }
                    shorter(&patch, &text)?
                }
                None => Entry::Value(text.clone()),
            };
            let value = value.clone();
            let commit = Box::new(move |state: &mut StateValue| {
                *state = StateValue { value: Some(value), bound: length };
            });
            Ok(Some(Plan { entry, commit }))
        })
        .await
    }

    /// Applies RFC 6902 operations, all or none, without looking at the rest of the value. A key that does not exist
    /// starts from `null`.
    ///
    /// # Errors
    ///
    /// A patch that does not apply, or whose result would not fit in a frame, changes nothing.
    pub async fn patch(&self, key: &str, patch: &Patch) -> Result<Position, StateError> {
        self.change(key, |state| {
            if patch.is_empty() {
                return Ok(None);
            }
            let existed = state.value.is_some();
            self.plan_patch(key, state, existed, patch.clone())
        })
        .await
    }

    /// Changes the value by a closure, whose changes are recorded as they are made: no comparison of whole values.
    ///
    /// The closure runs under the state's lock, so it must be quick; it runs again when another server was faster.
    ///
    /// # Errors
    ///
    /// The closure's own error ([`StateError::Rejected`] for reasons of the application) or a change that would not
    /// fit; nothing is changed then.
    pub async fn update<F>(&self, key: &str, mut f: F) -> Result<Position, StateError>
    where
        F: FnMut(&mut Draft<'_>) -> Result<(), StateError> + Send,
    {
        self.change(key, |state| {
            let existed = state.value.is_some();
            let mut draft =
                Draft { value: state.value.get_or_insert(Value::Null), operations: Vec::new(), undo: Vec::new() };
            let outcome = catch_unwind(AssertUnwindSafe(|| f(&mut draft)));
            let Draft { operations, undo, .. } = draft;
            if !matches!(outcome, Ok(Ok(()))) || operations.is_empty() {
                revert(state, undo);
                if !existed {
                    state.value = None;
                }
                // A panic goes on, to whoever called, with the value as it was.
                return outcome.unwrap_or_else(|panic| resume_unwind(panic)).map(|()| None);
            }
            let patch = Patch::from_operations(operations);
            if undo.len() == 1 {
                return self.plan(key, state, existed, patch, undo);
            }
            // Each was within the limits of a patch; that they are so together shows when they are applied together.
            revert(state, undo);
            self.plan_patch(key, state, existed, patch)
        })
        .await
    }

    /// Removes `key`. Clients see a state that does not exist.
    ///
    /// # Errors
    ///
    /// When the backend fails. A key that does not exist is no error.
    pub async fn remove(&self, key: &str) -> Result<(), StateError> {
        if self.hub.find(StreamKind::State, key).await?.is_none() {
            return Ok(());
        }
        self.change(key, |state| {
            let commit = Box::new(|state: &mut StateValue| *state = StateValue::default());
            Ok(state.value.is_some().then_some(Plan { entry: Entry::Removed, commit }))
        })
        .await?;
        Ok(())
    }

    /// Plans, stores, makes and publishes; again, when another server appended in between.
    async fn change(
        &self,
        key: &str,
        mut plan: impl FnMut(&mut StateValue) -> Result<Option<Plan>, StateError> + Send,
    ) -> Result<Position, StateError> {
        self.check_key(key)?;
        let stream = self.hub.open(StreamKind::State, key).await?;
        let outcome = self.change_stream(&stream, &mut plan).await;
        self.hub.release(stream).await;
        outcome
    }

    async fn change_stream(
        &self,
        stream: &Arc<Stream>,
        plan: &mut (impl FnMut(&mut StateValue) -> Result<Option<Plan>, StateError> + Send),
    ) -> Result<Position, StateError> {
        loop {
            let writer = stream.writer().await;
            let planned = stream.with_content(|content| value(content).map_or(Ok(None), &mut *plan))?;
            let Some(Plan { entry, commit }) = planned else {
                return Ok(stream.position());
            };
            let change = |content: &mut Content| {
                if let Some(state) = value(content) {
                    commit(state);
                }
            };
            if let Some(position) = self.hub.commit(stream, writer, entry, None, change).await? {
                return Ok(position);
            }
        }
    }

    fn plan_patch(
        &self,
        key: &str,
        state: &mut StateValue,
        existed: bool,
        patch: Patch,
    ) -> Result<Option<Plan>, StateError> {
        match apply_undoable(state.value.get_or_insert(Value::Null), &patch, &PatchLimits::default()) {
            Ok(undo) => self.plan(key, state, existed, patch, vec![undo]),
            Err(error) => {
                if !existed {
                    state.value = None;
                }
                Err(error.into())
            }
        }
    }

    /// Of a state to which `patch` has just been applied: checks its size, and puts it back.
    fn plan(
        &self,
        key: &str,
        state: &mut StateValue,
        existed: bool,
        patch: Patch,
        undo: Vec<Undo>,
    ) -> Result<Option<Plan>, StateError> {
        let ops = to_raw_value(&patch)?;
        // Only a copy adds more than its own text: then nothing is known until the value is measured.
        let copies = patch.operations().iter().any(|operation| matches!(operation, Operation::Copy { .. }));
        let mut bound = if copies { usize::MAX } else { state.bound.saturating_add(ops.get().len()) };
        let mut entry = Entry::Patch(ops);
        let mut fits = Ok(());
        // Only where the bound says that it might be too long is the value measured.
        if self.check_size(key, bound).is_err() {
            match state.value.as_ref().map(to_raw_value) {
                Some(Ok(text)) => {
                    bound = text.get().len();
                    fits = self.check_size(key, bound);
                    if let Entry::Patch(ops) = &entry
                        && ops.get().len() > text.get().len()
                    {
                        entry = Entry::Value(text);
                    }
                }
                Some(Err(error)) => fits = Err(error.into()),
                None => {}
            }
        }
        revert(state, undo);
        if !existed {
            state.value = None;
            // A subscriber of a key that did not exist has nothing to apply a patch to.
            let mut value = Value::Null;
            apply(&mut value, &patch, &PatchLimits::default())?;
            entry = Entry::Value(to_raw_value(&value)?);
        }
        fits?;
        let commit = Box::new(move |state: &mut StateValue| {
            let value = state.value.get_or_insert(Value::Null);
            // It applied to this very value when it was planned, and the writer lock kept others away since.
            let applied = apply(value, &patch, &PatchLimits::default());
            debug_assert!(applied.is_ok(), "a planned patch applies: {applied:?}");
            state.bound = bound;
        });
        Ok(Some(Plan { entry, commit }))
    }

    fn check_key(&self, key: &str) -> Result<(), StateError> {
        if key.is_empty() || key.len() > self.limits.max_key {
            return Err(StateError::Key { bytes: key.len(), limit: self.limits.max_key });
        }
        Ok(())
    }

    /// `length` is the value's as JSON text.
    fn check_size(&self, key: &str, length: usize) -> Result<(), StateError> {
        // A key takes at most six bytes for each of its own, as \u00xx.
        let bytes = length.saturating_add(ENVELOPE + 6 * key.len());
        if bytes > self.limits.max_payload {
            return Err(StateError::TooLarge { key: key.to_owned(), bytes, limit: self.limits.max_payload });
        }
        Ok(())
    }
}

/// A value being changed by [`State::update`]. Pointers are RFC 6901: `""` is the whole value, `/rows/0/n` a part.
pub struct Draft<'a> {
    value: &'a mut Value,
    operations: Vec<Operation>,
    undo: Vec<Undo>,
}

impl std::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl Draft<'_> {
    /// What is there.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.value.pointer(pointer)
    }

    /// Sets a member, replaces an element, or replaces the whole. The container must exist.
    ///
    /// # Errors
    ///
    /// When there is no such place, or the value cannot be written as JSON.
    pub fn set(&mut self, pointer: &str, value: impl Serialize) -> Result<(), StateError> {
        let value = serde_json::to_value(value)?;
        let path = parse(pointer)?;
        self.apply(if self.value.pointer(pointer).is_some() {
            Operation::Replace { path, value }
        } else {
            Operation::Add { path, value }
        })
    }

    /// Inserts an element before the one at the pointer; `-` as the last token appends.
    ///
    /// # Errors
    ///
    /// When there is no such place, or the value cannot be written as JSON.
    pub fn insert(&mut self, pointer: &str, value: impl Serialize) -> Result<(), StateError> {
        self.apply(Operation::Add { path: parse(pointer)?, value: serde_json::to_value(value)? })
    }

    /// Removes a member or an element.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn remove(&mut self, pointer: &str) -> Result<(), StateError> {
        self.apply(Operation::Remove { path: parse(pointer)? })
    }

    /// Adds to an integer.
    ///
    /// # Errors
    ///
    /// When there is no integer, or the sum is none.
    pub fn add(&mut self, pointer: &str, amount: i64) -> Result<(), StateError> {
        let sum = self.value.pointer(pointer).and_then(Value::as_i64).and_then(|value| value.checked_add(amount));
        let sum = sum.ok_or_else(|| StateError::Rejected(format!("no integer at {pointer:?} to add {amount} to")))?;
        self.set(pointer, sum)
    }

    /// Applies one RFC 6902 operation.
    ///
    /// # Errors
    ///
    /// When it does not fit the value.
    pub fn apply(&mut self, operation: Operation) -> Result<(), StateError> {
        let patch = Patch::from_operations(vec![operation.clone()]);
        self.undo.push(apply_undoable(self.value, &patch, &PatchLimits::default())?);
        self.operations.push(operation);
        Ok(())
    }
}

/// A state's stream holds nothing else.
fn value(content: &mut Content) -> Option<&mut StateValue> {
    match content {
        Content::State(state) => Some(state),
        _ => None,
    }
}

fn parse(pointer: &str) -> Result<Pointer, StateError> {
    Pointer::parse(pointer).map_err(|PointerError| {
        StateError::Patch(PatchError::BadPointer { operation: 0, pointer: pointer.chars().take(120).collect() })
    })
}

fn revert(state: &mut StateValue, undo: Vec<Undo>) {
    if let Some(value) = &mut state.value {
        for undo in undo.into_iter().rev() {
            undo.revert(value);
        }
    }
}

/// The patch, or the whole value where that is shorter.
fn shorter(patch: &Patch, value: &RawValue) -> Result<Entry, StateError> {
    let ops = to_raw_value(patch)?;
    Ok(if ops.get().len() < value.get().len() { Entry::Patch(ops) } else { Entry::Value(value.to_owned()) })
}
