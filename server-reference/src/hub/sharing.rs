//! [`Sharing`]: what a node needs to share with other nodes what its connections show.
//!
//! A share is what one connection shows on one stream. Shares of a stream are the fields of a map, `p:<room>` or
//! `a:<document>`, under the incarnation that has written them; their changes are told on the topic of the same name. The
//! map `m:<incarnation>` has the topics where an incarnation has fields, `nodes` the incarnations. A node that has never
//! met another writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use datasole_core::{StreamId, StreamKind};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;

use super::{
    roster::{Change, Roster},
    seat::Name,
    stream::Stream,
};
use crate::{backend::kv::Lease, sync::lock};

/// Streams that are written or read at the same time.
pub(super) const AT_ONCE: usize = 16;

/// The parts that a node needs to share.
pub(super) struct Sharing {
    /// Whether there is, or has been, another node.
    pub(super) active: AtomicBool,
    /// Whether the fields of the incarnation may be written: its lease holds.
    pub(super) registered: AtomicBool,
    /// Whether the node has said goodbye.
    pub(super) departed: AtomicBool,
    pub(super) incarnation: AtomicU32,
    pub(super) lease: Mutex<Option<Lease>>,
    /// The incarnations that were alive when last looked at.
    pub(super) alive: Mutex<BTreeSet<Name>>,
    /// How many changes there were.
    pub(super) count: AtomicU64,
    /// By topic.
    pub(super) own: Mutex<BTreeMap<Arc<str>, Own>>,
    /// Topics where a write was not answered.
    pub(super) doubtful: Mutex<BTreeMap<Arc<str>, Doubt>>,
    /// Held while fields are written, so that an incarnation has ended when the next begins.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The streams whose shares of other nodes are here, by topic.
    pub(super) rosters: Mutex<BTreeMap<Arc<str>, Arc<Attended>>>,
    /// Rung when there is something to write or to read.
    pub(super) bell: Arc<Notify>,
    /// Rung when the node shall look for its lease.
    pub(super) wake: Arc<Notify>,
    /// Rung when the lease was renewed.
    pub(super) renewed: Arc<Notify>,
    /// How often it has looked.
    pub(super) ticks: AtomicU64,
}

/// For how many looks at the lease a write that was not answered may come late.
const DOUBT: u64 = 12;
/// Comparisons one after the other that find nothing wrong, before the next waits for the end of the doubt.
const CLEAN: u32 = 2;

/// A write was not answered: what is written is to be compared with what is shared. Times are counts of looks at the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// When it is compared next.
    pub(super) due: u64,
    /// How often it was right in a row.
    clean: u32,
    /// Up to when the write may come late.
    until: u64,
}

impl Doubt {
    pub(super) fn new(now: u64) -> Self {
        Self { due: now + 1, clean: 0, until: now + DOUBT }
    }

    /// The doubt that is left after a comparison.
    pub(super) fn compared(self, now: u64, is_right: bool) -> Option<Self> {
        let clean = if is_right { self.clean + 1 } else { 0 };
        if clean < CLEAN {
            return Some(Self { due: now + 1, clean, ..self });
        }
        (now < self.until).then_some(Self { due: self.until, clean, ..self })
    }
}

/// A stream whose shares of other nodes are here.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) stream: Weak<Stream>,
    pub(super) topic: Arc<str>,
    pub(super) roster: Mutex<Roster>,
    /// Held while the fields are read.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Whether changes come.
    pub(super) is_heard: AtomicBool,
    /// When somebody followed it, and when the fields were read; by the count of looks at the lease.
    pub(super) used: AtomicU64,
    pub(super) read: AtomicU64,
}

impl Attended {
    pub(super) fn is_behind(&self) -> bool {
        self.is_heard.load(Ordering::SeqCst) && lock(&self.roster).is_behind()
    }

    /// Changes the roster, and tells those who follow; the connections of this node whose shares are others thereby.
    pub(super) fn change(&self, f: impl FnOnce(&mut Roster) -> Vec<Change>) -> Vec<u64> {
        let mut roster = lock(&self.roster);
        let changes = f(&mut roster);
        let stream = self.stream.upgrade().filter(|_| !changes.is_empty());
        stream.map_or_else(Vec::new, |stream| stream.take_shares(changes))
    }
}

/// The shares of this node on one stream.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) stream: Weak<Stream>,
    /// Connections whose shares have changed.
    pub(super) changed: BTreeSet<u64>,
    /// Connections that may have a field.
    pub(super) written: BTreeSet<u64>,
    /// The latest change; 0 before the first.
    pub(super) latest: u64,
    /// Whether the topic is among those of the incarnation.
    pub(super) listed: bool,
}

/// A stream's changes that are written.
pub(super) struct Due {
    pub(super) topic: Arc<str>,
    pub(super) after: u64,
    pub(super) listed: bool,
    pub(super) shares: Vec<(u64, Option<Bytes>)>,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            active: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            departed: AtomicBool::new(false),
            incarnation: AtomicU32::new(0),
            lease: Mutex::default(),
            alive: Mutex::default(),
            count: AtomicU64::new(1),
            own: Mutex::default(),
            doubtful: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            rosters: Mutex::default(),
            bell: Arc::default(),
            wake: Arc::default(),
            renewed: Arc::default(),
            ticks: AtomicU64::new(0),
        }
    }
}

/// The map and the topic of a stream's shares; `None` where connections share nothing.
pub(super) fn share_topic(id: &StreamId) -> Option<Arc<str>> {
    let prefix = share_prefix(id.kind)?;
    Some(format!("{prefix}:{}", id.key).into())
}

/// Begins the topics of a kind on whose streams connections share something.
pub(super) fn share_prefix(kind: StreamKind) -> Option<char> {
    match kind {
        StreamKind::Presence => Some('p'),
        StreamKind::Doc => Some('a'),
        _ => None,
    }
}

/// The map of the topics where an incarnation has fields.
pub(super) fn topics_of(name: Name) -> String {
    format!("m:{name}")
}

/// Runs them all, some at a time; whether every one has answered `true`.
pub(super) async fn all(tasks: Vec<impl Future<Output = bool>>) -> bool {
    stream::iter(tasks).buffer_unordered(AT_ONCE).fold(true, |all, one| std::future::ready(all & one)).await
}

impl Own {
    /// The fields to be written, if any; it counts as written from here on.
    pub(super) fn due(&mut self, topic: &Arc<str>) -> Option<Due> {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return None;
        }
        let stream = self.stream.upgrade();
        let share = |serial| stream.as_ref().and_then(|stream| stream.with_content(|content| content.share(serial)));
        let mut shares: Vec<_> = changed.into_iter().map(|serial| (serial, share(serial))).collect();
        // A member that has come and gone meanwhile was never there.
        shares.retain(|(serial, share)| share.is_some() || self.written.contains(serial));
        self.written.extend(shares.iter().map(|(serial, _)| serial));
        let (after, listed) = (self.latest, self.listed);
        (!shares.is_empty()).then(|| Due { topic: topic.clone(), after, listed, shares })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks at which a topic is compared, when it is wrong at some.
    fn compared(wrong: &[u64]) -> Vec<u64> {
        let (mut doubt, mut looks) = (Some(Doubt::new(100)), Vec::new());
        while let Some(due) = doubt {
            looks.push(due.due);
            doubt = due.compared(due.due, !wrong.contains(&due.due));
        }
        looks
    }

    #[test]
    fn what_is_right_is_compared_seldom() {
        assert_eq!(compared(&[]), [101, 102, 112]);
        assert_eq!(compared(&[102]), [101, 102, 103, 104, 112]);
        assert_eq!(compared(&[112]), [101, 102, 112, 113, 114], "what comes at the end");
    }
}
