//! The hash of a value, the same for who holds the value and for who replays its log.

use super::event::{How, Id};

/// A value as a number: of a list of ids, of a set of ids, or of one id.
///
/// A client whose value is `[3, 5]` appends 3 and 5 to the empty digest; one whose value is the set of 3 and 5 edits
/// with both in any order; one whose value is 5 sets 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(u64);

impl Digest {
    /// The value after this write.
    #[must_use]
    pub fn after(self, how: How, id: Id) -> Self {
        Self(match how {
            How::Append => mix(self.0.rotate_left(17) ^ mix(id.0)),
            How::Edit | How::Merge => self.0.wrapping_add(mix(id.0)),
            How::Set => mix(id.0),
        })
    }

    /// As events carry it.
    pub fn hash(self) -> u64 {
        self.0
    }
}

/// Spreads the bits of a number over all of it (the finaliser of SplitMix64), so that near ones are far apart.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
