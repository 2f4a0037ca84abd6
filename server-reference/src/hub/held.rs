//! [`Held`]: what the backend holds of a stream since its newest snapshot, and what it keeps of the entries before.

use crate::{backend::log::Stored, limits::Replay};

/// Entries before a snapshot that the backend keeps for nodes that are behind, and about how many bytes of them.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 64 * 1024;
/// Bytes that an entry costs beside its own, about: in a backend, and in reading it.
const EACH: usize = 64;

/// Entries and bytes that the backend holds since its newest snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    entries: usize,
    bytes: usize,
    /// Bytes of the snapshot. The next one waits until the entries since cost as much, so that the cost of snapshots for each
    /// entry does not grow with the content.
    snapshot: usize,
    keep: usize,
}

impl Held {
    /// Of a stream as the backend has it.
    pub(super) fn of(stored: &Stored) -> Self {
        let since_snapshot = stored.since_snapshot();
        let bytes = since_snapshot.iter().map(|entry| entry.bytes.len()).sum();
        let snapshot = stored.snapshot.as_ref().map_or(0, |(_, bytes)| bytes.len());
        Self { entries: since_snapshot.len(), bytes, snapshot, keep: 0 }
    }

    /// Takes note of an entry of so many bytes: whether there are too many, and a snapshot shall take their place.
    pub(super) fn note(&mut self, bytes: usize, most: &Replay) -> bool {
        self.entries += 1;
        self.bytes += bytes;
        let due = (self.entries > most.entries || self.bytes > most.bytes)
            && self.bytes.saturating_add(self.entries.saturating_mul(EACH)) >= self.snapshot;
        if due {
            *self = Self { keep: kept(self.entries, self.bytes), snapshot: self.snapshot, ..Self::default() };
        }
        due
    }

    /// Takes note of the bytes of the snapshot that was due.
    pub(super) fn compacted(&mut self, snapshot: usize) {
        self.snapshot = snapshot;
    }

    /// How many entries before the snapshot that is due nodes may need that are behind.
    pub(super) fn keep(&self) -> usize {
        self.keep
    }
}

/// How many of the last entries nodes may need that are behind, where those had so many bytes.
pub(super) fn kept(entries: usize, bytes: usize) -> usize {
    KEPT.min(KEPT_BYTES.saturating_mul(entries) / bytes.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_leaves_the_last_entries_to_nodes_that_are_behind() {
        for (entries, bytes, expected) in [
            (1, 1, 64),
            (100, 6_400, 64),
            (64, 64 * 1_024, 64),
            (64, 128 * 1_024, 32),
            (1, 64 * 1_024 + 1, 0),
            (0, 0, 0),
        ] {
            assert_eq!(kept(entries, bytes), expected, "{entries} entries of {bytes} bytes");
        }
    }

    #[test]
    fn a_snapshot_is_due_above_either_bound() {
        let most = Replay { entries: 2, bytes: 10, age: None };
        let mut held = Held::default();
        assert_eq!([4, 4, 1, 10, 1].map(|bytes| held.note(bytes, &most)), [false, false, true, false, true]);
        assert_eq!(held.keep(), KEPT);
    }

    /// Entries of `bytes` bytes until a snapshot is due, behind one of so many.
    fn due_after(bytes: usize, snapshot: usize, most: &Replay) -> usize {
        let mut held = Held::default();
        held.compacted(snapshot);
        (1..).find(|_| held.note(bytes, most)).unwrap_or_default()
    }

    #[test]
    fn a_snapshot_waits_for_entries_that_cost_as_much_as_the_one_before() {
        let most = Replay { entries: 500, bytes: 1024 * 1024, age: None };
        for snapshot in [0, 1_000, 501 * 100 - 1, 501 * 100] {
            assert_eq!(due_after(100 - EACH, snapshot, &most), 501, "{snapshot} bytes");
        }
        assert_eq!(due_after(100 - EACH, 501 * 100 + 1, &most), 502);
        assert_eq!(due_after(100 - EACH, 8_000_000, &most), 80_000);
        assert_eq!(due_after(600_000, 8_000_000, &most), 14);
    }
}
