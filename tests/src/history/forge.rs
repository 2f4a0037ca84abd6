//! Forgeries: each breaks one promise in a correct history, as a wrong server or a wrong recorder would.

mod following;
mod log;
mod service;

use std::collections::BTreeMap;

use super::event::{At, Event, Function, History, How, Id, Key, Kind, Mark, Placed};
use super::{Promises, Violation};
use crate::random::Random;

/// A way to break a history.
pub struct Forgery {
    /// What is wrong then.
    pub name: &'static str,
    /// Breaks the history, or tells that there is nothing in it to break.
    pub apply: fn(&mut Forge<'_>) -> Option<()>,
    /// The violation that has to be found.
    pub breaks: fn(&Violation) -> bool,
    /// Other promises that this cannot leave whole.
    pub besides: &'static [u8],
}

macro_rules! forgery {
    ($name:literal, $apply:path, $kind:ident) => {
        forgery!($name, $apply, $kind, [])
    };
    ($name:literal, $apply:path, $kind:ident, $besides:expr) => {
        Forgery {
            name: $name,
            apply: |forge| $apply(forge),
            breaks: |found| matches!(found, Violation::$kind { .. }),
            besides: &$besides,
        }
    };
}

/// All of them.
pub const FORGERIES: &[Forgery] = &[
    forgery!("a write ends that was not invoked", Forge::uninvoked, Malformed),
    forgery!("a follower has another entry at a position", Forge::forked, Forked, [3, 7]),
    forgery!("two entries swapped in one node's final read", Forge::swapped_read, FinalsDiffer, [3, 4, 6, 7]),
    forgery!("the last entry missing in one node's final read", Forge::short_read, FinalsDiffer, [3, 7]),
    forgery!("positions of a final read out of order", Forge::unordered, Unordered, [6, 7]),
    forgery!("an entry not delivered", Forge::dropped, Gap),
    forgery!("an entry delivered twice", Forge::repeated, StepBack),
    forgery!("an older entry delivered again", Forge::step_back, StepBack),
    forgery!("an older value after a newer one", Forge::value_back, StepBack),
    forgery!("a gap behind what was recovered", Forge::gap_recovered, NotContinued),
    forgery!("recovered at a position that lies before", Forge::recovered_behind, NotContinued),
    forgery!("an acknowledged entry missing in the end", Forge::lost, Lost, [7]),
    forgery!("an observed entry in doubt missing in the end", Forge::lost_observed, Lost, [7]),
    forgery!("a position left out in the end", Forge::hole, Hole, [7]),
    forgery!("a stream never read in the end", Forge::unread, Unread),
    forgery!("an entry appended twice", Forge::doubled, Doubled, [1, 7]),
    forgery!("an entry delivered at two positions", Forge::doubled_delivery, Doubled),
    forgery!("an entry that nobody wrote", Forge::phantom, Phantom),
    forgery!("an entry of another stream", Forge::misplaced, Phantom),
    forgery!("a failed write is there", Forge::failed, Failed),
    forgery!("two writes in the order against real time", Forge::against_time, RealTime, [5]),
    forgery!("a follower's value wrong", Forge::wrong_value, WrongValue),
    forgery!("all values at a position equal and wrong", Forge::wrong_values, WrongValue),
    forgery!("two replicas of a document differ", Forge::diverged, Diverged),
    forgery!("a member shown that never came", Forge::stranger, Ghost),
    forgery!("a member shown long after it left", Forge::ghost, Ghost),
    forgery!("a member not shown", Forge::missing, Missing),
    forgery!("more granted than the limit", Forge::over_granted, OverGranted),
    forgery!("a message received twice", Forge::redelivered, Redelivered),
    forgery!("messages of a sender received out of order", Forge::disordered, Disordered),
    forgery!("a message received that was not sent", Forge::unsent, Unsent),
];

/// A history under forgery.
pub struct Forge<'a> {
    /// The history.
    pub history: &'a mut History,
    /// Chooses what is broken.
    pub random: &'a mut Random,
    /// What was promised.
    pub promises: &'a Promises,
}

/// A node and a process that take no part in generated histories.
const STRANGER: u32 = 900;

impl Forge<'_> {
    fn choose<T>(&mut self, mut from: Vec<T>) -> Option<T> {
        let bound = from.len() as u64;
        (bound > 0).then(|| from.swap_remove(self.random.below(bound) as usize))
    }

    fn event(&self, at: At) -> &Event {
        &self.history.events[at]
    }

    /// An id that is nowhere.
    fn fresh(&mut self) -> Id {
        Id((1 << 40) + self.random.below(1 << 30))
    }

    fn all(&self, wanted: impl Fn(&Event) -> bool) -> Vec<At> {
        let events = self.history.events.iter().enumerate();
        events.filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect()
    }

    /// Adds an event right behind another, at the same time, by the same process unless changed.
    fn insert_behind(&mut self, at: At, change: impl FnOnce(&mut Event)) {
        let mut event = self.event(at).clone();
        change(&mut event);
        self.history.events.insert(at + 1, event);
    }

    /// Adds an event at the end.
    fn push(&mut self, key: Key, kind: Kind, function: Function) {
        let time = self.history.events.last().map_or(0, |event| event.time);
        let (process, node) = (STRANGER, STRANGER);
        self.history.events.push(Event { time, process, node, kind, key, function });
    }

    fn observes(&self, at: At) -> Option<(Id, Mark)> {
        match self.event(at).function {
            Function::Observe { id, mark, .. } => Some((id, mark)),
            _ => None,
        }
    }

    fn finals(&mut self, key: Key) -> impl Iterator<Item = &mut Vec<Placed>> {
        self.history.events.iter_mut().filter(move |event| event.key == key).filter_map(|event| {
            match &mut event.function {
                Function::ReadFinal { entries } => Some(entries),
                _ => None,
            }
        })
    }

    fn first_final(&self, key: Key) -> &[Placed] {
        let mut events = self.history.events.iter().filter(|event| event.key == key);
        events
            .find_map(
                |event| if let Function::ReadFinal { entries } = &event.function { Some(&entries[..]) } else { None },
            )
            .unwrap_or(&[])
    }

    /// Acknowledged writes that no generation may take: the invocation, the end, the id.
    fn safe(&self) -> Vec<(At, At, Id)> {
        let last = self.all(|event| event.function == Function::Generation).last().map_or(0, |&at| self.event(at).time);
        let mut invoked = BTreeMap::new();
        let mut safe = Vec::new();
        for (at, event) in self.history.events.iter().enumerate() {
            let Function::Write { id, .. } = event.function else { continue };
            match event.kind {
                Kind::Invoke => _ = invoked.insert(id, at),
                Kind::Ok if self.event(invoked[&id]).time > last => safe.push((invoked[&id], at, id)),
                _ => {}
            }
        }
        safe
    }

    fn how(&self, key: Key) -> Option<How> {
        let mut events = self.history.events.iter().filter(|event| event.key == key);
        events.find_map(|event| if let Function::Write { how, .. } = event.function { Some(how) } else { None })
    }
}

fn follows(function: &Function) -> bool {
    matches!(function, Function::Observe { .. } | Function::Subscribe { .. } | Function::Snapshot { .. })
}

fn value(function: &Function) -> Option<(Mark, u64)> {
    match *function {
        Function::Observe { mark, hash: Some(hash), .. }
        | Function::Subscribe { mark, hash: Some(hash), .. }
        | Function::Snapshot { mark, hash } => Some((mark, hash)),
        _ => None,
    }
}
