//! A client that edits documents with yrs.

use datasole_core::{
    frame::{Codec, Opcode},
    wire::{push_varuint, split_varuint},
};
use datasole_server::{
    Identity, Peer, Position, Protocol, Server,
    yrs::{
        self, Doc, GetString, ReadTxn, Text, Transact, TransactionMut, Update, WriteTxn,
        updates::{decoder::Decode, encoder::Encode},
    },
};
use serde_json::{Value, json};

/// One document that a client follows.
pub(crate) struct Open {
    pub(crate) key: String,
    pub(crate) doc: Doc,
    pub(crate) channel: u64,
    /// Correlation id of the SUBSCRIBE.
    pub(crate) id: u32,
    pub(crate) position: Position,
    /// Whether everything that has come was heard.
    pub(crate) deaf: bool,
}

/// A client that reads everything at once, and edits with yrs.
pub(crate) struct Client {
    pub(crate) peer: Peer,
    pub(crate) codec: Codec,
    pub(crate) next: u32,
    pub(crate) open: Vec<Open>,
    /// In the order in which they came: the correlation id and `seq`, or the code.
    pub(crate) answers: Vec<(u32, Result<u64, i64>)>,
    pub(crate) awareness: Vec<Vec<u8>>,
}

impl Client {
    pub(crate) fn new(server: &Server, user: &str) -> Self {
        let peer = server.peer(Protocol::V2, Identity::user(user));
        let mut client = Self {
            peer,
            codec: Codec::default(),
            next: 0,
            open: Vec::new(),
            answers: Vec::new(),
            awareness: Vec::new(),
        };
        client.hear();
        client
    }

    /// One that follows a document from nothing.
    pub(crate) fn following(server: &Server, user: &str, key: &str) -> Self {
        let mut client = Self::new(server, user);
        client.follow(key, Doc::new());
        client
    }

    pub(crate) fn follow(&mut self, key: &str, doc: Doc) -> usize {
        let id = self.frame(Opcode::Subscribe, json!({"kind": "doc", "key": key}).to_string().as_bytes());
        let position = Position::default();
        self.open.push(Open { key: key.to_owned(), doc, channel: 0, id, position, deaf: false });
        self.hear();
        self.open.len() - 1
    }

    pub(crate) fn unfollow(&mut self, at: usize) -> Doc {
        let open = self.open.remove(at);
        self.peer.receive(&self.codec.encode(Opcode::Unsubscribe, open.id, b"null", 256));
        open.doc
    }

    pub(crate) fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> u32 {
        self.next += 1;
        self.peer.receive(&self.codec.encode(opcode, self.next, payload, 256));
        self.next
    }

    /// Sends a message of y-protocols; the correlation id.
    pub(crate) fn send(&mut self, at: usize, message: &[u8]) -> u32 {
        let mut payload = Vec::new();
        push_varuint(&mut payload, self.open[at].channel);
        payload.extend_from_slice(message);
        self.frame(Opcode::Doc, &payload)
    }

    /// Sends a message, and hears what it does.
    pub(crate) fn ask(&mut self, at: usize, message: &[u8]) -> Result<u64, i64> {
        let id = self.send(at, message);
        self.hear();
        self.answer(id)
    }

    pub(crate) fn answer(&self, id: u32) -> Result<u64, i64> {
        self.answers.iter().find(|(answered, _)| *answered == id).expect("it is answered").1
    }

    /// Changes a document, here only.
    pub(crate) fn draft(&self, at: usize, edit: impl FnOnce(&mut TransactionMut<'_>)) -> Vec<u8> {
        let mut transaction = self.open[at].doc.transact_mut();
        edit(&mut transaction);
        transaction.encode_update_v1()
    }

    /// Inserts into the text, and tells the server.
    pub(crate) fn write(&mut self, at: usize, index: u32, text: &str) -> Result<u64, i64> {
        let update = self.draft(at, |t| t.get_or_insert_text("text").insert(t, index, text));
        self.ask(at, &change(&update))
    }

    pub(crate) fn text(&self, at: usize) -> String {
        text(&self.open[at].doc)
    }

    pub(crate) fn hear(&mut self) {
        while let Some(message) = self.peer.poll_message() {
            let frame = self.codec.decode(&message, &datasole_core::Limits::default()).unwrap();
            let (correlation, payload) = (frame.correlation, frame.payload.to_vec());
            match frame.opcode {
                Opcode::Hello => {}
                Opcode::Subscribed => {
                    let json: Value = serde_json::from_slice(&payload).unwrap();
                    assert_eq!(json["recovered"], false);
                    let open = self.open.iter_mut().find(|open| open.id == correlation).unwrap();
                    open.channel = json["channel"].as_u64().unwrap();
                    let [epoch, seq] = ["epoch", "seq"].map(|member| json[member].as_u64().unwrap());
                    open.position = Position { epoch, seq };
                    let ask = message_of(&[0, 0], &open.doc.transact().state_vector().encode_v1());
                    let at = self.open.iter().position(|open| open.id == correlation).unwrap();
                    self.send(at, &ask);
                }
                Opcode::Doc => self.message(correlation, &payload),
                Opcode::Ack => {
                    let (seq, []) = split_varuint(&payload).unwrap() else { panic!("no ACK") };
                    self.answers.push((correlation, Ok(seq)));
                    if seq > 0 {
                        // In the place of the entry. All documents of a test that edits several are at the same seq.
                        let open = self.open.iter_mut().find(|open| open.position.seq + 1 == seq && !open.deaf);
                        open.expect("an entry in order").position.seq = seq;
                    }
                }
                Opcode::Error => {
                    let json: Value = serde_json::from_slice(&payload).unwrap();
                    self.answers.push((correlation, Err(json["code"].as_i64().unwrap())));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn message(&mut self, channel: u32, payload: &[u8]) {
        let (seq, message) = split_varuint(payload).unwrap();
        let at = self.open.iter().position(|open| open.channel == u64::from(channel)).expect("a document it follows");
        let (kind, bytes) = parse(message);
        if kind == [0, 0] {
            let state_vector = yrs::StateVector::decode_v1(bytes).unwrap();
            let update = self.open[at].doc.transact().encode_state_as_update_v1(&state_vector);
            self.send(at, &message_of(&[0, 1], &update));
        } else if kind == [1] {
            self.awareness.push(bytes.to_vec());
        } else {
            let open = &mut self.open[at];
            assert_eq!(kind[1] == 2, seq > 0, "changes are entries, answers are none");
            if seq > 0 {
                assert_eq!(seq, open.position.seq + 1, "each entry once, in order: {}", open.key);
                open.position.seq = seq;
            }
            let mut transaction = open.doc.transact_mut();
            transaction.apply_update(Update::decode_v1(bytes).unwrap()).unwrap();
            assert!(!transaction.has_missing_updates(), "nothing is missing");
        }
    }
}

pub(crate) fn text(doc: &Doc) -> String {
    let transaction = doc.transact();
    transaction.get_text("text").map_or_else(String::new, |text| text.get_string(&transaction))
}

pub(crate) fn message_of(kind: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = kind.to_vec();
    push_varuint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

pub(crate) fn change(update: &[u8]) -> Vec<u8> {
    message_of(&[0, 2], update)
}

pub(crate) fn parse(message: &[u8]) -> (&[u8], &[u8]) {
    let (kind, rest) = message.split_at(if message[0] == 0 { 2 } else { 1 });
    let (length, bytes) = split_varuint(rest).unwrap();
    assert_eq!(length, bytes.len() as u64);
    (kind, bytes)
}

/// One client's awareness state.
pub(crate) fn awareness(client: u64, clock: u64, state: &str) -> Vec<u8> {
    let mut out = vec![1];
    push_varuint(&mut out, client);
    push_varuint(&mut out, clock);
    push_varuint(&mut out, state.len() as u64);
    out.extend_from_slice(state.as_bytes());
    out
}

pub(crate) fn state(client: u64, clock: u64, state: &str) -> Vec<u8> {
    message_of(&[1], &awareness(client, clock, state))
}
