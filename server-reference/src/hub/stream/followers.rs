//! [`Followers`]: who follows a stream, and what they are shown.

use std::sync::Arc;

use bytes::Bytes;
use datasole_core::Position;
use tokio::time::Instant;

use super::super::{members::Members, shown::Shown};
use crate::connection::Connection;

/// Epochs of lives that never began that a stream remembers.
const UNBORN: usize = 4;

/// The part of a stream that exists for its followers; most streams have none.
#[derive(Debug, Default)]
pub(super) struct Followers {
    pub(super) members: Members,
    /// The messages that show the content to followers of either version, made when first asked for.
    pub(super) shown: [Option<Box<Shown>>; 2],
    /// Whether followers of either version await the message that shows a large content, which is being made.
    pub(super) awaited: [bool; 2],
    /// When followers are going to be shown something.
    pub(super) due: Option<Instant>,
    /// Epochs that followers were told before the first entry came, of lives that began elsewhere or not at all.
    unborn: Vec<u64>,
}

impl Followers {
    pub(super) fn as_slice(&self) -> &[Arc<Connection>] {
        self.members.as_slice()
    }

    /// Whether they can be forgotten: nobody is there, and nothing is kept for those who come. `is_short` tells that what shows the
    /// content need not be kept.
    pub(super) fn are_over(&self, is_short: bool) -> bool {
        self.members.is_empty()
            && self.unborn.is_empty()
            && self.due.is_none()
            && self.awaited == [false; 2]
            && (is_short || !self.are_shown())
    }

    /// Whether there is a message that shows the content.
    pub(super) fn are_shown(&self) -> bool {
        self.shown.iter().any(Option::is_some)
    }

    /// Takes note of the message of the next entry.
    pub(super) fn overtake(&mut self, message: &Bytes) {
        for shown in &mut self.shown {
            shown.take_if(|shown| !shown.follow(message));
        }
    }

    /// Takes note that the stream starts over, which was at `since`.
    pub(super) fn start_over(&mut self, since: Position) {
        self.shown = [None, None];
        if since.seq > 0 {
            self.unborn.clear();
        } else if self.unborn.len() < UNBORN {
            self.unborn.push(since.epoch);
        }
    }

    /// Whether followers were told this epoch, of a life that never began.
    pub(super) fn were_told(&self, epoch: u64) -> bool {
        self.unborn.contains(&epoch)
    }
}
