//! Wrong tokens by where they come from: who guesses is slowed down.

use std::{collections::HashMap, net::IpAddr, sync::Mutex, time::Instant};

use super::places::Source;
use crate::sync::lock;

/// Wrong tokens that one address may send in a row, and the seconds after which it may send another.
const BURST: f64 = 10.0;
const PAUSE: f64 = 1.0;
/// Addresses remembered. While all of them guess, others are not slowed.
const SOURCES: usize = 4_096;

/// Each source's guesses that are still to be forgiven.
#[derive(Debug, Default)]
pub(crate) struct Guesses(Mutex<HashMap<Source, (f64, Instant)>>);

impl Guesses {
    /// The seconds that an address has to wait, if it has guessed too often.
    pub(crate) fn wait(&self, from: Option<IpAddr>) -> Option<u32> {
        self.wait_at(from?.into(), Instant::now())
    }

    /// Notes a wrong token.
    pub(crate) fn wrong(&self, from: Option<IpAddr>) {
        if let Some(from) = from {
            self.wrong_at(from.into(), Instant::now());
        }
    }

    fn wait_at(&self, source: Source, now: Instant) -> Option<u32> {
        let left = lock(&self.0).get(&source).map(|guesses| left(guesses, now))?;
        let wait = (left - BURST + 1.0) * PAUSE;
        (wait > 0.0).then_some(wait.ceil() as u32)
    }

    fn wrong_at(&self, source: Source, now: Instant) {
        let mut guesses = lock(&self.0);
        if guesses.len() >= SOURCES && !guesses.contains_key(&source) {
            guesses.retain(|_, own| left(own, now) > 0.0);
            if guesses.len() >= SOURCES {
                return;
            }
        }
        let own = guesses.entry(source).or_insert((0.0, now));
        *own = (left(own, now) + 1.0, now);
    }
}

/// The guesses that are not forgiven yet.
fn left((guesses, at): &(f64, Instant), now: Instant) -> f64 {
    (guesses - now.duration_since(*at).as_secs_f64() / PAUSE).max(0.0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_in_a_row_then_one_a_second() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let from = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        let mallory = from("203.0.113.7");
        for _ in 0..10 {
            assert_eq!(guesses.wait_at(mallory, start), None);
            guesses.wrong_at(mallory, start);
        }
        assert_eq!(guesses.wait_at(mallory, start), Some(1));
        assert_eq!(guesses.wait_at(from("203.0.113.8"), start), None, "another address");
        let later = start + Duration::from_secs(1);
        assert_eq!(guesses.wait_at(mallory, later), None);
        guesses.wrong_at(mallory, later);
        assert_eq!(guesses.wait_at(mallory, later), Some(1));
        assert_eq!(guesses.wait_at(mallory, later + Duration::from_secs(60)), None);
    }

    #[test]
    fn memory_is_bounded_and_forgives() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let source = |n: usize| Source::from(IpAddr::from((n as u32 + 0x0100_0000).to_be_bytes()));
        for n in 0..SOURCES + 10 {
            guesses.wrong_at(source(n), start);
        }
        assert_eq!(lock(&guesses.0).len(), SOURCES);
        guesses.wrong_at(source(SOURCES + 11), start + Duration::from_secs(5));
        assert_eq!(lock(&guesses.0).len(), 1, "all others are forgiven");
    }
}
