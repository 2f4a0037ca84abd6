//! Body of the fuzz target `document`: no sequence of messages breaks a document's promises.

use datasole_core::wire::push_varuint;
use tokio::time::Instant;
use yrs::{ReadTxn, StateVector, Transact, Update, updates::decoder::Decode};

use super::{
    awareness::{Author, Awareness},
    document::{Bounds, Document},
    lib0::Reader,
    message::Message,
};
use crate::hub::Seat;

/// Small, so that a few hundred bytes reach it.
const LIMIT: usize = 8 * 1024;
const BOUNDS: Bounds = Bounds { size: LIMIT, memory: 1 << 20 };

/// Steps, each a byte that says what to do and the bytes to do it with, their length before them. An update is applied
/// as a whole or leaves nothing behind. The published changes are all that others need, are new only once, and survive
/// storage. No document grows beyond its bound.
///
/// # Panics
///
/// Panics if a promise is broken.
pub fn document(data: &[u8]) {
    let mut awareness = Awareness::default();
    let Ok(mut document) = Document::load(None, Vec::new(), BOUNDS) else { return };
    let other = follower();
    let steps = &mut Reader::new(data);
    while let (Some(step), Some(bytes)) = (steps.byte(), steps.bytes()) {
        let before = document.state_vector();
        match step % 8 {
            0 => drop(document.diff(bytes)),
            1 => drop(awareness.apply(
                &Author { seat: Seat::here(u64::from(step / 8)), user: None },
                bytes,
                Instant::now(),
            )),
            2 => drop(awareness.leave(Seat::here(u64::from(step / 8)), Instant::now())),
            3 => drop(Message::parse(bytes)),
            4 => assert!(document.compact().is_ok(), "it cannot be compacted"),
            kind => {
                let new = document.apply(bytes, usize::MAX);
                assert!(document.state_vector() == before, "what is pending is told");
                let Ok(Some(new)) = new else { continue };
                if kind == 5 {
                    document.retract();
                    assert!(document.state_vector() == before, "not retracted");
                    continue;
                }
                document.settle();
                for known in [bytes, &new] {
                    assert!(matches!(document.apply(known, usize::MAX), Ok(None)), "it is new again");
                    assert!(matches!(document.lacks(known), Ok(false)), "it is lacked again");
                }
                hear(&other, &new);
            }
        }
    }
    for update in [document.diff(&[0]), document.encode().map(Vec::from)] {
        let Ok(update) = update else { panic!("it cannot be encoded") };
        assert!(update.len() <= LIMIT + LIMIT / 8, "larger than allowed");
        hear(&follower(), &update);
    }
    let Ok(stored) = document.compact() else { panic!("it cannot be compacted") };
    let Ok(again) = Document::load(Some(stored), Vec::new(), BOUNDS) else { panic!("it cannot be loaded") };
    assert!(again.state_vector() == document.state_vector(), "something was lost in storing");
    let known = other.transact().state_vector();
    let mut pairs: Vec<(u64, u32)> = known.iter().map(|(client, clock)| (client.get(), *clock)).collect();
    pairs.sort_unstable();
    let mut vector = Vec::new();
    push_varuint(&mut vector, pairs.len() as u64);
    for (client, clock) in pairs {
        push_varuint(&mut vector, client);
        push_varuint(&mut vector, u64::from(clock));
    }
    assert!(vector == document.state_vector(), "others have not heard everything");
    drop(other.transact().encode_state_as_update_v1(&StateVector::default()));
}

/// A document that counts UTF-16 units as Yjs does: counted in bytes, deleting half of a surrogate pair would make a
/// text's length negative.
fn follower() -> yrs::Doc {
    yrs::Doc::with_options(yrs::Options { offset_kind: yrs::OffsetKind::Utf16, ..yrs::Options::default() })
}

fn hear(other: &yrs::Doc, update: &[u8]) {
    let Ok(update) = Update::decode_v1(update) else { panic!("others cannot read it") };
    let mut transaction = other.transact_mut();
    assert!(transaction.apply_update(update).is_ok() && !transaction.has_missing_updates(), "others cannot apply it");
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Runs the committed corpus, and beginnings of each file: what was found stays found.
    #[test]
    fn document_corpus() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/document");
        let mut files = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            let step = (data.len() / 64).max(1);
            for end in (0..data.len()).step_by(step) {
                super::document(&data[..end]);
            }
            super::document(&data);
            files += 1;
        }
        assert!(files >= 20, "{} holds {files} files only", folder.display());
    }
}
