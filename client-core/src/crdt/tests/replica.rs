//! A client's side: what it shows until its edits are confirmed or undone.

use serde_json::Map;

use super::*;
use crate::event::EditOutcome;

fn replica(kind: CrdtKind) -> Replica {
    Replica::new(kind, "me", CrdtLimits::default()).unwrap()
}

#[test]
fn a_snapshot_takes_the_place_of_what_was_confirmed_and_own_edits_stay() {
    let mut server = Crdt::new(CrdtKind::GSet);
    let mut me = replica(CrdtKind::GSet);
    let ops: Vec<_> = (1..=3).map(|value| me.edit(value, Edit::Add(value.into())).unwrap().unwrap()).collect();
    for op in &ops[..2] {
        server.apply(op, &CrdtLimits::default()).unwrap();
    }
    me.snapshot(Some(server)).unwrap();
    assert_eq!((me.value(), me.pending()), (json!([1, 2, 3]), 1));
    me.snapshot(None).unwrap();
    assert_eq!((me.value(), me.pending()), (json!([3]), 1), "the server has lost them");
    let other = Crdt::new(CrdtKind::OrSet);
    assert!(matches!(me.snapshot(Some(other)), Err(CrdtError::WrongKind { .. })));
    assert_eq!(me.value(), json!([3]));
}

#[test]
fn numbers_go_on_after_a_restart_even_when_the_disk_is_behind() {
    let limits = CrdtLimits::default();
    let mut me = replica(CrdtKind::OrSet);
    me.edit(5_000, Edit::Add("a".into())).unwrap();
    let early = me.save();
    me.edit(5_000, Edit::Add("a".into())).unwrap();
    let mut again = Replica::restore(me.save().get(), limits).unwrap();
    assert_eq!((again.value(), again.pending(), again.node()), (json!(["a"]), 2, "me"));
    let op = again.edit(1, Edit::Add("b".into())).unwrap().unwrap();
    assert_eq!((op.counter(), op.stamp().timestamp), (3, 5_000), "and so does the clock");
    assert_eq!(own(&again), [1, 2, 3]);
    let mut late = Replica::restore(early.get(), limits).unwrap();
    late.snapshot(Some(again.current().clone())).unwrap();
    assert_eq!(late.edit(1, Edit::Add("c".into())).unwrap().unwrap().counter(), 4);
    for hostile in
        ["", "null", "{}", r#"{"type":"g-set","node":"","counter":0,"timestamp":0,"logical":0,"pending":[]}"#]
    {
        assert!(Replica::restore(hostile, limits).is_err(), "{hostile}");
    }
    let secret = me.clone().with_secret("s").save();
    let op = again.own().next().unwrap();
    let sent = Replica::restore(secret.get(), limits).unwrap().sent(op);
    assert_eq!(Op::with_secret(sent.get(), &limits).unwrap(), (op.clone(), Some("s".into())), "nor is the secret lost");
    assert_eq!(again.sent(op).get(), op.to_json().get());
    let other = early.get().replace("\"node\":\"me\"", "\"node\":\"you\"");
    assert!(Replica::restore(&other, limits).is_err(), "operations of another replica");
}

/// The numbers of the own operations that are not confirmed.
fn own(me: &Replica) -> Vec<u64> {
    me.own().map(Op::counter).collect()
}

#[test]
fn an_edit_that_is_settled_stays_on_top_until_it_is_confirmed() {
    let returns = |returns| EditOutcome::Stored { returns };
    let mut me = replica(CrdtKind::PnCounter);
    let ops: Vec<_> = (1..=3).map(|by| me.edit(by, Edit::Increment(by)).unwrap().unwrap()).collect();
    me.settled(1, &returns(true));
    assert_eq!((own(&me), me.pending(), me.value()), (vec![1, 2, 3], 2, json!(6)));
    me.remote(&ops[0]).unwrap();
    // In the other order, too; and twice, or one that there never was, change nothing.
    me.remote(&ops[1]).unwrap();
    me.settled(2, &returns(true));
    me.settled(2, &returns(false));
    me.settled(9, &returns(false));
    assert_eq!((own(&me), me.pending(), me.value(), me.confirmed().counter()), (vec![3], 1, json!(6), 3));
    me.settled(3, &returns(false));
    assert_eq!((own(&me), me.pending(), me.confirmed().counter()), (vec![], 0, 6), "it counts as confirmed");
    assert_eq!(me.current(), me.confirmed());
}

#[test]
fn an_edit_that_is_refused_is_undone_stored_or_not() {
    let refused = EditOutcome::Refused { code: -1, message: "no".into() };
    let mut me = replica(CrdtKind::LwwMap);
    for value in 1..=3 {
        me.edit(value, Edit::Put("a".into(), value.into())).unwrap();
    }
    me.settled(3, &refused);
    assert_eq!((own(&me), me.pending(), me.value()), (vec![1, 2], 2, json!({"a": 2})));
    // Stored, then lost by the server, and refused when it came again.
    me.settled(2, &EditOutcome::Stored { returns: true });
    me.settled(2, &refused);
    assert_eq!((own(&me), me.value()), (vec![1], json!({"a": 1})));
    // The `none` in its place comes as an entry; numbers go on.
    let none = json!({"type": "lww-map", "nodeId": "me", "counter": 2, "timestamp": 2, "op": "none"});
    me.remote(&Op::parse(&none.to_string(), &CrdtLimits::default()).unwrap()).unwrap();
    assert_eq!((own(&me), me.value(), me.confirmed().value()), (vec![1], json!({"a": 1}), json!({})));
    assert_eq!(me.edit(9, Edit::Put("b".into(), 1.into())).unwrap().unwrap().counter(), 4);
    let again = Replica::restore(me.save().get(), CrdtLimits::default()).unwrap();
    assert_eq!((own(&again), again.value()), (vec![1, 4], json!({"a": 1, "b": 1})));
}

#[test]
fn what_may_be_pending_is_bounded() {
    const MOST: u64 = Replica::MAX_PENDING as u64;
    let mut me = replica(CrdtKind::LwwRegister);
    for now in 1..=MOST {
        me.edit(now, Edit::Set(now.into())).unwrap();
    }
    let above = Err(CrdtError::Limit { what: "pending operations", limit: Replica::MAX_PENDING });
    assert_eq!(me.edit(MOST, Edit::Set(0.into())), above);
    assert_eq!(me.value(), json!(MOST));
    me.settled(1, &EditOutcome::Stored { returns: true });
    assert_eq!(me.edit(MOST, Edit::Set(0.into())), above, "stored, and not arrived");
    let op = Op { kind: CrdtKind::LwwRegister, change: Change::None, ..state_op(1) };
    me.remote(&op).unwrap();
    me.edit(MOST, Edit::Set(0.into())).unwrap();
}

fn state_op(counter: u64) -> Op {
    let op = json!({"type": "g-set", "nodeId": "me", "counter": counter, "timestamp": 0, "op": "add", "value": 1});
    Op::parse(&op.to_string(), &CrdtLimits::default()).unwrap()
}

#[test]
fn edits_that_make_no_sense_change_nothing() {
    for kind in CrdtKind::ALL {
        let mut me = replica(kind);
        let edits = [
            Edit::Increment(0),
            Edit::Increment(MAX_INTEGER + 1),
            Edit::Decrement(0),
            Edit::Put("k".repeat(1025), 1.into()),
            Edit::Set("x".repeat(70_000).into()),
            Edit::Add((0..100).fold(json!(1), |value, _| json!([value]))),
        ];
        for edit in edits {
            assert!(me.edit(1, edit.clone()).is_err(), "{kind} {edit:?}");
        }
        for edit in [Edit::Delete("k".into()), Edit::Remove(1.into())] {
            assert!(matches!(me.edit(1, edit), Ok(None) | Err(CrdtError::Malformed(_))), "there is nothing to remove");
        }
        assert_eq!((me.pending(), me.current()), (0, &Crdt::new(kind)));
    }
    for name in ["", "retired", "v1:x", &"n".repeat(129)] {
        assert!(Replica::new(CrdtKind::GSet, name, CrdtLimits::default()).is_err(), "{name}");
    }
    assert!(Replica::new(CrdtKind::GSet, &"n".repeat(128), CrdtLimits::default()).is_ok());
}

#[test]
fn a_version_1_server_is_believed_but_for_what_is_later() {
    let state = |json: Value| Crdt::from_json(&json.to_string(), &CrdtLimits::default()).unwrap().unwrap();
    let mut me = replica(CrdtKind::PnCounter);
    me.edit(1, Edit::Increment(2)).unwrap();
    let sent = me.own().next().unwrap().to_json_v1();
    me.settled(1, &EditOutcome::Stored { returns: false });
    assert_eq!(sent.get(), r#"{"nodeId":"me","op":"increment","timestamp":1,"type":"pn-counter","value":2}"#);
    assert_eq!((me.pending(), me.value()), (0, json!(2)));
    for (increments, value) in
        [(json!({"you": 5}), 7), (json!({"you": 5, "me": 2}), 7), (json!({"you": 6, "me": 3}), 9)]
    {
        let vector = json!({"increments": increments, "decrements": {}});
        me.remote_v1_state(&state(json!({"type": "pn-counter", "value": 0, "metadata": {"vector": vector}}))).unwrap();
        assert_eq!(me.value(), json!(value));
    }
    let mut me = replica(CrdtKind::LwwMap);
    me.edit(10, Edit::Put("a".into(), 1.into())).unwrap();
    me.settled(1, &EditOutcome::Stored { returns: false });
    for (timestamp, value, expected) in [
        (9, json!({"b": 1}), json!({"a": 1, "b": 1})),
        (10, json!({"b": 1}), json!({"b": 1})),
        (11, json!({"a": 2}), json!({"a": 2})),
    ] {
        let metadata = json!({"timestamp": timestamp, "nodeId": "you"});
        me.remote_v1_state(&state(json!({"type": "lww-map", "value": value, "metadata": metadata}))).unwrap();
        assert_eq!(me.value(), expected, "{timestamp}");
    }
}

#[test]
fn entries_are_operations_states_or_plain_states() {
    let mut me = replica(CrdtKind::PnCounter);
    let op = |counter: u64| json!({"type": "pn-counter", "nodeId": "you", "counter": counter, "timestamp": 1, "op": "increment", "value": 2});
    let state = |value: i64, seen: &str| {
        let vector = json!({"increments": {"it": value}, "decrements": {}});
        let mut state = json!({"type": "pn-counter", "value": value, "metadata": {"vector": vector, "version": 0}});
        state["metadata"].as_object_mut().unwrap().extend(serde_json::from_str::<Map<String, Value>>(seen).unwrap());
        state.to_string()
    };
    for (json, whole, value) in [
        (op(1).to_string(), false, 2),
        (op(2).to_string(), false, 4),
        // One that says what it has seen is all there is; a plain one joins what is here.
        (state(3, r#"{"seen": {"it": [1, 1]}}"#), true, 3),
        (op(1).to_string(), false, 5),
        (state(7, "{}"), true, 9),
        ("null".into(), true, 0),
    ] {
        me.entry(&json, whole).unwrap();
        assert_eq!(me.value(), json!(value), "{json}");
    }
    let set = json!({"type": "g-set", "nodeId": "you", "counter": 1, "timestamp": 1, "op": "add", "value": 1});
    for (json, whole) in [("{}", false), ("null", false), (&*set.to_string(), false), ("[]", true), ("\"what\"", true)]
    {
        assert!(me.entry(json, whole).is_err(), "{json}");
    }
    assert_eq!(me.value(), json!(0));
}
