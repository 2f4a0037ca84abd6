//! [`Shown`]: the message that shows a stream's content, made once for many followers.
//!
//! What is large and changes all the time is not made anew for each of them: a follower gets the message that is there, and
//! the entries since, as if it had come earlier, until those are longer. So the entry that overtakes a message does not make
//! the next follower wait for another.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Contents of so many bytes are made at most once in [`MOMENT`].
const LARGE: usize = 16 * 1024;
/// How long a message that has been overtaken is handed out in any case.
pub(super) const MOMENT: Duration = Duration::from_millis(50);
/// Bytes of entries behind it that are kept for a moment in any case.
const SINCE: usize = 64 * 1024;
/// How long a message that has been overtaken stays for nobody.
const UNUSED: Duration = Duration::from_secs(10);

/// The message that shows the content, and the entries since.
#[derive(Debug)]
pub(super) struct Shown {
    /// `None` while it is being made, without the stream's lock.
    whole: Option<Bytes>,
    /// About how many bytes it has, before compression.
    weight: usize,
    /// The time of the content in it.
    of: Instant,
    /// `None` where the next entry is the end of it.
    made: Option<Instant>,
    /// When it was handed out last.
    used: Option<Instant>,
    /// Whether followers get the entries since; if not, they are shown the next whole in a moment.
    goes_on: bool,
    overtaken: bool,
    /// Messages of the entries since.
    since: Vec<Bytes>,
    bytes: usize,
    /// Most bytes of those: what waits for a slow follower must leave room for what comes next.
    most: usize,
}

impl Shown {
    /// Begins the message of a content of about so many bytes, which later followers may get, too: with up to `most` bytes of
    /// the entries since, or as it is where those are `None`.
    pub(super) fn begin(weight: usize, most: Option<usize>) -> Self {
        let of = Instant::now();
        let made = (weight >= LARGE).then_some(of);
        let (goes_on, most) = (most.is_some(), most.unwrap_or_default());
        Self { whole: None, weight, of, made, used: made, goes_on, overtaken: false, since: Vec::new(), bytes: 0, most }
    }

    /// The message is made.
    pub(super) fn finish(&mut self, whole: Bytes) {
        let now = Instant::now();
        (self.made, self.used) = (self.made.map(|_| now), self.used.map(|_| now));
        self.whole = Some(whole);
    }

    /// Whether the message is made.
    pub(super) fn is_made(&self) -> bool {
        self.whole.is_some()
    }

    /// Takes the message of the next entry; `false` if that is the end.
    pub(super) fn follow(&mut self, message: &Bytes) -> bool {
        self.bytes += message.len();
        self.overtaken = true;
        let lasts = if self.goes_on {
            let length = self.whole.as_ref().map_or(self.weight, Bytes::len);
            let most = if self.is_young() { length.max(SINCE) } else { length };
            self.bytes <= most.min(self.most) && self.used.is_some_and(|used| used.elapsed() < UNUSED)
        } else {
            self.is_young() || !self.is_made()
        };
        if lasts && self.goes_on {
            self.since.push(message.clone());
        }
        lasts
    }

    fn is_young(&self) -> bool {
        self.made.is_some_and(|made| made.elapsed() < MOMENT)
    }

    /// Whether it may be handed out.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_made() && (!self.overtaken || self.goes_on || self.is_young())
    }

    /// Takes note that it is handed out.
    pub(super) fn hand_out(&mut self) {
        self.used = self.used.map(|_| Instant::now());
    }

    /// The message that shows the content, unless that is from before `asked` and has been overtaken: then, for how long
    /// no other is made.
    pub(super) fn since(&self, asked: Instant) -> Result<Option<&Bytes>, Duration> {
        match self.rest() {
            Some(rest) if self.of < asked => Err(rest),
            _ => Ok(self.whole.as_ref()),
        }
    }

    /// For how long an overtaken message is handed out yet, from when it is made.
    pub(super) fn rest(&self) -> Option<Duration> {
        let made = self.made.filter(|_| self.overtaken)?;
        Some(if self.is_made() { MOMENT.saturating_sub(made.elapsed()) } else { MOMENT })
    }

    /// How many entries have come since.
    pub(super) fn behind(&self) -> usize {
        self.since.len()
    }

    /// The messages that a follower gets.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Bytes> {
        self.whole.iter().chain(&self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_it_is_made_follows() {
        let mut shown = Shown::begin(1 << 20, Some(1 << 20));
        assert!(!shown.is_fresh() && shown.follow(&message("first")));
        tokio::time::advance(2 * MOMENT).await;
        assert!(shown.follow(&message("second")));
        shown.finish(message("whole"));
        assert!(shown.is_fresh());
        assert_eq!(shown.messages().collect::<Vec<_>>(), ["whole", "first", "second"]);
        assert_eq!(shown.behind(), 2);
        // As of before.
        assert!(shown.since(Instant::now()).is_err());
        assert_eq!(shown.since(Instant::now() - 2 * MOMENT), Ok(Some(&message("whole"))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_without_what_comes_is_young_once_it_is_made() {
        let mut shown = Shown::begin(1 << 20, None);
        tokio::time::advance(2 * MOMENT).await;
        assert!(shown.follow(&message("first")));
        shown.finish(message("whole"));
        assert!(shown.is_fresh() && shown.behind() == 0);
        tokio::time::advance(MOMENT).await;
        assert!(!shown.is_fresh());
    }
}
