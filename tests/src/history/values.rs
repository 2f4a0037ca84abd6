//! The promise on values: who is at a position has what the log gives there.

use super::digest::Digest;
use super::event::{Function, Mark};
use super::index::{Index, Log, Value};
use super::violation::Violation;
use super::{Counts, Loss};

/// (7) Each value is the log replayed up to its position; where that cannot be known, values at one position are equal.
pub(super) fn equality(index: &Index<'_>, loss: Loss, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let generations = index.history.events.iter().filter(|event| event.function == Function::Generation).count();
    // Nothing of the last life that is known can have been taken by one that is not.
    let settled = loss == Loss::Never || generations < 2;
    for log in &index.logs {
        let mut replayed = replay(index, log, settled).into_iter().peekable();
        for values in log.values.chunk_by(|one, other| one.mark == other.mark) {
            let [first, others @ ..] = values else { continue };
            let mark = first.mark;
            while replayed.next_if(|(at, _)| *at < mark).is_some() {}
            if let Some((_, digest)) = replayed.next_if(|(at, _)| *at == mark) {
                counts.replayed += values.len() as u64;
                let expected = digest.hash();
                let wrong = values.iter().filter(|value| value.hash != expected);
                let told = |value: &Value| Violation::WrongValue { at: value.at, mark, expected, found: value.hash };
                violations.extend(wrong.map(told));
            } else {
                counts.compared += others.len() as u64;
                let other = others.iter().filter(|value| value.hash != first.hash);
                violations.extend(other.map(|other| Violation::Diverged { mark, one: first.at, other: other.at }));
            }
        }
    }
}

/// The values of the first life, and those of the last one if the final read tells what that began with. A life between
/// them may have begun with what a later generation took.
fn replay(index: &Index<'_>, log: &Log<'_>, settled: bool) -> Vec<(Mark, Digest)> {
    let mut values = Vec::new();
    if log.merges {
        return values;
    }
    let epochs = || log.seen.iter().map(|seen| seen.mark.epoch).chain(log.values.iter().map(|value| value.mark.epoch));
    let (Some(first), Some(last)) = (epochs().min(), epochs().max()) else { return values };
    let mut digest = Digest::default();
    let mut mark = Mark { epoch: first, seq: 0 };
    // What is left of a life that nobody saw may come before the first one known.
    let unplaced = log
        .finals
        .first()
        .and_then(|(_, entries)| entries.first())
        .is_some_and(|entry| index.place(log.key, entry).is_none());
    if !unplaced {
        values.push((mark, digest));
    }
    for seen in log.entries().take_while(|_| !unplaced) {
        let Some(write) = index.get(log.key, seen.id).filter(|_| seen.mark == mark.next()) else { break };
        digest = digest.after(write.how, seen.id);
        mark = seen.mark;
        values.push((mark, digest));
    }
    if last > first {
        values.extend(replay_last(index, log, last, settled));
    }
    values
}

fn replay_last(index: &Index<'_>, log: &Log<'_>, epoch: u64, settled: bool) -> Vec<(Mark, Digest)> {
    let mut values = Vec::new();
    let Some((_, entries)) = log.finals.first() else { return values };
    let mut digest = Digest::default();
    let mut placed = true;
    for entry in *entries {
        let Some(write) = index.get(log.key, entry.id) else { return Vec::new() };
        let place = index.place(log.key, entry);
        placed &= place.is_some();
        if let Some(mark) = place.filter(|mark| mark.epoch == epoch) {
            if values.is_empty() {
                values.push((Mark { epoch, seq: mark.seq.saturating_sub(1) }, digest));
            }
            values.push((mark, digest.after(write.how, entry.id)));
        }
        digest = digest.after(write.how, entry.id);
    }
    let known = log.entries().filter(|seen| seen.mark.epoch == epoch).count();
    if known == 0 && placed && settled {
        // Nothing was written in this life: its only value is what it began with.
        values.extend(log.values.iter().filter(|value| value.mark.epoch == epoch).map(|value| (value.mark, digest)));
        values.dedup();
        return values;
    }
    // An entry that is known and not left means that yet another life followed.
    if values.len() == known + 1 { values } else { Vec::new() }
}
