//! Names of keys and channels in the store.
//!
//! Keys that a script touches together have one hash tag, so that they are on one node of a cluster. There are 1,024
//! tags, each in slots of its own; their number is kept in the store.

use std::sync::{Arc, LazyLock};

use datasole_core::{StreamId, StreamKind};

use crate::backend::name::letter;

/// The number of hash tags over which streams are spread.
pub(super) const PARTITIONS: u16 = 1_024;
/// The hash slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// One hash tag per partition: partition `p` lies in the `p`-th of 1,024 equal ranges of slots.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let (mut tags, mut missing) = (vec![None; usize::from(PARTITIONS)], PARTITIONS);
    for candidate in 0_u32.. {
        let slot = crc16(candidate.to_string().as_bytes()) % SLOTS;
        let range = usize::from(slot / (SLOTS / PARTITIONS));
        if let Some(tag @ None) = tags.get_mut(range) {
            *tag = Some(candidate);
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    tags.into_iter().flatten().collect()
});

/// CRC-16/XMODEM, by which a cluster spreads hash tags over slots.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

/// The slot of a key, or of a channel: that of its hash tag, if it has one.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = || {
        let rest = key.get(key.iter().position(|byte| *byte == b'{')? + 1..)?;
        rest.get(..rest.iter().position(|byte| *byte == b'}')?).filter(|tag| !tag.is_empty())
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// The names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: Arc<str>,
}

/// The names of one stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    pub(super) meta: String,
    pub(super) log: String,
    pub(super) snapshot: String,
    pub(super) index: String,
    pub(super) turn: String,
    pub(super) queue: String,
    /// Where its entries are published.
    pub(super) channel: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// The hash tag of what is named so.
    fn tag(name: &[u8]) -> u32 {
        let partition = usize::from(crc16(name) % PARTITIONS);
        TAGS.get(partition).copied().unwrap_or_default()
    }

    pub(super) fn stream(&self, id: &StreamId) -> Stream {
        let (prefix, kind, key) = (&self.prefix, letter(id.kind), &id.key);
        let tag = Self::tag(key.as_bytes());
        let of = |part| format!("{prefix}:{{{tag}}}:{part}:{kind}{key}");
        Stream {
            meta: of('m'),
            log: of('l'),
            snapshot: of('s'),
            index: format!("{prefix}:{{{tag}}}:k:{kind}"),
            turn: of('t'),
            queue: of('q'),
            channel: of('e'),
        }
    }

    /// Per partition: the index of the keys of a kind, and the prefix of their meta hashes.
    pub(super) fn indexes(&self, kind: StreamKind) -> impl Iterator<Item = (String, String)> + '_ {
        let (prefix, kind) = (&self.prefix, letter(kind));
        TAGS.iter().map(move |tag| (format!("{prefix}:{{{tag}}}:k:{kind}"), format!("{prefix}:{{{tag}}}:m:{kind}")))
    }

    pub(super) fn generation(&self) -> String {
        format!("{}:generation", self.prefix)
    }

    /// The key of a value of `Kv`, `part` telling what it is.
    pub(super) fn value(&self, part: &str, name: &str) -> String {
        format!("{}:{{{}}}:{part}:{name}", self.prefix, Self::tag(name.as_bytes()))
    }

    /// The counter of versions of the values that share this one's hash tag.
    pub(super) fn versions(&self, name: &str) -> String {
        format!("{}:{{{}}}:versions", self.prefix, Self::tag(name.as_bytes()))
    }

    /// The key of a lease. All leases share a hash tag: there are few.
    pub(super) fn lease(&self, name: &str) -> String {
        format!("{}:{{leases}}:{name}", self.prefix)
    }

    pub(super) fn leases(&self) -> String {
        format!("{}:{{leases}}", self.prefix)
    }

    pub(super) fn lease_versions(&self) -> String {
        format!("{}:{{leases}}-versions", self.prefix)
    }

    /// The channel for messages to one node.
    pub(super) fn inbox(&self, node: u64) -> String {
        format!("{}:i:{node:016x}", self.prefix)
    }

    /// The prefix of the channels for turns; the name of the link, by which it waits for turns, follows.
    pub(super) fn turns(&self) -> String {
        format!("{}:u:", self.prefix)
    }

    pub(super) fn everybody(&self) -> String {
        format!("{}:a", self.prefix)
    }

    pub(super) fn topic(&self, topic: &str) -> String {
        format!("{}:t:{topic}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12_182), ("{foo}bar", 12_182), ("a{foo}", 12_182), ("{}foo", 9_500), ("", 0)] {
            assert_eq!(super::slot(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn every_partition_has_slots_of_its_own() {
        assert_eq!(TAGS.len(), usize::from(PARTITIONS));
        for (range, tag) in TAGS.iter().enumerate() {
            let slot = crc16(tag.to_string().as_bytes()) % SLOTS;
            assert_eq!(usize::from(slot / 16), range, "tag {tag}");
        }
    }
}
