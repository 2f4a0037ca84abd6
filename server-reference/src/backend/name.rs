//! The names of streams in engines: a letter for the kind, then the key.

use datasole_core::{StreamId, StreamKind};

/// A letter per kind.
pub(super) fn letter(kind: StreamKind) -> char {
    kind.name().chars().next().unwrap_or('?')
}

/// A stream's name.
pub(super) fn write(id: &StreamId) -> String {
    format!("{}{}", letter(id.kind), id.key)
}

/// The stream of a name.
pub(super) fn read(name: &[u8]) -> Option<StreamId> {
    let (first, key) = name.split_first()?;
    let kind = StreamKind::ALL.into_iter().find(|kind| letter(*kind) == char::from(*first))?;
    Some(StreamId { kind, key: std::str::from_utf8(key).ok()?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_stream() {
        for kind in StreamKind::ALL {
            let id = StreamId { kind, key: "a:\0é".into() };
            assert_eq!(read(write(&id).as_bytes()), Some(id));
        }
        for damaged in [&b""[..], b"?", b"s\xff"] {
            assert_eq!(read(damaged), None);
        }
    }
}
