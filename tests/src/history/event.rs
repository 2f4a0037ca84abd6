//! What a run tells: events of clients, followers and faults, in the order of time.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Microseconds since the run began.
pub type Micros = u64;

/// The index of an event in its history.
pub type At = usize;

/// Names a write, a message, a grant or a member; unique in its history, below 2^53 where JavaScript writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(pub u64);

/// A name kept once by the history: of a stream, a room, a quota or an address, by what the event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub(super) u32);

impl Key {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A position in a life of a stream. The first entry of a stream's first life has `seq` 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mark {
    /// The life; a later one is greater.
    pub epoch: u64,
    /// Counted in this life.
    pub seq: u64,
}

impl Mark {
    /// The position right behind.
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, seq: self.seq + 1 }
    }
}

/// How far an operation is. A write that was only invoked counts as `Info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The process begins it.
    Invoke,
    /// Done, for certain. Also the kind of what is no operation, as `Observe` and faults.
    Ok,
    /// Not done, for certain.
    Fail,
    /// The process does not know.
    Info,
}

/// What a write does to the value of its stream; see [`Digest`](super::Digest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The value is a list: the id goes to its end.
    Append,
    /// The value is a set: the id is added.
    Edit,
    /// The id becomes the value.
    Set,
    /// An operation of a CRDT or an update of a document. Such a stream is not replayed: values at equal marks are equal.
    Merge,
}

/// An entry as a final read tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The write.
    pub id: Id,
    /// Where the write was appended, in the life of that time; `None` if the reader cannot know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "kebab-case")]
pub enum Function {
    /// A change of a stream: `Invoke`, then at most one of the other kinds; `mark` with `Ok`, where the answer tells it.
    Write {
        /// What the change does.
        how: How,
        /// Names the change.
        id: Id,
        /// Where the entry is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<Mark>,
    },
    /// A process follows a stream from here on, anew or again.
    Subscribe {
        /// What the process had.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Mark>,
        /// Whether everything after `since` follows; if not, the process stands at `mark`.
        recovered: bool,
        /// Where the stream stood.
        mark: Mark,
        /// Of the value at `mark`, if one came.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<u64>,
    },
    /// A process that follows was given the whole value.
    Snapshot {
        /// Where the process stands now.
        mark: Mark,
        /// Of the value.
        hash: u64,
    },
    /// A process that follows was given an entry.
    Observe {
        /// The write.
        id: Id,
        /// Where the entry is.
        mark: Mark,
        /// Of the value behind it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hash: Option<u64>,
    },
    /// Everything in the stream when the run has come to rest, through the event's node: entries of all lives in order.
    ReadFinal {
        /// From the first write that is left.
        entries: Vec<Placed>,
    },
    /// A member enters a room, on the event's node.
    Join {
        /// The member.
        id: Id,
    },
    /// A member leaves a room, or its connection was closed.
    Leave {
        /// The member.
        id: Id,
    },
    /// A process was shown who is in a room.
    Members {
        /// In any order.
        ids: Vec<Id>,
    },
    /// A process asks a quota; `Ok` is granted, `Fail` is refused.
    Grant {
        /// Names the question.
        id: Id,
        /// Units asked for.
        cost: u64,
        /// Units in a window.
        limit: u64,
        /// Length of the window.
        window: Micros,
    },
    /// A process sends a message to the address.
    Send {
        /// Names the message.
        id: Id,
    },
    /// A process has received a message for the address.
    Receive {
        /// Names the message.
        id: Id,
    },
    /// The store begins a new generation: every stream has a new life.
    Generation,
    /// The event's node is gone with its connections.
    Killed,
    /// The event's node stands still or has lost its store.
    Frozen,
    /// The event's node goes on.
    Thawed,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When. Only what is strictly earlier is before: a schedule loses nothing if its clock moves with each event.
    pub time: Micros,
    /// Who: a client, or a node as a follower. One process follows a stream at most once at a time.
    pub process: u32,
    /// Through which node.
    pub node: u32,
    /// How far.
    pub kind: Kind,
    /// The stream, room, quota or address; [`Key::default`] for faults.
    pub key: Key,
    /// What.
    pub function: Function,
}

/// Everything that happened in a run, in the order of time, and the names in it.
///
/// A stream that lives on one node alone has another name on each; one that is removed and made again has a new name.
#[derive(Clone, Debug)]
pub struct History {
    /// In the order of time.
    pub events: Vec<Event>,
    names: Vec<String>,
    keys: HashMap<String, Key>,
}

impl Default for History {
    fn default() -> Self {
        let mut history = Self { events: Vec::new(), names: Vec::new(), keys: HashMap::new() };
        history.key("");
        history
    }
}

impl History {
    /// The key of a name, the same for the same name.
    pub fn key(&mut self, name: &str) -> Key {
        if let Some(&key) = self.keys.get(name) {
            return key;
        }
        let key = Key(self.names.len() as u32);
        self.names.push(name.to_owned());
        self.keys.insert(name.to_owned(), key);
        key
    }

    /// The name of a key of this history.
    pub fn name(&self, key: Key) -> &str {
        self.names.get(key.index()).map_or("?", String::as_str)
    }

    /// How many names there are.
    pub(super) fn keys(&self) -> usize {
        self.names.len()
    }

    /// Orders the events by time, as needed after several files were read; those of one time keep their order.
    pub fn sort(&mut self) {
        self.events.sort_by_key(|event| event.time);
    }
}
