//! When to try again: what a close means, and how long to wait. Draws from the one generator, keeps no timer.

use crate::{
    config::Reconnect,
    event::{CloseVerdict, SocketClose},
    rng::Rng,
    wire::{CLOSE_FELL_BEHIND, CLOSE_INVALID, CLOSE_UNAUTHORIZED, CLOSE_UNKNOWN_KEY},
};

/// A connection that lasted less than this counts as a failed attempt, so that a server which accepts and drops at once
/// is met with growing delays; milliseconds. What came over it does not matter: a server that greets, sends and crashes
/// must not be hurried either.
pub(crate) const STABLE_AFTER: u64 = 1_000;

/// So many closes in a row that say this client is at fault end the attempts. Fewer may be the words of a proxy.
pub(crate) const OBJECTIONS: u8 = 5;

/// The longest `reconnectWindow` and `Retry-After` obeyed; milliseconds.
pub(crate) const MAX_WINDOW: u64 = 3_600_000;

impl CloseVerdict {
    /// The table "Closing" of `docs/protocol.md`; the HTTP status, where there is one, comes before the code. Codes and
    /// statuses that are not in it (applications' and proxies' own) are worth another attempt.
    pub fn of(close: &SocketClose) -> Self {
        match (close.http_status, close.by_datasole) {
            (Some(401), true) => return Self::RetryWithNewToken,
            (Some(403), true) => return Self::Stop,
            (Some(401 | 403), false) => return Self::RetrySlowly,
            (Some(status), _) if status >= 300 => return Self::Retry,
            _ => {}
        }
        match close.code {
            Some(CLOSE_FELL_BEHIND) => Self::Resync,
            Some(CLOSE_UNAUTHORIZED) => Self::RetryWithNewToken,
            Some(1002 | 1003 | 1007 | 1008 | 1010) => Self::RetryAFewTimes,
            Some(CLOSE_UNKNOWN_KEY | CLOSE_INVALID) => Self::Stop,
            _ => Self::Retry,
        }
    }
}

/// How far the present row of attempts has come.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Attempts since the last stable connection, not counting the one that `connect` makes.
    pub(crate) attempts: u32,
    /// The last attempt ended with a refused token.
    pub(crate) refused: bool,
    /// The last attempts or connections that ended with [`CloseVerdict::RetryAFewTimes`].
    objections: u8,
}

impl Backoff {
    /// The wait before the next attempt, which is counted; `None` when the policy allows no more.
    ///
    /// `window` is what the server that went away has announced. It replaces the first bound; after that the larger of
    /// the two holds, so that a server announcing 0 and crashing at once is not met with a hot loop.
    pub(crate) fn next(
        &mut self,
        policy: &Reconnect,
        verdict: CloseVerdict,
        window: Option<u64>,
        rng: &mut Rng,
    ) -> Option<u64> {
        self.objections = if verdict == CloseVerdict::RetryAFewTimes { self.objections + 1 } else { 0 };
        if self.objections >= OBJECTIONS || policy.max_attempts.is_some_and(|max| self.attempts >= max) {
            return None;
        }
        let bound = match verdict {
            CloseVerdict::Resync => policy.base.min(policy.cap),
            CloseVerdict::RetrySlowly => policy.cap,
            _ => self.bound(policy),
        };
        let bound = match window.map(|window| window.min(MAX_WINDOW)) {
            Some(window) if self.attempts == 0 => window,
            Some(window) => window.max(bound),
            None => bound,
        };
        self.attempts = self.attempts.saturating_add(1);
        Some(rng.up_to(bound))
    }

    /// `min(cap, base * 2^n)`.
    fn bound(&self, policy: &Reconnect) -> u64 {
        let factor = 1_u64.checked_shl(self.attempts).unwrap_or(u64::MAX);
        policy.base.saturating_mul(factor).min(policy.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    #[test]
    fn verdicts_follow_the_table() {
        use CloseVerdict::{Resync, Retry, RetryAFewTimes, RetrySlowly, RetryWithNewToken, Stop};
        for (codes, verdict) in [
            (&[1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 1014, 1015, 3000, 4000, 4005, 0][..], Retry),
            (&[4001][..], Resync),
            (&[4002][..], RetryWithNewToken),
            (&[1002, 1003, 1007, 1008, 1010][..], RetryAFewTimes),
            (&[4003, 4004][..], Stop),
        ] {
            for &code in codes {
                let close = SocketClose { code: Some(code), ..SocketClose::default() };
                assert_eq!(CloseVerdict::of(&close), verdict, "{code}");
            }
        }
        assert_eq!(CloseVerdict::of(&SocketClose::default()), Retry);
        for (status, ours, theirs) in [
            (401, RetryWithNewToken, RetrySlowly),
            (403, Stop, RetrySlowly),
            (404, Retry, Retry),
            (408, Retry, Retry),
            (429, Retry, Retry),
            (500, Retry, Retry),
        ] {
            for (by_datasole, verdict) in [(true, ours), (false, theirs)] {
                let close =
                    SocketClose { code: Some(1008), http_status: Some(status), by_datasole, ..Default::default() };
                assert_eq!(CloseVerdict::of(&close), verdict, "HTTP {status}, by us: {by_datasole}");
            }
        }
    }

    /// The largest of many delays of attempt `n`, which full jitter brings close to the bound, and the smallest.
    fn range(policy: &Reconnect, n: u32, verdict: CloseVerdict, window: Option<u64>) -> (u64, u64) {
        let mut rng = Rng::new(Seed([3; 32]));
        let drawn: Vec<u64> = (0..5_000)
            .map(|_| Backoff { attempts: n, ..Backoff::default() }.next(policy, verdict, window, &mut rng).unwrap())
            .collect();
        (drawn.iter().copied().min().unwrap(), drawn.iter().copied().max().unwrap())
    }

    #[test]
    fn full_jitter_doubles_up_to_the_cap() {
        let policy = Reconnect { base: 10, cap: 75, ..Reconnect::default() };
        for (n, bound) in [(0, 10), (1, 20), (2, 40), (3, 75), (4, 75), (63, 75), (64, 75), (u32::MAX, 75)] {
            assert_eq!(range(&policy, n, CloseVerdict::Retry, None), (0, bound), "attempt {n}");
        }
        assert_eq!(range(&policy, 9, CloseVerdict::Resync, None), (0, 10));
        assert_eq!(range(&policy, 0, CloseVerdict::RetrySlowly, None), (0, 75));
    }

    #[test]
    fn a_window_replaces_the_first_bound_and_never_shortens_a_later_one() {
        let policy = Reconnect { base: 10, cap: 75, ..Reconnect::default() };
        for (n, window, bound) in [(0, 5, 5), (0, 50, 50), (0, 0, 0), (2, 5, 40), (2, 50, 50)] {
            assert_eq!(range(&policy, n, CloseVerdict::Retry, Some(window)), (0, bound), "attempt {n}");
        }
        assert!(range(&policy, 0, CloseVerdict::Retry, Some(u64::MAX)).1 <= MAX_WINDOW);
    }

    #[test]
    fn gives_up_after_the_allowed_attempts() {
        for (max, allowed) in [(Some(0), 0), (Some(1), 1), (Some(5), 5), (None, 100)] {
            let policy = Reconnect { max_attempts: max, ..Reconnect::default() };
            let mut backoff = Backoff::default();
            let mut rng = Rng::new(Seed([3; 32]));
            let made =
                (0..100).take_while(|_| backoff.next(&policy, CloseVerdict::Retry, None, &mut rng).is_some()).count();
            assert_eq!(made, allowed, "{max:?}");
        }
    }

    #[test]
    fn objections_in_a_row_are_final_and_anything_else_breaks_the_row() {
        let mut rng = Rng::new(Seed([3; 32]));
        let mut backoff = Backoff::default();
        let mut next = |verdict| backoff.next(&Reconnect::default(), verdict, None, &mut rng).is_some();
        for _ in 0..3 {
            assert!((1..OBJECTIONS).all(|_| next(CloseVerdict::RetryAFewTimes)));
            assert!(next(CloseVerdict::Retry));
        }
        assert!((1..OBJECTIONS).all(|_| next(CloseVerdict::RetryAFewTimes)));
        assert!(!next(CloseVerdict::RetryAFewTimes));
    }
}
