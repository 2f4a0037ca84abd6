//! Histories of three replicas for the tests: every operation in them is one that a replica would make.

mod hostile;
mod laws;
mod limits;
mod replica;
mod server;

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;

/// Names that sort differently as bytes and as UTF-16.
const NODES: [&str; 3] = ["a", "\u{fb33}", "😀\""];

/// What a replica does: hear of what another has, and then edit.
#[derive(Clone, Copy, Debug)]
struct Step {
    who: usize,
    from: usize,
    what: u8,
    with: usize,
    later: u64,
}

fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3usize, 0..3usize, 0..8u8, 0..4usize, 0..3u64);
    vec(step.prop_map(|(who, from, what, with, later)| Step { who, from, what, with, later }), 1..len)
}

fn kinds() -> impl Strategy<Value = CrdtKind> {
    proptest::sample::select(CrdtKind::ALL.to_vec())
}

/// The edit a step stands for.
fn edit(kind: CrdtKind, step: &Step) -> Edit {
    let (amount, removes) = ([1, 2, 10, 1 << 40][step.with], step.what < 2);
    let value = [json!({"b": 1.0, "a": [0.5]}), json!("é😀\n"), json!(1), Value::Null][step.with].clone();
    let key = ["", "k", "\u{fb33}", "😀"][step.with].to_owned();
    match kind {
        CrdtKind::PnCounter if removes => Edit::Decrement(amount),
        CrdtKind::GCounter | CrdtKind::PnCounter => Edit::Increment(amount),
        CrdtKind::LwwRegister => Edit::Set(value),
        CrdtKind::LwwMap if removes => Edit::Delete(key),
        CrdtKind::LwwMap => Edit::Put(key, json!([step.what, value])),
        CrdtKind::OrSet if removes => Edit::Remove(value),
        CrdtKind::GSet | CrdtKind::OrSet => Edit::Add(value),
    }
}

/// The operations of a history, in the order they were made.
fn history(kind: CrdtKind, steps: &[Step]) -> Vec<Op> {
    let limits = CrdtLimits::default();
    let mut replicas = NODES.map(|_| Crdt::new(kind));
    let (mut ops, mut heard): (Vec<Op>, [usize; 3]) = (Vec::new(), [0; 3]);
    for (now, step) in (1_000..).zip(steps) {
        let replica = &mut replicas[step.who];
        if step.from > 0 {
            for op in &ops[heard[step.who]..] {
                replica.apply(op, &limits).unwrap();
            }
            heard[step.who] = ops.len();
        }
        if let Some(op) = replica.compose(NODES[step.who], now / 3 + step.later, edit(kind, step), &limits).unwrap() {
            replica.apply(&op, &limits).unwrap();
            ops.push(op);
        }
    }
    ops
}

/// The state of whoever has seen these.
fn state<'a>(kind: CrdtKind, ops: impl IntoIterator<Item = &'a Op>) -> Crdt {
    let mut state = Crdt::new(kind);
    for op in ops {
        state.apply(op, &CrdtLimits::default()).unwrap();
        check(&state);
    }
    state
}

/// What holds of every state: it survives being written, and knows its size.
fn check(state: &Crdt) {
    let text = state.to_json();
    let again = Crdt::from_json(text.get(), &CrdtLimits::default()).unwrap().unwrap();
    assert_eq!(&again, state);
    assert_eq!(again.to_json().get(), text.get());
    assert!(state.size() >= text.get().len(), "{} for {}", state.size(), text.get());
    let canonical = Json::new(&serde_json::from_str(text.get()).unwrap(), &CrdtLimits::default()).unwrap();
    assert_eq!(canonical.get(), text.get(), "canonical");
}
