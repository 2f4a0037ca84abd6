//! Forgeries of rooms, quotas and messages.

use std::collections::BTreeMap;

use super::super::event::{At, Function, Id, Key, Kind, Micros};
use super::{Forge, STRANGER};

impl Forge<'_> {
    /// Shows a room once more through a node that is never disturbed.
    fn show(&mut self, at: At, change: impl FnOnce(&mut Vec<Id>)) {
        self.insert_behind(at, |event| {
            event.node = STRANGER;
            if let Function::Members { ids } = &mut event.function {
                change(ids);
            }
        });
    }

    /// Through which node and when members certainly joined, and when they certainly left.
    fn stays(&self) -> BTreeMap<(Key, Id), (u32, Micros, Option<Micros>)> {
        let mut stays = BTreeMap::new();
        for event in &self.history.events {
            match (&event.function, event.kind) {
                (Function::Join { id }, Kind::Ok) => {
                    _ = stays.insert((event.key, *id), (event.node, event.time, None));
                }
                (Function::Leave { id }, Kind::Ok) => {
                    _ = stays.entry((event.key, *id)).and_modify(|stay| stay.2 = Some(event.time));
                }
                _ => {}
            }
        }
        stays
    }

    fn views(&self) -> Vec<(At, Key, Micros, Vec<Id>)> {
        let views = self.history.events.iter().enumerate().filter_map(|(at, event)| match &event.function {
            Function::Members { ids } => Some((at, event.key, event.time, ids.clone())),
            _ => None,
        });
        views.collect()
    }

    pub(super) fn stranger(&mut self) -> Option<()> {
        let views = self.views();
        let (at, ..) = self.choose(views)?;
        let id = self.fresh();
        self.show(at, |ids| ids.push(id));
        Some(())
    }

    pub(super) fn ghost(&mut self) -> Option<()> {
        let (stays, bound) = (self.stays(), self.promises.presence);
        let mut late = Vec::new();
        for (at, room, time, _) in self.views() {
            let left = |stay: &(u32, Micros, Option<Micros>)| stay.2.is_some_and(|left| left + bound < time);
            let gone = stays.iter().filter(|((key, _), stay)| *key == room && left(stay));
            late.extend(gone.map(|((_, id), _)| (at, *id)));
        }
        let (at, id) = self.choose(late)?;
        self.show(at, |ids| ids.push(id));
        Some(())
    }

    pub(super) fn missing(&mut self) -> Option<()> {
        let (stays, bound) = (self.stays(), self.promises.presence);
        let mut there = Vec::new();
        for (at, room, time, ids) in self.views() {
            let before = &self.history.events[..at];
            let stays = ids.iter().filter_map(|id| Some((*id, stays.get(&(room, *id))?)));
            let long = stays.filter(|(gone, (node, since, _))| {
                since + bound < time
                    && !before.iter().any(|event| match event.function {
                        Function::Leave { id } => id == *gone,
                        Function::Killed | Function::Frozen => event.node == *node,
                        _ => false,
                    })
            });
            there.extend(long.map(|(id, _)| (at, id)));
        }
        let (at, id) = self.choose(there)?;
        self.show(at, |ids| ids.retain(|other| *other != id));
        Some(())
    }

    pub(super) fn over_granted(&mut self) -> Option<()> {
        let grants = self.all(|event| matches!(event.function, Function::Grant { .. }) && event.kind == Kind::Ok);
        let at = self.choose(grants)?;
        let Function::Grant { limit, .. } = self.event(at).function else { return None };
        for _ in 0..=limit {
            let fresh = self.fresh();
            self.insert_behind(at, |event| {
                if let Function::Grant { id, cost, .. } = &mut event.function {
                    (*id, *cost) = (fresh, 1);
                }
            });
        }
        Some(())
    }

    fn receives(&self) -> Vec<At> {
        self.all(|event| matches!(event.function, Function::Receive { .. }))
    }

    pub(super) fn redelivered(&mut self) -> Option<()> {
        let receives = self.receives();
        let at = self.choose(receives)?;
        self.insert_behind(at, |_| ());
        Some(())
    }

    pub(super) fn disordered(&mut self) -> Option<()> {
        let mut sender = BTreeMap::new();
        for event in &self.history.events {
            if let (&Function::Send { id }, Kind::Invoke) = (&event.function, event.kind) {
                sender.insert(id, event.process);
            }
        }
        let mut by: BTreeMap<u32, Vec<At>> = BTreeMap::new();
        for at in self.receives() {
            if let Function::Receive { id } = self.event(at).function {
                by.entry(sender[&id]).or_default().push(at);
            }
        }
        let pairs = by.values().flat_map(|received| received.windows(2).map(|pair| (pair[0], pair[1]))).collect();
        let (one, other) = self.choose(pairs)?;
        let late = self.event(one).function.clone();
        self.insert_behind(other, |event| event.function = late);
        self.history.events.remove(one);
        Some(())
    }

    pub(super) fn unsent(&mut self) -> Option<()> {
        let receives = self.receives();
        let at = self.choose(receives)?;
        let id = self.fresh();
        self.insert_behind(at, |event| event.function = Function::Receive { id });
        Some(())
    }
}
