//! Writing a tree.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{Node, Tree};

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(bool) => serializer.serialize_bool(*bool),
            Node::Unsigned(integer) => serializer.serialize_u64(*integer),
            Node::Negative(integer) => serializer.serialize_i64(*integer),
            Node::Float(float) => serializer.serialize_f64(*float),
            Node::Text(text) => serializer.serialize_str(text.as_str()),
            Node::Array(elements) => serializer.collect_seq(&**elements),
            Node::Object(object) => {
                let mut members = serializer.serialize_map(Some(object.len()))?;
                for (name, member) in object.iter() {
                    members.serialize_entry(name.as_str(), member)?;
                }
                members.end()
            }
        }
    }
}

/// The JSON text; indented by `{:#}`.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if f.alternate() { serde_json::to_string_pretty(self) } else { serde_json::to_string(self) };
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
