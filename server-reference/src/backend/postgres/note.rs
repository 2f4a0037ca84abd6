//! Notes: what nodes tell each other in notifications, which are text of less than 8,000 bytes.
//!
//! A payload is the node that sent it, its number among that node's payloads, and notes: a repeat and a gap are seen by
//! the number. (The server itself drops a payload that equals another of the same transaction.) Numbers are in base 36.

use data_encoding::BASE64URL_NOPAD as BASE64;
use datasole_core::StreamId;

use crate::backend::{log::mix, name};

/// The longest payload; the server takes less than 8,000 bytes.
const PAYLOAD: usize = 7_900;
/// The longest message that travels within a note; longer ones are rows.
pub(super) const INLINE: usize = 5_000;

/// Something that other nodes may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Entries were appended to the stream with this hash.
    Entries { stream: u64, epoch: u64, first: u64, count: u64 },
    /// The same, of entries too large to be read by all who follow.
    Advanced { stream: u64, epoch: u64, last: u64 },
    /// The turn of a stream is this node's.
    Turn { node: u64, stream: StreamId },
    /// A message for the address with this hash.
    Message { to: u64, body: Vec<u8> },
    /// The same, in a row of `mail`.
    Mail { to: u64, row: i64 },
    /// For the node itself: whatever it unsubscribed from until then is over, now that everything before has come.
    Left { number: u64 },
}

/// A hash that is the same on every node: FNV-1a, then mixed.
pub(super) fn hash(part: u8, name: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.iter().fold(step(0xcbf2_9ce4_8422_2325, &part), step))
}

/// The hash by which notes name a stream.
pub(super) fn stream_hash(stream: &StreamId) -> u64 {
    hash(b's', name::write(stream).as_bytes())
}

fn push_number(text: &mut String, mut number: u64) {
    let mut digits = [0; 13];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
        if number == 0 {
            break;
        }
    }
    text.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 36).ok()
}

impl Note {
    fn write(&self, text: &mut String) {
        let (kind, numbers): (_, &[u64]) = match self {
            Self::Entries { stream, epoch, first, count } => ('e', &[*stream, *epoch, *first, *count]),
            Self::Advanced { stream, epoch, last } => ('a', &[*stream, *epoch, *last]),
            Self::Turn { node, .. } => ('t', &[*node]),
            Self::Message { to, .. } => ('m', &[*to]),
            Self::Mail { to, row } => ('r', &[*to, row.cast_unsigned()]),
            Self::Left { number } => ('l', &[*number]),
        };
        text.push(kind);
        for (n, value) in numbers.iter().enumerate() {
            if n > 0 {
                text.push(':');
            }
            push_number(text, *value);
        }
        match self {
            Self::Turn { stream, .. } => {
                text.push(':');
                BASE64.encode_append(name::write(stream).as_bytes(), text);
            }
            Self::Message { body, .. } => {
                text.push(':');
                BASE64.encode_append(body, text);
            }
            Self::Entries { .. } | Self::Advanced { .. } | Self::Mail { .. } | Self::Left { .. } => {}
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = (text.chars().next()?, text.get(1..)?);
        let mut parts = rest.split(':');
        let mut next = || parts.next();
        let note = match kind {
            'e' => Self::Entries {
                stream: number(next()?)?,
                epoch: number(next()?)?,
                first: number(next()?)?,
                count: number(next()?)?,
            },
            'a' => Self::Advanced { stream: number(next()?)?, epoch: number(next()?)?, last: number(next()?)? },
            't' => Self::Turn { node: number(next()?)?, stream: name::read(&BASE64.decode(next()?.as_bytes()).ok()?)? },
            'm' => Self::Message { to: number(next()?)?, body: BASE64.decode(next()?.as_bytes()).ok()? },
            'l' => Self::Left { number: number(next()?)? },
            'r' => Self::Mail { to: number(next()?)?, row: number(next()?)?.cast_signed() },
            _ => return None,
        };
        next().is_none().then_some(note)
    }
}

/// Writes notes into as few payloads as they fit. `count` is the number of the node's last payload; a note that fits in
/// none leaves a gap there.
pub(super) fn pack(origin: u64, count: &mut u64, notes: &[Note]) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    let (mut text, mut open) = (String::new(), false);
    for note in notes {
        text.clear();
        text.push(' ');
        note.write(&mut text);
        let fits = payloads.last().is_some_and(|payload| payload.len() + text.len() <= PAYLOAD);
        if !(open && fits) {
            *count += 1;
            let mut payload = String::with_capacity(256);
            push_number(&mut payload, origin);
            payload.push(' ');
            push_number(&mut payload, *count);
            open = payload.len() + text.len() <= PAYLOAD;
            if !open {
                continue;
            }
            payloads.push(payload);
        }
        if let Some(payload) = payloads.last_mut() {
            payload.push_str(&text);
        }
    }
    payloads
}

/// A payload's node, number and notes; `None` for what no version of ours wrote. Notes of later versions are left out.
pub(super) fn unpack(payload: &str) -> Option<(u64, u64, impl Iterator<Item = Note> + '_)> {
    let mut parts = payload.split(' ');
    let (origin, count) = (number(parts.next()?)?, number(parts.next()?)?);
    Some((origin, count, parts.filter_map(Note::read)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Note> {
        vec![
            Note::Entries { stream: u64::MAX, epoch: (1 << 53) - 1, first: 1, count: 35 },
            Note::Advanced { stream: 36, epoch: 0, last: 37 },
            Note::Turn { node: 7, stream: StreamId::state("a: \0é") },
            Note::Message { to: 0, body: vec![0, 255, b':'] },
            Note::Message { to: 0, body: Vec::new() },
            Note::Mail { to: 9, row: i64::MAX },
            Note::Left { number: 3 },
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        let mut count = 41;
        let payloads = pack(u64::MAX, &mut count, &all());
        assert_eq!((payloads.len(), count), (1, 42));
        let (origin, number, notes) = unpack(&payloads[0]).unwrap();
        assert_eq!((origin, number, notes.collect::<Vec<_>>()), (u64::MAX, 42, all()));
        assert!(pack(1, &mut count, &[]).is_empty() && count == 42);
    }

    #[test]
    fn payloads_are_as_long_as_the_server_takes() {
        let message = |length| Note::Message { to: 1, body: vec![7; length] };
        let mut count = 0;
        let many: Vec<Note> = (0..1_000).map(|n| Note::Entries { stream: n, epoch: n, first: n, count: n }).collect();
        let payloads = pack(1, &mut count, &many);
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= PAYLOAD));
        assert_eq!(count, payloads.len() as u64);
        let read: Vec<Note> = payloads.iter().flat_map(|payload| unpack(payload).unwrap().2).collect();
        assert_eq!(read, many, "in order");
        // The longest that fits, one more, and what every message fits into.
        let (mut fitting, mut before) = (0, 0);
        for length in 5_900..5_940 {
            let mut count = 0;
            let packed = pack(1, &mut count, &[message(length)]);
            assert_eq!(count, 1, "a gap is told");
            assert!(packed.len() <= 1 && (packed.len() == 1 || before == fitting || length > fitting));
            if packed.len() == 1 {
                assert!(packed[0].len() <= PAYLOAD);
                fitting = length;
            }
            before = length;
        }
        assert!((5_900..5_939).contains(&fitting), "{fitting}");
        assert_eq!(pack(1, &mut 0, &[message(INLINE), message(INLINE)]).len(), 2);
        let mut count = 0;
        let packed = pack(1, &mut count, &[message(1), message(10_000), message(2)]);
        assert_eq!((packed.len(), count), (2, 3), "what does not fit leaves a gap between");
        assert_eq!(unpack(&packed[1]).unwrap().1, 3);
    }

    #[test]
    fn damaged_payloads_are_nothing() {
        for payload in ["", "x", "1", "1 ", "ä 1", "1 -2", "1 zzzzzzzzzzzzzzz"] {
            assert!(unpack(payload).is_none(), "{payload:?}");
        }
        for note in ["", "e1:2:3", "e1:2:3:4:5", "x1", "é1", "m1", "m1:*", "t1:", "t1:Pw", "r1:zzzzzzzzzzzzzzz"] {
            let payload = format!("1 2 {note} a1:2:3");
            let notes: Vec<Note> = unpack(&payload).unwrap().2.collect();
            assert_eq!(notes, [Note::Advanced { stream: 1, epoch: 2, last: 3 }], "{note:?}");
        }
    }

    #[test]
    fn hashes_are_part_of_the_format() {
        assert_eq!(hash(b's', b"sk"), stream_hash(&StreamId::state("k")));
        assert_ne!(hash(b's', b"x"), hash(b't', b"x"));
        assert_eq!(hash(b's', b""), mix((0xcbf2_9ce4_8422_2325 ^ u64::from(b's')).wrapping_mul(0x0100_0000_01b3)));
    }
}
