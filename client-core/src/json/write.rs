//! JSON as a client writes it. `serde_json`'s writer would bring its errors along, and what prints them.

/// Appends a JSON string with this content.
///
/// ```
/// let mut text = String::new();
/// datasole_core::push_json_string(&mut text, "a\"b\n\u{1}");
/// assert_eq!(text, r#""a\"b\n\u0001""#);
/// ```
pub fn push_json_string(text: &mut String, content: &str) {
    text.push('"');
    let mut written = 0;
    for (at, byte) in content.bytes().enumerate() {
        let escape = match byte {
            b'"' | b'\\' => char::from(byte),
            0x08 => 'b',
            b'\t' => 't',
            b'\n' => 'n',
            0x0c => 'f',
            b'\r' => 'r',
            0..0x20 => 'u',
            _ => continue,
        };
        text.push_str(content.get(written..at).unwrap_or_default());
        text.push('\\');
        text.push(escape);
        if escape == 'u' {
            text.push_str(if byte < 0x10 { "000" } else { "001" });
            text.extend(char::from_digit(u32::from(byte & 15), 16));
        }
        written = at + 1;
    }
    text.push_str(content.get(written..).unwrap_or_default());
    text.push('"');
}

/// An object being written, member by member.
pub(crate) struct Object {
    text: String,
}

impl Object {
    /// Begins an object.
    pub(crate) fn new() -> Self {
        Self { text: "{".into() }
    }

    /// Adds a member whose value is a string.
    pub(crate) fn string(&mut self, name: &str, value: &str) {
        self.raw(name, "");
        push_json_string(&mut self.text, value);
    }

    /// Adds a member whose value is an integer.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.raw(name, &value.to_string());
    }

    /// Adds a member whose value is JSON already. Names need no escapes.
    pub(crate) fn raw(&mut self, name: &str, json: &str) {
        for part in [if self.text.len() == 1 { "\"" } else { ",\"" }, name, "\":", json] {
            self.text.push_str(part);
        }
    }

    /// The text.
    pub(crate) fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_the_library_writes_them() {
        let every: String = (0..0x300).filter_map(char::from_u32).chain("\u{2028}😀".chars()).collect();
        for content in ["", "plain", "\"", "\\\\", "a\u{0}", "\u{1f}b", "é\né", &every] {
            let mut text = String::new();
            push_json_string(&mut text, content);
            assert_eq!(text, serde_json::to_string(content).unwrap());
        }
    }

    #[test]
    fn members_stand_in_their_order() {
        let mut object = Object::new();
        assert_eq!(Object::new().finish(), "{}");
        object.string("a", "x\"");
        object.number("b", u64::MAX);
        object.raw("c", "[null]");
        assert_eq!(object.finish(), r#"{"a":"x\"","b":18446744073709551615,"c":[null]}"#);
    }
}
