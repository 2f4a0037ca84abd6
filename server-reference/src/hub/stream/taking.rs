//! How entries come into a stream: what others have appended, what was appended here, and what no backend keeps.

use std::sync::Arc;

use datasole_core::Position;

use super::{
    super::{
        forms::Forms,
        kind::{Delivery, Displaced, Inapplicable, Kind, V1},
        ready::{Made, Needed, Next, Ready},
    },
    Followers, Inner, Stream,
};
use crate::{
    answer::Author,
    backend::log::{self, Mark, Tag},
    connection::{Connection, Protocol},
    entry::Entry,
    sync::lock,
};

/// Work that is left once entries have come, to be done without the lock.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// To be dropped.
    pub(crate) displaced: Vec<Displaced>,
    /// Whether the content is to be [measured](Stream::measure).
    pub(crate) unmeasured: bool,
}

impl Stream {
    /// Takes what the backend has answered to an append after `after`: it holds `between`, then `own`, at `mark`. They
    /// are applied and handed to the followers, to version 1 clients `v1` and, as an acknowledgement, to the author.
    pub(crate) fn publish(
        self: &Arc<Self>,
        (after, between): (Position, impl Iterator<Item = Next>),
        (own, mark): (Ready, Mark),
        (now, v1): (u64, &[Arc<Connection>]),
        author: Option<&Author>,
        rest: &mut Rest,
    ) -> Result<(), Inapplicable> {
        let mut inner = lock(&self.inner);
        self.take(&mut inner, (after, between), (now, v1), rest)?;
        let next = Position { seq: inner.mark.position.seq + 1, ..inner.mark.position };
        if mark.position == next {
            rest.displaced.extend(inner.content.apply(&own.entry, own.read)?);
            self.push(&mut inner, (&own.entry, own.made), mark.tag, (now, v1), author);
            Ok(())
        } else if mark.position.epoch == next.epoch && mark.position.seq < next.seq {
            // It has come from the log meanwhile.
            if let Some(author) = author {
                author.connection.acknowledge(author.correlation, mark.position.seq);
            }
            Ok(())
        } else {
            Err(Inapplicable)
        }
    }

    /// Publishes an entry that `plan` makes of the content, for what no backend keeps.
    pub(crate) fn publish_planned<E>(
        self: &Arc<Self>,
        now: u64,
        v1: &[Arc<Connection>],
        plan: impl FnOnce(&mut dyn Kind) -> Result<Entry, E>,
    ) -> Result<Option<Position>, E> {
        let mut inner = lock(&self.inner);
        let entry = plan(&mut *inner.content)?;
        if inner.content.apply(&entry, None).is_err() {
            return Ok(None);
        }
        Ok(Some(self.push(&mut inner, (&entry, Made::default()), Tag::default(), (now, v1), None)))
    }

    pub(super) fn push(
        self: &Arc<Self>,
        inner: &mut Inner,
        (entry, made): (&Entry, Made),
        tag: Tag,
        (now, v1): (u64, &[Arc<Connection>]),
        author: Option<&Author>,
    ) -> Position {
        inner.mark.position.seq += 1;
        inner.mark.tag = tag;
        let at = self.at(inner.mark.position);
        let form = self.common.form;
        let is_read = !inner.followers().is_empty() || !v1.is_empty();
        let mut long = made.long;
        if is_read || inner.followers.as_deref().is_some_and(Followers::are_shown) {
            let message = long.get_or_insert_with(|| form.message(entry, &at));
            if let Some(followers) = &mut inner.followers {
                followers.overtake(message);
            }
        }
        // A message without readers is not made to be shared.
        let kept = if is_read { long.clone() } else { long.take() };
        self.common.keep(&mut inner.window, entry, (&at, kept), now);
        let is_later = self.common.rules.v1 == V1::Whole && self.is_later(inner);
        let mut forms = Forms::new(form, entry, at, Made { long, ..made }, self.is_numbered(inner));
        match self.common.rules.delivery {
            Delivery::Each => {
                let v1 = if !v1.is_empty() && form.is_v1(entry) { v1 } else { &[] };
                for connection in inner.followers().iter().chain(v1) {
                    connection.mailbox().push(forms.of(connection));
                }
            }
            Delivery::Conflated => {
                for connection in inner.followers() {
                    match (self.common.rules.v1, connection.protocol()) {
                        (V1::Whole, Protocol::V1) if is_later => {}
                        (V1::Whole, Protocol::V1) => connection.mailbox().owe(self),
                        _ => connection.mailbox().push_entry(forms.of(connection), self),
                    }
                }
            }
            Delivery::Others => {
                let author = author.map(|author| author.connection.serial());
                for connection in inner.followers().iter().filter(|follower| Some(follower.serial()) != author) {
                    connection.mailbox().push(forms.long());
                }
            }
        }
        if let Some(author) = author {
            author.connection.acknowledge(author.correlation, inner.mark.position.seq);
        }
        inner.mark.position
    }

    /// Takes entries that others have appended right behind `after`, and hands them to the followers. Those that are here
    /// already are passed over. An entry takes effect only as the one after what is here, told by its tag too.
    pub(crate) fn accept(
        self: &Arc<Self>,
        entries: (Position, impl Iterator<Item = Next>),
        to: (u64, &[Arc<Connection>]),
        rest: &mut Rest,
    ) -> Result<(), Inapplicable> {
        self.take(&mut lock(&self.inner), entries, to, rest)
    }

    fn take(
        self: &Arc<Self>,
        inner: &mut Inner,
        (after, entries): (Position, impl Iterator<Item = Next>),
        (now, v1): (u64, &[Arc<Connection>]),
        rest: &mut Rest,
    ) -> Result<(), Inapplicable> {
        for (seq, next) in (after.seq + 1..).zip(entries) {
            let here = inner.mark.position;
            if here.epoch != after.epoch || seq > here.seq + 1 {
                return Err(Inapplicable);
            }
            if seq <= here.seq {
                continue;
            }
            if next.prev != inner.mark.tag.hash() {
                return Err(Inapplicable);
            }
            let tag = next.tag;
            let Ready { entry, read, made } = next.ready(self.common.form)?;
            rest.displaced.extend(inner.content.apply(&entry, read)?);
            let time = self.common.form.time(&entry).unwrap_or(now);
            // Who has written it lets the backend forget.
            rest.unmeasured |= inner.held.note(entry.bytes().len(), &self.common.rules.compaction);
            self.push(inner, (&entry, made), tag, (time, v1), None);
        }
        Ok(())
    }

    /// Makes entries ready that others have appended right behind `after`.
    pub(crate) fn prepare_next(&self, after: Position, entries: &[log::Entry]) -> Vec<Next> {
        let (needed, here) = (self.needed(after.epoch), self.position());
        let prepare = |(seq, entry): (u64, &log::Entry)| {
            let mut next = Next::from(entry);
            if here.epoch == after.epoch && here.seq < seq {
                next.prepare(self.common.form, &self.at(Position { seq, ..after }), needed);
            }
            next
        };
        (after.seq + 1..).zip(entries).map(prepare).collect()
    }

    /// Makes an entry ready that was appended here.
    pub(crate) fn prepare_own(&self, own: &mut Ready, at: Position) {
        own.make(self.common.form, &self.at(at), self.needed(at.epoch));
    }

    /// Which messages of entries of this life somebody needs, as far as is known before they come.
    fn needed(&self, epoch: u64) -> Needed {
        let inner = lock(&self.inner);
        let short = |follower: &Arc<Connection>| follower.mailbox().is_short();
        Needed {
            long: !inner.followers().is_empty() || inner.followers.as_deref().is_some_and(Followers::are_shown),
            kept: self.common.rules.replay.entries > 0,
            short: self.channel != 0 && inner.numbered == epoch && inner.followers().iter().any(short),
        }
    }
}
