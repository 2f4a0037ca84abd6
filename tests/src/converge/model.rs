//! What must come of a set of operations, worked out from the definitions, without counters, clocks or merging.

use std::collections::{BTreeMap, BTreeSet};

use datasole_core::crdt::{Change, CrdtKind, Json, Op, Stamp};
use serde_json::{Value, json};

/// The value that whoever has seen exactly these operations must see.
pub(crate) fn value(kind: CrdtKind, ops: &[Op]) -> Value {
    match kind {
        CrdtKind::GCounter | CrdtKind::PnCounter => {
            let effect = |op: &Op| match op.change() {
                Change::Increment(by) => by.cast_signed(),
                Change::Decrement(by) => -by.cast_signed(),
                _ => 0,
            };
            json!(ops.iter().map(effect).sum::<i64>())
        }
        CrdtKind::LwwRegister => {
            let sets = ops.iter().filter_map(|op| match op.change() {
                Change::Set(value) => Some((op.stamp(), value)),
                _ => None,
            });
            sets.max().map_or(Value::Null, |(_, value)| value.to_value())
        }
        CrdtKind::LwwMap => {
            let mut last: BTreeMap<&str, (Stamp, Option<&Json>)> = BTreeMap::new();
            for op in ops {
                if let Change::Put(key, value) = op.change() {
                    let put = (op.stamp(), value.as_ref());
                    let entry = last.entry(key).or_insert_with(|| put.clone());
                    *entry = put.max(entry.clone());
                }
            }
            last.into_iter().filter_map(|(key, (_, value))| Some((key.to_owned(), value?.to_value()))).collect()
        }
        CrdtKind::GSet | CrdtKind::OrSet => {
            let replaced: BTreeSet<_> = ops
                .iter()
                .filter_map(|op| match op.change() {
                    Change::Add(value, dots) | Change::Remove(value, dots) => Some((value, dots)),
                    _ => None,
                })
                .flat_map(|(value, dots)| dots.iter().map(move |(node, counter)| (node.as_ref(), *counter, value)))
                .collect();
            let live: BTreeSet<_> = ops
                .iter()
                .filter_map(|op| if let Change::Add(value, _) = op.change() { Some((op, value)) } else { None })
                .filter(|(op, value)| kind == CrdtKind::GSet || !replaced.contains(&(op.node(), op.counter(), *value)))
                .map(|(_, value)| value)
                .collect();
            live.into_iter().map(Json::to_value).collect()
        }
    }
}
