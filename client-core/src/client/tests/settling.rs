//! Laws of edits, whatever a server does: each is settled exactly once, they are sent in order, and a refusal
//! is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::wire::{CrdtOp, Subscribe};

/// One step of the run.
#[derive(Clone, Copy, Debug)]
enum Step {
    Edit,
    /// The oldest frame but `skip` is answered.
    Take(usize),
    Refuse(usize),
    PutOff(usize),
    /// The server tells what it has stored, up to so many entries.
    Publish(usize),
    Snapshot,
    Disconnect,
    /// Reading is refused on the next connections, or no longer.
    Hide(bool),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Edit),
        4 => (0..3usize).prop_map(Step::Take),
        1 => (0..3usize).prop_map(Step::Refuse),
        1 => (0..3usize).prop_map(Step::PutOff),
        3 => (1..4usize).prop_map(Step::Publish),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Disconnect),
        1 => any::<bool>().prop_map(Step::Hide),
        1 => Just(Step::Wait),
    ];
    vec(step, 1..80)
}

struct Run {
    peer: Peer,
    made: u64,
    settled: BTreeMap<u64, bool>,
    /// Edits that were stored, and were to return.
    returning: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    /// Frames without an answer: correlation id, operation's number, whether it is `none`.
    frames: VecDeque<(u32, u64, bool)>,
    /// Numbers the server has, in the order of the stream; and how many have been told on this connection.
    log: Vec<u64>,
    told: usize,
    epoch: u64,
    subscription: Option<u32>,
    hidden: bool,
    /// The client reads the stream on this connection.
    reads: bool,
    /// Numbers sent on this connection, for the order.
    sent: Vec<u64>,
}

impl Run {
    fn new() -> Self {
        let mut peer = Peer::new(hasty());
        peer.client.open(peer.now, StreamId::crdt("c"), None).unwrap();
        peer.client.connect(peer.now);
        let mut run = Self {
            peer,
            made: 0,
            settled: BTreeMap::new(),
            returning: BTreeSet::new(),
            rejected: BTreeSet::new(),
            frames: VecDeque::new(),
            log: Vec::new(),
            told: 0,
            epoch: 5,
            subscription: None,
            hidden: false,
            reads: true,
            sent: Vec::new(),
        };
        run.pump();
        run.open();
        run
    }

    fn open(&mut self) {
        self.sent.clear();
        self.frames.clear();
        self.subscription = None;
        self.reads = !self.hidden;
        self.peer.open_v2();
        self.pump();
        let id = self.subscription.expect("it is subscribed again");
        if self.hidden {
            self.peer.send(Opcode::Error, id, r#"{"message":"no","code":-32002}"#);
        } else {
            let seq = self.log.len();
            let epoch = self.epoch;
            self.peer.send(Opcode::Subscribed, id, format!(r#"{{"epoch":{epoch},"seq":{seq},"recovered":false}}"#));
            self.snapshot();
        }
        self.pump();
    }

    fn snapshot(&mut self) {
        if !self.reads {
            return;
        }
        // Ahead of 0, so that no gap matters.
        let ahead: Vec<_> = self.log.iter().map(|number| format!("[{number},0]")).collect();
        let state = format!(r#"{{"metadata":{{"seen":{{"me":[0,1,[{}]]}}}}}}"#, ahead.join(","));
        let (epoch, seq) = (self.epoch, self.log.len());
        self.peer.send(Opcode::CrdtState, 0, format!(r#"{{"key":"c","state":{state},"epoch":{epoch},"seq":{seq}}}"#));
        self.told = self.log.len();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Edit => {
                self.made += 1;
                let text = format!(r#"{{"nodeId":"me","counter":{},"op":"add"}}"#, self.made);
                match self.peer.client.edit(self.peer.now, &StreamId::crdt("c"), self.made, json(&text)) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error.code(), -32002, "{error}");
                        self.settled.insert(self.made, false);
                        self.rejected.insert(self.made);
                    }
                }
            }
            Step::Take(skip) => {
                if let Some((id, number, _)) = self.frames.remove(skip) {
                    if !self.log.contains(&number) {
                        self.log.push(number);
                    }
                    self.peer.send(Opcode::Ack, id, [1]);
                }
            }
            Step::Refuse(skip) => {
                if let Some((id, number, none)) = self.frames.remove(skip) {
                    // The server acknowledges an operation that it has.
                    if self.log.contains(&number) && !none {
                        return self.peer.send(Opcode::Ack, id, [0]);
                    }
                    let code = if !self.reads && number % 3 == 0 { -32002 } else { -32602 };
                    self.peer.send(Opcode::Error, id, format!(r#"{{"message":"no","code":{code}}}"#));
                }
            }
            Step::PutOff(skip) => {
                if let Some((id, ..)) = self.frames.remove(skip) {
                    self.peer.send(Opcode::Error, id, r#"{"message":"later","code":-32004,"retryAfter":10}"#);
                }
            }
            Step::Publish(count) => {
                for _ in 0..count {
                    if !self.reads || self.told == self.log.len() {
                        return;
                    }
                    let number = self.log[self.told];
                    self.told += 1;
                    let op = format!(r#"{{"nodeId":"me","counter":{number},"op":"add"}}"#);
                    let (epoch, seq) = (self.epoch, self.told);
                    let entry = format!(r#"{{"key":"c","op":{op},"epoch":{epoch},"seq":{seq}}}"#);
                    self.peer.send(Opcode::CrdtOp, 0, entry);
                }
            }
            Step::Snapshot => {
                if self.told < self.log.len() {
                    self.snapshot();
                }
            }
            Step::Disconnect => {
                // The server may have lost what nobody has heard of, with another life of the stream.
                if self.reads && self.told < self.log.len() {
                    self.log.pop();
                    self.epoch += 1;
                }
                self.peer.close(1006);
                self.peer.wait(0);
                self.pump();
                self.open();
            }
            Step::Hide(hidden) => self.hidden = hidden,
            Step::Wait => self.peer.wait(10),
        }
    }

    fn pump(&mut self) {
        while let Some(output) = self.peer.client.poll_output() {
            match output {
                Output::OpenSocket { socket, .. } => self.peer.socket = socket,
                Output::Send { message, .. } => {
                    let frame = self.peer.codec.decode(&message, &Limits::default()).unwrap();
                    match frame.opcode {
                        Opcode::Subscribe => {
                            let _: Subscribe<'_> = serde_json::from_slice(frame.payload).unwrap();
                            self.subscription = Some(frame.correlation);
                        }
                        Opcode::CrdtOp => {
                            let CrdtOp { op, .. } = serde_json::from_slice(frame.payload).unwrap();
                            let op: serde_json::Value = serde_json::from_str(op.get()).unwrap();
                            let number = op["counter"].as_u64().unwrap();
                            let done = op["done"].as_u64().unwrap_or(0);
                            assert!(done < number, "{op}");
                            for open in self.settled.len() as u64 + 1..=done {
                                assert!(self.settled.contains_key(&open), "{open} is not done: {op}");
                            }
                            self.frames.push_back((frame.correlation, number, op["op"] == "none"));
                            self.sent.push(number);
                        }
                        _ => {}
                    }
                }
                Output::Event(Event::Settled { edit, outcome, .. }) => {
                    let stored = matches!(outcome, EditOutcome::Stored { .. });
                    let again = self.returning.remove(&edit);
                    // An edit that was to return cannot be read any more, or the server lost it and refused it later.
                    assert!(self.settled.insert(edit, stored).is_none() || again, "{edit} is settled twice");
                    if outcome == (EditOutcome::Stored { returns: true }) {
                        assert!(!again, "{edit} is settled twice");
                        self.returning.insert(edit);
                    }
                }
                Output::Event(Event::Rejected { payload, .. }) => {
                    let op: serde_json::Value = serde_json::from_str(payload.as_json().unwrap()).unwrap();
                    let number = op["counter"].as_u64().unwrap();
                    assert!(self.rejected.insert(number), "{number} is rejected twice");
                }
                _ => {}
            }
        }
    }

    /// A server that takes everything.
    fn end(&mut self) {
        self.hidden = false;
        for _ in 0..3 {
            self.step(Step::Disconnect);
            while !self.frames.is_empty() {
                self.step(Step::Take(0));
                self.pump();
            }
            self.peer.wait(2_000);
            self.pump();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_edit_is_settled_exactly_once(steps in steps(), hidden in any::<bool>()) {
        let mut run = Run::new();
        run.hidden = hidden;
        for step in steps {
            run.step(step);
            run.pump();
        }
        run.end();
        prop_assert_eq!(run.settled.keys().copied().collect::<Vec<_>>(), (1..=run.made).collect::<Vec<_>>());
        for (edit, stored) in &run.settled {
            prop_assert_eq!(!stored, run.rejected.contains(edit), "{} was refused, and told", edit);
            prop_assert!(!stored || run.log.contains(edit), "{} is lost", edit);
        }
    }

    /// First attempts of one connection go out in the order of the edits, and so does what is sent again on the next.
    #[test]
    fn edits_are_sent_in_order(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
            run.pump();
            let mut firsts = Vec::new();
            for number in &run.sent {
                if !firsts.contains(number) {
                    firsts.push(*number);
                }
            }
            prop_assert!(firsts.is_sorted(), "{:?}", firsts);
        }
    }
}
