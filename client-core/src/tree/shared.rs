//! [`Shared`]: what an array or an object holds, shared by copies of its tree.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use super::{Object, Tree};

/// The elements of an array or the members of an object. Nothing takes no memory.
#[derive(Clone, Default)]
pub(crate) struct Shared<T>(Option<Arc<T>>);

/// A container, and the empty one.
pub(crate) trait Container: Clone + Default + 'static {
    fn is_empty(&self) -> bool;

    fn empty() -> &'static Self;
}

impl Container for Vec<Tree> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn empty() -> &'static Self {
        static EMPTY: Vec<Tree> = Vec::new();
        &EMPTY
    }
}

impl Container for Object {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn empty() -> &'static Self {
        static EMPTY: LazyLock<Object> = LazyLock::new(Object::default);
        &EMPTY
    }
}

impl<T: Container> Shared<T> {
    pub(super) fn new(held: T) -> Self {
        Self((!held.is_empty()).then(|| Arc::new(held)))
    }

    /// Its own, to be changed: a copy where it is shared.
    pub(crate) fn make_mut(&mut self) -> &mut T {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl<T: Container> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        if let Some(held) = &self.0 { held } else { T::empty() }
    }
}

impl<T: Container + PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
