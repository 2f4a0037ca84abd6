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
//! let op = ann.edit(1_000, Edit::Increment(5)).unwrap().unwrap();
//! assert_eq!(ann.current().counter(), 5, "at once");
//! let (op, _) = server.admit(op, 1_010, &limits).unwrap(); // checked; now it may be stored, applied and published
//! server.apply(&op, &limits).unwrap();
//! ann.remote(&op).unwrap();
//! assert_eq!((server.counter(), ann.pending()), (5, 0));
//! assert_eq!(ann.current(), &server);
//! ```

mod apply;
mod edit;
mod error;
mod g_counter;
mod g_set;
mod hlc;
mod key;
mod lww_map;
mod lww_register;
mod merge;
mod op;
mod or_set;
mod pn_counter;
mod replica;
mod seen;
mod state;
#[cfg(test)]
mod tests;
mod value;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use apply::Applied;
pub use edit::Edit;
pub use error::CrdtError;
pub use hlc::{Hlc, Stamp};
pub use op::{Change, Dot, Op};
pub use replica::Replica;
pub use value::{Json, MAX_INTEGER};

use g_set::GSet;
use lww_map::LwwMap;
use lww_register::LwwRegister;
use or_set::OrSet;
use pn_counter::PnCounter;
use seen::Seen;
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
    /// The most by which one operation of a client changes a counter.
    pub max_amount: u64,
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
            max_amount: 1 << 32,
        }
    }
}

/// The state of one CRDT: plain data, equal where the same operations have been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crdt {
    /// The latest stamp; a register has its own.
    latest: Stamp,
    seen: Seen,
    /// Operations before this time are refused.
    floor: u64,
    /// How many operations came from replicas that have been forgotten, less those that count as seen and never came.
    forgotten: i128,
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

    /// The number of the latest operation of a replica.
    fn last(&self, node: &str) -> u64 {
        self.seen.get(node).map_or(0, seen::Node::last)
    }

    /// The number of the next operation of a replica that keeps no count of its own, and up to which its operations are
    /// done. One that may have been forgotten goes on from the clock: nobody makes an operation in each millisecond.
    fn number(&self, node: &str, now: u64) -> (u64, u64) {
        match self.last(node) {
            0 if self.floor > 0 => (now.max(1), now.max(1) - 1),
            last => (last + 1, 0),
        }
    }

    /// Whether an operation has been seen.
    pub fn has_seen(&self, node: &str, counter: u64) -> bool {
        self.seen.contains(node, counter)
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
        let count = self.seen.count() + self.forgotten;
        u64::try_from(count.max(0)).unwrap_or(MAX_INTEGER).min(MAX_INTEGER)
    }

    /// Operations from before this time (Unix milliseconds) are refused.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether a replica is remembered: one of its operations was seen, and not forgotten since.
    pub fn remembers(&self, node: &str) -> bool {
        self.seen.get(node).is_some()
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
        entries.filter_map(|(key, entry)| Some((key, entry.value.as_ref()?)))
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

    fn or_set(&self) -> Option<&OrSet> {
        if let Content::OrSet(set) = &self.content { Some(set) } else { None }
    }
}
