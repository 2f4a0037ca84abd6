//! Rust source as words and signs, without comments, text and tests.

/// Splits source into words and single signs; comments are left out, literals are one empty word.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let rest = &source[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(length) = raw_text(rest) {
            tokens.push(String::new());
            at += length;
        } else if rest.starts_with('"') {
            tokens.push(String::new());
            at += quoted(rest, '"');
        } else if rest.starts_with("'\\") || rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
            tokens.push(String::new());
            at += quoted(rest, '\'');
        } else if rest.starts_with(|c: char| c == '_' || c.is_alphanumeric()) {
            let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            at += length;
        } else {
            let sign = rest.chars().next().unwrap();
            if !sign.is_whitespace() {
                tokens.push(sign.to_string());
            }
            at += sign.len_utf8();
        }
    }
    tokens
}

/// The length of the raw text that begins here, if one does.
fn raw_text(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = marks.len() - marks.trim_start_matches('#').len();
    marks[hashes..].strip_prefix('"')?;
    let begin = rest.len() - marks.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(begin + rest[begin..].find(&end)? + end.len())
}

fn quoted(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == mark => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Takes out what is only compiled for tests: the names of modules in files of their own, and everything else that
/// follows `#[cfg(test)]`, to the end of its block.
pub(crate) fn without_tests(tokens: Vec<String>) -> (Vec<String>, Vec<String>) {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        if !tokens[at..].iter().zip(MARK).map(|(token, mark)| token == mark).eq([true; MARK.len()]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += MARK.len();
        if let Some(name) = tokens[at..].iter().position(|token| token == "mod") {
            let name = at + name + 1;
            if tokens.get(name + 1).is_some_and(|token| token == ";") {
                modules.push(tokens[name].clone());
            }
        }
        let mut depth = 0;
        while at < tokens.len() {
            at += 1;
            match tokens[at - 1].as_str() {
                "{" | "(" | "[" => depth += 1,
                // The end of what a marked member is in.
                "}" if depth == 0 => {
                    at -= 1;
                    break;
                }
                "}" if depth == 1 => break,
                "}" | ")" | "]" => depth -= 1,
                ";" | "," if depth == 0 => break,
                _ => {}
            }
        }
    }
    (kept, modules)
}
