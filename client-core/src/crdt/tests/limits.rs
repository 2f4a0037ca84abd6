//! Every limit, at, below and above; and operations that are meant to do harm: they change nothing.

use super::*;

fn op(kind: CrdtKind, members: Value) -> Value {
    let mut op = json!({"type": kind.name(), "nodeId": "n", "counter": 1, "timestamp": 1_000, "op": "add"});
    for (name, member) in members.as_object().unwrap() {
        op[name] = member.clone();
    }
    op
}

/// Whether each operation is taken, one after the other, and that a refused one changes nothing.
fn check(limits: &CrdtLimits, kind: CrdtKind, ops: &[(Value, bool)]) {
    let mut state = Crdt::new(kind);
    for (members, taken) in ops {
        let json = op(kind, members.clone()).to_string();
        let before = state.clone();
        let outcome = Op::parse(&json, limits).and_then(|op| state.apply(&op, limits));
        assert_eq!(outcome.is_ok(), *taken, "{json}: {outcome:?}");
        assert!(outcome.is_ok() || state == before, "{json} left something behind");
        super::check(&state);
    }
}

#[test]
fn names_keys_values_and_depth_are_bounded() {
    let limits = CrdtLimits { max_node: 3, max_key: 2, max_value: 6, max_depth: 1, ..CrdtLimits::default() };
    for (node, taken) in
        [("abc", true), ("abcd", false), ("é1", true), ("é12", false), ("v1:abc", true), ("v1:abcd", false)]
    {
        check(&limits, CrdtKind::GSet, &[(json!({"nodeId": node}), taken)]);
        check(&limits, CrdtKind::OrSet, &[(json!({"dots": [[node, 1]]}), taken)]);
    }
    for (key, taken) in [("", true), ("a", true), ("ab", true), ("abc", false), ("é", true), ("éa", false)] {
        check(&limits, CrdtKind::LwwMap, &[(json!({"op": "set", "key": key}), taken)]);
    }
    for (value, taken) in
        [(json!("abcd"), true), (json!("abcde"), false), (json!([1]), true), (json!([[]]), false), (json!("é\""), true)]
    {
        for (kind, op) in [
            (CrdtKind::LwwRegister, "set"),
            (CrdtKind::LwwMap, "set"),
            (CrdtKind::GSet, "add"),
            (CrdtKind::OrSet, "add"),
            (CrdtKind::OrSet, "remove"),
        ] {
            check(&limits, kind, &[(json!({"op": op, "key": "", "value": value}), taken)]);
        }
    }
}

#[test]
fn entries_dots_replicas_and_gaps_are_bounded() {
    let limits = CrdtLimits { max_entries: 2, max_dots: 2, max_replicas: 2, max_ahead: 2, ..CrdtLimits::default() };
    for kind in [CrdtKind::GSet, CrdtKind::OrSet] {
        check(
            &limits,
            kind,
            &[
                (json!({"value": 1}), true),
                (json!({"value": 2, "counter": 2}), true),
                (json!({"value": 3, "counter": 3}), false),
                (json!({"value": 2.0, "counter": 3}), true),
            ],
        );
    }
    let put = |key: &str, counter: u64, op: &str| json!({"op": op, "key": key, "counter": counter});
    check(
        &limits,
        CrdtKind::LwwMap,
        &[
            (put("a", 1, "set"), true),
            (put("b", 2, "remove"), true),
            (put("c", 3, "set"), false),
            (put("c", 3, "remove"), false),
            (put("b", 3, "set"), true),
        ],
    );
    check(
        &limits,
        CrdtKind::OrSet,
        &[
            (json!({"counter": 1}), true),
            (json!({"counter": 2}), true),
            (json!({"counter": 3}), false),
            (json!({"counter": 3, "dots": [["n", 1]]}), true),
            (json!({"counter": 4, "dots": [["n", 2], ["n", 3], ["n", 1]]}), false),
        ],
    );
    for kind in CrdtKind::ALL {
        let none = |node: &str, counter: u64| json!({"op": "none", "nodeId": node, "counter": counter});
        check(
            &limits,
            kind,
            &[(none("a", 1), true), (none("b", 1), true), (none("c", 1), false), (none("a", 2), true)],
        );
        check(
            &limits,
            kind,
            &[
                (none("a", 5), true),
                (none("a", 9), true),
                (none("a", 7), false),
                (none("a", 1), true),
                (none("a", 7), false),
                (json!({"op": "none", "nodeId": "a", "counter": 7, "done": 6}), true),
                (none("a", 1_000_000), true),
            ],
        );
    }
    // What an operation shows to have been takes room, too.
    let remove = json!({"op": "remove", "dots": [["a", 1], ["b", 1]]});
    check(&limits, CrdtKind::OrSet, &[(remove, false)]);
    let remove = json!({"op": "remove", "dots": [["a", 3], ["a", 5]]});
    check(&limits, CrdtKind::OrSet, &[(remove, true), (json!({"nodeId": "a", "counter": 9}), false)]);
}

#[test]
fn the_size_is_bounded_and_what_shrinks_is_taken() {
    for kind in [CrdtKind::LwwRegister, CrdtKind::LwwMap, CrdtKind::GSet, CrdtKind::OrSet] {
        let text = |n: u64, len: usize| json!(format!("{n}{}", "x".repeat(len)));
        let set = |n: u64, len: usize| {
            let op = if matches!(kind, CrdtKind::GSet | CrdtKind::OrSet) { "add" } else { "set" };
            op_of(kind, json!({"op": op, "counter": n, "timestamp": 1_000 + n, "key": "k", "value": text(n, len)}))
        };
        let limits = CrdtLimits::default();
        let mut state = Crdt::new(kind);
        state.apply(&set(1, 100), &limits).unwrap();
        let mut next = state.clone();
        next.apply(&set(2, 300), &limits).unwrap();
        let exact = CrdtLimits { max_bytes: next.size(), ..limits };
        assert_eq!(state.plan(&set(2, 300), &exact), Ok(Applied::New), "{kind}: at the limit");
        let below = CrdtLimits { max_bytes: next.size() - 1, ..limits };
        assert_eq!(
            state.plan(&set(2, 300), &below),
            Err(CrdtError::Limit { what: "bytes of a CRDT", limit: next.size() - 1 }),
            "{kind}: above"
        );
        let smaller = match kind {
            CrdtKind::LwwRegister | CrdtKind::LwwMap => set(3, 10),
            CrdtKind::OrSet => {
                op_of(kind, json!({"op": "remove", "counter": 3, "value": text(2, 300), "dots": [["n", 2]]}))
            }
            _ => continue,
        };
        next.apply(&smaller, &CrdtLimits { max_bytes: 0, ..limits }).unwrap();
    }
}

fn op_of(kind: CrdtKind, members: Value) -> Op {
    Op::parse(&op(kind, members).to_string(), &CrdtLimits::default()).unwrap()
}

#[test]
fn counters_stay_in_range() {
    let limits = CrdtLimits::default();
    for amount in
        [json!(0), json!(-1), json!(0.5), json!("1"), json!(MAX_INTEGER + 1), json!(1e300), json!([1]), json!(true)]
    {
        for op in ["increment", "decrement"] {
            check(&limits, CrdtKind::PnCounter, &[(json!({"op": op, "value": amount}), false)]);
        }
    }
    check(&limits, CrdtKind::GCounter, &[(json!({"op": "decrement"}), false)]);
    let by = |counter: u64, node: &str, op: &str, value: u64| json!({"op": op, "value": value, "counter": counter, "nodeId": node});
    for (up, down) in [("increment", "decrement"), ("decrement", "increment")] {
        check(
            &limits,
            CrdtKind::PnCounter,
            &[
                (by(1, "a", up, MAX_INTEGER), true),
                (by(2, "a", up, 1), false),
                (by(1, "b", up, 1), false),
                (by(1, "b", down, 1), true),
                (by(2, "b", up, 1), true),
                (by(2, "a", up, 1), false),
            ],
        );
    }
    let mut most = Crdt::new(CrdtKind::GCounter);
    most.apply(&op_of(CrdtKind::GCounter, by(1, "a", "increment", MAX_INTEGER)), &limits).unwrap();
    let mut other = Crdt::new(CrdtKind::GCounter);
    other.apply(&op_of(CrdtKind::GCounter, by(1, "b", "increment", 1)), &limits).unwrap();
    let before = most.clone();
    assert_eq!(most.merge(&other), Err(CrdtError::Range));
    assert_eq!(most, before);
}

#[test]
fn what_is_no_operation_is_refused() {
    let kinds = CrdtKind::ALL.map(|kind| (kind, json!({"op": "none"})));
    for (kind, none) in kinds {
        for (member, hostile) in [
            ("type", json!("or-map")),
            ("type", Value::Null),
            ("nodeId", json!("")),
            ("nodeId", json!("retired")),
            ("nodeId", json!("v1:")),
            ("nodeId", json!(1)),
            ("counter", json!(0)),
            ("counter", json!(1.5)),
            ("counter", json!(-1)),
            ("counter", Value::Null),
            ("counter", json!(MAX_INTEGER + 1)),
            ("timestamp", json!("now")),
            ("timestamp", json!(MAX_INTEGER + 1)),
            ("logical", json!(MAX_INTEGER + 1)),
            ("done", json!(1)),
            ("op", json!("destroy")),
            ("dots", json!([["a", "b"]])),
            ("dots", json!([["a", 1, 1]])),
        ] {
            let mut members = none.clone();
            members[member] = hostile;
            check(&CrdtLimits::default(), kind, &[(members, false)]);
        }
        let deep = format!(
            r#"{{"type":"{kind}","nodeId":"n","counter":1,"timestamp":1,"op":"set","key":"k","value":{}"#,
            "[".repeat(100_000)
        );
        for text in ["", "null", "[]", "{}", "{\"type\":", "NaN", &deep] {
            assert!(Op::parse(text, &CrdtLimits::default()).is_err());
        }
    }
    check(&CrdtLimits::default(), CrdtKind::LwwMap, &[(json!({"op": "set"}), false)]);
    check(&CrdtLimits::default(), CrdtKind::OrSet, &[(json!({"dots": [["n", 1]]}), false)]);
}

#[test]
fn states_are_bounded_as_operations_are() {
    let limits =
        CrdtLimits { max_entries: 1, max_dots: 1, max_replicas: 1, max_ahead: 1, max_node: 2, ..CrdtLimits::default() };
    for (state, taken) in [
        (json!({"type": "g-set", "value": [1]}), true),
        (json!({"type": "g-set", "value": [1, 2]}), false),
        (json!({"type": "g-set", "value": [1], "metadata": {"seen": {"a": [1, 1]}}}), true),
        (json!({"type": "g-set", "value": [1], "metadata": {"seen": {"a": [1, 1], "b": [1, 1]}}}), false),
        (json!({"type": "g-set", "value": [1], "metadata": {"seen": {"a": [1, 1, [[3, 0]]]}}}), true),
        (json!({"type": "g-set", "value": [1], "metadata": {"seen": {"a": [1, 1, [[3, 0], [5, 0]]]}}}), false),
        (json!({"type": "g-set", "value": [1], "metadata": {"seen": {"abc": [1, 1]}}}), false),
        (json!({"type": "or-set", "value": [1], "metadata": {"dots": [[["a", 1]]]}}), true),
        (json!({"type": "or-set", "value": [1], "metadata": {"dots": [[["a", 1], ["a", 2]]]}}), false),
        (json!({"type": "or-set", "value": [1], "metadata": {"dots": [[]]}}), false),
        (json!({"type": "or-set", "value": [1], "metadata": {"dots": []}}), false),
        (json!({"type": "lww-map", "value": {"a": 1}}), true),
        (json!({"type": "lww-map", "value": {"a": 1, "b": 1}}), false),
        (json!({"type": "lww-map", "value": {"a": 1}, "metadata": {"entries": {}}}), false),
        (
            json!({"type": "lww-map", "value": {}, "metadata": {"entries": {"a": {"timestamp": 1, "nodeId": "a"}}}}),
            false,
        ),
        (json!({"type": "pn-counter", "value": 3}), false),
        (json!({"type": "pn-counter", "value": 3, "metadata": {"vector": {"increments": {"a": 3}}}}), true),
        (json!({"type": "pn-counter", "value": 3, "metadata": {"vector": {"increments": {"a": -3}}}}), false),
        (
            json!({"type": "pn-counter", "value": 3, "metadata": {"vector": {"increments": {"a": MAX_INTEGER + 1}}}}),
            false,
        ),
        (json!({"type": "pn-counter", "metadata": {"vector": {}, "seen": {"a": [1, 1, [[3, 1]]]}}}), false),
        (json!({"type": "g-counter", "metadata": {"vector": {"decrements": {"a": 3}}}}), false),
        (json!({"type": "lww-register", "value": 3, "metadata": {"timestamp": MAX_INTEGER + 1}}), false),
    ] {
        let read = Crdt::from_json(&state.to_string(), &limits);
        assert_eq!(matches!(read, Ok(Some(_))), taken, "{state}: {read:?}");
    }
    let text = json!({"type": "g-set", "value": [1]}).to_string();
    for (max_bytes, taken) in [(text.len(), true), (text.len() - 1, false)] {
        assert_eq!(Crdt::from_json(&text, &CrdtLimits { max_bytes, ..limits }).is_ok(), taken);
    }
    assert_eq!(Crdt::from_json("null", &limits), Ok(None), "there is no such CRDT");
}
