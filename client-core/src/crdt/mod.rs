//! Replicated data that converges: whoever has seen the same operations, in whatever order, or has merged the states of
//! those who have, has the same state, to the byte. `docs/protocol.md`, section *CRDTs*, is the same in words.
//!
//! The types follow Shapiro, Preguiça, Baquero and Zawirski, "A comprehensive study of Convergent and Commutative
//! Replicated Data Types" (INRIA 7506, 2011); each file names its own source. [`Crdt`] is the state that a server or a
//! peer keeps, [`Op`] one change, [`Replica`] a client's side: what the server has confirmed with its own edits on top.
//!
//! Plain data: no clock, no randomness, no knowledge of connections. An operation that is refused changes nothing.
//!
//! ```
//! use datasole_core::crdt::{Crdt, CrdtKind, CrdtLimits, Edit, Replica};
//!
//! let limits = CrdtLimits::default();
//! let mut server = Crdt::new(CrdtKind::PnCounter);
//! let mut ann = Replica::new(CrdtKind::PnCounter, "ann-x1", limits).unwrap();
//! ann.edit(1_000, Edit::Increment(5)).unwrap();
//! assert_eq!(ann.current().counter(), 5, "at once");
//! for op in ann.to_send(64) {
//!     let (op, _) = server.admit(op, 1_010, &limits).unwrap(); // checked; now it may be stored, applied and published
//!     server.apply(&op, &limits).unwrap();
//!     ann.remote(&op).unwrap();
//! }
//! assert_eq!((server.counter(), ann.pending()), (5, 0));
//! assert_eq!(ann.current(), &server);
//! ```

mod error;
mod g_counter;
mod g_set;
mod hlc;
mod lww_map;
mod lww_register;
mod op;
mod or_set;
mod pn_counter;
mod replica;
mod seen;
mod state;
#[cfg(test)]
mod tests;
mod value;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use error::CrdtError;
pub use hlc::{Hlc, Stamp};
pub use op::{Change, Dot, Op};
pub use replica::{Edit, Replica};
pub use value::{Json, MAX_INTEGER};

use g_set::GSet;
use lww_map::LwwMap;
use lww_register::LwwRegister;
use op::V1_PREFIX;
use or_set::OrSet;
use pn_counter::PnCounter;
use seen::{History, Seen};
use value::quoted_len;

/// The types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrdtKind {
    /// Counts up.
    GCounter,
    /// Counts up and down.
    PnCounter,
    /// One value; the last set wins.
    LwwRegister,
    /// Values by key; of each, the last set or removal wins.
    LwwMap,
    /// A set whose elements stay.
    GSet,
    /// A set; an addition wins over removals that have not seen it.
    OrSet,
}

impl CrdtKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::GCounter, Self::PnCounter, Self::LwwRegister, Self::LwwMap, Self::GSet, Self::OrSet];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::GCounter => "g-counter",
            Self::PnCounter => "pn-counter",
            Self::LwwRegister => "lww-register",
            Self::LwwMap => "lww-map",
            Self::GSet => "g-set",
            Self::OrSet => "or-set",
        }
    }
}

impl fmt::Display for CrdtKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CrdtKind {
    type Err = CrdtError;

    fn from_str(name: &str) -> Result<Self, CrdtError> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(CrdtError::Malformed("no such type"))
    }
}

/// Bounds on one CRDT and what is done to it. Those of a client should not be below its server's: it could not read
/// what the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrdtLimits {
    /// Bytes of the state's JSON, as [`Crdt::size`] has them. A state must fit into a frame.
    pub max_bytes: usize,
    /// Bytes of one value's JSON.
    pub max_value: usize,
    /// Containers nested in each other within one value; serde_json reads fewer than 128, frame and state included.
    pub max_depth: usize,
    /// Entries of a map, tombstones included, or elements of a set.
    pub max_entries: usize,
    /// Bytes of a map's key.
    pub max_key: usize,
    /// Replicas that are remembered; [`Crdt::collect`] forgets those that have been silent.
    pub max_replicas: usize,
    /// Operations of one replica that are remembered after a gap.
    pub max_ahead: usize,
    /// Live additions of one element of an `or-set`, and in one operation.
    pub max_dots: usize,
    /// Bytes of a replica's name.
    pub max_node: usize,
    /// How far ahead of the server's clock a stamp may be, in milliseconds; those further are set back.
    pub max_drift: u64,
}

impl Default for CrdtLimits {
    fn default() -> Self {
        Self {
            max_bytes: 1_000_000,
            max_value: 64 * 1024,
            max_depth: 64,
            max_entries: 10_000,
            max_key: 1024,
            max_replicas: 10_000,
            max_ahead: 1024,
            max_dots: 256,
            max_node: 128,
            max_drift: 60_000,
        }
    }
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was new.
    New,
    /// It had been seen: nothing is to be done.
    Replay,
}

/// The state of one CRDT: plain data, equal where the same operations have been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crdt {
    /// The latest stamp; a register has its own.
    latest: Stamp,
    seen: Seen,
    /// Operations before this time are refused.
    floor: u64,
    /// How many operations came from replicas that have been forgotten.
    forgotten: u64,
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    GCounter(PnCounter),
    PnCounter(PnCounter),
    Register(LwwRegister),
    Map(LwwMap),
    GSet(GSet),
    OrSet(OrSet),
}

/// Bytes of a state's JSON beside what grows.
const FRAME: usize = 320;

impl Crdt {
    /// One that nothing has happened to.
    pub fn new(kind: CrdtKind) -> Self {
        let content = match kind {
            CrdtKind::GCounter => Content::GCounter(PnCounter::default()),
            CrdtKind::PnCounter => Content::PnCounter(PnCounter::default()),
            CrdtKind::LwwRegister => Content::Register(LwwRegister::new()),
            CrdtKind::LwwMap => Content::Map(LwwMap::default()),
            CrdtKind::GSet => Content::GSet(GSet::default()),
            CrdtKind::OrSet => Content::OrSet(OrSet::default()),
        };
        Self { latest: Stamp::zero(), seen: Seen::default(), floor: 0, forgotten: 0, content }
    }

    /// The type.
    pub fn kind(&self) -> CrdtKind {
        match self.content {
            Content::GCounter(_) => CrdtKind::GCounter,
            Content::PnCounter(_) => CrdtKind::PnCounter,
            Content::Register(_) => CrdtKind::LwwRegister,
            Content::Map(_) => CrdtKind::LwwMap,
            Content::GSet(_) => CrdtKind::GSet,
            Content::OrSet(_) => CrdtKind::OrSet,
        }
    }

    /// What would come of `op`.
    ///
    /// # Errors
    ///
    /// Those of [`apply`](Self::apply).
    pub fn plan(&self, op: &Op, limits: &CrdtLimits) -> Result<Applied, CrdtError> {
        if op.kind != self.kind() {
            return Err(CrdtError::WrongKind { expected: self.kind(), found: op.kind });
        }
        if self.seen.contains(&op.node, op.counter) {
            self.note_growth(op, limits)?;
            return Ok(Applied::Replay);
        }
        if op.timestamp < self.floor && op.change != Change::None {
            return Err(CrdtError::Forgotten { floor: self.floor });
        }
        let growth = self.note_growth(op, limits)? + self.content_growth(op, limits)?;
        if growth > 0 && self.size().saturating_add_signed(growth) > limits.max_bytes {
            return Err(CrdtError::Limit { what: "bytes of a CRDT", limit: limits.max_bytes });
        }
        Ok(Applied::New)
    }

    /// Applies an operation, unless it has been seen.
    ///
    /// Peers that have no order may see the removal of an addition before the addition, which then is a replay that only
    /// takes away what it takes the place of. One who orders gets no such replays, and need not apply any.
    ///
    /// # Errors
    ///
    /// [`CrdtError::WrongKind`], [`CrdtError::Forgotten`], [`CrdtError::Range`] and [`CrdtError::Limit`]; nothing has
    /// changed then.
    pub fn apply(&mut self, op: &Op, limits: &CrdtLimits) -> Result<Applied, CrdtError> {
        let applied = self.plan(op, limits)?;
        self.note(op);
        if applied == Applied::New {
            self.perform(op);
        }
        Ok(applied)
    }

    /// For a server: checks `op` as it came from a client, and returns what is to be stored, applied and published. A
    /// stamp too far ahead of `now` (Unix milliseconds) is set back to it, and dots that are not known are left out, but
    /// for the replica's own earlier ones: nobody can make what others have yet to do look seen.
    ///
    /// # Errors
    ///
    /// Those of [`apply`](Self::apply), and [`CrdtError::Malformed`] for a name that belongs to version 1.
    pub fn admit(&self, mut op: Op, now: u64, limits: &CrdtLimits) -> Result<(Op, Applied), CrdtError> {
        if op.node.starts_with(V1_PREFIX) {
            return Err(CrdtError::Malformed("nodeId is reserved for version 1"));
        }
        if op.timestamp > now.saturating_add(limits.max_drift) {
            (op.timestamp, op.logical) = self.set_back(&op.node, op.counter, now);
        }
        let (node, counter) = (op.node.clone(), op.counter);
        if let (Change::Add(value, dots) | Change::Remove(value, dots), Some(set)) = (&mut op.change, self.or_set()) {
            let live: Vec<_> = set.dots(value).collect();
            dots.retain(|dot| {
                self.seen.contains(&dot.0, dot.1) || live.contains(&dot) || dot.0 == node && dot.1 < counter
            });
        }
        let applied = self.plan(&op, limits)?;
        Ok((op, applied))
    }

    /// For a server: the operation that a version 1 client's JSON means. It has no number there: it gets the next one of
    /// the replica `v1:` + `nodeId`, so that it is always new, and what it cannot say (which additions it removes) is
    /// what this state has seen. Of several within one millisecond the later arrival is the later one.
    ///
    /// # Errors
    ///
    /// Those of [`Op::parse`] and [`apply`](Self::apply).
    pub fn from_v1(&self, json: &str, now: u64, limits: &CrdtLimits) -> Result<Op, CrdtError> {
        let mut op = Op::parse_v1(json, limits, |node, timestamp| {
            let counter = self.next_counter(node);
            let time = self.seen.get(node).map_or(0, |seen| seen.time);
            let ahead = timestamp > now.saturating_add(limits.max_drift);
            let (timestamp, logical) = match timestamp {
                _ if ahead => self.set_back(node, counter, now),
                timestamp if timestamp == time => (timestamp, counter),
                timestamp => (timestamp, 0),
            };
            (counter, timestamp, logical)
        })?;
        if let Change::Add(value, dots) | Change::Remove(value, dots) = &mut op.change {
            *dots = self.dots(value);
        }
        self.plan(&op, limits)?;
        Ok(op)
    }

    /// A stamp for what claims to be from the future: now, and after what the replica did before.
    fn set_back(&self, node: &str, counter: u64, now: u64) -> (u64, u64) {
        let time = self.seen.get(node).map_or(0, |seen| seen.time);
        if time < now { (now, 0) } else { (time, counter) }
    }

    /// The number of the next operation of a replica.
    pub fn next_counter(&self, node: &str) -> u64 {
        self.seen.get(node).map_or(0, seen::Node::last) + 1
    }

    /// Whether an operation has been seen.
    pub fn has_seen(&self, node: &str, counter: u64) -> bool {
        self.seen.contains(node, counter)
    }

    /// Merges another state of the same type.
    ///
    /// # Errors
    ///
    /// [`CrdtError::WrongKind`], and [`CrdtError::Range`] when a counter would leave its range; nothing has changed then.
    pub fn merge(&mut self, other: &Self) -> Result<(), CrdtError> {
        let mut merged = self.clone();
        let (mine, theirs) =
            (History { seen: &self.seen, floor: self.floor }, History { seen: &other.seen, floor: other.floor });
        match (&mut merged.content, &other.content) {
            (Content::GCounter(counter), Content::GCounter(other_counter))
            | (Content::PnCounter(counter), Content::PnCounter(other_counter)) => {
                let mut other_counter = other_counter.clone();
                other_counter.drop_nodes(&mine.forgotten_of(&theirs));
                counter.drop_nodes(&theirs.forgotten_of(&mine));
                counter.merge(&other_counter, &self.seen, &other.seen);
                counter.check()?;
            }
            (Content::Register(register), Content::Register(other)) => register.merge(other),
            (Content::Map(map), Content::Map(entries)) => map.merge(entries, self.floor, other.floor),
            (Content::GSet(set), Content::GSet(elements)) => set.merge(elements),
            (Content::OrSet(set), Content::OrSet(elements)) => set.merge(elements, &mine, &theirs),
            _ => return Err(CrdtError::WrongKind { expected: self.kind(), found: other.kind() }),
        }
        merged.forgotten = match self.floor.cmp(&other.floor) {
            std::cmp::Ordering::Greater => self.forgotten,
            std::cmp::Ordering::Less => other.forgotten,
            std::cmp::Ordering::Equal => self.forgotten.max(other.forgotten),
        };
        merged.seen.retain(|node, seen| !theirs.has_forgotten(node, seen));
        let mut seen = other.seen.clone();
        seen.retain(|node, seen| !mine.has_forgotten(node, seen));
        merged.seen.merge(&seen);
        merged.floor = self.floor.max(other.floor);
        merged.latest = self.latest.clone().max(other.latest.clone());
        *self = merged;
        Ok(())
    }

    /// For a client of a version 1 server: takes over its state, which does not say what it has seen. Totals of counters
    /// only grow; of the rest, what was written here later than the state's stamp stands, and otherwise the server is
    /// right.
    ///
    /// # Errors
    ///
    /// [`CrdtError::WrongKind`], [`CrdtError::Range`]; nothing has changed then.
    pub fn adopt_v1(&mut self, state: &Self) -> Result<(), CrdtError> {
        let time = state.stamp().timestamp;
        match (&mut self.content, &state.content) {
            (Content::GCounter(counter), Content::GCounter(totals))
            | (Content::PnCounter(counter), Content::PnCounter(totals)) => {
                let mut merged = counter.clone();
                merged.merge_totals(totals);
                merged.check()?;
                *counter = merged;
            }
            (Content::Register(register), Content::Register(theirs)) => {
                if register.stamp.timestamp <= time {
                    register.clone_from(theirs);
                }
            }
            (Content::Map(map), Content::Map(theirs)) => map.adopt(theirs, time),
            (Content::GSet(set), Content::GSet(theirs)) => set.merge(theirs),
            (Content::OrSet(set), Content::OrSet(theirs)) => set.clone_from(theirs),
            _ => return Err(CrdtError::WrongKind { expected: self.kind(), found: state.kind() }),
        }
        self.latest = self.latest.clone().max(state.latest.clone());
        Ok(())
    }

    /// Forgets what is from before `before` (Unix milliseconds): tombstones, and replicas that have been silent since;
    /// what those contributed to a counter stays, under the name `retired`. Operations from before are refused from now
    /// on. For the one who orders the operations, or when all replicas are known to have seen what is forgotten; a clock
    /// that jumps back changes nothing.
    pub fn collect(&mut self, before: u64) {
        let before = before.min(MAX_INTEGER);
        if before <= self.floor {
            return;
        }
        self.floor = before;
        let (mut silent, count) = (Vec::new(), self.seen.count());
        self.seen.retain(|node, seen| {
            let kept = seen.time >= before;
            if !kept {
                silent.push(Arc::from(node));
            }
            kept
        });
        self.forgotten = self.forgotten.saturating_add(count - self.seen.count()).min(MAX_INTEGER);
        match &mut self.content {
            Content::GCounter(counter) | Content::PnCounter(counter) => counter.retire(&silent),
            Content::Map(map) => map.collect(before),
            Content::Register(_) | Content::GSet(_) | Content::OrSet(_) => {}
        }
    }

    /// The latest stamp that has been seen; of a register, that of its value.
    pub fn stamp(&self) -> &Stamp {
        match &self.content {
            Content::Register(register) => &register.stamp,
            _ => &self.latest,
        }
    }

    /// How many operations have been seen.
    pub fn version(&self) -> u64 {
        self.seen.count().saturating_add(self.forgotten).min(MAX_INTEGER)
    }

    /// Operations from before this time (Unix milliseconds) are refused.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// How many replicas are remembered.
    pub fn replicas(&self) -> usize {
        self.seen.len()
    }

    /// At least the bytes of [`to_json`](Self::to_json), at no cost.
    pub fn size(&self) -> usize {
        FRAME
            + quoted_len(&self.stamp().node)
            + self.seen.size()
            + match &self.content {
                Content::GCounter(counter) | Content::PnCounter(counter) => counter.size(),
                Content::Register(register) => register.size(),
                Content::Map(map) => map.size(),
                Content::GSet(set) => set.size(),
                Content::OrSet(set) => set.size(),
            }
    }

    /// A counter's value; 0 for other types.
    pub fn counter(&self) -> i64 {
        match &self.content {
            Content::GCounter(counter) | Content::PnCounter(counter) => counter.value(),
            _ => 0,
        }
    }

    /// A register's value, once it was set.
    pub fn register(&self) -> Option<&Json> {
        match &self.content {
            Content::Register(register) => register.value.as_ref(),
            _ => None,
        }
    }

    /// A map's entry.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match &self.content {
            Content::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// A map's entries, in the order of their keys' bytes.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Json)> {
        let map = if let Content::Map(map) = &self.content { Some(map) } else { None };
        let entries = map.into_iter().flat_map(LwwMap::iter);
        entries.filter_map(|(key, entry)| Some((key.as_ref(), entry.value.as_ref()?)))
    }

    /// Whether a set has an element.
    pub fn contains(&self, value: &Value) -> bool {
        let unlimited = CrdtLimits { max_value: usize::MAX, ..CrdtLimits::default() };
        Json::new(value, &unlimited).is_ok_and(|value| match &self.content {
            Content::GSet(set) => set.contains(&value),
            Content::OrSet(set) => set.contains(&value),
            _ => false,
        })
    }

    /// A set's elements, in the order of their texts.
    pub fn elements(&self) -> Vec<Json> {
        let mut elements: Vec<_> = match &self.content {
            Content::GSet(set) => set.iter().cloned().map(Json::from_text).collect(),
            Content::OrSet(set) => set.iter().map(|(text, _)| Json::from_text(text.clone())).collect(),
            _ => Vec::new(),
        };
        elements.sort();
        elements
    }

    /// What the application sees: a number, any value, an object or an array.
    pub fn value(&self) -> Value {
        match self.kind() {
            CrdtKind::GCounter | CrdtKind::PnCounter => self.counter().into(),
            CrdtKind::LwwRegister => self.register().map_or(Value::Null, Json::to_value),
            CrdtKind::LwwMap => self.entries().map(|(key, value)| (key.to_owned(), value.to_value())).collect(),
            CrdtKind::GSet | CrdtKind::OrSet => self.elements().iter().map(Json::to_value).collect(),
        }
    }

    /// The additions of an element that are live: what an operation takes the place of.
    fn dots(&self, value: &Json) -> Vec<Dot> {
        self.or_set().map_or_else(Vec::new, |set| set.dots(value).cloned().collect())
    }

    /// The additions that an operation shows to have been: not those that live though their replica was forgotten.
    fn shown<'a>(&self, op: &'a Op) -> Vec<&'a Dot> {
        let (Change::Add(value, dots) | Change::Remove(value, dots), Some(set)) = (&op.change, self.or_set()) else {
            return Vec::new();
        };
        let live: Vec<_> = set.dots(value).collect();
        dots.iter().filter(|dot| self.seen.get(&dot.0).is_some() || !live.contains(dot)).collect()
    }

    fn or_set(&self) -> Option<&OrSet> {
        if let Content::OrSet(set) = &self.content { Some(set) } else { None }
    }

    /// Checks that there is room to remember that an operation was seen. Returns by how much the size grows.
    fn note_growth(&self, op: &Op, limits: &CrdtLimits) -> Result<isize, CrdtError> {
        let mut ahead: BTreeMap<&str, usize> = BTreeMap::new();
        let own = (&op.node, op.counter);
        let shown = self.shown(op).into_iter().map(|(node, counter)| (node, *counter));
        for (node, counter) in shown.chain([own]).filter(|(node, counter)| !self.seen.contains(node, *counter)) {
            let upto = self.seen.get(node).map_or(0, |seen| seen.upto);
            let done = if node == &op.node { op.done } else { 0 };
            *ahead.entry(node).or_default() += usize::from(counter > upto.max(done).saturating_add(1));
        }
        let (mut growth, mut replicas) = (0, self.seen.len());
        for (node, ahead) in ahead {
            let known = self.seen.get(node);
            if known.is_none() {
                replicas += 1;
                growth += seen::NODE + quoted_len(node);
            }
            let after = known.map_or(0, |known| known.ahead.len()).saturating_add(ahead);
            if ahead > 0 && after > limits.max_ahead {
                return Err(CrdtError::Limit { what: "operations after a gap", limit: limits.max_ahead });
            }
            growth += seen::AHEAD * ahead;
        }
        if replicas > self.seen.len() && replicas > limits.max_replicas {
            return Err(CrdtError::Limit { what: "replicas", limit: limits.max_replicas });
        }
        Ok(growth.cast_signed())
    }

    /// Checks that the content can take the operation. Returns by how much its size grows.
    fn content_growth(&self, op: &Op, limits: &CrdtLimits) -> Result<isize, CrdtError> {
        let full = |len: usize, new: bool| {
            if new && len >= limits.max_entries {
                return Err(CrdtError::Limit { what: "entries", limit: limits.max_entries });
            }
            Ok(())
        };
        Ok(match (&self.content, &op.change) {
            (Content::GCounter(counter) | Content::PnCounter(counter), Change::Increment(_) | Change::Decrement(_)) => {
                if !counter.admits(&op.node, op.effect()) {
                    return Err(CrdtError::Range);
                }
                (g_counter::TOTAL + quoted_len(&op.node)).cast_signed()
            }
            (Content::Register(register), Change::Set(value)) => {
                let new = LwwRegister { stamp: op.stamp(), value: Some(value.clone()) };
                if new > *register { new.size().cast_signed() - register.size().cast_signed() } else { 0 }
            }
            (Content::Map(map), Change::Put(key, value)) => {
                full(map.len(), !map.contains(key))?;
                map.growth(key, &LwwRegister { stamp: op.stamp(), value: value.clone() })
            }
            (Content::GSet(set), Change::Add(value, _)) => {
                full(set.len(), !set.contains(value))?;
                if set.contains(value) { 0 } else { value.get().len().cast_signed() + 1 }
            }
            (Content::OrSet(set), Change::Add(value, dots)) => {
                full(set.len(), !set.contains(value))?;
                if set.dots(value).filter(|dot| !dots.contains(dot)).count() >= limits.max_dots {
                    return Err(CrdtError::Limit { what: "dots", limit: limits.max_dots });
                }
                set.growth(value, &op.node, dots)
            }
            _ => 0,
        })
    }

    /// Notes, and removes, the additions that an operation takes the place of.
    fn note(&mut self, op: &Op) {
        for (node, counter) in self.shown(op) {
            self.seen.mark(node, *counter, 0, op.timestamp, 0);
        }
        if let (Content::OrSet(set), Change::Add(value, dots) | Change::Remove(value, dots)) =
            (&mut self.content, &op.change)
        {
            set.remove(value.text(), dots);
        }
    }

    /// Applies an operation that is new.
    fn perform(&mut self, op: &Op) {
        self.seen.mark(&op.node, op.counter, op.done, op.timestamp, op.effect());
        match (&mut self.content, &op.change) {
            (Content::GCounter(counter) | Content::PnCounter(counter), _) => counter.apply(&op.node, op.effect()),
            (Content::Register(register), Change::Set(value)) => {
                register.merge(&LwwRegister { stamp: op.stamp(), value: Some(value.clone()) });
            }
            (Content::Map(map), Change::Put(key, value)) => {
                map.put(key, LwwRegister { stamp: op.stamp(), value: value.clone() });
            }
            (Content::GSet(set), Change::Add(value, _)) => set.add(value.text()),
            (Content::OrSet(set), Change::Add(value, _)) => set.add(value.text(), (op.node.clone(), op.counter)),
            _ => {}
        }
        if !matches!(self.content, Content::Register(_)) && op.stamp() > self.latest {
            self.latest = op.stamp();
        }
    }
}
