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
const MOMENT: Duration = Duration::from_millis(50);
/// Bytes of entries behind it that are kept for a moment in any case.
const SINCE: usize = 64 * 1024;
/// How long a message that has been overtaken stays for nobody.
const UNUSED: Duration = Duration::from_secs(10);

/// The message that shows the content, and the entries since.
#[derive(Debug)]
pub(super) struct Shown {
    whole: Bytes,
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
    /// The message of a content of about so many bytes, which later followers may get, too: with up to `most` bytes of the
    /// entries since, or as it is where those are `None`.
    pub(super) fn new(whole: Bytes, weight: usize, most: Option<usize>) -> Self {
        let made = (weight >= LARGE).then(Instant::now);
        let (goes_on, most) = (most.is_some(), most.unwrap_or_default());
        Self { whole, made, used: made, goes_on, overtaken: false, since: Vec::new(), bytes: 0, most }
    }

    /// Takes the message of the next entry; `false` if that is the end.
    pub(super) fn follow(&mut self, message: &Bytes) -> bool {
        self.bytes += message.len();
        self.overtaken = true;
        let lasts = if self.goes_on {
            let most = if self.is_young() { self.whole.len().max(SINCE) } else { self.whole.len() };
            self.bytes <= most.min(self.most) && self.used.is_some_and(|used| used.elapsed() < UNUSED)
        } else {
            self.is_young()
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
        !self.overtaken || self.goes_on || self.is_young()
    }

    /// Takes note that it is handed out.
    pub(super) fn hand_out(&mut self) {
        self.used = self.used.map(|_| Instant::now());
    }

    /// Puts the same in fewer bytes in place of `plain`, if that is still what is handed out.
    pub(super) fn shorten(&mut self, plain: &Bytes, whole: Bytes) {
        if self.whole.as_ptr() == plain.as_ptr() {
            self.whole = whole;
        }
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
