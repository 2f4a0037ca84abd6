//! What a server does: it corrects clocks, speaks for version 1, and forgets.

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY: u64 = 24 * 3_600_000;

fn limits() -> CrdtLimits {
    CrdtLimits::default()
}

fn apply_v1(state: &mut Crdt, now: u64, members: Value) -> Result<(), CrdtError> {
    let mut op = json!({"type": state.kind().name(), "nodeId": "old", "timestamp": NOW, "op": "set"});
    for (name, member) in members.as_object().unwrap() {
        op[name] = member.clone();
    }
    let op = state.from_v1(&op.to_string(), now, &limits())?;
    assert_eq!(state.apply(&op, &limits()), Ok(Applied::New), "never a replay");
    check(state);
    Ok(())
}

#[test]
fn version_1_counts_each_operation_and_both_directions() {
    let mut state = Crdt::new(CrdtKind::PnCounter);
    for (node, op, value) in [
        ("a", "increment", 1),
        ("a", "increment", 1),
        ("b", "increment", 5),
        ("b", "increment", -2),
        ("b", "decrement", -1),
    ] {
        apply_v1(&mut state, NOW, json!({"nodeId": node, "op": op, "value": value})).unwrap();
    }
    assert_eq!((state.counter(), state.version()), (6, 5));
    let text: Value = serde_json::from_str(state.to_json_v1().get()).unwrap();
    assert_eq!(text["metadata"]["vector"], json!({"increments": {"a": 2, "b": 6}, "decrements": {"b": 2}}));
    for value in [json!(0), json!(0.5), json!("NaN"), json!(-1e300)] {
        assert!(apply_v1(&mut state, NOW, json!({"op": "increment", "value": value})).is_err(), "{value}");
    }
    assert_eq!(state.version(), 5);
}

#[test]
fn version_1_has_the_later_arrival_win_within_one_millisecond_of_one_client_only() {
    let mut state = Crdt::new(CrdtKind::LwwMap);
    for value in ["z", "a", "m"] {
        apply_v1(&mut state, NOW, json!({"key": "k", "value": value})).unwrap();
    }
    assert_eq!(state.get("k").map(Json::get), Some("\"m\""));
    let mut texts = Vec::new();
    for order in [["a", "b"], ["b", "a"]] {
        let mut state = Crdt::new(CrdtKind::LwwRegister);
        for node in order {
            apply_v1(&mut state, NOW, json!({"nodeId": node, "value": node})).unwrap();
        }
        texts.push(state.to_json().get().to_owned());
    }
    assert_eq!(texts[0], texts[1], "equal timestamps end the same in both orders");
}

#[test]
fn version_1_removes_what_the_server_has_seen() {
    let mut state = Crdt::new(CrdtKind::OrSet);
    for node in ["a", "b"] {
        let op = state.compose(node, NOW, Edit::Add(json!([1])), &limits()).unwrap().unwrap();
        state.apply(&op, &limits()).unwrap();
    }
    apply_v1(&mut state, NOW, json!({"op": "remove", "value": [1.0]})).unwrap();
    assert_eq!(state.elements(), []);
    let mut state = Crdt::new(CrdtKind::LwwMap);
    apply_v1(&mut state, NOW, json!({"op": "remove", "key": "k"})).unwrap();
    apply_v1(&mut state, NOW, json!({"timestamp": NOW - 1, "key": "k", "value": 1})).unwrap();
    assert_eq!(state.get("k"), None, "a removal holds against an older set");
}

#[test]
fn clocks_that_are_ahead_win_nothing_and_keep_their_order() {
    let drift = limits().max_drift;
    for (ahead, expected) in [(drift - 1, NOW + drift - 1), (drift, NOW + drift), (drift + 1, NOW), (DAY, NOW)] {
        let mut state = Crdt::new(CrdtKind::LwwRegister);
        let mut ann = Replica::new(CrdtKind::LwwRegister, "ann", limits()).unwrap();
        let ops = ["z", "a"].map(|value| ann.edit(NOW + ahead, Edit::Set(value.into())).unwrap().unwrap());
        for op in ops {
            let (op, _) = state.admit(op, NOW, &limits()).unwrap();
            state.apply(&op, &limits()).unwrap();
            ann.remote(&op).unwrap();
        }
        assert_eq!((state.stamp().timestamp, state.value()), (expected, json!("a")), "{ahead}");
        assert_eq!(ann.current(), &state);
    }
}

/// A server's clock that was ahead and steps back leaves stamps from the future; what comes later is later all the same.
#[test]
fn edits_win_though_the_servers_clock_has_stepped_back() {
    for kind in [CrdtKind::LwwRegister, CrdtKind::LwwMap] {
        let edit = |value: &str| match kind {
            CrdtKind::LwwMap => Edit::Put("k".into(), value.into()),
            _ => Edit::Set(value.into()),
        };
        let mut state = Crdt::new(kind);
        let mut replicas = ["ann", "bob"].map(|node| Replica::new(kind, node, limits()).unwrap());
        let steps = [(0, NOW + DAY, "old"), (1, NOW, "new"), (0, NOW, "newer"), (1, NOW + 1, "newest")];
        for (who, now, value) in steps {
            let op = replicas[who].edit(now, edit(value)).unwrap().unwrap();
            let (op, _) = state.admit(op, now, &limits()).unwrap();
            state.apply(&op, &limits()).unwrap();
            for replica in &mut replicas {
                replica.remote(&op).unwrap();
                assert_eq!(replica.current(), &state, "{value}");
            }
            let shown = if kind == CrdtKind::LwwMap { json!({"k": value}) } else { json!(value) };
            assert_eq!((state.value(), state.stamp().timestamp), (shown, NOW + DAY));
        }
        apply_v1(&mut state, NOW, json!({"timestamp": NOW + 2 * DAY, "key": "k", "value": 1})).unwrap();
        assert!(state.value() == json!(1) || state.value() == json!({"k": 1}));
    }
}

#[test]
fn a_stranger_is_held_to_what_was_seen() {
    let mut state = Crdt::new(CrdtKind::PnCounter);
    let limits = CrdtLimits { max_ahead: 3, ..limits() };
    let op = |counter: u64, done: u64| {
        let op = json!({"type": "pn-counter", "nodeId": "n", "counter": counter, "done": done, "timestamp": NOW, "op": "increment"});
        Op::parse(&op.to_string(), &limits).unwrap()
    };
    assert_eq!(state.within(&op(100, 99), &limits), Ok(()), "one that is not remembered");
    state.apply(&op(10, 9), &limits).unwrap();
    for (counter, fits) in [(10, true), (12, true), (13, true), (14, false), (MAX_INTEGER, false)] {
        for done in [0, counter - 1] {
            assert_eq!(state.within(&op(counter, done), &limits).is_ok(), fits, "{counter} {done}");
        }
    }
}

#[test]
fn one_change_of_a_counter_is_bounded() {
    let state = Crdt::new(CrdtKind::PnCounter);
    for (op, value, fits) in [
        ("increment", 1u64 << 32, true),
        ("decrement", 1 << 32, true),
        ("increment", (1 << 32) + 1, false),
        ("decrement", (1 << 32) + 1, false),
        ("increment", MAX_INTEGER, false),
    ] {
        let op = json!({"type": "pn-counter", "nodeId": "n", "counter": 1, "timestamp": NOW, "op": op, "value": value});
        let parsed = Op::parse(&op.to_string(), &limits()).unwrap();
        assert_eq!(state.admit(parsed, NOW, &limits()).is_ok(), fits, "{op}");
        assert_eq!(state.from_v1(&op.to_string(), NOW, &limits()).is_ok(), fits, "version 1: {op}");
    }
}

#[test]
fn nobody_can_make_what_others_have_yet_to_do_look_seen() {
    let mut state = Crdt::new(CrdtKind::OrSet);
    let dots = json!([["victim", 1], ["victim", 2], ["n", 1]]);
    let op = json!({"type": "or-set", "nodeId": "n", "counter": 2, "timestamp": NOW, "op": "remove", "value": 1, "dots": dots});
    let op = Op::parse(&op.to_string(), &limits()).unwrap();
    let (op, _) = state.admit(op, NOW, &limits()).unwrap();
    assert_eq!(op.dots(), [("n".into(), 1)], "but for what it has done itself");
    state.apply(&op, &limits()).unwrap();
    assert!(!state.has_seen("victim", 1) && state.has_seen("n", 1));
    let op = Op { node: "v1:n".into(), ..op };
    assert!(matches!(state.admit(op, NOW, &limits()), Err(CrdtError::Malformed(_))));
}

#[test]
fn forgetting_does_not_show_and_who_was_forgotten_goes_on() {
    for kind in CrdtKind::ALL {
        let edit = |value: u64| match kind {
            CrdtKind::GCounter | CrdtKind::PnCounter => Edit::Increment(value),
            CrdtKind::LwwRegister => Edit::Set(value.into()),
            CrdtKind::LwwMap => Edit::Put(value.to_string(), value.into()),
            CrdtKind::GSet | CrdtKind::OrSet => Edit::Add(value.into()),
        };
        let mut state = Crdt::new(kind);
        let mut ann = Replica::new(kind, "ann", limits()).unwrap();
        let mut exchange = |state: &mut Crdt, now: u64, value: u64| {
            let op = ann.edit(now, edit(value)).unwrap().unwrap();
            let (op, _) = state.admit(op, now, &limits()).unwrap();
            state.apply(&op, &limits()).unwrap();
            ann.remote(&op).unwrap();
            check(state);
            assert_eq!(ann.value(), state.value());
        };
        exchange(&mut state, NOW, 1);
        exchange(&mut state, NOW, 2);
        let (op, before) = (state.compose("ann", NOW, edit(3), &limits()).unwrap().unwrap(), state.value());
        state.collect(NOW + DAY);
        assert_eq!((state.replicas(), state.version()), (1, 2), "{kind}: at the limit");
        state.collect(NOW + DAY + 1);
        assert_eq!((state.replicas(), state.version()), (0, 2), "{kind}: above");
        assert_eq!(state.value(), before);
        check(&state);
        assert_eq!(state.plan(&op, &limits()), Err(CrdtError::Forgotten { floor: NOW + DAY + 1 }));
        exchange(&mut state, NOW + 2 * DAY, 4);
        assert_eq!((state.replicas(), state.version()), (1, 3), "{kind}");
        assert!(state.has_seen("ann", 2) && !state.has_seen("ann", 4));
        state.collect(0);
        assert_eq!(state.floor(), NOW + DAY + 1, "a clock that jumps back changes nothing");
    }
}

#[test]
fn tombstones_are_forgotten_and_older_sets_refused() {
    let mut state = Crdt::new(CrdtKind::LwwMap);
    for (now, edit) in [(NOW, Edit::Put("k".into(), 1.into())), (NOW + 1, Edit::Delete("k".into()))] {
        let op = state.compose("ann", now, edit, &limits()).unwrap().unwrap();
        state.apply(&op, &limits()).unwrap();
    }
    let older = Op {
        node: "bob".into(),
        ..Crdt::new(CrdtKind::LwwMap).compose("bob", NOW, Edit::Put("k".into(), 2.into()), &limits()).unwrap().unwrap()
    };
    let mut kept = state.clone();
    kept.apply(&older, &limits()).unwrap();
    assert_eq!(kept.get("k"), None, "the tombstone holds");
    state.collect(NOW + 1);
    assert!(state.to_json().get().contains("removed"), "at the limit");
    state.collect(NOW + 2);
    assert!(!state.to_json().get().contains("removed"), "above");
    assert!(matches!(state.apply(&older, &limits()), Err(CrdtError::Forgotten { .. })));
    // Merging with who remembers more changes nothing.
    let (mut ours, mut theirs) = (state.clone(), kept.clone());
    ours.merge(&kept).unwrap();
    theirs.merge(&state).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(ours.get("k"), None);
}
