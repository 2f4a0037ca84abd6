//! [`Held`]: what the backend holds of a stream since its newest snapshot, and what it keeps of the entries before.

use crate::{backend::log, limits::Replay};

/// Entries before a snapshot that the backend keeps for nodes that are behind, and about how many bytes of them.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 64 * 1024;

/// Entries and bytes that the backend holds since its newest snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    entries: usize,
    bytes: usize,
    keep: usize,
}

impl Held {
    /// Of a stream as the backend has it.
    pub(super) fn of(since_snapshot: &[log::Entry]) -> Self {
        let bytes = since_snapshot.iter().map(|entry| entry.bytes.len()).sum();
        Self { entries: since_snapshot.len(), bytes, keep: 0 }
    }

    /// Takes note of an entry of so many bytes: whether there are too many, and a snapshot shall take their place.
    pub(super) fn note(&mut self, bytes: usize, most: &Replay) -> bool {
        self.entries += 1;
        self.bytes += bytes;
        let due = self.entries > most.entries || self.bytes > most.bytes;
        if due {
            *self = Self { keep: kept(self.entries, self.bytes), ..Self::default() };
        }
        due
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
}
