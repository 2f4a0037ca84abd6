//! The patch module against generated documents: our own laws, and the `json-patch` crate as oracle.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test; clippy knows only the functions marked so")]

mod cases;

use datasole_core::{
    patch::{Patch, PatchLimits, Undo, apply, apply_undoable, diff},
    tree::{Tree, parse},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use cases::{Case, Rng, case};

#[test]
fn agrees_with_json_patch() {
    let limits = PatchLimits::default();
    let mut rng = Rng::new(0x0da7_a501e);
    let (mut applied, mut refused) = (0, 0);
    for number in 0..20_000 {
        let Case { document, patch, expected } = case(&mut rng);
        let mut ours = Tree::from(&document);
        let outcome = Patch::parse(&patch.to_string(), &limits).and_then(|patch| apply(&mut ours, &patch, &limits));
        let report = || format!("case {number}: {outcome:?}\n{document}\n{patch}");
        match &expected {
            Some(expected) => {
                assert!(outcome.is_ok() && ours == *expected, "{}\n{ours}, expected {expected}", report());
                applied += 1;
            }
            None => {
                assert!(outcome.is_err() && ours == document, "{}\n{ours}, expected an error", report());
                refused += 1;
            }
        }
    }
    assert!(applied > 10_000 && refused > 2_000, "{applied} applied, {refused} refused: one side is not exercised");
}

/// The excluded class: see `cases`.
#[test]
fn numbers_are_compared_by_value() {
    for (number, other, equal) in [
        ("1", "1.0", true),
        ("-0.0", "0", true),
        ("1e2", "100", true),
        ("0.1", "1e-1", true),
        ("1", "1.5", false),
        ("9007199254740993", "9007199254740992.0", false),
        ("18446744073709551615", "18446744073709551616.0", false),
        ("18446744073709551615", "-1", false),
        ("1", "\"1\"", false),
        ("0", "false", false),
    ] {
        for (document, expected) in [(number, other), (other, number)] {
            let mut document = parse(&format!("[{{\"a\":{document}}}]")).unwrap();
            let test = format!(r#"[{{"op":"test","path":"","value":[{{"a":{expected}}}]}}]"#);
            let patch = Patch::parse(&test, &PatchLimits::default()).unwrap();
            let outcome = apply(&mut document, &patch, &PatchLimits::default());
            assert_eq!(outcome.is_ok(), equal, "{number} and {other}");
        }
    }
}

fn documents() -> impl Strategy<Value = Value> {
    let keys = proptest::sample::select(vec!["a", "b", "c", "a/b", "m~n", "", "0", "-", "__proto__", "é"]);
    let scalars = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    scalars.prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::from),
            vec((keys.clone(), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

/// What editing a list does to it.
#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, Value),
    Remove(usize),
    Move(usize, usize),
    Set(usize, Value),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (any::<usize>(), documents()).prop_map(|(at, value)| Edit::Insert(at, value)),
        any::<usize>().prop_map(Edit::Remove),
        any::<(usize, usize)>().prop_map(|(from, to)| Edit::Move(from, to)),
        (any::<usize>(), documents()).prop_map(|(at, value)| Edit::Set(at, value)),
    ];
    vec(edit, 0..6)
}

fn edited(mut list: Vec<Value>, edits: Vec<Edit>) -> Vec<Value> {
    for edit in edits {
        let len = list.len();
        match edit {
            Edit::Insert(at, value) => list.insert(at % (len + 1), value),
            _ if len == 0 => {}
            Edit::Remove(at) => drop(list.remove(at % len)),
            Edit::Move(from, to) => {
                let value = list.remove(from % len);
                list.insert(to % len, value);
            }
            Edit::Set(at, value) => list[at % len] = value,
        }
    }
    list
}

/// `diff` must lead from one to the other, through our applier and through the oracle, and not take more than it must.
fn check_diff(old: &Value, new: &Value) -> Patch {
    let (tree, other) = (Tree::from(old), Tree::from(new));
    let patch = diff(&tree, &other);
    let mut document = tree;
    apply(&mut document, &patch, &PatchLimits::default()).unwrap();
    assert_eq!(document, other, "{}", patch.to_json());

    let text = patch.to_json();
    assert_eq!(Patch::parse(&text, &PatchLimits::default()).unwrap(), patch, "a patch survives being written");
    let mut document = old.clone();
    json_patch::patch(&mut document, &serde_json::from_str::<json_patch::Patch>(&text).unwrap()).unwrap();
    assert_eq!(&document, new, "json-patch disagrees on {text}");

    assert_eq!(patch.is_empty(), old == new);
    patch
}

fn check_undo(document: &Value, undo: Undo, mut changed: Tree) {
    undo.revert(&mut changed);
    assert_eq!(changed, *document);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_diff_leads_from_old_to_new(old in documents(), new in documents()) {
        check_diff(&old, &new);
    }

    #[test]
    fn a_diff_follows_edits_of_a_list(old in vec(documents(), 0..40), edits in edits()) {
        let new = edited(old.clone(), edits);
        check_diff(&json!({"list": old}), &json!({"list": new}));
    }

    #[test]
    fn undo_restores(seed in any::<u64>()) {
        let Case { document, patch, .. } = case(&mut Rng::new(seed));
        let limits = PatchLimits::default();
        let mut changed = Tree::from(&document);
        if let Ok(undo) = Patch::parse(&patch.to_string(), &limits)
            .and_then(|patch| apply_undoable(&mut changed, &patch, &limits))
        {
            check_undo(&document, undo, changed);
        }
    }

    #[test]
    fn undo_restores_what_a_diff_changed(old in documents(), new in documents()) {
        let mut changed = Tree::from(&old);
        let undo = apply_undoable(&mut changed, &diff(&Tree::from(&old), &Tree::from(&new)), &PatchLimits::default());
        let undo = undo.unwrap();
        check_undo(&old, undo, changed);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "[\\[\\]{}\",:a-z0-9/~ -]{0,80}") {
        if let Ok(patch) = Patch::parse(&text, &PatchLimits::default()) {
            prop_assert_eq!(Patch::parse(&patch.to_json(), &PatchLimits::default()), Ok(patch));
        }
    }
}
