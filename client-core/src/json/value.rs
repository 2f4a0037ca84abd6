//! Reading of [`serde_json::Value`]s in which a member is a member, whatever its name.
//!
//! `serde_json`'s own reader of `Value` has names of its own: an object whose first member is called
//! `$serde_json::private::RawValue` is replaced by what that member's text means, and with the feature
//! `arbitrary_precision`, which any crate of a program can turn on, there is another such name. Peers and users choose
//! names, so whatever they wrote is read here. Numbers are read as `serde_json` does without that feature, floats to the
//! nearest double.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Error, Map, Number, Value, value::RawValue};

use super::{scan, unescape};

/// Arrays and objects nested in each other; deeper values are refused. The limit of `serde_json`.
pub const MAX_DEPTH: usize = 127;

/// Reads a value.
///
/// ```
/// let text = r#"{"$serde_json::private::RawValue":"[1,2]"}"#;
/// let value = datasole_core::value::parse(text)?;
/// assert_eq!(value.to_string(), text);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// Text that is no JSON, is nested more than [`MAX_DEPTH`] levels deep, or has a number beyond a double's range or half of
/// a surrogate pair.
pub fn parse(text: &str) -> Result<Value, Error> {
    let mut reader = Reader::new(text);
    let value = reader.value(0).and_then(|value| if reader.is_at_end() { Ok(value) } else { Err(Unfit::Syntax) });
    value.map_err(|reason| unfit(reason, reader.at))
}

/// The error of a text that is no value, and where.
pub(crate) fn unfit(reason: Unfit, at: usize) -> Error {
    Error::custom(format_args!("{reason} at byte {at}"))
}

/// Reads a type of the application: a [`Value`] as [`parse`] does, any other type as `serde_json` does. For values inside
/// a type of the application see [`deserialize`].
///
/// # Errors
///
/// Those of [`parse`], and `serde_json`'s for text that is not a `T`.
pub fn read<T: DeserializeOwned + 'static>(text: &str) -> Result<T, Error> {
    if TypeId::of::<T>() != TypeId::of::<Value>() {
        return serde_json::from_str(text);
    }
    same(parse(text)?)
}

/// Reads a type of the application as [`read`] does, from text that was checked to be JSON: as a `Box<RawValue>` it is copied.
///
/// # Errors
///
/// Those of [`read`].
pub fn from_raw<T: DeserializeOwned + 'static>(json: &RawValue) -> Result<T, Error> {
    if TypeId::of::<T>() == TypeId::of::<Box<RawValue>>() { same(json.to_owned()) } else { read(json.get()) }
}

/// Reads a type of the application from a value: a [`Value`] is copied.
///
/// # Errors
///
/// `serde_json`'s for a value that is not a `T`.
pub fn from_value<T: DeserializeOwned + 'static>(value: &Value) -> Result<T, Error> {
    if TypeId::of::<T>() != TypeId::of::<Value>() {
        return T::deserialize(value);
    }
    same(value.clone())
}

/// A value as the type that it is of.
fn same<S: 'static, T: 'static>(value: S) -> Result<T, Error> {
    let mut value = Some(value);
    (&mut value as &mut dyn Any).downcast_mut().and_then(Option::take).ok_or_else(|| Error::custom("no value"))
}

/// Reads a field that holds any value, for `#[serde(deserialize_with = "…")]` in types that are read from JSON text:
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Note {
///     #[serde(deserialize_with = "datasole_core::value::deserialize")]
///     data: serde_json::Value,
/// }
/// let text = r#"{"data":{"$serde_json::private::RawValue":"3"}}"#;
/// let note: Note = serde_json::from_str(text)?;
/// assert!(note.data.is_object());
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
///
/// Those of [`parse`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    parse(Box::<RawValue>::deserialize(deserializer)?.get()).map_err(D::Error::custom)
}

/// Why text is no value, or not the one that was expected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unfit {
    Syntax,
    Depth,
    Number,
    Text,
    Other,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("no JSON"),
            Self::Depth => write!(f, "nested more than {MAX_DEPTH} levels deep"),
            Self::Number => f.write_str("number out of range"),
            Self::Text => f.write_str("text that is not Unicode"),
            Self::Other => f.write_str("another value"),
        }
    }
}

/// A text that is read from the beginning, or again from where a value begins.
pub(crate) struct Reader<'a> {
    text: &'a str,
    pub(crate) at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of the next value, which is not read.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let text = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(self.at) {
            self.at += 1;
        }
        text.get(self.at).copied()
    }

    /// Passes over the next value, which is to be read later.
    pub(crate) fn skip(&mut self) -> Result<(), Unfit> {
        let after = self.text.as_bytes().get(self.at..).and_then(scan::after_value).ok_or(Unfit::Syntax)?;
        self.at = self.text.len() - after.len();
        Ok(())
    }

    /// Whether there is nothing but spaces left.
    pub(crate) fn is_at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    /// The next value, within so many arrays and objects.
    fn value(&mut self, depth: usize) -> Result<Value, Unfit> {
        Ok(match self.peek() {
            Some(b'"') => Value::String(self.string()?.into_owned()),
            Some(b'{') => {
                let mut members = Map::new();
                let mut more = self.open(b'}', depth)?;
                while more {
                    let name = self.name()?.into_owned();
                    members.insert(name, self.value(depth + 1)?);
                    more = self.next(b'}')?;
                }
                Value::Object(members)
            }
            Some(b'[') => {
                let mut elements = Vec::new();
                let mut more = self.open(b']', depth)?;
                while more {
                    elements.push(self.value(depth + 1)?);
                    more = self.next(b']')?;
                }
                Value::Array(elements)
            }
            Some(b't') => self.word("true").map(|()| Value::Bool(true))?,
            Some(b'f') => self.word("false").map(|()| Value::Bool(false))?,
            Some(b'n') => self.word("null").map(|()| Value::Null)?,
            Some(_) => Value::Number(self.number()?),
            None => return Err(Unfit::Syntax),
        })
    }

    /// The name of a member, before its value.
    pub(crate) fn name(&mut self) -> Result<Cow<'a, str>, Unfit> {
        if self.peek() != Some(b'"') {
            return Err(Unfit::Syntax);
        }
        let name = self.string()?;
        self.peek();
        self.token(b':')?;
        Ok(name)
    }

    /// Passes over the name of a member, before its value, if it is written like this one, without any escape.
    pub(crate) fn pass_name(&mut self, name: &[u8]) -> Result<bool, Unfit> {
        let is_next = self.peek() == Some(b'"') && self.pass(name);
        if is_next {
            self.peek();
            self.token(b':')?;
        }
        Ok(is_next)
    }

    /// Enters the array or object whose opening bracket is next, within so many others; whether anything is in it.
    pub(crate) fn open(&mut self, closing: u8, depth: usize) -> Result<bool, Unfit> {
        if depth >= MAX_DEPTH {
            return Err(Unfit::Depth);
        }
        self.at += 1;
        let is_empty = self.peek() == Some(closing);
        self.at += usize::from(is_empty);
        Ok(!is_empty)
    }

    /// Goes on to the next element or member, or leaves when there is none; whether there is one.
    pub(crate) fn next(&mut self, closing: u8) -> Result<bool, Unfit> {
        if self.peek() == Some(b',') {
            self.at += 1;
            return Ok(true);
        }
        self.token(closing).map(|()| false)
    }

    /// The string whose opening quote is next.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Unfit> {
        let (text, start) = (self.text.as_bytes(), self.at + 1);
        let mut end = text.len() - scan::after_plain(text.get(start..).ok_or(Unfit::Syntax)?).len();
        while text.get(end).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
            end += 1;
        }
        if text.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        self.at = text.len() - text.get(end..).and_then(scan::after_string).ok_or(Unfit::Syntax)?.len();
        unescape(&self.text[start..self.at - 1]).map(Cow::Owned).ok_or(Unfit::Text)
    }

    /// Passes over the string whose opening quote is next, if it is written like this one, without any escape. Looks no further
    /// than that string.
    pub(crate) fn pass(&mut self, string: &[u8]) -> bool {
        let (text, end) = (self.text.as_bytes(), self.at + 1 + string.len());
        let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        let Some(next) = text.get(self.at + 1..end).filter(|_| text.get(end) == Some(&b'"')) else { return false };
        // Not beyond a quote: names that are repeated would have a long string compared with all of the text, again and again.
        let is_next = scan::after_plain(next).iter().all(|byte| is_plain(*byte)) && next == string;
        if is_next {
            self.at = end + 1;
        }
        is_next
    }

    /// The number that is next.
    pub(crate) fn number(&mut self) -> Result<Number, Unfit> {
        if let Some((number, end)) = short(self.text.as_bytes(), self.at) {
            self.at = end;
            return Ok(number);
        }
        let next = self.text.as_bytes().get(self.at..).and_then(<[u8]>::split_first).ok_or(Unfit::Syntax)?;
        let end = self.text.len() - scan::after_number(*next.0, next.1).ok_or(Unfit::Syntax)?.len();
        let number = number(&self.text[self.at..end]).ok_or(Unfit::Number)?;
        self.at = end;
        Ok(number)
    }

    /// One of JSON's words.
    pub(crate) fn word(&mut self, word: &str) -> Result<(), Unfit> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Unfit::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn token(&mut self, byte: u8) -> Result<(), Unfit> {
        if self.text.as_bytes().get(self.at) != Some(&byte) {
            return Err(Unfit::Syntax);
        }
        self.at += 1;
        Ok(())
    }
}

/// Digits of which any number fits in 64 bits.
const INTEGER: usize = 19;
/// Digits of which any number is a double.
const EXACT: usize = 15;

/// The number at `start`, and where it ends, if it has no sign and no exponent, and so few digits that it is exact, or one rounding away
/// from that.
fn short(text: &[u8], start: usize) -> Option<(Number, usize)> {
    let (whole, integer) = digits(text, start, 0);
    if whole == start || whole > start + 1 && text.get(start) == Some(&b'0') {
        return None;
    }
    match text.get(whole) {
        Some(b'e' | b'E') => None,
        Some(b'.') => {
            let (end, digits) = digits(text, whole + 1, integer);
            let power = POWERS.get(end - whole - 1).filter(|_| end - start - 1 <= EXACT)?;
            let is_over = end > whole + 1 && !matches!(text.get(end), Some(b'e' | b'E'));
            Number::from_f64(digits as f64 / power).filter(|_| is_over).map(|number| (number, end))
        }
        _ => (whole - start <= INTEGER).then(|| (integer.into(), whole)),
    }
}

/// Where the digits from `at` on end, and `integer` with them behind it, which means nothing where they are too many.
fn digits(text: &[u8], mut at: usize, mut integer: u64) -> (usize, u64) {
    while let Some(&byte @ b'0'..=b'9') = text.get(at) {
        integer = integer.wrapping_mul(10).wrapping_add((byte - b'0').into());
        at += 1;
    }
    (at, integer)
}

/// The powers of ten by which digits are divided that come behind the point.
const POWERS: [f64; EXACT] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14];

/// An integer of 64 bits where it is one, else the nearest double; `None` beyond its range.
fn number(text: &str) -> Option<Number> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(integer) = text.parse::<u64>() {
            return Some(integer.into());
        }
    } else if text.starts_with('-')
        // Negative zero is a double.
        && let Some(integer) = text.parse::<i64>().ok().filter(|integer| *integer != 0)
    {
        return Some(integer.into());
    }
    Number::from_f64(text.parse().ok()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Reads as the library does.
    fn check(text: &str) {
        let (ours, theirs) = (parse(text), serde_json::from_str::<Value>(text));
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{text}: {ours:?} {theirs:?}");
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            assert_eq!(ours.to_string(), theirs.to_string(), "{text}");
        }
    }

    #[test]
    fn private_names_are_members_like_any_other() {
        for text in [
            r#"{"$serde_json::private::RawValue":"[1,2]"}"#,
            r#"{"$serde_json::private::RawValue":"not JSON"}"#,
            r#"{"$serde_json::private::RawValue":3}"#,
            r#"{"$serde_json::private::RawValue":{"$serde_json::private::RawValue":"1"}}"#,
            r#"{"$serde_json::private::RawValue":"1","a":2}"#,
            r#"{"$serde_json::private::Number":"1"}"#,
            r#"[{"a":{"$serde_json::private::RawValue":null}}]"#,
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
            assert_eq!(read::<Value>(text).unwrap().to_string(), text);
            assert_eq!(from_value::<Value>(&parse(text).unwrap()).unwrap().to_string(), text);
        }
        let escaped = r#"{"\u0024serde_json::private::RawValue":"1"}"#;
        assert_eq!(parse(escaped).unwrap(), parse(r#"{"$serde_json::private::RawValue":"1"}"#).unwrap());
    }

    #[test]
    fn other_types_are_read_as_the_library_does() {
        assert_eq!(read::<Vec<u8>>("[1,2]").unwrap(), [1, 2]);
        assert!(read::<u8>("300").is_err());
        assert_eq!(from_value::<String>(&json!("x")).unwrap(), "x");
        assert!(from_value::<String>(&json!(1)).is_err());
    }

    #[test]
    fn checked_text_is_read_as_any_other_and_copied_as_it_is() {
        let text = r#"{ "a" : [1.50, "é"] }"#;
        let json: Box<RawValue> = serde_json::from_str(text).unwrap();
        assert_eq!(from_raw::<Box<RawValue>>(&json).unwrap().get(), text);
        assert_eq!(from_raw::<Value>(&json).unwrap(), parse(text).unwrap());
        assert_eq!(
            from_raw::<std::collections::BTreeMap<String, (f64, String)>>(&json).unwrap()["a"],
            (1.5, "é".into())
        );
        assert!(from_raw::<u8>(&json).is_err());
    }

    /// Texts that are values, and texts that are almost some.
    pub(crate) const TEXTS: &[&str] = &[
        "",
        " ",
        "null",
        " null ",
        "nul",
        "nulll",
        "true",
        "false",
        "truefalse",
        "1 2",
        "[",
        "]",
        "[]",
        "[ ]",
        "[,]",
        "[1,]",
        "[1 2]",
        "{}",
        "{ }",
        "{,}",
        r#"{"a":1,}"#,
        r#"{"a" 1}"#,
        r#"{a:1}"#,
        r#"{1:1}"#,
        r#"{"a":1}}"#,
        "'a'",
        "-",
        "+1",
        "01",
        "1.",
        ".1",
        "1e",
        "1e+",
        "-0",
        "-0.0",
        "0",
        "-1",
        "1.0",
        "1e2",
        "1E-2",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "1e308",
        "1e309",
        "-1e999",
        "1e-999",
        "0.1",
        "123456789012345678901234567890.5",
        "10.5",
        "00.5",
        "0.5e1",
        "1.e5",
        "999999999999999",
        "99999999999999.9",
        "999999999999999.9",
        "0.00000000000001",
        "0.000000000000001",
        "0.30000000000000004",
        "9999999999999999999",
        "99999999999999999999",
        "0000000000000000000000",
        "1.0000000000000000000000000",
        r#""a"#,
        r#""\u00e9\ud83d\ude00""#,
        r#""\ud83d""#,
        r#""\x""#,
        "\"\n\"",
        r#"{"\ud800":1}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"":{}}"#,
        "\u{feff}1",
        "nan",
        "1\u{a0}",
    ];

    #[test]
    fn texts_are_read_as_the_library_does() {
        TEXTS.iter().for_each(|text| check(text));
    }

    #[test]
    fn numbers_of_every_length_are_read_as_the_library_does() {
        for digits in
            ["1234567890123456789", "9999999999999999999", "9007199254740993123", "1000000000000000001", "000000"]
        {
            for (length, point) in (1..=digits.len()).flat_map(|length| (0..=length).map(move |point| (length, point)))
            {
                let (whole, fraction) = digits[..length].split_at(point);
                for number in [digits[..length].to_owned(), format!("{whole}.{fraction}")] {
                    for end in ["", " ", "e1", "E-1", ".5", ".", "-", "x"] {
                        check(&format!("{number}{end}"));
                        check(&format!("[-{number}{end}]"));
                    }
                }
            }
        }
    }

    #[test]
    fn depth_is_bounded_as_in_the_library() {
        for depth in [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 100_000] {
            for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
                let text = format!("{}1{}", open.repeat(depth), close.repeat(depth));
                check(&text);
                assert_eq!(parse(&text).is_ok(), depth <= MAX_DEPTH, "{depth}");
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((".{0,6}", inner), 0..6).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_back(value in values()) {
            prop_assert_eq!(&parse(&value.to_string()).unwrap(), &value);
            prop_assert_eq!(&parse(&serde_json::to_string_pretty(&value).unwrap()).unwrap(), &value);
        }

        #[test]
        fn numbers_are_read_as_the_library_does(text in "-?[0-9]{1,20}(\\.[0-9]{0,18})?([eE][-+]?[0-9]{0,2})?") {
            check(&text);
        }

        #[test]
        fn broken_texts_are_refused_alike(value in values(), at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
            let mut text = value.to_string().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(text) = String::from_utf8(text) {
                check(&text);
            }
        }
    }
}
