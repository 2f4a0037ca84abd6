//! [`Window`]: the recent messages of a stream, for clients that come back.

use bytes::Bytes;

use crate::{clock::millis, entry::Entry, few::Few, limits::Replay};

/// Messages of the newest entries, one for each, without a gap. Those that can be made of their entry alone are made when somebody
/// asks for them.
#[derive(Debug, Default)]
pub(crate) struct Window {
    log: Few<Logged>,
    /// Bytes of the messages, or more.
    bytes: usize,
    /// How many are not made.
    unmade: u32,
}

/// A message, or the entry that it is to be made of.
#[derive(Debug)]
pub(super) struct Logged {
    bytes: Bytes,
    /// Unix milliseconds.
    at: u64,
    /// Bytes of the message; the most that it has, where it is not made.
    length: u32,
    is_made: bool,
}

impl Logged {
    /// A message.
    pub(super) fn message(bytes: Bytes, at: u64) -> Self {
        Self { length: length(bytes.len()), bytes, at, is_made: true }
    }

    /// An entry whose message has at most so many bytes.
    pub(super) fn entry(entry: &Entry, most: usize, at: u64) -> Self {
        Self { bytes: entry.bytes().clone(), at, length: length(most), is_made: false }
    }
}

/// Frames have fewer than 4 GiB.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Window {
    /// `make` makes the message of an entry, given how many entries are behind it.
    pub(super) fn push(&mut self, logged: Logged, replay: &Replay, make: impl FnMut(&Entry, u64) -> Bytes) {
        let now = logged.at;
        self.bytes += logged.length as usize;
        self.unmade += u32::from(!logged.is_made);
        self.log.push_back(logged);
        while self.log.len() > replay.entries {
            self.pop();
        }
        if self.bytes > replay.bytes {
            self.make(self.log.len(), make);
        }
        while self.bytes > replay.bytes {
            self.pop();
        }
        self.expire(now, replay);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn pop(&mut self) {
        if let Some(logged) = self.log.pop_front() {
            self.bytes -= logged.length as usize;
            self.unmade -= u32::from(!logged.is_made);
        }
    }

    /// Drops the messages that are older than `replay` keeps them.
    pub(super) fn expire(&mut self, now: u64, replay: &Replay) {
        let Some(age) = replay.age.map(millis) else { return };
        while self.log.get(0).is_some_and(|logged| logged.at.saturating_add(age) < now) {
            self.pop();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.log.len()
    }

    /// The newest `count` messages, the oldest of them first. They are [made](Self::make) before.
    pub(super) fn newest(&self, count: usize) -> impl Iterator<Item = &Bytes> {
        self.log.from(self.log.len().saturating_sub(count)).map(|logged| &logged.bytes)
    }

    /// Makes those of the newest `count` messages that are not made; `make` as in [`push`](Self::push).
    pub(super) fn make(&mut self, count: usize, mut make: impl FnMut(&Entry, u64) -> Bytes) {
        for (behind, logged) in (0..).zip(self.log.iter_mut().rev().take(count)) {
            if self.unmade == 0 {
                return;
            }
            let entry = if logged.is_made { None } else { Entry::stored(logged.bytes.clone()) };
            let Some(entry) = entry else { continue };
            let message = Logged::message(make(&entry, behind), logged.at);
            self.bytes = self.bytes - logged.length as usize + message.length as usize;
            self.unmade -= 1;
            *logged = message;
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.log.from(0).map(|logged| logged.length as usize).sum::<usize>());
        assert_eq!(self.unmade as usize, self.log.from(0).filter(|logged| !logged.is_made).count());
        for logged in self.log.from(0).filter(|logged| logged.is_made) {
            assert_eq!(logged.length as usize, logged.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Messages, and entries whose messages are made late, against a list of messages that are all made at once.
    #[test]
    fn a_message_counts_by_its_bytes_whenever_it_is_made() {
        let replay = Replay { entries: 8, bytes: 100, age: None };
        let (mut window, mut all) = (Window::default(), VecDeque::new());
        let mut random = 1u64;
        let mut below = |most: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % most
        };
        for number in 0..5_000usize {
            let message = Bytes::from(format!("{number:0width$}", width = 4 + below(30)));
            let entry = Entry::new(b'n', number.to_string().as_bytes());
            let logged = match below(3) {
                0 => Logged::message(message.clone(), 0),
                _ => Logged::entry(&entry, message.len() + below(40), 0),
            };
            all.push_back(message);
            let make = |all: &VecDeque<Bytes>, entry: &Entry, behind: u64| {
                assert_eq!(entry.text(), (number as u64 - behind).to_string());
                all[all.len() - 1 - behind as usize].clone()
            };
            window.push(logged, &replay, |entry, behind| make(&all, entry, behind));
            while all.len() > replay.entries || all.iter().map(Bytes::len).sum::<usize>() > replay.bytes {
                all.pop_front();
            }
            assert_eq!(window.len(), all.len(), "after {number}");
            if below(4) == 0 {
                let count = below(all.len() + 1);
                window.make(count, |entry, behind| make(&all, entry, behind));
                assert!(window.newest(count).eq(all.range(all.len() - count..)), "{count} after {number}");
            }
            window.check();
        }
    }
}
