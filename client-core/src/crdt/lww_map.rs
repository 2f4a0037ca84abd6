//! The map of registers: each entry has its own stamp, and a removal leaves its own, the tombstone, so that it holds
//! against older sets (RFC 677; Shapiro et al. 2011, section 3.3.3). [`LwwMap::collect`] forgets tombstones.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{Json, key::Key, lww_register::LwwRegister, value::quoted_len};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LwwMap {
    entries: BTreeMap<Key, LwwRegister>,
    /// Upper bound of the JSON's bytes.
    size: usize,
}

impl LwwMap {
    pub(super) fn get(&self, key: &str) -> Option<&Json> {
        self.entries.get(key.as_bytes())?.value.as_ref()
    }

    /// Every entry, tombstones included.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &LwwRegister)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), entry))
    }

    /// Number of entries, tombstones included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key.as_bytes())
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// By how much [`size`](Self::size) would grow.
    pub(super) fn growth(&self, key: &str, entry: &LwwRegister) -> isize {
        match self.entries.get(key.as_bytes()) {
            Some(known) if known >= entry => 0,
            Some(known) => entry.size().cast_signed() - known.size().cast_signed(),
            None => size(key, entry).cast_signed(),
        }
    }

    pub(super) fn put(&mut self, key: Key, entry: LwwRegister) {
        match self.entries.entry(key) {
            Entry::Occupied(mut known) => {
                self.size -= known.get().size();
                known.get_mut().merge(entry);
                self.size += known.get().size();
            }
            Entry::Vacant(place) => {
                self.size += size(place.key().as_str(), &entry);
                place.insert(entry);
            }
        }
    }

    /// Merges two maps; of those that have forgotten what is before their floor.
    pub(super) fn merge(&mut self, other: &Self, my_floor: u64, their_floor: u64) {
        // What is absent there, and was there before its floor, has been removed and forgotten.
        self.retain(|key, entry| entry.stamp.timestamp >= their_floor || other.entries.contains_key(key));
        for (key, entry) in &other.entries {
            if entry.stamp.timestamp >= my_floor || self.entries.contains_key(key) {
                self.put(key.clone(), entry.clone());
            }
        }
        self.collect(my_floor.max(their_floor));
    }

    /// Forgets tombstones from before `floor`.
    pub(super) fn collect(&mut self, floor: u64) {
        self.retain(|_, entry| entry.value.is_some() || entry.stamp.timestamp >= floor);
    }

    /// Takes a server's word: what it has, and nothing else, but for what was written later than `time` here.
    pub(super) fn adopt(&mut self, other: &Self, time: u64) {
        self.retain(|_, entry| entry.stamp.timestamp > time);
        for (key, entry) in &other.entries {
            if !self.entries.contains_key(key) {
                self.put(key.clone(), entry.clone());
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Key, &LwwRegister) -> bool) {
        let total = &mut self.size;
        self.entries.retain(|key, entry| {
            let kept = keep(key, entry);
            if !kept {
                *total -= size(key.as_str(), entry);
            }
            kept
        });
    }
}

fn size(key: &str, entry: &LwwRegister) -> usize {
    2 * quoted_len(key) + entry.size()
}
