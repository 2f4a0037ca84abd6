//! Canonical JSON: equal values are equal texts, in every language.

use std::{cmp::Ordering, fmt::Write, sync::Arc};

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned, ser::Error};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{CrdtError, CrdtLimits};

/// The largest integer that every JSON implementation holds exactly: 2^53 − 1.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A JSON value as canonical text (RFC 8785): members sorted by UTF-16 code units, no white space, numbers as ECMAScript
/// writes them. As there, every number is a double: integers beyond 2^53 lose their last digits, so send those as strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

impl Json {
    /// The canonical text of `value`.
    ///
    /// # Errors
    ///
    /// [`CrdtError::Limit`] when it is longer or deeper than allowed.
    pub fn new(value: &Value, limits: &CrdtLimits) -> Result<Self, CrdtError> {
        if !shallow(value, limits.max_depth) {
            return Err(CrdtError::Limit { what: "levels of a value", limit: limits.max_depth });
        }
        let mut text = String::new();
        write(value, &mut text);
        if text.len() > limits.max_value {
            return Err(CrdtError::Limit { what: "bytes of a value", limit: limits.max_value });
        }
        Ok(Self(text.into()))
    }

    /// `null`.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }

    /// The value as a tree.
    pub fn to_value(&self) -> Value {
        // The text was written from a value that is not deep.
        self.read().unwrap_or_default()
    }

    /// The value as any type.
    ///
    /// # Errors
    ///
    /// What serde says when it is not of that type.
    pub fn read<T: DeserializeOwned + 'static>(&self) -> Result<T, serde_json::Error> {
        crate::value::read(&self.0)
    }

    pub(super) fn text(&self) -> &Arc<str> {
        &self.0
    }

    pub(super) fn from_text(text: Arc<str>) -> Self {
        Self(text)
    }
}

impl Ord for Json {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
    }
}

impl PartialOrd for Json {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        <&RawValue>::deserialize(&mut serde_json::Deserializer::from_str(&self.0))
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

/// The order of JavaScript's strings: by UTF-16 code units. It is that of the bytes, but for characters that need two
/// units, which come before U+E000.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let rank = |byte: u8| if matches!(byte, 0xee | 0xef) { byte + 7 } else { byte };
    match a.bytes().zip(b.bytes()).find(|(a, b)| a != b) {
        Some((a, b)) => rank(a).cmp(&rank(b)),
        None => a.len().cmp(&b.len()),
    }
}

/// Writes `value` as canonical JSON.
pub(super) fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => match number.as_i64().filter(|integer| integer.unsigned_abs() <= MAX_INTEGER) {
            Some(integer) => integers(integer, out),
            None => double(number.as_f64().unwrap_or_default(), out),
        },
        Value::String(text) => quote(text, out),
        Value::Array(elements) => list(out, ('[', ']'), elements, write),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by(|(a, _), (b, _)| order(a, b));
            list(out, ('{', '}'), members, |(name, member), out| {
                quote(name, out);
                out.push(':');
                write(member, out);
            });
        }
    }
}

/// Writes `items` between brackets, with commas.
pub(super) fn list<T>(
    out: &mut String,
    (open, close): (char, char),
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(close);
}

/// Writes an integer.
pub(super) fn integers(integer: impl std::fmt::Display, out: &mut String) {
    // Writing to memory cannot fail.
    let _ = write!(out, "{integer}");
}

/// Writes a string with quotes and escapes.
pub(super) fn quote(text: &str, out: &mut String) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else if let Ok(quoted) = serde_json::to_string(text) {
        out.push_str(&quoted);
    }
}

/// The length of [`quote`]'s text, or a little more.
pub(super) fn quoted_len(text: &str) -> usize {
    let escapes = text.bytes().filter(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').count();
    text.len() + 5 * escapes + 2
}

/// `text`, which is known to be JSON, as a raw value.
pub(super) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).or_else(|_| to_raw_value(&())).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Writes a double as ECMAScript's `Number::toString` does: the shortest digits, an exponent from 1e21 and below 1e-6.
fn double(number: f64, out: &mut String) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    if number < 0.0 {
        out.push('-');
    }
    // The library's digits, not the standard library's: of two texts that are equally short and close, ECMAScript wants the
    // one with the even digit.
    let text = serde_json::Number::from_f64(number.abs()).map(|number| number.to_string()).unwrap_or_default();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_start_matches('0');
    let zeros = i32::try_from(all.len() - digits.len()).unwrap_or_default();
    let digits = digits.trim_end_matches('0');
    // The decimal point comes after this many digits.
    let point = exponent.parse().unwrap_or(0) + i32::try_from(whole.len()).unwrap_or_default() - zeros;
    let count = i32::try_from(digits.len()).unwrap_or_default();
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    match point {
        -5..=0 => *out += &format!("0.{}{digits}", zeros(-point)),
        1..=21 if point >= count => *out += &format!("{digits}{}", zeros(point - count)),
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or_default());
            *out += &format!("{whole}.{fraction}");
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            *out += &format!("{first}{dot}{rest}e{:+}", point - 1);
        }
    }
}

/// Whether no more than `levels` containers are nested in each other.
fn shallow(value: &Value, levels: usize) -> bool {
    let inside = |value: &Value| levels.checked_sub(1).is_some_and(|levels| shallow(value, levels));
    match value {
        Value::Array(elements) => levels > 0 && elements.iter().all(inside),
        Value::Object(members) => levels > 0 && members.values().all(inside),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(json: &str, canonical: &str) {
        let value: Value = serde_json::from_str(json).unwrap();
        let text = Json::new(&value, &CrdtLimits::default()).unwrap();
        assert_eq!(text.get(), canonical, "{json}");
        let again = Json::new(&text.to_value(), &CrdtLimits::default()).unwrap();
        assert_eq!(again, text, "{json}");
    }

    #[test]
    fn numbers_are_written_as_javascript_does() {
        for (json, canonical) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("1.0", "1"),
            ("-7.0", "-7"),
            ("1e2", "100"),
            ("9007199254740991", "9007199254740991"),
            ("9007199254740993", "9007199254740992"),
            ("18446744073709551615", "18446744073709552000"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e+21"),
            ("123e19", "1.23e+21"),
            ("-1.5e300", "-1.5e+300"),
            ("0.1", "0.1"),
            ("1.25", "1.25"),
            ("123456.789", "123456.789"),
            ("0.000001", "0.000001"),
            ("0.00000123", "0.00000123"),
            ("0.0000001", "1e-7"),
            ("1.5e-9", "1.5e-9"),
            ("5e-324", "5e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e+308"),
            ("140461714712940.625", "140461714712940.62"),
            ("333333333.33333329", "333333333.3333333"),
        ] {
            check(json, canonical);
        }
    }

    #[test]
    fn members_are_sorted_by_utf16_and_nothing_else_moves() {
        check(r#" { "b" : [ 2 , 1 ] , "a" : { "z" : null , "" : true } } "#, r#"{"a":{"":true,"z":null},"b":[2,1]}"#);
        check(r#"{"😀":1,"\ufb33":2,"z":3,"é":4}"#, "{\"z\":3,\"é\":4,\"😀\":1,\"\u{fb33}\":2}");
        check(r#""\u0041\u000a\u001f\"\\\/""#, r#""A\n\u001f\"\\/""#);
        check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let limits = CrdtLimits { max_value: 5, max_depth: 2, ..CrdtLimits::default() };
        for (value, fits) in [
            (json!("abc"), true),
            (json!("abcd"), false),
            (json!([[]]), true),
            (json!([[1]]), true),
            (json!([[[]]]), false),
            (json!([[{}]]), false),
        ] {
            assert_eq!(Json::new(&value, &limits).is_ok(), fits, "{value}");
        }
        let deep = (0..100).fold(json!(1), |value, _| json!([value]));
        assert!(Json::new(&deep, &CrdtLimits::default()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_order_is_that_of_utf16(a in "[a\u{e000}\u{ffff}😀\u{d7ff}é]{0,4}", b in "[a\u{e000}\u{ffff}😀\u{d7ff}é]{0,4}") {
            prop_assert_eq!(order(&a, &b), a.encode_utf16().cmp(b.encode_utf16()));
        }

        #[test]
        fn doubles_survive(number in any::<f64>()) {
            let mut text = String::new();
            if number.is_finite() {
                double(number, &mut text);
                prop_assert_eq!(text.parse::<f64>().unwrap(), number);
            }
        }

        #[test]
        fn quoting_is_that_of_the_library(text in any::<String>()) {
            let mut quoted = String::new();
            quote(&text, &mut quoted);
            prop_assert_eq!(&quoted, &serde_json::to_string(&text).unwrap());
            prop_assert!(quoted_len(&text) >= quoted.len());
        }
    }
}
