//! Operations: checked first, then applied, so that one that is refused changes nothing.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Change, Content, Crdt, CrdtError, CrdtLimits, Dot, LwwRegister, MAX_INTEGER, Op, Stamp, g_counter, op::V1_PREFIX,
    seen, value::quoted_len,
};

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was new.
    New,
    /// It had been seen: nothing is to be done.
    Replay,
}

fn check_amount(op: &Op, limits: &CrdtLimits) -> Result<(), CrdtError> {
    if op.effect().unsigned_abs() > limits.max_amount {
        return Err(CrdtError::Amount { limit: limits.max_amount });
    }
    Ok(())
}

impl Crdt {
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
        let latest = &self.stamp().node;
        let name = if op.node == *latest { 0 } else { quoted_len(&op.node).saturating_sub(quoted_len(latest)) };
        let growth = self.note_growth(op, limits)? + self.content_growth(op, limits)? + name.cast_signed();
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

    /// Applies an operation that is new, as planning it on this very state has told: by [`compose`](Self::compose),
    /// [`admit`](Self::admit) or [`from_v1`](Self::from_v1). Applied to another state, it may be beyond the limits, or count twice.
    pub fn apply_planned(&mut self, op: &Op) {
        debug_assert!(!self.seen.contains(&op.node, op.counter), "planned on another state");
        self.note(op);
        self.perform(op);
    }

    /// For a server: checks `op` as it came from a client, and returns what is to be stored, applied and published. A
    /// stamp too far ahead of `now` (Unix milliseconds) is set back, and dots that are not known are left out, but for the
    /// replica's own earlier ones: nobody can make what others have yet to do look seen. Whether the client is the replica
    /// is for the server to know; where it does not, see [`within`](Self::within).
    ///
    /// # Errors
    ///
    /// Those of [`apply`](Self::apply), [`CrdtError::Malformed`] for a name that belongs to version 1, and
    /// [`CrdtError::Amount`].
    pub fn admit(&self, mut op: Op, now: u64, limits: &CrdtLimits) -> Result<(Op, Applied), CrdtError> {
        if op.node.starts_with(V1_PREFIX) {
            return Err(CrdtError::Malformed("nodeId is reserved for version 1"));
        }
        check_amount(&op, limits)?;
        if op.timestamp > now.saturating_add(limits.max_drift) {
            (op.timestamp, op.logical) = self.set_back(now);
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
            let (counter, done) = self.number(node, now);
            let time = self.seen.get(node).map_or(0, |seen| seen.time);
            let stamp = match timestamp {
                _ if timestamp > now.saturating_add(limits.max_drift) => self.set_back(now),
                _ if timestamp == time => (timestamp, counter),
                _ => (timestamp, 0),
            };
            ((counter, done), stamp)
        })?;
        if let Change::Add(value, dots) | Change::Remove(value, dots) = &mut op.change {
            *dots = self.dots(value);
        }
        check_amount(&op, limits)?;
        self.plan(&op, limits)?;
        Ok(op)
    }

    /// For a server: checks that `op` is no further ahead of what was seen of its replica than operations may be after a
    /// gap. `done` marks others as seen, so that a stranger could make all that the replica has yet to do look seen.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Limit`]. A replica that is not remembered may begin anywhere.
    pub fn within(&self, op: &Op, limits: &CrdtLimits) -> Result<(), CrdtError> {
        let ahead = self.seen.get(&op.node).map_or(0, |seen| op.counter.saturating_sub(seen.upto));
        if ahead > limits.max_ahead as u64 {
            return Err(CrdtError::Limit { what: "operations after those seen", limit: limits.max_ahead });
        }
        Ok(())
    }

    /// A stamp for what claims to be from the future: now, or after everything that was seen, should the clock have
    /// stepped back since.
    fn set_back(&self, now: u64) -> (u64, u64) {
        match self.stamp() {
            latest if latest.timestamp < now => (now, 0),
            latest if latest.logical < MAX_INTEGER => (latest.timestamp, latest.logical + 1),
            latest => (latest.timestamp + 1, 0),
        }
    }

    /// The additions that an operation shows to have been: not those that live though their replica was forgotten.
    fn shown<'a>(&self, op: &'a Op) -> Vec<&'a Dot> {
        let (Change::Add(value, dots) | Change::Remove(value, dots), Some(set)) = (&op.change, self.or_set()) else {
            return Vec::new();
        };
        let live: Vec<_> = set.dots(value).collect();
        dots.iter().filter(|dot| self.seen.get(&dot.0).is_some() || !live.contains(dot)).collect()
    }

    /// Checks that there is room to remember that an operation was seen. Returns by how much the size grows.
    fn note_growth(&self, op: &Op, limits: &CrdtLimits) -> Result<isize, CrdtError> {
        let ahead_of = |node: &Arc<str>, counter| {
            let known = self.seen.get(node);
            let is_seen = known.is_some_and(|seen| seen.contains(counter));
            let done = if node == &op.node { op.done } else { 0 };
            let upto = known.map_or(0, |seen| seen.upto).max(done);
            (!is_seen).then(|| usize::from(counter > upto.saturating_add(1)))
        };
        let mut ahead: BTreeMap<&str, usize> = BTreeMap::new();
        for (node, counter) in self.shown(op) {
            if let Some(more) = ahead_of(node, *counter) {
                *ahead.entry(node).or_default() += more;
            }
        }
        // Most operations show no others, and need no map.
        let own = ahead.remove(&*op.node).into_iter().chain(ahead_of(&op.node, op.counter)).reduce(|a, b| a + b);
        let (mut growth, mut replicas) = (0, self.seen.len());
        for (node, ahead) in ahead.into_iter().chain(own.map(|own| (&*op.node, own))) {
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
        // Looking for it costs more than all else where there are many.
        let full = |len: usize, is_new: &dyn Fn() -> bool| {
            if len >= limits.max_entries && is_new() {
                return Err(CrdtError::Limit { what: "entries", limit: limits.max_entries });
            }
            Ok(())
        };
        Ok(match (&self.content, &op.change) {
            (Content::GCounter(counter) | Content::PnCounter(counter), Change::Increment(_) | Change::Decrement(_)) => {
                if !counter.admits(&op.node, op.effect()) {
                    return Err(CrdtError::Range);
                }
                if counter.has(&op.node, op.effect()) {
                    return Ok(0);
                }
                (g_counter::TOTAL + quoted_len(&op.node)).cast_signed()
            }
            (Content::Register(register), Change::Set(value)) => {
                let new = LwwRegister { stamp: op.stamp(), value: Some(value.clone()) };
                if new > *register { new.size().cast_signed() - register.size().cast_signed() } else { 0 }
            }
            (Content::Map(map), Change::Put(key, value)) => {
                full(map.len(), &|| !map.contains(key))?;
                map.growth(key, &LwwRegister { stamp: op.stamp(), value: value.clone() })
            }
            (Content::GSet(set), Change::Add(value, _)) => {
                full(set.len(), &|| !set.contains(value))?;
                if set.contains(value) { 0 } else { value.get().len().cast_signed() + 1 }
            }
            (Content::OrSet(set), Change::Add(value, dots)) => {
                full(set.len(), &|| !set.contains(value))?;
                if set.dots(value).filter(|dot| !dots.contains(dot)).count() >= limits.max_dots {
                    return Err(CrdtError::Limit { what: "dots", limit: limits.max_dots });
                }
                set.growth(value, &op.node, dots)
            }
            (Content::OrSet(set), Change::Remove(value, dots)) => -set.freed(value, dots).cast_signed(),
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
        let skipped = self.seen.mark(&op.node, op.counter, op.done, op.timestamp, op.effect());
        self.forgotten -= i128::from(skipped);
        // All that a replica has written has its name in common.
        let stamp = Stamp { node: self.seen.name(&op.node), ..op.stamp() };
        match (&mut self.content, &op.change) {
            (Content::GCounter(counter) | Content::PnCounter(counter), _) => counter.apply(&op.node, op.effect()),
            (Content::Register(register), Change::Set(value)) => {
                register.merge(LwwRegister { stamp: stamp.clone(), value: Some(value.clone()) });
            }
            (Content::Map(map), Change::Put(key, value)) => {
                map.put(key.into(), LwwRegister { stamp: stamp.clone(), value: value.clone() });
            }
            (Content::GSet(set), Change::Add(value, _)) => set.add(value.text()),
            (Content::OrSet(set), Change::Add(value, _)) => set.add(value.text(), (stamp.node.clone(), op.counter)),
            _ => {}
        }
        if !matches!(self.content, Content::Register(_)) && stamp > self.latest {
            self.latest = stamp;
        }
    }
}
