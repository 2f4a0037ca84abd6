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
    urgent: bool,
    /// Where the last `progress` begins and ends.
    progress: (usize, usize),
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether somebody waits for the batch: it has more than what the server pushes, and what became of edits.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Bytes of text.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// The JSON array of all messages, and the bytes they refer to; nothing stays behind.
    pub(crate) fn take(&mut self) -> (String, Vec<Vec<u8>>) {
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
                self.begin("patch");
                self.string("key", &key);
                self.number("rev", position.seq);
                self.raw("ops", ops.get());
                self.end();
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
            Question::Difference { theirs } => ("difference", vec![theirs]),
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
                self.binaries.push(bytes);
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
        self.binaries.push(bytes);
    }

    fn begin(&mut self, tag: &str) {
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
mod tests {
    use datasole_core::{CallId, Position, SocketClose, StreamId, SubscriptionId};
    use serde_json::value::RawValue;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn check(write: impl FnOnce(&mut Batch), expected: &str) {
        let mut batch = Batch::default();
        write(&mut batch);
        let (text, _) = batch.take();
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert!(batch.is_empty());
    }

    #[test]
    fn statuses() {
        let now = Millis(1_000);
        let close = SocketClose { code: Some(1006), reason: "a \"b\"\n".into(), ..SocketClose::default() };
        check(|batch| batch.status(&Status::Connecting, now), r#"[{"t":"status","state":"connecting"}]"#);
        check(
            |batch| {
                let (connection_id, user_id, server_time) = ("c1".into(), Some("ann".to_owned()), Some(7));
                let same_contract = Some(false);
                batch.status(
                    &Status::Connected { protocol: 2, connection_id, user_id, server_time, same_contract },
                    now,
                );
            },
            r#"[{"t":"status","state":"connected","protocol":2,"connectionId":"c1","userId":"ann","serverTime":7,"contract":"differs"}]"#,
        );
        check(
            |batch| {
                let (connection_id, user_id, server_time, same_contract) = (String::new(), None, None, None);
                batch.status(
                    &Status::Connected { protocol: 1, connection_id, user_id, server_time, same_contract },
                    now,
                );
            },
            r#"[{"t":"status","state":"connected","protocol":1}]"#,
        );
        check(
            |batch| {
                let reason = DisconnectReason::Closed(close);
                batch.status(&Status::Waiting { until: Millis(1_250), attempt: 2, reason }, now);
            },
            "[{\"t\":\"status\",\"state\":\"reconnecting\",\"attempt\":2,\"retryInMs\":250,\
             \"reason\":{\"kind\":\"closed\",\"message\":\"a \\\"b\\\"\\n\",\"code\":1006}}]",
        );
        check(
            |batch| batch.status(&Status::Disconnected(DisconnectReason::ClosedByUser), now),
            r#"[{"t":"status","state":"disconnected","reason":{"kind":"closedByUser","message":"closed by the user"}}]"#,
        );
    }

    #[test]
    fn calls() {
        check(|batch| batch.done(1, Ok(Payload::Empty)), r#"[{"t":"done","id":1}]"#);
        check(|batch| batch.done(2, Ok(Payload::Json(raw("null")))), r#"[{"t":"done","id":2,"value":null}]"#);
        check(
            |batch| {
                let data = Some(raw("[1, 2]"));
                batch.done(3, Err(CallError::Server { code: -1, message: "no".into(), data, retry_after: Some(5) }));
            },
            r#"[{"t":"done","id":3,"error":{"code":-1,"message":"no","retryable":false,"data":[1, 2],"retryAfter":5}}]"#,
        );
        check(
            |batch| batch.done(4, Err(CallError::Timeout { method: "m".into(), millis: 5 })),
            r#"[{"t":"done","id":4,"error":{"code":-32100,"message":"RPC timeout: m (5ms)","retryable":true}}]"#,
        );
    }

    #[test]
    fn bytes_travel_beside_the_text() {
        let mut batch = Batch::default();
        batch.done(1, Ok(Payload::Binary(vec![1, 2])));
        batch.event(Event::Message { event: "e".into(), payload: Payload::Binary(vec![3]), timestamp: 9 });
        let (text, binaries) = batch.take();
        assert_eq!(text, r#"[{"t":"done","id":1,"bin":0},{"t":"event","event":"e","bin":1,"timestamp":9}]"#);
        assert_eq!(binaries, [vec![1, 2], vec![3]]);
    }

    #[test]
    fn what_somebody_waits_for_is_urgent() {
        let mut batch = Batch::default();
        batch.event(Event::Message { event: "e".into(), payload: Payload::Empty, timestamp: 9 });
        assert!(!batch.is_urgent());
        batch.done(1, Ok(Payload::Empty));
        assert!(batch.is_urgent());
        batch.take();
        assert!(!batch.is_urgent());
    }

    #[test]
    fn what_comes_of_open_streams() {
        let entry =
            |stream, payload, seq, whole| Event::Entry { stream, payload, position: Position { epoch: 7, seq }, whole };
        let settled = |edit, outcome| Event::Settled { stream: StreamId::crdt("c"), edit, outcome };
        let (code, message) = (-32002, "no".to_owned());
        let mut progress = Progress::default();
        let mut batch = Batch::default();
        batch.event(entry(StreamId::crdt("c"), Payload::Json(raw("null")), 0, true));
        batch.event(entry(StreamId::presence("r"), Payload::Json(raw("[]")), 2, false));
        batch.event(entry(StreamId::doc("d"), Payload::Binary(vec![0, 2, 0]), 3, false));
        batch.event(settled(1, EditOutcome::Stored { returns: true }));
        batch.event(settled(2, EditOutcome::Refused { code, message: message.clone() }));
        batch.event(Event::Progress { stream: StreamId::doc("d"), progress: progress.clone() });
        progress.phase = SyncPhase::Unreadable { code, message: message.clone() };
        (progress.pending, progress.stored) = (2, 1);
        batch.event(Event::Progress { stream: StreamId::doc("d"), progress });
        batch.event(Event::Awareness { document: "d".into(), update: vec![1] });
        assert!(!batch.is_urgent());
        let payload = Payload::Json(raw(r#"{"op":"add"}"#));
        batch.event(Event::Rejected { stream: StreamId::crdt("c"), code, message, payload });
        batch.event(Event::Ask { document: "d".into(), question: Question::StateVector });
        batch.event(Event::Ask { document: "d".into(), question: Question::Difference { theirs: vec![2] } });
        batch.event(Event::Ask { document: "d".into(), question: Question::Merge { updates: vec![vec![3], vec![4]] } });
        batch.event(Event::Ask { document: "d".into(), question: Question::Awareness });
        assert!(batch.is_urgent());
        let (text, binaries) = batch.take();
        assert_eq!(
            text,
            concat!(
                r#"[{"t":"entry","kind":"crdt","key":"c","rev":0,"data":null,"whole":true},"#,
                r#"{"t":"entry","kind":"presence","key":"r","rev":2,"data":[]},"#,
                r#"{"t":"entry","kind":"doc","key":"d","rev":3,"bin":0},"#,
                r#"{"t":"settled","kind":"crdt","key":"c","id":1,"returns":true},"#,
                r#"{"t":"settled","kind":"crdt","key":"c","id":2,"error":{"code":-32002,"message":"no","retryable":false}},"#,
                r#"{"t":"progress","kind":"doc","key":"d","phase":"loading","pending":0,"stored":0},"#,
                r#"{"t":"progress","kind":"doc","key":"d","phase":"unreadable","pending":2,"stored":1,"#,
                r#""error":{"code":-32002,"message":"no","retryable":false}},"#,
                r#"{"t":"awareness","key":"d","bin":1},"#,
                r#"{"t":"rejected","kind":"crdt","key":"c","error":{"code":-32002,"message":"no","retryable":false},"#,
                r#""data":{"op":"add"}},"#,
                r#"{"t":"ask","key":"d","what":"stateVector"},"#,
                r#"{"t":"ask","key":"d","what":"difference","bins":[2]},"#,
                r#"{"t":"ask","key":"d","what":"merge","bins":[3,4]},"#,
                r#"{"t":"ask","key":"d","what":"awareness"}]"#,
            )
        );
        assert_eq!(binaries, [vec![0, 2, 0], vec![1], vec![2], vec![3], vec![4]]);
    }

    #[test]
    fn older_numbers_of_a_phase_are_replaced() {
        let of = |key: &str, phase, pending, stored| {
            let mut progress = Progress::default();
            (progress.phase, progress.pending, progress.stored) = (phase, pending, stored);
            Event::Progress { stream: StreamId::doc(key), progress }
        };
        let refused = || SyncPhase::Refused { code: -32002, message: "no".to_owned() };
        let error = r#""error":{"code":-32002,"message":"no","retryable":false}"#;
        check(
            |batch| {
                for (pending, stored) in [(1, 0), (2, 0), (10, 5), (0, 15)] {
                    batch.event(of("d", SyncPhase::Synced, pending, stored));
                }
                // Another phase, an error, another document, another message between them.
                batch.event(of("d", SyncPhase::Loading, 1, 15));
                batch.event(of("d", refused(), 1, 15));
                batch.event(of("d", refused(), 2, 15));
                batch.event(of("dd", SyncPhase::Synced, 1, 0));
                batch.event(of("d", SyncPhase::Synced, 1, 16));
                batch.event(Event::Awareness { document: "d".into(), update: Vec::new() });
                batch.event(of("d", SyncPhase::Synced, 0, 17));
            },
            &[
                r#"[{"t":"progress","kind":"doc","key":"d","phase":"synced","pending":0,"stored":15}"#,
                r#"{"t":"progress","kind":"doc","key":"d","phase":"loading","pending":1,"stored":15}"#,
                &format!(
                    r#"{{"t":"progress","kind":"doc","key":"d","phase":"refused","pending":1,"stored":15,{error}}}"#
                ),
                &format!(
                    r#"{{"t":"progress","kind":"doc","key":"d","phase":"refused","pending":2,"stored":15,{error}}}"#
                ),
                r#"{"t":"progress","kind":"doc","key":"dd","phase":"synced","pending":1,"stored":0}"#,
                r#"{"t":"progress","kind":"doc","key":"d","phase":"synced","pending":1,"stored":16}"#,
                r#"{"t":"awareness","key":"d","bin":0}"#,
                r#"{"t":"progress","kind":"doc","key":"d","phase":"synced","pending":0,"stored":17}]"#,
            ]
            .join(","),
        );
    }

    #[test]
    fn what_the_core_did_not_take_is_told_as_any_refusal() {
        let refused = CommandError::NotConnected;
        let error = r#""error":{"code":-32103,"message":"not connected","retryable":false}"#;
        check(
            |batch| batch.edit_refused(&StreamId::crdt("c"), 3, &refused),
            &format!(
                r#"[{{"t":"rejected","kind":"crdt","key":"c",{error}}},{{"t":"settled","kind":"crdt","key":"c","id":3,{error}}}]"#
            ),
        );
        check(
            |batch| batch.open_refused(&StreamId::presence("r"), &refused),
            &format!(
                r#"[{{"t":"progress","kind":"presence","key":"r","phase":"refused","pending":0,"stored":0,{error}}}]"#
            ),
        );
    }

    #[test]
    fn streams_keep_their_order() {
        let position = Position { epoch: 7, seq: 3 };
        check(
            |batch| {
                batch.event(Event::Subscribed {
                    subscription: SubscriptionId(1),
                    stream: StreamId::state("k"),
                    recovered: false,
                });
                batch.event(Event::Snapshot { key: "k".into(), value: Some(raw("[]")), position });
                batch.event(Event::Patch {
                    key: "k".into(),
                    ops: raw("[ ]"),
                    position: Position { seq: 4, ..position },
                });
                batch.event(Event::Snapshot { key: "k".into(), value: None, position });
                batch.event(Event::Refused {
                    subscription: SubscriptionId(2),
                    stream: StreamId::event("e"),
                    code: -32002,
                    message: "no".into(),
                });
                batch.refused("emit", "e", &CommandError::NotConnected);
                batch.ask_token();
            },
            concat!(
                r#"[{"t":"subscribed","kind":"state","key":"k","recovered":false},"#,
                r#"{"t":"snapshot","key":"k","rev":3,"value":[]},"#,
                r#"{"t":"patch","key":"k","rev":4,"ops":[ ]},"#,
                r#"{"t":"snapshot","key":"k","rev":3},"#,
                r#"{"t":"refused","what":"event","name":"e","error":{"code":-32002,"message":"no","retryable":false}},"#,
                r#"{"t":"refused","what":"emit","name":"e","error":{"code":-32103,"message":"not connected","retryable":true}},"#,
                r#"{"t":"token"}]"#,
            ),
        );
        // Calls and statuses are written with what only the host knows.
        let mut batch = Batch::default();
        batch.event(Event::CallDone { call: CallId(1), outcome: Ok(Payload::Empty) });
        assert!(batch.is_empty());
    }
}
