//! The promise on quotas: no window grants more than its limit.

use std::collections::BTreeMap;

use super::Counts;
use super::event::{At, Function, History, Id, Key, Kind, Micros};
use super::index::Map;
use super::violation::Violation;

/// A grant was given at some time from `asked` to `told`.
struct Grant {
    asked: Micros,
    told: Micros,
    cost: u64,
    at: At,
}

/// (9) Whatever was for certain granted within a window, wherever that begins, is at most the limit and `slack`
/// thousandths of it.
pub(super) fn limits(history: &History, slack: u64, counts: &mut Counts, violations: &mut Vec<Violation>) {
    let mut asked: Map<Id, Micros> = Map::default();
    let mut quotas: BTreeMap<(Key, u64, Micros), Vec<Grant>> = BTreeMap::new();
    for (at, event) in history.events.iter().enumerate() {
        let Function::Grant { id, cost, limit, window } = event.function else { continue };
        match event.kind {
            Kind::Invoke => _ = asked.insert(id, event.time),
            Kind::Ok => {
                counts.grants += 1;
                let asked = asked.get(&id).copied().unwrap_or(event.time);
                let grants = quotas.entry((event.key, limit, window)).or_default();
                grants.push(Grant { asked, told: event.time, cost, at });
            }
            _ => {}
        }
    }
    for ((_, limit, window), grants) in quotas {
        let allowed = limit.saturating_add(limit.saturating_mul(slack) / 1000);
        windows(&grants, window, allowed, violations);
    }
}

/// Moves a window over the grants, which are in the order they were told, so that it begins at each question in turn.
fn windows(grants: &[Grant], window: Micros, limit: u64, violations: &mut Vec<Violation>) {
    let mut by_asked: Vec<usize> = (0..grants.len()).collect();
    by_asked.sort_by_key(|&grant| grants[grant].asked);
    let mut inside = vec![false; grants.len()];
    let (mut granted, mut end) = (0u64, 0);
    let mut over = false;
    for first in by_asked {
        let begin = grants[first].asked;
        while let Some(grant) = grants.get(end).filter(|grant| grant.told < begin.saturating_add(window)) {
            // One asked for earlier may have been granted before this window, and so before all later ones.
            if grant.asked >= begin {
                inside[end] = true;
                granted += grant.cost;
            }
            end += 1;
        }
        if granted > limit && !over {
            violations.push(Violation::OverGranted {
                first: grants[first].at,
                last: grants[end - 1].at,
                granted,
                limit,
            });
        }
        // Windows that overlap tell one breach.
        over = granted > limit;
        if inside[first] {
            granted -= grants[first].cost;
        }
    }
}
