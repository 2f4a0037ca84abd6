//! [`Draft`]: a value while [`State::update`](super::State::update) changes it.

use datasole_core::{
    patch::{Operation, PatchError, PatchLimits, Pointer, PointerError, Transaction, Undo},
    tree::{self, Tree},
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::StateError;

/// A value being changed by [`State::update`](super::State::update). Pointers are RFC 6901: `""` is the whole value,
/// `/rows/0/n` a part.
pub struct Draft<'a> {
    value: &'a mut Tree,
    operations: Vec<Operation>,
    transaction: Transaction,
}

impl std::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(value: &'a mut Tree) -> Self {
        Self { value, operations: Vec::new(), transaction: Transaction::default() }
    }

    /// The operations that were applied, and the way back.
    pub(super) fn end(self) -> (Vec<Operation>, Undo) {
        (self.operations, self.transaction.into_undo())
    }

    /// The value at a pointer.
    pub fn get(&self, pointer: &str) -> Option<&Tree> {
        self.value.pointer(pointer)
    }

    /// Sets a member, replaces an element, or replaces the whole. The container must exist, but for the whole: where there
    /// is nothing, or `null`, it is begun as an object, or as an array for `/0` and `/-`.
    ///
    /// # Errors
    ///
    /// Fails if there is no such place, or the value cannot be written as JSON.
    pub fn set(&mut self, pointer: &str, value: impl Serialize) -> Result<(), StateError> {
        let value = tree(&value)?;
        let path = parse(pointer)?;
        self.begin(pointer)?;
        self.apply(if self.value.pointer(pointer).is_some() {
            Operation::Replace { path, value }
        } else {
            Operation::Add { path, value }
        })
    }

    /// Inserts an element before the one at the pointer; `-` as the last token appends. The whole is begun as in
    /// [`set`](Self::set).
    ///
    /// # Errors
    ///
    /// Fails if there is no such place, or the value cannot be written as JSON.
    pub fn insert(&mut self, pointer: &str, value: impl Serialize) -> Result<(), StateError> {
        let value = tree(&value)?;
        let path = parse(pointer)?;
        self.begin(pointer)?;
        self.apply(Operation::Add { path, value })
    }

    /// Begins the whole where there is nothing, for a member or an element of it.
    fn begin(&mut self, pointer: &str) -> Result<(), StateError> {
        let Some(token) = pointer.strip_prefix('/').filter(|_| self.value.is_null()) else { return Ok(()) };
        // An edit that would not fit the new whole either is refused as it stands.
        if token.contains('/') {
            return Ok(());
        }
        let value = if matches!(token, "0" | "-") { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
        self.apply(Operation::Replace { path: parse("")?, value: value.into() })
    }

    /// Removes a member or an element.
    ///
    /// # Errors
    ///
    /// Fails if there is no such member or element.
    pub fn remove(&mut self, pointer: &str) -> Result<(), StateError> {
        self.apply(Operation::Remove { path: parse(pointer)? })
    }

    /// Adds to an integer.
    ///
    /// # Errors
    ///
    /// Fails if there is no integer at the pointer, or the sum is not an integer in range.
    pub fn add(&mut self, pointer: &str, amount: i64) -> Result<(), StateError> {
        let sum = self.value.pointer(pointer).and_then(Tree::as_i64).and_then(|value| value.checked_add(amount));
        let sum = sum.ok_or_else(|| StateError::Rejected(format!("no integer at {pointer:?} to add {amount} to")))?;
        self.set(pointer, sum)
    }

    /// Applies one RFC 6902 operation.
    ///
    /// # Errors
    ///
    /// Fails if the operation does not fit the value, or if all operations together exceed the limits of one patch.
    pub fn apply(&mut self, operation: Operation) -> Result<(), StateError> {
        self.transaction.apply(self.value, &operation, &PatchLimits::default())?;
        self.operations.push(operation);
        Ok(())
    }
}

/// By its text, which takes less than a `Value` of it would.
fn tree(value: &impl Serialize) -> Result<Tree, StateError> {
    Ok(tree::parse(&serde_json::to_string(value)?)?)
}

fn parse(pointer: &str) -> Result<Pointer, StateError> {
    Pointer::parse(pointer).map_err(|PointerError| {
        StateError::Patch(PatchError::BadPointer { operation: 0, pointer: pointer.chars().take(120).collect() })
    })
}
