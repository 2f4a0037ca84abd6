//! Who follows which stream, and where each stream is: duplicates, gaps and resuming.
//!
//! Subscriptions belong to the client and outlive connections. This module decides; it sends nothing and keeps no
//! values. Version 1 servers know neither subscriptions nor positions: there every state key is followed, and entries
//! are counted here.

use serde_json::value::RawValue;

use crate::{
    config::Limits,
    error::CommandError,
    event::SubscriptionId,
    json::{first_element, members, string},
    rpc::next_correlation,
    stream::{Position, StreamId, StreamKind},
    table::Table,
    time::Millis,
    wire::Subscribed,
    write,
};

/// Gaps in a row, without an entry in sequence between them, after which a stream starts from scratch; after twice as
/// many the server is not worth listening to.
const GAPS: u8 = 3;

/// Reports in a row that a stream does not fit what the host has, without a patch applied in between, that are repaired at
/// once; as many more after a wait, then the server is not worth listening to.
const MISFITS: u8 = 3;

/// The bound of the first wait before a repair, doubled for each that follows; milliseconds.
const REST: u64 = 2_000;

/// Bytes of version 1 CRDTs' states that are kept for who follows them later.
pub(crate) const MAX_KEPT: usize = 1024 * 1024;

/// All subscriptions of a client.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    last: u32,
    entries: Table<SubscriptionId, Subscription>,
    /// By kind and key, so that a frame's borrowed key finds its subscription.
    by_key: [Table<String, SubscriptionId>; 5],
    by_correlation: Table<u32, SubscriptionId>,
    /// Subscriptions without followers, and when each ends: in that order.
    lingering: Vec<(Millis, SubscriptionId)>,
    /// The streams that have numbers on this connection: documents and, where frames are short, states and topics.
    by_channel: Table<u32, SubscriptionId>,
    /// Version 1: how many entries of each state key have come. Kept over connections of that version.
    counted: Table<String, u64>,
    /// Version 1: the latest states of CRDTs, followed or not, and their bytes.
    kept: Table<String, Box<RawValue>>,
    kept_bytes: usize,
    /// When the streams that rest are asked for again.
    rest: Option<Millis>,
}

#[derive(Debug)]
struct Subscription {
    stream: StreamId,
    /// As many `unsubscribe`s end it; at 0 it lingers.
    count: u32,
    phase: Phase,
    /// What the host has; `None` before the first entry.
    position: Option<Position>,
    gaps: u8,
    misfits: u8,
    /// Not asked for before the rest has ended.
    rests: bool,
    /// Its number on this connection.
    channel: Option<u32>,
    /// Version 1: how many states of a CRDT have come.
    counted: u64,
}

/// How far a subscription is on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not sent.
    Detached,
    /// SUBSCRIBE is sent under this correlation id; frames of the stream are ignored until the answer.
    Asked(u32),
    /// Answered with a snapshot to come.
    Snapshot(u32),
    /// Live.
    Following(u32),
}

impl Phase {
    fn correlation(self) -> Option<u32> {
        match self {
            Self::Detached => None,
            Self::Asked(id) | Self::Snapshot(id) | Self::Following(id) => Some(id),
        }
    }
}

/// What to do with an entry of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is the next: hand it on.
    Next,
    /// A duplicate, or nobody follows.
    Ignore,
    /// Something is missing.
    Gap(SubscriptionId),
}

/// What to do about an answer or a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    None,
    /// Tell the user.
    Answered { subscription: SubscriptionId, stream: StreamId, recovered: bool },
    /// Subscribe again.
    Ask(SubscriptionId),
    /// The same, after a random time up to this bound; milliseconds.
    Rest(SubscriptionId, u64),
    /// The server breaks the rules.
    GiveUp(&'static str),
}

impl Subscriptions {
    /// Adds one, or counts a further follower of the same stream: one that lingers goes on. The flag says whether it is
    /// new.
    pub(crate) fn add(&mut self, stream: StreamId, limits: &Limits) -> Result<(SubscriptionId, bool), CommandError> {
        if let Some(id) = self.find(stream.kind, &stream.key) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.count = entry.count.saturating_add(1);
                if entry.count == 1 {
                    self.lingering.retain(|(_, other)| *other != id);
                }
            }
            return Ok((id, false));
        }
        if self.entries.len() >= limits.max_subscriptions {
            return Err(CommandError::Limit { what: "subscriptions", limit: limits.max_subscriptions });
        }
        let entries = &self.entries;
        let id = SubscriptionId(next_correlation(&mut self.last, |id| entries.contains_key(&SubscriptionId(id))));
        self.by_key[stream.kind as usize].insert(stream.key.clone(), id);
        let entry = Subscription {
            stream,
            count: 1,
            phase: Phase::Detached,
            position: None,
            gaps: 0,
            misfits: 0,
            rests: false,
            channel: None,
            counted: 0,
        };
        self.entries.insert(id, entry);
        Ok((id, true))
    }

    /// Counts one follower less. After the last one the subscription lingers `until` then, and goes on if it is followed
    /// again. `false` when nobody follows it.
    pub(crate) fn release(&mut self, id: SubscriptionId, until: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.count > 0) else { return false };
        entry.count -= 1;
        if entry.count == 0 {
            let at = self.lingering.partition_point(|(other, _)| *other <= until);
            self.lingering.insert(at, (until, id));
        }
        true
    }

    /// When the first of those that linger ends.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.lingering.first().map(|(until, _)| *until)
    }

    /// The first of those that linger, where all places are taken.
    pub(crate) fn superfluous(&self, limits: &Limits) -> Option<SubscriptionId> {
        let (_, id) = self.lingering.first().filter(|_| self.entries.len() >= limits.max_subscriptions)?;
        Some(*id)
    }

    /// The first of those that have lingered long enough.
    pub(crate) fn expired(&self, now: Millis) -> Option<SubscriptionId> {
        self.lingering.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    /// Removes the subscription that the server refused under `correlation`.
    pub(crate) fn refuse(&mut self, correlation: u32, limits: &Limits) -> Option<(SubscriptionId, StreamId)> {
        let id = *self.by_correlation.get(&correlation)?;
        let (stream, _) = self.remove(id, limits)?;
        Some((id, stream))
    }

    /// Removes a subscription: its stream, and the correlation id to be unsubscribed.
    pub(crate) fn remove(&mut self, id: SubscriptionId, limits: &Limits) -> Option<(StreamId, Option<u32>)> {
        let Subscription { stream, phase, channel, .. } = self.entries.remove(&id)?;
        self.lingering.retain(|(_, other)| *other != id);
        self.by_key[stream.kind as usize].remove(&stream.key);
        if stream.kind == StreamKind::State && self.counted.len() > limits.max_subscriptions {
            self.counted.remove(&stream.key);
        }
        let correlation = phase.correlation();
        if let Some(correlation) = correlation {
            self.by_correlation.remove(&correlation);
        }
        if let Some(channel) = channel {
            self.by_channel.remove(&channel);
        }
        Some((stream, correlation))
    }

    pub(crate) fn find(&self, kind: StreamKind, key: &str) -> Option<SubscriptionId> {
        self.by_key[kind as usize].get(key).copied()
    }

    /// Whether `correlation` names a subscription on this connection.
    pub(crate) fn uses(&self, correlation: u32) -> bool {
        self.by_correlation.contains_key(&correlation)
    }

    pub(crate) fn ids(&self) -> Vec<SubscriptionId> {
        self.entries.keys().copied().collect()
    }

    /// The connection is gone. A stream whose snapshot had not come yet has no position to resume from.
    pub(crate) fn detach(&mut self) {
        self.by_correlation.clear();
        self.by_channel.clear();
        self.rest = None;
        for entry in self.entries.values_mut() {
            entry.phase = Phase::Detached;
            (entry.gaps, entry.misfits, entry.rests) = (0, 0, false);
            entry.channel = None;
        }
    }

    /// Begins to subscribe under `correlation`: the payload to send, and the correlation id to be unsubscribed first.
    pub(crate) fn ask(&mut self, id: SubscriptionId, correlation: u32) -> Option<(Vec<u8>, Option<u32>)> {
        let entry = self.entries.get_mut(&id)?;
        let old = entry.phase.correlation();
        if let Some(old) = old {
            self.by_correlation.remove(&old);
        }
        self.by_correlation.insert(correlation, id);
        entry.phase = Phase::Asked(correlation);
        entry.rests = false;
        if let Some(channel) = entry.channel.take() {
            self.by_channel.remove(&channel);
        }
        Some((write::subscribe(&entry.stream, entry.position), old))
    }

    /// Says where a stream is, as far as the host has it; `None`: nowhere.
    pub(crate) fn place(&mut self, id: SubscriptionId, position: Option<Position>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.position = position;
        }
    }

    /// The answer to SUBSCRIBE.
    pub(crate) fn answered(&mut self, correlation: u32, answer: &Subscribed) -> Step {
        let Some(&id) = self.by_correlation.get(&correlation) else { return Step::None };
        let Some(entry) = self.entries.get_mut(&id) else { return Step::None };
        if entry.phase != Phase::Asked(correlation) {
            return Step::None;
        }
        let position = Position { epoch: answer.epoch, seq: answer.seq };
        entry.channel = answer.channel;
        match answer.channel {
            Some(channel) => {
                self.by_channel.insert(channel, id);
            }
            None if entry.stream.kind == StreamKind::Doc => return Step::GiveUp("a document without a channel"),
            None => {}
        }
        if answer.recovered {
            // Before the first entry there is nothing, whatever the life was going to be.
            let goes_on = |since: Position| since == position || (since.seq, position.seq) == (0, 0);
            if !entry.position.is_some_and(goes_on) {
                entry.position = None;
                return self.gap(id);
            }
            entry.position = Some(position);
            entry.phase = Phase::Following(correlation);
        } else if entry.stream.kind.has_snapshots() {
            entry.position = None;
            entry.phase = Phase::Snapshot(correlation);
        } else {
            entry.position = Some(position);
            entry.phase = Phase::Following(correlation);
        }
        Step::Answered { subscription: id, stream: entry.stream.clone(), recovered: answer.recovered }
    }

    /// An entry came, `whole` when it replaces everything before it.
    pub(crate) fn receive(&mut self, kind: StreamKind, key: &str, at: Position, whole: bool) -> Receipt {
        self.find(kind, key).map_or(Receipt::Ignore, |id| self.receive_at(id, at, whole))
    }

    fn receive_at(&mut self, id: SubscriptionId, at: Position, whole: bool) -> Receipt {
        let Some(entry) = self.entries.get_mut(&id) else { return Receipt::Ignore };
        match (entry.phase, entry.position) {
            (Phase::Detached | Phase::Asked(_), _) => return Receipt::Ignore,
            (Phase::Snapshot(correlation), _) if whole => entry.phase = Phase::Following(correlation),
            (Phase::Following(_), Some(Position { epoch, seq })) if epoch == at.epoch && at.seq <= seq => {
                return Receipt::Ignore;
            }
            (Phase::Following(_), Some(Position { epoch, seq })) if epoch == at.epoch && at.seq - seq == 1 => {
                entry.gaps = 0;
            }
            (Phase::Following(_), _) if whole => entry.gaps = 0,
            _ => return Receipt::Gap(id),
        }
        entry.position = Some(at);
        Receipt::Next
    }

    /// What a document's subscription is called on this connection: its channel, once the server has told.
    pub(crate) fn channel(&self, key: &str) -> Option<(SubscriptionId, u32)> {
        let id = self.find(StreamKind::Doc, key)?;
        Some((id, self.entries.get(&id)?.channel?))
    }

    /// The stream that is called `channel` on this connection, and where it is.
    pub(crate) fn called(&self, channel: u32) -> Option<(SubscriptionId, &StreamId, Position)> {
        let id = *self.by_channel.get(&channel)?;
        let entry = self.entries.get(&id)?;
        Some((id, &entry.stream, entry.position?))
    }

    /// The entry `seq` of a document came, or the word that it is our own.
    pub(crate) fn receive_seq(&mut self, id: SubscriptionId, seq: u64) -> Receipt {
        let Some(Position { epoch, .. }) = self.entries.get(&id).and_then(|entry| entry.position) else {
            return Receipt::Ignore;
        };
        self.receive_at(id, Position { epoch, seq }, false)
    }

    /// Something is missing on a stream, or does not fit: what to do about it.
    pub(crate) fn gap(&mut self, id: SubscriptionId) -> Step {
        let Some(entry) = self.entries.get_mut(&id) else { return Step::None };
        entry.gaps += 1;
        if entry.gaps >= 2 * GAPS {
            return Step::GiveUp("a stream with gaps that cannot be repaired");
        }
        if entry.gaps == GAPS {
            entry.position = None;
        }
        Step::Ask(id)
    }

    /// A stream does not fit what the host has: what to do about it. `applied`: a patch was, since the last time.
    pub(crate) fn misfit(&mut self, id: SubscriptionId, applied: bool) -> Step {
        let Some(entry) = self.entries.get_mut(&id) else { return Step::None };
        entry.position = None;
        entry.misfits = if applied { 1 } else { entry.misfits + 1 };
        match entry.misfits.saturating_sub(MISFITS) {
            0 => Step::Ask(id),
            wait @ 1..=MISFITS => Step::Rest(id, REST << (wait - 1)),
            _ => Step::GiveUp("a state that cannot be repaired"),
        }
    }

    /// A patch of a state was applied.
    #[cfg(feature = "mirror")]
    pub(crate) fn fits(&mut self, key: &str) {
        if let Some(id) = self.find(StreamKind::State, key)
            && let Some(entry) = self.entries.get_mut(&id)
        {
            entry.misfits = 0;
        }
    }

    /// Ignores a stream until the rest ends, with that of other streams if theirs ends earlier.
    pub(crate) fn rest(&mut self, id: SubscriptionId, until: Millis) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.rests = true;
            if let Some(correlation) = entry.phase.correlation() {
                entry.phase = Phase::Asked(correlation);
            }
            self.rest = Some(self.rest.map_or(until, |earlier| earlier.min(until)));
        }
    }

    pub(crate) fn rest_ends(&self) -> Option<Millis> {
        self.rest
    }

    /// The streams that have rested.
    pub(crate) fn rested(&mut self, now: Millis) -> Vec<SubscriptionId> {
        if self.rest.is_none_or(|end| end > now) {
            return Vec::new();
        }
        self.rest = None;
        let mut ids = self.ids();
        ids.retain(|id| self.entries.get(id).is_some_and(|entry| entry.rests));
        ids
    }

    /// A connection of version 2 begins: what was counted on version 1 means nothing there.
    pub(crate) fn begin_v2(&mut self) {
        self.counted.clear();
        self.forget_kept();
    }

    /// A connection of version 1 begins: what the host has will be changed by frames without positions.
    pub(crate) fn begin_v1(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.position = None);
        self.forget_kept();
    }

    fn forget_kept(&mut self) {
        self.kept.clear();
        self.kept_bytes = 0;
    }

    /// Version 1: counts an entry of a state key. `None` when the key is one too many, otherwise the position and
    /// whether it is the key's first.
    pub(crate) fn count(&mut self, key: &str, limits: &Limits) -> Option<(Position, bool)> {
        if let Some(seq) = self.counted.get_mut(key) {
            *seq += 1;
            return Some((Position { epoch: 0, seq: *seq }, false));
        }
        // Subscriptions are bounded on their own, so those keys may always come.
        let room = self.counted.len() < limits.max_subscriptions && key.len() <= limits.max_name;
        if !room && self.find(StreamKind::State, key).is_none() {
            return None;
        }
        self.counted.insert(key.into(), 1);
        Some((Position { epoch: 0, seq: 1 }, true))
    }

    /// Version 1: keeps the state of a CRDT for who follows it later, if there is room; the server tells it again only
    /// when it changes.
    pub(crate) fn keep(&mut self, key: &str, state: &RawValue, limits: &Limits) {
        self.kept_bytes -= self.kept.remove(key).map_or(0, |old| old.get().len());
        let bytes = self.kept_bytes + state.get().len();
        if bytes <= MAX_KEPT && self.kept.len() < limits.max_subscriptions && key.len() <= limits.max_name {
            self.kept.insert(key.into(), state.to_owned());
            self.kept_bytes = bytes;
        }
    }

    /// Version 1: what was kept of a CRDT.
    pub(crate) fn kept(&self, key: &str) -> Option<Box<RawValue>> {
        self.kept.get(key).cloned()
    }

    /// Version 1: counts a state of a CRDT. `None` when nobody follows it.
    pub(crate) fn count_crdt(&mut self, key: &str) -> Option<Position> {
        let id = self.find(StreamKind::Crdt, key)?;
        let seq = &mut self.entries.get_mut(&id)?.counted;
        *seq += 1;
        Some(Position { epoch: 0, seq: *seq })
    }

    /// Version 1: whether the server sends a state's changes whoever follows it, so that its value must be kept too.
    pub(crate) fn counts(&self, stream: &StreamId) -> bool {
        stream.kind == StreamKind::State && self.counted.contains_key(&stream.key)
    }

    pub(crate) fn stream(&self, id: SubscriptionId) -> Option<&StreamId> {
        self.entries.get(&id).map(|entry| &entry.stream)
    }
}

/// What a version 1 mirror starts from: an array if the first operation's path begins with an array index.
pub(crate) fn first_value(ops: &RawValue) -> &'static str {
    let mut path = None;
    if let Some(operation) = first_element(ops) {
        members(operation.get().as_bytes(), &mut |name, value| {
            if name == "path" {
                path = string(value);
            }
            Some(())
        });
    }
    let path = path.unwrap_or_default();
    let rest = path.strip_prefix('/').unwrap_or_default().as_bytes();
    let index = rest.get(..rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())).unwrap_or_default();
    let is_index = index == b"-" || (!index.is_empty() && index.iter().all(u8::is_ascii_digit));
    if is_index { "[]" } else { "{}" }
}
