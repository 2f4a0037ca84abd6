//! Trees from and to `serde_json`'s values.

use std::{
    borrow::Cow,
    hash::{Hash, Hasher},
};

use serde_json::{Number, Value};

use super::{Node, Text, Tree, object::Forms, shared::Shared};

/// A number beyond a double's range, which `serde_json` has only with its feature `arbitrary_precision`, becomes null. Where
/// that must not be, write the value and [`parse`](super::parse) it: that is an error.
impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        Self::from(&value)
    }
}

/// As from a value.
impl From<&Value> for Tree {
    fn from(value: &Value) -> Self {
        copy(value, &mut Forms::default())
    }
}

fn copy(value: &Value, forms: &mut Forms) -> Tree {
    Tree(match value {
        Value::Null => Node::Null,
        Value::Bool(bool) => Node::Bool(*bool),
        Value::Number(number) => Node::number(number).unwrap_or_default(),
        Value::String(text) => Node::Text(Text::from(&**text)),
        Value::Array(elements) => {
            Node::Array(Shared::new(elements.iter().map(|element| copy(element, forms)).collect()))
        }
        Value::Object(members) => {
            let names: Vec<_> = members.keys().map(|name| Cow::Borrowed(&**name)).collect();
            let mut values: Vec<_> = members.values().map(|member| copy(member, forms)).collect();
            Node::Object(Shared::new(forms.object(&names, &mut values, 0)))
        }
    })
}

impl From<&Tree> for Value {
    fn from(tree: &Tree) -> Self {
        match &tree.0 {
            Node::Null => Self::Null,
            Node::Bool(bool) => Self::Bool(*bool),
            Node::Unsigned(integer) => Self::from(*integer),
            Node::Negative(integer) => Self::from(*integer),
            Node::Float(float) => Number::from_f64(*float).map_or(Self::Null, Self::Number),
            Node::Text(text) => Self::from(text.as_str()),
            Node::Array(elements) => elements.iter().map(Self::from).collect(),
            Node::Object(object) => {
                let members = object.iter().map(|(name, member)| (name.as_str().to_owned(), Self::from(member)));
                Self::Object(members.collect())
            }
        }
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// A number is finite.
impl Eq for Tree {}

impl PartialEq<Value> for Tree {
    fn eq(&self, other: &Value) -> bool {
        match (&self.0, other) {
            (Node::Null, Value::Null) => true,
            (Node::Bool(own), Value::Bool(other)) => own == other,
            (Node::Text(own), Value::String(other)) => own.as_bytes() == other.as_bytes(),
            (Node::Array(own), Value::Array(other)) => **own == **other,
            (Node::Object(own), Value::Object(other)) => {
                let same = |(name, own): (&Text, &Self)| other.get(name.as_str()).is_some_and(|other| own == other);
                own.len() == other.len() && own.iter().all(same)
            }
            (own, Value::Number(number)) => Node::number(number).is_some_and(|number| *own == number),
            _ => false,
        }
    }
}

impl Hash for Tree {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        std::mem::discriminant(&self.0).hash(hasher);
        match &self.0 {
            Node::Null => {}
            Node::Bool(bool) => bool.hash(hasher),
            Node::Unsigned(integer) => integer.hash(hasher),
            Node::Negative(integer) => integer.hash(hasher),
            // Both zeros are equal.
            Node::Float(float) => (if *float == 0.0 { 0.0 } else { *float }).to_bits().hash(hasher),
            Node::Text(text) => text.as_bytes().hash(hasher),
            Node::Array(elements) => elements.hash(hasher),
            Node::Object(object) => {
                object.len().hash(hasher);
                object.iter().for_each(|(name, member)| {
                    name.as_bytes().hash(hasher);
                    member.hash(hasher);
                });
            }
        }
    }
}
