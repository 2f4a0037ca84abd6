//! JSON objects read member by member, every value as the text it is, and written likewise.
//!
//! serde's derived readers and writers would do the same work, but bring all the ways in which any value can have the
//! wrong type, and what prints their messages: a third of the wasm. There are no messages here, no floating-point numbers,
//! and no reading into data structures. What is JSON is decided as `serde_json` decides it; the tests hold both equal.

mod scan;
pub mod value;
mod write;

use std::{borrow::Cow, fmt, iter};

use serde::{
    Deserialize,
    de::{
        Error,
        value::{BorrowedStrDeserializer, MapDeserializer},
    },
};
use serde_json::value::RawValue;

pub(crate) use self::write::Object;
pub use self::write::push_json_string;

/// Calls `each` with the name and the value of every member. `None` when this is no JSON object, or when `each` says so.
pub(crate) fn members<'a>(json: &'a [u8], each: &mut dyn FnMut(&str, &'a RawValue) -> Option<()>) -> Option<()> {
    let text = std::str::from_utf8(json).ok()?;
    let mut rest = trim(trim(text).strip_prefix('{')?);
    if !rest.starts_with('}') {
        loop {
            let (name, after) = value(rest)?;
            let (member, after) = value(trim(after).strip_prefix(':')?)?;
            each(&string(name)?, member)?;
            rest = trim(after);
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None => break,
            }
        }
    }
    trim(rest.strip_prefix('}')?).is_empty().then_some(())
}

/// The one value that `text` is.
pub(crate) fn whole(text: &str) -> Option<&RawValue> {
    value(text).filter(|(_, rest)| trim(rest).is_empty()).map(|(value, _)| value)
}

/// The same of bytes.
pub(crate) fn from_bytes(bytes: &[u8]) -> Option<&RawValue> {
    whole(std::str::from_utf8(bytes).ok()?)
}

/// The first element of an array; `None` also when there is none.
pub(crate) fn first_element(array: &RawValue) -> Option<&RawValue> {
    value(array.get().strip_prefix('[')?).map(|(element, _)| element)
}

/// Calls `each` with every element of an array. `None` when this is no array, or when `each` says so.
pub(crate) fn elements<'a>(array: &'a RawValue, each: &mut dyn FnMut(&'a RawValue) -> Option<()>) -> Option<()> {
    let mut rest = trim(array.get().strip_prefix('[')?);
    while !rest.starts_with(']') {
        let (element, after) = value(rest)?;
        each(element)?;
        let after = trim(after);
        rest = trim(after.strip_prefix(',').unwrap_or(after));
    }
    Some(())
}

/// A string's content.
pub(crate) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if text.contains('\\') { unescape(text).map(Cow::Owned) } else { Some(Cow::Borrowed(text)) }
}

/// An integer that is not negative.
pub(crate) fn unsigned(value: &RawValue) -> Option<u64> {
    value.get().parse().ok()
}

/// An integer.
pub(crate) fn integer(value: &RawValue) -> Option<i32> {
    value.get().parse().ok()
}

/// `true` or `false`.
pub(crate) fn boolean(value: &RawValue) -> Option<bool> {
    value.get().parse().ok()
}

/// `null` as `None`, anything else by `read`.
pub(crate) fn optional<'a, T>(value: &'a RawValue, read: fn(&'a RawValue) -> Option<T>) -> Option<Option<T>> {
    if value.get() == "null" { Some(None) } else { read(value).map(Some) }
}

/// The value that `text` begins with, and what follows it.
fn value(text: &str) -> Option<(&RawValue, &str)> {
    let text = trim(text);
    let after = scan::after_value(text.as_bytes())?;
    let (value, rest) = text.split_at_checked(text.len() - after.len())?;
    Some((trusted(value)?, rest))
}

/// `text`, which is known to be JSON without spaces around it, as the value it is.
///
/// A `RawValue` can only be had through serde, as a map of one reserved member. `serde_json`'s own reader would do, with
/// its errors and what prints them; this one has an error that cannot be printed.
fn trusted(text: &str) -> Option<&RawValue> {
    let member = BorrowedStrDeserializer::<Unreadable>::new("$serde_json::private::RawValue");
    let entry = (member, BorrowedStrDeserializer::new(text));
    <&RawValue>::deserialize(MapDeserializer::new(iter::once(entry))).ok()
}

#[derive(Debug)]
struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Unreadable {}

impl Error for Unreadable {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

fn trim(text: &str) -> &str {
    let start = text.bytes().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
    text.get(start.unwrap_or(text.len())..).unwrap_or_default()
}

/// `text` is known to hold valid escapes only, but for surrogates without their other half.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escaped)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut chars = escaped.chars();
        let (char, after) = match chars.next()? {
            'b' => ('\u{8}', chars.as_str()),
            'f' => ('\u{c}', chars.as_str()),
            'n' => ('\n', chars.as_str()),
            'r' => ('\r', chars.as_str()),
            't' => ('\t', chars.as_str()),
            'u' => unicode(chars.as_str())?,
            other => (other, chars.as_str()),
        };
        plain.push(char);
        rest = after;
    }
    plain.push_str(rest);
    Some(plain)
}

/// The character whose four hexadecimal digits, or two halves of them, `text` begins with.
fn unicode(text: &str) -> Option<(char, &str)> {
    let (high, rest) = unit(text)?;
    if !(0xd800..0xdc00).contains(&high) {
        return Some((char::from_u32(high)?, rest));
    }
    let (low, rest) = unit(rest.strip_prefix("\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, rest))
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u32::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every member as `name=value`, or nothing when this is no object.
    fn check(json: &str, expected: Option<&[&str]>) {
        let mut found = Vec::new();
        let read = members(json.as_bytes(), &mut |name, value| {
            found.push(format!("{name}={}", value.get()));
            Some(())
        });
        match expected {
            Some(expected) => {
                assert_eq!((read, found), (Some(()), expected.iter().map(|&one| one.into()).collect()), "{json}")
            }
            None => assert_eq!(read, None, "{json}"),
        }
        // The syntax is the one of the library: any value of any object.
        let theirs = serde_json::from_str::<std::collections::BTreeMap<String, &RawValue>>(json);
        assert_eq!(theirs.is_ok(), expected.is_some(), "{json}");
    }

    #[test]
    fn members_are_read_as_text() {
        check("{}", Some(&[]));
        check(" {\n} \t\r\n", Some(&[]));
        check(r#"{"a":1}"#, Some(&["a=1"]));
        check(r#" { "a" : [ 1 , {"b":"}"} ] , "c":"\"," } "#, Some(&[r#"a=[ 1 , {"b":"}"} ]"#, r#"c="\",""#]));
        check(r#"{"\u0061\n":-1.5e3,"":null}"#, Some(&["a\n=-1.5e3", "=null"]));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in [
            "",
            " ",
            "null",
            "[]",
            "1",
            "{",
            "}",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":1"#,
            r#"{"a":1}}"#,
            r#"{"a":1} x"#,
            r#"{"a":1 "b":2}"#,
            r#"{a:1}"#,
            r#"{1:1}"#,
            r#"{"a":01}"#,
            r#"{"a":tru}"#,
            r#"{"a":"\x"}"#,
            r#"{"\ud800":1}"#,
            "{\u{a0}}",
        ] {
            check(json, None);
        }
        assert_eq!(members(b"{\"\xff\":1}", &mut |_, _| Some(())), None, "not UTF-8");
        assert_eq!(members(b"{\"a\":1}", &mut |_, _| None), None, "refused by the reader");
    }

    #[test]
    fn elements_are_read_as_text() {
        for (json, expected) in [
            ("[]", Some(&[][..])),
            ("[ ]", Some(&[][..])),
            (r#"[1 , "a,]",[2,[3]], {"b":[]}]"#, Some(&["1", r#""a,]""#, "[2,[3]]", r#"{"b":[]}"#][..])),
            ("{}", None),
            ("1", None),
            ("null", None),
        ] {
            let mut found = Vec::new();
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            let read = elements(raw, &mut |element| {
                found.push(element.get());
                Some(())
            });
            assert_eq!(read.map(|()| &found[..]), expected, "{json}");
            assert_eq!(elements(raw, &mut |_| None).is_some(), found.is_empty() && expected.is_some(), "{json}");
        }
    }

    #[test]
    fn strings_are_unescaped_as_the_library_does() {
        for json in [
            r#""""#,
            r#""plain""#,
            r#""\"\\\/\b\f\n\r\t""#,
            r#""\u00e9\u0041x""#,
            r#""\ud83d\ude00""#,
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ud83d\u0041""#,
            r#""\ude00""#,
            r#""\ud83d\ud83d""#,
            r#""ä\u0000😀""#,
            "1",
            "null",
            "[]",
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(string(raw).map(Cow::into_owned), serde_json::from_str::<String>(json).ok(), "{json}");
        }
    }

    #[test]
    fn numbers_are_integers_in_range() {
        for json in ["0", "7", "-1", "1.0", "1e2", "4294967296", "18446744073709551615", "18446744073709551616", "true"]
        {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(unsigned(raw), serde_json::from_str::<u64>(json).ok(), "{json}");
            assert_eq!(integer(raw), serde_json::from_str::<i32>(json).ok(), "{json}");
            assert_eq!(boolean(raw), serde_json::from_str::<bool>(json).ok(), "{json}");
            assert_eq!(optional(raw, unsigned), serde_json::from_str::<Option<u64>>(json).ok(), "{json}");
        }
        let null = RawValue::NULL;
        assert_eq!((optional(null, unsigned), unsigned(null)), (Some(None), None));
    }
}
