//! Forgeries of what was written and of what is there in the end.

use std::collections::BTreeMap;

use super::super::event::{At, Event, Function, Id, Key, Kind, Mark, Placed};
use super::{Forge, STRANGER, follows};

impl Forge<'_> {
    pub(super) fn uninvoked(&mut self) -> Option<()> {
        let writes = self.all(|event| matches!(event.function, Function::Write { .. }) && event.kind == Kind::Ok);
        let Function::Write { id: gone, .. } = self.choose(writes).map(|at| self.event(at).function.clone())? else {
            return None;
        };
        self.history.events.retain(|event| {
            event.kind != Kind::Invoke || !matches!(event.function, Function::Write { id, .. } if id == gone)
        });
        Some(())
    }

    pub(super) fn forked(&mut self) -> Option<()> {
        let told = |event: &Event| match event.function {
            Function::Observe { mark, .. } => Some((event.key, mark)),
            _ => None,
        };
        let mut tellers: BTreeMap<(Key, Mark), Vec<At>> = BTreeMap::new();
        for (at, event) in self.history.events.iter().enumerate() {
            if let Some(place) = told(event) {
                tellers.entry(place).or_default().push(at);
            }
        }
        let several = tellers.into_values().filter(|tellers| tellers.len() > 1).flatten().collect();
        let at = self.choose(several)?;
        let other = self.fresh();
        let key = self.event(at).key;
        if let Function::Observe { id, .. } = &mut self.history.events[at].function {
            *id = other;
        }
        let how = self.how(key)?;
        let function = Function::Write { how, id: other, mark: None };
        let event = Event { time: 0, process: STRANGER, node: STRANGER, kind: Kind::Invoke, key, function };
        self.history.events.insert(0, event);
        Some(())
    }

    /// The final read of one node, with at least so many entries.
    fn one_read(&mut self, least: usize) -> Option<&mut Vec<Placed>> {
        let reads =
            self.all(|event| matches!(&event.function, Function::ReadFinal { entries } if entries.len() >= least));
        let at = self.choose(reads)?;
        match &mut self.history.events[at].function {
            Function::ReadFinal { entries } => Some(entries),
            _ => None,
        }
    }

    pub(super) fn swapped_read(&mut self) -> Option<()> {
        let place = self.random.u64();
        let entries = self.one_read(2)?;
        let place = (place % (entries.len() as u64 - 1)) as usize;
        let (one, other) = (entries[place].id, entries[place + 1].id);
        (entries[place].id, entries[place + 1].id) = (other, one);
        Some(())
    }

    pub(super) fn short_read(&mut self) -> Option<()> {
        self.one_read(2)?.pop().map(|_| ())
    }

    pub(super) fn unordered(&mut self) -> Option<()> {
        // Two neighbours that are both observed, or whose positions are told: in all reads, so that those agree.
        let mut places = BTreeMap::new();
        for at in 0..self.history.events.len() {
            if let Some((id, mark)) = self.observes(at) {
                places.insert(id, mark);
            }
        }
        let reads = self.all(|event| matches!(event.function, Function::ReadFinal { .. }));
        let mut pairs = Vec::new();
        for at in reads {
            let key = self.event(at).key;
            let entries = self.first_final(key);
            let placed = |place: usize| places.contains_key(&entries[place].id);
            pairs.extend(
                (1..entries.len()).filter(|&place| placed(place - 1) && placed(place)).map(|place| (key, place)),
            );
        }
        let (key, place) = self.choose(pairs)?;
        self.finals(key).for_each(|entries| entries.swap(place - 1, place));
        Some(())
    }

    pub(super) fn lost(&mut self) -> Option<()> {
        let safe = self.safe();
        let (at, _, id) = self.choose(safe)?;
        let key = self.event(at).key;
        self.finals(key).for_each(|entries| entries.retain(|entry| entry.id != id));
        Some(())
    }

    pub(super) fn lost_observed(&mut self) -> Option<()> {
        let safe = self.safe().into_iter().filter(|&(_, end, id)| {
            (end..self.history.events.len()).any(|at| self.observes(at).is_some_and(|(seen, _)| seen == id))
        });
        let safe = safe.collect();
        let (at, end, id) = self.choose(safe)?;
        let key = self.event(at).key;
        let doubt = &mut self.history.events[end];
        doubt.kind = Kind::Info;
        if let Function::Write { mark, .. } = &mut doubt.function {
            *mark = None;
        }
        self.finals(key).for_each(|entries| entries.retain(|entry| entry.id != id));
        Some(())
    }

    pub(super) fn hole(&mut self) -> Option<()> {
        // Nobody but the final reads tells of the last life: all that is behind the first moves up by one.
        let reads = self.all(|event| matches!(&event.function, Function::ReadFinal { entries } if entries.len() > 1));
        let at = self.choose(reads)?;
        let key = self.event(at).key;
        let count = self.first_final(key).len() as u64;
        self.history.events.retain(|event| event.key != key || !follows(&event.function));
        for event in self.history.events.iter_mut().filter(|event| event.key == key) {
            if let Function::Write { mark, .. } = &mut event.function {
                *mark = None;
            }
        }
        for entries in self.finals(key) {
            let seqs = (1..count).chain([count + 1]);
            entries.iter_mut().zip(seqs).for_each(|(entry, seq)| entry.mark = Some(Mark { epoch: 1, seq }));
        }
        Some(())
    }

    pub(super) fn unread(&mut self) -> Option<()> {
        let safe = self.safe();
        let (at, ..) = self.choose(safe)?;
        let key = self.event(at).key;
        self.history.events.retain(|event| event.key != key || !matches!(event.function, Function::ReadFinal { .. }));
        Some(())
    }

    /// Puts an entry at the end of every final read of a stream, in a life of its own.
    fn append(&mut self, key: Key, id: Id) {
        for entries in self.finals(key) {
            let mark = entries.last().and_then(|entry| entry.mark).map(|_| Mark { epoch: 1 << 41, seq: 1 });
            entries.push(Placed { id, mark });
        }
    }

    pub(super) fn doubled(&mut self) -> Option<()> {
        let safe = self.safe();
        let (at, _, id) = self.choose(safe)?;
        self.append(self.event(at).key, id);
        Some(())
    }

    pub(super) fn doubled_delivery(&mut self) -> Option<()> {
        let [at] = self.run(|forge, [at]| forge.observes(at).is_some())?;
        let key = self.event(at).key;
        let (id, _) = self.observes(at)?;
        // With another number: with its own, it would be an entry that a generation took over.
        let mark = Mark { epoch: 1 << 40, seq: 1 << 40 };
        self.push(key, Kind::Ok, Function::Observe { id, mark, hash: None });
        Some(())
    }

    pub(super) fn phantom(&mut self) -> Option<()> {
        let safe = self.safe();
        let (at, ..) = self.choose(safe)?;
        let id = self.fresh();
        self.append(self.event(at).key, id);
        Some(())
    }

    pub(super) fn misplaced(&mut self) -> Option<()> {
        let safe = self.safe();
        let (at, _, id) = self.choose(safe)?;
        let key = self.event(at).key;
        let others = self.all(|event| {
            event.key != key && matches!(&event.function, Function::ReadFinal { entries } if !entries.is_empty())
        });
        let other = self.choose(others)?;
        self.append(self.event(other).key, id);
        Some(())
    }

    pub(super) fn failed(&mut self) -> Option<()> {
        let safe = self.safe();
        let (_, end, _) = self.choose(safe)?;
        let event = &mut self.history.events[end];
        event.kind = Kind::Fail;
        if let Function::Write { mark, .. } = &mut event.function {
            *mark = None;
        }
        Some(())
    }

    pub(super) fn against_time(&mut self) -> Option<()> {
        let safe = self.safe();
        let mut pairs = Vec::new();
        for &(first, acknowledged, one) in &safe {
            for &(second, _, other) in &safe {
                if self.event(first).key == self.event(second).key
                    && self.event(acknowledged).time < self.event(second).time
                {
                    pairs.push((one, other));
                }
            }
        }
        let (one, other) = self.choose(pairs)?;
        let swap = |id: &mut Id| {
            *id = match *id {
                id if id == one => other,
                id if id == other => one,
                id => id,
            }
        };
        for event in &mut self.history.events {
            match &mut event.function {
                Function::Observe { id, hash, .. } => {
                    swap(id);
                    *hash = None;
                }
                Function::Subscribe { hash, .. } => *hash = None,
                Function::Snapshot { mark, .. } => {
                    let mark = *mark;
                    event.function = Function::Subscribe { since: None, recovered: false, mark, hash: None };
                }
                Function::ReadFinal { entries } => entries.iter_mut().for_each(|entry| swap(&mut entry.id)),
                Function::Write { id, mark, .. } if event.kind == Kind::Ok && (*id == one || *id == other) => {
                    *mark = None
                }
                _ => {}
            }
        }
        Some(())
    }
}
