//! Batches: what the core says, written as one JSON text. `npm/src/protocol.ts` has the types.
//!
//! Written by hand around payloads that are JSON already, so that nothing is parsed or escaped twice. Bytes travel
//! beside the text; a message refers to them by index (`bin`).

use datasole_core::{
    CallError, CommandError, DisconnectReason, EditOutcome, Event, Millis, Payload, Progress, Question, Status,
    StreamId, SyncPhase, push_json_string,
};

/// Messages on their way to the other side, in order. Order is meaning.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    text: String,
    binaries: Vec<Vec<u8>>,
    /// Bytes of all binaries.
    bytes: usize,
    urgent: bool,
    /// Where the last `progress` begins and ends.
    progress: (usize, usize),
    /// The stream whose list the text ends with.
    list: Option<StreamId>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether somebody waits for the batch: it has more than what the server pushes, and what became of edits.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Bytes of text, and of what it refers to.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.bytes
    }

    /// The JSON array of all messages, and the bytes they refer to; nothing stays behind.
    pub(crate) fn take(&mut self) -> (String, Vec<Vec<u8>>) {
        self.end_list();
        let Self { mut text, binaries, .. } = std::mem::take(self);
        text.push(']');
        (text, binaries)
    }

    /// `token{}`: asks for a token.
    pub(crate) fn ask_token(&mut self) {
        self.begin("token");
        self.end();
    }

    /// `status{state, …}`.
    pub(crate) fn status(&mut self, status: &Status, now: Millis) {
        self.begin("status");
        match status {
            Status::Disconnected(reason) => {
                self.string("state", "disconnected");
                self.reason(reason);
            }
            Status::Connecting => self.string("state", "connecting"),
            Status::Connected { protocol, connection_id, user_id, server_time, same_contract } => {
                self.string("state", "connected");
                self.number("protocol", (*protocol).into());
                if !connection_id.is_empty() {
                    self.string("connectionId", connection_id);
                }
                if let Some(user) = user_id {
                    self.string("userId", user);
                }
                if let Some(millis) = server_time {
                    self.number("serverTime", *millis);
                }
                if let Some(same) = same_contract {
                    self.string("contract", if *same { "same" } else { "differs" });
                }
            }
            Status::Reconnecting { attempt } => {
                self.string("state", "reconnecting");
                self.number("attempt", (*attempt).into());
            }
            Status::Waiting { until, attempt, reason } => {
                self.string("state", "reconnecting");
                self.number("attempt", (*attempt).into());
                self.number("retryInMs", *until - now);
                self.reason(reason);
            }
        }
        self.end();
    }

    /// `done{id, …}` of a call that ended.
    pub(crate) fn done(&mut self, id: u32, outcome: Result<Payload, CallError>) {
        self.begin("done");
        self.number("id", id.into());
        match outcome {
            Ok(payload) => self.payload("value", payload),
            Err(error) => {
                let details = match &error {
                    CallError::Server { data, retry_after, .. } => (data.as_deref(), *retry_after),
                    _ => (None, None),
                };
                self.error(error.code(), &error.to_string(), error.retryable());
                // Inside the error's braces.
                self.text.pop();
                if let Some(data) = details.0 {
                    self.raw("data", data.get());
                }
                if let Some(millis) = details.1 {
                    self.number("retryAfter", millis);
                }
                self.text.push('}');
            }
        }
        self.end();
    }

    /// `refused{what, name, error}`: an event or a subscription that this side refused.
    pub(crate) fn refused(&mut self, what: &str, name: &str, error: &CommandError) {
        let retryable = matches!(error, CommandError::NotConnected | CommandError::Limit { .. });
        self.refusal(what, name, error.code(), &error.to_string(), retryable);
    }

    /// Everything else the core tells. Calls and statuses have methods of their own: they need more than the event.
    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::Status(_) | Event::CallDone { .. } => {}
            Event::Message { event, payload: Payload::Json(data), timestamp } => {
                self.item("event", "event", StreamId::event(event), data.get(), timestamp);
            }
            Event::Message { event, payload, timestamp } => {
                self.begin("event");
                self.string("event", &event);
                self.payload("data", payload);
                self.number("timestamp", timestamp);
                self.end();
            }
            Event::Subscribed { stream, recovered, .. } => {
                self.of("subscribed", &stream);
                self.raw("recovered", if recovered { "true" } else { "false" });
                self.end();
            }
            Event::Refused { stream, code, message, .. } => {
                self.refusal(stream.kind.name(), &stream.key, code, &message, false);
            }
            Event::Left { stream, .. } => {
                self.of("left", &stream);
                self.end();
            }
            Event::Snapshot { key, value, position } => {
                self.begin("snapshot");
                self.string("key", &key);
                self.number("rev", position.seq);
                if let Some(value) = value {
                    self.raw("value", value.get());
                }
                self.end();
            }
            Event::Patch { key, ops, position } => {
                self.item("patch", "key", StreamId::state(key), ops.get(), position.seq);
            }
            Event::Entry { stream, payload, position, whole } => {
                self.of("entry", &stream);
                self.number("rev", position.seq);
                self.payload("data", payload);
                if whole {
                    self.raw("whole", "true");
                }
                self.end();
            }
            Event::Settled { stream, edit, outcome } => self.settled(&stream, edit, outcome),
            Event::Progress { stream, progress } => self.progress(&stream, progress),
            Event::Rejected { stream, code, message, payload } => self.rejected(&stream, code, &message, payload),
            Event::Ask { document, question } => self.ask(&document, question),
            Event::Awareness { document, update } => {
                self.begin("awareness");
                self.string("key", &document);
                self.binary(update);
                self.end();
            }
        }
    }

    /// `settled{kind, key, id, …}`: an edit has its outcome.
    fn settled(&mut self, stream: &StreamId, edit: u64, outcome: EditOutcome) {
        self.of("settled", stream);
        self.number("id", edit);
        match outcome {
            EditOutcome::Stored { returns } => self.raw("returns", if returns { "true" } else { "false" }),
            EditOutcome::Refused { code, message } => self.error(code, &message, false),
        }
        self.end();
    }

    /// `progress{kind, key, phase, …}`; replaces the message before when that has older numbers of the same phase.
    fn progress(&mut self, stream: &StreamId, progress: Progress) {
        let from = self.text.len();
        self.of("progress", stream);
        let (phase, error) = match progress.phase {
            SyncPhase::Loading => ("loading", None),
            SyncPhase::Synced => ("synced", None),
            SyncPhase::Unreadable { code, message } => ("unreadable", Some((code, message))),
            SyncPhase::Refused { code, message } => ("refused", Some((code, message))),
        };
        self.string("phase", phase);
        let (mut start, end) = self.progress;
        let head = self.text.len() - from;
        // The first byte opens the array or is a comma.
        if end == from && error.is_none() && self.text.get(start + 1..start + head) == self.text.get(from + 1..) {
            self.text.truncate(start + head);
        } else {
            start = from;
        }
        self.number("pending", progress.pending as u64);
        self.number("stored", progress.stored);
        if let Some((code, message)) = error {
            self.error(code, &message, false);
        }
        self.end();
        self.progress = (start, self.text.len());
    }

    pub(crate) fn rejected(&mut self, stream: &StreamId, code: i32, message: &str, payload: Payload) {
        self.of("rejected", stream);
        self.error(code, message, false);
        self.payload("data", payload);
        self.end();
    }

    fn ask(&mut self, document: &str, question: Question) {
        let (what, binaries) = match question {
            Question::StateVector => ("stateVector", Vec::new()),
            Question::Difference { theirs, small } => (if small { "smallest" } else { "difference" }, vec![theirs]),
            Question::Merge { updates } => ("merge", updates),
            Question::Awareness => ("awareness", Vec::new()),
        };
        self.begin("ask");
        self.string("key", document);
        self.string("what", what);
        if !binaries.is_empty() {
            self.key("bins");
            for (index, bytes) in binaries.into_iter().enumerate() {
                self.text.push(if index == 0 { '[' } else { ',' });
                self.text.push_str(&self.binaries.len().to_string());
                self.refer(bytes);
            }
            self.text.push(']');
        }
        self.end();
    }

    /// `rejected` and `settled` of an edit that the core did not queue: the host undoes it.
    pub(crate) fn edit_refused(&mut self, stream: &StreamId, edit: u64, refused: &CommandError) {
        let (code, message) = (refused.code(), refused.to_string());
        self.rejected(stream, code, &message, Payload::Empty);
        self.settled(stream, edit, EditOutcome::Refused { code, message });
    }

    /// A stream that could not be opened.
    pub(crate) fn open_refused(&mut self, stream: &StreamId, refused: &CommandError) {
        let mut progress = Progress::default();
        progress.phase = SyncPhase::Refused { code: refused.code(), message: refused.to_string() };
        self.progress(stream, progress);
    }

    /// Begins a message about an open stream.
    fn of(&mut self, tag: &str, stream: &StreamId) {
        self.begin(tag);
        self.string("kind", stream.kind.name());
        self.string("key", &stream.key);
    }

    fn refusal(&mut self, what: &str, name: &str, code: i32, message: &str, retryable: bool) {
        self.begin("refused");
        self.string("what", what);
        self.string("name", name);
        self.error(code, message, retryable);
        self.end();
    }

    fn reason(&mut self, reason: &DisconnectReason) {
        let (kind, message) = match reason {
            DisconnectReason::Idle => ("idle", "never connected"),
            DisconnectReason::ClosedByUser => ("closedByUser", "closed by the user"),
            DisconnectReason::Closed(close) => ("closed", close.reason.as_str()),
            DisconnectReason::ConnectTimeout => ("connectTimeout", "the attempt took too long"),
            DisconnectReason::HalfOpen => ("halfOpen", "the server has been silent for two heartbeats"),
            DisconnectReason::Protocol(how) => ("protocol", *how),
            DisconnectReason::Unauthorized(message) => ("unauthorized", message.as_str()),
            DisconnectReason::Offline => ("offline", "there is no network"),
            _ => ("unknown", ""),
        };
        self.key("reason");
        self.text.push('{');
        self.string("kind", kind);
        self.string("message", message);
        if let DisconnectReason::Closed(close) = reason {
            let (name, number) = match close.http_status {
                Some(status) => ("httpStatus", status),
                // 1006 stands for having none.
                None => ("code", close.code.unwrap_or(1006)),
            };
            self.number(name, number.into());
        }
        self.text.push('}');
    }

    fn error(&mut self, code: i32, message: &str, retryable: bool) {
        self.key("error");
        self.text.push('{');
        self.raw("code", &code.to_string());
        self.string("message", message);
        self.raw("retryable", if retryable { "true" } else { "false" });
        self.text.push('}');
    }

    /// JSON under `name`, bytes under `bin`, nothing for nothing.
    fn payload(&mut self, name: &str, payload: Payload) {
        match payload {
            Payload::Empty => {}
            Payload::Json(json) => self.raw(name, json.get()),
            Payload::Binary(bytes) => self.binary(bytes),
        }
    }

    fn binary(&mut self, bytes: Vec<u8>) {
        self.number("bin", self.binaries.len() as u64);
        self.refer(bytes);
    }

    fn refer(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.binaries.push(bytes);
    }

    /// Adds to the list of a stream: to a new one, unless the text ends with it. Main reads each name once.
    fn item(&mut self, tag: &str, name: &str, stream: StreamId, json: &str, number: u64) {
        if self.list.as_ref() == Some(&stream) {
            self.text.push(',');
        } else {
            self.begin(tag);
            self.string(name, &stream.key);
            self.raw("list", "[");
            self.list = Some(stream);
        }
        self.text.push_str(json);
        self.text.push(',');
        self.text.push_str(&number.to_string());
    }

    fn end_list(&mut self) {
        if self.list.take().is_some() {
            self.text.push_str("]}");
        }
    }

    fn begin(&mut self, tag: &str) {
        self.end_list();
        let patient = ["event", "patch", "snapshot", "entry", "settled", "progress", "awareness"];
        self.urgent |= !patient.contains(&tag);
        self.text.push(if self.text.is_empty() { '[' } else { ',' });
        self.text.push('{');
        self.string("t", tag);
    }

    fn end(&mut self) {
        self.text.push('}');
    }

    fn string(&mut self, name: &str, value: &str) {
        self.key(name);
        push_json_string(&mut self.text, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.raw(name, &value.to_string());
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.key(name);
        self.text.push_str(json);
    }

    fn key(&mut self, name: &str) {
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(name);
        self.text.push_str("\":");
    }
}

#[cfg(test)]
mod tests;
