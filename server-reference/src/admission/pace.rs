//! [`Pace`]: how much comes from where, so that a source that does too much is slowed down.

use std::{collections::HashMap, net::IpAddr, sync::Mutex, time::Instant};

use http::StatusCode;

use super::{Kind, Rejection, places::Source};
use crate::sync::lock;

/// Sources remembered. While all of them are busy, others are not slowed.
const SOURCES: usize = 4_096;

/// The amount that each source may have at once, and by the second.
#[derive(Debug)]
pub(crate) struct Pace {
    burst: f64,
    per_second: f64,
    /// What counts still, and when that was.
    used: Mutex<HashMap<Source, (f64, Instant)>>,
}

impl Pace {
    pub(crate) fn new(burst: f64, per_second: f64) -> Self {
        Self { burst, per_second, used: Mutex::default() }
    }

    /// The seconds that an address has to wait, if it has had too much.
    fn wait(&self, from: Option<IpAddr>) -> Option<u32> {
        self.wait_at(from?.into(), Instant::now())
    }

    /// Checks that an address may go on; `what` names what it has had too much of.
    pub(crate) fn admit(&self, from: Option<IpAddr>, what: &str) -> Result<(), Rejection> {
        let Some(seconds) = self.wait(from) else { return Ok(()) };
        let text = format!("too {what} from {}", from.map(|from| from.to_string()).unwrap_or_default());
        let rejection = Rejection::new(StatusCode::TOO_MANY_REQUESTS, Kind::Limit, text);
        Err(Rejection { retry_after: Some(seconds), ..rejection })
    }

    /// Notes that an address has had so much.
    pub(crate) fn charge(&self, from: Option<IpAddr>, amount: f64) {
        if let Some(from) = from {
            self.charge_at(from.into(), amount, Instant::now());
        }
    }

    fn wait_at(&self, source: Source, now: Instant) -> Option<u32> {
        let left = lock(&self.used).get(&source).map(|used| self.left(used, now))?;
        let wait = (left - self.burst + 1.0) / self.per_second;
        (wait > 0.0).then_some(wait.ceil() as u32)
    }

    fn charge_at(&self, source: Source, amount: f64, now: Instant) {
        let mut used = lock(&self.used);
        if used.len() >= SOURCES && !used.contains_key(&source) {
            used.retain(|_, own| self.left(own, now) > 0.0);
            if used.len() >= SOURCES {
                return;
            }
        }
        let own = used.entry(source).or_insert((0.0, now));
        *own = (self.left(own, now) + amount, now);
    }

    /// The amount that counts still.
    fn left(&self, (used, at): &(f64, Instant), now: Instant) -> f64 {
        (used - now.duration_since(*at).as_secs_f64() * self.per_second).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_in_a_row_then_one_a_second() {
        let (guesses, start) = (Pace::new(10.0, 1.0), Instant::now());
        let from = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        let mallory = from("203.0.113.7");
        for _ in 0..10 {
            assert_eq!(guesses.wait_at(mallory, start), None);
            guesses.charge_at(mallory, 1.0, start);
        }
        assert_eq!(guesses.wait_at(mallory, start), Some(1));
        assert_eq!(guesses.wait_at(from("203.0.113.8"), start), None, "another address");
        let later = start + Duration::from_secs(1);
        assert_eq!(guesses.wait_at(mallory, later), None);
        guesses.charge_at(mallory, 1.0, later);
        assert_eq!(guesses.wait_at(mallory, later), Some(1));
        assert_eq!(guesses.wait_at(mallory, later + Duration::from_secs(60)), None);
    }

    #[test]
    fn an_amount_is_paid_off_by_the_second() {
        let (pace, start) = (Pace::new(1_000.0, 1_000.0), Instant::now());
        let mallory = Source::from("203.0.113.7".parse::<IpAddr>().unwrap());
        for (amount, wait) in [(999.0, None), (1.0, Some(1)), (3_500.0, Some(4))] {
            pace.charge_at(mallory, amount, start);
            assert_eq!(pace.wait_at(mallory, start), wait, "{amount}");
        }
        assert_eq!(pace.wait_at(mallory, start + Duration::from_millis(3_400)), Some(1));
        assert_eq!(pace.wait_at(mallory, start + Duration::from_millis(3_501)), None);
    }

    #[test]
    fn memory_is_bounded_and_forgives() {
        let (guesses, start) = (Pace::new(10.0, 1.0), Instant::now());
        let source = |n: usize| Source::from(IpAddr::from((n as u32 + 0x0100_0000).to_be_bytes()));
        for n in 0..SOURCES + 10 {
            guesses.charge_at(source(n), 1.0, start);
        }
        assert_eq!(lock(&guesses.used).len(), SOURCES);
        guesses.charge_at(source(SOURCES + 11), 1.0, start + Duration::from_secs(5));
        assert_eq!(lock(&guesses.used).len(), 1, "all others are forgiven");
    }
}
