//! Applying a patch: all of it or nothing, at the cost of what it touches.

use std::{borrow::Cow, mem};

use super::{
    Operation, Patch, PatchError, PatchLimits, Pointer, Refusal,
    error::excerpt,
    slot::{Slot, slot, target},
    undo::{Inverse, Undo},
};
use crate::tree::{Node, Tree};

/// What a value costs beside its text when it is copied; bytes.
const NODE: usize = 32;
/// Array elements that are shifted in the time that a look at a value takes.
const LOOK: usize = 8;

/// Applies `patch` to `document`.
///
/// # Errors
///
/// [`PatchError`]; the document is then unchanged.
pub fn apply(document: &mut Tree, patch: &Patch, limits: &PatchLimits) -> Result<(), PatchError> {
    apply_undoable(document, patch, limits).map(drop)
}

/// Applies `patch` to `document` and keeps what it takes to go back: [`Undo::revert`].
///
/// # Errors
///
/// [`PatchError`]; the document is then unchanged.
pub fn apply_undoable(document: &mut Tree, patch: &Patch, limits: &PatchLimits) -> Result<Undo, PatchError> {
    if patch.operations().len() > limits.max_operations {
        return Err(PatchError::TooManyOperations { limit: limits.max_operations });
    }
    let mut transaction = Transaction::default();
    for operation in patch.operations() {
        if let Err(error) = transaction.apply(document, operation, limits) {
            transaction.into_undo().revert(document);
            return Err(error);
        }
    }
    Ok(transaction.into_undo())
}

/// Operations that are applied one after the other, and that the limits of one patch bound together.
#[derive(Debug, Default)]
pub struct Transaction {
    operations: usize,
    copied: usize,
    shifted: usize,
    undo: Undo,
}

impl Transaction {
    /// Applies the next operation.
    ///
    /// # Errors
    ///
    /// [`PatchError`]; the document is then as the operations before left it, and the transaction goes on from there.
    pub fn apply(
        &mut self,
        document: &mut Tree,
        operation: &Operation,
        limits: &PatchLimits,
    ) -> Result<(), PatchError> {
        if self.operations >= limits.max_operations {
            return Err(PatchError::TooManyOperations { limit: limits.max_operations });
        }
        let mut work = Work { limits, copied: self.copied, shifted: self.shifted };
        match work.perform(document, operation) {
            Ok(inverse) => self.undo.log.extend(inverse),
            Err((pointer, reason)) => {
                let path = excerpt(pointer.as_str());
                return Err(PatchError::Refused { operation: self.operations, path, reason });
            }
        }
        (self.copied, self.shifted) = (work.copied, work.shifted);
        self.operations += 1;
        Ok(())
    }

    /// Keeps what was applied, and what it takes to go back.
    pub fn into_undo(self) -> Undo {
        self.undo
    }
}

/// One patch being applied, and what its operations have cost together.
struct Work<'l> {
    limits: &'l PatchLimits,
    copied: usize,
    shifted: usize,
}

impl Work<'_> {
    fn perform<'p>(
        &mut self,
        document: &mut Tree,
        operation: &'p Operation,
    ) -> Result<Option<Inverse>, (&'p Pointer, Refusal)> {
        let path = operation.path();
        match operation {
            Operation::Add { value, .. } => {
                self.bound_depth(path, value).and_then(|()| self.add(document, path, Cow::Borrowed(value)))
            }
            Operation::Remove { .. } => {
                self.take(document, path).map(|value| Some(Inverse::Put { at: path.clone(), value }))
            }
            Operation::Replace { value, .. } => {
                self.bound_depth(path, value).and_then(|()| target(document, path)).map(|target| {
                    Some(Inverse::Replace { at: path.clone(), value: mem::replace(target, own(value, target)) })
                })
            }
            Operation::Move { from, .. } => return self.relocate(document, from, path),
            Operation::Copy { from, .. } => {
                let value = self.copy(document, from).map_err(|reason| (from, reason))?;
                self.bound_depth(path, &value).and_then(|()| self.add(document, path, Cow::Owned(value)))
            }
            Operation::Test { value, .. } => target(document, path)
                .and_then(|found| if same(found, value) { Ok(None) } else { Err(Refusal::TestFailed) }),
        }
        .map_err(|reason| (path, reason))
    }

    fn add(&mut self, document: &mut Tree, path: &Pointer, value: Cow<'_, Tree>) -> Result<Option<Inverse>, Refusal> {
        let slot = slot(document, path)?;
        self.shift(&slot)?;
        let value = match value {
            Cow::Borrowed(value) => slot.like().map_or_else(|| value.clone(), |like| own(value, like)),
            Cow::Owned(value) => value,
        };
        let at = slot.resolved(path);
        Ok(Some(match slot.put(value) {
            Some(value) => Inverse::Put { at, value },
            None => Inverse::Take { at },
        }))
    }

    fn take(&mut self, document: &mut Tree, path: &Pointer) -> Result<Tree, Refusal> {
        let slot = slot(document, path)?;
        self.shift(&slot)?;
        slot.take()
    }

    fn copy(&mut self, document: &mut Tree, from: &Pointer) -> Result<Tree, Refusal> {
        let limit = self.limits.max_copied_bytes;
        let source = target(document, from)?;
        self.copied = count(source, self.copied, limit).ok_or(Refusal::TooMuchCopied { limit })?;
        Ok(source.clone())
    }

    fn relocate<'p>(
        &mut self,
        document: &mut Tree,
        from: &'p Pointer,
        path: &'p Pointer,
    ) -> Result<Option<Inverse>, (&'p Pointer, Refusal)> {
        if from.is_ancestor_of(path) {
            return Err((path, Refusal::MoveIntoSelf));
        }
        if path.depth() > from.depth() {
            let source = target(document, from).map_err(|reason| (from, reason))?;
            self.bound_deepening(path, source).map_err(|reason| (path, reason))?;
        }
        let value = self.take(document, from).map_err(|reason| (from, reason))?;
        match slot(document, path).and_then(|slot| self.shift(&slot).map(|()| slot)) {
            Ok(slot) => {
                let at = slot.resolved(path);
                Ok(Some(Inverse::MoveBack { at, displaced: slot.put(value), to: from.clone() }))
            }
            Err(reason) => {
                Inverse::Put { at: from.clone(), value }.perform(document);
                Err((path, reason))
            }
        }
    }

    /// Refuses what would nest more containers than allowed once `value` is at `path`.
    fn bound_depth(&self, path: &Pointer, value: &Tree) -> Result<(), Refusal> {
        // A patch has brought it, or its copy was counted.
        let mut looks = usize::MAX;
        self.look(path, value, &mut looks)
    }

    /// The same for a value of the document, which is counted: it may be large, and go to and fro.
    fn bound_deepening(&mut self, path: &Pointer, value: &Tree) -> Result<(), Refusal> {
        let all = self.limits.max_shifted.saturating_sub(self.shifted) / LOOK;
        let mut left = all;
        self.look(path, value, &mut left)?;
        self.shifted += (all - left) * LOOK;
        Ok(())
    }

    fn look(&self, path: &Pointer, value: &Tree, left: &mut usize) -> Result<(), Refusal> {
        let (limit, shifted) = (self.limits.max_depth, self.limits.max_shifted);
        let levels = limit.checked_sub(path.depth()).ok_or(Refusal::TooDeep { limit })?;
        match is_within(value, levels, left) {
            Some(true) => Ok(()),
            Some(false) => Err(Refusal::TooDeep { limit }),
            None => Err(Refusal::TooMuchShifted { limit: shifted }),
        }
    }

    /// Counts the elements that make room or close up when something comes into `slot` or leaves it.
    fn shift(&mut self, slot: &Slot<'_, '_>) -> Result<(), Refusal> {
        let limit = self.limits.max_shifted;
        if let Slot::Element(elements, at) = slot {
            self.shifted = self.shifted.saturating_add(elements.len() - at);
        }
        if self.shifted > limit { Err(Refusal::TooMuchShifted { limit }) } else { Ok(()) }
    }
}

/// A copy that shares the names of `like` where both have the same.
fn own(value: &Tree, like: &Tree) -> Tree {
    let mut own = value.clone();
    own.adopt(like);
    own
}

/// Whether a tree nests no more than so many containers; `None` where `left` looks do not tell.
pub(super) fn is_within(tree: &Tree, levels: usize, left: &mut usize) -> Option<bool> {
    *left = left.checked_sub(1)?;
    match &tree.0 {
        Node::Array(_) | Node::Object(_) if levels == 0 => Some(false),
        Node::Array(elements) => are_within(elements.iter(), levels - 1, left),
        Node::Object(object) => are_within(object.iter().map(|(_, member)| member), levels - 1, left),
        _ => Some(true),
    }
}

fn are_within<'t>(trees: impl Iterator<Item = &'t Tree>, levels: usize, left: &mut usize) -> Option<bool> {
    for tree in trees {
        if !is_within(tree, levels, left)? {
            return Some(false);
        }
    }
    Some(true)
}

/// `counted` and the size of a tree, unless that exceeds `limit`: then it stops counting.
fn count(tree: &Tree, counted: usize, limit: usize) -> Option<usize> {
    let text = if let Node::Text(text) = &tree.0 { text.len() } else { 0 };
    let counted = counted.checked_add(NODE)?.checked_add(text)?;
    if counted > limit {
        return None;
    }
    match &tree.0 {
        Node::Array(elements) => elements.iter().try_fold(counted, |counted, element| count(element, counted, limit)),
        Node::Object(object) => object
            .iter()
            .try_fold(counted, |counted, (name, member)| count(member, counted.checked_add(name.len())?, limit)),
        _ => Some(counted),
    }
}

/// Equality as RFC 6902 defines it: numbers by value, members in any order.
fn same(a: &Tree, b: &Tree) -> bool {
    match (&a.0, &b.0) {
        (Node::Array(a), Node::Array(b)) => a.len() == b.len() && a.iter().zip(&**b).all(|(a, b)| same(a, b)),
        (Node::Object(a), Node::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && same(a.1, b.1))
        }
        (Node::Float(float), Node::Unsigned(_) | Node::Negative(_)) => is_integer(*float, b),
        (Node::Unsigned(_) | Node::Negative(_), Node::Float(float)) => is_integer(*float, a),
        _ => a == b,
    }
}

/// Exact: converting the integer to a float would make neighbours equal.
fn is_integer(float: f64, tree: &Tree) -> bool {
    float.fract() == 0.0
        && match tree.0 {
            Node::Unsigned(integer) => float as i128 == i128::from(integer),
            Node::Negative(integer) => float as i128 == i128::from(integer),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(document: Value, patch: Value, limits: &PatchLimits) -> Result<Value, PatchError> {
        let patch = Patch::parse(&patch.to_string(), &PatchLimits::default())?;
        let mut changed = Tree::from(&document);
        match apply_undoable(&mut changed, &patch, limits) {
            Ok(undo) => {
                let result = Value::from(&changed);
                undo.revert(&mut changed);
                assert_eq!(changed, document, "revert restores");
                Ok(result)
            }
            Err(error) => {
                assert_eq!(changed, document, "unchanged on error");
                Err(error)
            }
        }
    }

    fn refusal(document: Value, patch: Value, limits: &PatchLimits) -> Option<Refusal> {
        match check(document, patch, limits) {
            Err(PatchError::Refused { reason, .. }) => Some(reason),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }

    /// `levels` arrays in each other.
    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn errors_say_which_operation_and_where() {
        let patch = json!([
            {"op": "add", "path": "/b", "value": 2},
            {"op": "move", "from": "/b", "path": "/c"},
            {"op": "remove", "path": "/a/7"},
        ]);
        let error = check(json!({"a": [1]}), patch, &PatchLimits::default()).unwrap_err();
        assert_eq!(error, PatchError::Refused { operation: 2, path: "/a/7".into(), reason: Refusal::Missing });
        assert_eq!(error.to_string(), r#"operation 2 at "/a/7": does not exist"#);
    }

    #[test]
    fn refusals_tell_apart() {
        for (operation, reason) in [
            (json!({"op": "remove", "path": ""}), Refusal::RemoveRoot),
            (json!({"op": "move", "from": "", "path": ""}), Refusal::RemoveRoot),
            (json!({"op": "move", "from": "", "path": "/x"}), Refusal::MoveIntoSelf),
            (json!({"op": "move", "from": "/a", "path": "/a/0"}), Refusal::MoveIntoSelf),
            (json!({"op": "test", "path": "/a", "value": [2]}), Refusal::TestFailed),
            (json!({"op": "test", "path": "/z", "value": null}), Refusal::Missing),
            (json!({"op": "replace", "path": "/a/01", "value": 1}), Refusal::BadIndex),
            (json!({"op": "remove", "path": "/a/-"}), Refusal::Missing),
            (json!({"op": "add", "path": "/a/2", "value": 1}), Refusal::Missing),
            (json!({"op": "add", "path": "/a/0/x", "value": 1}), Refusal::Missing),
            (json!({"op": "copy", "from": "/a/-", "path": "/x"}), Refusal::BadIndex),
        ] {
            let shown = operation.to_string();
            assert_eq!(
                refusal(json!({"a": [1]}), json!([operation]), &PatchLimits::default()),
                Some(reason),
                "{shown}"
            );
        }
    }

    /// In an array the moved element takes the place of its parent: on the way back the target lies inside the source.
    #[test]
    fn an_element_moved_into_its_parents_place_can_go_back() {
        let patch = json!([{"op": "move", "from": "/0/0", "path": "/0"}, {"op": "add", "path": "/-", "value": 3}]);
        let result = check(json!([[1, 2]]), patch, &PatchLimits::default()).unwrap();
        assert_eq!(result, json!([1, [2], 3]));
        let patch = json!([{"op": "move", "from": "/a/b", "path": "/a"}]);
        assert_eq!(check(json!({"a": {"b": 1}}), patch, &PatchLimits::default()).unwrap(), json!({"a": 1}));
        let patch = json!([{"op": "move", "from": "/a/b", "path": ""}]);
        assert_eq!(check(json!({"a": {"b": 1}}), patch, &PatchLimits::default()).unwrap(), json!(1));
    }

    #[test]
    fn a_move_that_finds_no_place_puts_its_value_back() {
        for path in ["/z/y", "/a/9", "/a/x"] {
            let patch = json!([{"op": "move", "from": "/a/1", "path": path}]);
            assert!(check(json!({"a": [1, 2, 3]}), patch, &PatchLimits::default()).is_err(), "{path}");
        }
    }

    #[test]
    fn operation_limit_holds_below_at_and_above() {
        for (operations, fits) in [(2, true), (3, true), (4, false)] {
            let limits = PatchLimits { max_operations: 3, ..PatchLimits::default() };
            let patch = Value::from(vec![json!({"op": "test", "path": "", "value": 1}); operations]);
            assert_eq!(Patch::parse(&patch.to_string(), &limits).is_ok(), fits, "parsing {operations}");
            assert_eq!(check(json!(1), patch, &limits).is_ok(), fits, "applying {operations}");
        }
    }

    #[test]
    fn depth_limit_holds_below_at_and_above() {
        let limits = PatchLimits { max_depth: 5, ..PatchLimits::default() };
        for (levels, fits) in [(4, true), (5, true), (6, false)] {
            let outcome = |document, operation| refusal(document, json!([operation]), &limits);
            let expected = (!fits).then_some(Refusal::TooDeep { limit: 5 });
            let inner = nested(levels - 1);
            for op in ["add", "replace"] {
                assert_eq!(outcome(json!(0), json!({"op": op, "path": "", "value": nested(levels)})), expected);
                assert_eq!(outcome(json!([0]), json!({"op": op, "path": "/0", "value": inner})), expected);
            }
            // Deeper than what is already there, although the moved value itself is not.
            for op in ["move", "copy"] {
                let document = json!({"a": nested(levels - 2), "b": {}});
                assert_eq!(outcome(document, json!({"op": op, "from": "/a", "path": "/b/c"})), expected, "{op}");
            }
        }
    }

    #[test]
    fn a_document_that_is_too_deep_can_be_made_shallower() {
        let limits = PatchLimits { max_depth: 5, ..PatchLimits::default() };
        let result = check(nested(9), json!([{"op": "move", "from": "/0/0/0/0/0", "path": "/0"}]), &limits);
        assert_eq!(result.map(|value| value.to_string()).unwrap(), "[[[[[1]]]],[[[[]]]]]");
        let result = check(nested(9), json!([{"op": "remove", "path": "/0/0/0/0/0/0/0"}]), &limits);
        assert!(result.is_ok());
    }

    #[test]
    fn copy_limit_holds_below_at_and_above() {
        // A string of 100 bytes and a member name of 1, in an object: 100 + 1 + 2 * 32.
        let document = json!({"a": {"b": "x".repeat(100)}});
        for (limit, fits) in [(2 * 165 - 1, false), (2 * 165, true), (2 * 165 + 1, true)] {
            let limits = PatchLimits { max_copied_bytes: limit, ..PatchLimits::default() };
            let patch = json!([{"op": "copy", "from": "/a", "path": "/c"}, {"op": "copy", "from": "/a", "path": "/d"}]);
            let expected = (!fits).then_some(Refusal::TooMuchCopied { limit });
            assert_eq!(refusal(document.clone(), patch, &limits), expected, "{limit}");
        }
    }

    #[test]
    fn shift_limit_holds_below_at_and_above() {
        // Three elements behind the one that comes, four behind and with the one that goes, two, none.
        let patch = json!([
            {"op": "add", "path": "/0", "value": 0},
            {"op": "remove", "path": "/0"},
            {"op": "move", "from": "/1", "path": "/-"},
        ]);
        for (limit, fits) in [(8, false), (9, true), (10, true)] {
            let limits = PatchLimits { max_shifted: limit, ..PatchLimits::default() };
            let expected = (!fits).then_some(Refusal::TooMuchShifted { limit });
            assert_eq!(refusal(json!([1, 2, 3]), patch.clone(), &limits), expected, "{limit}");
        }
        let patch = json!([{"op": "move", "from": "/2", "path": "/0"}]);
        for (limit, fits) in [(2, false), (3, true)] {
            let limits = PatchLimits { max_shifted: limit, ..PatchLimits::default() };
            assert_eq!(refusal(json!([1, 2, 3]), patch.clone(), &limits).is_none(), fits, "{limit}");
        }
    }

    #[test]
    fn an_array_gives_its_room_back() {
        let mut document = Tree::from(json!({"a": vec![0; 10_000]}));
        for left in (0..10_000).rev() {
            let remove =
                Patch::from_operations(vec![Operation::Remove { path: Pointer::parse(format!("/a/{left}")).unwrap() }]);
            apply(&mut document, &remove, &PatchLimits::default()).unwrap();
            let Some(Tree(Node::Array(elements))) = document.get("a") else { panic!("an array") };
            assert!(elements.len() == left && elements.capacity() <= 4 * (left + 1), "{left}: {}", elements.capacity());
        }
    }

    #[test]
    fn what_moves_deeper_is_counted_below_at_and_above() {
        // The array and its three elements are looked at; on the way back nothing is.
        let patch = json!([
            {"op": "move", "from": "/a", "path": "/b/c"},
            {"op": "move", "from": "/b/c", "path": "/a"},
            {"op": "move", "from": "/a", "path": "/b/c"},
        ]);
        let document = json!({"a": [1, "x", {}], "b": {}});
        for (limit, fits) in [(8 * LOOK - 1, false), (8 * LOOK, true), (8 * LOOK + 1, true)] {
            let limits = PatchLimits { max_shifted: limit, ..PatchLimits::default() };
            let expected = (!fits).then_some(Refusal::TooMuchShifted { limit });
            assert_eq!(refusal(document.clone(), patch.clone(), &limits), expected, "{limit}");
        }
        // A large value goes deeper a few times, not again and again.
        let there = json!({"op": "move", "from": "/a", "path": "/b/c"});
        let back = json!({"op": "move", "from": "/b/c", "path": "/a"});
        let (document, limits) = (json!({"a": vec![0; 500_000], "b": {}}), PatchLimits::default());
        for (times, fits) in [(20, true), (1_000, false)] {
            let patch = Value::from(vec![[there.clone(), back.clone()]; times].concat());
            let expected = (!fits).then_some(Refusal::TooMuchShifted { limit: limits.max_shifted });
            assert_eq!(refusal(document.clone(), patch, &limits), expected, "{times}");
        }
    }

    #[test]
    fn a_document_cannot_be_doubled_again_and_again() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let limits = PatchLimits::default();
        let outcome = refusal(json!({"a": [0]}), Value::from(vec![double; 100]), &limits);
        assert_eq!(outcome, Some(Refusal::TooMuchCopied { limit: limits.max_copied_bytes }));
        let long = json!({"op": "copy", "from": "/text", "path": "/copies/-"});
        let document = json!({"text": "x".repeat(1024 * 1024), "copies": []});
        let outcome = refusal(document, Value::from(vec![long; 100]), &limits);
        assert_eq!(outcome, Some(Refusal::TooMuchCopied { limit: limits.max_copied_bytes }));
    }

    #[test]
    fn a_transaction_goes_on_after_a_refusal_and_is_bounded_as_one_patch() {
        let limits = PatchLimits { max_operations: 3, max_shifted: 4, ..PatchLimits::default() };
        let patch = Patch::parse(
            &json!([
                {"op": "add", "path": "/0", "value": 0},
                {"op": "remove", "path": "/9"},
                {"op": "add", "path": "/0", "value": 0},
                {"op": "add", "path": "/-", "value": 4},
                {"op": "add", "path": "/-", "value": 5},
                {"op": "add", "path": "/-", "value": 6},
            ])
            .to_string(),
            &PatchLimits::default(),
        )
        .unwrap();
        let mut document = Tree::from(json!([1, 2, 3]));
        let mut transaction = Transaction::default();
        let outcomes: Vec<_> = patch
            .operations()
            .iter()
            .map(|operation| transaction.apply(&mut document, operation, &limits).is_ok())
            .collect();
        // The third would shift four more than the first has; of those at the end the third is the fourth operation.
        assert_eq!(outcomes, [true, false, false, true, true, false]);
        assert_eq!(document, json!([0, 1, 2, 3, 4, 5]));
        transaction.into_undo().revert(&mut document);
        assert_eq!(document, json!([1, 2, 3]));
    }

    #[test]
    fn prototypes_are_ordinary_keys() {
        let patch = json!([
            {"op": "add", "path": "/__proto__", "value": {}},
            {"op": "add", "path": "/__proto__/polluted", "value": true},
            {"op": "copy", "from": "/__proto__", "path": "/constructor"},
        ]);
        let result = check(json!({}), patch, &PatchLimits::default()).unwrap();
        assert_eq!(result, json!({"__proto__": {"polluted": true}, "constructor": {"polluted": true}}));
    }
}
