//! The shared vectors: version 1 frames, one recorded session, and the public JSON Patch suite. TypeScript runs the
//! same files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

use std::{collections::BTreeMap, path::Path};

use datasole_core::{
    Limits,
    frame::{Codec, Frame, Opcode, ZLIB_MARK},
    patch::{Patch, PatchLimits, apply},
    tree::{Tree, parse},
    wire::{ClientEvent, ErrorBody, RpcRequest, RpcResponse, ServerEvent, StatePatch as StatePatchBody, StateSnapshot},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn vectors<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The payload read into its struct and written again: nothing that version 1 sends may get lost.
fn through_struct(frame: &Frame<'_>) -> Option<Value> {
    macro_rules! through {
        ($type:ty) => {
            serde_json::to_value(serde_json::from_slice::<$type>(frame.payload).unwrap()).unwrap()
        };
    }
    Some(match frame.opcode {
        Opcode::RpcRequest => through!(RpcRequest<'_>),
        Opcode::RpcResponse => through!(RpcResponse<'_>),
        Opcode::ClientEvent => through!(ClientEvent<'_>),
        Opcode::ServerEvent => through!(ServerEvent<'_>),
        Opcode::StatePatch => through!(StatePatchBody<'_>),
        Opcode::StateSnapshot => through!(StateSnapshot<'_>),
        Opcode::Error => through!(ErrorBody<'_>),
        _ => return None,
    })
}

#[test]
fn v1_frames_decode_and_survive_encoding() {
    let file: Value = vectors("v1-frames.json");
    let frames = file["frames"].as_array().unwrap();
    assert_eq!(frames.len(), 33);
    let (mut codec, limits) = (Codec::default(), Limits::default());
    for record in frames {
        let name = &record["name"];
        let wire = bytes(&record["wire"]);
        let frame = codec.decode(&wire, &limits).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(frame.opcode as u64, record["opcode"], "{name}");
        assert_eq!(frame.correlation, record["correlationId"], "{name}");
        assert_eq!(serde_json::from_slice::<Value>(frame.payload).unwrap(), record["payload"], "{name}");
        if let Some(plain) = record["plainBytes"].as_u64() {
            assert_eq!(frame.payload.len() as u64 + 9, plain, "{name}");
        }
        if let Some(again) = through_struct(&frame) {
            assert_eq!(again, record["payload"], "{name}");
        }

        let (opcode, correlation, payload) = (frame.opcode, frame.correlation, frame.payload.to_vec());
        let encoded = codec.encode(opcode, correlation, &payload, 256);
        assert_eq!(encoded[0] == ZLIB_MARK, payload.len() + 9 > 256, "{name}");
        assert_eq!(codec.decode(&encoded, &limits), Ok(Frame { opcode, correlation, payload: &payload }), "{name}");
    }
}

#[test]
fn v1_malformed_frames_are_refused() {
    let file: Value = vectors("v1-frames.json");
    let malformed = file["malformed"].as_array().unwrap();
    assert_eq!(malformed.len(), 13);
    let (mut codec, limits) = (Codec::default(), Limits::default());
    for record in malformed {
        let wire = bytes(&record["wire"]);
        let decoded = codec.decode(&wire, &limits);
        if record["why"] == "payload" {
            assert!(serde_json::from_slice::<RpcRequest<'_>>(decoded.unwrap().payload).is_err(), "{}", record["name"]);
        } else {
            assert!(decoded.is_err(), "{}", record["name"]);
        }
    }
}

#[test]
fn v1_session_ends_in_its_final_state() {
    let file: Value = vectors("v1-session.json");
    let (mut codec, limits) = (Codec::default(), Limits::default());
    let mut states: BTreeMap<String, Tree> = BTreeMap::new();
    let mut patches = 0;
    for message in file["messages"].as_array().unwrap() {
        let wire = bytes(&message["wire"]);
        let frame = codec.decode(&wire, &limits).unwrap();
        match frame.opcode {
            Opcode::StatePatch => {
                let body: StatePatchBody<'_> = serde_json::from_slice(frame.payload).unwrap();
                let patch = Patch::parse(body.patches.get(), &PatchLimits::default()).unwrap();
                let state = states.entry(body.key.into_owned()).or_insert_with(|| unseen(&patch));
                apply(state, &patch, &PatchLimits::default()).unwrap();
                patches += 1;
            }
            Opcode::StateSnapshot => {
                let body: StateSnapshot<'_> = serde_json::from_slice(frame.payload).unwrap();
                let value = body.data.map_or_else(Tree::default, |raw| parse(raw.get()).unwrap());
                states.insert(body.key.into_owned(), value);
            }
            _ => {}
        }
    }
    assert!(patches > 20, "the session consists of patches");
    assert_eq!(serde_json::to_value(states).unwrap(), file["finalState"]);
}

/// What a version 1 mirror starts from.
fn unseen(patch: &Patch) -> Tree {
    let first = patch.operations().first().and_then(|operation| operation.path().tokens().next());
    let in_array = first.is_some_and(|token| token == "-" || token.parse::<usize>().is_ok());
    if in_array { json!([]).into() } else { json!({}).into() }
}

#[test]
fn rfc6902_examples() {
    assert_eq!(rfc6902("rfc6902-spec-tests.json"), (16, 1));
}

#[test]
fn rfc6902_suite() {
    assert_eq!(rfc6902("rfc6902-tests.json"), (92, 3));
}

/// Runs a file of the suite; how many records were run, and how many are disabled there.
fn rfc6902(name: &str) -> (usize, usize) {
    let records: Vec<Value> = vectors(name);
    let (disabled, enabled): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record["disabled"] == true);
    for record in &enabled {
        let mut document = Tree::from(&record["doc"]);
        let limits = PatchLimits::default();
        let outcome =
            Patch::parse(&record["patch"].to_string(), &limits).and_then(|patch| apply(&mut document, &patch, &limits));
        match record.get("error") {
            Some(_) => {
                assert!(outcome.is_err(), "must fail: {record}");
                assert_eq!(document, record["doc"], "must be unchanged: {record}");
            }
            None => {
                outcome.unwrap_or_else(|error| panic!("{error}: {record}"));
                assert_eq!(document, *record.get("expected").unwrap_or(&record["doc"]), "{record}");
            }
        }
    }
    (enabled.len(), disabled.len())
}
