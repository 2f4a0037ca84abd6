//! The promises on entries: one order for all, nothing lost, doubled or made up, and the order of real time.

use std::collections::BTreeMap;

use super::event::{At, Function, Key, Kind, Mark, Placed};
use super::index::{Index, Log, Map, Seen, Write};
use super::violation::Violation;
use super::{Counts, Loss};

/// (1) One id at each position, whoever tells, and the same final read through every node, in the order of positions.
pub(super) fn agreement(index: &Index<'_>, violations: &mut Vec<Violation>) {
    for log in &index.logs {
        let mut first: Option<Seen> = None;
        for seen in log.entries() {
            match first {
                Some(first) if first.mark == seen.mark && first.id != seen.id => {
                    violations.push(Violation::Forked { mark: seen.mark, one: first.at, other: seen.at });
                }
                Some(first) if first.mark == seen.mark => {}
                _ => first = Some(seen),
            }
        }
        let readings = log.readings();
        for window in readings.windows(2) {
            let [(one, ours), (other, theirs)] = window else { continue };
            // A reader that knows positions and one that does not tell the same.
            if !ours.iter().map(|entry| entry.id).eq(theirs.iter().map(|entry| entry.id)) {
                violations.push(Violation::FinalsDiffer { one: *one, other: *other });
            }
        }
        for (read, entries) in readings {
            let mut greatest = None;
            for entry in entries {
                let Some(mark) = index.place(log.key, entry) else { continue };
                if greatest.is_some_and(|greatest| mark < greatest) {
                    violations.push(Violation::Unordered { read, id: entry.id, mark });
                }
                greatest = greatest.max(Some(mark));
            }
        }
    }
}

/// (3) What was acknowledged or observed is in every final read, but for what a generation may take: from a position of
/// a life on, all of it.
pub(super) fn durability(index: &Index<'_>, loss: Loss, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let generations = generations(index);
    for log in &index.logs {
        let acknowledged = log.writes.iter().filter_map(|&write| {
            let write = &index.writes[write];
            Some((write, write.acknowledged()?))
        });
        if log.finals.is_empty() {
            violations.extend(acknowledged.take(1).map(|(_, seen)| Violation::Unread { key: log.key, seen }));
            continue;
        }
        let observed = log.entries().filter_map(|seen| {
            let write = index.get(log.key, seen.id)?;
            // What a final read tells is not observed here: reads are compared with each other.
            let observed = matches!(index.history.events[seen.at].function, Function::Observe { .. });
            (observed && write.acknowledged().is_none()).then_some((write, seen.at))
        });
        let claims: Vec<(&Write, At)> = acknowledged.chain(observed).collect();
        for (read, entries) in log.readings() {
            holes(index, log.key, read, entries, violations);
            let mut there: Map<u64, ()> = Map::default();
            let mut survived: BTreeMap<u64, u64> = BTreeMap::new();
            for entry in entries {
                there.insert(entry.id.0, ());
                if let Some(mark) = index.place(log.key, entry) {
                    let greatest = survived.entry(mark.epoch).or_default();
                    *greatest = mark.seq.max(*greatest);
                }
            }
            for &(write, seen) in claims.iter().filter(|(write, _)| !there.contains_key(&write.id.0)) {
                let invoked = index.time(write.invoked);
                let taken = generations.iter().any(|&begun| {
                    let window = match loss {
                        Loss::Never => return false,
                        Loss::Within(window) => begun <= index.time(seen).saturating_add(window),
                        Loss::Any => true,
                    };
                    window && begun >= invoked
                });
                let overtaken = write.place.is_some_and(|place| {
                    survived.get(&place.mark.epoch).is_some_and(|&greatest| greatest > place.mark.seq)
                });
                if taken && !overtaken {
                    counts.forgiven += 1;
                } else {
                    violations.push(Violation::Lost { id: write.id, seen, read });
                }
            }
        }
    }
}

/// When generations began.
fn generations(index: &Index<'_>) -> Vec<u64> {
    let events = index.history.events.iter();
    events.filter(|event| event.function == Function::Generation).map(|event| event.time).collect()
}

/// Positions of one life that a final read leaves out between two that it has; one out of order is told as that.
fn holes(index: &Index<'_>, key: Key, read: At, entries: &[Placed], violations: &mut Vec<Violation>) {
    if !entries.iter().filter_map(|entry| index.place(key, entry)).is_sorted() {
        return;
    }
    let mut last: Option<Mark> = None;
    let mut unplaced = 0;
    for entry in entries {
        let Some(mark) = index.place(key, entry) else {
            unplaced += 1;
            continue;
        };
        if let Some(after) = last.filter(|last| last.epoch == mark.epoch && mark.seq > last.seq + 1 + unplaced) {
            violations.push(Violation::Hole { read, after, next: mark });
        }
        last = Some(mark);
        unplaced = 0;
    }
}

/// (4) No write is at two positions, nor twice in a final read.
///
/// What a life of a later generation has taken over keeps its number, and so is the same entry: a node that loses the
/// engine before it gets its answer tells the position in the life that it finds afterwards.
pub(super) fn doubles(index: &Index<'_>, violations: &mut Vec<Violation>) {
    let generations = generations(index);
    for log in &index.logs {
        for seen in log.entries() {
            let Some(write) = index.get(log.key, seen.id) else { continue };
            let taken_over = |first: &Seen| {
                let told = index.time(first.at).max(index.time(seen.at));
                let stored = index.time(write.invoked)..=told;
                first.mark.seq == seen.mark.seq && generations.iter().any(|begun| stored.contains(begun))
            };
            if let Some(first) = write.place.filter(|first| first.mark != seen.mark && !taken_over(first)) {
                violations.push(Violation::Doubled { id: seen.id, one: first.at, other: seen.at });
            }
        }
        for (read, entries) in log.readings() {
            let mut there: Map<u64, ()> = Map::default();
            for entry in entries {
                if there.insert(entry.id.0, ()).is_some() {
                    violations.push(Violation::Doubled { id: entry.id, one: read, other: read });
                }
            }
        }
    }
}

/// (5) Every entry was written, to this stream and before anybody saw it, and its write has not failed.
pub(super) fn phantoms(index: &Index<'_>, counts: &mut Counts, violations: &mut Vec<Violation>) {
    for write in &index.writes {
        match write.ended {
            Some((Kind::Ok, _)) => counts.acknowledged += 1,
            Some((Kind::Fail, _)) => counts.failed += 1,
            _ => {
                counts.in_doubt += 1;
                counts.came_true += u64::from(write.place.is_some());
            }
        }
    }
    for log in &index.logs {
        let unplaced = |(at, entries): (At, &[Placed])| {
            let ids: Vec<_> = entries.iter().filter(|entry| entry.mark.is_none()).map(|entry| (entry.id, at)).collect();
            ids
        };
        let told = log.entries().map(|seen| (seen.id, seen.at));
        for (id, at) in told.chain(log.readings().into_iter().flat_map(unplaced)) {
            match index.get(log.key, id) {
                Some(write) if index.time(write.invoked) <= index.time(at) => {
                    if let Some((Kind::Fail, failed)) = write.ended {
                        violations.push(Violation::Failed { id, failed, at });
                    }
                }
                _ => violations.push(Violation::Phantom { id, at }),
            }
        }
    }
}

/// (6) A write that begins after another was acknowledged is behind it: in each life, and in what is left of all lives.
///
/// With unique ids and one order for all this is linearisability.
pub(super) fn real_time(index: &Index<'_>, violations: &mut Vec<Violation>) {
    for log in &index.logs {
        let mut found = Vec::new();
        let entries: Vec<Seen> = log.entries().collect();
        for life in entries.chunk_by(|one, other| one.mark.epoch == other.mark.epoch) {
            // A doubled write is where it was first.
            let writes = life.iter().filter_map(|seen| Some((index.get(log.key, seen.id)?, seen)));
            let first = writes.filter(|(write, seen)| write.place.is_some_and(|place| place.mark == seen.mark));
            sweep(index, first.map(|(write, _)| write).rev(), &mut found);
        }
        for (_, entries) in log.readings() {
            if entries.iter().all(|entry| index.place(log.key, entry).is_some()) && one_life(log) {
                continue;
            }
            let mut there: Map<u64, ()> = Map::default();
            let first: Vec<_> = entries.iter().filter(|entry| there.insert(entry.id.0, ()).is_none()).collect();
            sweep(index, first.into_iter().rev().filter_map(|entry| index.get(log.key, entry.id)), &mut found);
        }
        found.sort_unstable();
        found.dedup();
        violations
            .extend(found.into_iter().map(|(acknowledged, invoked)| Violation::RealTime { acknowledged, invoked }));
    }
}

fn one_life(log: &Log<'_>) -> bool {
    log.seen.first().map(|seen| seen.mark.epoch) == log.seen.last().map(|seen| seen.mark.epoch)
}

/// Goes from the last write to the first and remembers which of those behind was acknowledged first.
fn sweep<'i>(index: &Index<'_>, backwards: impl Iterator<Item = &'i Write>, found: &mut Vec<(At, At)>) {
    let mut behind: Option<At> = None;
    for write in backwards {
        if let Some(acknowledged) = behind.filter(|&at| index.time(at) < index.time(write.invoked)) {
            found.push((acknowledged, write.invoked));
        }
        behind = match (behind, write.acknowledged()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}
