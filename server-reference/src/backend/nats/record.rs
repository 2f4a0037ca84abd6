//! What a message of the log, and a record beside it, holds: numbers of eight bytes, big end first, then bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::backend::log::{Entry, Tag};

/// A message on a stream's subject: an append, or the end of a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Append(Batch),
    /// The stream was removed. New lives begin above `floor`.
    End {
        floor: u64,
    },
}

/// An append, all or none: one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// The link of the author.
    pub(super) origin: u64,
    pub(super) epoch: u64,
    /// The generation in which it was appended: the epoch that all lives are above.
    pub(super) generation: u64,
    /// The epoch with which the life began. Generations do not change it.
    pub(super) birth: u64,
    /// The end of the life, in the engine's milliseconds; 0 for none.
    pub(super) ends: u64,
    /// The `seq` of the first of `entries`.
    pub(super) first: u64,
    /// How many of the entries are new: those before them repeat messages that this one replaced.
    pub(super) fresh: u64,
    pub(super) entries: Vec<Entry>,
}

impl Batch {
    pub(super) fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// The tag of the last entry. There is one: [`Record::read`] refuses what has none.
    pub(super) fn tag(&self) -> Tag {
        self.entries.last().map(|entry| entry.tag).unwrap_or_default()
    }

    pub(super) fn write(&self) -> Bytes {
        let size = self.entries.iter().map(|entry| entry.bytes.len() + 28).sum::<usize>();
        let mut to = BytesMut::with_capacity(size + 57);
        to.put_u8(b'E');
        for number in [self.origin, self.epoch, self.generation, self.birth, self.ends, self.first, self.fresh] {
            to.put_u64(number);
        }
        for entry in &self.entries {
            to.put_u64(entry.tag.node);
            to.put_u64(entry.tag.count);
            to.put_u64(entry.prev);
            // An engine accepts no message of 4 GiB.
            to.put_u32(u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX));
            to.put_slice(&entry.bytes);
        }
        to.freeze()
    }
}

impl Record {
    pub(super) fn end(floor: u64) -> Bytes {
        let mut to = BytesMut::with_capacity(9);
        to.put_u8(b'X');
        to.put_u64(floor);
        to.freeze()
    }

    pub(super) fn read(mut from: Bytes) -> Option<Self> {
        match take(&mut from, 1)?.first()? {
            b'X' => Some(Self::End { floor: take_u64(&mut from)? }),
            b'E' => {
                let mut next = || take_u64(&mut from);
                let (origin, epoch, generation, birth) = (next()?, next()?, next()?, next()?);
                let (ends, first, fresh) = (next()?, next()?, next()?);
                let mut entries = Vec::new();
                while !from.is_empty() {
                    let tag = Tag { node: take_u64(&mut from)?, count: take_u64(&mut from)? };
                    let prev = take_u64(&mut from)?;
                    let length = u32::from_be_bytes(take(&mut from, 4)?.as_ref().try_into().ok()?);
                    let bytes = own(take(&mut from, usize::try_from(length).ok()?)?);
                    entries.push(Entry { tag, prev, bytes });
                }
                let is_whole = first > 0 && (1..=entries.len() as u64).contains(&fresh);
                is_whole.then_some(Self::Append(Batch {
                    origin,
                    epoch,
                    generation,
                    birth,
                    ends,
                    first,
                    fresh,
                    entries,
                }))
            }
            _ => None,
        }
    }
}

fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (from.len() >= length).then(|| from.split_to(length))
}

/// Longer bytes are not copied.
const SHORT: usize = 4 * 1024;

/// Bytes that are kept: short ones would keep the buffer of the connection that they came in.
fn own(bytes: Bytes) -> Bytes {
    if bytes.len() > SHORT { bytes } else { Bytes::copy_from_slice(&bytes) }
}

pub(super) fn take_u64(from: &mut Bytes) -> Option<u64> {
    take(from, 8)?.as_ref().try_into().map(u64::from_be_bytes).ok()
}

/// Numbers, then bytes.
pub(super) fn join<const N: usize>(numbers: [u64; N], rest: &[u8]) -> Bytes {
    let mut to = BytesMut::with_capacity(N * 8 + rest.len());
    numbers.into_iter().for_each(|number| to.put_u64(number));
    to.put_slice(rest);
    to.freeze()
}

/// What [`join`] has put together.
pub(super) fn split<const N: usize>(mut from: Bytes) -> Option<([u64; N], Bytes)> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = take_u64(&mut from)?;
    }
    Some((numbers, from))
}

/// A snapshot as it is kept beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The life's first epoch.
    pub(super) birth: u64,
    pub(super) seq: u64,
    /// The tag of the entry at `seq`.
    pub(super) tag: Tag,
    /// Entries up to this `seq` are forgotten, though a message that holds later ones too may still have them.
    pub(super) forgotten: u64,
    /// Names its parts.
    pub(super) number: u64,
    /// The size of all parts together; 0 where `bytes` is all.
    pub(super) parts: u64,
    pub(super) bytes: Bytes,
}

impl Kept {
    pub(super) fn write(&self) -> Bytes {
        let Self { birth, seq, tag, forgotten, number, parts, bytes } = self;
        join([*birth, *seq, tag.node, tag.count, *forgotten, *number, *parts], bytes)
    }

    pub(super) fn read(from: Bytes) -> Option<Self> {
        let ([birth, seq, node, count, forgotten, number, parts], bytes) = split(from)?;
        Some(Self { birth, seq, tag: Tag { node, count }, forgotten, number, parts, bytes: own(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let entry = |count, bytes| Entry { tag: Tag { node: 1, count }, prev: count, bytes: Bytes::from_static(bytes) };
        let entries = vec![entry(1, b"first"), entry(2, b""), entry(2, b"\0")];
        Batch { origin: 9, epoch: 8, generation: 7, birth: 6, ends: 5, first: 4, fresh: 2, entries }
    }

    #[test]
    fn records_come_back() {
        assert_eq!(Record::read(batch().write()), Some(Record::Append(batch())));
        assert_eq!((batch().last(), batch().tag()), (6, Tag { node: 1, count: 2 }));
        assert_eq!(Record::read(Record::end(3)), Some(Record::End { floor: 3 }));
        let tag = Tag { node: 1, count: 2 };
        let kept = Kept { birth: 1, seq: 2, tag, forgotten: 3, number: 4, parts: 5, bytes: Bytes::from_static(b"x") };
        assert_eq!(Kept::read(kept.write()), Some(kept));
    }

    #[test]
    fn damaged_records_are_nothing() {
        let good = batch().write();
        for end in 0..good.len() {
            let read = Record::read(good.slice(..end));
            let is_shorter = matches!(&read, Some(Record::Append(read)) if read.entries.len() < 3);
            assert!(read.is_none() || is_shorter, "{end}");
        }
        for fresh in [0, 4] {
            assert_eq!(Record::read(Batch { fresh, ..batch() }.write()), None, "{fresh} of 3 are new");
        }
        assert_eq!(Record::read(Batch { first: 0, ..batch() }.write()), None);
        assert_eq!(Record::read(Bytes::from_static(b"?")), None);
        assert_eq!(Kept::read(Bytes::from_static(&[0; 55])), None);
    }
}
