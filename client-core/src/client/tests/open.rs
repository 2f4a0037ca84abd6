use super::{
    streams::{reconnect, subscribed},
    *,
};
use crate::{error::CommandError, event::Question};

impl Peer {
    fn edit(&mut self, stream: &StreamId, edit: u64, payload: Payload) -> Result<(), CommandError> {
        self.client.edit(self.now, stream, edit, payload)
    }

    fn update(&mut self, edit: u64, bytes: usize) {
        self.edit(&StreamId::doc("d"), edit, Payload::Binary(vec![1; bytes])).unwrap();
    }

    /// The server's answer to the DOC that was sent last.
    fn answer(&mut self, bytes: &[u8]) {
        self.client.answer(self.now, "d", bytes.to_vec());
    }

    /// The questions for the host; other outputs are dropped.
    fn questions(&mut self) -> Vec<Question> {
        let mut questions = Vec::new();
        while let Some(output) = self.client.poll_output() {
            if let Output::Event(Event::Ask { question, .. }) = output {
                questions.push(question);
            }
        }
        questions
    }
}

fn operation(counter: u64) -> Payload {
    json(&format!(r#"{{"type":"g-counter","nodeId":"me","counter":{counter},"timestamp":1,"op":"increment"}}"#))
}

/// The CRDT `c` is open, its value is here, and the next correlation id is 2.
fn crdt(config: Config) -> Peer {
    let mut peer = Peer::v2(config);
    peer.client.open(peer.now, StreamId::crdt("c"), None).unwrap();
    subscribed(&mut peer, 1, 5, 0, false);
    peer.send(Opcode::CrdtState, 0, r#"{"key":"c","state":null,"epoch":5,"seq":0}"#);
    peer.drain();
    peer
}

/// The document `d` is open as channel 7 and compared with the server's; nothing is unanswered.
fn document() -> Peer {
    let mut peer = Peer::v2(hasty());
    peer.client.open(peer.now, StreamId::doc("d"), None).unwrap();
    compare(&mut peer, 1);
    peer.send(Opcode::Ack, 2, [0]);
    peer.drain();
    peer
}

/// SUBSCRIBED of `d` under this correlation id, and what both sides then say, but for the last answer.
fn compare(peer: &mut Peer, correlation: u32) {
    peer.send(
        Opcode::Subscribed,
        correlation,
        format!(r#"{{"epoch":5,"seq":{correlation},"recovered":false,"channel":7}}"#),
    );
    peer.answer(&[0]);
    peer.send(Opcode::Doc, 7, [0, 0, 1, 2, 0, 0]);
    peer.send(Opcode::Doc, 7, [0, 0, 0, 1, 0]);
    peer.answer(&[0, 0]);
}

#[test]
fn states_and_topics_cannot_be_opened_and_names_are_bounded() {
    let mut peer = Peer::new(config());
    for (stream, error) in [
        (StreamId::state("s"), CommandError::Unfit { what: "state" }),
        (StreamId::event("e"), CommandError::Unfit { what: "event" }),
        (StreamId::crdt(""), CommandError::BadName { bytes: 0, limit: 256 }),
        (StreamId::doc("d".repeat(257)), CommandError::BadName { bytes: 257, limit: 256 }),
    ] {
        assert_eq!(peer.client.open(peer.now, stream, None), Err(error));
    }
    peer.client.open(peer.now, StreamId::presence("r".repeat(256)), None).unwrap();
    let bytes = Some(Payload::Binary(vec![1]));
    let shown = peer.client.show(peer.now, "r", bytes);
    assert_eq!(shown, Err(CommandError::Unfit { what: "presence" }));
    // Commands on streams that are not open have no effect.
    peer.drain();
    peer.client.leave(peer.now, &StreamId::crdt("c"));
    peer.client.aware(peer.now, "d", Some(vec![1]));
    peer.client.answer(peer.now, "d", vec![1]);
    peer.client.unfit(peer.now, &StreamId::crdt("c"), false);
    peer.check(&[]);
}

#[test]
fn open_streams_count_as_subscriptions() {
    let limits = Limits { max_subscriptions: 2, ..Limits::default() };
    let mut peer = Peer::new(Config { limits, ..config() });
    peer.subscribe(StreamId::state("s"));
    peer.client.open(peer.now, StreamId::crdt("c"), None).unwrap();
    let limit = Err(CommandError::Limit { what: "subscriptions", limit: 2 });
    assert_eq!(peer.client.open(peer.now, StreamId::doc("d"), None), limit);
    peer.client.open(peer.now, StreamId::crdt("c"), None).unwrap();
    peer.client.leave(peer.now, &StreamId::crdt("c"));
    assert_eq!(peer.client.open(peer.now, StreamId::doc("d"), None), limit, "one handle is left");
    peer.client.leave(peer.now, &StreamId::crdt("c"));
    peer.client.open(peer.now, StreamId::doc("d"), None).unwrap();
}

#[test]
fn an_operation_that_does_not_fit_a_frame_is_refused_at_once() {
    let limits = Limits { max_payload: 1_000, ..Limits::default() };
    // Beside the operation: twice the key, and 64 bytes.
    for (bytes, fits) in [(933, true), (934, true), (935, false)] {
        let mut peer = crdt(Config { limits, ..config() });
        let text = r#"{"nodeId":"me","counter":1,"value":""}"#;
        let text = text.replace(r#""""#, &format!(r#""{}""#, "x".repeat(bytes - text.len())));
        let edited = peer.edit(&StreamId::crdt("c"), 1, json(&text));
        assert_eq!(edited.is_ok(), fits, "{bytes}: {edited:?}");
        assert_eq!(peer.drain().len(), if fits { 2 } else { 0 });
    }
}

#[test]
fn a_limit_of_this_client_counts_as_being_put_off() {
    let limits = Limits { max_pending_calls: 1, ..Limits::default() };
    let mut peer = crdt(Config { limits, ..config() });
    peer.call("m");
    peer.edit(&StreamId::crdt("c"), 1, operation(1)).unwrap();
    peer.check(&[r#"> RpcRequest 2 {"method":"m","params":null,"correlationId":2}"#, "progress c synced 1 0"]);
    peer.send(Opcode::RpcResponse, 2, "{}");
    peer.wait(999);
    peer.check(&["done 1 empty"]);
    peer.wait(1);
    assert_eq!(peer.drain().len(), 1, "sent after a second");
}

#[test]
fn closing_keeps_what_is_open_and_its_edits() {
    let mut peer = crdt(hasty());
    peer.edit(&StreamId::crdt("c"), 1, operation(1)).unwrap();
    peer.drain();
    peer.client.close(peer.now);
    peer.check(&["close 1000", "disconnected: ClosedByUser", "progress c loading 1 0"]);
    peer.client.connect(peer.now);
    peer.drain();
    peer.open_v2();
    subscribed(&mut peer, 1, 5, 0, true);
    assert_eq!(peer.drain().len(), 4, "it is followed, and the edit sent again");
}

#[test]
fn members_of_a_room_are_bounded() {
    let mut peer = Peer::v2(config());
    peer.client.open(peer.now, StreamId::presence("r"), None).unwrap();
    subscribed(&mut peer, 1, 5, 0, false);
    peer.drain();
    let mut seq = 0;
    let mut check = |from: usize, count: usize, whole: bool, kept: usize| {
        let members: Vec<_> = (from..from + count).map(|id| format!(r#"{{"id":"{id}","value":1}}"#)).collect();
        let members = members.join(",");
        seq += 1;
        peer.send(
            Opcode::Presence,
            0,
            format!(r#"{{"key":"r","members":[{members}],"whole":{whole},"epoch":5,"seq":{seq}}}"#),
        );
        let lines = peer.drain();
        let told = lines.iter().find(|line| line.starts_with("entry")).unwrap();
        assert_eq!(told.matches("\"id\"").count(), kept, "{from} {count} {whole}");
    };
    check(0, 9_999, true, 9_999);
    check(0, 10_000, true, 10_000);
    check(0, 10_001, true, 10_000);
    check(9_990, 20, false, 10);
    check(0, 9_999, true, 9_999);
    check(9_990, 20, false, 10);
    check(0, 1, true, 1);
    check(1, 5, false, 5);
    // A member that goes makes room.
    check(0, 10_000, true, 10_000);
    peer.send(Opcode::Presence, 0, r#"{"key":"r","members":[{"id":"3"},{"id":"a","value":1}],"epoch":5,"seq":10}"#);
    peer.check(&[r#"entry presence r 5:10 [{"id":"3"},{"id":"a","value":1}]"#]);
}

#[test]
fn updates_that_wait_are_bounded_in_number_and_bytes() {
    for (count, bytes, fits) in [
        (4_095, 1, true),
        (4_096, 1, true),
        (4_097, 1, false),
        (4, 256 * 1024 - 1, true),
        (4, 256 * 1024, true),
        (4, 256 * 1024 + 1, false),
        (1, 1024 * 1024 + 1, true),
    ] {
        let mut peer = document();
        // Fills the window.
        (1..=32).for_each(|edit| peer.update(edit, 1));
        peer.drain();
        (0..count).for_each(|n| peer.update(33 + n, bytes));
        let lines = peer.drain();
        let compared = lines.iter().filter(|line| line.starts_with("> Subscribe")).count();
        assert_eq!(compared, usize::from(!fits), "{count} of {bytes}");
        // Every edit is counted all the same, and contained in the next comparison.
        assert!(lines.last().unwrap().contains(&format!(" {} 0", 32 + count)), "{:?}", lines.last());
    }
}

#[test]
fn updates_that_wait_are_in_the_comparison_and_not_sent_beside_it() {
    let mut peer = document();
    // Two more than the window.
    (1..=34).for_each(|edit| peer.update(edit, 1));
    peer.drain();
    peer.send(Opcode::Doc, 7, [0, 0, 0, 1, 0]);
    assert_eq!(peer.questions().len(), 1);
    peer.answer(&[1, 2, 3]);
    let sent = peer.drain();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert!(sent[0].starts_with("> Doc 35"), "{sent:?}");
    peer.send(Opcode::Ack, 35, [0]);
    peer.check(&["progress d synced 0 34"]);
    // The answers to updates sent before change nothing any more.
    peer.send(Opcode::Ack, 3, [0]);
    assert_eq!(peer.drain(), Vec::<String>::new());
}

#[test]
fn at_most_64_updates_and_128_kilobytes_are_merged() {
    for (count, bytes, merged) in [
        (63, 1, 63),
        (64, 1, 64),
        (65, 1, 64),
        (9, 16 * 1024, 8),
        (8, 16 * 1024, 8),
        (9, 16 * 1024 + 1, 7),
        (3, 128 * 1024, 1),
    ] {
        let mut peer = document();
        (1..=32).for_each(|edit| peer.update(edit, 1));
        (0..count).for_each(|n| peer.update(33 + n, bytes));
        peer.drain();
        peer.send(Opcode::Ack, 3, [2]);
        match peer.questions().as_slice() {
            [Question::Merge { updates }] => assert_eq!(updates.len(), merged, "{count} of {bytes}"),
            // One alone needs not be merged.
            [] => assert_eq!(merged, 1, "{count} of {bytes}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn questions_without_an_answer_are_bounded() {
    let mut peer = document();
    for _ in 0..16 {
        peer.send(Opcode::Doc, 7, [0, 0, 0, 1, 0]);
    }
    assert_eq!(peer.questions().len(), 16);
    peer.send(Opcode::Doc, 7, [0, 0, 0, 1, 0]);
    peer.check(&["progress d loading 0 0"]);
    // Answers to the old questions are expected, and ignored; then the comparison goes on.
    (0..16).for_each(|_| peer.answer(&[0, 0]));
    peer.wait(100);
    peer.check(&["> Unsubscribe 1 null", r#"> Subscribe 3 {"kind":"doc","key":"d"}"#]);
    compare(&mut peer, 3);
    peer.send(Opcode::Ack, 4, [0]);
    assert_eq!(peer.drain().last().unwrap(), "progress d synced 0 0");
}

#[test]
fn a_subscription_that_there_is_no_room_for_is_tried_again() {
    let limits = Limits { max_subscriptions: 1, ..Limits::default() };
    let mut peer = Peer::v2(Config { limits, ..hasty() });
    peer.client.open(peer.now, StreamId::doc("d"), None).unwrap();
    peer.send(Opcode::Error, 1, r#"{"message":"no","code":-32002}"#);
    peer.drain();
    // Another takes the place of the one that was refused.
    let state = peer.subscribe(StreamId::state("s"));
    reconnect(&mut peer);
    let lines = peer.drain();
    assert_eq!(lines.iter().filter(|line| line.starts_with("> Subscribe")).count(), 1, "{lines:?}");
    peer.wait(1_000);
    peer.check(&[]);
    assert!(peer.client.unsubscribe(peer.now, state, Some(0)));
    peer.drain();
    peer.wait(1_000);
    peer.check(&[r#"> Subscribe 2 {"kind":"doc","key":"d"}"#]);
}
