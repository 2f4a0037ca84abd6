//! The messages of y-protocols: which part of a document they carry.

use crate::wire::{push_varuint, split_varuint};

/// First bytes.
const SYNC: u8 = 0;
const AWARENESS: u8 = 1;

/// Second bytes of sync messages: what have you beyond this? The answer; a change.
pub(super) const STATE_VECTOR: u8 = 0;
pub(super) const STEP_2: u8 = 1;
pub(super) const UPDATE: u8 = 2;

/// A message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    StateVector(&'a [u8]),
    /// `whole`: the answer to a state vector.
    Update {
        update: &'a [u8],
        whole: bool,
    },
    Awareness(&'a [u8]),
    /// One of another protocol.
    Other,
}

impl<'a> Message<'a> {
    /// Reads a message; `None` when it is cut off, or longer than it says.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        match message {
            [SYNC, STATE_VECTOR, rest @ ..] => content(rest).map(Self::StateVector),
            [SYNC, step @ (STEP_2 | UPDATE), rest @ ..] => {
                content(rest).map(|update| Self::Update { update, whole: *step == STEP_2 })
            }
            [SYNC, ..] | [] => None,
            [AWARENESS, rest @ ..] => content(rest).map(Self::Awareness),
            _ => Some(Self::Other),
        }
    }
}

fn content(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = split_varuint(bytes)?;
    (u64::try_from(rest.len()) == Ok(length)).then_some(rest)
}

/// A sync message.
pub(super) fn sync(step: u8, content: &[u8]) -> Vec<u8> {
    written(&[SYNC, step], content)
}

/// An awareness message.
pub(super) fn awareness(update: &[u8]) -> Vec<u8> {
    written(&[AWARENESS], update)
}

fn written(head: &[u8], content: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(head.len() + 10 + content.len());
    message.extend_from_slice(head);
    push_varuint(&mut message, content.len() as u64);
    message.extend_from_slice(content);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        for length in [0, 1, 127, 128, 20_000] {
            let content = vec![7; length];
            let update = |whole| Message::Update { update: &content, whole };
            for (message, expected) in [
                (sync(STATE_VECTOR, &content), Message::StateVector(&content)),
                (sync(STEP_2, &content), update(true)),
                (sync(UPDATE, &content), update(false)),
                (awareness(&content), Message::Awareness(&content)),
            ] {
                assert_eq!(Message::read(&message), Some(expected));
                for end in 1..message.len().min(5) {
                    assert_eq!(Message::read(&message[..end]), None, "{end} of {length}");
                }
                assert_eq!(Message::read(&[&message[..], b"x"].concat()), None);
            }
        }
        assert_eq!(Message::read(&[]), None);
        assert_eq!(Message::read(&[0, 3, 0]), None);
        assert_eq!(Message::read(&[2]), Some(Message::Other));
    }
}
