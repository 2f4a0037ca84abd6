//! The messages of y-protocols, as DOC frames carry them.

use super::error::DocError;
use super::lib0::{Reader, push_bytes};

/// A message of the sync or the awareness protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// Asks for all changes beyond this state vector (sync step 1).
    Ask(&'a [u8]),
    /// Answers a state vector with an update (sync step 2).
    Answer(&'a [u8]),
    /// An update with new changes.
    Change(&'a [u8]),
    /// An awareness update.
    Awareness(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Reads exactly one message.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DocError> {
        let reader = &mut Reader::new(bytes);
        Self::read(reader).filter(|_| reader.is_empty()).ok_or(DocError::Malformed("it is no message of y-protocols"))
    }

    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        match reader.varuint()? {
            0 => match reader.varuint()? {
                0 => reader.bytes().map(Self::Ask),
                1 => reader.bytes().map(Self::Answer),
                2 => reader.bytes().map(Self::Change),
                _ => None,
            },
            1 => reader.bytes().map(Self::Awareness),
            _ => None,
        }
    }

    /// The length of its content; bytes.
    pub(crate) fn len(&self) -> usize {
        let (Self::Ask(bytes) | Self::Answer(bytes) | Self::Change(bytes) | Self::Awareness(bytes)) = self;
        bytes.len()
    }

    /// Writes what [`parse`](Self::parse) reads.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (head, bytes): (&[u8], _) = match self {
            Self::Ask(bytes) => (&[0, 0], bytes),
            Self::Answer(bytes) => (&[0, 1], bytes),
            Self::Change(bytes) => (&[0, 2], bytes),
            Self::Awareness(bytes) => (&[1], bytes),
        };
        out.extend_from_slice(head);
        push_bytes(out, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let long = vec![7; 300];
        for bytes in [&[][..], &[1, 2, 3], &long] {
            let messages = [
                (Message::Ask(bytes), &[0, 0][..]),
                (Message::Answer(bytes), &[0, 1]),
                (Message::Change(bytes), &[0, 2]),
                (Message::Awareness(bytes), &[1]),
            ];
            for (message, head) in messages {
                let mut written = Vec::new();
                message.write(&mut written);
                assert!(written.starts_with(head));
                assert_eq!(Message::parse(&written).unwrap(), message);
                for end in 0..written.len() {
                    assert!(Message::parse(&written[..end]).is_err(), "cut to {end}");
                }
                assert!(Message::parse(&[&written[..], &[0]].concat()).is_err(), "something behind it");
            }
        }
        for strange in [&[2, 0][..], &[0, 3, 0], &[3], &[0x80]] {
            assert!(Message::parse(strange).is_err());
        }
    }
}
