//! Making a patch from a document and the text of another. What is equal is read and compared, and no tree is made of it.

use serde_json::Error;

use super::{Patch, diff, diff::Writer};
use crate::{
    json::value::Unfit,
    tree::{Comparison, Node, Object, Tree, parse},
};

/// Elements of an array that are compared one by one with those in their places, where there are more than [`MANY`].
const FEW: usize = 16;
/// Fewer elements are compared by content.
const MANY: usize = 64;

/// A patch that turns `old` into the value of a JSON text, as [`diff`](fn@diff) does, though not always by the same operations,
/// nor in the same order. Takes little more memory than the differences do, and no longer than reading both, unless there
/// are many. A text that names a member twice is parsed as a whole.
///
/// ```
/// use datasole_core::patch::{diff, diff_text};
/// use datasole_core::tree::Tree;
/// use serde_json::json;
/// let old = Tree::from(json!({"list": [1, 2], "text": "long ".repeat(20)}));
/// let new = Tree::from(json!({"list": [0, 1, 2], "text": "long ".repeat(20)}));
/// assert_eq!(diff_text(&old, &new.to_string())?, diff(&old, &new));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`parse`].
pub fn diff_text(old: &Tree, text: &str) -> Result<Patch, Error> {
    let (mut comparison, mut writer) = (Comparison::new(text), Writer::default());
    match value(&mut comparison, &mut writer, old, 0) {
        Ok(_) if comparison.reader().is_at_end() => Ok(Patch::from_operations(writer.operations)),
        // No JSON, or a member is there twice.
        _ => Ok(diff(old, &parse(text)?)),
    }
}

/// Compares the next value, within so many arrays and objects, with `old`; what the operations cost, as in [`Writer`].
fn value(text: &mut Comparison<'_>, writer: &mut Writer, old: &Tree, depth: usize) -> Result<usize, Unfit> {
    let before = writer.operations.len();
    let (next, start) = (text.reader().peek(), text.reader().at);
    let cost = match (next, &old.0) {
        (Some(b'{'), Node::Object(old)) => members(text, writer, old, depth)?,
        (Some(b'['), Node::Array(old)) => elements(text, writer, old, depth)?,
        _ => {
            let new = text.tree(depth)?;
            return Ok(if new == *old { 0 } else { writer.replace(&new) });
        }
    };
    let length = text.reader().at - start;
    if writer.operations.len() > before && length <= cost.saturating_sub(writer.overhead()) {
        writer.operations.truncate(before);
        text.reader().at = start;
        return Ok(writer.replace(&text.tree(depth)?));
    }
    Ok(cost)
}

fn members(text: &mut Comparison<'_>, writer: &mut Writer, old: &Object, depth: usize) -> Result<usize, Unfit> {
    let (before, mut cost) = (text.begin(), 0_usize);
    let mut more = text.reader().open(b'}', depth)?;
    while more {
        let name = text.reader().name()?;
        writer.path.push(&name);
        let changed = match old.get(&name) {
            Some(old) => {
                text.see(old);
                value(text, writer, old, depth + 1)?
            }
            None => writer.add(&text.tree(depth + 1)?),
        };
        cost = cost.saturating_add(changed);
        writer.path.pop();
        more = text.reader().next(b'}')?;
    }
    for name in text.end(old, before)? {
        writer.path.push(name);
        cost = cost.saturating_add(writer.remove());
        writer.path.pop();
    }
    Ok(cost)
}

fn elements(text: &mut Comparison<'_>, writer: &mut Writer, old: &[Tree], depth: usize) -> Result<usize, Unfit> {
    // Where each element begins behind those that are the same at the front.
    let (mut front, mut starts) = (0, Vec::new());
    let mut more = text.reader().open(b']', depth)?;
    while more {
        text.reader().peek();
        let start = text.reader().at;
        let is_same = match old.get(front).filter(|_| starts.is_empty()) {
            Some(old) => text.is(old, depth + 1)?,
            None => false,
        };
        if is_same {
            front += 1;
        } else {
            starts.push(start);
            text.reader().at = start;
            text.reader().skip()?;
        }
        more = text.reader().next(b']')?;
    }
    let (end, len, mut old) = (text.reader().at, old.len(), &old[front..]);
    let mut new = starts.as_slice();
    while let ([old_rest @ .., last], [new_rest @ .., start]) = (old, new) {
        text.reader().at = *start;
        if !text.is(last, depth + 1)? {
            break;
        }
        (old, new) = (old_rest, new_rest);
    }
    let cost = match in_place(text, old, new, depth)? {
        Some(changed) => {
            let mut cost = 0_usize;
            for at in changed {
                writer.path.push(&(front + at).to_string());
                text.reader().at = new[at];
                cost = cost.saturating_add(value(text, writer, &old[at], depth + 1)?);
                writer.path.pop();
            }
            cost
        }
        None => {
            let mut read = |start: &usize| {
                text.reader().at = *start;
                text.tree(depth + 1)
            };
            let new = new.iter().map(&mut read).collect::<Result<Vec<Tree>, Unfit>>()?;
            writer.middle(old, &new, front, len)
        }
    };
    text.reader().at = end;
    Ok(cost)
}

/// The elements that have changed, if they are few, and all others are where they were.
fn in_place(text: &mut Comparison<'_>, old: &[Tree], new: &[usize], depth: usize) -> Result<Option<Vec<usize>>, Unfit> {
    if old.len() != new.len() || (2..MANY).contains(&old.len()) {
        return Ok(None);
    }
    let mut changed = Vec::new();
    for (at, (old, start)) in old.iter().zip(new).enumerate() {
        text.reader().at = *start;
        if !text.is(old, depth + 1)? {
            changed.push(at);
            if changed.len() > FEW {
                return Ok(None);
            }
        }
    }
    Ok(Some(changed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::patch::{PatchLimits, apply};

    /// The operations that lead from `old` to a text.
    fn check(old: &Value, text: &str) -> Vec<Value> {
        let old = Tree::from(old);
        let patch = diff_text(&old, text).unwrap();
        let (mut document, new) = (old.clone(), parse(text).unwrap());
        apply(&mut document, &patch, &PatchLimits::default()).unwrap();
        assert!(document == new, "{old} to {text}: {}", patch.to_json());
        assert_eq!(patch.is_empty(), old == new, "{old} to {text}");
        let most = diff(&old, &new).to_json().len().max(text.len());
        assert!(patch.to_json().len() <= most + 100, "{old} to {text}: {}", patch.to_json());
        patch.operations().iter().map(|operation| serde_json::to_value(operation).unwrap()).collect()
    }

    fn rows(count: usize) -> Value {
        (0..count).map(|id| json!({"id": id, "name": format!("row \u{1} {id}"), "done": false})).collect()
    }

    #[test]
    fn edits_of_thousands_of_rows_are_what_they_are() {
        let old = json!({"rows": rows(5_000), "title": "x"});
        let mut new = old.clone();
        for at in [0, 17, 2_500, 4_998, 4_999] {
            new["rows"][at]["done"] = json!(true);
        }
        let paths: Vec<Value> =
            check(&old, &new.to_string()).into_iter().map(|operation| operation["path"].clone()).collect();
        assert_eq!(paths, [0, 17, 2_500, 4_998, 4_999].map(|at| format!("/rows/{at}/done")));
        for at in [0, 2_500, 5_000] {
            let mut new = old.clone();
            new["rows"].as_array_mut().unwrap().insert(at, json!(1));
            let one = [json!({"op": "add", "path": format!("/rows/{at}"), "value": 1})];
            assert_eq!(check(&old, &new.to_string()), one);
            let path = format!("/rows/{at}");
            assert_eq!(check(&new, &old.to_string()), [json!({"op": "remove", "path": path})]);
        }
        let mut new = old.clone();
        (0..FEW + 1).for_each(|at| new["rows"][at * 100]["done"] = json!(true));
        assert_eq!(check(&old, &new.to_string()).len(), FEW + 1, "more than are looked for in place");
        let mut new = old.clone();
        new["rows"].as_array_mut().unwrap().swap(3, 4_000);
        check(&old, &new.to_string());
    }

    #[test]
    fn members_may_have_any_order_and_repeat() {
        let old = json!({"a": 1, "b": {"x": [1, 2], "y": null}, "c": "é", "long": "-".repeat(300)});
        let with_long = |text: &str| text.replace("LONG", &format!("\"long\":{}", old["long"]));
        let check = |text: &str| check(&old, &with_long(text));
        assert!(check(r#" { "c" : "\u00e9" , "b" : {"y":null,"x":[1 ,2]}, LONG, "a":1 } "#).is_empty());
        assert!(check(r#"{"a":2,"a":1,LONG,"b":{"y":1,"y":null,"x":[1,2]},"c":"é"}"#).is_empty());
        check(r#"{"a":1,"a":1,"b":{"x":[1,2],"y":null},LONG}"#);
        check(r#"{"a":1,"a":1,"c":"é",LONG}"#);
        assert_eq!(
            check(r#"{"b":{"x":[1,2],"y":0},"new":[],"c":"e",LONG}"#),
            [
                json!({"op": "replace", "path": "/b/y", "value": 0}),
                json!({"op": "add", "path": "/new", "value": []}),
                json!({"op": "replace", "path": "/c", "value": "e"}),
                json!({"op": "remove", "path": "/a"}),
            ]
        );
        check(r#"{"$serde_json::private::RawValue":"1","x":1,"x":2}"#);
    }

    #[test]
    fn elements_whose_members_repeat_are_not_the_same() {
        check(&json!([{"a": 1, "b": 2}]), r#"[{"a":1,"a":1}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":2,"b":2}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":2,"a":1}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":1,"b":2,"a":1}]"#);
    }

    #[test]
    fn numbers_are_the_same_where_their_values_are() {
        assert!(check(&json!([1, 1.5, -1]), "[1,15e-1,-1]").is_empty());
        for (old, text) in [(json!(1), "1.0"), (json!(0), "-0"), (json!(1.0), "1"), (json!(u64::MAX), "-1")] {
            assert_eq!(check(&old, text).len(), 1, "{old} {text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_as_it_is_when_read() {
        let old = Tree::from(json!({"a": [1, {"b": "x"}]}));
        let deep = "[".repeat(128) + &"]".repeat(128);
        for text in
            ["", "{", r#"{"a":[1,{"b":"x"}]"#, r#"{"a":[1,{"b":"\ud800"}]}"#, r#"{"a":[1,{"b":"x"}]}x"#, "1e999", &deep]
        {
            let ours = diff_text(&old, text).unwrap_err().to_string();
            assert_eq!(ours, parse(text).unwrap_err().to_string(), "{text}");
        }
    }

    fn trees() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (0..3_i64).prop_map(Value::from),
            Just(json!(0.5)),
            "[ab\"\\\\é~/]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[abc~/]{0,1}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_reached_from_any_other(old in trees(), new in trees(), many in trees(), at in 0..200_usize) {
            check(&old, &new.to_string());
            check(&old, &old.to_string());
            check(&json!([old, new]), &json!([new, many, old]).to_string());
            // Long enough to be compared in place.
            let mut list = vec![many; 200];
            let before = Value::from(list.clone());
            (list[at], list[199 - at]) = (old, new);
            check(&before, &Value::from(list).to_string());
        }
    }
}
