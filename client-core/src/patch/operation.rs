//! What a patch consists of, and how it is read from text that nobody has checked.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{PatchError, PatchLimits, Pointer, error::excerpt};
use crate::tree::{self, Tree};

/// One operation of RFC 6902. Deserializing ignores unknown members and refuses repeated ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Inserts an element, sets a member, or replaces the document.
    Add {
        /// Where; `-` is the end of an array.
        path: Pointer,
        /// What.
        value: Tree,
    },
    /// Removes a member or an element.
    Remove {
        /// Where; must exist.
        path: Pointer,
    },
    /// Replaces what is there.
    Replace {
        /// Where; must exist.
        path: Pointer,
        /// With what.
        value: Tree,
    },
    /// [`Operation::Remove`] at `from`, then [`Operation::Add`] at `path`.
    Move {
        /// From where; must exist and not contain `path`.
        from: Pointer,
        /// To where, once `from` is removed.
        path: Pointer,
    },
    /// [`Operation::Add`] of the value at `from`.
    Copy {
        /// From where; must exist.
        from: Pointer,
        /// To where.
        path: Pointer,
    },
    /// Fails unless the value there is equal; numbers are compared by value (`1` equals `1.0`).
    Test {
        /// Where; must exist.
        path: Pointer,
        /// The value expected.
        value: Tree,
    },
}

impl Operation {
    /// Where the operation takes effect.
    pub fn path(&self) -> &Pointer {
        match self {
            Self::Add { path, .. }
            | Self::Remove { path }
            | Self::Replace { path, .. }
            | Self::Move { path, .. }
            | Self::Copy { path, .. }
            | Self::Test { path, .. } => path,
        }
    }

    /// The value that it brings or expects.
    pub(super) fn value(&self) -> Option<&Tree> {
        match self {
            Self::Add { value, .. } | Self::Replace { value, .. } | Self::Test { value, .. } => Some(value),
            Self::Remove { .. } | Self::Move { .. } | Self::Copy { .. } => None,
        }
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        serde_json::from_str::<Members<'_>>(text.get()).map_err(D::Error::custom)?.check(0).map_err(D::Error::custom)
    }
}

/// An operation's members before they are checked: their order is free, and which are needed depends on `op`.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(borrow, default)]
    op: Cow<'a, str>,
    path: Option<String>,
    from: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
}

/// `null` is a value, not an absence.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Members<'_> {
    fn check(self, operation: usize) -> Result<Operation, PatchError> {
        let pointer = |text: Option<String>, member| {
            let text = text.ok_or(PatchError::MissingMember { operation, member })?;
            Pointer::of(text).map_err(|text| PatchError::BadPointer { operation, pointer: excerpt(&text) })
        };
        let value = |text: Option<&RawValue>| {
            let text = text.ok_or(PatchError::MissingMember { operation, member: "value" })?;
            tree::parse(text.get()).map_err(|error| PatchError::Parse { operation, message: error.to_string() })
        };
        Ok(match &*self.op {
            "add" => Operation::Add { path: pointer(self.path, "path")?, value: value(self.value)? },
            "remove" => Operation::Remove { path: pointer(self.path, "path")? },
            "replace" => Operation::Replace { path: pointer(self.path, "path")?, value: value(self.value)? },
            "move" => Operation::Move { from: pointer(self.from, "from")?, path: pointer(self.path, "path")? },
            "copy" => Operation::Copy { from: pointer(self.from, "from")?, path: pointer(self.path, "path")? },
            "test" => Operation::Test { path: pointer(self.path, "path")?, value: value(self.value)? },
            "" => return Err(PatchError::MissingMember { operation, member: "op" }),
            other => return Err(PatchError::UnknownOperation { operation, name: excerpt(other) }),
        })
    }
}

/// Reads a JSON array of operations, no more than allowed.
pub(super) fn parse(text: &str, limits: &PatchLimits) -> Result<Vec<Operation>, PatchError> {
    let mut reader = Reader { limit: limits.max_operations, operations: Vec::new(), refused: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match reader.deserialize(&mut deserializer).and_then(|()| deserializer.end()) {
        Ok(()) => Ok(reader.operations),
        Err(error) => Err(reader
            .refused
            .unwrap_or_else(|| PatchError::Parse { operation: reader.operations.len(), message: error.to_string() })),
    }
}

/// Serde's errors are only text; what was refused and why is kept beside them.
struct Reader {
    limit: usize,
    operations: Vec<Operation>,
    refused: Option<PatchError>,
}

impl<'de> DeserializeSeed<'de> for &mut Reader {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Reader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while self.operations.len() < self.limit {
            let Some(members) = elements.next_element::<Members<'de>>()? else { return Ok(()) };
            match members.check(self.operations.len()) {
                Ok(operation) => self.operations.push(operation),
                Err(refused) => {
                    self.refused = Some(refused);
                    return Err(A::Error::custom("refused"));
                }
            }
        }
        if elements.next_element::<IgnoredAny>()?.is_some() {
            self.refused = Some(PatchError::TooManyOperations { limit: self.limit });
            return Err(A::Error::custom("refused"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::Patch;

    fn check(text: &str) -> Result<Patch, PatchError> {
        let patch = Patch::parse(text, &PatchLimits::default())?;
        assert_eq!(Patch::parse(&patch.to_json(), &PatchLimits::default()).as_ref(), Ok(&patch), "survives writing");
        Ok(patch)
    }

    #[test]
    fn members_come_in_any_order_and_unknown_ones_are_ignored() {
        let value = r#"[{"value":{"op":"remove"},"x":[1e999,{}],"path":"/a","from":7e1,"op":"add"}]"#;
        assert!(check(value).is_err(), "from is not text");
        let patch = check(r#"[{"value":{"op":"remove"},"x":[[],{}],"path":"/a","from":"/b","op":"add"}]"#).unwrap();
        assert_eq!(patch.to_json(), r#"[{"op":"add","path":"/a","value":{"op":"remove"}}]"#);
        let patch = check(r#"[{"op":"t\u0065st","path":"","value":null}]"#).unwrap();
        assert_eq!(patch.to_json(), r#"[{"op":"test","path":"","value":null}]"#, "null is a value");
        assert!(check(" [ ] ").unwrap().is_empty());
    }

    #[test]
    fn refusals_name_the_operation() {
        let refused = |operation: &str| check(&format!(r#"[{{"op":"remove","path":"/a"}},{operation}]"#)).unwrap_err();
        for (operation, error) in [
            ("{}", PatchError::MissingMember { operation: 1, member: "op" }),
            (r#"{"op":"add","path":""}"#, PatchError::MissingMember { operation: 1, member: "value" }),
            (r#"{"op":"add","value":1}"#, PatchError::MissingMember { operation: 1, member: "path" }),
            (r#"{"op":"add","path":null,"value":1}"#, PatchError::MissingMember { operation: 1, member: "path" }),
            (r#"{"op":"move","path":""}"#, PatchError::MissingMember { operation: 1, member: "from" }),
            (r#"{"op":"spam","path":""}"#, PatchError::UnknownOperation { operation: 1, name: "spam".into() }),
            (r#"{"op":"remove","path":"a"}"#, PatchError::BadPointer { operation: 1, pointer: "a".into() }),
        ] {
            assert_eq!(refused(operation), error);
        }
        for operation in [
            "1",
            "null",
            r#""remove""#,
            r#"{"op":1,"path":""}"#,
            r#"{"op":"remove","path":1}"#,
            r#"{"op":"remove","path":"/a","path":"/b"}"#,
            r#"{"op":"remove","op":"add","path":"","value":1}"#,
            r#"{"op":"test","path":"","value":1,"value":1}"#,
            r#"{"op":"remove","path":"/\ud800"}"#,
            r#"{"op":"remove","path":"/a""#,
        ] {
            assert!(matches!(refused(operation), PatchError::Parse { operation: 1, .. }), "{operation}");
        }
    }

    #[test]
    fn text_that_is_no_array_is_refused() {
        for text in ["", "{}", "null", "1", "[", "[]]", "[] []", r#"{"op":"remove","path":""}"#, "[,]"] {
            assert!(matches!(check(text), Err(PatchError::Parse { operation: 0, .. })), "{text}");
        }
        let deep = format!(r#"[{{"op":"add","path":"","value":{}{}}}]"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(check(&deep), Err(PatchError::Parse { .. })), "nesting must not overflow the stack");
    }

    #[test]
    fn errors_repeat_little_of_what_was_sent() {
        let long = "x".repeat(1_000_000);
        for operation in [format!(r#"{{"op":"{long}","path":""}}"#), format!(r#"{{"op":"remove","path":"{long}"}}"#)] {
            assert!(check(&format!("[{operation}]")).unwrap_err().to_string().len() < 300);
        }
    }
}
