//! What the core tells, brought to those who wait for it.

use std::sync::Arc;

use datasole_core::{
    CallError, CallId, DisconnectReason, Event, Millis, Payload, Status as CoreStatus, StreamId, StreamKind,
};

use super::Router;
use crate::{
    inbox::{Item, Message},
    signal::End,
    status::Status,
};

impl Router {
    /// Brings an event to those who wait for it.
    pub(crate) fn route(&mut self, now: Millis, event: Event) {
        match event {
            Event::Status(status) => self.route_status(now, status),
            Event::CallDone { call, outcome } => self.route_answer(now, call, outcome),
            Event::Message { event, payload, timestamp } => {
                if let Some(topic) = self.topics.get(&event) {
                    let message = Arc::new(Message { payload, timestamp });
                    for inbox in &topic.inboxes {
                        inbox.push(Item::Message(message.clone()));
                    }
                }
            }
            Event::Subscribed { stream, recovered, .. } => self.route_subscribed(now, &stream, recovered),
            Event::Refused { stream, code, message, .. } => self.route_refusal(stream, code, &message),
            Event::Snapshot { key, .. } | Event::Patch { key, .. } => {
                if let Some(followers) = self.states.get_mut(&key) {
                    followers.change();
                }
            }
            Event::Entry { stream, payload, whole, .. } => self.route_entry(now, &stream, payload, whole),
            // Of streams that are open, and none is here.
            Event::Settled { .. }
            | Event::Progress { .. }
            | Event::Rejected { .. }
            | Event::Ask { .. }
            | Event::Awareness { .. } => {}
        }
    }

    fn route_answer(&mut self, now: Millis, call: CallId, outcome: Result<Payload, CallError>) {
        if let Some(caller) = self.calls.remove(&call) {
            // The caller may be gone.
            let _ = caller.send(outcome);
            return;
        }
        let Self { core, rooms, replicas, complaints, .. } = self;
        let outcome = rooms.answered(core, now, call, outcome, complaints);
        let outcome = outcome.and_then(|outcome| replicas.answered(core, now, call, outcome, complaints));
        #[cfg(feature = "docs")]
        if let Some(outcome) = outcome {
            self.documents.answered(call, outcome);
        }
        #[cfg(not(feature = "docs"))]
        drop(outcome);
    }

    fn route_subscribed(&mut self, now: Millis, stream: &StreamId, recovered: bool) {
        match stream.kind {
            StreamKind::Event => {
                if let Some(topic) = self.topics.get_mut(&stream.key)
                    && std::mem::replace(&mut topic.followed, true)
                    && !recovered
                {
                    topic.inboxes.iter().for_each(|inbox| inbox.push(Item::Missed));
                }
            }
            StreamKind::Crdt => self.replicas.subscribed(&mut self.core, now, &stream.key, recovered, &self.complaints),
            StreamKind::Presence => self.rooms.subscribed(&stream.key, recovered),
            #[cfg(feature = "docs")]
            StreamKind::Doc => self.documents.subscribed(&stream.key),
            #[cfg(not(feature = "docs"))]
            StreamKind::Doc => {}
            StreamKind::State => {}
        }
    }

    fn route_entry(&mut self, now: Millis, stream: &StreamId, payload: Payload, whole: bool) {
        match stream.kind {
            StreamKind::Crdt => {
                self.replicas.entry(&mut self.core, now, &stream.key, &payload, whole, &self.complaints)
            }
            StreamKind::Presence => self.rooms.entry(&stream.key, &payload, whole),
            #[cfg(feature = "docs")]
            StreamKind::Doc => self.documents.message(&stream.key, payload),
            #[cfg(not(feature = "docs"))]
            StreamKind::Doc => {}
            StreamKind::State | StreamKind::Event => {}
        }
    }

    fn route_status(&mut self, now: Millis, status: CoreStatus) {
        match &status {
            CoreStatus::Connected { protocol, connection_id, server_time, .. } => {
                self.tell_opened(Ok(()));
                self.replicas.connected(*protocol, *server_time);
                self.rooms.connected(&mut self.core, now, connection_id, &self.complaints);
            }
            CoreStatus::Disconnected(reason) => {
                self.lost();
                self.tell_opened(Err(reason.clone()));
                for inbox in self.topics.values().flat_map(|topic| &topic.inboxes) {
                    inbox.push(Item::Disconnected(reason.clone()));
                }
                self.all_followers().for_each(|followers| followers.disconnect(reason));
            }
            CoreStatus::Connecting | CoreStatus::Reconnecting { .. } | CoreStatus::Waiting { .. } => self.lost(),
        }
        tracing::debug!(?status);
        self.status.send_replace(Status::new(status, self.started));
    }

    /// There is no connection, and there may have been one.
    fn lost(&mut self) {
        self.rooms.lost();
        self.replicas.lost();
        #[cfg(feature = "docs")]
        self.documents.lost();
    }

    fn tell_opened(&mut self, outcome: Result<(), DisconnectReason>) {
        if let Some(opening) = self.opening.take() {
            // Nobody may be waiting.
            let _ = opening.send(outcome);
        }
    }

    fn route_refusal(&mut self, stream: StreamId, code: i32, message: &str) {
        match stream.kind {
            StreamKind::Event => {
                for inbox in self.topics.remove(&stream.key).into_iter().flat_map(|topic| topic.inboxes) {
                    inbox.push(Item::Refused { code, message: message.to_owned() });
                    inbox.end();
                }
            }
            #[cfg(feature = "docs")]
            StreamKind::Doc => self.documents.refused(&stream.key, code, message),
            _ => {
                let end = End::Refused { code, message: message.to_owned() };
                if let Some(followers) = self.followers(&stream) {
                    followers.end(&end);
                }
                match stream.kind {
                    StreamKind::State => drop(self.states.remove(&stream.key)),
                    StreamKind::Crdt => self.replicas.refused(&stream.key, code, message),
                    _ => {}
                }
            }
        }
    }
}
