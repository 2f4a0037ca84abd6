//! [`Refusals`]: background edits that the server refused.

use std::sync::OnceLock;

use datasole_core::{Payload, StreamId};
use tokio::sync::broadcast::{self, error::RecvError};

/// Refusals kept for a reader that is slow; the oldest go first.
const KEPT: usize = 256;

/// An operation, presence value or update that the server refused for good: it took no effect.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The stream: a CRDT, a presence room or a document.
    pub stream: StreamId,
    /// The error code, one of [`codes`](crate::codes).
    pub code: i32,
    /// The message, for people.
    pub message: String,
    /// The operation (as it was sent, with the secret of its replica) or presence value as JSON; empty for a document's
    /// update.
    pub payload: Payload,
}

/// A stream of refusals from now on, from [`Client::refusals`](crate::Client::refusals).
#[derive(Debug)]
pub struct Refusals {
    receiver: broadcast::Receiver<Refusal>,
}

impl Refusals {
    /// The next refusal; `None` once the client is gone. A reader that falls 256 behind misses the oldest. Cancel safe.
    pub async fn next(&mut self) -> Option<Refusal> {
        loop {
            match self.receiver.recv().await {
                Ok(refusal) => return Some(refusal),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// The channel of refusals, made for the first who listens: its slots are large.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    sender: OnceLock<broadcast::Sender<Refusal>>,
    ended: bool,
}

impl Complaints {
    pub(crate) fn listen(&self) -> Refusals {
        let receiver = if self.ended {
            // Of a channel that has ended.
            broadcast::Sender::new(1).subscribe()
        } else {
            self.sender.get_or_init(|| broadcast::Sender::new(KEPT)).subscribe()
        };
        Refusals { receiver }
    }

    pub(crate) fn tell(&self, refusal: Refusal) {
        tracing::debug!(code = refusal.code, kind = ?refusal.stream.kind, "refused");
        if let Some(sender) = self.sender.get() {
            // Nobody may be listening.
            let _ = sender.send(refusal);
        }
    }

    pub(crate) fn end(&mut self) {
        (self.sender, self.ended) = (OnceLock::new(), true);
    }
}
