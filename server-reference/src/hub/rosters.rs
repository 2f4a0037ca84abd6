//! What connections of other nodes share on the streams that somebody follows here: reading it, and hearing its changes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datasole_core::StreamId;
use tokio::{sync::Notify, time::sleep};

use super::{
    Hub,
    following::LINGER,
    relaying::PAUSE,
    roster::{Change, Held, Roster, Shares},
    seat::{Name, Seat},
    sharing::{Attended, all, share_topic},
    stream::Stream,
};
use crate::{
    backend::{BackendError, bus::NodeId},
    sync::lock,
};

impl Hub {
    /// Lets a stream that somebody is about to follow have what connections of other nodes share there. Where that fails, it
    /// comes later.
    pub(super) async fn attend(&self, stream: &Arc<Stream>) {
        if !self.is_sharing() {
            return;
        }
        let Some(topic) = share_topic(stream.id()) else { return };
        let (attended, is_new) = self.attended(&topic, stream);
        if is_new {
            self.topic_changed(topic);
        }
        if is_new || !attended.is_heard.load(Ordering::SeqCst) {
            self.settle_topics().await;
        }
        if attended.is_behind() {
            // Where this fails, or whoever asked is dropped meanwhile, it is read later.
            self.sharing.bell.notify_one();
            let _ = self.read_shares(&attended).await;
        }
    }

    fn attended(&self, topic: &Arc<str>, stream: &Arc<Stream>) -> (Arc<Attended>, bool) {
        let now = self.sharing.ticks.load(Ordering::SeqCst);
        let mut rosters = lock(&self.sharing.rosters);
        if let Some(attended) = rosters.get(topic).filter(|one| one.stream.as_ptr() == Arc::as_ptr(stream)) {
            attended.used.store(now, Ordering::SeqCst);
            return (attended.clone(), false);
        }
        let attended = Arc::new(Attended {
            stream: Arc::downgrade(stream),
            topic: topic.clone(),
            roster: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            is_heard: AtomicBool::new(false),
            used: AtomicU64::new(now),
            read: AtomicU64::new(now),
        });
        rosters.insert(topic.clone(), attended.clone());
        (attended, true)
    }

    /// Takes note of topics whose messages come from here on.
    pub(super) fn heard_from_here(&self, topics: &[Arc<str>]) {
        let rosters = lock(&self.sharing.rosters);
        let heard = topics.iter().filter_map(|topic| rosters.get(topic));
        if heard.inspect(|attended| attended.is_heard.store(true, Ordering::SeqCst)).count() > 0 {
            self.sharing.bell.notify_one();
        }
    }

    /// Takes what a node tells of its connections.
    pub(super) fn hear_shares(&self, topic: &str, NodeId(node): NodeId, shares: Shares) {
        let Some(attended) = lock(&self.sharing.rosters).get(topic).cloned() else { return };
        self.change_roster(&attended, |roster| {
            roster.hear(node, shares).unwrap_or_else(|_| {
                self.sharing.bell.notify_one();
                Vec::new()
            })
        });
    }

    fn change_roster(&self, attended: &Attended, f: impl FnOnce(&mut Roster) -> Vec<Change>) {
        let robbed = attended.change(f);
        if !robbed.is_empty()
            && let Some(stream) = attended.stream.upgrade()
        {
            self.share(&stream, robbed);
        }
    }

    /// Reads all that other nodes share, as after a loss.
    pub(super) fn reread_rosters(&self) {
        lock(&self.sharing.rosters).values().for_each(|attended| lock(&attended.roster).fall_behind());
        self.sharing.bell.notify_one();
    }

    async fn read_shares(&self, attended: &Attended) -> Result<(), BackendError> {
        let _turn = attended.turn.lock().await;
        if lock(&attended.roster).begin() {
            let fields = self.shares_of(&attended.topic).await?;
            self.change_roster(attended, |roster| roster.read(fields));
            attended.read.store(self.sharing.ticks.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        Ok(())
    }

    /// The values that connections of other nodes that are alive share.
    async fn shares_of(&self, topic: &str) -> Result<Vec<Held>, BackendError> {
        let own = self.name().node;
        let fields = self.backend.kv.fields(topic).await?;
        let mut held: Vec<Held> = fields.into_iter().filter_map(|(field, value)| Held::decode(&field, value)).collect();
        held.retain(|held| held.name.node != own);
        let is_known = {
            let alive = lock(&self.sharing.alive);
            held.iter().all(|held| alive.contains(&held.name))
        };
        if !is_known {
            // Whoever writes a field has a lease before: the leases are asked for behind the fields.
            *lock(&self.sharing.alive) = self.leases().await?;
        }
        let alive = lock(&self.sharing.alive);
        held.retain(|held| alive.contains(&held.name));
        Ok(held)
    }

    /// The values that connections of other nodes share on a stream that nobody follows here; `None` where memory has that.
    pub(crate) async fn shares_elsewhere(&self, id: &StreamId) -> Result<Option<Vec<(Seat, Bytes)>>, BackendError> {
        if !self.is_sharing() {
            return Ok(None);
        }
        let Some(topic) = share_topic(id) else { return Ok(None) };
        let attended = lock(&self.sharing.rosters).get(&topic).cloned();
        if attended.is_some_and(|attended| {
            attended.stream.strong_count() > 0
                && attended.is_heard.load(Ordering::SeqCst)
                && !lock(&attended.roster).is_behind()
        }) {
            return Ok(None);
        }
        let held = self.shares_of(&topic).await?;
        Ok(Some(held.into_iter().map(|held| (Seat::of(held.name.node, held.serial), held.share)).collect()))
    }

    /// Reads what has fallen behind; `false` if something has to be done again.
    async fn read_behind(&self) -> bool {
        let behind: Vec<Arc<Attended>> =
            lock(&self.sharing.rosters).values().filter(|attended| attended.is_behind()).cloned().collect();
        let reads: Vec<_> = behind
            .into_iter()
            .map(|attended| async move {
                match self.read_shares(&attended).await {
                    Ok(()) => !attended.is_behind(),
                    Err(error) => {
                        tracing::warn!(%error, topic = &*attended.topic, "what other servers share is not known yet");
                        false
                    }
                }
            })
            .collect();
        all(reads).await
    }

    /// Lets go of what nobody follows any more, attends what was followed before there were others, and reads again what
    /// has not been read for a while.
    pub(super) async fn look_at_rosters(&self, now: u64) {
        for stream in self.shared_streams().into_iter().filter(|stream| !stream.is_unfollowed()) {
            if let Some(topic) = share_topic(stream.id()) {
                let (attended, is_new) = self.attended(&topic, &stream);
                if is_new {
                    self.topic_changed(attended.topic.clone());
                }
            }
        }
        let all: Vec<Arc<Attended>> = lock(&self.sharing.rosters).values().cloned().collect();
        for attended in all {
            let stream = attended.stream.upgrade();
            let idle = attended.used.load(Ordering::SeqCst) + LINGER <= now;
            if stream.as_ref().is_none_or(|stream| idle && stream.is_unfollowed()) {
                self.forget_roster(&attended);
                self.change_roster(&attended, Roster::end);
                if let Some(stream) = stream {
                    self.release(stream).await;
                }
            } else if attended.read.load(Ordering::SeqCst) + LINGER <= now {
                attended.read.store(now, Ordering::SeqCst);
                lock(&attended.roster).fall_behind();
                self.sharing.bell.notify_one();
            }
        }
    }

    fn forget_roster(&self, attended: &Arc<Attended>) {
        let mut rosters = lock(&self.sharing.rosters);
        if rosters.get(&attended.topic).is_some_and(|known| Arc::ptr_eq(known, attended)) {
            rosters.remove(&attended.topic);
            drop(rosters);
            self.topic_changed(attended.topic.clone());
        }
    }

    /// The incarnations of which something is known here.
    pub(super) fn known_names(&self) -> BTreeSet<Name> {
        let rosters: Vec<_> = lock(&self.sharing.rosters).values().cloned().collect();
        rosters.iter().flat_map(|attended| lock(&attended.roster).names().collect::<Vec<_>>()).collect()
    }

    /// Takes away what incarnations have shared that have ended.
    pub(super) fn bury_shares(&self, dead: &BTreeSet<Name>) {
        let rosters: Vec<_> = lock(&self.sharing.rosters).values().cloned().collect();
        rosters.iter().for_each(|attended| self.change_roster(attended, |roster| roster.bury(dead)));
    }
}

/// Writes and reads shares as long as the server lives.
pub(super) async fn share(hub: Weak<Hub>, bell: Arc<Notify>) {
    loop {
        bell.notified().await;
        loop {
            let Some(hub) = hub.upgrade() else { return };
            let (written, read) = (hub.write_shares().await, hub.read_behind().await);
            drop(hub);
            if written && read {
                break;
            }
            sleep(PAUSE).await;
        }
    }
}
