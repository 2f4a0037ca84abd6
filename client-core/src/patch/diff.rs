//! Making a patch from two documents. Arrays are compared by content, so that an inserted row is one operation.
//!
//! Linear in the size of both documents, times the arrays that are in each other up to [`NESTED`], but for sorting an
//! array's elements by hash; nothing quadratic. The result is short rather than shortest, and never longer than replacing
//! the document.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Operation, Patch, PatchLimits, Pointer};
use crate::tree::{Node, Object, Tree};

/// A patch that turns `old` into `new`; empty when they are equal, and [`Patch::whole`] when that is shorter, or when the operations
/// would be more than [`PatchLimits`] let a receiver apply.
///
/// ```
/// use datasole_core::patch::diff;
/// use serde_json::json;
/// let patch = diff(&json!([{"id": 1}, {"id": 2}]).into(), &json!([{"id": 0}, {"id": 1}, {"id": 2}]).into());
/// assert_eq!(patch.to_json(), r#"[{"op":"add","path":"/0","value":{"id":0}}]"#);
/// ```
pub fn diff(old: &Tree, new: &Tree) -> Patch {
    let mut writer = Writer::default();
    writer.value(old, new);
    writer.into_patch().unwrap_or_else(|| whole(new.clone()))
}

/// The patch that replaces the document.
pub(super) fn whole(value: Tree) -> Patch {
    Patch::from_operations(vec![Operation::Replace { path: Pointer::default(), value }])
}

/// Array elements that a receiver shifts in the time it takes to read one byte of a value.
const SHIFTED_PER_BYTE: usize = 16;

/// Arrays in each other whose elements are compared one by one; those further in are compared as wholes.
pub(super) const NESTED: usize = 16;

/// Every method returns what its operations cost: about how many bytes of text they have, and the work of shifting array
/// elements measured in bytes, so that replacing an array wins over taking very many elements out of it.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) path: Pointer,
    pub(super) operations: Vec<Operation>,
    /// How many arrays are being compared that are in each other.
    pub(super) arrays: usize,
    /// Array elements that a receiver of the operations shifts.
    shifted: usize,
}

/// How far a [`Writer`] has come.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pub(super) operations: usize,
    shifted: usize,
}

impl Writer {
    /// The operations, unless a receiver would refuse them.
    pub(super) fn into_patch(self) -> Option<Patch> {
        let limits = PatchLimits::default();
        let fits = |operation: &Operation| match operation {
            Operation::Add { path, value } | Operation::Replace { path, value } => limits.permit(path, value),
            _ => true,
        };
        let is_permitted = self.operations.len() <= limits.max_operations
            && self.shifted <= limits.max_shifted
            && self.operations.iter().all(fits);
        is_permitted.then(|| Patch::from_operations(self.operations))
    }

    /// The operations so far.
    pub(super) fn mark(&self) -> Mark {
        Mark { operations: self.operations.len(), shifted: self.shifted }
    }

    /// Forgets the operations since.
    pub(super) fn back(&mut self, mark: Mark) {
        self.operations.truncate(mark.operations);
        self.shifted = mark.shifted;
    }

    fn value(&mut self, old: &Tree, new: &Tree) -> usize {
        let before = self.mark();
        let cost = match (&old.0, &new.0) {
            (Node::Object(old), Node::Object(new)) => self.members(old, new),
            (Node::Array(old), Node::Array(elements)) if self.arrays < NESTED => {
                // As many operations at least are not written where replacing is cheaper than they.
                let least = old.len().abs_diff(elements.len()).saturating_mul(self.overhead());
                if !longer_than(new, least.saturating_sub(self.overhead())) {
                    return self.replace(new);
                }
                self.arrays += 1;
                let cost = self.elements(old, elements);
                self.arrays -= 1;
                cost
            }
            _ if old == new => 0,
            _ => return self.replace(new),
        };
        if self.operations.len() > before.operations && !longer_than(new, cost.saturating_sub(self.overhead())) {
            self.back(before);
            return self.replace(new);
        }
        cost
    }

    fn members(&mut self, old: &Object, new: &Object) -> usize {
        let mut cost: usize = 0;
        for (name, old) in old.iter() {
            let name = name.as_str();
            self.path.push(name);
            let changed = match new.get(name) {
                Some(new) => self.value(old, new),
                None => self.remove(),
            };
            cost = cost.saturating_add(changed);
            self.path.pop();
        }
        for (name, new) in new.iter().map(|(name, new)| (name.as_str(), new)) {
            if old.get(name).is_some() {
                continue;
            }
            self.path.push(name);
            cost = cost.saturating_add(self.add(new));
            self.path.pop();
        }
        cost
    }

    /// Works from the front: what is before the current index is already as in `new`, so that indices of `new` are
    /// right when the operations are applied one after the other.
    fn elements(&mut self, old: &[Tree], new: &[Tree]) -> usize {
        let len = old.len();
        let (old, new, front) = trim(old, new);
        self.middle(old, new, front, len)
    }

    /// The same for what is behind `front` elements of `len` that stay, without a common beginning or end.
    pub(super) fn middle(&mut self, old: &[Tree], new: &[Tree], front: usize, len: usize) -> usize {
        let mut cost: usize = 0;
        let (mut i, mut j) = (0, 0);
        for (anchor_i, anchor_j) in anchors(old, new).into_iter().chain([(old.len(), new.len())]) {
            let (gap_old, gap_new) = (&old[i..anchor_i], &new[j..anchor_j]);
            cost = cost.saturating_add(self.gap(gap_old, gap_new, front + j, len - front - anchor_i));
            (i, j) = (anchor_i + 1, anchor_j + 1);
        }
        cost
    }

    /// Elements between two that stay, of which `behind` are behind them: paired by index; what is left over on one side is removed,
    /// the last first, or added, so that only those behind are shifted.
    fn gap(&mut self, old: &[Tree], new: &[Tree], at: usize, behind: usize) -> usize {
        let behind = behind + old.len();
        let (old, new, skipped) = trim(old, new);
        let (at, behind) = (at + skipped, behind - skipped - old.len());
        let paired = old.len().min(new.len());
        // Removed elements count as shifted.
        let shifted = old.len().abs_diff(new.len()).saturating_mul(behind + 1);
        self.shifted = self.shifted.saturating_add(shifted);
        let mut cost = shifted / SHIFTED_PER_BYTE;
        for (offset, (old, new)) in old.iter().zip(new).enumerate() {
            self.path.push(&(at + offset).to_string());
            cost = cost.saturating_add(self.value(old, new));
            self.path.pop();
        }
        for offset in (paired..old.len()).rev() {
            self.path.push(&(at + offset).to_string());
            cost = cost.saturating_add(self.remove());
            self.path.pop();
        }
        for (offset, new) in new.iter().enumerate().skip(paired) {
            self.path.push(&(at + offset).to_string());
            cost = cost.saturating_add(self.add(new));
            self.path.pop();
        }
        cost
    }

    fn add(&mut self, new: &Tree) -> usize {
        self.operations.push(Operation::Add { path: self.path.clone(), value: new.clone() });
        self.overhead() + text_length(new)
    }

    fn replace(&mut self, new: &Tree) -> usize {
        self.operations.push(Operation::Replace { path: self.path.clone(), value: new.clone() });
        self.overhead() + text_length(new)
    }

    pub(super) fn remove(&mut self) -> usize {
        self.operations.push(Operation::Remove { path: self.path.clone() });
        self.overhead()
    }

    /// An operation's text beside its value.
    pub(super) fn overhead(&self) -> usize {
        r#"{"op":"replace","path":"","value":},"#.len() + self.path.as_str().len()
    }
}

/// What remains of both without their common beginning and end, and how long that beginning is.
fn trim<'a>(old: &'a [Tree], new: &'a [Tree]) -> (&'a [Tree], &'a [Tree], usize) {
    let front = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[front..], &new[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    (&old[..old.len() - back], &new[..new.len() - back], front)
}

/// Pairs of indices of equal elements that stay where they are relative to each other (a patience diff): elements that
/// occur equally often on both sides are matched in order, and of the matches the longest increasing sequence is kept.
fn anchors(old: &[Tree], new: &[Tree]) -> Vec<(usize, usize)> {
    if old.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let (by_hash_old, by_hash_new) = (sorted_by_hash(old), sorted_by_hash(new));
    let mut matches = Vec::new();
    let mut candidates = by_hash_new.chunk_by(same_hash).peekable();
    for group in by_hash_old.chunk_by(same_hash) {
        while candidates.next_if(|candidate| candidate[0].0 < group[0].0).is_some() {}
        let Some(candidate) = candidates.next_if(|candidate| candidate[0].0 == group[0].0) else { continue };
        if candidate.len() == group.len() {
            matches.extend(group.iter().zip(candidate).map(|(&(_, i), &(_, j))| (i, j)));
        }
    }
    // Equal hashes do not prove equal elements.
    matches.retain(|&(i, j)| old[i] == new[j]);
    matches.sort_unstable();
    longest_increasing(&matches)
}

fn sorted_by_hash(elements: &[Tree]) -> Vec<(u64, usize)> {
    let mut hashes: Vec<_> = elements
        .iter()
        .enumerate()
        .map(|(index, element)| {
            let mut hasher = DefaultHasher::new();
            element.hash(&mut hasher);
            (hasher.finish(), index)
        })
        .collect();
    hashes.sort_unstable();
    hashes
}

fn same_hash(a: &(u64, usize), b: &(u64, usize)) -> bool {
    a.0 == b.0
}

/// The longest subsequence whose second members increase; first members increase already.
fn longest_increasing(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // `tails[n]`: the pair with the smallest second member that ends a sequence of n + 1.
    let mut tails: Vec<usize> = Vec::new();
    let mut previous = vec![None; pairs.len()];
    for (at, &(_, j)) in pairs.iter().enumerate() {
        let length = tails.partition_point(|&tail| pairs[tail].1 < j);
        previous[at] = length.checked_sub(1).map(|shorter| tails[shorter]);
        if length == tails.len() {
            tails.push(at);
        } else {
            tails[length] = at;
        }
    }
    let mut sequence: Vec<_> =
        std::iter::successors(tails.last().copied(), |&at| previous[at]).map(|at| pairs[at]).collect();
    sequence.reverse();
    sequence
}

/// About the length of a value's text; escapes are not counted.
pub(crate) fn text_length(value: &Tree) -> usize {
    usize::MAX - remaining(value, usize::MAX).unwrap_or(0)
}

/// Whether a value's text has more than `budget` bytes, without measuring much more of it.
fn longer_than(value: &Tree, budget: usize) -> bool {
    remaining(value, budget).is_none()
}

fn remaining(tree: &Tree, budget: usize) -> Option<usize> {
    match &tree.0 {
        Node::Null | Node::Bool(true) => budget.checked_sub(4),
        Node::Bool(false) => budget.checked_sub(5),
        Node::Unsigned(integer) => budget.checked_sub(digits(*integer)),
        Node::Negative(integer) => budget.checked_sub(digits(integer.unsigned_abs()) + 1),
        Node::Float(_) => budget.checked_sub(18),
        Node::Text(text) => budget.checked_sub(text.len() + 2),
        Node::Array(elements) => elements
            .iter()
            .try_fold(budget.checked_sub(2)?, |budget, element| remaining(element, budget)?.checked_sub(1)),
        Node::Object(object) => object.iter().try_fold(budget.checked_sub(2)?, |budget, (name, member)| {
            remaining(member, budget)?.checked_sub(name.len() + 4)
        }),
    }
}

fn digits(integer: u64) -> usize {
    integer.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::patch::{apply, diff_text};

    fn between(old: &Value, new: &Value) -> Patch {
        diff(&old.into(), &new.into())
    }

    fn check(old: &Value, new: &Value) -> Vec<Value> {
        let patch = between(old, new);
        let mut document = Tree::from(old);
        apply(&mut document, &patch, &PatchLimits::default()).unwrap();
        assert!(document == *new, "the patch leads elsewhere: {}", patch.to_json());
        patch.operations().iter().map(|operation| serde_json::to_value(operation).unwrap()).collect()
    }

    fn rows(count: usize) -> Vec<Value> {
        (0..count).map(|id| json!({"id": id, "name": format!("row {id}"), "done": false})).collect()
    }

    #[test]
    fn equal_documents_need_nothing() {
        for value in [json!(null), json!([1, {"a": []}]), json!({"a": {"b": [1.5, "x"]}})] {
            assert!(check(&value, &value).is_empty());
        }
    }

    #[test]
    fn members_are_compared_one_by_one() {
        let operations = check(
            &json!({"a/b": {"x": 1, "y": rows(2)}, "gone": 1, "m~n": rows(2), "kind": []}),
            &json!({"a/b": {"x": 2, "y": rows(2)}, "m~n": rows(2), "kind": {}, "": null}),
        );
        assert_eq!(
            operations,
            [
                json!({"op": "replace", "path": "/a~1b/x", "value": 2}),
                json!({"op": "remove", "path": "/gone"}),
                json!({"op": "replace", "path": "/kind", "value": {}}),
                json!({"op": "add", "path": "/", "value": null}),
            ]
        );
    }

    #[test]
    fn an_edited_row_of_thousands_is_one_operation() {
        let old = json!({ "rows": rows(5_000) });
        for at in [0, 2_500, 4_999] {
            let mut new = old.clone();
            new["rows"][at]["done"] = json!(true);
            let path = format!("/rows/{at}/done");
            assert_eq!(check(&old, &new), [json!({"op": "replace", "path": path, "value": true})]);
        }
    }

    #[test]
    fn inserted_and_removed_rows_are_one_operation_each() {
        let old = rows(5_000);
        let extra = json!({"id": "new"});
        for at in [0, 2_500, 5_000] {
            let mut new = old.clone();
            new.insert(at, extra.clone());
            let (old, new) = (Value::from(old.clone()), Value::from(new));
            assert_eq!(check(&old, &new), [json!({"op": "add", "path": format!("/{at}"), "value": extra})]);
            assert_eq!(check(&new, &old), [json!({"op": "remove", "path": format!("/{at}")})]);
        }
        let mut new = old.clone();
        for at in [4_000, 1_000, 7] {
            new.insert(at, extra.clone());
        }
        new.remove(3_000);
        new[2_000]["done"] = json!(true);
        assert_eq!(check(&old.into(), &new.into()).len(), 5);
    }

    #[test]
    fn a_moved_row_is_two_operations() {
        let old = rows(1_000);
        for (from, to) in [(3, 900), (900, 3), (0, 999), (999, 0), (5, 6)] {
            let mut new = old.clone();
            let row = new.remove(from);
            new.insert(to, row);
            assert_eq!(check(&old.clone().into(), &new.into()).len(), 2, "{from} to {to}");
        }
    }

    #[test]
    fn rows_that_are_all_alike_are_followed_too() {
        let old = vec![json!({"n": 0}); 1_000];
        let mut new = old.clone();
        new.insert(10, json!({"n": 1}));
        new.insert(900, json!({"n": 2}));
        assert_eq!(check(&old.into(), &new.into()).len(), 2);
    }

    #[test]
    fn a_patch_is_never_longer_than_replacing() {
        let old = Value::from((0..1_000).collect::<Vec<_>>());
        let new = Value::from((0..1_000).rev().collect::<Vec<_>>());
        assert_eq!(check(&old, &new), [json!({"op": "replace", "path": "", "value": new})]);
        let (old, new) = (json!({"keep": 1, "list": old}), json!({"keep": 1, "list": new}));
        assert_eq!(check(&old, &new), [json!({"op": "replace", "path": "/list", "value": new["list"]})]);
        assert_eq!(between(&old, &new).whole(), None);
        assert_eq!(between(&json!([1, 2]), &json!(null)).whole(), Some(&Tree::default()));
        assert_eq!(check(&json!({"a": 1}), &json!({})), [json!({"op": "replace", "path": "", "value": {}})]);
    }

    #[test]
    fn an_array_is_replaced_rather_than_picked_to_pieces() {
        // Every third element goes: short operations, but each shifts what is behind it.
        let old: Vec<Value> = (0..6_000).map(|id| json!(format!("{id:040}"))).collect();
        let new: Vec<Value> = old.iter().enumerate().filter(|(at, _)| at % 3 > 0).map(|(_, row)| row.clone()).collect();
        assert!(between(&old.clone().into(), &new.clone().into()).whole().is_some());
        let (old, new) = (&old[..300], &new[..200]);
        assert_eq!(check(&old.into(), &new.into()).len(), 100, "few elements are worth it");
    }

    #[test]
    fn elements_that_end_an_array_are_removed_from_its_end() {
        // The first of them removed first, they would shift 112 million elements, which a receiver refuses.
        let old: Vec<Value> = (0..35_000).map(|id| json!(format!("{id:050}"))).collect();
        let new = old[..20_000].to_vec();
        let operations = check(&old.into(), &new.into());
        assert_eq!(operations.len(), 15_000);
        assert_eq!((&operations[0]["path"], &operations[14_999]["path"]), (&json!("/34999"), &json!("/20000")));
    }

    #[test]
    fn what_a_receiver_would_refuse_is_replaced() {
        let limits = PatchLimits::default();
        let old = |count: usize| json!({"rows": vec![json!({"n": 0, "text": "-".repeat(80)}); count], "title": "x"});
        let change = |mut value: Value, count: usize| {
            value["rows"].as_array_mut().unwrap().iter_mut().take(count).for_each(|row| row["n"] = json!(1));
            value
        };
        for (changed, is_whole) in
            [(limits.max_operations - 1, false), (limits.max_operations, false), (limits.max_operations + 1, true)]
        {
            let old = old(limits.max_operations + 2);
            let new = change(old.clone(), changed);
            check(&old, &new);
            assert_eq!(between(&old, &new).whole().is_some(), is_whole, "{changed} changes");
            let patch = diff_text(&Tree::from(&old), &new.to_string()).unwrap();
            assert_eq!(patch.whole().is_some(), is_whole, "{changed} changes, as text");
        }
        // The new value is deeper than a patch may make a document.
        for (levels, is_whole) in [(limits.max_depth - 1, false), (limits.max_depth, true)] {
            let deep = (1..levels).fold(json!([]), |inner, _| json!([inner]));
            let (old, new) = (json!({"keep": "-".repeat(900), "a": 1}), json!({"keep": "-".repeat(900), "a": deep}));
            assert_eq!(between(&old, &new).whole().is_some(), is_whole, "{levels} levels");
            let patch = diff_text(&Tree::from(&old), &new.to_string()).unwrap();
            assert_eq!(patch.whole().is_some(), is_whole, "{levels} levels, as text");
            if !is_whole {
                check(&old, &new);
            }
        }
        // A row comes in front of each of many, which shifts all that are behind.
        let long = |n: usize| json!(format!("{n:0400}"));
        let old: Vec<Value> = (0..30_000).map(long).collect();
        for (every, is_whole) in [(5, false), (4, true)] {
            let added = |n: usize| n.is_multiple_of(every).then(|| json!(n));
            let new: Vec<Value> = (0..30_000).flat_map(|n| added(n).into_iter().chain([long(n)])).collect();
            let (old, new) = (Value::from(old.clone()), Value::from(new));
            check(&old, &new);
            assert_eq!(between(&old, &new).whole().is_some(), is_whole, "one of {every}");
            let patch = diff_text(&Tree::from(&old), &new.to_string()).unwrap();
            assert_eq!(patch.whole().is_some(), is_whole, "one of {every}, as text");
        }
    }

    #[test]
    fn lengths_are_close_to_the_text() {
        for value in [json!([]), json!({"a": [1, -10, 0, true, false, null], "b": "text"}), json!(["", "", 123_456])] {
            let exact = value.to_string().len();
            let value = Tree::from(value);
            assert!(
                (exact..=exact + 2 * 3).contains(&text_length(&value)),
                "{value}: {} for {exact}",
                text_length(&value)
            );
            assert!(longer_than(&value, exact - 1) && !longer_than(&value, text_length(&value)));
        }
    }
}
