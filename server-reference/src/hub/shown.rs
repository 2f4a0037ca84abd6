//! [`Shown`]: the message that shows a stream's content, made once for many followers.
//!
//! What is large and changes all the time is not made anew for each of them: for a moment a follower gets the message that
//! is there, and the entries since, as if it had come earlier.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Contents of so many bytes are made at most once in [`MOMENT`].
const LARGE: usize = 16 * 1024;
/// How long a message that has been overtaken is handed out.
const MOMENT: Duration = Duration::from_millis(50);
/// Bytes of entries behind it that are kept in any case.
const SINCE: usize = 64 * 1024;

/// The message that shows the content, and the entries since.
#[derive(Debug)]
pub(super) struct Shown {
    whole: Bytes,
    /// `None` where the next entry is the end of it.
    made: Option<Instant>,
    /// Whether followers get the entries since; if not, they are shown the next whole in a moment.
    goes_on: bool,
    overtaken: bool,
    /// Messages of the entries since.
    since: Vec<Bytes>,
    bytes: usize,
}

impl Shown {
    /// The message of a content of about so many bytes, which later followers may get, too: with the entries since, or as it is.
    pub(super) fn new(whole: Bytes, weight: usize, goes_on: bool) -> Self {
        let made = (weight >= LARGE).then(Instant::now);
        Self { whole, made, goes_on, overtaken: false, since: Vec::new(), bytes: 0 }
    }

    /// Takes the message of the next entry; `false` if that is the end.
    pub(super) fn follow(&mut self, message: &Bytes) -> bool {
        self.bytes += message.len();
        self.overtaken = true;
        let lasts = self.is_young() && (!self.goes_on || self.bytes <= self.whole.len().max(SINCE));
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
        !self.overtaken || self.is_young()
    }

    /// The message that shows the content, unless it was made before `asked` and has been overtaken: then, for how long
    /// no other is made.
    pub(super) fn since(&self, asked: Instant) -> Result<&Bytes, Duration> {
        match self.made {
            Some(made) if self.overtaken && made < asked => Err(self.rest().unwrap_or_default()),
            _ => Ok(&self.whole),
        }
    }

    /// For how long an overtaken message is handed out yet.
    pub(super) fn rest(&self) -> Option<Duration> {
        let made = self.made.filter(|_| self.overtaken)?;
        Some(MOMENT.saturating_sub(made.elapsed()))
    }

    /// How many entries have come since.
    pub(super) fn behind(&self) -> usize {
        self.since.len()
    }

    /// The messages that a follower gets.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.whole).chain(&self.since)
    }
}
