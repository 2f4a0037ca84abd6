//! The promise to who follows: nothing is left out, nothing comes again.

use super::Counts;
use super::event::{At, Function, Key, Mark};
use super::index::{Index, Map};
use super::violation::Violation;

/// Where a process stands in a stream.
struct Standing {
    mark: Mark,
    /// The event that brought it there.
    at: At,
    /// The process was told that what it had is continued, and nothing has come since.
    recovered: bool,
}

/// (2) Each entry is right behind the one before, also behind `since` of what is recovered; the whole value never takes
/// a process back.
pub(super) fn continuity(index: &Index<'_>, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let mut standings: Map<(u32, Key), Standing> = Map::default();
    for (at, event) in index.history.events.iter().enumerate() {
        let who = (event.process, event.key);
        match event.function {
            Function::Subscribe { since, recovered, mark, .. } => {
                // Before the first entry there is nothing, whatever the life was going to be.
                let is_birth = |since: &Mark| recovered && (since.seq, mark.seq) == (0, 0);
                let since = since.map(|since| if is_birth(&since) { mark } else { since });
                let since_in_life = since.filter(|since| since.epoch == mark.epoch);
                let standing = match since {
                    Some(since) if recovered => {
                        counts.recovered += 1;
                        if since_in_life.is_none_or(|since| mark.seq < since.seq) {
                            violations.push(Violation::NotContinued { subscribe: at, at, since });
                        }
                        Standing { mark: since, at, recovered: true }
                    }
                    _ => {
                        if let Some(from) = since_in_life.filter(|since| mark.seq < since.seq) {
                            let after = standings.get(&who).map_or(at, |standing| standing.at);
                            violations.push(Violation::StepBack { after, at, from });
                        }
                        counts.resets += u64::from(since.is_some());
                        Standing { mark, at, recovered: false }
                    }
                };
                standings.insert(who, standing);
            }
            Function::Snapshot { mark, .. } => {
                counts.resets += 1;
                let standing = standings.entry(who).or_insert(Standing { mark, at, recovered: false });
                if mark < standing.mark {
                    violations.push(Violation::StepBack { after: standing.at, at, from: standing.mark });
                }
                *standing = Standing { mark: mark.max(standing.mark), at, recovered: false };
            }
            Function::Observe { mark, .. } => {
                counts.observed += 1;
                let Some(standing) = standings.get_mut(&who) else {
                    standings.insert(who, Standing { mark, at, recovered: false });
                    continue;
                };
                let (after, from) = (standing.at, standing.mark);
                if mark != from.next() {
                    violations.push(if standing.recovered {
                        Violation::NotContinued { subscribe: after, at, since: from }
                    } else if mark > from {
                        Violation::Gap { after, at, from }
                    } else {
                        Violation::StepBack { after, at, from }
                    });
                }
                *standing = Standing { mark: mark.max(from), at, recovered: false };
            }
            _ => {}
        }
    }
}
