//! Bodies of the fuzz targets: whatever a peer sends, the core keeps its promises. Each takes any bytes and panics when
//! a promise is broken. They live here so that they compile on stable and run over the committed corpus in the tests;
//! `fuzz/` only hands them to libFuzzer.

mod crdt;
mod host;

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug};

use serde::{Deserialize, de::IgnoredAny};

pub use self::crdt::{operations as crdt_operation, states as crdt_state};
pub use crate::frame::agree::streams as inflate;
use crate::{
    config::Limits,
    frame::{Codec, Frame, HEADER_LEN, Opcode, ZLIB_MARK},
    patch::{Patch, PatchLimits, apply_undoable, diff},
    read::Read,
    tree::{self, Node, Tree},
    wire,
};

/// Small, so that a few hundred bytes reach them.
const LIMITS: Limits = Limits {
    max_payload: 64 * 1024,
    max_received: 0,
    max_compressed: 32 * 1024,
    max_inflated: 256 * 1024,
    compress_above: 256,
    max_pending_calls: 8,
    max_queued: 8,
    max_queued_bytes: 4 * 1024,
    max_subscriptions: 8,
    max_name: 64,
};

/// A message of any bytes: it is refused, or is a frame within the limits that survives being written.
pub fn frame(data: &[u8]) {
    let (mut decoder, mut encoder) = (Codec::default(), Codec::default());
    if let Ok(frame) = decoder.decode(data, &LIMITS) {
        assert!(frame.payload.len() <= LIMITS.max_payload, "longer than allowed");
        for compress_above in [0, 256, usize::MAX] {
            let message = encoder.encode(frame.opcode, frame.correlation, frame.payload, compress_above);
            let long = HEADER_LEN + frame.payload.len() > compress_above;
            assert_eq!(message.first(), Some(&if long { ZLIB_MARK } else { frame.opcode as u8 }));
            let limits = Limits { max_compressed: usize::MAX, ..LIMITS };
            assert_eq!(Codec::default().decode(&message, &limits), Ok(frame), "lost in writing");
        }
    }
    let message = encoder.encode(Opcode::Ping, 7, &[b' '; 300], 256);
    let expected = Frame { opcode: Opcode::Ping, correlation: 7, payload: &[b' '; 300] };
    assert_eq!(decoder.decode(&message, &LIMITS), Ok(expected), "the codec does not go on");
}

/// Plain frames one after the other. Each payload is read as every structure; then those that a server sends are fed to
/// a client, on both versions, and those that a client sends stand for what its host does (`fuzz/host.rs`).
pub fn payload(data: &[u8]) {
    for frame in frames(data) {
        read(frame.payload);
    }
    for protocol in ["datasole.v1", "datasole.v2"] {
        let mut host = host::Host::new(protocol, LIMITS);
        for frame in frames(data) {
            host.perform(&frame);
        }
    }
}

/// A document and a patch, separated by the first line break: the patch applies as a whole or not at all, stays within
/// the limits and can be undone; the difference of both documents leads from one to the other.
pub fn patch(data: &[u8]) {
    let limits = PatchLimits { max_operations: 50, max_depth: 16, max_copied_bytes: 16 * 1024, max_shifted: 200 };
    let Some((document, text)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else { return };
    let Ok(document) = tree::parse(document) else { return };
    let Ok(patch) = Patch::parse(text, &limits) else { return };
    assert!(patch.operations().len() <= limits.max_operations);
    assert_eq!(Patch::parse(&patch.to_json(), &limits), Ok(patch.clone()), "lost in writing");

    let mut changed = document.clone();
    match apply_undoable(&mut changed, &patch, &limits) {
        Err(_) => assert!(changed == document, "a refused patch left something behind"),
        Ok(undo) => {
            assert!(depth(&changed) <= depth(&document).max(limits.max_depth), "deeper than allowed");
            let bound = size(&document) + 32 * text.len() + limits.max_copied_bytes;
            assert!(size(&changed) <= bound, "larger than allowed");
            lead(&document, &changed);
            lead(&changed, &document);
            undo.revert(&mut changed);
            assert!(changed == document, "not undone");
        }
    }
}

fn lead(old: &Tree, new: &Tree) {
    let wide = PatchLimits { max_operations: usize::MAX, max_depth: usize::MAX, ..PatchLimits::default() };
    let mut document = old.clone();
    let patch = diff(old, new);
    assert!(apply_undoable(&mut document, &patch, &wide).is_ok() && document == *new, "{}", patch.to_json());
}

fn depth(tree: &Tree) -> usize {
    match &tree.0 {
        Node::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Node::Object(object) => 1 + object.iter().map(|(_, member)| depth(member)).max().unwrap_or(0),
        _ => 0,
    }
}

fn size(tree: &Tree) -> usize {
    32 + match &tree.0 {
        Node::Text(text) => text.len(),
        Node::Array(elements) => elements.iter().map(size).sum(),
        Node::Object(object) => object.iter().map(|(name, member)| name.len() + size(member)).sum(),
        _ => 0,
    }
}

/// The frames in `data`; the last may be cut short.
fn frames(mut data: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        loop {
            let (&[opcode, c0, c1, c2, c3, l0, l1, l2, l3], rest) = data.split_first_chunk::<HEADER_LEN>()?;
            let declared = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
            let (payload, rest) = rest.split_at(declared.min(rest.len()));
            data = rest;
            if let Some(opcode) = Opcode::from_byte(opcode) {
                return Some(Frame { opcode, correlation: u32::from_be_bytes([c0, c1, c2, c3]), payload });
            }
        }
    })
}

/// Every structure: what can be read can be written, and reads the same again.
fn read(payload: &[u8]) {
    macro_rules! survive {
        ($($type:ty),*) => {$(
            if let Ok(value) = serde_json::from_slice::<$type>(payload) {
                let text = serde_json::to_string(&value).unwrap_or_default();
                let again = serde_json::from_str::<$type>(&text);
                let again = again.ok().and_then(|again| serde_json::to_string(&again).ok());
                assert_eq!(again, Some(text), stringify!($type));
            }
        )*};
    }
    survive!(
        wire::RpcRequest<'_>,
        wire::RpcResponse<'_>,
        wire::ClientEvent<'_>,
        wire::ServerEvent<'_>,
        wire::StatePatch<'_>,
        wire::StateSnapshot<'_>,
        wire::ErrorBody<'_>,
        wire::Hello<'_>,
        wire::Auth<'_>,
        wire::ClientHello<'_>,
        wire::Authed<'_>,
        wire::Subscribe<'_>,
        wire::Subscribed,
        wire::CrdtOp<'_>,
        wire::CrdtState<'_>,
        wire::ClientPresence<'_>,
        wire::ServerPresence<'_>
    );
    agree::<wire::ErrorBody<'_>>(payload, true);
    agree::<wire::ServerEvent<'_>>(payload, true);
    agree::<wire::StatePatch<'_>>(payload, true);
    agree::<wire::StateSnapshot<'_>>(payload, true);
    agree::<wire::Subscribed>(payload, true);
    agree::<wire::RpcErrorBody<'_>>(payload, true);
    agree::<wire::HelloLimits>(payload, true);
    // Serde would take an array for the structure inside.
    agree::<wire::Hello<'_>>(payload, false);
    if let Some((number, rest)) = wire::split_varuint(payload) {
        let mut again = Vec::new();
        wire::push_varuint(&mut again, number);
        again.extend_from_slice(rest);
        assert!(again.len() <= payload.len(), "longer than what it was read from");
        assert_eq!(wire::split_varuint(&again), Some((number, rest)));
    }
    if let Some((item, rest)) = wire::split_item(payload) {
        let mut again = Vec::new();
        wire::push_item(&mut again, item);
        again.extend_from_slice(rest);
        assert_eq!(wire::split_item(&again), Some((item, rest)));
    }
    if let Some((json, bytes)) = wire::split_binary(payload) {
        assert_eq!(wire::join_binary(json, bytes), payload);
    }
}

/// The client's own reader takes only objects in UTF-8 (serde skips unknown members unchecked), and says the same as serde where both can read; `all`: it reads every
/// object that serde does.
fn agree<'a, T: Read<'a> + Deserialize<'a> + Debug>(payload: &'a [u8], all: bool) {
    let ours = T::read(payload);
    if ours.is_some() {
        assert!(serde_json::from_slice::<BTreeMap<Cow<'_, str>, IgnoredAny>>(payload).is_ok(), "not an object");
    }
    let text = std::str::from_utf8(payload).unwrap_or_default();
    let theirs = serde_json::from_str::<T>(text).ok().filter(|_| text.trim_ascii_start().starts_with('{'));
    if theirs.is_some() && (all || ours.is_some()) {
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use crate::stream::{Position, StreamId};

    /// Runs a committed corpus, and every beginning of each file: a crash that was found stays found.
    fn check(target: &str, body: fn(&[u8]), at_least: usize) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let mut files = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let data = fs::read(entry.unwrap().path()).unwrap();
            let step = (data.len() / 64).max(1);
            for end in (0..data.len()).step_by(step) {
                body(&data[..end]);
            }
            body(&data);
            files += 1;
        }
        assert!(files >= at_least, "{} holds {files} files only", folder.display());
    }

    #[test]
    fn frame_corpus() {
        check("frame", super::frame, 40);
    }

    #[test]
    fn inflate_corpus() {
        check("inflate", super::inflate, 20);
    }

    #[test]
    fn crdt_operation_corpus() {
        check("crdt_operation", super::crdt_operation, 20);
    }

    #[test]
    fn crdt_state_corpus() {
        check("crdt_state", super::crdt_state, 20);
    }

    #[test]
    fn payload_corpus() {
        check("payload", super::payload, 20);
    }

    /// The corpus is worth something only if it gets this far.
    #[test]
    fn the_host_follows_a_state_through_a_gap() {
        let data = include_bytes!("../../fuzz/corpus/payload/v2-gap-and-recovery");
        let mut host = super::host::Host::new("datasole.v2", super::LIMITS);
        for frame in super::frames(data) {
            host.perform(&frame);
        }
        let (position, value) = host.state("board").unwrap();
        assert_eq!((position.epoch, position.seq), (5, 3));
        assert_eq!(value, &Some(super::Tree::from(serde_json::json!({"rows": [], "a": 1, "b": 2, "c": 3}))));
    }

    #[test]
    fn the_host_follows_operations_members_and_documents() {
        for (data, stream, seq) in [
            (&include_bytes!("../../fuzz/corpus/payload/v2-crdt")[..], StreamId::crdt("c"), 10),
            (include_bytes!("../../fuzz/corpus/payload/v2-crdt-gap"), StreamId::crdt("c"), 4),
            (include_bytes!("../../fuzz/corpus/payload/v2-crdt-submitted"), StreamId::crdt("c"), 3),
            (include_bytes!("../../fuzz/corpus/payload/v2-room"), StreamId::presence("r"), 7),
            (include_bytes!("../../fuzz/corpus/payload/v2-document"), StreamId::doc("d"), 7),
            (include_bytes!("../../fuzz/corpus/payload/v2-document-gap"), StreamId::doc("d"), 10),
        ] {
            let mut host = super::host::Host::new("datasole.v2", super::LIMITS);
            for frame in super::frames(data) {
                host.perform(&frame);
            }
            assert_eq!(host.position(&stream), Some(Position { epoch: 5, seq }), "{stream:?}");
        }
    }

    #[test]
    fn the_host_is_told_what_came_of_its_edits() {
        for (data, unsettled) in [
            (&include_bytes!("../../fuzz/corpus/payload/v2-crdt-submitted")[..], 0),
            (include_bytes!("../../fuzz/corpus/payload/v2-crdt-settled-by-a-state"), 1),
            (include_bytes!("../../fuzz/corpus/payload/v2-crdt-neither-read-nor-written"), 0),
            (include_bytes!("../../fuzz/corpus/payload/v2-crdt-put-off"), 1),
        ] {
            let mut host = super::host::Host::new("datasole.v2", super::LIMITS);
            for frame in super::frames(data) {
                host.perform(&frame);
            }
            assert_eq!(host.unsettled(), unsettled);
        }
    }

    #[test]
    fn patch_corpus() {
        check("patch", super::patch, 60);
    }
}
