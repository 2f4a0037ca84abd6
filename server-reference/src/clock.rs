//! Time as the server sees it: read from a clock that is injected, so that tests advance it instead of sleeping.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970, as the machine's clock has them. May step backwards.
    fn unix_millis(&self) -> u64;

    /// Time since some fixed moment of the process. Never steps backwards.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock for System {
    fn unix_millis(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// A clock that stands until it is advanced. Begins at 2026-01-01 00:00 UTC.
#[derive(Debug, Default)]
pub struct Manual {
    /// Milliseconds that have passed since the beginning.
    passed: AtomicU64,
}

const MANUAL_START: u64 = 1_767_225_600_000;

impl Manual {
    /// Lets `time` pass; whole milliseconds.
    pub fn advance(&self, time: Duration) {
        self.passed.fetch_add(millis(time), Ordering::Relaxed);
    }
}

impl Clock for Manual {
    fn unix_millis(&self) -> u64 {
        MANUAL_START + self.passed.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.passed.load(Ordering::Relaxed))
    }
}

/// The machine's time, for timestamps and the age of entries; Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    System.unix_millis()
}

/// The time as clients are told: it stands still where the machine's clock steps back, so that what they write later is
/// later.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    /// The time to be told when the machine's clock shows `now`; Unix milliseconds.
    pub(crate) fn at(&self, now: u64) -> u64 {
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_told_never_steps_back() {
        let told = Told::default();
        assert_eq!([5, 6, 2, 6, 7].map(|now| told.at(now)), [5, 6, 6, 6, 7]);
    }

    #[test]
    fn a_manual_clock_moves_only_when_advanced() {
        let clock = Manual::default();
        let (unix, monotonic) = (clock.unix_millis(), clock.monotonic());
        assert_eq!((clock.unix_millis(), clock.monotonic()), (unix, monotonic));
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(clock.unix_millis(), unix + 1_500);
        assert_eq!(clock.monotonic(), monotonic + Duration::from_millis(1_500));
    }

    #[test]
    fn the_machines_clock_knows_the_year_and_does_not_step_back() {
        assert!(System.unix_millis() > MANUAL_START);
        let first = System.monotonic();
        assert!(System.monotonic() >= first);
    }
}
