//! The followers of a stream: joining them, leaving them, and what shows them the content.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use datasole_core::{Position, frame::Opcode, wire::Subscribed};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{
    super::{
        kind::{Delivery, V1},
        shown::{MOMENT, Shown},
    },
    Inner, Stream,
};
use crate::{
    answer::V1_PAYLOAD,
    connection::{Connection, Protocol},
    message,
    sync::lock,
};

impl Stream {
    /// Whether version 1 followers of a large content that changes all the time are shown the whole in a moment.
    pub(super) fn is_later(self: &Arc<Self>, inner: &mut Inner) -> bool {
        let shown = inner.followers.as_deref().and_then(|followers| followers.shown[1].as_deref());
        let Some(rest) = shown.and_then(Shown::rest) else { return false };
        if inner.is_due() || self.come_due(inner, rest) {
            return true;
        }
        inner.followers_mut().shown[1] = None;
        false
    }

    /// Comes back to the followers in a moment; `false` where nobody would.
    pub(super) fn come_due(self: &Arc<Self>, inner: &mut Inner, rest: Duration) -> bool {
        let Ok(runtime) = Handle::try_current() else { return false };
        inner.followers_mut().due = Some(Instant::now() + rest);
        let stream = Arc::downgrade(self);
        runtime.spawn(async move {
            sleep(rest).await;
            if let Some(stream) = stream.upgrade() {
                stream.show_due();
            }
        });
        true
    }

    /// Shows the whole, as it is now, to the version 1 followers that wait for it, and tells the changes that were gathered.
    fn show_due(self: &Arc<Self>) {
        let mut inner = lock(&self.inner);
        let mut is_begun = false;
        if let Some(followers) = &mut inner.followers {
            followers.due = None;
            is_begun = followers.shown[1].as_ref().is_some_and(|whole| !whole.is_made());
            if self.common.rules.v1 == V1::Whole && !is_begun {
                followers.shown[1].take_if(|whole| whole.rest().is_some());
                for connection in followers.as_slice().iter().filter(|follower| follower.protocol() == Protocol::V1) {
                    connection.mailbox().owe(self);
                }
            }
        }
        if is_begun {
            // They are going to be handed what they have to be shown more than.
            self.come_due(&mut inner, MOMENT);
        }
        self.tell_news(&mut inner);
    }

    /// Joins `connection` and queues, in this order: SUBSCRIBED (with `correlation`), what was missed or a snapshot. Once
    /// there is no `room` for bytes of snapshots that have to be written out, the snapshot is owed.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        correlation: u32,
        since: Option<Position>,
        now: u64,
        room: &mut usize,
    ) {
        let mut inner = lock(&self.inner);
        inner.window.expire(now, &self.common.rules.replay);
        let is_content = self.common.rules.stored && self.common.rules.delivery == Delivery::Conflated;
        let resumed = since.filter(|_| self.common.rules.delivery != Delivery::Others);
        let resumed = resumed.map(|since| inner.born(since, is_content));
        let missed = resumed.and_then(|since| inner.missed(since));
        if missed.is_none() {
            self.outdate(&mut inner, connection.protocol(), resumed);
        }
        let owed = missed.is_none() && !self.fits(&inner, connection.protocol(), room);
        let from = if missed.is_some() {
            resumed.unwrap_or_default()
        } else if owed {
            inner.mark.position
        } else {
            let behind = self.shown(&mut inner, connection.protocol()).map_or(0, Shown::behind);
            let Position { epoch, seq } = inner.mark.position;
            Position { epoch, seq: seq - behind as u64 }
        };
        let is_told = self.common.rules.delivery == Delivery::Others
            || connection.mailbox().is_short() && from.epoch == inner.numbered && self.is_numbered(&inner);
        let channel = Some(self.channel).filter(|&channel| is_told && channel != 0);
        let answer = Subscribed { epoch: from.epoch, seq: from.seq, recovered: missed.is_some(), channel };
        let mailbox = connection.mailbox();
        mailbox.push(message::shared(
            Opcode::Subscribed,
            correlation,
            &message::json(&answer),
            self.common.compress_above,
        ));
        if let Some(missed) = missed {
            for message in self.newest(&mut inner, missed) {
                match self.common.rules.delivery {
                    Delivery::Each => mailbox.push_missed(message.clone()),
                    Delivery::Conflated | Delivery::Others => mailbox.push_entry(message.clone(), self),
                }
            }
        } else if owed {
            mailbox.owe(self);
        } else if let Some(shown) = self.shown(&mut inner, connection.protocol()) {
            shown.messages().for_each(|message| mailbox.push_entry(message.clone(), self));
        }
        for message in inner.content.greeting(&self.at(inner.mark.position)) {
            mailbox.push_answer(message);
        }
        self.join(&mut inner, connection);
    }

    /// Joins a version 1 client, which gets the content, if there is any, and then every change. `room` is as in
    /// [`subscribe`](Self::subscribe).
    pub(crate) fn subscribe_v1(self: &Arc<Self>, connection: &Arc<Connection>, room: &mut usize) {
        let mut inner = lock(&self.inner);
        if !self.join(&mut inner, connection) || inner.content.is_gone() {
            return;
        }
        self.tell_too_long(&mut inner);
        if !self.fits(&inner, Protocol::V1, room) {
            connection.mailbox().owe(self);
        } else if let Some(shown) = self.shown(&mut inner, Protocol::V1) {
            shown.messages().for_each(|message| connection.mailbox().push_entry(message.clone(), self));
        }
    }

    /// `false` where it follows already.
    fn join(&self, inner: &mut Inner, connection: &Arc<Connection>) -> bool {
        if self.common.rules.evictable && inner.followers().is_empty() {
            self.common.needed.fetch_add(1, Ordering::Relaxed);
        }
        inner.followers_mut().members.insert(connection)
    }

    /// Says in the log, once, that version 1 clients do not take the content.
    pub(super) fn tell_too_long(&self, inner: &mut Inner) {
        let bytes = inner.content.weight();
        if bytes > V1_PAYLOAD && !inner.is_told {
            inner.is_told = true;
            let key = &self.id.key;
            tracing::warn!(
                key,
                bytes,
                "too long for clients of version 1, which are not shown more than {V1_PAYLOAD} bytes"
            );
        }
    }

    /// Ends what [`subscribe`](Self::subscribe) began; whether that was more to the other followers than one less.
    pub(in crate::hub) fn unsubscribe(self: &Arc<Self>, connection: &Connection) -> bool {
        let mut inner = lock(&self.inner);
        let inner = &mut *inner;
        if inner.followers.as_deref_mut().is_some_and(|followers| followers.members.remove(connection)) {
            connection.mailbox().forgive(self);
            if self.common.rules.evictable && inner.followers().is_empty() {
                self.common.needed.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let message = inner.content.leave(connection.serial(), &self.at(inner.mark.position));
        if let Some(message) = &message {
            inner.followers().iter().for_each(|follower| follower.mailbox().push(message.clone()));
        }
        message.is_some()
    }
}

impl Inner {
    /// Whether followers are going to be shown something. What is overdue never comes where its runtime has ended.
    pub(super) fn is_due(&self) -> bool {
        self.followers.as_deref().and_then(|followers| followers.due).is_some_and(|due| Instant::now() < due)
    }
}
