//! CRDTs on the server, seen by clients of both versions: frames in, frames out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod limits;
mod owners;
mod server;
mod streams;
mod version1;

use std::time::{SystemTime, UNIX_EPOCH};

use datasole_core::{
    frame::{Codec, Opcode},
    wire::split_varuint,
};
use datasole_server::{Identity, Limits, Peer, Protocol, Server};
use serde_json::{Value, json};

/// A client that says what it is told to.
struct Client {
    peer: Peer,
    codec: Codec,
    next: u32,
    /// What came and was not asked for yet.
    frames: Vec<(Opcode, u32, Value)>,
}

impl Client {
    fn v1(server: &Server) -> Self {
        Self::of(server, Protocol::V1, "ann")
    }

    fn v2(server: &Server) -> Self {
        Self::user(server, "ann")
    }

    fn user(server: &Server, user: &str) -> Self {
        let mut client = Self::of(server, Protocol::V2, user);
        assert_eq!(client.received()[0].0, Opcode::Hello);
        client
    }

    fn anonymous(server: &Server) -> Self {
        let mut client = Self::new(server, Protocol::V2, Identity::anonymous());
        assert_eq!(client.received()[0].0, Opcode::Hello);
        client
    }

    fn of(server: &Server, protocol: Protocol, user: &str) -> Self {
        Self::new(server, protocol, Identity::user(user))
    }

    fn new(server: &Server, protocol: Protocol, identity: Identity) -> Self {
        let peer = server.peer(protocol, identity);
        Self { peer, codec: Codec::default(), next: 1, frames: Vec::new() }
    }

    fn send(&mut self, opcode: Opcode, correlation: u32, payload: &Value) {
        self.peer.receive(&self.codec.encode(opcode, correlation, payload.to_string().as_bytes(), 256));
    }

    /// Everything that came; of an ACK, its `seq`.
    fn received(&mut self) -> Vec<(Opcode, u32, Value)> {
        while let Some(message) = self.peer.poll_message() {
            let frame = self.codec.decode(&message, &datasole_core::Limits::default()).unwrap();
            let payload = match frame.opcode {
                Opcode::Ack => split_varuint(frame.payload).unwrap().0.into(),
                _ => serde_json::from_slice(frame.payload).unwrap(),
            };
            self.frames.push((frame.opcode, frame.correlation, payload));
        }
        std::mem::take(&mut self.frames)
    }

    /// Sends an operation; the ACK's `seq`, or the ERROR's code. Whatever else came waits.
    fn op(&mut self, key: &str, op: &Value) -> Result<u64, i64> {
        let id = self.next;
        self.next += 1;
        self.send(Opcode::CrdtOp, id, &json!({ "key": key, "op": op }));
        let mut frames = self.received();
        let at = frames
            .iter()
            .position(|frame| frame.1 == id)
            .unwrap_or_else(|| panic!("operation {id} is not answered: {frames:?} {:?}", self.peer.closing()));
        let (opcode, _, body) = frames.remove(at);
        self.frames = frames;
        match opcode {
            Opcode::Ack => Ok(body.as_u64().unwrap()),
            Opcode::Error => Err(body["code"].as_i64().unwrap()),
            other => panic!("answered with {other:?}"),
        }
    }

    /// Follows a CRDT; SUBSCRIBED, and what came after it.
    fn follow(&mut self, key: &str, since: Option<&Value>) -> (Value, Vec<Value>) {
        let id = self.next;
        self.next += 1;
        let mut request = json!({ "kind": "crdt", "key": key });
        if let Some(since) = since {
            request["since"] = since.clone();
        }
        self.send(Opcode::Subscribe, id, &request);
        let mut frames = self.received();
        assert_eq!((frames[0].0, frames[0].1), (Opcode::Subscribed, id), "{:?}", frames[0]);
        (frames.remove(0).2, frames.into_iter().map(|frame| frame.2).collect())
    }

    /// Version 1: the value that the last state of `key` says, and how many came.
    fn states(&mut self, key: &str) -> (usize, Value) {
        let frames = self.received();
        let states: Vec<_> =
            frames.iter().filter(|frame| frame.0 == Opcode::CrdtState && frame.2["key"] == key).collect();
        (states.len(), states.last().map_or(Value::Null, |state| state.2["state"]["value"].clone()))
    }
}

/// An operation of version 1, a version 2 one with its number.
fn op(kind: &str, node: &str, timestamp: u64, rest: Value) -> Value {
    let mut op = json!({ "type": kind, "nodeId": node, "timestamp": timestamp });
    let Value::Object(rest) = rest else { panic!("members") };
    op.as_object_mut().unwrap().extend(rest);
    op
}

/// An increment of a `pn-counter`, the replica's n-th operation.
fn increment(node: &str, counter: u64, by: u64) -> Value {
    op("pn-counter", node, now(), json!({ "counter": counter, "op": "increment", "value": by }))
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn server(limits: Limits) -> Server {
    Server::builder().limits(limits).build()
}
