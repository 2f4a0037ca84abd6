use proptest::prelude::*;

use super::*;

#[test]
fn on_version_2_what_cannot_be_read_ends_the_connection() {
    let binary = |head: &str| crate::wire::join_binary(head.as_bytes(), b"x");
    for (opcode, payload) in [
        (Opcode::ServerEvent, b"{}".to_vec()),
        (Opcode::ServerEvent, b"\xff".to_vec()),
        (Opcode::ServerEvent, br#"{"event":"e","epoch":1,"seq":9007199254740992}"#.to_vec()),
        (Opcode::ServerEvent, br#"{"event":"e","epoch":-1,"seq":1}"#.to_vec()),
        (Opcode::ServerEventBinary, b"\0\0\0\x09{".to_vec()),
        (Opcode::ServerEventBinary, binary("[]x")),
        (Opcode::StatePatch, br#"{"key":"k","patches":[]}"#.to_vec()),
        (Opcode::StatePatch, br#"{"key":"k","patches":{},"epoch":1,"seq":1}"#.to_vec()),
        (Opcode::StateSnapshot, br#"{"key":"k","data":1}"#.to_vec()),
        (Opcode::CrdtOp, b"null".to_vec()),
        (Opcode::CrdtOp, br#"{"key":"k","op":{}}"#.to_vec()),
        (Opcode::CrdtOp, br#"{"key":"k","state":{},"epoch":1,"seq":1}"#.to_vec()),
        (Opcode::CrdtState, br#"{"key":"k","epoch":1,"seq":1}"#.to_vec()),
        (Opcode::CrdtState, br#"{"key":"k","state":null,"epoch":1,"seq":9007199254740992}"#.to_vec()),
        (Opcode::Presence, br#"{"key":"k","members":[],"whole":1,"epoch":1,"seq":1}"#.to_vec()),
        (Opcode::Presence, br#"{"members":[],"epoch":1,"seq":1}"#.to_vec()),
        (Opcode::Doc, b"".to_vec()),
        (Opcode::Doc, b"\x80".to_vec()),
        (Opcode::Doc, b"\x80\x80\x80\x80\x80\x80\x80\x10".to_vec()),
        (Opcode::Subscribed, br#"{"epoch":1}"#.to_vec()),
        (Opcode::Subscribed, br#"{"epoch":1,"seq":9007199254740992,"recovered":true}"#.to_vec()),
    ] {
        let mut peer = Peer::v2(config());
        peer.send(opcode, 0, &payload);
        assert_eq!(peer.drain(), ["close 4004", "waiting 1: Protocol"], "{opcode:?} {payload:?}");
    }
    for bytes in [&b""[..], b"\x02\0\0", b"\x2f\0\0\0\0\0\0\0\0", b"\x78\x9cgarbage", b"\x05\0\0\0\0\0\0\0\x09null"] {
        let mut peer = Peer::v2(config());
        peer.bytes(bytes);
        assert_eq!(peer.drain(), ["close 4004", "waiting 1: Protocol"], "{bytes:?}");
    }
}

#[test]
fn frames_of_clients_and_reserved_ones_mean_nothing() {
    let mut peer = Peer::v2(config());
    for opcode in [
        Opcode::RpcRequest,
        Opcode::ClientEvent,
        Opcode::Ping,
        Opcode::Pong,
        Opcode::Auth,
        Opcode::Authed,
        Opcode::Subscribe,
        Opcode::Cancel,
        Opcode::Ack,
        Opcode::Propose,
        Opcode::ProposeResult,
    ] {
        peer.send(opcode, 7, "garbage");
    }
    peer.check(&[]);
}

#[test]
fn the_largest_position_has_no_successor() {
    let mut peer = Peer::v2(config());
    peer.subscribe(StreamId::state("k"));
    let last = (1_u64 << 53) - 1;
    peer.send(Opcode::Subscribed, 1, format!(r#"{{"epoch":{last},"seq":{last},"recovered":false}}"#));
    peer.send(Opcode::StateSnapshot, 0, format!(r#"{{"key":"k","data":1,"epoch":{last},"seq":{last}}}"#));
    peer.drain();
    peer.send(Opcode::StatePatch, 0, format!(r#"{{"key":"k","patches":[],"epoch":{last},"seq":{last}}}"#));
    peer.check(&[]);
}

/// Anything that can be fed to a client.
#[derive(Clone, Debug)]
enum Step {
    Connect,
    Close,
    Call {
        queue: bool,
        timeout: u64,
    },
    Cancel(u64),
    Emit(bool),
    Submit(u8),
    Subscribe(u8),
    Unsubscribe(u32),
    Resync(u8),
    /// A command on an open stream.
    Stream {
        what: u8,
        index: u8,
        number: u8,
    },
    Refresh,
    Opened(u8),
    Frame {
        opcode: u8,
        correlation: u32,
        payload: String,
    },
    Bytes(Vec<u8>),
    Closed(u16),
    Hint(u8),
    Token(bool),
    Clock(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        Just(HELLO.to_owned()),
        (0..4_u64, 0..6_u64, any::<bool>()).prop_map(|(epoch, seq, recovered)| format!(
            r#"{{"epoch":{epoch},"seq":{seq},"recovered":{recovered},"whole":{recovered},"channel":{epoch},
                "key":"k0","event":"k1","patches":[],"data":1,"op":1,"state":1,"members":1}}"#
        )),
        (0..4_u64, 0..6_u64).prop_map(|(epoch, seq)| format!(
            r#"{{"key":"k0","epoch":{epoch},"seq":{seq},"op":{{"nodeId":"n","counter":{seq},"dots":[["n",{epoch}]]}},
                "state":{{"metadata":{{"seen":{{"n":[{epoch},0,[[{seq},0]]]}}}}}},"members":[{{"id":"{seq}","value":1}}]}}"#
        )),
        Just("\0\0\0\x01\0".to_owned()),
        Just(r#"{"message":"later","code":-32004,"retryAfter":5}"#.to_owned()),
        Just(r#"{"message":"no","code":-32602}"#.to_owned()),
        Just(r#"{"message":"no","code":-32001}"#.to_owned()),
        Just(r#"{"key":"k0","patches":[]}"#.to_owned()),
        (0..6_u8).prop_map(|seq| char::from(seq).to_string()),
        ".{0,20}",
    ];
    let opcode = prop_oneof![
        Just(Opcode::Hello as u8),
        Just(Opcode::Subscribed as u8),
        Just(Opcode::StatePatch as u8),
        Just(Opcode::StateSnapshot as u8),
        Just(Opcode::CrdtOp as u8),
        Just(Opcode::CrdtState as u8),
        Just(Opcode::Presence as u8),
        Just(Opcode::Doc as u8),
        Just(Opcode::Ack as u8),
        any::<u8>()
    ];
    prop_oneof![
        3 => Just(Step::Connect),
        1 => Just(Step::Close),
        3 => (any::<bool>(), 0..60_000_u64).prop_map(|(queue, timeout)| Step::Call { queue, timeout }),
        1 => (0..20_u64).prop_map(Step::Cancel),
        1 => any::<bool>().prop_map(Step::Emit),
        2 => (0..7_u8).prop_map(Step::Submit),
        2 => (0..7_u8).prop_map(Step::Subscribe),
        1 => (0..5_u32).prop_map(Step::Unsubscribe),
        1 => (0..7_u8).prop_map(Step::Resync),
        8 => (0..8_u8, 4..7_u8, any::<u8>()).prop_map(|(what, index, number)| Step::Stream { what, index, number }),
        1 => Just(Step::Refresh),
        4 => (0..3_u8).prop_map(Step::Opened),
        12 => (opcode, 0..6_u32, payload).prop_map(|(opcode, correlation, payload)| Step::Frame { opcode, correlation, payload }),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        2 => prop_oneof![Just(1006), Just(4001), Just(4002), Just(1013), any::<u16>()].prop_map(Step::Closed),
        1 => (0..4_u8).prop_map(Step::Hint),
        2 => any::<bool>().prop_map(Step::Token),
        1 => prop_oneof![Just(0), 0..u64::MAX / 2, 0..10_000_000_u64].prop_map(Step::Clock),
        4 => (0..40_000_u64).prop_map(Step::Wait),
    ]
}

impl Peer {
    /// Whether something was accepted that will end.
    fn perform(&mut self, step: &Step) -> bool {
        let stream = |index: &u8| match index {
            0 | 1 => StreamId::state(format!("k{index}")),
            2 | 3 => StreamId::event(format!("k{}", index - 1)),
            4 => StreamId::crdt("k0"),
            5 => StreamId::presence("k0"),
            _ => StreamId::doc("k0"),
        };
        let now = self.now;
        match step {
            Step::Connect => self.client.connect(now),
            Step::Close => self.client.close(now),
            Step::Call { queue, timeout } => {
                let request = Request { queue: *queue, timeout: Some(*timeout), ..request("m") };
                return self.client.call(now, request).is_ok();
            }
            Step::Submit(index) => {
                let stream = stream(index);
                let payload = if stream.kind == crate::StreamKind::Doc { Payload::Binary(vec![0]) } else { json("1") };
                let _ = self.client.transmit(&stream, &payload, false);
                return self.client.submit(&stream, &payload).is_ok_and(|call| call.is_some());
            }
            Step::Cancel(call) => drop(self.client.cancel(now, CallId(*call))),
            Step::Emit(queue) => drop(self.client.emit(now, "e", Payload::Empty, *queue)),
            Step::Subscribe(index) => drop(self.client.subscribe(now, stream(index))),
            Step::Unsubscribe(id) => drop(self.client.unsubscribe(now, SubscriptionId(*id), Some(0))),
            Step::Resync(index) => drop(self.client.resync(now, &stream(index), index % 2 == 0)),
            Step::Stream { what, index, number } => {
                let (stream, bytes, few) = (stream(index), vec![*number; 3], number % 2 == 0);
                let operation = || json(&format!(r#"{{"nodeId":"n","counter":{},"dots":[["n",1]]}}"#, number % 8));
                match what {
                    0 => drop(self.client.open(now, stream, Some((*number).into()))),
                    1 => self.client.leave(now, &stream),
                    2 => drop(self.client.edit(now, &stream, (*number).into(), operation())),
                    3 => drop(self.client.edit(now, &stream, (*number).into(), Payload::Binary(bytes))),
                    4 => drop(self.client.show(now, "k0", few.then(operation))),
                    5 => self.client.aware(now, "k0", few.then_some(bytes)),
                    6 => self.client.answer(now, "k0", bytes),
                    _ => (0..=*number).for_each(|_| self.client.unfit(now, &stream, few)),
                }
            }
            Step::Refresh => self.client.refresh_token(now, Some("t".into())),
            Step::Opened(version) => {
                self.opened([None, Some("datasole.v1"), Some("datasole.v2")][usize::from(*version)]);
            }
            Step::Frame { opcode, correlation, payload } => {
                let mut bytes = vec![*opcode];
                bytes.extend(correlation.to_be_bytes());
                bytes.extend((payload.len() as u32).to_be_bytes());
                bytes.extend(payload.as_bytes());
                self.bytes(&bytes);
            }
            Step::Bytes(bytes) => self.bytes(bytes),
            Step::Closed(code) => self.close(*code),
            Step::Hint(index) => {
                self.hint([Hint::Online, Hint::Offline, Hint::Visible, Hint::Hidden][usize::from(*index)]);
            }
            Step::Token(good) => {
                self.input(Input::Token(if *good { Ok(Some("t".into())) } else { Err("no".into()) }));
            }
            Step::Clock(now) => self.jump(*now),
            Step::Wait(millis) => self.wait(*millis),
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever comes in whatever order: no panic, no hot loop (`Peer::wait`), every call accepted ends exactly once,
    /// and nothing is left armed after `close`.
    #[test]
    fn any_history_keeps_the_promises(
        steps in proptest::collection::vec(step(), 0..80),
        ask_token in any::<bool>(),
        by_frame in any::<bool>(),
    ) {
        let token_via = if by_frame { crate::TokenVia::Frame } else { crate::TokenVia::Url };
        let mut peer = Peer::new(Config { ask_token, token_via, heartbeat: 5_000, ..config() });
        let mut ends = std::collections::BTreeMap::new();
        let mut accepted = 0;
        for step in steps.iter().chain([&Step::Close]) {
            accepted += usize::from(peer.perform(step));
            for line in peer.drain() {
                if let Some(rest) = line.strip_prefix("done ") {
                    let call = rest.split(' ').next().unwrap().to_owned();
                    *ends.entry(call).or_insert(0) += 1;
                }
            }
        }
        prop_assert_eq!(ends.len(), accepted);
        prop_assert!(ends.values().all(|&count| count == 1), "{:?}", ends);
        prop_assert_eq!(peer.client.poll_timeout(), None);
    }
}
