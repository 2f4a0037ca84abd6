//! Making a patch from a document and the text of another. What is equal is read and compared, and no tree is made of it.

use serde_json::Error;

use super::{
    Operation, Patch, diff,
    diff::{NESTED, Writer, whole},
};
use crate::{
    json::value::Unfit,
    tree::{Comparison, Node, Object, Tree, parse},
};

/// Elements of an array that are compared one by one with those in their places, where there are more than [`MANY`].
const FEW: usize = 16;
/// Fewer elements are compared by content.
const MANY: usize = 64;

/// A patch that turns `old` into the value of a JSON text, as [`diff`](fn@diff) does, though not always by the same operations,
/// nor in the same order. Takes little more memory than the differences do, and 8 to 16 bytes for every element of an
/// array behind the first that has changed. Reads once where nothing has changed, and an array in which something has up to
/// five times; of more than 16 arrays in each other, those further in are compared as wholes. A text that names a member twice is parsed as a whole.
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
    let difference = Difference { text: Comparison::new(text), writer: Writer::default(), later: Vec::new() };
    match difference.patch(old) {
        Ok(Some(patch)) => Ok(patch),
        // More than a receiver permits.
        Ok(None) => Ok(whole(parse(text)?)),
        // No JSON, or a member is there twice.
        Err(_) => Ok(diff(old, &parse(text)?)),
    }
}

/// A text that is read while operations are written that lead to it. Costs are those of [`Writer`].
struct Difference<'a> {
    text: Comparison<'a>,
    writer: Writer,
    /// Operations whose values are read at the end, once it is clear that they are needed.
    later: Vec<Later>,
}

/// Where the value of an operation is, and in how many arrays and objects.
struct Later {
    operation: usize,
    at: usize,
    depth: usize,
}

impl Difference<'_> {
    /// `None` where a receiver would refuse them.
    fn patch(mut self, old: &Tree) -> Result<Option<Patch>, Unfit> {
        self.value(old, 0)?;
        if !self.text.reader().is_at_end() {
            return Err(Unfit::Syntax);
        }
        let operations = &mut self.writer.operations;
        for Later { operation, at, depth } in self.later {
            self.text.go(at);
            let new = self.text.tree(depth)?;
            if let Some(Operation::Add { value, .. } | Operation::Replace { value, .. }) = operations.get_mut(operation)
            {
                *value = new;
            }
        }
        Ok(self.writer.into_patch())
    }

    /// Compares the next value, within so many arrays and objects, with `old`; what the operations cost.
    fn value(&mut self, old: &Tree, depth: usize) -> Result<usize, Unfit> {
        let before = self.writer.mark();
        let (next, start) = (self.text.reader().peek(), self.text.reader().at);
        let cost = match (next, &old.0) {
            (Some(b'{'), Node::Object(old)) => self.members(old, depth)?,
            (Some(b'['), Node::Array(old)) if self.writer.arrays < NESTED => {
                self.writer.arrays += 1;
                let cost = self.elements(old, depth);
                self.writer.arrays -= 1;
                cost?
            }
            _ if self.text.is(old, depth)? => 0,
            _ => {
                self.text.go(start);
                return self.push(self.replace(), depth);
            }
        };
        let length = self.text.reader().at - start;
        if length <= cost.saturating_sub(self.writer.overhead()) {
            self.writer.back(before);
            let operation = before.operations;
            self.later.truncate(self.later.partition_point(|later| later.operation < operation));
            self.later.push(Later { operation, at: start, depth });
            self.writer.operations.push(self.replace());
            return Ok(self.writer.overhead() + length);
        }
        Ok(cost)
    }

    /// Writes an operation whose value is next, and passes over that; what it costs.
    fn push(&mut self, operation: Operation, depth: usize) -> Result<usize, Unfit> {
        let reader = self.text.reader();
        reader.peek();
        let at = reader.at;
        reader.skip()?;
        let length = reader.at - at;
        self.later.push(Later { operation: self.writer.operations.len(), at, depth });
        self.writer.operations.push(operation);
        Ok(self.writer.overhead() + length)
    }

    fn replace(&self) -> Operation {
        Operation::Replace { path: self.writer.path.clone(), value: Tree::default() }
    }

    fn members(&mut self, old: &Object, depth: usize) -> Result<usize, Unfit> {
        let (before, mut cost) = (self.text.begin(), 0_usize);
        let mut more = self.text.reader().open(b'}', depth)?;
        while more {
            let name = self.text.reader().name()?;
            self.writer.path.push(&name);
            let changed = match old.get(&name) {
                Some(old) => {
                    self.text.see(old);
                    self.value(old, depth + 1)?
                }
                None => {
                    let add = Operation::Add { path: self.writer.path.clone(), value: Tree::default() };
                    self.push(add, depth + 1)?
                }
            };
            cost = cost.saturating_add(changed);
            self.writer.path.pop();
            more = self.text.reader().next(b'}')?;
        }
        for name in self.text.end(old, before)? {
            self.writer.path.push(name);
            cost = cost.saturating_add(self.writer.remove());
            self.writer.path.pop();
        }
        Ok(cost)
    }

    fn elements(&mut self, old: &[Tree], depth: usize) -> Result<usize, Unfit> {
        let begin = self.text.reader().at;
        // Where each element begins behind those that are the same at the front, and which of these differ from those in their
        // places, as long as they are few.
        let (mut front, mut starts, mut changed) = (0, Vec::new(), Vec::new());
        let mut more = self.text.reader().open(b']', depth)?;
        while more {
            self.text.reader().peek();
            let start = self.text.reader().at;
            let is_same = match old.get(front + starts.len()).filter(|_| changed.len() <= FEW) {
                Some(old) => self.text.is(old, depth + 1)?,
                None => false,
            };
            if is_same && starts.is_empty() {
                front += 1;
            } else {
                if !is_same {
                    if changed.len() <= FEW {
                        changed.push(starts.len());
                    }
                    self.text.go(start);
                    self.text.reader().skip()?;
                }
                starts.push(start);
            }
            more = self.text.reader().next(b']')?;
        }
        let (end, len, mut old) = (self.text.reader().at, old.len(), &old[front..]);
        // As many operations at least are not written where replacing is cheaper than they.
        let least = len.abs_diff(front + starts.len()).saturating_mul(self.writer.overhead());
        if end - begin <= least.saturating_sub(self.writer.overhead()) {
            return Ok(least);
        }
        let mut new = starts.as_slice();
        let is_in_place = old.len() == new.len() && changed.len() <= FEW;
        if let Some(last) = changed.last().filter(|_| is_in_place) {
            (old, new) = (&old[..=*last], &new[..=*last]);
        }
        while let ([old_rest @ .., last], [new_rest @ .., start]) = (old, new) {
            // The first ones differ: that much is known.
            if is_in_place || old_rest.is_empty() && new_rest.is_empty() {
                break;
            }
            self.text.go(*start);
            if !self.text.is(last, depth + 1)? {
                break;
            }
            (old, new) = (old_rest, new_rest);
        }
        let mut cost = 0_usize;
        if is_in_place && !(2..MANY).contains(&old.len()) {
            for at in changed {
                self.writer.path.push(&(front + at).to_string());
                self.text.go(new[at]);
                cost = cost.saturating_add(self.value(&old[at], depth + 1)?);
                self.writer.path.pop();
            }
        } else {
            let mut read = |start: &usize| {
                self.text.go(*start);
                self.text.tree(depth + 1)
            };
            let new = new.iter().map(&mut read).collect::<Result<Vec<Tree>, Unfit>>()?;
            cost = self.writer.middle(old, &new, front, len);
        }
        self.text.go(end);
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
    fn texts_are_the_same_however_they_are_written() {
        let old = json!({"a\"\\\n": "b\"\\\n", "é": "é", "": ""});
        assert!(check(&old, &old.to_string()).is_empty());
        assert!(check(&old, r#"{"\u0061\u0022\\\n":"\u0062\"\u005c\u000a","\u00e9":"é","":""}"#).is_empty());
        // What is there as it is may be another text, or none.
        for (old, text) in [("\n", "\n"), ("\\", "\\"), ("\"", "\""), ("a\\", "a\\"), ("a\"b", "a\"b")] {
            for (old, text) in
                [(json!([old]), format!("[\"{text}\"]")), (json!({ old: 1 }), format!("{{\"{text}\":1}}"))]
            {
                assert!(diff_text(&Tree::from(old), &text).is_err(), "{text}");
            }
        }
        let old = json!({"a\\n": "b\\n", "long": "-".repeat(200)});
        assert_eq!(check(&old, &old.to_string().replace(r"\\n", r"\n")).len(), 2);
    }

    #[test]
    fn elements_whose_members_repeat_are_not_the_same() {
        check(&json!([{"a": 1, "b": 2}]), r#"[{"a":1,"a":1}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":2,"b":2}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":2,"a":1}]"#);
        check(&json!([{"a": 1, "b": 2}]), r#"[{"b":1,"b":2,"a":1}]"#);
    }

    /// All texts of up to four of three members, each behind a row in each order and before one in that order.
    #[test]
    fn rows_may_have_any_order_and_each_its_own() {
        const MEMBERS: [&str; 3] = [r#""a":1"#, r#""b":2"#, r#""c":3"#];
        let old = json!([{"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}]);
        let mut texts: Vec<Vec<&str>> = vec![Vec::new()];
        for length in 0..4 {
            let shorter = texts.iter().filter(|text| text.len() == length);
            let longer = shorter.flat_map(|text| MEMBERS.map(|member| [&text[..], &[member]].concat()));
            texts.extend(longer.collect::<Vec<_>>());
        }
        let is_order = |text: &Vec<&str>| text.len() == 3 && MEMBERS.iter().all(|member| text.contains(member));
        for order in texts.clone().iter().filter(|text| is_order(text)).map(|text| text.join(",")) {
            for row in &texts {
                let patch = check(&old, &format!("[{{{order}}},{{{}}},{{{order}}}]", row.join(",")));
                assert_eq!(patch.is_empty(), row.iter().copied().collect::<BTreeSet<_>>().len() == 3, "{row:?}");
            }
        }
    }

    /// Rows whose members are rows with the same names, maps, and rows of more kinds than are remembered.
    #[test]
    fn orders_of_rows_within_rows_are_not_mixed_up() {
        let kinds = |count: usize, reversed: bool| {
            let row = |kind: usize| {
                let inner = if reversed { r#"{"b":1,"a":0}"# } else { r#"{"a":0,"b":1}"# };
                let members = [format!(r#""a":{inner}"#), format!(r#""b":{inner}"#), format!(r#""k{kind}":{inner}"#)];
                let members = if reversed { members.into_iter().rev().collect() } else { members.to_vec() };
                format!("{{{}}}", members.join(","))
            };
            format!("[{}]", (0..3 * count).map(|at| row(at % count)).collect::<Vec<_>>().join(","))
        };
        for count in [1, 2, 15, 16, 17, 40] {
            let old: Value = serde_json::from_str(&kinds(count, false)).unwrap();
            let (text, tree) = (kinds(count, true), Tree::from(&old));
            assert!(check(&old, &text).is_empty());
            let wrong =
                [r#"{"b":1,"b":1}"#, r#"{"a":0,"a":0}"#, r#"{"b":1}"#, r#"{"b":1,"a":0,"b":1}"#, r#"{"b":0,"a":1}"#];
            for wrong in wrong {
                for at in text.match_indices(r#"{"b":1,"a":0}"#).map(|(at, _)| at).step_by(5) {
                    let text = format!("{}{wrong}{}", &text[..at], &text[at + 13..]);
                    let is_same = parse(&text).unwrap() == tree;
                    assert_eq!(check(&old, &text).is_empty(), is_same, "{text}");
                }
            }
        }
        let map: Vec<String> = (0..100).map(|at| format!(r#""{at}":{at}"#)).collect();
        let reversed: Vec<&str> = map.iter().rev().map(String::as_str).collect();
        let old = serde_json::from_str(&format!("[{{{}}}]", map.join(","))).unwrap();
        assert!(check(&old, &format!("[{{{}}}]", reversed.join(","))).is_empty());
        check(&old, &format!("[{{{},{}}}]", reversed.join(","), map.join(",")));
    }

    /// As the fields of a `struct` are written: what is looked for is next, but in the first row.
    #[test]
    fn rows_of_one_order_are_expected_in_that() {
        let rows: Vec<String> =
            (0..1_000).map(|id| format!(r#"{{"name":"row {id}","at":{{"y":1,"x":{id}}},"id":{id}}}"#)).collect();
        let text = format!("[{}]", rows.join(","));
        let mut difference = Difference { text: Comparison::new(&text), writer: Writer::default(), later: Vec::new() };
        assert_eq!(difference.value(&parse(&text).unwrap(), 0).unwrap(), 0);
        assert_eq!(difference.text.unexpected, 2, "one of each kind");
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

    /// Bytes that are read again, for each of the text.
    fn again(old: &Value, text: &str) -> usize {
        let (old, writer) = (Tree::from(old), Writer::default());
        let mut difference = Difference { text: Comparison::new(text), writer, later: Vec::new() };
        difference.value(&old, 0).unwrap();
        difference.text.again / text.len()
    }

    /// However deep: replaced once, at the outside, and read a few times.
    #[test]
    fn what_is_deep_is_not_read_at_every_level() {
        let reads = 2 * NESTED + 1;
        type Wrap = fn(Value) -> Value;
        let (object, array, pair): (Wrap, Wrap, Wrap) =
            (|value| json!({ "a": value }), |value| json!([value]), |value| json!([value, 0]));
        let mixed: Wrap = |value| json!({"a": [value, {"b": 1}], "b": [[]]});
        for (wrap, levels, most) in [(object, 110, 1), (array, 110, reads), (pair, 110, reads), (mixed, 50, reads)] {
            let nest = |inner: Value| (0..levels).fold(inner, |value, _| wrap(value));
            let (old, new) = (nest(json!("x".repeat(100_000))), nest(json!("y".repeat(100_000))));
            let text = new.to_string();
            let again = again(&old, &text);
            assert!(again <= most, "{again} of {most}");
            check(&old, &text);
            // Many small ones, so that each level would rather be replaced.
            let many = |n: usize| Value::Object((0..300).map(|at| (at.to_string(), json!(at + n))).collect());
            let again = self::again(&nest(many(0)), &nest(many(7)).to_string());
            assert!(again <= most, "{again} of {most}");
            check(&nest(many(0)), &nest(many(7)).to_string());
        }
    }

    #[test]
    fn arrays_far_in_are_compared_as_wholes() {
        let nest = |levels: usize, inner: &str| {
            (0..levels).fold(json!([inner, 1]), |value, _| json!([value, "x".repeat(300)]))
        };
        for (levels, last) in [(NESTED - 1, "/0"), (NESTED, ""), (NESTED + 1, "")] {
            let text = nest(levels, "new").to_string();
            let operations = check(&nest(levels, "old, and longer than what comes"), &text);
            let path = "/0".repeat(levels.min(NESTED)) + last;
            assert_eq!(operations.iter().map(|operation| &operation["path"]).collect::<Vec<_>>(), [&json!(path)]);
            let patch = diff(&nest(levels, "old, and longer than what comes").into(), &parse(&text).unwrap());
            assert_eq!(
                patch.operations().iter().map(|operation| operation.path().as_str()).collect::<Vec<_>>(),
                [path]
            );
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
