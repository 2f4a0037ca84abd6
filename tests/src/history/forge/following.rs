//! Forgeries of what followers were given: entries and values.

use std::collections::BTreeMap;

use super::super::event::{At, Function, How, Id, Key, Mark};
use super::{Forge, value};

impl Forge<'_> {
    /// Subscriptions: the events of each process on each stream, in order.
    fn subscriptions(&self) -> Vec<Vec<At>> {
        let mut by: BTreeMap<(u32, Key), Vec<At>> = BTreeMap::new();
        for (at, event) in self.history.events.iter().enumerate() {
            if matches!(
                event.function,
                Function::Observe { .. } | Function::Subscribe { .. } | Function::Snapshot { .. }
            ) {
                by.entry((event.process, event.key)).or_default().push(at);
            }
        }
        by.into_values().collect()
    }

    /// One of so many events in a row of a subscription that fit.
    pub(super) fn run<const N: usize>(&mut self, fits: impl Fn(&Self, [At; N]) -> bool) -> Option<[At; N]> {
        let subscriptions = self.subscriptions();
        let runs = subscriptions.iter().flat_map(|events| events.windows(N));
        let runs = runs.filter_map(|run| <[At; N]>::try_from(run).ok());
        let fitting = runs.filter(|run| fits(self, *run)).collect();
        self.choose(fitting)
    }

    pub(super) fn dropped(&mut self) -> Option<()> {
        let [_, at, _] = self.run(|forge, run: [At; 3]| run.iter().all(|&at| forge.observes(at).is_some()))?;
        self.history.events.remove(at);
        Some(())
    }

    pub(super) fn repeated(&mut self) -> Option<()> {
        let [at] = self.run(|forge, [at]| forge.observes(at).is_some())?;
        self.insert_behind(at, |_| ());
        Some(())
    }

    pub(super) fn step_back(&mut self) -> Option<()> {
        let [one, at] = self.run(|forge, run: [At; 2]| run.iter().all(|&at| forge.observes(at).is_some()))?;
        let older = self.event(one).function.clone();
        self.insert_behind(at, |event| event.function = older);
        Some(())
    }

    pub(super) fn value_back(&mut self) -> Option<()> {
        let valued = |function: &Function| match *function {
            Function::Observe { mark, hash: Some(hash), .. } => Some((mark, hash)),
            _ => None,
        };
        let [one, at] = self.run(|forge, [one, at]: [At; 2]| {
            valued(&forge.event(one).function).is_some() && forge.observes(at).is_some()
        })?;
        let (mark, hash) = valued(&self.event(one).function)?;
        self.insert_behind(at, |event| event.function = Function::Snapshot { mark, hash });
        Some(())
    }

    pub(super) fn gap_recovered(&mut self) -> Option<()> {
        let [_, at, _] = self.run(|forge, [subscribe, one, other]| {
            let recovered = matches!(forge.event(subscribe).function, Function::Subscribe { recovered: true, .. });
            recovered && forge.observes(one).is_some() && forge.observes(other).is_some()
        })?;
        self.history.events.remove(at);
        Some(())
    }

    pub(super) fn recovered_behind(&mut self) -> Option<()> {
        let behind = |function: &Function| match function {
            Function::Subscribe { since: Some(since), recovered: true, .. } => since.seq > 0,
            _ => false,
        };
        let subscribes = self.all(|event| behind(&event.function));
        let at = self.choose(subscribes)?;
        if let Function::Subscribe { since: Some(since), mark, .. } = &mut self.history.events[at].function {
            mark.seq = since.seq - 1;
        }
        Some(())
    }

    /// Values of documents that several events tell.
    fn documents_told_twice(&self) -> Vec<At> {
        let mut told: BTreeMap<(Key, Mark), Vec<At>> = BTreeMap::new();
        for (at, event) in self.history.events.iter().enumerate() {
            if let Some((mark, _)) = value(&event.function).filter(|_| self.how(event.key) == Some(How::Merge)) {
                told.entry((event.key, mark)).or_default().push(at);
            }
        }
        told.into_values().filter(|tellers| tellers.len() > 1).flatten().collect()
    }

    fn falsify(&mut self, at: At) {
        match &mut self.history.events[at].function {
            Function::Observe { hash: Some(hash), .. }
            | Function::Subscribe { hash: Some(hash), .. }
            | Function::Snapshot { hash, .. } => *hash ^= 1,
            _ => {}
        }
    }

    /// Values of first lives as far as every entry was observed.
    fn replayable(&self) -> Vec<At> {
        let mut seen: BTreeMap<Key, BTreeMap<Mark, Id>> = BTreeMap::new();
        let mut first: BTreeMap<Key, u64> = BTreeMap::new();
        for (at, event) in self.history.events.iter().enumerate() {
            if let Some((id, mark)) = self.observes(at) {
                seen.entry(event.key).or_default().insert(mark, id);
            }
            let mark = match &event.function {
                Function::Observe { mark, .. }
                | Function::Subscribe { mark, .. }
                | Function::Snapshot { mark, .. }
                | Function::Write { mark: Some(mark), .. } => Some(*mark),
                Function::ReadFinal { entries } => entries.first().and_then(|entry| entry.mark),
                _ => None,
            };
            if let Some(mark) = mark {
                let first = first.entry(event.key).or_insert(mark.epoch);
                *first = mark.epoch.min(*first);
            }
        }
        let known = |key: Key, mark: Mark| {
            let Some(seen) = seen.get(&key) else { return false };
            let placed = self
                .first_final(key)
                .first()
                .is_none_or(|entry| entry.mark.is_some() || seen.values().any(|id| *id == entry.id));
            placed
                && first.get(&key) == Some(&mark.epoch)
                && (1..=mark.seq).all(|seq| seen.contains_key(&Mark { epoch: mark.epoch, seq }))
        };
        self.all(|event| {
            value(&event.function).is_some_and(|(mark, _)| known(event.key, mark))
                && self.how(event.key).is_some_and(|how| how != How::Merge)
        })
    }

    pub(super) fn wrong_value(&mut self) -> Option<()> {
        let values = self.replayable();
        let at = self.choose(values)?;
        self.falsify(at);
        Some(())
    }

    pub(super) fn wrong_values(&mut self) -> Option<()> {
        let values = self.replayable();
        let at = self.choose(values)?;
        let key = self.event(at).key;
        let (mark, _) = value(&self.event(at).function)?;
        for at in self.all(|event| event.key == key && value(&event.function).is_some_and(|told| told.0 == mark)) {
            self.falsify(at);
        }
        Some(())
    }

    pub(super) fn diverged(&mut self) -> Option<()> {
        let values = self.documents_told_twice();
        let at = self.choose(values)?;
        self.falsify(at);
        Some(())
    }
}
