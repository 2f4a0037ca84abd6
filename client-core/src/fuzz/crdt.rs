//! CRDTs, fed with operations and states of anyone.

use crate::crdt::{Applied, Crdt, CrdtError, CrdtKind, CrdtLimits, Edit, Op, Replica};

/// Small, so that a few hundred bytes reach them.
const LIMITS: CrdtLimits = CrdtLimits {
    max_bytes: 2_000,
    max_value: 128,
    max_depth: 8,
    max_entries: 6,
    max_key: 16,
    max_replicas: 6,
    max_ahead: 4,
    max_dots: 4,
    max_node: 16,
    max_drift: 1_000,
    max_amount: u64::MAX,
};

/// The server's clock: what is stamped later is set back, and half of that is forgotten in between.
const NOW: u64 = 1_000_000;

/// Operations, one a line, of both versions, for every type: each is refused and changes nothing, or is applied by server
/// and follower alike, within the limits.
pub fn operations(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for kind in CrdtKind::ALL {
        let mut server = Crdt::new(kind);
        let Ok(mut follower) = Replica::new(kind, "follower", LIMITS) else { return };
        for line in text.lines() {
            if line == "collect" {
                server.collect(NOW / 2);
                survives(&server, true);
                assert!(follower.snapshot(Some(server.clone())).is_ok(), "of the same type");
                continue;
            }
            let admitted = Op::parse(line, &LIMITS).and_then(|op| {
                let text = op.to_json();
                assert!(Op::parse(text.get(), &LIMITS).as_ref() == Ok(&op), "lost in writing: {text}");
                server.admit(op, NOW, &LIMITS)
            });
            let old = || Ok((server.from_v1(line, NOW, &LIMITS)?, Applied::New));
            let before = server.to_json();
            match admitted.or_else(|_| old()) {
                Ok((op, Applied::New)) => {
                    assert_eq!(server.apply(&op, &LIMITS), Ok(Applied::New), "planned, and refused");
                    assert_eq!(follower.remote(&op), Ok(Applied::New), "the server took it");
                }
                Ok((op, Applied::Replay)) => assert_eq!(server.plan(&op, &LIMITS), Ok(Applied::Replay)),
                Err::<_, CrdtError>(_) => {
                    if let Ok(op) = Op::parse(line, &LIMITS) {
                        let _ = server.clone().apply(&op, &LIMITS);
                    }
                    assert!(server.to_json().get() == before.get(), "a refused operation left something behind");
                }
            }
            survives(&server, true);
        }
        assert!(follower.current().to_json().get() == server.to_json().get(), "the follower has something else");
    }
}

/// Two states, one a line, of any version: each is refused, or written as it was read; merging them commutes; edits and
/// forgetting go on from there.
pub fn states(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let read = |text| Crdt::from_json(text, &LIMITS).ok().flatten();
    let Some(one) = read(one) else { return };
    survives(&one, false);
    if let Some(other) = read(other) {
        survives(&other, false);
        let (mut ours, mut theirs) = (one.clone(), other.clone());
        let merged = ours.merge(&other).is_ok();
        assert_eq!(merged, theirs.merge(&one).is_ok(), "merged one way");
        if merged {
            survives(&ours, false);
            assert!(ours.to_json().get() == theirs.to_json().get(), "merging does not commute");
        }
        let mut adopted = one.clone();
        if adopted.adopt_v1(&other).is_ok() {
            survives(&adopted, false);
        }
    }
    let mut same = one.clone();
    assert!(same.merge(&one).is_ok() && same.to_json().get() == one.to_json().get(), "merging is not idempotent");
    let Ok(mut replica) = Replica::new(one.kind(), "me", LIMITS) else { return };
    assert!(replica.snapshot(Some(one.clone())).is_ok(), "of the same type");
    for edit in [Edit::Increment(1), Edit::Set(1.into()), Edit::Put("k".into(), 1.into()), Edit::Add(1.into())] {
        if replica.edit(NOW, edit.clone()).is_ok() {
            survives(replica.current(), false);
        }
        let _ = one.compose("server", NOW, edit, &LIMITS);
    }
    let again = Replica::restore(replica.save().get(), LIMITS);
    assert!(again.is_ok_and(|again| again.save().get() == replica.save().get()), "lost in saving");
    let mut collected = one.clone();
    collected.collect(NOW);
    assert!(collected.value() == one.value(), "forgetting shows");
    survives(&collected, false);
}

/// What can be written can be read, and is the same again; the size is an upper bound, and bounded.
fn survives(state: &Crdt, bounded: bool) {
    let text = state.to_json();
    let wide = CrdtLimits {
        max_bytes: usize::MAX,
        max_entries: 100,
        max_replicas: 100,
        max_ahead: 100,
        max_dots: 100,
        ..LIMITS
    };
    let again = Crdt::from_json(text.get(), &wide).ok().flatten().map(|again| again.to_json());
    assert!(again.is_some_and(|again| again.get() == text.get()), "lost in writing: {text}");
    let old = Crdt::from_json(state.to_json_v1().get(), &wide);
    // What several replicas contributed goes under one name there, and may be too much for one.
    assert!(matches!(old, Ok(Some(_)) | Err(CrdtError::Range)), "version 1: {}", state.to_json_v1());
    assert!(text.get().len() <= state.size(), "larger than it says: {} {text}", state.size());
    assert!(!bounded || state.size() <= LIMITS.max_bytes, "larger than allowed: {} {text}", state.size());
}
