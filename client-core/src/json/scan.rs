//! Where a JSON value ends (RFC 8259). The scanner keeps a bit for each array and object around the current value, so that
//! depth costs no stack, and 63 levels of it no allocation.

/// The index after the value that begins at `at`, spaces before it allowed. `None` when there is no valid value.
pub(super) fn value_end(text: &[u8], mut at: usize) -> Option<usize> {
    // Whether each array and object around the value is an object: the bits below the highest one, the innermost the lowest.
    let mut around = 1_u64;
    // The same of those around them, 63 in each.
    let mut beyond = Vec::new();
    loop {
        at = skip_spaces(text, at);
        at = match *text.get(at)? {
            b'"' => string_end(text, at)?,
            b'-' | b'0'..=b'9' => number_end(text, at)?,
            b't' => word_end(text, at, b"true")?,
            b'f' => word_end(text, at, b"false")?,
            b'n' => word_end(text, at, b"null")?,
            opening @ (b'{' | b'[') => {
                // In ASCII two after the opening one.
                let closing = opening + 2;
                at = skip_spaces(text, at + 1);
                if text.get(at) != Some(&closing) {
                    if around >> 63 == 1 {
                        beyond.push(std::mem::replace(&mut around, 1));
                    }
                    around = around << 1 | u64::from(closing == b'}');
                    at = element(text, at, closing)?;
                    continue;
                }
                at + 1
            }
            _ => return None,
        };
        loop {
            if around == 1 {
                match beyond.pop() {
                    Some(outer) => around = outer,
                    None => return Some(at),
                }
            }
            let closing = if around & 1 == 1 { b'}' } else { b']' };
            at = skip_spaces(text, at);
            match *text.get(at)? {
                b',' => {
                    at = element(text, at + 1, closing)?;
                    break;
                }
                byte if byte == closing => {
                    at += 1;
                    around >>= 1;
                }
                _ => return None,
            }
        }
    }
}

/// Where the value of the next element begins: in an object after its name.
fn element(text: &[u8], at: usize, closing: u8) -> Option<usize> {
    if closing == b']' {
        return Some(at);
    }
    let at = skip_spaces(text, at);
    (text.get(at) == Some(&b'"')).then_some(())?;
    let at = skip_spaces(text, string_end(text, at)?);
    (text.get(at) == Some(&b':')).then_some(at + 1)
}

pub(super) fn skip_spaces(text: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = text.get(at) {
        at += 1;
    }
    at
}

fn word_end(text: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    text.get(at..)?.starts_with(word).then_some(at + word.len())
}

pub(super) fn number_end(text: &[u8], mut at: usize) -> Option<usize> {
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits_end(text, at)? };
    if text.get(at) == Some(&b'.') {
        at = digits_end(text, at + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        if let Some(b'+' | b'-') = text.get(at) {
            at += 1;
        }
        at = digits_end(text, at)?;
    }
    Some(at)
}

/// After one or more digits.
fn digits_end(text: &[u8], at: usize) -> Option<usize> {
    let count = text.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(at + count)
}

/// The index after the closing quote of the string whose opening quote is at `at`.
pub(super) fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    at += 1;
    loop {
        at += plain(text.get(at..)?);
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {
                at += 2;
                match *text.get(at - 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = text.get(at..at + 4)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                        at += 4;
                    }
                    _ => return None,
                }
            }
            0..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// How many bytes may be skipped eight at a time until a quote, an escape or a control character: all before it or, near
/// the end of the text, some.
pub(super) fn plain(text: &[u8]) -> usize {
    const EACH: u64 = u64::MAX / 255;
    // The high bit of the lowest byte that is zero, and maybe of higher ones.
    let zero = |word: u64| word.wrapping_sub(EACH) & !word;
    let mut at = 0;
    while let Some((chunk, _)) = text.get(at..).and_then(<[u8]>::split_first_chunk) {
        let word = u64::from_le_bytes(*chunk);
        let special = zero(word ^ (EACH * b'"' as u64))
            | zero(word ^ (EACH * b'\\' as u64))
            | (word.wrapping_sub(EACH * 0x20) & !word);
        let special = special & (EACH << 7);
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// The end of the first value must be where `serde_json` sees it.
    fn check(text: &str) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        let theirs = values.next().and_then(Result::ok).map(|_| values.byte_offset());
        let ours = value_end(text.as_bytes(), 0);
        // Numbers and words must be followed by something that cannot belong to them; callers look at what follows.
        match (ours, theirs) {
            (Some(end), None) => {
                assert!(text.as_bytes().get(end).is_some_and(|next| !b",:]}".contains(next)), "{text}")
            }
            _ => assert_eq!(ours, theirs, "{text}"),
        }
    }

    #[test]
    fn special_characters_are_found_at_every_offset() {
        for special in ['"', '\\', '\u{0}', '\u{1f}', '\u{7f}', '!', '#', ' ', '[', ']', 'é', '\u{80}'] {
            for before in 0..20 {
                for after in [0, 1, 7, 8, 9] {
                    let text = format!("\"{}{special}{}\"", "a".repeat(before), "é".repeat(after));
                    check(&text);
                    check(&text.replace(special, &format!("{special}{special}")));
                }
            }
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        assert_eq!(value_end(deep.as_bytes(), 0), Some(deep.len()));
        assert_eq!(value_end(&deep.as_bytes()[..deep.len() - 1], 0), None);
    }

    #[test]
    fn arrays_and_objects_end_by_their_own_brackets_at_every_depth() {
        for depth in 1..200 {
            for period in 1..8 {
                let is_object = |level: usize| level.is_multiple_of(period);
                let opening: String = (0..depth).map(|level| if is_object(level) { "{\"a\":" } else { "[" }).collect();
                let closing: String = (0..depth).rev().map(|level| if is_object(level) { '}' } else { ']' }).collect();
                let text = opening.clone() + "1" + &closing + ",";
                assert_eq!(value_end(text.as_bytes(), 0), Some(text.len() - 1), "{text}");
                let wrong = closing.replacen(['}', ']'], if is_object(depth - 1) { "]" } else { "}" }, 1);
                assert_eq!(value_end((opening + "1" + &wrong).as_bytes(), 0), None);
                let last = if is_object(0) { ']' } else { '}' };
                let wrong = text[..text.len() - 2].to_owned() + &last.to_string();
                assert_eq!(value_end(wrong.as_bytes(), 0), None, "{wrong}");
            }
        }
    }

    proptest! {
        #[test]
        fn ends_are_where_the_library_sees_them(parts in proptest::collection::vec(proptest::sample::select(&[
            "{", "}", "[", "]", ",", ":", "\"", "\\", "a", "\"a\"", "\"\\u00e9\"", "\\u12", "é", " ", "\n", "0", "1", "-", ".", "5",
            "e", "E+", "true", "false", "null", "\"k\":", "{}", "[]", "{\"a\":1}", "12345678",
        ][..]), 0..12)) {
            check(&parts.concat());
        }
    }
}
