//! The checker of histories (SCALE 4.9): what clients, followers and faults tell of a run in, what was promised and
//! broken out.
//!
//! Nothing here knows the server. A deterministic schedule pushes events into a [`History`]; a run against a real engine
//! writes them as lines of JSON. [`check`] needs O(n log n) for n events. Each promise is a function of its own, in the
//! module of what it is about; [`Violation`] names the events that show the breach, and its story prints them.
//!
//! `generate` makes correct histories and `forge` breaks them, which is how the checker itself is tested.

mod digest;
mod event;
pub mod forge;
pub mod generate;
mod grants;
mod index;
mod jsonl;
mod log;
mod messages;
mod presence;
mod subscriptions;
mod values;
mod violation;

use std::fmt::Write as _;

pub use digest::Digest;
pub use event::{At, Event, Function, History, How, Id, Key, Kind, Mark, Micros, Placed};
use index::Index;
pub use violation::Violation;

/// Which acknowledged entries a generation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// None.
    Never,
    /// Those acknowledged or observed at most so long before it, or in doubt when it begins.
    Within(Micros),
    /// Any that were there before it.
    Any,
}

/// What the backend and the server declare.
#[derive(Clone, Copy, Debug)]
pub struct Promises {
    /// What a generation may take.
    pub loss: Loss,
    /// How long rooms may show what was: the lease of a node and 5 s.
    pub presence: Micros,
    /// How much more than the limit a window may grant, in thousandths of the limit.
    pub slack: u64,
}

impl Default for Promises {
    /// Nothing is lost, leases of 15 s, no slack.
    fn default() -> Self {
        Self { loss: Loss::Never, presence: 20_000_000, slack: 0 }
    }
}

/// How much was checked: a run in which nothing was at stake has proved nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that failed for certain.
    pub failed: u64,
    /// Writes whose outcome their process does not know.
    pub in_doubt: u64,
    /// Writes in doubt that are in the log.
    pub came_true: u64,
    /// Entries delivered.
    pub observed: u64,
    /// Subscriptions continued.
    pub recovered: u64,
    /// Whole values given to who had an older one.
    pub resets: u64,
    /// Values compared with a replay of the log.
    pub replayed: u64,
    /// Values compared with another at the same mark.
    pub compared: u64,
    /// Entries that a generation was allowed to take.
    pub forgiven: u64,
    /// Members shown and judged.
    pub members: u64,
    /// Views of rooms not judged because their node was disturbed.
    pub disturbed: u64,
    /// Questions granted.
    pub grants: u64,
    /// Messages received.
    pub messages: u64,
}

/// What a check has found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// In the order of the promises.
    pub violations: Vec<Violation>,
    /// What there was to find.
    pub counts: Counts,
}

/// Violations told in full by [`Verdict::story`].
const STORIES: usize = 8;

impl Verdict {
    /// Whether every promise held.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    /// The first violations with their events, for a person.
    pub fn story(&self, history: &History) -> String {
        let mut story = String::new();
        for violation in self.violations.iter().take(STORIES) {
            let _ = writeln!(story, "{}", violation.story(history));
        }
        let _ = writeln!(story, "{} violations; {:?}", self.violations.len(), self.counts);
        story
    }
}

/// Checks every promise. Of a malformed history nothing but that is told.
pub fn check(history: &History, promises: &Promises) -> Verdict {
    let mut verdict = Verdict::default();
    let Verdict { violations, counts } = &mut verdict;
    let index = Index::new(history, violations);
    if !violations.is_empty() {
        return verdict;
    }
    log::agreement(&index, violations);
    subscriptions::continuity(&index, counts, violations);
    log::durability(&index, promises.loss, counts, violations);
    log::doubles(&index, violations);
    log::phantoms(&index, counts, violations);
    log::real_time(&index, violations);
    values::equality(&index, promises.loss, counts, violations);
    presence::members(history, promises.presence, counts, violations);
    grants::limits(history, promises.slack, counts, violations);
    messages::delivery(history, counts, violations);
    verdict
}
