//! Those who take part frame by frame, from one process to the next.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use datasole_core::{
    frame::Opcode,
    wire::{push_varuint, split_varuint},
};
use datasole_tests::peer::{Peer, Received};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use yrs::{
    Doc, GetString, StateVector, Text, Transact, Update,
    updates::{decoder::Decode, encoder::Encode},
};

/// Follows a stream frame by frame, from one process to the next.
pub(crate) struct Follower {
    kind: &'static str,
    key: &'static str,
    /// Epoch and sequence.
    at: Option<(u64, u64)>,
    pub(crate) resumed: usize,
}

impl Follower {
    pub(crate) fn new(kind: &'static str, key: &'static str) -> Self {
        Self { kind, key, at: None, resumed: 0 }
    }

    /// Until the server is gone; tells when it has gone on from where it was. Only the first time there is a snapshot.
    pub(crate) async fn follow(&mut self, address: SocketAddr, ready: mpsc::Sender<()>) {
        let mut peer = Peer::v2(address).await;
        let mut subscribe = json!({"kind": self.kind, "key": self.key});
        if let Some((epoch, seq)) = self.at {
            subscribe["since"] = json!({"epoch": epoch, "seq": seq});
        }
        peer.send(Opcode::Subscribe, 1, subscribe.to_string()).await;
        loop {
            let Received::Frame(opcode, _, payload) = peer.receive().await else { return };
            let frame: Value = serde_json::from_slice(&payload).unwrap();
            let at = (frame["epoch"].as_u64().unwrap(), frame["seq"].as_u64().unwrap());
            match (opcode, self.at) {
                (Opcode::Subscribed, since) => {
                    ready.send(()).await.unwrap();
                    if let Some(since) = since {
                        assert_eq!((&frame["recovered"], at), (&Value::Bool(true), since), "{}", self.kind);
                        self.resumed += 1;
                    }
                }
                (Opcode::StateSnapshot | Opcode::CrdtState, None) => self.at = Some(at),
                (Opcode::StateSnapshot | Opcode::StatePatch | Opcode::CrdtOp, Some((epoch, seq))) => {
                    assert_eq!(at, (epoch, seq + 1), "{}: entries go on without a gap", self.kind);
                    self.at = Some(at);
                }
                other => panic!("{other:?} {frame}"),
            }
        }
    }

    /// The snapshot that a newcomer gets where this one went on all the time.
    pub(crate) async fn newcomer(&self, address: SocketAddr, opcode: Opcode) -> Value {
        let mut peer = Peer::v2(address).await;
        peer.send(Opcode::Subscribe, 1, json!({"kind": self.kind, "key": self.key}).to_string()).await;
        peer.expect(Opcode::Subscribed, 1).await;
        let snapshot = peer.expect(opcode, 0).await;
        let (epoch, seq) = self.at.unwrap();
        assert_eq!(snapshot["epoch"], epoch, "one life");
        assert!(snapshot["seq"].as_u64().unwrap() >= seq);
        snapshot
    }
}

/// What an [`Author`] makes entries of, by their number.
pub(crate) enum Work {
    /// A counter that each entry increments.
    Counter,
    /// A document to whose end each entry writes its number.
    Document(Doc),
}

/// Makes entries, several at once, and sends again what was not acknowledged.
pub(crate) struct Author {
    work: Work,
    /// Entries made.
    pub(crate) made: u32,
    /// Those not acknowledged, by their number.
    open: BTreeMap<u32, Vec<u8>>,
    /// The document's position when it was last acknowledged: epoch and sequence.
    at: (u64, u64),
}

/// Entries under way at once.
const AHEAD: usize = 4;

impl Author {
    /// With one entry acknowledged: a stream that is empty has no life yet.
    pub(crate) async fn start(work: Work, address: SocketAddr) -> Self {
        let mut author = Self { work, made: 0, open: BTreeMap::new(), at: (0, 0) };
        author.make();
        author.finish(address).await;
        author
    }

    /// Until the server is gone.
    pub(crate) async fn work(&mut self, address: SocketAddr, ready: mpsc::Sender<()>) {
        self.go_on(address, ready, true).await;
    }

    /// Until everything is acknowledged.
    pub(crate) async fn finish(&mut self, address: SocketAddr) {
        // Nobody waits for it to be ready.
        self.go_on(address, mpsc::channel(1).0, false).await;
    }

    async fn go_on(&mut self, address: SocketAddr, ready: mpsc::Sender<()>, more: bool) {
        let mut peer = Peer::v2(address).await;
        let (opcode, channel) = match self.work {
            Work::Counter => (Opcode::CrdtOp, Vec::new()),
            Work::Document(_) => {
                let (channel, at) = subscribe(&mut peer).await;
                assert!(self.at.1 == 0 || at.0 == self.at.0, "one life");
                assert!(at.1 >= self.at.1, "{at:?} after {:?}", self.at);
                self.at = at;
                (Opcode::Doc, channel)
            }
        };
        for (&number, entry) in &self.open {
            peer.send(opcode, number, [&channel[..], entry].concat()).await;
        }
        let _ = ready.send(()).await;
        while more || !self.open.is_empty() {
            while more && self.open.len() < AHEAD {
                let entry = self.make();
                peer.send(opcode, self.made, [&channel[..], &entry].concat()).await;
            }
            match peer.receive().await {
                Received::Frame(Opcode::Ack, number, seq) => {
                    assert!(self.open.remove(&number).is_some());
                    self.at.1 = self.at.1.max(split_varuint(&seq).unwrap().0);
                }
                // What the server asks of those who follow the document: it has everything.
                Received::Frame(Opcode::Doc, ..) => {}
                Received::End => return,
                other => panic!("{other:?}"),
            }
        }
    }

    fn make(&mut self) -> Vec<u8> {
        self.made += 1;
        let entry = match &self.work {
            Work::Counter => increment(self.made),
            Work::Document(doc) => {
                let text = doc.get_or_insert_text("text");
                let mut change = doc.transact_mut();
                text.push(&mut change, &format!("{},", self.made));
                message(2, &change.encode_update_v1())
            }
        };
        self.open.insert(self.made, entry.clone());
        entry
    }
}

fn increment(number: u32) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let op =
        json!({"type": "pn-counter", "nodeId": "incrementer", "counter": number, "timestamp": now, "op": "increment"});
    json!({"key": "hits", "op": op}).to_string().into_bytes()
}

/// Follows the document: how messages about it begin, and where it is.
async fn subscribe(peer: &mut Peer) -> (Vec<u8>, (u64, u64)) {
    peer.send(Opcode::Subscribe, u32::MAX, r#"{"kind":"doc","key":"notes"}"#).await;
    let subscribed = peer.expect(Opcode::Subscribed, u32::MAX).await;
    let mut channel = Vec::new();
    push_varuint(&mut channel, subscribed["channel"].as_u64().unwrap());
    (channel, (subscribed["epoch"].as_u64().unwrap(), subscribed["seq"].as_u64().unwrap()))
}

/// A message of y-protocols' sync.
fn message(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![0, kind];
    push_varuint(&mut message, content.len() as u64);
    message.extend_from_slice(content);
    message
}

/// The document's text, as the server tells it to somebody who has nothing of it.
pub(crate) async fn document(address: SocketAddr) -> String {
    let mut peer = Peer::v2(address).await;
    let (channel, _) = subscribe(&mut peer).await;
    peer.send(Opcode::Doc, 0, [channel, message(0, &StateVector::default().encode_v1())].concat()).await;
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    loop {
        let Received::Frame(Opcode::Doc, _, payload) = peer.receive().await else { panic!("an answer") };
        let (_, body) = split_varuint(&payload).unwrap();
        if let Some(update) = body.strip_prefix(&[0, 1]) {
            let (_, update) = split_varuint(update).unwrap();
            doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
            return text.get_string(&doc.transact());
        }
    }
}
