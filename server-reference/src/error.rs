//! The error that a handler answers a call with.

use datasole_core::{codes, wire::RpcErrorBody};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// A handler's error, the answer to a call instead of a result. The client sees all of it.
///
/// ```
/// use datasole_server::RpcError;
/// let error = RpcError::new("out of stock").code(409).data(&["red", "blue"]);
/// assert_eq!(error.to_string(), "out of stock");
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    code: i32,
    message: String,
    data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error of the application, code -32000.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: codes::HANDLER, message: message.into(), data: None }
    }

    /// An error for parameters that do not fit the method, code -32602.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::INVALID_PARAMS)
    }

    /// An error for a caller who is not allowed to call the method, code -32002.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(message).code(codes::FORBIDDEN)
    }

    /// Replaces the code: one of [`codes`], or the application's own.
    #[must_use]
    pub fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    /// Adds data for programs. Data that cannot be written as JSON is left out.
    #[must_use]
    pub fn data(mut self, data: &impl Serialize) -> Self {
        self.data = to_raw_value(data).ok();
        self
    }

    pub(crate) fn too_large(bytes: usize, limit: usize) -> Self {
        Self::new(format!("result of {bytes} bytes exceeds the frame limit of {limit}")).code(codes::TOO_LARGE)
    }

    pub(crate) fn body(&self) -> RpcErrorBody<'_> {
        RpcErrorBody { code: self.code, message: self.message.as_str().into(), data: self.data.as_deref() }
    }
}

/// Longest reason that [`plainly`] gives; bytes.
const LONGEST: usize = 200;

/// The reason why JSON does not fit, in the words of JSON: no names of types, no repetition of long values.
pub(crate) fn plainly(error: &serde_json::Error) -> String {
    const REASONS: [(&str, &str); 8] = [
        ("missing field", "missing member"),
        ("unknown field", "unknown member"),
        ("duplicate field", "member twice:"),
        ("unknown variant", "unknown value"),
        ("invalid type: map", "invalid type: object"),
        ("invalid type: sequence", "invalid type: array"),
        ("invalid type:", "invalid type:"),
        ("invalid value:", "invalid value:"),
    ];
    let text = error.to_string();
    // Behind it come names of types, and then a position.
    let end = text.find(", expected ").or_else(|| text.rfind(" at line ")).unwrap_or(text.len());
    let reason = text.get(..end).unwrap_or_default();
    let known = REASONS.iter().find_map(|(theirs, ours)| Some((ours, reason.strip_prefix(theirs)?)));
    match known {
        Some((ours, rest)) => {
            let cut = rest.floor_char_boundary(LONGEST);
            let dots = if cut < rest.len() { "…" } else { "" };
            format!("{ours}{}{dots}", &rest[..cut])
        }
        None => "the JSON does not fit what is expected".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::plainly;

    #[test]
    fn reasons_name_members_and_no_types() {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase", deny_unknown_fields)]
        #[expect(dead_code, reason = "only read")]
        struct Add {
            a: i8,
            op: Op,
        }
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Op {
            Plus,
        }
        #[derive(Debug, Deserialize)]
        #[serde(untagged)]
        #[expect(dead_code, reason = "only read")]
        enum Either {
            Number(i8),
        }
        let add = |text: &str| plainly(&serde_json::from_str::<Add>(text).unwrap_err());
        assert_eq!(add("[1]"), "the JSON does not fit what is expected");
        assert_eq!(add("3"), "invalid type: integer `3`");
        assert_eq!(add(r#"{"op":"plus"}"#), "missing member `a`");
        assert_eq!(add(r#"{"a":1,"b":2}"#), "unknown member `b`");
        assert_eq!(add(r#"{"a":1,"a":2}"#), "member twice: `a`");
        assert_eq!(add(r#"{"a":1,"op":"frob"}"#), "unknown value `frob`");
        assert_eq!(add(r#"{"a":300}"#), "invalid value: integer `300`");
        assert_eq!(add(r#"{"a":[]}"#), "invalid type: array");
        assert_eq!(
            plainly(&serde_json::from_str::<Either>("{}").unwrap_err()),
            "the JSON does not fit what is expected"
        );
        let long = add(&format!(r#"{{"a":"{}"}}"#, "é".repeat(1_000)));
        assert!(long.len() < 250 && long.ends_with('…'), "{long}");
    }
}
