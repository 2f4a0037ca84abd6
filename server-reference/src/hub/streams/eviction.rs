//! Which streams leave memory, and when: those that nobody follows, the idlest first.
#![expect(clippy::mutable_key_type, reason = "the key of a stream, by which the set knows it, never changes")]

use std::sync::{Arc, atomic::Ordering};

use datasole_core::StreamId;

use super::{ByKey, Map, SWEEP_AT, Streams};
use crate::{
    backend::{Backend, log::Mark},
    hub::{
        following::{LINGER, TICK},
        kind::Room,
        relaying::stream_topics,
        stream::Stream,
    },
    sync::{lock, read, write},
};

impl Streams {
    /// Whether a stream can be dropped from the map, which is locked: a reference from elsewhere is somebody about to
    /// follow it, or to publish.
    fn is_spare(&self, stream: &Arc<Stream>) -> bool {
        self.is_spare_but_for(stream, 0)
    }

    /// The same where the caller holds so many references itself.
    fn is_spare_but_for(&self, stream: &Arc<Stream>, own: usize) -> bool {
        Arc::strong_count(stream) == 1 + own && stream.is_idle() && !lock(&self.opening).contains_key(&stream.id().key)
    }

    /// How many streams of the map may leave it.
    pub(super) fn idle_of(&self, map: &Map) -> usize {
        map.len().saturating_sub(self.needed.load(Ordering::Relaxed))
    }

    /// How many of them are too many.
    fn surplus(&self, map: &Map) -> usize {
        self.idle_of(map).saturating_sub(self.spec.spare)
    }

    /// Lets go of an idle stream that stays as it is: it holds something, is queued to leave memory, and there is room for all. Another one
    /// is returned.
    pub(super) fn leave_idle(&self, stream: Arc<Stream>, now: u64) -> Option<Arc<Stream>> {
        // Evicting and removing have the map alone: both find the stream held, or let go of.
        let map = read(&self.map);
        let stays = stream.queued.load(Ordering::SeqCst)
            && stream.gone_at().is_none()
            && self.spec.bounds.room() == Room::Ample
            && self.surplus(&map) == 0;
        if !stays {
            return Some(stream);
        }
        stream.rest();
        stream.used.store(now, Ordering::SeqCst);
        drop(stream);
        drop(map);
        None
    }

    /// Drops an idle stream that holds nothing, and others if there are enough; what is gone and should be forgotten at the
    /// backend.
    pub(super) fn release(&self, id: &StreamId, now: u64) -> Option<Mark> {
        let mut map = write(&self.map);
        let stream = map.get(id.key.as_str()).map(|stream| &stream.0).filter(|stream| self.is_spare(stream))?;
        let (gone, stored) = (stream.gone_at(), stream.rules().stored);
        if gone.is_some() {
            map.take(id.key.as_str()).inspect(|stream| self.leave(&stream.0, now));
            return gone.filter(|_| stored);
        }
        stream.rest();
        stream.used.store(now, Ordering::SeqCst);
        if !stream.queued.swap(true, Ordering::SeqCst) {
            let mut idle = lock(&self.idle);
            idle.push_back((Arc::downgrade(stream), now));
            if idle.len() > (map.len() + map.len() / 4).max(SWEEP_AT) {
                // Those of streams that were removed: each keeps the memory of its stream.
                idle.retain(|(stream, _)| stream.strong_count() > 0);
            }
        }
        self.evict_from(&mut map, now);
        None
    }

    /// The ticks for which idle ones stay at least.
    fn stay(&self) -> u64 {
        self.spec.bounds.stay.as_secs().div_ceil(TICK.as_secs())
    }

    /// Whether another one may be loaded.
    pub(super) fn has_room(&self, now: u64) -> bool {
        let bounds = &self.spec.bounds;
        if bounds.room() == Room::None {
            self.evict(now);
        }
        bounds.room() > Room::None
    }

    /// Drops what nobody has followed for longest, until there are few enough and there is room.
    pub(in crate::hub) fn evict(&self, now: u64) {
        self.evict_from(&mut write(&self.map), now);
    }

    fn evict_from(&self, map: &mut Map, now: u64) {
        let mut idle = lock(&self.idle);
        // One that was used meanwhile, or is held, is met again.
        for _ in 0..2 * idle.len() {
            let room = self.spec.bounds.room();
            if self.surplus(map) == 0 && room == Room::Ample {
                return;
            }
            let Some((idlest, since)) = idle.pop_front() else { return };
            let Some(stream) = idlest.upgrade() else { continue };
            if !map.get(stream.id().key.as_str()).is_some_and(|ByKey(known)| Arc::ptr_eq(known, &stream)) {
                continue;
            }
            if !self.is_spare_but_for(&stream, 1) {
                if stream.is_idle() {
                    // Held for a moment, by somebody who may not release it.
                    idle.push_back((idlest, now));
                } else {
                    // Its last follower releases it.
                    stream.queued.store(false, Ordering::SeqCst);
                }
                continue;
            }
            let used = stream.used.load(Ordering::SeqCst);
            if used > since {
                idle.push_back((idlest, used));
            } else if room >= Room::Tight && since + self.stay() > now {
                return idle.push_front((idlest, since));
            } else {
                self.leave(&stream, now);
                map.remove(stream.id().key.as_str());
            }
        }
    }

    /// Takes note of a stream that leaves memory: its news still come for a while.
    fn leave(&self, stream: &Stream, now: u64) {
        if stream.followed.load(Ordering::SeqCst) {
            lock(&self.left).push((stream.id().clone(), now));
        }
    }

    /// Ends the news of streams that have left memory for good.
    pub(super) fn unfollow_left(&self, now: u64, backend: &Backend) {
        let mut left = lock(&self.left);
        let over = left.partition_point(|(_, since)| since + LINGER <= now);
        let mut over: Vec<StreamId> = left.drain(..over).map(|(id, _)| id).collect();
        drop(left);
        if over.is_empty() {
            return;
        }
        // Whoever opens one is registered before it is followed: under the lock, it is there or follows later.
        let opening = lock(&self.opening);
        let map = read(&self.map);
        over.retain(|id| !opening.contains_key(&id.key) && !map.contains(id.key.as_str()));
        let (stored, relayed): (Vec<_>, Vec<_>) =
            over.into_iter().partition(|id| (self.spec.make)(&id.key).rules().stored);
        backend.log.unfollow(&stored);
        backend.bus.unsubscribe(&stream_topics(&relayed));
    }

    /// Takes the idle streams out whenever their number has doubled: those that somebody held when they were released.
    pub(super) fn sweep(&self, map: &mut Map, now: u64) -> Vec<(StreamId, Mark)> {
        if map.len() < self.sweep_at.load(Ordering::Relaxed) {
            return Vec::new();
        }
        // Those that may stay for a while leave later.
        let mut surplus = if self.stay() > 0 { 0 } else { self.surplus(map) };
        let mut forgotten = Vec::new();
        map.retain(|ByKey(stream)| {
            if !self.is_spare(stream) {
                return true;
            }
            let gone = stream.gone_at();
            if stream.rules().stored {
                forgotten.extend(gone.map(|at| (stream.id().clone(), at)));
            }
            let drop = gone.is_some() || surplus > 0;
            surplus = surplus.saturating_sub(usize::from(drop));
            if drop {
                self.leave(stream, now);
            }
            !drop
        });
        self.sweep_at.store((2 * map.len()).max(SWEEP_AT), Ordering::Relaxed);
        forgotten
    }

    /// Drops idle streams that hold something, as long as there are too many.
    pub(in crate::hub) fn trim(&self, now: u64) {
        let mut map = write(&self.map);
        let mut surplus = self.surplus(&map);
        if surplus > 0 {
            map.retain(|ByKey(stream)| {
                let drop = surplus > 0 && self.is_spare(stream) && stream.gone_at().is_none();
                surplus -= usize::from(drop);
                if drop {
                    self.leave(stream, now);
                }
                !drop
            });
        }
    }
}
