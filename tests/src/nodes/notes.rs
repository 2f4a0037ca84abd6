//! A document as a set of writes: each is a key of its map.

use std::collections::BTreeSet;

use datasole_core::wire::{push_varuint, split_varuint};
use datasole_server::yrs::{
    ClientID, Doc, Map, Options, ReadTxn, Transact, TransactionMut, Update, WriteTxn,
    updates::{decoder::Decode, encoder::Encode},
};

/// The map that has the writes as keys.
const MAP: &str = "writes";

/// A replica of the document.
pub(super) struct Notes(Doc);

impl Default for Notes {
    fn default() -> Self {
        Self(Doc::with_options(Options { client_id: ClientID::new(1), ..Options::default() }))
    }
}

impl Notes {
    pub(super) fn apply(&self, update: &[u8]) {
        self.0.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }

    /// Takes an entry of the log; the write it comes from.
    pub(super) fn entry(&self, update: &[u8]) -> u64 {
        let before = self.writes();
        self.apply(update);
        let new: Vec<u64> = self.writes().difference(&before).copied().collect();
        assert_eq!(new.len(), 1, "an entry is one write: {new:?}");
        new[0]
    }

    pub(super) fn writes(&self) -> BTreeSet<u64> {
        writes(&self.0.transact())
    }

    /// Asks for what it lacks.
    pub(super) fn question(&self) -> Vec<u8> {
        message(&[0, 0], &self.0.transact().state_vector().encode_v1())
    }
}

/// The writes in a document.
pub(super) fn writes(read: &impl ReadTxn) -> BTreeSet<u64> {
    let map = read.get_map(MAP);
    map.iter().flat_map(|map| map.keys(read).map(|key| key.parse().unwrap()).collect::<Vec<u64>>()).collect()
}

/// Adds a write to a document.
pub(super) fn write(edit: &mut TransactionMut<'_>, id: u64) {
    let map = edit.get_or_insert_map(MAP);
    map.insert(edit, id.to_string(), true);
}

/// The update by which a Yjs client of its own makes a write.
pub(super) fn draft(id: u64) -> Vec<u8> {
    let doc = Doc::with_options(Options { client_id: ClientID::new((1 << 32) + id), ..Options::default() });
    let mut edit = doc.transact_mut();
    write(&mut edit, id);
    edit.encode_update_v1()
}

/// A message of y-protocols.
pub(super) fn message(kind: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = kind.to_vec();
    push_varuint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

/// The kind and the content of a message.
pub(super) fn parse(message: &[u8]) -> (&[u8], &[u8]) {
    let (kind, rest) = message.split_at(if message[0] == 0 { 2 } else { 1 });
    (kind, split_varuint(rest).unwrap().1)
}

/// The awareness update that shows a member as the state of a client id, or nobody any more.
pub(super) fn cursor(client: u32, clock: u64, member: Option<u64>) -> Vec<u8> {
    let mut update = Vec::new();
    for number in [1, u64::from(client), clock] {
        push_varuint(&mut update, number);
    }
    message(&[1], &message(&update, member.map_or("null".to_owned(), |member| member.to_string()).as_bytes()))
}

/// The client ids in an awareness update, and the members that they show.
pub(super) fn cursors(update: &[u8]) -> Vec<(u64, Option<u64>)> {
    let (count, mut rest) = split_varuint(update).unwrap();
    let mut cursors = Vec::new();
    for _ in 0..count {
        let (client, after) = split_varuint(rest).unwrap();
        let (_clock, after) = split_varuint(after).unwrap();
        let (length, after) = split_varuint(after).unwrap();
        let (text, after) = after.split_at(usize::try_from(length).unwrap());
        rest = after;
        cursors.push((client, serde_json::from_slice(text).unwrap()));
    }
    cursors
}
