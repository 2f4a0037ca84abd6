//! [`Table`]: a small ordered map in one sorted vector.
//!
//! The core's maps hold some thousand entries at most, each bounded by [`Limits`](crate::Limits), and most keys come in
//! ascending order, which makes an insertion an append. There a vector is as fast as a B-tree, with far less code: the
//! `BTreeMap`s of the core made up a sixth of the wasm. It lacks ranges, entries, and speed beyond that size.

use std::borrow::Borrow;

/// Entries in ascending order of their keys.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: Vec<(K, V)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<K: Ord, V> Table<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    pub(crate) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.search(key).is_ok()
    }

    pub(crate) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.search(key).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.search(key).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Adds an entry, or replaces the value of the one there is.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.search(&key) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) => self.entries.insert(at, (key, value)),
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.search(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// The entry with the lowest key.
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.entries.first().map(|(key, value)| (key, value))
    }

    pub(crate) fn pop_first(&mut self) -> Option<(K, V)> {
        (!self.entries.is_empty()).then(|| self.entries.remove(0))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    fn search<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries.binary_search_by(|(other, _)| other.borrow().cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_replaced_and_removed_in_order() {
        let mut table = Table::default();
        for (key, value) in [("b", 2), ("c", 3), ("a", 0), ("a", 1)] {
            table.insert(key.to_owned(), value);
        }
        assert_eq!((table.len(), table.first()), (3, Some((&"a".to_owned(), &1))));
        assert_eq!(["a", "b", "c", "d"].map(|key| table.get(key).copied()), [Some(1), Some(2), Some(3), None]);
        assert_eq!((table.remove("b"), table.remove("b"), table.contains_key("b")), (Some(2), None, false));
        table.values_mut().for_each(|value| *value += 10);
        assert_eq!(table.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!((table.pop_first(), table.get_mut("c")), (Some(("a".to_owned(), 11)), Some(&mut 13)));
        table.clear();
        assert_eq!((table.len(), table.pop_first()), (0, None));
    }
}
