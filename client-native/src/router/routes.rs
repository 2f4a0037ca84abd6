//! The routes of the core's events to calls, inboxes, signals and followers.

use datasole_core::{
    CallError, CallId, DisconnectReason, Event, Millis, Payload, Status as CoreStatus, StreamId, StreamKind,
    SubscriptionId,
};

use super::{Notice, Router, Run, unix_time};
use crate::{
    inbox::{Item, Message},
    refusal::Refusal,
    signal::End,
    status::{Status, describe},
};

/// Places for events that a run keeps after it was delivered.
const KEPT: usize = 64;

impl Router {
    /// Routes one event of the core. Those of topics are [delivered](Self::deliver) with others that follow.
    pub(crate) fn route(&mut self, now: Millis, event: Event) {
        if !matches!(event, Event::Message { .. }) {
            self.deliver();
        }
        match event {
            Event::Status(status) => self.route_status(status),
            Event::CallDone { call, outcome } => self.route_answer(call, outcome),
            Event::Message { event, payload, timestamp } => {
                if self.run.name != event {
                    self.deliver();
                    self.run.name = event;
                }
                self.run.messages.push(Message { payload, timestamp });
            }
            Event::Subscribed { stream, recovered, .. } => self.route_subscribed(&stream, recovered),
            Event::Refused { stream, code, message, .. } => self.route_refusal(&stream, code, message),
            Event::Left { subscription, stream } => self.route_end(&stream, subscription),
            Event::Snapshot { key, .. } | Event::Patch { key, .. } => {
                if let Some(followed) = self.states.get_mut(&key) {
                    followed.followers.change();
                }
            }
            Event::Entry { stream, payload, whole, .. } => {
                self.streams.entry(&mut self.core, now, &stream, payload, whole);
            }
            Event::Settled { stream, edit, outcome } => self.notice(now, &stream, Notice::Settled { edit, outcome }),
            Event::Progress { stream, progress } => self.notice(now, &stream, Notice::Progress(progress)),
            #[cfg(feature = "docs")]
            Event::Ask { document, question } => self.notice(now, &StreamId::doc(document), Notice::Ask(question)),
            #[cfg(feature = "docs")]
            Event::Awareness { document, update } => {
                self.notice(now, &StreamId::doc(document), Notice::Awareness(update));
            }
            #[cfg(not(feature = "docs"))]
            Event::Ask { .. } | Event::Awareness { .. } => {}
            Event::Rejected { stream, code, message, payload } => {
                if stream.kind == StreamKind::State {
                    tracing::warn!(key = stream.key, "{message}");
                }
                self.complaints.tell(Refusal { stream, code, message, payload });
            }
        }
    }

    /// Hands the events of the run to the subscribers of their topic: each inbox is locked, and its reader woken, once.
    pub(crate) fn deliver(&mut self) {
        let Run { name, messages } = &mut self.run;
        if messages.is_empty() {
            return;
        }
        if let Some((last, others)) = self.topics.get(name).and_then(|topic| topic.inboxes.split_last()) {
            for inbox in others {
                inbox.extend(messages.iter().cloned().map(Item::Message));
            }
            last.extend(messages.drain(..).map(Item::Message));
        }
        messages.clear();
        messages.shrink_to(KEPT);
    }

    fn notice(&mut self, now: Millis, stream: &StreamId, notice: Notice) {
        self.streams.notice(&mut self.core, now, stream, notice);
    }

    fn route_answer(&mut self, call: CallId, outcome: Result<Payload, CallError>) {
        if let Some(caller) = self.calls.remove(&call) {
            // The caller may be gone.
            let _ = caller.send(outcome);
        }
    }

    /// A topic that was not recovered may have missed events.
    fn route_subscribed(&mut self, stream: &StreamId, recovered: bool) {
        if stream.kind == StreamKind::Event
            && let Some(topic) = self.topics.get_mut(&stream.key)
            && std::mem::replace(&mut topic.followed, true)
            && !recovered
        {
            topic.inboxes.iter().for_each(|inbox| inbox.push(Item::Missed));
        }
    }

    fn route_status(&mut self, status: CoreStatus) {
        match &status {
            CoreStatus::Connected { server_time, same_contract, .. } => {
                if *same_contract == Some(false) && !std::mem::replace(&mut self.differs, true) {
                    tracing::warn!("the server has another contract than this program: one of both must be built anew");
                }
                if let Some(theirs) = server_time {
                    self.ahead = i64::try_from(i128::from(*theirs) - i128::from(unix_time())).unwrap_or(0);
                }
                self.warned = false;
                self.tell_opened(Ok(()));
            }
            CoreStatus::Disconnected(reason) => {
                self.tell_opened(Err(reason.clone()));
                for inbox in self.topics.values().flat_map(|topic| &topic.inboxes) {
                    inbox.push(Item::Disconnected(Box::new(reason.clone())));
                }
                self.states.values().for_each(|followed| followed.followers.disconnect(reason));
                self.streams.lost();
                self.streams.give_up(Some(reason));
            }
            CoreStatus::Connecting | CoreStatus::Reconnecting { .. } | CoreStatus::Waiting { .. } => {
                if let CoreStatus::Waiting { reason, .. } = &status
                    && !std::mem::replace(&mut self.warned, true)
                {
                    tracing::warn!("no connection, trying again: {}", describe(reason));
                }
                self.streams.lost();
                self.streams.give_up(None);
            }
        }
        tracing::debug!(?status);
        self.status.send_replace(Status::new(status, self.started));
    }

    fn tell_opened(&mut self, outcome: Result<(), DisconnectReason>) {
        if let Some(opening) = self.opening.take() {
            // Nobody may be waiting.
            let _ = opening.send(outcome);
        }
    }

    /// A topic or state that nobody follows has ended; the subscription after it has not.
    fn route_end(&mut self, stream: &StreamId, subscription: SubscriptionId) {
        let key = &stream.key;
        match stream.kind {
            StreamKind::State if self.states.get(key).is_some_and(|it| it.subscription == Some(subscription)) => {
                self.states.remove(key);
            }
            StreamKind::Event if self.topics.get(key).is_some_and(|it| it.subscription == Some(subscription)) => {
                self.topics.remove(key);
            }
            _ => {}
        }
    }

    /// The server refused to show a topic or a state.
    fn route_refusal(&mut self, stream: &StreamId, code: i32, message: String) {
        match stream.kind {
            StreamKind::Event => {
                for inbox in self.topics.remove(&stream.key).into_iter().flat_map(|topic| topic.inboxes) {
                    inbox.push(Item::Refused { code, message: message.clone() });
                    inbox.end();
                }
            }
            StreamKind::State => {
                if let Some(mut followed) = self.states.remove(&stream.key) {
                    followed.followers.end(End::Refused { code, message });
                }
            }
            StreamKind::Crdt | StreamKind::Presence | StreamKind::Doc => {}
        }
    }
}
