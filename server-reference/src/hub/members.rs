//! A set of connections that is cheap to iterate, and to leave: subscribers of a stream, members of a room.

use std::{collections::HashMap, sync::Arc};

use crate::connection::Connection;

#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Vec<Arc<Connection>>,
    index: HashMap<u64, usize>,
}

impl Members {
    /// `false` when it was in already.
    pub(crate) fn insert(&mut self, connection: &Arc<Connection>) -> bool {
        if self.index.contains_key(&connection.serial()) {
            return false;
        }
        self.index.insert(connection.serial(), self.list.len());
        self.list.push(connection.clone());
        true
    }

    /// `false` when it was not in.
    pub(crate) fn remove(&mut self, connection: &Connection) -> bool {
        let Some(at) = self.index.remove(&connection.serial()) else { return false };
        self.list.swap_remove(at);
        if let Some(moved) = self.list.get(at) {
            self.index.insert(moved.serial(), at);
        }
        true
    }

    pub(crate) fn get(&self, serial: u64) -> Option<&Arc<Connection>> {
        self.index.get(&serial).and_then(|&at| self.list.get(at))
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Arc<Connection>> {
        self.list.iter()
    }

    pub(crate) fn as_slice(&self) -> &[Arc<Connection>] {
        &self.list
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
