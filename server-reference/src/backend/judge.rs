//! The decision about an append, the same for every engine that decides in this process.

use bytes::Bytes;

use super::{
    error::BackendError,
    log::{Append, Appended, Entry, MAX_MISSED, Mark, Rule, Tag},
};

/// The part of an append that is decided on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) after: Mark,
    pub(super) rule: Rule,
    pub(super) tag: Tag,
}

/// The decision about an append.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Begin the stream's life and append.
    Create,
    /// Append, and answer with these entries in between.
    Append(Vec<Entry>),
    /// Append nothing, and answer this.
    Answer(Appended),
}

impl Claim {
    /// Checks what every engine refuses, and takes out the claim.
    pub(super) fn of(append: &Append<'_>) -> Result<Self, BackendError> {
        if append.entries.is_empty() {
            return Err(BackendError::Invalid("an append without entries".into()));
        }
        if append.tag == Tag::default() {
            return Err(BackendError::Invalid("an append without a tag".into()));
        }
        Ok(Self { after: append.after, rule: append.rule, tag: append.tag })
    }

    /// Decides on a stream that is at `head`. `read(seq)` yields the kept entries after `seq`; some may be forgotten.
    pub(super) fn judge<E>(
        self,
        head: Option<Mark>,
        floor: u64,
        read: impl FnOnce(u64) -> Result<Vec<Entry>, E>,
    ) -> Result<Verdict, E> {
        let Self { after, rule, tag } = self;
        let is_birth = after.position.seq == 0;
        let Some(head) = head else {
            // A late copy of what created an earlier life must not create another.
            let is_new = is_birth && after.position.epoch > floor;
            return Ok(if is_new { Verdict::Create } else { conflict(Mark::birth(floor), None) });
        };
        if head == after {
            return Ok(Verdict::Append(Vec::new()));
        }
        let is_same_life = head.position.epoch == after.position.epoch;
        let missed = head.position.seq.checked_sub(after.position.seq).filter(|missed| *missed > 0);
        let Some(missed) = missed.filter(|_| is_same_life || is_birth) else {
            return Ok(conflict(head, None));
        };
        let entries = read(after.position.seq)?;
        let fits =
            entries.len() as u64 == missed && entries.first().is_some_and(|entry| entry.prev == after.tag.hash());
        if !fits {
            return Ok(conflict(head, None));
        }
        if let Some(first) = entries.iter().position(|entry| entry.tag == tag) {
            return Ok(Verdict::Answer(repeat(head, entries, first, tag)));
        }
        Ok(match rule {
            _ if !is_same_life => conflict(head, None),
            Rule::Behind => Verdict::Append(entries),
            Rule::Exactly => {
                let size: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
                conflict(head, (size <= MAX_MISSED).then_some(entries))
            }
        })
    }
}

fn conflict(mark: Mark, missed: Option<Vec<Entry>>) -> Verdict {
    Verdict::Answer(Appended::Conflict { mark, missed })
}

/// The answer to the first copy of an append whose entries begin at index `first` of those up to `head`.
fn repeat(head: Mark, mut entries: Vec<Entry>, first: usize, tag: Tag) -> Appended {
    let own = entries.iter().skip(first).take_while(|entry| entry.tag == tag).count();
    let later = (entries.len() - first - own) as u64;
    entries.truncate(first);
    let mut position = head.position;
    position.seq -= later;
    Appended::At { between: entries, mark: Mark { position, tag } }
}

/// The entries of an append, as they follow the entry with the tag `before`.
pub(super) fn chain(before: Tag, tag: Tag, entries: &[Bytes]) -> impl Iterator<Item = Entry> + '_ {
    let prevs = std::iter::once(before.hash()).chain(std::iter::repeat(tag.hash()));
    entries.iter().zip(prevs).map(move |(bytes, prev)| Entry { tag, prev, bytes: bytes.clone() })
}

/// Whether the kept entries `after` follow `since` without a gap, up to `head`.
pub(super) fn follows(head: Mark, since: Mark, after: &[Entry]) -> bool {
    let Some(missed) = head.position.seq.checked_sub(since.position.seq) else { return false };
    head.position.epoch == since.position.epoch
        && after.len() as u64 == missed
        && after.first().map_or(head.tag == since.tag, |entry| entry.prev == since.tag.hash())
}
