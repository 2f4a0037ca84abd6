//! The promise on rooms: who is shown is there, but for what happened lately.

use std::collections::BTreeMap;

use super::Counts;
use super::event::{At, Function, History, Id, Key, Kind, Micros};
use super::index::Map;
use super::violation::Violation;

/// A member of a room, as its own connection knows it.
#[derive(Default)]
struct Member {
    node: u32,
    /// Since when it is there for certain; `None` while it joins, leaves or is gone.
    since: Option<(Micros, At)>,
    /// Since when it is gone for certain; `None` while it may be there.
    gone: Option<Micros>,
}

/// (8) A room shows everyone who was there all the time of `bound`, and no one who was away all that time.
///
/// Views through a node that was disturbed in that time are not judged, nor whether members of such a node are missing.
pub(super) fn members(history: &History, bound: Micros, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let mut rooms: Map<Key, BTreeMap<Id, Member>> = Map::default();
    // Until when: for ever while a node is frozen.
    let mut disturbed: Map<u32, Micros> = Map::default();
    for (at, event) in history.events.iter().enumerate() {
        let now = event.time;
        match (&event.function, event.kind) {
            (Function::Join { id }, kind) => {
                let member = rooms.entry(event.key).or_default().entry(*id).or_default();
                match kind {
                    Kind::Invoke => *member = Member { node: event.node, since: None, gone: None },
                    Kind::Ok => *member = Member { node: event.node, since: Some((now, at)), gone: None },
                    Kind::Fail => member.gone = Some(now),
                    Kind::Info => {}
                }
            }
            (Function::Leave { id }, kind) => {
                let Some(member) = rooms.get_mut(&event.key).and_then(|room| room.get_mut(id)) else { continue };
                match kind {
                    Kind::Invoke | Kind::Info => member.since = None,
                    Kind::Ok => (member.since, member.gone) = (None, member.gone.or(Some(now))),
                    Kind::Fail => member.since = member.gone.is_none().then_some((now, at)),
                }
            }
            (Function::Killed, _) => {
                let all = rooms.values_mut().flat_map(BTreeMap::values_mut);
                for member in all.filter(|member| member.node == event.node) {
                    (member.since, member.gone) = (None, member.gone.or(Some(now)));
                }
            }
            (Function::Frozen, _) => _ = disturbed.insert(event.node, Micros::MAX),
            (Function::Thawed, _) => _ = disturbed.insert(event.node, now.saturating_add(bound)),
            (Function::Members { ids }, Kind::Ok) => {
                let calm = |node: u32| disturbed.get(&node).is_none_or(|&until| until < now);
                if !calm(event.node) {
                    counts.disturbed += 1;
                    continue;
                }
                let room = rooms.entry(event.key).or_default();
                let mut shown = ids.clone();
                shown.sort_unstable();
                for (place, id) in shown.iter().enumerate() {
                    counts.members += 1;
                    let may_be = room.get(id).is_some_and(|member| member.gone.is_none_or(|gone| gone + bound >= now));
                    let twice = place > 0 && shown[place - 1] == *id;
                    if !may_be || twice {
                        violations.push(Violation::Ghost { id: *id, at });
                    }
                }
                for (id, member) in room {
                    let Some((since, joined)) = member.since else { continue };
                    if since + bound < now && calm(member.node) && shown.binary_search(id).is_err() {
                        violations.push(Violation::Missing { id: *id, joined, at });
                    }
                }
            }
            _ => {}
        }
    }
}
