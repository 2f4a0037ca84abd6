//! Operations made to break what others rely on: each is well-formed, and none may leave a state that cannot be read.

use serde_json::json;

use super::*;

const LIMITS: fn() -> CrdtLimits = CrdtLimits::default;

fn op(json: &Value) -> Op {
    Op::parse(&json.to_string(), &LIMITS()).unwrap()
}

fn apply(crdt: &mut Crdt, json: &Value) {
    let op = op(json);
    assert_eq!(crdt.apply(&op, &LIMITS()), Ok(Applied::New), "{json}");
}

/// Totals that cancel each other out leave the range when they are put together. Forgetting keeps the value, and the state
/// readable, whatever came.
#[test]
fn totals_that_would_leave_the_range_stay_apart() {
    let by = |node: &str, counter: u64, op: &str, value: u64, timestamp: u64| json!({"type": "pn-counter", "nodeId": node, "counter": counter, "timestamp": timestamp, "op": op, "value": value});
    let mut crdt = Crdt::new(CrdtKind::PnCounter);
    apply(&mut crdt, &by("honest", 1, "increment", 7, 1));
    for n in 0..2_100 {
        let node = format!("a{n}");
        apply(&mut crdt, &by(&node, 1, "increment", MAX_INTEGER - 7, 1));
        apply(&mut crdt, &by(&node, 2, "decrement", MAX_INTEGER - 7, 1));
    }
    // Those who add are silent, those who take away are not.
    for n in 0..3 {
        apply(&mut crdt, &by(&format!("up{n}"), 1, "increment", MAX_INTEGER - 7, 1));
        apply(&mut crdt, &by(&format!("down{n}"), 1, "decrement", MAX_INTEGER - 7, MAX_INTEGER / 2));
    }
    crdt.collect(MAX_INTEGER / 4);
    assert_eq!(crdt.counter(), 7);
    assert_eq!(crdt.replicas(), 5, "two of those who added cannot be put together");
    check(&crdt);
    crdt.collect(MAX_INTEGER);
    assert_eq!(crdt.counter(), 7);
    check(&crdt);
}

/// An addition takes away what it names only once, however often it is named: nobody writes beyond the limit.
#[test]
fn naming_an_addition_often_makes_no_room() {
    let limits = CrdtLimits { max_bytes: 4_000, ..LIMITS() };
    let mut crdt = Crdt::new(CrdtKind::OrSet);
    let mut last = json!([]);
    let refused = (0..200).any(|n| {
        let node = format!("{n:0>100}");
        let dots = vec![last.clone(); 256];
        let dots = if n == 0 { json!([]) } else { json!(dots) };
        let add = json!({"type": "or-set", "nodeId": node, "counter": 1, "timestamp": 1, "op": "add", "value": 1, "dots": dots});
        last = json!([node, 1]);
        let op = Op::parse(&add.to_string(), &limits).unwrap();
        crdt.apply(&op, &limits).is_err()
    });
    assert!(refused, "{} bytes", crdt.size());
    assert!(crdt.size() <= limits.max_bytes);
    check(&crdt);
}

/// What is full can be emptied, also by somebody new.
#[test]
fn a_newcomer_can_remove_from_a_full_set() {
    let mut limits = LIMITS();
    let mut crdt = Crdt::new(CrdtKind::OrSet);
    let value = "x".repeat(200);
    apply(
        &mut crdt,
        &json!({"type": "or-set", "nodeId": "a".repeat(90), "counter": 1, "timestamp": 1, "op": "add", "value": value}),
    );
    limits.max_bytes = crdt.size();
    let remove = |dots: Value| json!({"type": "or-set", "nodeId": "b", "counter": 1, "timestamp": 1, "op": "remove", "value": value, "dots": dots});
    assert!(crdt.apply(&op(&remove(json!([]))), &limits).is_err(), "what removes nothing needs room");
    assert_eq!(crdt.apply(&op(&remove(json!([["a".repeat(90), 1]]))), &limits), Ok(Applied::New));
    assert!(crdt.size() <= limits.max_bytes);
}

/// Who has counted before takes no more room.
#[test]
fn a_full_counter_counts_on() {
    let mut crdt = Crdt::new(CrdtKind::PnCounter);
    let by = |node: &str, counter: u64, op: &str| json!({"type": "pn-counter", "nodeId": node, "counter": counter, "timestamp": 1, "op": op});
    apply(&mut crdt, &by("a", 1, "increment"));
    let limits = CrdtLimits { max_bytes: crdt.size(), ..LIMITS() };
    assert_eq!(crdt.apply(&op(&by("a", 2, "increment")), &limits), Ok(Applied::New));
    assert!(crdt.apply(&op(&by("a", 3, "decrement")), &limits).is_err());
    assert!(crdt.apply(&op(&by("b", 1, "increment")), &limits).is_err());
    assert!(crdt.size() <= limits.max_bytes);
}
