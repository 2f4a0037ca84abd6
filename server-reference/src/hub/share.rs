//! Writing what the connections of this node share, and telling it to the nodes where somebody follows the stream.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    Hub,
    letter::{Letter, To},
    roster::{Held, Shares},
    seat::Name,
    sharing::{AT_ONCE, Doubt, Due, all, share_prefix, share_topic, topics_of},
    stream::Stream,
};
use crate::{
    backend::{
        BackendError,
        bus::{Address, NodeId},
    },
    connection::Connection,
    sync::lock,
};

/// Topics that are compared at one look at the lease.
const COMPARED: usize = 512;
/// Bytes of shares in a letter, before another begins.
const LETTER: usize = 64 * 1024;

impl Hub {
    /// Whether there is somebody to share with: whether other nodes are, or have been, there. Cheap.
    pub(super) fn is_sharing(&self) -> bool {
        let sharing = &self.sharing;
        if sharing.active.load(Ordering::SeqCst) {
            return !sharing.departed.load(Ordering::SeqCst);
        }
        if !self.has_others() || !self.listen_to_nodes() {
            return false;
        }
        if !sharing.active.swap(true, Ordering::SeqCst) {
            sharing.wake.notify_one();
        }
        true
    }

    /// The incarnation of this node.
    pub(super) fn name(&self) -> Name {
        let NodeId(node) = self.relaying.node;
        Name { node, incarnation: self.sharing.incarnation.load(Ordering::SeqCst) }
    }

    /// Takes note that what connections of this node share on a stream is another thing, or nothing any more.
    pub(crate) fn share(&self, stream: &Arc<Stream>, serials: impl IntoIterator<Item = u64>) {
        if self.is_sharing() && share_prefix(stream.id().kind).is_some() {
            self.note_shares(stream, serials);
            self.sharing.bell.notify_one();
        }
    }

    /// Ends that a connection of this node follows a stream, and what it shares there with that.
    pub(crate) fn unsubscribe(&self, stream: &Arc<Stream>, connection: &Connection) {
        if stream.unsubscribe(connection) {
            self.share(stream, [connection.serial()]);
        }
    }

    fn note_shares(&self, stream: &Arc<Stream>, serials: impl IntoIterator<Item = u64>) {
        let Some(topic) = share_topic(stream.id()) else { return };
        let mut own = lock(&self.sharing.own);
        let own = own.entry(topic).or_default();
        own.stream = Arc::downgrade(stream);
        own.changed.extend(serials);
    }

    /// Begins with the shares of all that is in memory, as an incarnation does.
    pub(super) fn share_everything(&self) {
        lock(&self.sharing.own).clear();
        for stream in self.shared_streams() {
            let sharers = stream.with_content(|content| content.sharers());
            if !sharers.is_empty() {
                self.note_shares(&stream, sharers);
            }
        }
        self.sharing.bell.notify_one();
    }

    /// Writes the shares that have changed, and tells them; `false` if something has to be done again.
    pub(super) async fn write_shares(&self) -> bool {
        let _turn = self.sharing.turn.lock().await;
        if !self.sharing.registered.load(Ordering::SeqCst) {
            return true;
        }
        let name = self.name();
        let due: Vec<Due> = {
            let mut own = lock(&self.sharing.own);
            let due = own.iter_mut().filter_map(|(topic, own)| own.due(topic)).collect();
            own.retain(|_, own| !own.written.is_empty());
            due
        };
        let writing: Vec<_> = due.into_iter().map(|due| self.write(name, due)).collect();
        all(writing).await
    }

    async fn write(&self, name: Name, due: Due) -> bool {
        let mut latest = due.after;
        let written = self.write_fields(name, &due, &mut latest).await;
        let mut all = lock(&self.sharing.own);
        let Some(own) = all.get_mut(&due.topic) else { return true };
        own.latest = latest;
        match written {
            Ok(()) => {
                due.shares.iter().filter(|(_, share)| share.is_none()).for_each(|(serial, _)| {
                    own.written.remove(serial);
                });
                if own.written.is_empty() && own.changed.is_empty() {
                    all.remove(&due.topic);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, topic = &*due.topic, "other servers do not learn yet who is here");
                own.changed.extend(due.shares.iter().map(|(serial, _)| serial));
                let doubt = Doubt::new(self.sharing.ticks.load(Ordering::SeqCst));
                lock(&self.sharing.doubtful).insert(due.topic, doubt);
                false
            }
        }
    }

    /// Compares what is written with what is shared, where a write was not answered: the engine may carry it out after
    /// later ones, and a connection that has gone would be shown for ever. So many topics are read, at most.
    pub(super) async fn compare_doubtful(&self, now: u64) {
        let mut due: Vec<_> = lock(&self.sharing.doubtful)
            .iter()
            .filter(|(_, doubt)| doubt.due <= now)
            .map(|(topic, doubt)| (topic.clone(), *doubt))
            .collect();
        due.sort_by_key(|(_, doubt)| doubt.due);
        due.truncate(COMPARED);
        for some in due.chunks(AT_ONCE) {
            let _turn = self.sharing.turn.lock().await;
            let read = some.iter().map(|(topic, _)| self.backend.kv.fields(topic));
            for ((topic, doubt), fields) in some.iter().zip(join_all(read).await) {
                let is_right = fields.map(|fields| {
                    let held = fields.into_iter().filter_map(|(field, value)| Held::decode(&field, value));
                    let own = held.filter(|held| held.name == self.name()).map(|held| (held.serial, held.share));
                    self.compare_shares(topic, own.collect())
                });
                let left = doubt.compared(now, is_right.unwrap_or(false));
                let mut doubtful = lock(&self.sharing.doubtful);
                // Another write may have been left without an answer meanwhile.
                if doubtful.get(topic) == Some(doubt) {
                    match left {
                        Some(left) => _ = doubtful.insert(topic.clone(), left),
                        None => _ = doubtful.remove(topic),
                    }
                }
            }
        }
    }

    /// Whether what is written is what is shared; else it is written again.
    fn compare_shares(&self, topic: &Arc<str>, held: BTreeMap<u64, Bytes>) -> bool {
        let mut all = lock(&self.sharing.own);
        let own = all.entry(topic.clone()).or_default();
        let stream = own.stream.upgrade();
        let share = |serial| stream.as_ref().and_then(|stream| stream.with_content(|content| content.share(serial)));
        let serials: BTreeSet<u64> = held.keys().chain(&own.written).copied().collect();
        let wrong = serials.into_iter().filter(|serial| share(*serial).as_ref() != held.get(serial));
        let wrong: Vec<u64> = wrong.collect();
        own.written.extend(&wrong);
        own.changed.extend(&wrong);
        if own.written.is_empty() && own.changed.is_empty() {
            all.remove(topic);
        }
        if !wrong.is_empty() {
            self.sharing.bell.notify_one();
        }
        wrong.is_empty()
    }

    async fn write_fields(&self, name: Name, due: &Due, latest: &mut u64) -> Result<(), BackendError> {
        let (kv, topic) = (&self.backend.kv, &*due.topic);
        if !due.listed {
            kv.set_field(&topics_of(name), topic, Some(Bytes::new()), None).await?;
            self.list(topic, true);
        }
        let letter = |after| Shares { incarnation: name.incarnation, after, changes: Vec::new() };
        let (mut shares, mut size) = (letter(*latest), 0);
        for (serial, share) in &due.shares {
            let number = self.sharing.count.fetch_add(1, Ordering::SeqCst);
            // Whatever comes of this one: the next letter does not follow the one before.
            *latest = number;
            let field = share.as_ref().map(|share| Held::encode(number, share));
            kv.set_field(topic, &name.field(*serial), field, None).await?;
            size += share.as_ref().map_or(0, Bytes::len);
            shares.changes.push((number, *serial, share.clone()));
            if size > LETTER {
                self.tell_shares(topic, std::mem::replace(&mut shares, letter(number))).await?;
                size = 0;
            }
        }
        self.tell_shares(topic, shares).await?;
        let gone: BTreeSet<u64> =
            due.shares.iter().filter(|(_, share)| share.is_none()).map(|(serial, _)| *serial).collect();
        if lock(&self.sharing.own).get(topic).is_some_and(|own| own.written.is_subset(&gone)) {
            self.list(topic, false);
            kv.set_field(&topics_of(name), topic, None, None).await?;
        }
        Ok(())
    }

    fn list(&self, topic: &str, listed: bool) {
        if let Some(own) = lock(&self.sharing.own).get_mut(topic) {
            own.listed = listed;
        }
    }

    async fn tell_shares(&self, topic: &str, shares: Shares) -> Result<(), BackendError> {
        let to = Address::Topic(topic);
        if shares.changes.is_empty() || !self.backend.bus.is_heard(to) {
            return Ok(());
        }
        let letter = Letter { to: To::Shares, v2_only: false, message: shares.encode() };
        self.backend.bus.publish(to, letter.encode()).await
    }

    /// The streams in memory on which connections may share something.
    pub(super) fn shared_streams(&self) -> Vec<Arc<Stream>> {
        let mut streams = self.in_memory_of(|kind| share_prefix(kind).is_some());
        streams.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        streams
    }
}
