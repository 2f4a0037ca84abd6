//! What a history may break, and how that is told.

use std::fmt;

use super::event::{At, Event, Function, History, Id, Key, Mark, Micros};

/// A promise that was broken, with the events that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are told once here: `at` and its like are events, `read` is a final read")]
pub enum Violation {
    /// The history is no history: the recorder is wrong, not the server.
    Malformed { at: At, why: &'static str },
    /// (1) Two ids at one position.
    Forked { mark: Mark, one: At, other: At },
    /// (1) Two final reads of a stream tell different entries.
    FinalsDiffer { one: At, other: At },
    /// (1) A final read tells this entry behind one with a greater position.
    Unordered { read: At, id: Id, mark: Mark },
    /// (2) A subscription missed what is between `from` and the position of `at`.
    Gap { after: At, at: At, from: Mark },
    /// (2) A subscription went back from `from`, or was given the same again.
    StepBack { after: At, at: At, from: Mark },
    /// (2) What was told to be recovered did not go on right behind what the process had.
    NotContinued { subscribe: At, at: At, since: Mark },
    /// (3) An entry that was acknowledged or observed at `seen` is not in the stream at last.
    Lost { id: Id, seen: At, read: At },
    /// (3) A final read has nothing at positions between two of one life.
    Hole { read: At, after: Mark, next: Mark },
    /// (3) Writes to a stream were acknowledged, and the history has no final read of the stream.
    Unread { key: Key, seen: At },
    /// (4) One write was appended twice.
    Doubled { id: Id, one: At, other: At },
    /// (5) An entry that nobody wrote, or wrote only later, or to another stream.
    Phantom { id: Id, at: At },
    /// (5) A write that failed for certain is there.
    Failed { id: Id, failed: At, at: At },
    /// (6) `invoked` began after `acknowledged`, and its entry is in front.
    RealTime { acknowledged: At, invoked: At },
    /// (7) A value that is not what the log gives at its position.
    WrongValue { at: At, mark: Mark, expected: u64, found: u64 },
    /// (7) Two values at one position.
    Diverged { mark: Mark, one: At, other: At },
    /// (8) A member is shown long after it was gone, or never came.
    Ghost { id: Id, at: At },
    /// (8) A member is not shown though it has long been there.
    Missing { id: Id, joined: At, at: At },
    /// (9) More was granted between two grants than a window allows.
    OverGranted { first: At, last: At, granted: u64, limit: u64 },
    /// (10) A process received a message twice.
    Redelivered { id: Id, one: At, other: At },
    /// (10) A process received a message after a later one of the same sender.
    Disordered { after: At, at: At },
    /// (10) A process received a message that was not sent to the address, or failed for certain.
    Unsent { id: Id, at: At },
}

impl Violation {
    /// The number of the promise in SCALE 4.9; 0 is a history that cannot be checked.
    pub fn clause(&self) -> u8 {
        match self {
            Self::Malformed { .. } => 0,
            Self::Forked { .. } | Self::FinalsDiffer { .. } | Self::Unordered { .. } => 1,
            Self::Gap { .. } | Self::StepBack { .. } | Self::NotContinued { .. } => 2,
            Self::Lost { .. } | Self::Hole { .. } | Self::Unread { .. } => 3,
            Self::Doubled { .. } => 4,
            Self::Phantom { .. } | Self::Failed { .. } => 5,
            Self::RealTime { .. } => 6,
            Self::WrongValue { .. } | Self::Diverged { .. } => 7,
            Self::Ghost { .. } | Self::Missing { .. } => 8,
            Self::OverGranted { .. } => 9,
            Self::Redelivered { .. } | Self::Disordered { .. } | Self::Unsent { .. } => 10,
        }
    }

    /// The events that show it.
    pub fn events(&self) -> Vec<At> {
        match *self {
            Self::Malformed { at, .. }
            | Self::Phantom { at, .. }
            | Self::WrongValue { at, .. }
            | Self::Ghost { at, .. }
            | Self::Unsent { at, .. } => vec![at],
            Self::Unordered { read, .. } | Self::Hole { read, .. } => vec![read],
            Self::Unread { seen, .. } => vec![seen],
            Self::Forked { one, other, .. }
            | Self::FinalsDiffer { one, other }
            | Self::Doubled { one, other, .. }
            | Self::Diverged { one, other, .. }
            | Self::Redelivered { one, other, .. } => vec![one, other],
            Self::Gap { after, at, .. } | Self::StepBack { after, at, .. } | Self::Disordered { after, at } => {
                vec![after, at]
            }
            Self::NotContinued { subscribe, at, .. } => vec![subscribe, at],
            Self::Lost { seen, read, .. } => vec![seen, read],
            Self::Failed { failed, at, .. } => vec![failed, at],
            Self::RealTime { acknowledged, invoked } => vec![acknowledged, invoked],
            Self::Missing { joined, at, .. } => vec![joined, at],
            Self::OverGranted { first, last, .. } => vec![first, last],
        }
    }

    /// The id that the story is about, if there is one.
    fn id(&self) -> Option<Id> {
        match *self {
            Self::Unordered { id, .. }
            | Self::Lost { id, .. }
            | Self::Doubled { id, .. }
            | Self::Phantom { id, .. }
            | Self::Failed { id, .. }
            | Self::Ghost { id, .. }
            | Self::Missing { id, .. }
            | Self::Redelivered { id, .. }
            | Self::Unsent { id, .. } => Some(id),
            _ => None,
        }
    }

    /// A sentence and the events, for a person.
    pub fn story<'a>(&'a self, history: &'a History) -> impl fmt::Display + 'a {
        Story { violation: self, history }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}) ", self.clause())?;
        match self {
            Self::Malformed { why, .. } => write!(f, "malformed history: {why}"),
            Self::Forked { mark, .. } => write!(f, "two entries at {mark}"),
            Self::FinalsDiffer { .. } => f.write_str("final reads differ"),
            Self::Unordered { id, mark, .. } => write!(f, "a final read has {id} of {mark} behind a greater position"),
            Self::Gap { from, .. } => write!(f, "a subscription has a gap behind {from}"),
            Self::StepBack { from, .. } => write!(f, "a subscription steps back from {from}"),
            Self::NotContinued { since, .. } => write!(f, "recovered, but not continued right behind {since}"),
            Self::Lost { id, .. } => write!(f, "{id} was acknowledged or observed and is lost"),
            Self::Hole { after, next, .. } => write!(f, "a final read has nothing between {after} and {next}"),
            Self::Unread { .. } => f.write_str("a stream with acknowledged writes has no final read"),
            Self::Doubled { id, .. } => write!(f, "{id} was appended twice"),
            Self::Phantom { id, .. } => write!(f, "{id} is an entry, and nobody had written it"),
            Self::Failed { id, .. } => write!(f, "{id} failed, and is an entry"),
            Self::RealTime { .. } => f.write_str("a write is in front of one acknowledged before it began"),
            Self::WrongValue { mark, expected, found, .. } => {
                write!(f, "the value at {mark} has hash {found:x}, the log gives {expected:x}")
            }
            Self::Diverged { mark, .. } => write!(f, "two values at {mark}"),
            Self::Ghost { id, .. } => write!(f, "member {id} is shown and long gone"),
            Self::Missing { id, .. } => write!(f, "member {id} is not shown and long there"),
            Self::OverGranted { granted, limit, .. } => write!(f, "{granted} granted in a window of {limit}"),
            Self::Redelivered { id, .. } => write!(f, "message {id} was received twice"),
            Self::Disordered { .. } => f.write_str("a message was received after a later one of its sender"),
            Self::Unsent { id, .. } => write!(f, "message {id} was received and not sent"),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id {}", self.0)
    }
}

/// Lines of a story that only give its background; those that name events come always.
const BACKGROUND: usize = 12;

struct Story<'a> {
    violation: &'a Violation,
    history: &'a History,
}

impl fmt::Display for Story<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.violation)?;
        let named = self.violation.events();
        let mut told = named.clone();
        if let Some(id) = self.violation.id() {
            let about = self.history.events.iter().enumerate().filter(|(_, event)| touches(&event.function, id));
            told.extend(about.map(|(at, _)| at).take(BACKGROUND));
        }
        // Between the events of one time the order of the history holds.
        told.sort_unstable();
        told.dedup();
        for at in told {
            let Some(event) = self.history.events.get(at) else { continue };
            let sign = if named.contains(&at) { '>' } else { ' ' };
            writeln!(f, "{sign} #{at:<6} {}", Told { event, history: self.history, about: self.violation.id() })?;
        }
        Ok(())
    }
}

/// Whether the event names this id by itself. Final reads and views name many and are told only where they are at fault.
fn touches(function: &Function, about: Id) -> bool {
    match function {
        Function::Write { id, .. }
        | Function::Observe { id, .. }
        | Function::Join { id }
        | Function::Leave { id }
        | Function::Grant { id, .. }
        | Function::Send { id }
        | Function::Receive { id } => *id == about,
        _ => false,
    }
}

struct Told<'a> {
    event: &'a Event,
    history: &'a History,
    about: Option<Id>,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { time, process, node, kind, key, function } = self.event;
        write!(f, "{} p{process}@n{node} {:<6} {} ", Clock(*time), format!("{kind:?}"), self.history.name(*key))?;
        match function {
            // These may be long: as much as is at stake.
            Function::ReadFinal { entries } => {
                let place = self.about.and_then(|about| entries.iter().position(|entry| entry.id == about));
                write!(f, "read-final of {} entries", entries.len())?;
                place.map_or(Ok(()), |place| write!(f, ", {:?} is number {place}", entries[place]))
            }
            Function::Members { ids } => write!(f, "members {:?}", ids.iter().map(|id| id.0).collect::<Vec<_>>()),
            Function::Write { how, id, mark: Some(mark) } => write!(f, "{how:?} {id} at {mark}"),
            Function::Write { how, id, mark: None } => write!(f, "{how:?} {id}"),
            Function::Observe { id, mark, .. } => write!(f, "observe {id} at {mark}"),
            Function::Subscribe { since, recovered, mark, .. } => {
                write!(f, "subscribe at {mark}, recovered {recovered}, since ")?;
                match since {
                    Some(since) => write!(f, "{since}"),
                    None => f.write_str("nothing"),
                }
            }
            Function::Snapshot { mark, .. } => write!(f, "snapshot at {mark}"),
            other => write!(f, "{other:?}"),
        }
    }
}

struct Clock(Micros);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}
