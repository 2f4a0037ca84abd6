//! Operations on CRDTs as text: their ids are read and members left out or added, values are never looked at.

use serde_json::value::RawValue;

use crate::{
    json::{elements, members, string, unsigned, whole},
    table::Table,
};

/// An operation's id: the replica that made it, and its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) node: Box<str>,
    pub(crate) counter: u64,
}

/// The id of an operation; `None` when it is none.
pub(crate) fn id(operation: &RawValue) -> Option<Id> {
    read(operation, &mut |_| {})
}

/// The ids that an operation shows to be stored: its own, and the additions in its `dots`.
pub(crate) fn seen(operation: &RawValue, each: &mut dyn FnMut(Id)) {
    if let Some(id) = read(operation, each) {
        each(id);
    }
}

fn read(operation: &RawValue, each_dot: &mut dyn FnMut(Id)) -> Option<Id> {
    let (mut node, mut counter) = (None, None);
    members(operation.get().as_bytes(), &mut |name, value| {
        match name {
            "nodeId" => node = Some(string(value)?.into()),
            "counter" => counter = Some(unsigned(value)?),
            "dots" => {
                elements(value, &mut |dot| {
                    let (mut node, mut counter) = (None, None);
                    elements(dot, &mut |part| {
                        match node {
                            None => node = Some(string(part)?.into()),
                            Some(_) => counter = unsigned(part),
                        }
                        Some(())
                    })?;
                    each_dot(Id { node: node?, counter: counter? });
                    Some(())
                });
            }
            _ => {}
        }
        Some(())
    })?;
    Some(Id { node: node?, counter: counter? })
}

/// Which operations a state contains: `metadata.seen`, `{node: [upto, time, ahead?]}`.
pub(crate) struct Seen<'a> {
    nodes: Table<Box<str>, (u64, Option<&'a RawValue>)>,
}

impl<'a> Seen<'a> {
    /// Reads a state; nothing is seen where it cannot be read.
    pub(crate) fn of(state: &'a RawValue) -> Self {
        let mut nodes = Table::default();
        member(state, "metadata").and_then(|metadata| member(metadata, "seen")).and_then(|seen| {
            members(seen.get().as_bytes(), &mut |node, value| {
                let (mut upto, mut ahead, mut at) = (None, None, 0);
                elements(value, &mut |part| {
                    match at {
                        0 => upto = unsigned(part),
                        2 => ahead = Some(part),
                        _ => {}
                    }
                    at += 1;
                    Some(())
                });
                nodes.insert(node.into(), (upto?, ahead));
                Some(())
            })
        });
        Self { nodes }
    }

    /// Whether an operation is among them.
    pub(crate) fn contains(&self, id: &Id) -> bool {
        let Some((upto, ahead)) = self.nodes.get(&id.node) else { return false };
        let listed = || {
            let mut found = false;
            elements((*ahead)?, &mut |pair| {
                let mut first = true;
                elements(pair, &mut |part| {
                    found |= std::mem::take(&mut first) && unsigned(part) == Some(id.counter);
                    Some(())
                })
            });
            Some(found)
        };
        id.counter <= *upto || listed() == Some(true)
    }
}

fn member<'a>(object: &'a RawValue, wanted: &str) -> Option<&'a RawValue> {
    let mut found = None;
    members(object.get().as_bytes(), &mut |name, value| {
        if name == wanted {
            found = Some(value);
        }
        Some(())
    });
    found
}

/// The text of an operation as it is sent: with what is known to be done and, where it was refused, as `none` in its place.
pub(crate) fn write(operation: &RawValue, void: bool, done: u64) -> Option<Box<RawValue>> {
    let mut out = String::with_capacity(operation.get().len() + 24);
    let mut add = |parts: &[&str]| {
        out.push(if out.is_empty() { '{' } else { ',' });
        parts.iter().for_each(|part| out.push_str(part));
    };
    members(operation.get().as_bytes(), &mut |name, value| {
        if name == "done" || void && matches!(name, "key" | "value" | "dots") {
            return Some(());
        }
        // Names of members need no escapes, or are none that anybody knows.
        if name.contains(['"', '\\']) || name.chars().any(char::is_control) {
            return Some(());
        }
        add(&["\"", name, "\":", if void && name == "op" { "\"none\"" } else { value.get() }]);
        if name == "counter" && done > 0 {
            add(&["\"done\":", &done.to_string()]);
        }
        Some(())
    })?;
    out.push('}');
    whole(&out).map(RawValue::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crdt::{Change, CrdtKind, CrdtLimits, Edit, Op, Replica};

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.into()).unwrap()
    }

    fn named(node: &str, counter: u64) -> Id {
        Id { node: node.into(), counter }
    }

    #[test]
    fn ids_are_read_and_what_has_none_is_no_operation() {
        assert_eq!(id(&raw(r#"{"nodeId":"a\u0062","counter":7,"x":[1]}"#)), Some(named("ab", 7)));
        for json in ["1", "{}", r#"{"nodeId":"a"}"#, r#"{"counter":1}"#, r#"{"nodeId":1,"counter":1}"#, "[]"] {
            assert_eq!(id(&raw(json)), None, "{json}");
        }
        let mut ids = Vec::new();
        let operation = r#"{"op":"remove","dots":[["a",1],["b",2]],"nodeId":"c","counter":3}"#;
        seen(&raw(operation), &mut |id| ids.push(id));
        assert_eq!(ids, [named("a", 1), named("b", 2), named("c", 3)]);
    }

    #[test]
    fn states_tell_what_they_contain() {
        let state = raw(r#"{"type":"g-set","value":[],"metadata":{"seen":{"a":[3,9],"b\"":[1,9,[[4,0],[6,-2]]]}}}"#);
        let seen = Seen::of(&state);
        for (node, counter, contained) in [
            ("a", 1, true),
            ("a", 3, true),
            ("a", 4, false),
            ("a", 9, false),
            ("b\"", 1, true),
            ("b\"", 2, false),
            ("b\"", 4, true),
            ("b\"", 6, true),
            ("c", 1, false),
        ] {
            assert_eq!(seen.contains(&named(node, counter)), contained, "{node} {counter}");
        }
        for nothing in ["null", "1", r#"{"metadata":1}"#, r#"{"metadata":{"seen":[]}}"#] {
            assert!(!Seen::of(&raw(nothing)).contains(&named("a", 1)));
        }
    }

    /// Every form is what the operation's own writer makes of it.
    #[test]
    fn forms_are_written_as_the_values_write_them() {
        let limits = CrdtLimits::default();
        let edits = [
            (CrdtKind::PnCounter, Edit::Decrement(3)),
            (CrdtKind::LwwMap, Edit::Put("k\"\n".into(), serde_json::json!({"a": [1.5, "x"]}))),
            (CrdtKind::LwwRegister, Edit::Set(serde_json::Value::Null)),
            (CrdtKind::OrSet, Edit::Add("x".into())),
        ];
        for (kind, edit) in edits {
            let mut replica = Replica::new(kind, "n\"1", limits).unwrap().with_secret("s\"");
            replica.edit(5, edit.clone()).unwrap();
            let op = replica.edit(5, edit).unwrap().unwrap();
            let text = replica.sent(&op);
            assert_eq!(write(&text, false, 0).unwrap().get(), text.get().replace(",\"done\":1", ""));
            let none = write(&text, true, 1).unwrap();
            let (none, secret) = Op::with_secret(none.get(), &limits).unwrap();
            assert_eq!(secret.as_deref(), Some("s\""), "only its owner may give an operation up");
            let id = (none.node(), none.counter(), none.done(), none.stamp());
            assert_eq!((id, none.change()), ((op.node(), op.counter(), 1, op.stamp()), &Change::None));
            let done = Op::parse(write(&text, false, 1).unwrap().get(), &limits).unwrap();
            assert_eq!((done.done(), done.change()), (1, op.change()));
        }
    }
}
