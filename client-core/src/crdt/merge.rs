//! States: merged with each other, and relieved of what nobody needs any more.

use std::cmp::Ordering;

use super::{Content, Crdt, CrdtError, MAX_INTEGER, seen::History};

/// How much longer than their operations replicas are remembered; milliseconds.
const DAY: u64 = 24 * 3_600_000;

impl Crdt {
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
            (Content::Register(register), Content::Register(other)) => register.merge(other.clone()),
            (Content::Map(map), Content::Map(entries)) => map.merge(entries, self.floor, other.floor),
            (Content::GSet(set), Content::GSet(elements)) => set.merge(elements),
            (Content::OrSet(set), Content::OrSet(elements)) => set.merge(elements, &mine, &theirs),
            _ => return Err(CrdtError::WrongKind { expected: self.kind(), found: other.kind() }),
        }
        merged.forgotten = match self.floor.cmp(&other.floor) {
            Ordering::Greater => self.forgotten,
            Ordering::Less => other.forgotten,
            Ordering::Equal => self.forgotten.max(other.forgotten),
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

    /// Forgets what is from before `before` (Unix milliseconds): tombstones, and, a day later, replicas that have been
    /// silent; what those contributed to a counter stays, under the name `retired`. Operations from before are refused from
    /// now on. For the one who orders the operations, or when all replicas are known to have seen what is forgotten; a
    /// clock that jumps back changes nothing.
    ///
    /// An operation that comes again when its replica has been forgotten (its answer was lost) is known by its stamp, which
    /// a clock that is ahead may have made too late: hence the day.
    pub fn collect(&mut self, before: u64) {
        self.forget(before, DAY);
    }

    /// The same where there is a crowd of replicas: they are remembered no more than `longer` milliseconds longer.
    pub fn forget(&mut self, before: u64, longer: u64) {
        let longer = longer.min(DAY);
        let before = before.min(MAX_INTEGER);
        if before <= self.floor {
            return;
        }
        self.floor = before;
        let (count, content) = (self.seen.count(), &mut self.content);
        self.seen.retain(|node, seen| {
            let silent = seen.time < before.saturating_sub(longer);
            let forgotten = silent
                && match content {
                    Content::GCounter(counter) | Content::PnCounter(counter) => counter.retire(node),
                    _ => true,
                };
            !forgotten
        });
        self.forgotten += count - self.seen.count();
        if let Content::Map(map) = content {
            map.collect(before);
        }
    }
}
