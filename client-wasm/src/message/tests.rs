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
            batch.status(&Status::Connected { protocol: 2, connection_id, user_id, server_time, same_contract }, now);
        },
        r#"[{"t":"status","state":"connected","protocol":2,"connectionId":"c1","userId":"ann","serverTime":7,"contract":"differs"}]"#,
    );
    check(
        |batch| {
            let (connection_id, user_id, server_time, same_contract) = (String::new(), None, None, None);
            batch.status(&Status::Connected { protocol: 1, connection_id, user_id, server_time, same_contract }, now);
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
    batch.event(Event::Ask { document: "d".into(), question: Question::Difference { theirs: vec![2], small: false } });
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
            &format!(r#"{{"t":"progress","kind":"doc","key":"d","phase":"refused","pending":1,"stored":15,{error}}}"#),
            &format!(r#"{{"t":"progress","kind":"doc","key":"d","phase":"refused","pending":2,"stored":15,{error}}}"#),
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
            batch.event(Event::Patch { key: "k".into(), ops: raw("[ ]"), position: Position { seq: 4, ..position } });
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
            r#"{"t":"patch","key":"k","list":[[ ],4]},"#,
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

#[test]
fn what_goes_on_with_a_stream_shares_its_name() {
    let event = |event: &str, payload| Event::Message { event: event.into(), payload, timestamp: 9 };
    let json = |json| Payload::Json(raw(json));
    let patch = |key: &str, seq| Event::Patch { key: key.into(), ops: raw("[]"), position: Position { epoch: 7, seq } };
    check(
        |batch| {
            for data in ["1", "[2]"] {
                batch.event(event("e", json(data)));
            }
            batch.event(event("f", json("3")));
            // Without data, or with bytes: a message of its own.
            batch.event(event("f", Payload::Empty));
            batch.event(event("f", json("4")));
            batch.event(event("f", Payload::Binary(vec![1])));
            for seq in [4, 5] {
                batch.event(patch("f", seq));
            }
            batch.event(patch("g", 6));
            batch.event(event("g", json("5")));
            batch.done(1, Ok(Payload::Empty));
            batch.event(event("g", json("6")));
        },
        concat!(
            r#"[{"t":"event","event":"e","list":[1,9,[2],9]},"#,
            r#"{"t":"event","event":"f","list":[3,9]},"#,
            r#"{"t":"event","event":"f","timestamp":9},"#,
            r#"{"t":"event","event":"f","list":[4,9]},"#,
            r#"{"t":"event","event":"f","bin":0,"timestamp":9},"#,
            r#"{"t":"patch","key":"f","list":[[],4,[],5]},"#,
            r#"{"t":"patch","key":"g","list":[[],6]},"#,
            r#"{"t":"event","event":"g","list":[5,9]},"#,
            r#"{"t":"done","id":1},"#,
            r#"{"t":"event","event":"g","list":[6,9]}]"#,
        ),
    );
}

#[test]
fn the_bytes_that_a_text_refers_to_count() {
    let mut batch = Batch::default();
    let awareness = |bytes| Event::Awareness { document: "d".into(), update: vec![0; bytes] };
    batch.event(awareness(0));
    let one = batch.len();
    batch.event(awareness(1_000));
    assert_eq!(batch.len(), 2 * one + 1_000);
    batch.take();
    assert_eq!(batch.len(), 0);
}
