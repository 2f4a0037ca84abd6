//! Reading lib0's encoding, that of Yjs and y-protocols: never past the end, never deeper than allowed.

use datasole_core::wire::{push_varuint, split_varuint};

/// Values within values; more is refused, because their readers recurse.
const MAX_NESTING: usize = 100;

/// The bytes left to read. Each method takes something from the front, or is `None` if it is not there.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn varuint(&mut self) -> Option<u64> {
        let (number, rest) = split_varuint(self.0)?;
        self.0 = rest;
        Some(number)
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        self.varuint()?.try_into().ok()
    }

    /// A buffer: its length, then that many bytes.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varuint()?).ok()?;
        self.take(length)
    }

    pub(crate) fn string(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Passes over a value of lib0's `any` encoding.
    pub(crate) fn skip_any(&mut self) -> Option<()> {
        self.skip_nested(MAX_NESTING)
    }

    fn skip_nested(&mut self, levels: usize) -> Option<()> {
        let levels = levels.checked_sub(1)?;
        match self.byte()? {
            // undefined, null, true and false
            120 | 121 | 126 | 127 => {}
            // an integer, of at most ten bytes
            125 => {
                let length = self.0.iter().take(10).position(|byte| byte & 0x80 == 0)?;
                self.take(length + 1)?;
            }
            124 => drop(self.take(4)?),
            122 | 123 => drop(self.take(8)?),
            119 => drop(self.string()?),
            116 => drop(self.bytes()?),
            118 => {
                for _ in 0..self.varuint()? {
                    self.string()?;
                    self.skip_nested(levels)?;
                }
            }
            117 => {
                for _ in 0..self.varuint()? {
                    self.skip_nested(levels)?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// Appends bytes with their length before them.
pub(crate) fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varuint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_nest_up_to_the_bound_and_no_deeper() {
        let nested = |levels: usize| {
            let mut bytes = [117, 1].repeat(levels - 1);
            bytes.push(126);
            bytes
        };
        assert_eq!(Reader::new(&nested(MAX_NESTING - 1)).skip_any(), Some(()));
        assert_eq!(Reader::new(&nested(MAX_NESTING)).skip_any(), Some(()));
        assert_eq!(Reader::new(&nested(MAX_NESTING + 1)).skip_any(), None);
        assert_eq!(Reader::new(&nested(500_000)).skip_any(), None);
    }

    #[test]
    fn declared_counts_are_not_believed() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
        for kind in [116, 117, 118, 119] {
            assert_eq!(Reader::new(&[&[kind][..], &huge].concat()).skip_any(), None, "{kind}");
        }
        assert_eq!(Reader::new(&[125, 0x80, 0x80]).skip_any(), None);
        assert_eq!(Reader::new(&[[125].as_slice(), &[0x80; 11], &[0]].concat()).skip_any(), None);
        assert_eq!(Reader::new(&huge).bytes(), None);
        assert_eq!(Reader::new(&[2, 0xc3, 0x28]).string(), None);
    }

    #[test]
    fn what_was_read_is_gone() {
        let mut out = Vec::new();
        push_bytes(&mut out, "ä".as_bytes());
        out.extend([118, 1, 1, b'k', 117, 2, 120, 125, 0xc1, 0x01, 9]);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.string(), Some("ä"));
        assert_eq!(reader.skip_any(), Some(()));
        assert_eq!((reader.len(), reader.byte(), reader.byte()), (1, Some(9), None));
        assert!(reader.is_empty());
    }
}
