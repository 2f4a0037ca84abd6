//! A host for the fuzzer: it pumps a client as the real ones do and checks what comes out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::{
    CallId, Client, Config, EditOutcome, Event, Hint, Input, Limits, Millis, Output, Payload, Position, Question,
    Request, Seed, SocketClose, SocketId, StreamId, StreamKind, SubscriptionId,
    frame::{Codec, Frame, Opcode},
    patch::{Patch, PatchLimits, apply},
    tree::{Tree, parse},
    wire::Subscribe,
};

const HELLO: &[u8] = br#"{"protocol":2,"connectionId":"c","userId":"u","epoch":1,"heartbeat":15000,"limits":{"maxPayload":65536,"compressAbove":256,"maxSubscriptions":8,"maxPendingCalls":8,"maxEventName":64}}"#;

pub(super) struct Host {
    client: Client,
    codec: Codec,
    limits: Limits,
    protocol: &'static str,
    mirrored: bool,
    now: Millis,
    socket: Option<SocketId>,
    pending: BTreeSet<CallId>,
    states: BTreeMap<String, (Position, Option<Tree>)>,
    /// Where the other streams are; as many as were subscribed.
    entries: BTreeMap<StreamId, Position>,
    /// The number of the latest edit, and those of CRDTs that are not settled.
    edit: u64,
    unsettled: BTreeMap<String, BTreeSet<u64>>,
    /// Edits that were stored, and were to return.
    returning: BTreeSet<u64>,
    /// Questions that have not been answered.
    asked: BTreeMap<String, usize>,
}

/// From this correlation id on, a frame that goes both ways stands for what the host sends.
const OURS: u32 = 1 << 31;

impl Host {
    /// Connected, with a call under way and following what the corpus talks of.
    pub(super) fn new(protocol: &'static str, limits: Limits) -> Self {
        let mirrored = cfg!(feature = "mirror");
        let config = Config { limits, mirror: mirrored, ask_token: true, ..Config::new("ws://localhost/__ds") };
        let mut host = Self {
            client: Client::new(config, Seed([7; 32])),
            codec: Codec::default(),
            limits,
            protocol,
            mirrored,
            now: Millis(0),
            socket: None,
            pending: BTreeSet::new(),
            states: BTreeMap::new(),
            entries: BTreeMap::new(),
            edit: 0,
            unsettled: BTreeMap::new(),
            returning: BTreeSet::new(),
            asked: BTreeMap::new(),
        };
        host.client.connect(host.now);
        host.pump();
        host.call("add", Payload::Empty);
        for stream in [StreamId::state("board"), StreamId::state("k"), StreamId::event("chat:message")] {
            let _ = host.client.subscribe(host.now, stream);
        }
        host.pump();
        host
    }

    /// A frame of a server reaches the client. A frame of a client stands for what its host does; the correlation id
    /// chooses among several things.
    pub(super) fn perform(&mut self, frame: &Frame<'_>) {
        let Frame { opcode, correlation, payload } = *frame;
        match opcode {
            Opcode::RpcRequest => self.call("m", json(payload)),
            Opcode::RpcRequestBinary => self.call("m", Payload::Binary(payload.to_vec())),
            Opcode::ClientEvent => {
                let _ = self.client.emit(self.now, "e", json(payload), correlation % 2 == 0);
            }
            Opcode::ClientEventBinary => {
                let _ = self.client.emit(self.now, "e", Payload::Binary(payload.to_vec()), correlation % 2 == 0);
            }
            Opcode::Subscribe => {
                if let Ok(Subscribe { kind, key, .. }) = serde_json::from_slice(payload) {
                    let stream = StreamId { kind, key: key.into_owned() };
                    let _ = match kind {
                        StreamKind::State | StreamKind::Event => self.client.subscribe(self.now, stream).map(drop),
                        _ => self.client.open(self.now, stream, None),
                    };
                }
            }
            Opcode::Unsubscribe if correlation >= OURS => self.client.leave(self.now, &one(correlation)),
            Opcode::Unsubscribe => {
                self.client.unsubscribe(self.now, SubscriptionId(correlation), Some(0));
            }
            Opcode::Cancel => {
                self.client.cancel(self.now, CallId(correlation.into()));
            }
            Opcode::Auth => self.client.refresh_token(self.now, Some("token".into())),
            Opcode::Ping => self.sleep(correlation),
            Opcode::Propose => self.hint(correlation),
            Opcode::ProposeResult => self.lose(correlation, payload),
            // Those that go both ways.
            Opcode::CrdtOp if correlation >= OURS => self.edit(&StreamId::crdt("c"), json(payload)),
            Opcode::Presence if correlation >= OURS => {
                let value = Some(json(payload)).filter(|value| !value.is_empty());
                let _ = self.client.show(self.now, "r", value);
            }
            Opcode::Doc if correlation == OURS => self.edit(&StreamId::doc("d"), Payload::Binary(payload.to_vec())),
            Opcode::Doc if correlation > OURS => match correlation % 3 {
                0 => self.answer("d", payload.to_vec()),
                1 => self.client.aware(self.now, "d", (!payload.is_empty()).then(|| payload.to_vec())),
                _ => self.client.unfit(self.now, &one(correlation / 3), payload.is_empty()),
            },
            _ => self.receive(frame),
        }
        self.pump();
    }

    #[cfg(test)]
    pub(super) fn state(&self, key: &str) -> Option<&(Position, Option<Tree>)> {
        self.states.get(key)
    }

    #[cfg(test)]
    pub(super) fn position(&self, stream: &StreamId) -> Option<Position> {
        self.entries.get(stream).copied()
    }

    #[cfg(test)]
    pub(super) fn unsettled(&self) -> usize {
        self.unsettled.values().map(BTreeSet::len).sum()
    }

    fn call(&mut self, method: &str, params: Payload) {
        let request = Request { method: method.into(), params, timeout: None, queue: true };
        if let Ok(call) = self.client.call(self.now, request) {
            assert!(self.pending.insert(call), "an id given twice");
        }
        assert!(self.pending.len() <= self.limits.max_pending_calls);
    }

    fn edit(&mut self, stream: &StreamId, payload: Payload) {
        self.edit += 1;
        if self.client.edit(self.now, stream, self.edit, payload).is_ok() && stream.kind == StreamKind::Crdt {
            self.unsettled.entry(stream.key.clone()).or_default().insert(self.edit);
        }
    }

    fn answer(&mut self, key: &str, answer: Vec<u8>) {
        if let Some(asked) = self.asked.get_mut(key).filter(|asked| **asked > 0) {
            *asked -= 1;
        }
        self.client.answer(self.now, key, answer);
    }

    fn sleep(&mut self, millis: u32) {
        self.now = Millis(self.now.0.wrapping_add(millis.into()));
        self.client.handle_input(self.now, Input::Timeout);
    }

    fn hint(&mut self, which: u32) {
        match which % 6 {
            0 => self.client.handle_input(self.now, Input::Hint(Hint::Online)),
            1 => self.client.handle_input(self.now, Input::Hint(Hint::Offline)),
            2 => self.client.handle_input(self.now, Input::Hint(Hint::Visible)),
            3 => self.client.handle_input(self.now, Input::Hint(Hint::Hidden)),
            4 => self.client.connect(self.now),
            _ => self.client.close(self.now),
        }
    }

    fn lose(&mut self, code: u32, reason: &[u8]) {
        let Some(socket) = self.socket.take() else { return };
        let reason = String::from_utf8_lossy(reason).into_owned();
        let close = SocketClose { code: Some(code as u16), reason, ..SocketClose::default() };
        self.client.handle_input(self.now, Input::SocketClosed { socket, close });
    }

    fn receive(&mut self, frame: &Frame<'_>) {
        let Some(socket) = self.socket else { return };
        let Frame { opcode, correlation, payload } = *frame;
        let bytes = self.codec.encode(opcode, correlation, payload, 256);
        self.client.handle_input(self.now, Input::Message { socket, bytes: &bytes });
    }

    /// Performs every output; a socket that is asked for opens at once and greets.
    fn pump(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.client.poll_output() {
            outputs += 1;
            assert!(outputs < 200, "no end of outputs");
            match output {
                Output::OpenSocket { socket, .. } => {
                    self.socket = Some(socket);
                    let protocol = Some(self.protocol);
                    self.client.handle_input(self.now, Input::SocketOpened { socket, protocol });
                    if self.protocol == "datasole.v2" {
                        self.receive(&Frame { opcode: Opcode::Hello, correlation: 0, payload: HELLO });
                    }
                }
                Output::Send { socket, message } => {
                    assert_eq!(Some(socket), self.socket, "sent on a socket that is gone");
                    assert!(self.codec.decode(&message, &self.limits).is_ok(), "sent what is no frame");
                }
                Output::CloseSocket { socket, code, .. } => {
                    assert_eq!(Some(socket), self.socket.take(), "closed a socket that is gone");
                    assert!(code == 1000 || (3000..5000).contains(&code), "a code that browsers refuse");
                }
                Output::NeedToken => self.client.handle_input(self.now, Input::Token(Ok(None))),
                Output::Event(event) => self.event(event),
            }
        }
        #[cfg(feature = "mirror")]
        for (key, (_, value)) in &self.states {
            if let Some(mirrored) = self.client.state(key) {
                assert_eq!(Some(mirrored), value.as_ref(), "the mirror differs from what the host was told");
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::CallDone { call, .. } => assert!(self.pending.remove(&call), "a call ended twice"),
            Event::Message { timestamp: _, event: _, payload } => assert!(payload.len() <= self.limits.max_payload),
            Event::Snapshot { key, value, position } => {
                let value = value.and_then(|raw| parse(raw.get()).ok());
                self.states.insert(key, (position, value));
            }
            Event::Patch { key, ops, position } => self.patch(&key, &ops, position),
            Event::Refused { stream, .. } => assert!(stream.key.len() <= self.limits.max_name),
            Event::Subscribed { stream, recovered, .. } => {
                if !recovered {
                    self.entries.remove(&stream);
                }
            }
            Event::Entry { stream, payload, position, whole } => self.entry(stream, &payload, position, whole),
            Event::Settled { stream, edit, outcome } => {
                let known = self.unsettled.get_mut(&stream.key).is_some_and(|edits| edits.remove(&edit));
                // An edit that was to return may not: reading is refused, or the server lost it and then refused it.
                let returns = outcome == (EditOutcome::Stored { returns: true });
                let again = !returns && self.returning.remove(&edit);
                assert!(known || again, "an edit settled twice");
                if returns {
                    self.returning.insert(edit);
                }
            }
            Event::Progress { stream, progress } if stream.kind == StreamKind::Crdt => {
                let pending = self.unsettled.get(&stream.key).map_or(0, BTreeSet::len);
                assert_eq!(progress.pending, pending, "the number of pending edits");
            }
            Event::Rejected { payload, .. } => assert!(payload.len() <= self.limits.max_payload),
            Event::Ask { document, question } => {
                if question == Question::StateVector {
                    // A comparison begins, wherever the stream is.
                    self.entries.remove(&StreamId::doc(&document));
                }
                if question != Question::Awareness {
                    let asked = self.asked.entry(document).or_default();
                    *asked += 1;
                    assert!(*asked <= 16, "questions without end");
                }
            }
            Event::Awareness { update, .. } => assert!(update.len() <= self.limits.max_payload),
            Event::Progress { .. } | Event::Status(_) | Event::Left { .. } => {}
        }
    }

    /// Operations and members come in sequence after something whole; a document's messages never go back.
    fn entry(&mut self, stream: StreamId, payload: &Payload, position: Position, whole: bool) {
        assert!(payload.len() <= self.limits.max_payload);
        let last = self.entries.insert(stream.clone(), position);
        let fits = match (stream.kind, payload) {
            (StreamKind::Crdt | StreamKind::Presence, Payload::Json(_)) => {
                whole || last.map(|last| Position { seq: last.seq + 1, ..last }) == Some(position)
            }
            (StreamKind::Doc, Payload::Binary(_)) => {
                !whole && last.is_none_or(|last| last.epoch == position.epoch && last.seq <= position.seq)
            }
            _ => false,
        };
        assert!(fits, "{stream:?} at {position:?} after {last:?}: {payload:?}");
    }

    /// The host follows with a mirror of its own, and asks for the value when that fails.
    fn patch(&mut self, key: &str, ops: &RawValue, position: Position) {
        let limits = PatchLimits::default();
        let state = self.states.get_mut(key);
        let applied = match (state, Patch::parse(ops.get(), &limits)) {
            (Some((at, Some(value))), Ok(patch)) => {
                let next = Position { seq: at.seq + 1, ..*at };
                assert!(self.protocol == "datasole.v1" || position == next, "{position:?} after {at:?}");
                *at = position;
                apply(value, &patch, &limits).is_ok()
            }
            _ => false,
        };
        if !applied {
            assert!(!self.mirrored, "a patch that the mirror should have refused");
            self.states.remove(key);
            self.client.resync(self.now, &StreamId { kind: StreamKind::State, key: key.into() }, false);
        }
    }
}

/// One of the streams that the corpus talks of.
fn one(number: u32) -> StreamId {
    match number % 3 {
        0 => StreamId::crdt("c"),
        1 => StreamId::presence("r"),
        _ => StreamId::doc("d"),
    }
}

/// JSON where it is, so that calls with and without parameters are made.
fn json(payload: &[u8]) -> Payload {
    match serde_json::from_slice::<Box<RawValue>>(payload) {
        Ok(raw) => Payload::Json(raw),
        Err(_) => Payload::Empty,
    }
}
