//! Several servers on one memory, in one thread and without real time: clients read and write through all of them while a
//! seeded scheduler delays, drops, doubles and reorders what passes between the servers and the engine, loses answers,
//! stops and freezes servers and begins generations. The checker of [`history`](crate::history) judges what they saw.

mod client;
mod counted;
mod flawed;
mod mail;
mod notes;
mod record;
mod rooms;
mod spy;
mod world;

use std::collections::BTreeMap;

pub use flawed::Flaw;
pub use record::Outcome;
pub use world::{run, run_with};

/// How often something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(pub BTreeMap<&'static str, u64>);

impl Stats {
    /// One more.
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Those of another run as well.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How often it happened.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}
