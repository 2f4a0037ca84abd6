use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
};

use proptest::prelude::*;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

use super::*;
use crate::{json::value::tests::TEXTS, value};

fn hash(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.hash(&mut hasher);
    hasher.finish()
}

/// Reads as a `Value` is read, writes the same text, and converts both ways.
fn check(text: &str) {
    match (parse(text), value::parse(text)) {
        (Ok(tree), Ok(value)) => {
            assert_eq!(tree.to_string(), value.to_string(), "{text}");
            assert_eq!(format!("{tree:#}"), format!("{value:#}"), "{text}");
            assert_eq!(Value::from(&tree).to_string(), value.to_string(), "{text}");
            assert_eq!(tree.read::<Value>().unwrap().to_string(), value.to_string(), "{text}");
            let converted = Tree::from(&value);
            assert!(converted == tree && tree == value && hash(&converted) == hash(&tree), "{text}");
            assert!(parse(&tree.to_string()).unwrap() == tree, "{text}");
        }
        (ours, theirs) => {
            assert_eq!(ours.unwrap_err().to_string(), theirs.unwrap_err().to_string(), "{text}");
        }
    }
}

#[test]
fn texts_are_read_as_values_are() {
    TEXTS.iter().for_each(|text| check(text));
    for text in [
        "0.0",
        r#""12345678901234""#,
        r#""123456789012345""#,
        r#""1234567890123é""#,
        r#"{"b":1,"a":2,"":3,"a/b":4}"#,
        r#"{"b":1,"a":2,"b":3}"#,
        r#"[{"a":1,"b":2},{"b":1,"a":2},{"a":1,"a":2},{"a":1},{"b":1,"a":2}]"#,
        r#"{"$serde_json::private::RawValue":"[1,2]"}"#,
        r#"{"$serde_json::private::Number":"1"}"#,
    ] {
        check(text);
    }
    for depth in [126, 127, 128, 10_000] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            check(&format!("{}1{}", open.repeat(depth), close.repeat(depth)));
        }
    }
}

#[test]
fn numbers_are_what_they_are() {
    let tree = parse("[0,-1,18446744073709551615,1.0,-9223372036854775808]").unwrap();
    let integers: Vec<_> = tree.as_array().unwrap().iter().map(|tree| (tree.as_u64(), tree.as_i64())).collect();
    let expected = [(Some(0), Some(0)), (None, Some(-1)), (Some(u64::MAX), None), (None, None), (None, Some(i64::MIN))];
    assert_eq!(integers, expected);
    assert_eq!(tree[3].as_f64(), Some(1.0));
    assert!(tree[3] != parse("1").unwrap() && parse("-0.0").unwrap() == parse("0.0").unwrap());
    assert_eq!(hash(&parse("-0.0").unwrap()), hash(&parse("0.0").unwrap()));
}

#[test]
fn pointers_are_followed_as_in_values() {
    let value = json!({"a": [1, {"b/c": 2, "m~n": 3}], "": {"": 4}, "0": 5});
    let tree = Tree::from(&value);
    for pointer in
        ["", "/", "//", "/a", "/a/0", "/a/00", "/a/+1", "/a/-", "/a/2", "/a/1/b~1c", "/a/1/m~0n", "/0", "a", "/a/0/x"]
    {
        assert_eq!(tree.pointer(pointer).map(Value::from), value.pointer(pointer).cloned(), "{pointer}");
    }
    assert!(tree["a"][7]["x"].is_null() && tree.is_object());
    assert_eq!(tree.members().map(|(name, _)| name).collect::<Vec<_>>(), ["", "0", "a"]);
}

#[test]
fn indices_have_digits_only_and_no_leading_zero() {
    for (token, expected) in [
        ("0", Some(0)),
        ("10", Some(10)),
        ("", None),
        ("-", None),
        ("-1", None),
        ("+1", None),
        ("00", None),
        ("01", None),
        ("1e0", None),
        ("1.0", None),
        ("٣", None),
        ("99999999999999999999999", None),
    ] {
        assert_eq!(index(token), expected, "{token:?}");
    }
}

/// A row becomes a map as it grows, whichever way it does; both are the same to whoever looks.
#[test]
fn objects_grow_and_shrink() {
    let name = |n: usize| format!("a name that is long {n:03}");
    for most in [0, 1, 31, 32, 33, 34, 100] {
        let expected: BTreeMap<String, usize> = (0..most).map(|n| (name(n), n)).collect();
        let expected = parse(&serde_json::to_string(&expected).unwrap()).unwrap();
        let mut tree = parse("{}").unwrap();
        let Node::Object(object) = &mut tree.0 else { panic!("an object") };
        let object = object.make_mut();
        for n in (0..most).rev() {
            assert!(object.insert(&name(n), parse("-1").unwrap()).is_none());
            assert_eq!(object.insert(&name(n), Tree(Node::Unsigned(n as u64))).and_then(|old| old.as_i64()), Some(-1));
        }
        assert!(object.get("other").is_none() && object.remove("other").is_none() && object.len() == most);
        assert_eq!((&tree, hash(&tree)), (&expected, hash(&expected)));
        assert_eq!(tree.members().count(), most);
        let Node::Object(object) = &mut tree.0 else { panic!("an object") };
        let object = object.make_mut();
        for n in 0..most {
            assert_eq!(object.remove(&name(n)).and_then(|old| old.as_u64()), Some(n as u64));
            assert_eq!(object.len(), most - n - 1);
        }
        assert_eq!(tree.to_string(), "{}");
    }
}

#[test]
fn rows_share_their_names() {
    let shared = |a: &Tree, b: &Tree| match (&a.0, &b.0) {
        (Node::Object(a), Node::Object(b)) => a.shares_names(b),
        _ => false,
    };
    let tree = parse(r#"[{"n":1,"a":{"x":1}},{"a":{"x":2},"n":1},{"n":2,"a":{"x":3}},{"n":2,"b":1}]"#).unwrap();
    assert!(shared(&tree[0], &tree[2]) && shared(&tree[0]["a"], &tree[1]["a"]) && !shared(&tree[0], &tree[3]));
    // A value of a patch shares the names of the value it replaces, or of its neighbour.
    let mut document = tree.clone();
    for operation in [
        r#"{"op":"replace","path":"/0","value":{"n":5,"a":{"x":7}}}"#,
        r#"{"op":"add","path":"/3","value":{"n":5,"a":{"x":7}}}"#,
        r#"{"op":"add","path":"/-","value":{"n":5,"a":{"x":7}}}"#,
    ] {
        let patch = crate::patch::Patch::parse(&format!("[{operation}]"), &Default::default()).unwrap();
        crate::patch::apply(&mut document, &patch, &Default::default()).unwrap();
    }
    assert!([0, 3].iter().all(|&at| shared(&document[at], &tree[0]) && shared(&document[at]["a"], &tree[0]["a"])));
    assert!(!shared(&document[5], &tree[0]), "its neighbour is another");
    // A member that comes or goes leaves the names of others alone.
    let patch = r#"[{"op":"remove","path":"/0/n"},{"op":"add","path":"/2/m","value":0}]"#;
    let patch = crate::patch::Patch::parse(patch, &Default::default()).unwrap();
    crate::patch::apply(&mut document, &patch, &Default::default()).unwrap();
    assert_eq!(document[0].to_string() + &document[2].to_string(), r#"{"a":{"x":7}}{"a":{"x":3},"m":0,"n":2}"#);
    assert_eq!(document[3].to_string(), r#"{"a":{"x":7},"n":5}"#);
}

/// However many lists of names come between: those of the rows stay known.
#[test]
fn rows_share_their_names_around_objects_with_names_of_their_own() {
    for inner in [1, 5, 14] {
        let row = |n: usize| {
            let own: serde_json::Map<String, Value> =
                (0..inner).map(|at| (at.to_string(), json!({ format!("own {n} {at}"): 1 }))).collect();
            json!({"id": n, "own": own})
        };
        let value: Value = (0..1_000).map(row).collect();
        for tree in [Tree::from(&value), parse(&value.to_string()).unwrap()] {
            let Node::Object(first) = &tree[0].0 else { panic!("an object") };
            for row in tree.as_array().unwrap() {
                assert!(matches!(&row.0, Node::Object(row) if row.shares_names(first)), "{inner} {row}");
            }
        }
    }
}

/// With `serde_json`'s feature `arbitrary_precision`, with which these texts are kept as they are, and without.
#[test]
fn numbers_of_values_are_what_they_are() {
    for text in ["1e400", "-1e999", "-0", "-0.0", "-1", "1e2", "18446744073709551616", "9007199254740993"] {
        let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
        let tree = Tree::from(&value);
        match parse(text) {
            Ok(parsed) => assert!(parsed == tree && tree == value && hash(&parsed) == hash(&tree), "{text}"),
            Err(_) => assert!(tree.is_null() && tree != value, "{text}"),
        }
    }
}

#[test]
fn what_differs_in_where_members_are_hashes_differently() {
    for (one, other) in [
        (r#"{"a":{"b":1}}"#, r#"{"a":{},"b":1}"#),
        (r#"[{"a":{"b":[]}}]"#, r#"[{"a":{},"b":[]}]"#),
        (r#"[{},{"a":1}]"#, r#"[{"a":1},{}]"#),
        ("[[],1]", "[[1]]"),
    ] {
        assert_ne!(hash(&parse(one).unwrap()), hash(&parse(other).unwrap()), "{one} {other}");
    }
}

#[derive(Debug, PartialEq, Deserialize)]
enum Choice {
    Unit,
    New(u8),
    Pair(u8, String),
    Struct { a: Option<bool> },
}

#[derive(Debug, PartialEq, Deserialize)]
struct Wrapped(Vec<f32>);

#[derive(Debug, PartialEq, Deserialize)]
struct Record {
    id: u64,
    #[serde(default)]
    name: String,
    tags: Option<Vec<char>>,
    inner: Option<Box<Record>>,
    #[serde(flatten)]
    rest: HashMap<String, Value>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Either {
    Number(i8),
    Text(String),
}

#[test]
fn types_are_read_as_from_values() {
    fn check<T: DeserializeOwned + Debug + 'static>(text: &str) {
        let (ours, theirs) =
            (parse(text).unwrap().read::<T>(), serde_json::from_value::<T>(value::parse(text).unwrap()));
        assert_eq!(
            ours.map_err(|error| error.to_string()).map(|value| format!("{value:?}")),
            theirs.map_err(|error| error.to_string()).map(|value| format!("{value:?}")),
            "{text}"
        );
    }
    for text in [
        "null",
        "true",
        "0",
        "-1",
        "300",
        "1.5",
        "1.0",
        r#""x""#,
        r#""Unit""#,
        "[]",
        "[1]",
        r#"[1,"a"]"#,
        "[1,2,3]",
        r#"{"New":1}"#,
        r#"{"New":"x"}"#,
        r#"{"Unit":null}"#,
        r#"{"Unit":1}"#,
        r#"{"Pair":[1,"a"]}"#,
        r#"{"Pair":[]}"#,
        r#"{"Pair":1}"#,
        r#"{"Struct":{"a":true}}"#,
        r#"{"Struct":[null]}"#,
        r#"{"New":1,"Unit":2}"#,
        "{}",
        r#"{"Other":1}"#,
        r#"{"id":1}"#,
        r#"{"id":1,"name":"é","tags":["a","b"],"inner":{"id":2,"x":[]},"y":null}"#,
        r#"{"1":"a","20":"b"}"#,
        r#"{"x":"a"}"#,
        r#"{"true":1}"#,
        r#"{"-1":"a"}"#,
        r#"{"1 ":"a"}"#,
        r#"{" 1":"a"}"#,
        r#"{"1x":"a"}"#,
        r#"{"":"a"}"#,
        r#"{"$serde_json::private::RawValue":"1"}"#,
    ] {
        check::<bool>(text);
        check::<u8>(text);
        check::<i128>(text);
        check::<f64>(text);
        check::<()>(text);
        check::<char>(text);
        check::<String>(text);
        check::<Option<i64>>(text);
        check::<Vec<u8>>(text);
        check::<(u8, String)>(text);
        check::<Wrapped>(text);
        check::<Choice>(text);
        check::<Record>(text);
        check::<Either>(text);
        check::<BTreeMap<u16, String>>(text);
        check::<BTreeMap<i8, Value>>(text);
        check::<BTreeMap<bool, u8>>(text);
        check::<BTreeMap<String, Value>>(text);
        check::<BTreeMap<Option<String>, Value>>(text);
        check::<Box<RawValue>>(text);
        check::<Vec<Box<RawValue>>>(text);
        check::<serde::de::IgnoredAny>(text);
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-c]{10,18}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[a-d]{0,3}", inner.clone()), 0..8)
                .prop_map(|members| members.into_iter().collect()),
            prop::collection::vec(("[a-d]{2,16}", inner), 28..40).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(value in values(), other in values()) {
        check(&value.to_string());
        check(&serde_json::to_string_pretty(&value).unwrap());
        let (tree, another) = (Tree::from(&value), Tree::from(&other));
        prop_assert_eq!((tree == another, tree == other, another == value), (value == other, value == other, value == other));
        prop_assert_eq!(Value::from(&Tree::from(&value)), value);
    }

    #[test]
    fn broken_texts_are_refused_alike(value in values(), at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(text) = String::from_utf8(text) {
            check(&text);
        }
    }
}

/// Copies share what they have in common; whichever changes, the other stays what it was.
#[test]
fn copies_do_not_see_each_others_changes() {
    use crate::patch::{Patch, PatchLimits, apply_undoable};
    let text = r#"{"a":[{"n":1},{"n":[2,"a text that is long"]}],"b":{"c":{}}}"#;
    let limits = PatchLimits::default();
    for operation in [
        r#"{"op":"replace","path":"/a/1/n/0","value":3}"#,
        r#"{"op":"add","path":"/a/0","value":{"n":4}}"#,
        r#"{"op":"add","path":"/a/0/m","value":4}"#,
        r#"{"op":"remove","path":"/a/1"}"#,
        r#"{"op":"move","from":"/b/c","path":"/a/1/n/-"}"#,
        r#"{"op":"copy","from":"/a","path":"/b/c/a"}"#,
        r#"{"op":"replace","path":"","value":[]}"#,
    ] {
        let patch = Patch::parse(&format!("[{operation}]"), &limits).unwrap();
        let expected = |tree: &Tree, text: &str| assert_eq!(tree, &parse(text).unwrap(), "{operation}");
        let mut own = parse(text).unwrap();
        let copy = own.clone();
        let undo = apply_undoable(&mut own, &patch, &limits).unwrap();
        let (changed, after) = (own.to_string(), own.clone());
        expected(&copy, text);
        undo.revert(&mut own);
        expected(&own, text);
        expected(&after, &changed);
        // What was refused has no effect on a copy either.
        let refused = Patch::parse(&format!(r#"[{operation},{{"op":"remove","path":"/x/y"}}]"#), &limits).unwrap();
        assert!(apply_undoable(&mut own, &refused, &limits).is_err());
        expected(&copy, text);
        expected(&own, text);
    }
}
