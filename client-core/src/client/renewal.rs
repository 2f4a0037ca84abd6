//! Subscriptions on the connection there is: asked for one by one, or many in a batch.

use super::Client;
use crate::{
    error::CommandError,
    event::{Event, Output, Payload, SubscriptionId},
    frame::Opcode,
    session::Version,
    stream::{StreamId, StreamKind},
    time::Millis,
    wire::{self, push_item},
};

/// Most bytes of the payload of a batch that is sent.
const MAX_BATCH: usize = 64 * 1024;

impl Client {
    /// Adds a subscription, or counts a follower; one that lingers makes room for it.
    pub(super) fn add(&mut self, stream: StreamId) -> Result<(SubscriptionId, bool), CommandError> {
        if let Some(id) = self.subscriptions.superfluous(&self.config.limits)
            && self.subscriptions.find(stream.kind, &stream.key).is_none()
        {
            self.end(id);
        }
        self.subscriptions.add(stream, &self.config.limits)
    }

    /// Ends the subscriptions that have lingered until `now`.
    pub(super) fn end_lingering(&mut self, now: Millis) {
        while let Some(id) = self.subscriptions.expired(now) {
            self.end(id);
        }
    }

    /// Ends a subscription, on the server as well.
    pub(super) fn end(&mut self, id: SubscriptionId) {
        let Some((stream, correlation)) = self.subscriptions.remove(id, &self.config.limits) else { return };
        if let Some(correlation) = correlation {
            self.send(Opcode::Unsubscribe, correlation, b"null");
        }
        if !self.subscriptions.counts(&stream) {
            self.forget_value(&stream);
        }
        if matches!(stream.kind, StreamKind::State | StreamKind::Event) {
            self.event(Event::Left { subscription: id, stream });
        }
    }

    /// Subscribes on the connection there is: version 2 is asked, on version 1 there is nothing to ask.
    pub(super) fn renew(&mut self, id: SubscriptionId) {
        match self.phase.open().map(|link| link.version) {
            Some(Version::V2) => self.ask(id),
            Some(Version::V1) => {
                if let Some(stream) = self.subscriptions.stream(id).cloned() {
                    self.answered(id, stream.clone(), false);
                    if stream.kind == StreamKind::Crdt
                        && let Some(state) = self.subscriptions.kept(&stream.key)
                        && let Some(at) = self.subscriptions.count_crdt(&stream.key)
                    {
                        self.stream_entry(stream, Payload::Json(state), at, true);
                    }
                }
            }
            None => {}
        }
    }

    /// Tells that a subscription was answered.
    pub(super) fn answered(&mut self, subscription: SubscriptionId, stream: StreamId, recovered: bool) {
        if !self.stream_subscribed(&stream, recovered) {
            self.event(Event::Subscribed { subscription, stream, recovered });
        }
    }

    /// Sends SUBSCRIBE, and UNSUBSCRIBE for the correlation id it had before.
    pub(super) fn ask(&mut self, id: SubscriptionId) {
        let correlation = self.next_correlation();
        let Some((payload, old)) = self.subscriptions.ask(id, correlation) else { return };
        if let Some(old) = old {
            self.send(Opcode::Unsubscribe, old, b"null");
        }
        self.send(Opcode::Subscribe, correlation, &payload);
    }

    /// Subscribes on a new connection to everything that is followed: in batches where the server reads them.
    pub(super) fn renew_all(&mut self) {
        let batches = self.phase.open().filter(|link| link.batches).map(|link| link.max_payload.min(MAX_BATCH));
        let (mut batch, mut last) = (Vec::new(), Vec::new());
        for id in self.subscriptions.ids() {
            let Some(limit) = batches else {
                self.renew(id);
                continue;
            };
            let correlation = self.next_correlation();
            let Some((payload, _)) = self.subscriptions.ask(id, correlation) else { continue };
            let message = self.encoder.encode(Opcode::Subscribe, correlation, &payload, usize::MAX);
            // With its length, of at most five bytes.
            if batch.len() + message.len() + 5 > limit {
                self.send_batch(std::mem::take(&mut batch), std::mem::take(&mut last));
            }
            push_item(&mut batch, &message);
            last = message;
        }
        self.send_batch(batch, last);
    }

    /// Sends a batch; `last` alone where there is nothing else in it.
    fn send_batch(&mut self, batch: Vec<u8>, last: Vec<u8>) {
        let alone = wire::split_item(&batch).is_none_or(|(_, rest)| rest.is_empty());
        match (alone, self.phase.link()) {
            (false, _) => self.send(Opcode::Batch, 0, &batch),
            (true, Some(link)) if !last.is_empty() => {
                link.sent(self.clock.now());
                let message = self.encoder.compress(last, link.compress_above);
                self.outputs.push_back(Output::Send { socket: link.socket, message });
            }
            _ => {}
        }
    }
}
