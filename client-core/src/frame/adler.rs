//! The checksum of zlib streams (RFC 1950).

/// Sums up bytes.
pub(super) struct Adler {
    a: u32,
    b: u32,
}

impl Default for Adler {
    fn default() -> Self {
        Self { a: 1, b: 0 }
    }
}

/// Every other byte of a word.
const EVEN: u64 = 0x00ff_00ff_00ff_00ff;

/// The sum of four lanes of 16 bits, the first times the highest 16 bits of `times`, and so on.
fn sum(lanes: u64, times: u64) -> u32 {
    (lanes.wrapping_mul(times) >> 48) as u32
}

impl Adler {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // As many as can be summed up without an overflow.
        for chunk in bytes.chunks(5552) {
            let (words, rest) = chunk.as_chunks();
            for &word in words {
                let word = u64::from_le_bytes(word);
                let (even, odd) = (word & EVEN, word >> 8 & EVEN);
                self.b += 8 * self.a + sum(even, 0x0008_0006_0004_0002) + sum(odd, 0x0007_0005_0003_0001);
                self.a += sum(even + odd, 0x0001_0001_0001_0001);
            }
            for &byte in rest {
                self.a += u32::from(byte);
                self.b += self.a;
            }
            self.a %= 65521;
            self.b %= 65521;
        }
    }

    pub(super) fn value(&self) -> u32 {
        self.b << 16 | self.a
    }
}
