//! The text after a JSON value (RFC 8259). The scanner keeps a bit for each array and object around the current value, so that
//! depth costs no stack, and 63 levels of it no allocation. What is rare has functions that are never inlined: without them, the
//! rest needs fewer registers.

/// The text after the value that `text` begins with, spaces before it allowed. `None` when there is no valid value.
pub(super) fn after_value(mut text: &[u8]) -> Option<&[u8]> {
    // Whether each array and object around the value is an object: the bits below the highest one, the innermost the lowest.
    let mut around = 1_u64;
    // The same of those around them, 63 in each.
    let mut beyond = Vec::new();
    // Whether the name of a member comes next.
    let mut is_name = false;
    loop {
        let (byte, after) = token(text)?;
        text = match byte {
            b'"' if is_name => {
                let (b':', after) = token(after_string(after)?)? else { return None };
                text = after;
                is_name = false;
                continue;
            }
            _ if is_name => return None,
            b'"' => after_string(after)?,
            b'-' | b'0'..=b'9' => after_number(byte, after)?,
            b't' => after.strip_prefix(b"rue")?,
            b'f' => after.strip_prefix(b"alse")?,
            b'n' => after.strip_prefix(b"ull")?,
            b'{' | b'[' => match token(after)? {
                // In ASCII, a closing bracket is two after the opening one.
                (next, after) if next == byte + 2 => after,
                _ => {
                    if around >> 63 == 1 {
                        begin_deeper(&mut beyond, &mut around);
                    }
                    is_name = byte == b'{';
                    around = around << 1 | u64::from(is_name);
                    text = after;
                    continue;
                }
            },
            _ => return None,
        };
        loop {
            if around == 1 && !end_deeper(&mut beyond, &mut around) {
                return Some(text);
            }
            let is_object = around & 1 == 1;
            let byte;
            (byte, text) = token(text)?;
            if byte == b',' {
                is_name = is_object;
                break;
            }
            if byte != if is_object { b'}' } else { b']' } {
                return None;
            }
            around >>= 1;
        }
    }
}

/// Sets 63 arrays and objects aside.
#[inline(never)]
fn begin_deeper(beyond: &mut Vec<u64>, around: &mut u64) {
    beyond.push(std::mem::replace(around, 1));
}

/// Goes on with those set aside last, if there are any.
#[inline(never)]
fn end_deeper(beyond: &mut Vec<u64>, around: &mut u64) -> bool {
    beyond.pop().map(|outer| *around = outer).is_some()
}

/// The first byte that is no space, and the text after it.
fn token(text: &[u8]) -> Option<(u8, &[u8])> {
    match text.split_first()? {
        (0..=b' ', _) => token_after_spaces(text),
        (byte, after) => Some((*byte, after)),
    }
}

#[inline(never)]
fn token_after_spaces(mut text: &[u8]) -> Option<(u8, &[u8])> {
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = text {
        text = after;
    }
    text.split_first().map(|(byte, after)| (*byte, after))
}

/// The text after the number that begins with this byte.
pub(super) fn after_number(mut first: u8, mut text: &[u8]) -> Option<&[u8]> {
    if first == b'-' {
        let (digit, after) = text.split_first()?;
        (first, text) = (*digit, after);
    }
    match first {
        b'0' => {}
        b'1'..=b'9' => text = after_digits(text),
        _ => return None,
    }
    if let Some(after) = text.strip_prefix(b".") {
        text = after_one_or_more(after)?;
    }
    if let [b'e' | b'E', after @ ..] = text {
        text = after_one_or_more(after.strip_prefix(b"+").or(after.strip_prefix(b"-")).unwrap_or(after))?;
    }
    Some(text)
}

/// The text after one or more digits.
fn after_one_or_more(text: &[u8]) -> Option<&[u8]> {
    let (b'0'..=b'9', after) = text.split_first()? else { return None };
    Some(after_digits(after))
}

fn after_digits(mut text: &[u8]) -> &[u8] {
    while let [b'0'..=b'9', after @ ..] = text {
        text = after;
    }
    text
}

/// The text after the closing quote of the string whose opening quote comes before `text`.
pub(super) fn after_string(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        if let Some((chunk, after)) = text.split_first_chunk() {
            let special = special(u64::from_le_bytes(*chunk));
            if special == 0 {
                text = after;
                continue;
            }
            text = text.get(special.trailing_zeros() as usize / 8..)?;
        }
        let (byte, after) = text.split_first()?;
        text = match byte {
            b'"' => return Some(after),
            b'\\' => after_escape(after)?,
            0..0x20 => return None,
            _ => after,
        }
    }
}

/// The text after the escape whose backslash comes before `text`.
#[inline(never)]
fn after_escape(text: &[u8]) -> Option<&[u8]> {
    match text.split_first()? {
        (b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', after) => Some(after),
        (b'u', after) => {
            let (digits, after) = after.split_at_checked(4)?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(after)
        }
        _ => None,
    }
}

/// The text after bytes that are no quote, backslash or control character: all of them or, near the end of the text, all but at most the
/// last seven.
pub(super) fn after_plain(mut text: &[u8]) -> &[u8] {
    while let Some((chunk, after)) = text.split_first_chunk() {
        let special = special(u64::from_le_bytes(*chunk));
        if special != 0 {
            return text.get(special.trailing_zeros() as usize / 8..).unwrap_or_default();
        }
        text = after;
    }
    text
}

/// The high bit of the lowest byte that is a quote, a backslash or a control character, and maybe of higher ones.
fn special(word: u64) -> u64 {
    const EACH: u64 = u64::MAX / 255;
    // The other value of a control character's second bit makes another one; that of a quote makes a space.
    let quote_or_control = (word ^ (EACH * 2)).wrapping_sub(EACH * 0x21);
    let backslash = (word ^ (EACH * b'\\' as u64)).wrapping_sub(EACH);
    (quote_or_control | backslash) & !word & (EACH << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// Where the first value ends.
    fn end(text: &str) -> Option<usize> {
        after_value(text.as_bytes()).map(|after| text.len() - after.len())
    }

    /// The end of the first value must be where `serde_json` sees it.
    fn check(text: &str) {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
        let theirs = values.next().and_then(Result::ok).map(|_| values.byte_offset());
        let ours = end(text);
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
        for special in ('\u{0}'..='\u{80}').chain(['é', '€', '🦀']) {
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
        assert_eq!(end(&deep), Some(deep.len()));
        assert_eq!(end(&deep[..deep.len() - 1]), None);
    }

    #[test]
    fn arrays_and_objects_end_by_their_own_brackets_at_every_depth() {
        for depth in 1..200 {
            for period in 1..8 {
                let is_object = |level: usize| level.is_multiple_of(period);
                let opening: String = (0..depth).map(|level| if is_object(level) { "{\"a\":" } else { "[" }).collect();
                let closing: String = (0..depth).rev().map(|level| if is_object(level) { '}' } else { ']' }).collect();
                let text = opening.clone() + "1" + &closing + ",";
                assert_eq!(end(&text), Some(text.len() - 1), "{text}");
                let wrong = closing.replacen(['}', ']'], if is_object(depth - 1) { "]" } else { "}" }, 1);
                assert_eq!(end(&(opening + "1" + &wrong)), None);
                let last = if is_object(0) { ']' } else { '}' };
                let wrong = text[..text.len() - 2].to_owned() + &last.to_string();
                assert_eq!(end(&wrong), None, "{wrong}");
            }
        }
    }

    proptest! {
        #[test]
        fn ends_are_where_the_library_sees_them(parts in proptest::collection::vec(proptest::sample::select(&[
            "{", "}", "[", "]", ",", ":", "\"", "\\", "a", "\"a\"", "\"\\u00e9\"", "\\u12", "é", " ", "\n", "0", "1", "-", ".", "5",
            "e", "E+", "true", "false", "null", "\"k\":", "{}", "[]", "{\"a\":1}", "12345678", "\"a long name\"", "\u{1}", "-0.25e-17",
        ][..]), 0..12)) {
            check(&parts.concat());
        }
    }
}
