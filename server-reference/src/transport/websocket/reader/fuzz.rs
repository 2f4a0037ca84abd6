//! Body of the fuzz target `websocket`: however a stream of bytes is cut, the same messages are read.

use super::*;

/// Bytes of the longest message here.
pub(super) const LIMIT: usize = 40_000;

/// Reads a stream in pieces of the lengths that `pieces` gives in turn: what was found, and the violation that ended it.
///
/// # Panics
///
/// Panics if a promise of the reader is broken.
pub(super) fn read(
    stream: &[u8],
    pieces: impl IntoIterator<Item = usize>,
) -> (Vec<(Opcode, Vec<u8>)>, Option<Violation>) {
    let (mut reader, mut all) = (Reader::new(LIMIT), Vec::new());
    let (mut left, mut pieces) = (stream, pieces.into_iter());
    while !left.is_empty() {
        let most = pieces.next().unwrap_or(usize::MAX).clamp(1, left.len());
        // A host that reads straight into a long message does so where it may.
        let outcome = match reader.room() {
            Some((payload, room)) => {
                let before = payload.len();
                assert!(room > 0 && payload.capacity() - before >= room, "room that is not there");
                let taken = most.min(room);
                payload.extend_from_slice(&left[..taken]);
                reader
                    .filled(before)
                    .map(|found| (taken, found.map(|found| (found.opcode, found.payload(&[]).to_vec()))))
            }
            None => {
                let mut input = left[..most].to_vec();
                reader.read(&mut input).map(|(taken, found)| {
                    assert!(taken == most || taken > 0 && found.is_some(), "bytes are left without reason");
                    (taken, found.map(|found| (found.opcode, found.payload(&input).to_vec())))
                })
            }
        };
        match outcome {
            Ok((taken, found)) => {
                left = &left[taken..];
                if let Some((opcode, payload)) = found {
                    let most = if opcode.is_control() { 125 } else { LIMIT };
                    assert!(payload.len() <= most, "longer than may be");
                    assert!(opcode != Opcode::Continuation, "a part of a message");
                    assert!(opcode != Opcode::Text || std::str::from_utf8(&payload).is_ok(), "a text that is none");
                    all.push((opcode, payload));
                }
                if let Some(part) = &reader.part {
                    let come = stream.len() - left.len();
                    let most = 4 * come;
                    assert!(
                        part.payload.capacity().max(part.control.capacity()) <= most,
                        "memory for what has not come"
                    );
                }
            }
            Err(violation) => return (all, Some(violation)),
        }
    }
    (all, None)
}

/// The first byte says how the others, a stream of a client, are cut.
///
/// # Panics
///
/// Panics if a promise of the reader is broken.
pub fn websocket(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = read(stream, []);
    let cut = usize::from(cut) + 1;
    let pieces = std::iter::successors(Some(cut), |piece| Some((piece * 7 + 3) % (2 * cut) + 1));
    assert!(whole == read(stream, pieces), "another cut, other messages");
}
