//! [`Window`]: the recent messages of a stream, for clients that come back.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{clock::millis, limits::Replay};

/// Messages of the newest entries, one for each, without a gap.
#[derive(Debug, Default)]
pub(super) struct Window {
    log: VecDeque<Logged>,
    bytes: usize,
}

#[derive(Debug)]
struct Logged {
    message: Bytes,
    /// Unix milliseconds.
    at: u64,
}

impl Window {
    pub(super) fn push(&mut self, message: Bytes, at: u64, replay: &Replay) {
        if replay.entries == 0 {
            return;
        }
        self.bytes += message.len();
        if self.log.capacity() == 0 {
            // Most streams have one entry.
            self.log.reserve_exact(1);
        }
        self.log.push_back(Logged { message, at });
        while self.log.len() > replay.entries || self.bytes > replay.bytes {
            self.pop();
        }
        self.expire(at, replay);
    }

    pub(super) fn clear(&mut self) {
        self.log.clear();
        self.bytes = 0;
    }

    fn pop(&mut self) {
        if let Some(logged) = self.log.pop_front() {
            self.bytes -= logged.message.len();
        }
    }

    /// Drops the messages that are older than `replay` keeps them.
    pub(super) fn expire(&mut self, now: u64, replay: &Replay) {
        let Some(age) = replay.age.map(millis) else { return };
        while self.log.front().is_some_and(|logged| logged.at.saturating_add(age) < now) {
            self.pop();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.log.len()
    }

    /// The newest `count` messages, the oldest of them first.
    pub(super) fn newest(&self, count: usize) -> impl Iterator<Item = &Bytes> {
        self.log.range(self.log.len().saturating_sub(count)..).map(|logged| &logged.message)
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.bytes, self.log.iter().map(|logged| logged.message.len()).sum::<usize>());
    }
}
