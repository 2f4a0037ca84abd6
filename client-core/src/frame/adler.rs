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

impl Adler {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        // As many as can be summed up without an overflow.
        for chunk in bytes.chunks(5552) {
            for &byte in chunk {
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
