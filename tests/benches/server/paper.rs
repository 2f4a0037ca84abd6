//! A paper, keystroke by keystroke, as its author wrote it: `tests/data/automerge-paper.json.gz`; and the Yjs update of each
//! keystroke. They are written here, because yrs walks through the text to find the place of a keystroke, which takes minutes.
//!
//! Somebody who types at random places instead writes no text that anybody writes: it has more blocks than a document may have.

use std::fs::File;

use datasole_core::wire::push_varuint;
use datasole_tests::trace::Trace;
use flate2::read::GzDecoder;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Transact, Update, updates::decoder::Decode};

use crate::Result;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/automerge-paper.json.gz");
/// The root type that has the text.
const TEXT: &str = "text";
/// The client that types.
const CLIENT: u64 = 1;

/// Units of a chunk.
const CHUNK: usize = 1_024;
/// Marks a unit that has been deleted.
const DELETED: u32 = 1 << 31;

/// The paper.
pub(crate) struct Paper {
    /// The update of each keystroke.
    pub(crate) updates: Vec<Vec<u8>>,
    /// The text that they lead to.
    pub(crate) text: String,
}

/// Writes the paper again.
pub(crate) fn write() -> Result<Paper> {
    let trace = Trace::read(GzDecoder::new(File::open(FILE)?))?;
    let mut units = Units { chunks: vec![Chunk::default()], clock: 0 };
    let updates = trace.edits().map(|(at, deleted, inserted)| match (deleted, inserted.as_bytes()) {
        (0, [letter]) => Ok(units.insert(*at as usize, *letter)),
        (1, []) => Ok(units.delete(*at as usize)),
        _ => Err("a keystroke of more than one character".into()),
    });
    let updates = updates.collect::<Result<_>>()?;
    Ok(Paper { updates, text: trace.end_content })
}

/// A document of yrs alone, set up as our server's.
pub(crate) struct Alone(Doc);

impl Default for Alone {
    fn default() -> Self {
        let options = Options { offset_kind: OffsetKind::Utf16, cleanup_formatting: false, ..Options::default() };
        Self(Doc::with_options(options))
    }
}

impl Alone {
    /// Reads an update and applies it; what was new in it, which others are to be told.
    pub(crate) fn apply(&self, update: &[u8]) -> Result<Vec<u8>> {
        let mut transaction = self.0.transact_mut();
        transaction.apply_update(Update::decode_v1(update)?)?;
        Ok(transaction.encode_update_v1())
    }

    /// The whole document as one update.
    pub(crate) fn whole(&self) -> Vec<u8> {
        self.0.transact().encode_state_as_update_v1(&StateVector::default())
    }
}

/// The text of a document that this update makes.
pub(crate) fn read(update: &[u8]) -> Result<String> {
    let doc = Doc::new();
    let text = doc.get_or_insert_text(TEXT);
    doc.transact_mut().apply_update(Update::decode_v1(update)?)?;
    let text = text.get_string(&doc.transact());
    Ok(text)
}

/// All units that were typed, the deleted ones too, in the order of the text.
struct Units {
    chunks: Vec<Chunk>,
    /// The clock of the next one.
    clock: u32,
}

#[derive(Default)]
struct Chunk {
    /// Clocks.
    units: Vec<u32>,
    /// How many are not deleted.
    left: usize,
}

impl Units {
    /// The update that inserts a letter.
    fn insert(&mut self, at: usize, letter: u8) -> Vec<u8> {
        let (chunk, index) = match at.checked_sub(1) {
            Some(before) => {
                let (chunk, index) = self.find(before);
                (chunk, index + 1)
            }
            None => (0, 0),
        };
        let units = &self.chunks[chunk].units;
        let before = index.checked_sub(1).map(|before| units[before]);
        let after = units.get(index).or_else(|| self.chunks[chunk + 1..].iter().find_map(|chunk| chunk.units.first()));
        let neighbours = [before, after.copied()].map(|unit| unit.map(|unit| unit & !DELETED));
        let clock = self.clock;
        self.clock += 1;
        let Chunk { units, left } = &mut self.chunks[chunk];
        units.insert(index, clock);
        *left += 1;
        if units.len() == CHUNK {
            let units = units.split_off(CHUNK / 2);
            let moved = units.iter().filter(|unit| *unit & DELETED == 0).count();
            *left -= moved;
            self.chunks.insert(chunk + 1, Chunk { units, left: moved });
        }
        // One client with one block, a string, and nothing deleted.
        let mut update = vec![1, 1];
        push_varuint(&mut update, CLIENT);
        push_varuint(&mut update, clock.into());
        let [before, after] = neighbours;
        update.push(4 | if before.is_some() { 0x80 } else { 0 } | if after.is_some() { 0x40 } else { 0 });
        for neighbour in neighbours.into_iter().flatten() {
            push_varuint(&mut update, CLIENT);
            push_varuint(&mut update, neighbour.into());
        }
        if neighbours == [None, None] {
            update.extend_from_slice(&[1, TEXT.len() as u8]);
            update.extend_from_slice(TEXT.as_bytes());
        }
        update.extend_from_slice(&[1, letter, 0]);
        update
    }

    /// The update that deletes a letter.
    fn delete(&mut self, at: usize) -> Vec<u8> {
        let (chunk, index) = self.find(at);
        let Chunk { units, left } = &mut self.chunks[chunk];
        *left -= 1;
        // No block, and one client with one range.
        let mut update = vec![0, 1];
        push_varuint(&mut update, CLIENT);
        update.push(1);
        push_varuint(&mut update, units[index].into());
        update.push(1);
        units[index] |= DELETED;
        update
    }

    /// The chunk, and the place in it, of the unit before which the text has `at` letters.
    fn find(&self, mut at: usize) -> (usize, usize) {
        let chunk = self.chunks.iter().position(|chunk| {
            let is_in = at < chunk.left;
            at -= if is_in { 0 } else { chunk.left };
            is_in
        });
        let chunk = chunk.unwrap_or_default();
        let mut left = self.chunks[chunk].units.iter().enumerate().filter(|(_, unit)| *unit & DELETED == 0);
        (chunk, left.nth(at).map_or(0, |(index, _)| index))
    }
}
