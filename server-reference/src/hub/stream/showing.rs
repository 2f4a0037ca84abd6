//! The message that shows a stream's content: made at once where that is quick, else elsewhere.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use datasole_core::Position;
use tokio::{runtime::Handle, time::Instant};

use super::{
    super::{
        kind::{Delivery, V1},
        shown::Shown,
    },
    Inner, Stream,
};
use crate::{
    connection::Protocol,
    desk::OWED,
    mailbox::{Conflate, Messages},
    sync::lock,
};

/// Contents of so many bytes are written out off the async workers.
const DEAR: usize = 64 * 1024;

/// How often such a content is written out without its stream's lock before it is written out under it.
const TRIES: usize = 3;

impl Stream {
    /// The message that shows the content as it is now, or was not before `asked`. What is large and changes all the time is
    /// made once in a moment, for all who ask: the error is the time until then.
    pub(crate) fn whole(&self, asked: Instant) -> Result<Option<Bytes>, Duration> {
        // With the entries since it would be no whole.
        let is_over = |shown: &mut Box<Shown>| shown.rest().is_some_and(|rest| rest.is_zero());
        let over = |inner: &mut Inner| {
            inner.followers.as_deref_mut().and_then(|followers| followers.shown[0].take_if(is_over))
        };
        drop(over(&mut lock(&self.inner)));
        self.prepare(Protocol::V2);
        let mut inner = lock(&self.inner);
        drop(over(&mut inner));
        let shown = self.shown(&mut inner, Protocol::V2);
        Ok(shown.map(|shown| shown.since(asked)).transpose()?.flatten().cloned())
    }

    /// Whether clients of this version are shown the whole after each change.
    fn is_whole(&self, protocol: Protocol) -> bool {
        protocol == Protocol::V1 && self.common.rules.v1 == V1::Whole
    }

    /// Where the message is that shows the content to clients of this version.
    fn slot(&self, protocol: Protocol) -> usize {
        usize::from(self.is_whole(protocol))
    }

    /// The bytes that have to be written out to show the content.
    fn cost(&self, inner: &Inner, protocol: Protocol) -> usize {
        let shown = inner.followers.as_deref().and_then(|followers| followers.shown[self.slot(protocol)].as_deref());
        if shown.is_some_and(Shown::is_fresh) { 0 } else { inner.content.weight() }
    }

    /// Whether showing the content takes so long that it is done off the async workers.
    pub(super) fn is_dear(&self, inner: &Inner, protocol: Protocol) -> bool {
        self.cost(inner, protocol) >= DEAR && Handle::try_current().is_ok()
    }

    /// Takes room for showing the content at once; `false` if there is none.
    pub(super) fn fits(&self, inner: &Inner, protocol: Protocol, room: &mut usize) -> bool {
        let cost = self.cost(inner, protocol);
        let fits = cost == 0 || *room > 0 && !self.is_dear(inner, protocol);
        if fits {
            *room = room.saturating_sub(cost);
        }
        fits
    }

    pub(super) fn shown<'a>(&self, inner: &'a mut Inner, protocol: Protocol) -> Option<&'a Shown> {
        let slot = self.slot(protocol);
        inner.followers_mut().shown[slot].take_if(|shown| !shown.is_fresh());
        if inner.followers_mut().shown[slot].is_none() {
            let show = inner.content.show(protocol)?;
            let (message, bytes) = show(&self.at(inner.mark.position));
            let mut shown = self.begin(inner, protocol);
            shown.finish(message);
            inner.followers_mut().shown[slot] = Some(shown);
            inner.weighs(inner.mark, Some(bytes));
        }
        let shown = inner.followers_mut().shown[slot].as_deref_mut()?;
        shown.hand_out();
        Some(shown)
    }

    /// The message that shows the content, yet to be made.
    fn begin(&self, inner: &Inner, protocol: Protocol) -> Box<Shown> {
        let most = (!self.is_whole(protocol)).then_some(self.common.max_since);
        Box::new(Shown::begin(inner.content.weight(), most))
    }

    /// The bytes that have to be written out to show the content to who has it up to `since`, where they are so many that it
    /// should be [prepared](Self::prepare) off the async workers; else 0.
    pub(crate) fn dear(&self, protocol: Protocol, since: Option<Position>) -> usize {
        if self.common.rules.delivery != Delivery::Conflated {
            return 0;
        }
        let mut inner = lock(&self.inner);
        if since.is_some_and(|since| inner.missed(inner.born(since, self.common.rules.stored)).is_some()) {
            return 0;
        }
        self.outdate(&mut inner, protocol, since);
        Some(self.cost(&inner, protocol)).filter(|&cost| cost >= DEAR).unwrap_or_default()
    }

    /// Drops the message that shows the content where it is from before `since`: nobody is shown what they are past.
    pub(super) fn outdate(&self, inner: &mut Inner, protocol: Protocol, since: Option<Position>) {
        let Position { epoch, seq } = inner.mark.position;
        let Some(since) = since.filter(|since| since.epoch == epoch && since.seq <= seq) else { return };
        let Some(followers) = &mut inner.followers else { return };
        let shown = &mut followers.shown[self.slot(protocol)];
        shown.take_if(|shown| seq - (shown.behind() as u64) < since.seq);
    }

    /// Makes the message that shows the content, for those who come next: of a copy, so that nobody waits for the lock.
    pub(crate) fn prepare(&self, protocol: Protocol) {
        let slot = self.slot(protocol);
        let _one = lock(&self.showing);
        let (mark, show) = {
            let mut inner = lock(&self.inner);
            if self.cost(&inner, protocol) == 0 {
                return;
            }
            let Some(show) = inner.content.show(protocol) else { return };
            let begun = self.begin(&inner, protocol);
            inner.followers_mut().shown[slot] = Some(begun);
            (inner.mark, show)
        };
        let made = catch_unwind(AssertUnwindSafe(|| show(&self.at(mark.position))));
        let mut inner = lock(&self.inner);
        // Too much has come since, or somebody could not wait, where it is not there.
        let begun = inner.followers_mut().shown[slot].take_if(|shown| !shown.is_made());
        match made {
            Ok((message, bytes)) => {
                inner.weighs(mark, Some(bytes));
                if let Some(mut shown) = begun {
                    shown.finish(message);
                    inner.followers_mut().shown[slot] = Some(shown);
                }
            }
            Err(panic) => {
                drop(inner);
                resume_unwind(panic);
            }
        }
    }

    /// Hands the content to the followers that await it; where it cannot be written out, they are closed.
    fn deliver(self: &Arc<Self>, protocol: Protocol) {
        let (mut inner, slot) = (lock(&self.inner), self.slot(protocol));
        inner.followers_mut().awaited[slot] = false;
        // On the way out of a panic another one would end the process.
        let made = catch_unwind(AssertUnwindSafe(|| self.shown(&mut inner, protocol).is_some())).is_ok();
        if !made {
            tracing::error!(
                key = self.id.key,
                "the content could not be written out: those who wait for it are closed"
            );
        }
        let shown = inner.followers.as_deref().and_then(|followers| followers.shown[slot].as_deref());
        for follower in inner.followers().iter().filter(|follower| self.slot(follower.protocol()) == slot) {
            let messages: Messages<'_, '_> = &mut shown.into_iter().flat_map(Shown::messages);
            follower.mailbox().deliver(self, made.then_some(messages));
        }
    }
}

/// The order to make the message that shows a large content. When it ends, however it does, those who wait get it,
/// or are closed.
struct Order {
    stream: Arc<Stream>,
    protocol: Protocol,
}

impl Order {
    fn make(&self) {
        // What is overtaken by too much meanwhile is of no use.
        for _ in 0..TRIES {
            self.stream.prepare(self.protocol);
            if self.stream.cost(&lock(&self.stream.inner), self.protocol) == 0 {
                break;
            }
        }
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.stream.deliver(self.protocol);
    }
}

impl Conflate for Stream {
    fn with_snapshot(
        self: Arc<Self>,
        protocol: Protocol,
        f: &mut dyn FnMut(Option<Messages<'_, '_>>) -> bool,
    ) -> usize {
        let mut inner = lock(&self.inner);
        if protocol == Protocol::V1 {
            self.tell_too_long(&mut inner);
        }
        let cost = self.cost(&inner, protocol);
        let runtime = if cost >= DEAR { Handle::try_current().ok() } else { None };
        let Some(runtime) = runtime else {
            let shown = self.shown(&mut inner, protocol);
            f(Some(&mut shown.into_iter().flat_map(Shown::messages)));
            return cost;
        };
        let orders = f(None) && !std::mem::replace(&mut inner.followers_mut().awaited[self.slot(protocol)], true);
        drop(inner);
        if orders {
            let (desk, order) = (self.common.desk.clone(), Order { stream: self, protocol });
            runtime.spawn(async move { desk.run(OWED, move || order.make()).await });
        }
        0
    }
}
