//! Names of streams and subjects in the engine.

use std::fmt::Write;

use datasole_core::{StreamId, StreamKind};
use sha2::{Digest, Sha256};

/// Names longer than this are hashed: a subject must fit into a line of the protocol.
const LONGEST: usize = 1_000;

/// The names below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
}

/// A token of a subject: letters, digits, `-` and `_` as they are, every other byte as `%` and two digits.
fn token(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(char::from(byte));
        } else {
            let _ = write!(token, "%{byte:02X}");
        }
    }
    if token.len() <= LONGEST {
        return token;
    }
    Sha256::digest(name.as_bytes()).iter().fold("%%".to_owned(), |mut hash, byte| {
        let _ = write!(hash, "{byte:02x}");
        hash
    })
}

/// The name of which [`token`] made this; `None` for a hash, and for what it never makes.
fn name(token: &str) -> Option<String> {
    if token == "%" {
        return Some(String::new());
    }
    let (mut name, mut rest) = (Vec::with_capacity(token.len()), token.bytes());
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            name.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        name.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(name).ok()
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The engine's stream of all appends.
    pub(super) fn log_stream(&self) -> String {
        format!("{}_log", self.prefix)
    }

    /// The engine's stream of everything of which only the newest counts.
    pub(super) fn values_stream(&self) -> String {
        format!("{}_values", self.prefix)
    }

    /// The engine's stream in memory, by which its restarts are noticed.
    pub(super) fn boot_stream(&self) -> String {
        format!("{}_boot", self.prefix)
    }

    pub(super) fn boot(&self) -> String {
        format!("{}.boot", self.prefix)
    }

    pub(super) fn all_appends(&self) -> String {
        format!("{}.l.>", self.prefix)
    }

    pub(super) fn all_news(&self) -> String {
        format!("{}.n.>", self.prefix)
    }

    pub(super) fn all_values(&self) -> String {
        format!("{}.v.>", self.prefix)
    }

    /// Where a stream's appends are stored.
    pub(super) fn log(&self, id: &StreamId) -> String {
        format!("{}.l.{}.{}", self.prefix, id.kind.name(), token(&id.key))
    }

    /// Where its appends are published once they are stored, and its turns.
    pub(super) fn news(&self, id: &StreamId) -> String {
        format!("{}.n.{}.{}", self.prefix, id.kind.name(), token(&id.key))
    }

    /// The subjects of all streams of a kind.
    pub(super) fn kind(&self, kind: StreamKind) -> String {
        format!("{}.l.{}.*", self.prefix, kind.name())
    }

    /// The key of the stream with this subject.
    pub(super) fn key(&self, subject: &str) -> Option<String> {
        name(subject.strip_prefix(&self.prefix)?.strip_prefix(".l.")?.split_once('.')?.1)
    }

    /// A record of a stream beside its log, `part` telling what it is.
    pub(super) fn beside(&self, part: char, id: &StreamId) -> String {
        format!("{}.v.{part}.{}.{}", self.prefix, id.kind.name(), token(&id.key))
    }

    /// A part of a snapshot: of the one with this number, or (`*`) of all.
    pub(super) fn chunk(&self, id: &StreamId, number: &str, index: &str) -> String {
        format!("{}.v.c.{}.{}.{number}.{index}", self.prefix, id.kind.name(), token(&id.key))
    }

    pub(super) fn generation(&self) -> String {
        format!("{}.v.generation", self.prefix)
    }

    /// Where nodes tell that another generation has begun.
    pub(super) fn generations(&self) -> String {
        format!("{}.b.g", self.prefix)
    }

    pub(super) fn value(&self, key: &str) -> String {
        format!("{}.v.k.{}", self.prefix, token(key))
    }

    /// What is known of a map as a whole.
    pub(super) fn map(&self, key: &str) -> String {
        format!("{}.v.m.{}", self.prefix, token(key))
    }

    pub(super) fn field(&self, key: &str, field: &str) -> String {
        format!("{}.v.f.{}.{}", self.prefix, token(key), token(field))
    }

    pub(super) fn fields(&self, key: &str) -> String {
        format!("{}.v.f.{}.*", self.prefix, token(key))
    }

    /// The grants of a quota. Slots of different lengths cannot be compared.
    pub(super) fn quota(&self, key: &str, window: u128) -> String {
        format!("{}.v.q.{window}.{}", self.prefix, token(key))
    }

    pub(super) fn lease(&self, name: &str) -> String {
        format!("{}.v.e.{}", self.prefix, token(name))
    }

    pub(super) fn leases(&self) -> String {
        format!("{}.v.e.*", self.prefix)
    }

    /// The messages to one node.
    pub(super) fn inbox(&self, node: u64) -> String {
        format!("{}.b.i.{node:016x}", self.prefix)
    }

    /// A node's messages to itself, which show that what it sent before has arrived.
    pub(super) fn echo(&self, node: u64) -> String {
        format!("{}.b.o.{node:016x}", self.prefix)
    }

    pub(super) fn everybody(&self) -> String {
        format!("{}.b.a", self.prefix)
    }

    pub(super) fn topic(&self, topic: &str) -> String {
        format!("{}.b.t.{}", self.prefix, token(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_tokens_and_come_back() {
        let names = Names::new("ds");
        for key in ["", "a", "a.b", "a\0b", "%", "%%", "*", ">", "A b\r\n", "é", "_-9", &"é".repeat(128)] {
            let subject = names.log(&StreamId::state(key));
            assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*' && byte != b'>'), "{subject}");
            assert_eq!(subject.matches('.').count(), 3, "{subject}");
            assert_eq!(names.key(&subject).as_deref(), Some(key), "{subject}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_hashed() {
        let (fits, long, other) = ("a".repeat(LONGEST), "a".repeat(LONGEST + 1), "a".repeat(LONGEST + 2));
        assert_eq!(token(&fits), fits);
        assert_eq!(token(&long).len(), 2 + 64);
        assert_ne!(token(&long), token(&other));
        assert_eq!(name(&token(&long)), None);
    }
}
