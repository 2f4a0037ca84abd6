//! A set of connections that is cheap to iterate, and to leave: subscribers of a stream, members of a room.

use std::{collections::HashMap, sync::Arc};

use crate::connection::Connection;

/// Up to so many are searched one by one; most sets (one user's connections) are that small and need no index.
const FEW: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Vec<Arc<Connection>>,
    /// Where each is in `list`; none while there are few.
    #[expect(clippy::box_collection, reason = "most sets have none, and are in every connection and stream")]
    index: Option<Box<HashMap<u64, usize>>>,
}

impl Members {
    /// `false` when it was in already.
    pub(crate) fn insert(&mut self, connection: &Arc<Connection>) -> bool {
        if self.find(connection.serial()).is_some() {
            return false;
        }
        if self.list.capacity() == 0 {
            // Most users have one connection.
            self.list.reserve_exact(1);
        }
        self.list.push(connection.clone());
        let len = self.list.len();
        if let Some(index) = &mut self.index {
            index.insert(connection.serial(), len - 1);
        } else if len > FEW {
            // The first that is one too many: all are indexed.
            let all = self.list.iter().enumerate().map(|(at, member)| (member.serial(), at));
            self.index = Some(Box::new(all.collect()));
        }
        true
    }

    /// `false` when it was not in.
    pub(crate) fn remove(&mut self, connection: &Connection) -> bool {
        let Some(at) = self.find(connection.serial()) else { return false };
        self.list.swap_remove(at);
        if self.list.len() <= FEW {
            self.index = None;
            return true;
        }
        if let Some(index) = &mut self.index {
            index.remove(&connection.serial());
            if let Some(moved) = self.list.get(at) {
                index.insert(moved.serial(), at);
            }
        }
        true
    }

    pub(crate) fn get(&self, serial: u64) -> Option<&Arc<Connection>> {
        self.find(serial).and_then(|at| self.list.get(at))
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

    fn find(&self, serial: u64) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&serial).copied(),
            None => self.list.iter().position(|member| member.serial() == serial),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::connection::Protocol;

    /// Random joins and leaves around the size at which the index appears, against a set.
    #[test]
    fn agrees_with_a_set() {
        let all: Vec<Arc<Connection>> =
            (0..24).map(|serial| Arc::new(Connection::new(serial, 1, Protocol::V2, 1, 1))).collect();
        let (mut members, mut set) = (Members::default(), BTreeSet::new());
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (serial, join) = ((random >> 33) % 24, (random >> 60) & 1 == 1);
            let member = &all[serial as usize];
            if join {
                assert_eq!(members.insert(member), set.insert(serial));
            } else {
                assert_eq!(members.remove(member), set.remove(&serial));
            }
            assert_eq!(members.len(), set.len());
            assert_eq!(members.index.is_none(), members.len() <= FEW);
            assert_eq!(members.get(serial).is_some(), set.contains(&serial));
        }
        assert_eq!(members.iter().map(|member| member.serial()).collect::<BTreeSet<_>>(), set);
    }
}
