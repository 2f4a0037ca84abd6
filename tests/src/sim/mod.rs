//! A simulation of clients and a server, both without sockets, over links that delay, cut and lie.
//!
//! One seed is one run: every delay, fault and value is drawn from it, time is a number, and nothing runs beside it, so a
//! run repeats exactly. `world` drives, `link` carries, `site` is the server and the application on it, `actor` is a
//! client with its host, `open` what that host keeps of CRDTs, rooms and documents, `watch` knows what a client must never
//! be told, `tap` what it must never send, `store` what the server has stored, and `trace` tells runs apart.

mod actor;
mod link;
mod open;
mod rules;
mod site;
mod store;
mod tap;
mod trace;
mod values;
mod watch;
mod world;

use std::collections::BTreeMap;

pub use world::run;

/// The outcome of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How often what happened.
    pub stats: Stats,
    /// A digest of every output of the clients and every message of the server, in order.
    pub digest: u64,
}

/// How often what happened: a run in which nothing was at stake has proved nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats(pub BTreeMap<&'static str, u64>);

impl Stats {
    /// One more of these.
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// The higher of this and what there is.
    pub fn highest(&mut self, what: &'static str, value: u64) {
        let highest = self.0.entry(what).or_default();
        *highest = value.max(*highest);
    }

    /// Adds another run's; names that begin with `highest` are no sums.
    pub fn add(&mut self, other: &Self) {
        for (&what, &count) in &other.0 {
            if what.starts_with("highest") {
                self.highest(what, count);
            } else {
                *self.0.entry(what).or_default() += count;
            }
        }
    }

    /// How often.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}
