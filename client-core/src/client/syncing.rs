//! Commands on open streams, and what those streams want done.

use super::Client;
use crate::{
    error::{CallError, CommandError},
    event::{CallId, Payload, Status},
    rpc::Refusal,
    session::Version,
    stream::{Position, StreamId, StreamKind},
    sync::{Act, Answer, Refused},
    time::Millis,
};

impl Client {
    /// Opens a CRDT, a presence room or a document. Handles are counted: several opens share one subscription, and as many
    /// [`leave`](Self::leave)s end it. An [`Event::Progress`](crate::Event::Progress) follows. The whole value follows for the first handle; later
    /// ones share what the host has.
    ///
    /// `throttle`: milliseconds between two announcements in a room, or of a document's awareness;
    /// [`Config::presence_throttle`](crate::Config::presence_throttle) where `None`. The first handle decides.
    ///
    /// # Errors
    ///
    /// `BadName`, `Limit` (subscriptions), and `Unfit` for states and topics. A connection is not needed.
    pub fn open(&mut self, now: Millis, stream: StreamId, throttle: Option<u64>) -> Result<(), CommandError> {
        self.clock.advance(now);
        if matches!(stream.kind, StreamKind::State | StreamKind::Event) {
            return Err(CommandError::Unfit { what: stream.kind.name() });
        }
        self.check_name(&stream.key)?;
        let known = self.streams.has(&stream);
        let id = if known { None } else { Some(self.add(stream.clone())?.0) };
        self.streams.open(self.clock.now(), &stream, throttle.unwrap_or(self.config.presence_throttle));
        if let Some(id) = id {
            self.renew(id);
        }
        self.drive();
        Ok(())
    }

    /// Gives a handle of an open stream back. With the last one the stream is left: what is shown in a room or as
    /// awareness is withdrawn at once; a CRDT or a document stays until its edits are settled or refused.
    pub fn leave(&mut self, now: Millis, stream: &StreamId) {
        self.clock.advance(now);
        self.streams.leave(self.clock.now(), stream);
        self.drive();
    }

    /// Queues an edit of an open CRDT (one operation, JSON) or document (one Yjs update, bytes), with or without a
    /// connection. `edit` is the host's number of the edit: increasing within the stream; of a document from 1, without a
    /// gap. Every edit of a CRDT is settled exactly once ([`Event::Settled`](crate::Event::Settled)); those of a document are counted
    /// ([`Progress::stored`](crate::Progress::stored)), also while the document is refused.
    ///
    /// # Errors
    ///
    /// `NotOpen`; `Limit` (10,000 operations of a CRDT, or 4 MiB); `TooLarge`; `Unfit` (no operation with `nodeId` and
    /// `counter`, a counter that does not increase within its replica, no bytes, a number that does not increase);
    /// `Refused` when the server has refused the CRDT. Nothing is queued then.
    pub fn edit(&mut self, now: Millis, stream: &StreamId, edit: u64, payload: Payload) -> Result<(), CommandError> {
        self.clock.advance(now);
        if stream.kind == StreamKind::Crdt {
            // Around an operation stand the key, maybe escaped, and `done`.
            self.check_size(payload.len() + 2 * stream.key.len() + 64)?;
        }
        let edited = self.streams.edit(self.clock.now(), stream, edit, payload);
        self.drive();
        edited
    }

    /// Shows a value (JSON) in an open room from now on; `None` leaves the room. Entering and leaving are sent at once; of
    /// further values the last within an interval, at its end. A refusal of the server comes as an
    /// [`Event::Rejected`](crate::Event::Rejected).
    ///
    /// # Errors
    ///
    /// `NotOpen`, and `Unfit` for anything but JSON.
    pub fn show(&mut self, now: Millis, room: &str, value: Option<Payload>) -> Result<(), CommandError> {
        self.clock.advance(now);
        if value.as_ref().is_some_and(|value| !matches!(value, Payload::Json(_))) {
            return Err(CommandError::Unfit { what: StreamKind::Presence.name() });
        }
        let shown = self.streams.show(self.clock.now(), &StreamId::presence(room), value);
        self.drive();
        shown
    }

    /// Announces the client's own awareness in an open document, as y-protocols encodes it: throttled, the last one always,
    /// the newest waits for a connection. `None`: what waits is sent at once, nothing is shown any more, and nothing is
    /// announced again.
    pub fn aware(&mut self, now: Millis, document: &str, update: Option<Vec<u8>>) {
        self.clock.advance(now);
        self.streams.aware(self.clock.now(), &StreamId::doc(document), update);
        self.drive();
    }

    /// Answers the oldest unanswered [`Event::Ask`](crate::Event::Ask) of an open document, those for awareness aside. Answers that come after
    /// a reconnect to a question from before are expected, and ignored.
    pub fn answer(&mut self, now: Millis, document: &str, answer: Vec<u8>) {
        self.clock.advance(now);
        self.streams.answer(self.clock.now(), &StreamId::doc(document), &answer);
        self.drive();
    }

    /// Says that the last entry of an open stream could not be applied: the stream is fetched anew. `applied`: at least
    /// one entry was applied since the last report, or since the stream was opened. The third report in a row without one
    /// refuses the stream with [`codes::PARSE`](crate::codes::PARSE) until the next connection.
    pub fn unfit(&mut self, now: Millis, stream: &StreamId, applied: bool) {
        self.clock.advance(now);
        self.streams.unfit(self.clock.now(), stream, applied);
        self.drive();
    }

    // --- what open streams want done ---

    /// Does it, until there is nothing more to do.
    pub(super) fn drive(&mut self) {
        loop {
            while let Some(act) = self.streams.next() {
                self.act(act);
            }
            self.streams.settle();
            let Some(act) = self.streams.next() else { return };
            self.act(act);
        }
    }

    fn act(&mut self, act: Act) {
        let now = self.clock.now();
        match act {
            Act::Tell(event) => self.event(event),
            Act::Follow(stream) => match self.add(stream.clone()) {
                Ok((id, _)) => self.renew(id),
                // There may be room later.
                Err(limit) => self.streams.refused(now, &stream, limit.into(), Some(1_000)),
            },
            Act::Unfollow(stream) => {
                if let Some(id) = self.subscriptions.find(stream.kind, &stream.key) {
                    self.end(id);
                }
            }
            Act::Resync(stream) => {
                if let Some(id) = self.subscriptions.find(stream.kind, &stream.key) {
                    self.subscriptions.place(id, None);
                    self.renew(id);
                }
            }
            Act::Submit(stream, number, payload) => match self.submit(&stream, &payload) {
                Ok(Some(call)) => self.streams.submitted(call, stream, number),
                Ok(None) => self.streams.answered(now, &stream, number, Answer::Taken),
                Err(refused) => self.streams.answered(now, &stream, number, refused.into()),
            },
            Act::Notify(stream, payload) => {
                // Without a channel it is of no use: the next SUBSCRIBED begins anew.
                let _ = self.transmit(&stream, &payload, false);
            }
        }
    }

    /// Sends a CRDT's operation (JSON), a presence value (JSON; empty leaves the room) or a document's message (bytes), which
    /// counts as a call until it is answered; `None` when nobody will answer (version 1).
    pub(super) fn submit(&mut self, stream: &StreamId, payload: &Payload) -> Result<Option<CallId>, CommandError> {
        self.check_pending()?;
        let (correlation, document) = self.transmit(stream, payload, true)?;
        Ok((correlation != 0).then(|| self.await_answer(stream, correlation, document)))
    }

    /// Tells an open stream how its call fared; the outcome is given back when the call was another's.
    pub(super) fn answer_stream(
        &mut self,
        call: CallId,
        outcome: Result<Payload, CallError>,
    ) -> Option<Result<Payload, CallError>> {
        let Some((stream, number)) = self.streams.take_submitted(call) else { return Some(outcome) };
        let answer = outcome.map_or_else(Answer::from, |_| Answer::Taken);
        self.streams.answered(self.clock.now(), &stream, number, answer);
        None
    }

    /// A subscription was answered; `false` when it is no open stream's.
    pub(super) fn stream_subscribed(&mut self, stream: &StreamId, recovered: bool) -> bool {
        let open = self.streams.has(stream);
        if open {
            self.streams.subscribed(self.clock.now(), stream, recovered);
        }
        open
    }

    pub(super) fn stream_refused(&mut self, stream: &StreamId, refusal: Refusal) {
        let Refusal { code, message, retry_after } = refusal;
        self.streams.refused(self.clock.now(), stream, Refused { code, message }, retry_after);
    }

    pub(super) fn stream_entry(&mut self, stream: StreamId, payload: Payload, position: Position, whole: bool) {
        self.streams.entry(self.clock.now(), &stream, payload, position, whole);
    }

    /// A connection is of use: what was refused on the last one is followed again.
    pub(super) fn streams_connected(&mut self, version: Version) {
        let connection = match &self.status {
            Status::Connected { connection_id, .. } => connection_id.as_str(),
            _ => "",
        };
        for stream in self.streams.connected(self.clock.now(), version, connection) {
            if let Err(limit) = self.add(stream.clone()) {
                self.streams.refused(self.clock.now(), &stream, limit.into(), Some(1_000));
            }
        }
    }
}
